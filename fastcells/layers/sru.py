"""SRU: the simple recurrent unit, whose layers differ where widths do."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..checks.tensors import check_flag
from .elementwise_base import ElementwiseLayerWithCell

__all__ = ["SRU"]


class SRU(ElementwiseLayerWithCell):
    r"""Simple recurrent unit.

    .. math::
        f = \sigma(W_f x_t + b_f + v_f \odot c_{t-1}) \qquad
        r = \sigma(W_r x_t + b_r + v_r \odot c_{t-1}) \\
        c_t = f \odot c_{t-1} + (1 - f) \odot (W x_t + b) \qquad
        h_t = r \odot c_t + (1 - r) \odot s_t

    Both gates see the c that came in. The skip term s is :math:`\alpha x_t` where the layer's input
    is as wide as its output, D*H (each direction takes its own H columns), else
    :math:`W_s x_t + b_s`, as in the package `sru`.

    The constructor is that of :class:`IndRNN` without nonlinearity, and beyond it:

    Args:
        highway_bias: initial b_r.
        rescale: :math:`\alpha = \sqrt{1 + 2 e^{b}}` with b the highway_bias, else 1.

    Parameters: rows x~, f, r and, where widths differ, s: `weight_ih_l{k}` `[3H or 4H, I]`,
    `bias_ih_l{k}` of as many; `weight_hh_l{k}` `[2H]`: v_f, v_r. alpha is a buffer,
    `skip_scale_l{k}` `[H]`, of the layers that take x as it is. Initial values are the package's: W
    uniform with variance 1/I, halved for f and r, times :math:`\alpha^2` for s; v uniform with
    variance 1/2; b 0, but b_r the highway_bias.

    The package has no b and no b_s (they start from 0 here, and train), and besides use_tanh,
    layer_norm, projections and dropout inside the cell, which this has not.

    Called as :class:`fastcells.LSTM`, with hx and the final states (h, c); dtypes as there.

    Raises:
        ValueError, RuntimeError, TypeError: as :class:`IndRNN`; a highway_bias that is no number, a
            rescale that is not a bool.

    Source: Lei et al. (2018), https://arxiv.org/abs/1709.02755, equations 1 to 4 and section 3.2;
    https://github.com/asappresearch/sru for the fourth block and the directions' columns.

    Example:
        >>> output, (h_n, c_n) = fastcells.SRU(20, 20, num_layers=2)(torch.randn(5, 3, 20))
    """

    gates, unit_weights = 3, 2
    highway_bias: float
    rescale: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        highway_bias: float = 0.0,
        rescale: bool = True,
        recompute: bool = False,
    ) -> None:
        check_flag("SRU", "rescale", rescale)
        if isinstance(highway_bias, bool) or not isinstance(highway_bias, int | float):
            raise TypeError(
                f"SRU: highway_bias must be a number, got {type(highway_bias).__name__}"
            )
        # In front of torch.nn.Module's own: the initial values need them.
        self.__dict__.update(highway_bias=float(highway_bias), rescale=rescale)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype, recompute=recompute,
        )  # fmt: skip

    @property
    def cell(self) -> str:  # type: ignore[override]  # read at every call
        return self._cell_of(0)

    def _cell_of(self, layer: int) -> str:
        is_as_wide = self._input_width(layer) == self.hidden_size * (1 + self.bidirectional)
        return "sru" if is_as_wide else "sru_skip"

    def _cells(self) -> list[str]:
        return [self._cell_of(layer) for layer in range(self.num_layers)]

    def _gates_of(self, layer: int) -> int:
        return 3 if self._cell_of(layer) == "sru" else 4

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        shapes = super()._shapes(layer)
        if self._cell_of(layer) == "sru":
            shapes["skip_scale"] = (self.hidden_size,)
        return shapes

    def _stored_weights(self) -> Any:
        return {**self._parameters, **self._buffers}

    def _run_at_once(self, *arguments: Any) -> Any:
        # One call of C++ has one cell.
        return super()._run_at_once(*arguments) if len(set(self._cells())) == 1 else None

    def _fill(self, layer: int, weight_ih: Tensor, **others: Tensor) -> None:
        hidden, alpha = self.hidden_size, self._alpha()
        bound = math.sqrt(3 / self._input_width(layer))
        weight_ih.uniform_(-bound, bound)
        weight_ih[hidden : 3 * hidden] *= math.sqrt(0.5)
        weight_ih[3 * hidden :] *= alpha
        others["weight_hh"].uniform_(-math.sqrt(1.5), math.sqrt(1.5))
        if "bias_ih" in others:
            others["bias_ih"].zero_()
            others["bias_ih"][2 * hidden : 3 * hidden] = self.highway_bias
        if "skip_scale" in others:
            others["skip_scale"].fill_(alpha)

    def _alpha(self) -> float:
        return math.sqrt(1 + 2 * math.exp(self.highway_bias)) if self.rescale else 1.0

    def extra_repr(self) -> str:
        shown = f", highway_bias={self.highway_bias:g}" if self.highway_bias else ""
        return super().extra_repr() + shown + ("" if self.rescale else ", rescale=False")

    @classmethod
    def from_sru(cls, state_dict: dict[str, Tensor], bidirectional: bool = False) -> SRU:
        """The layers of an `SRU` of the package `sru`: for each layer `rnn_lst.{k}.weight` `[I,
        D*H*(3 or 4)]`, in which a unit's columns lie side by side, `weight_c` and `bias` `[2*D*H]`
        and `scale_x` `[1]`.

        Raises ValueError for other keys (a projection, layer_norm, a module of its own) and shapes.

        Example:
            >>> shapes = {"weight": (8, 24), "weight_c": (16,), "bias": (16,), "scale_x": (1,)}
            >>> trained = {f"rnn_lst.0.{name}": torch.randn(s) for name, s in shapes.items()}
            >>> output, (h_n, c_n) = fastcells.SRU.from_sru(trained)(torch.randn(5, 3, 8))
        """
        directions = 1 + bidirectional
        parts = ("weight", "weight_c", "bias", "scale_x")
        count = len(state_dict) // len(parts)
        expected = {f"rnn_lst.{k}.{part}" for k in range(count) for part in parts}
        if not count or set(state_dict) != expected:
            raise ValueError(
                "SRU: state_dict must hold weight, weight_c, bias and scale_x of each rnn_lst.{k} "
                f"and nothing else, got {', '.join(sorted(state_dict))}"
            )
        first = state_dict["rnn_lst.0.weight"]
        hidden = state_dict["rnn_lst.0.bias"].numel() // (2 * directions)
        layer = cls(first.shape[0], hidden, count, bidirectional=bidirectional,
                    device=first.device, dtype=first.dtype)  # fmt: skip
        for k in range(count):
            given = {part: state_dict[f"rnn_lst.{k}.{part}"] for part in parts}
            layer._load_package(k, **given)
        return layer

    @torch.no_grad()
    def _load_package(
        self, k: int, weight: Tensor, weight_c: Tensor, bias: Tensor, scale_x: Tensor
    ) -> None:
        hidden, directions, gates = self.hidden_size, 1 + self.bidirectional, self._gates_of(k)
        shape = (self._input_width(k), directions * hidden * gates)
        if tuple(weight.shape) != shape or bias.numel() != 2 * directions * hidden:
            raise ValueError(
                f"SRU: rnn_lst.{k}.weight must have shape {shape} and bias "
                f"({2 * directions * hidden},), got {tuple(weight.shape)} and {tuple(bias.shape)}"
            )
        by_unit = weight.view(shape[0], directions, hidden, gates)
        for d, suffix in enumerate(("", "_reverse")[:directions]):
            own = f"_l{k}{suffix}"
            getattr(self, f"weight_ih{own}").copy_(by_unit[:, d].permute(2, 1, 0).flatten(0, 1))
            getattr(self, f"weight_hh{own}").copy_(weight_c.view(2, directions, -1)[:, d].flatten())
            rows = getattr(self, f"bias_ih{own}").zero_()
            rows[hidden : 3 * hidden] = bias.view(2, directions, -1)[:, d].flatten()
            if gates == 3:
                getattr(self, f"skip_scale{own}").fill_(scale_x.item())
