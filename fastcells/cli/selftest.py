"""Results of small layers, for `check` to compare: `python -m fastcells.cli.selftest FILE LAYER...`

The process that runs this has one choice of kernels: an instruction set, or none, where every call
is plain torch operations (fastcells.reference). Weights and inputs are the same in all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastcells

from .layers import DTYPES, RECURRENT

__all__ = ["EXACT", "SUBJECTS", "Results"]

#: {(layer, dtype): {what: result}}; a dtype may be followed by EXACT.
Results = dict[tuple[str, str], dict[str, Tensor]]
EXACT = " in float64"  # the arguments of a dtype, rounded to it, computed in float64
T, B, I, H = 7, 5, 12, 40  # steps, rows, inputs and units: some of each set's tiles are not full
CELLS = (
    "LSTMCell", "GRUCell", "RNNCell",
    "LayerNormLSTMCell", "LayerNormGRUCell", "LayerNormRNNCell",
)  # fmt: skip
LENGTHS = (7, 0, 5, 1, 7)


class Subject(NamedTuple):
    """A layer and its call."""

    module: nn.Module
    inputs: tuple[Tensor, ...]  # float32
    options: dict[str, Any]


class _Scan(nn.Module):
    def forward(self, a: Tensor, b: Tensor, h_0: Tensor) -> Tensor:
        return fastcells.linear_scan(a, b, h_0)


def _recurrent(name: str, **options: Any) -> Subject:
    width = H if name == "rg_lru" else I
    layer = RECURRENT[name](width, H, bidirectional=True, **options)
    resets = torch.rand(T, B) < 0.2
    call = {"lengths": torch.tensor(LENGTHS), "resets": resets}
    return Subject(layer, (torch.randn(T, B, width),), call)


def _cell(name: str) -> Subject:
    return Subject(getattr(fastcells, name)(I, H), (torch.randn(B, I),), {})


def _attention() -> Subject:
    x = torch.randn(B, T, H)
    lengths = torch.tensor([7, 3, 5, 1, 7])
    return Subject(
        fastcells.MultiheadAttention(H, 4, batch_first=True), (x, x + 1, x - 1),
        {"key_lengths": lengths},
    )  # fmt: skip


def _additive() -> Subject:
    keys = torch.randn(B, T, I)
    layer = fastcells.AdditiveAttention(H, I, 24)
    return Subject(layer, (torch.randn(B, 3, H), keys, keys + 1), {})


#: By the name of the layer; made after the same seed in every process.
SUBJECTS: dict[str, Callable[[], Subject]] = {
    **{name: partial(_recurrent, name) for name in RECURRENT},
    "lstm with projections": lambda: _recurrent("lstm", proj_size=9),
    **{name: partial(_cell, name) for name in CELLS},
    "MultiheadAttention": _attention,
    "AdditiveAttention": _additive,
    "SelfAttention": lambda: Subject(
        fastcells.SelfAttention(H, 24, softcap=5.0, causal=True), (torch.randn(B, T, H),), {}
    ),
    "linear_scan": lambda: Subject(
        _Scan(), (torch.rand(T, B, H), torch.randn(T, B, H), torch.randn(B, H)), {}
    ),
}


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a nested result."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)


def evaluate(name: str, dtype: torch.dtype, is_exact: bool) -> dict[str, Tensor]:
    """Outputs, with and without a way back, and all gradients through a random projection."""
    torch.manual_seed(0)
    subject = SUBJECTS[name]()
    compute = torch.float64 if is_exact else dtype
    module = subject.module.to(dtype).to(compute)
    inputs = [x.to(dtype).to(compute).requires_grad_() for x in subject.inputs]
    with torch.no_grad():
        alone = list(_tensors(module(*inputs, **subject.options)))
    outputs = list(_tensors(module(*inputs, **subject.options)))
    projected = [(y * torch.randn(y.shape).to(dtype)).sum(dtype=y.dtype) for y in outputs]
    variables = {f"input {n}": x for n, x in enumerate(inputs)} | dict(module.named_parameters())
    grads = torch.autograd.grad(sum(projected[1:], projected[0]), list(variables.values()))
    return {
        **{f"output {n} without gradients": y for n, y in enumerate(alone)},
        **{f"output {n}": y.detach() for n, y in enumerate(outputs)},
        **{f"gradient of {key}": g for key, g in zip(variables, grads, strict=True)},
    }


def evaluate_all(names: list[str]) -> Results:
    """Every one of these layers in every dtype; without kernels also what is exact."""
    results: Results = {}
    for name in names:
        for label, dtype in DTYPES.items():
            results[name, label] = evaluate(name, dtype, is_exact=False)
            if not fastcells.is_compiled():
                results[name, label + EXACT] = evaluate(name, dtype, is_exact=True)
    return results


if __name__ == "__main__":
    torch.save(evaluate_all(sys.argv[2:]), sys.argv[1])
