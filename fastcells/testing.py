"""How fastcells judges its kernels: random layers to run, and the rule by which one is accurate.

Oracle chain: the equations, then fastcells.reference, which equals torch.nn in float64, then the
kernels against the reference. In lower precision no fixed tolerance is right for every shape, so
that a kernel is measured by what torch's own layer of the same dtype achieves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .reference.recurrent import CELLS

__all__ = ["LayerProblem", "assert_as_accurate_as_torch", "make_layer_problem"]


@dataclass(frozen=True)
class LayerProblem:
    """Arguments of one recurrent layer, as run_layer of functional/recurrent_calls.py takes them.

    T steps, B batch, I input, H hidden units, P width of h (H, or `proj_size`), G gates,
    D directions.
    """

    cell: str
    directions: int
    input: Tensor  # [T, B, I]
    h_0: Tensor | None  # [D, B, P]
    c_0: Tensor | None  # [D, B, H]; None for a cell without c
    weights: list[Tensor]  # those of the first direction, then those of the second
    names: str  # what each of a direction's weights is: "weight_ih weight_hh", ...
    lengths: Tensor | None = None  # [B] int64
    resets: Tensor | None = None  # [T, B] bool

    def arguments(self) -> tuple[Any, ...]:
        """In the order of run_layer, and of fastcells.reference.recurrent.recurrent."""
        return (
            self.cell, self.directions, self.input, self.h_0, self.c_0, self.weights, self.names,
            self.lengths, self.resets,
        )  # fmt: skip

    def variables(self) -> dict[str, Tensor]:
        """What can be differentiated, by name: what is None is left out, and so is noise."""
        named = {"input": self.input, "h_0": self.h_0, "c_0": self.c_0}
        named |= dict(zip(self._weight_names(), self.weights, strict=True))
        return {
            name: tensor
            for name, tensor in named.items()
            if tensor is not None and not name.startswith("noise")
        }

    def _weight_names(self) -> list[str]:
        suffixes = ("", "_reverse")[: self.directions]
        return [name + suffix for suffix in suffixes for name in self.names.split()]

    def with_variables(self, tensors: Iterable[Tensor]) -> LayerProblem:
        """The same problem on other tensors, in the order of variables()."""
        named = dict(zip(self.variables(), tensors, strict=True))
        states: dict[str, Any] = {name: named.get(name) for name in ("input", "h_0", "c_0")}
        mine = zip(self._weight_names(), self.weights, strict=True)
        return replace(self, **states, weights=[named.get(name, weight) for name, weight in mine])

    def to(self, dtype: torch.dtype) -> LayerProblem:
        """The same problem with its variables rounded to `dtype`."""
        return self.with_variables(tensor.to(dtype) for tensor in self.variables().values())


def _names_of(cell: str, bias: bool, is_projected: bool) -> list[str]:
    """The weights of one direction."""
    facts = CELLS[cell]
    if facts.unit_weights is None:
        names = ["weight_ih", "weight_hh"] + (["bias_ih", "bias_hh"] if bias else [])
        names += ["weight_hr"] if is_projected else []
        return names + (["unit_weights"] if facts.vectors else [])
    names = ["weight_ih"] + (["weight_hh"] if facts.unit_weights else [])
    return names + (["bias_ih"] if bias else []) + (["skip_scale"] if cell == "sru" else [])


def _norm_shapes(norm: str, rows: int, hidden: int, has_c: bool) -> dict[str, int]:
    """Of what normalises one direction."""
    if not norm:
        return {}
    kind, _, carried = norm.partition(" ")
    gains = {"parts": ("norm_ih", "norm_hh"), "gates": ("norm_gates",)}[kind]
    of_c = ("norm_carried_c" if carried else "norm_c", "norm_c_bias") if has_c else ()
    return dict.fromkeys(gains, rows) | dict.fromkeys(of_c, hidden)


def make_layer_problem(
    cell: str,
    directions: int,
    T: int,
    B: int,
    I: int,
    H: int,
    *,
    proj_size: int = 0,
    bias: bool = True,
    dtype: torch.dtype = torch.float64,
    lengths: bool = False,
    resets: bool = False,
    seed: int = 0,
    norm: str = "",
    rates: tuple[float, ...] | None = None,
) -> LayerProblem:
    """A random layer and its input, at the scale of trained ones, on the CPU. A cell that reads its
    input as it is has I = H.

    `norm` is "parts" or "gates": LayerNormLSTM's two forms, with a normalised c where there is one,
    which with "parts carried" is carried on.
    `rates` are those of dropout, zoneout of h and of c, and 1 in training.
    `lengths` begin with T, 0 and about T/2, `resets` with a reset at step 0 of the first row.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    facts, width = CELLS[cell], proj_size or H
    I = H if facts.reads_input else I
    names = _names_of(cell, bias, proj_size > 0)
    names += [*_norm_shapes(norm, 1, 1, cell == "lstm")] + (["noise"] if rates else [])
    weights = []
    for _ in range(directions):
        rows = facts.gates * H
        weights += [normal(rows, I, scale=I**-0.5)]
        if facts.unit_weights is None:
            weights += [normal(rows, width, scale=width**-0.5)]
            weights += [normal(rows, scale=0.5), normal(rows, scale=0.5)] if bias else []
            weights += [normal(proj_size, H, scale=H**-0.5)] if proj_size else []
            weights += [normal(facts.vectors * H, scale=0.5)] if facts.vectors else []
            shapes = _norm_shapes(norm, rows, H, cell == "lstm")
            weights += [normal(shape, scale=0.5) + 1 for shape in shapes.values()]
            if rates is not None:
                seed_of_noise = torch.randint(2**53, (1,), generator=generator).double()
                weights += [torch.cat((seed_of_noise, torch.tensor(rates).double()))]
        else:
            units = normal(facts.unit_weights * H, scale=0.5).clamp(-0.9, 0.9)
            weights += [units] if facts.unit_weights else []
            weights += [normal(rows, scale=0.5)] if bias else []
            weights += [normal(H)] if "skip_scale" in names else []
    row_lengths = torch.randint(0, T + 1, (B,), generator=generator)
    row_lengths[:3] = torch.tensor([T, 0, (T + 1) // 2])[:B]
    boundaries = torch.rand(T, B, generator=generator) < 0.3
    boundaries[:1, :1] = True
    return LayerProblem(
        cell,
        directions,
        normal(T, B, I),
        normal(directions, B, width, scale=0.5),
        normal(directions, B, H) if facts.states == 2 else None,
        weights,
        " ".join(names),
        row_lengths if lengths else None,
        boundaries if resets else None,
    )


def _assert_same_non_finite(actual: Tensor, exact: Tensor, what: str) -> None:
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        differs = (kind(actual) != kind(exact)).nonzero()
        if len(differs):
            at = tuple(differs[0].tolist())
            raise AssertionError(
                f"{what}: at {at}, the first of {len(differs)} positions where one alone is "
                f"{kind.__name__[2:]}: got {actual[at].item()}, exact is {exact[at].item()}"
            )


def assert_as_accurate_as_torch(
    actual: Tensor,
    exact: Tensor,
    torch_result: Tensor,
    *,
    factor: float = 2.0,
    floor: float | None = None,
    what: str = "result",
) -> float:
    """Fails unless the error of `actual` is at most `factor` times torch's own, plus `floor`.

    Args:
        actual: what is judged.
        exact: float64, from the reference on the same (rounded) arguments.
        torch_result: torch's own result in the dtype of `actual`.
        floor: None means one unit in the last place (eps) of the dtype of `actual`: where torch
            happens to be exact, rounding the result must still be allowed.
        what: named in the failure.

    Errors are the largest of all elements, relative to the largest element of `exact`. Elements
    that are NaN or infinite must be so in both.

    Returns:
        The error over torch's, or over eps where torch's is smaller than that.
    """
    assert actual.shape == exact.shape == torch_result.shape, what
    assert actual.dtype == torch_result.dtype, what
    assert exact.dtype == torch.float64, what
    eps = torch.finfo(actual.dtype).eps
    floor = eps if floor is None else floor
    actual, torch_result = actual.detach().double(), torch_result.detach().double()
    _assert_same_non_finite(actual, exact, what)
    finite = exact.isfinite()
    if not finite.any():
        return 0.0
    scale = exact[finite].abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    errors = torch.where(finite, (actual - exact).abs() / scale, 0.0)
    torch_errors = torch.where(finite, (torch_result - exact).abs() / scale, 0.0)
    error, torch_error = errors.max().item(), torch_errors.max().item()
    if not error <= factor * torch_error + floor:
        at = tuple(int(i) for i in torch.unravel_index(errors.argmax(), errors.shape))
        raise AssertionError(
            f"{what}: error {error:.2e} exceeds {factor:g} x torch's own {torch_error:.2e} + "
            f"{floor:.2e} (relative to {scale.item():.3g}); the worst is at {at}: got "
            f"{actual[at].item():.17g}, exact is {exact[at].item():.17g}, torch has "
            f"{torch_result[at].item():.17g}"
        )
    return error / max(torch_error, eps)
