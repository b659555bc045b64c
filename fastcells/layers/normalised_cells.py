"""One step of the layers with layer normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import recurrent as checks
from ..checks.tensors import check_flag
from ..functional.graphs import Proxy, module_node
from .cells import RecurrentCell
from .normalised import NORMS_OF_C, fill, shapes_of

__all__ = ["LayerNormCell", "LayerNormGRUCell", "LayerNormLSTMCell", "LayerNormRNNCell"]


class LayerNormCell(RecurrentCell):
    """What the three share: the gains besides the weights."""

    _instead_of_scripting = ""  # torch.nn has no such cell
    gates: int
    per_gate = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        device: Any,
        dtype: torch.dtype | None,
        per_gate: bool = False,
        norm_of_c: str = "",
    ) -> None:
        check_flag(type(self).__name__, "per_gate", per_gate)
        super().__init__(
            input_size, hidden_size, bias, num_chunks=self.gates, device=device, dtype=dtype
        )
        self.per_gate = per_gate
        shapes = shapes_of(self.gates, input_size, hidden_size, bias, per_gate, norm_of_c)
        for name, shape in shapes.items():
            if name.startswith("norm"):
                start = torch.zeros if name == "norm_c_bias" else torch.ones
                parameter = nn.Parameter(start(shape, device=device, dtype=dtype))
                self.register_parameter(name, parameter)

    def reset_parameters(self) -> None:
        """Gains 1, norm_c_bias 0, the rest uniform in +-1/sqrt(H)."""
        with torch.no_grad():
            fill(dict(self.named_parameters(recurse=False)), self.hidden_size)

    def _weights(self) -> dict[str, Tensor]:
        norms = {name: getattr(self, name) for name in self._parameters if name.startswith("norm")}
        return super()._weights() | norms

    def extra_repr(self) -> str:
        return super().extra_repr() + (", per_gate=True" if self.per_gate else "")


class _WithoutC(LayerNormCell):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """input `[B, I]`, hx `[B, H]` or None for zeros -> h' `[B, H]`."""
        if isinstance(input, Proxy):
            return module_node(self, {"input": input, "hx": hx})
        return self._step(input, None if hx is None else [hx], 1, ["hidden"])[0]


class LayerNormRNNCell(_WithoutC):
    """One step of :class:`fastcells.LayerNormRNN`: equations, parameters (without `_l{k}`), errors.

    Args:
        input_size, hidden_size, bias, nonlinearity, device, dtype: as for
            :class:`torch.nn.RNNCell`.
        per_gate: as for :class:`fastcells.LayerNormRNN`.

    Shapes: input `[B, I]` or `[I]`, hx `[B, H]` or `[H]`, None for zeros -> h' like hx.

    Example:
        >>> h = fastcells.LayerNormRNNCell(10, 20)(torch.randn(3, 10))
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        per_gate: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype, per_gate)
        self.nonlinearity = nonlinearity

    @property
    def cell(self) -> str:  # type: ignore[override]  # read at every call
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return f"rnn_{self.nonlinearity}"


class LayerNormGRUCell(_WithoutC):
    """One step of :class:`fastcells.LayerNormGRU`: equations, parameters (without `_l{k}`), errors.

    Args:
        input_size, hidden_size, bias, device, dtype: as for :class:`torch.nn.GRUCell`.

    Shapes: input `[B, I]` or `[I]`, hx `[B, H]` or `[H]`, None for zeros -> h' like hx.

    Example:
        >>> h = fastcells.LayerNormGRUCell(10, 20)(torch.randn(3, 10))
    """

    cell, gates = "gru", 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)


class LayerNormLSTMCell(LayerNormCell):
    """One step of :class:`fastcells.LayerNormLSTM`: equations, parameters (without `_l{k}`),
    errors.

    Args:
        input_size, hidden_size, bias, device, dtype: as for :class:`torch.nn.LSTMCell`.
        per_gate, carry_normalised_c: as for :class:`fastcells.LayerNormLSTM`.

    Shapes: input `[B, I]` or `[I]`, hx (h, c) `[B, H]` or `[H]` each, None for zeros -> (h', c').

    Example:
        >>> h, c = fastcells.LayerNormLSTMCell(10, 20)(torch.randn(3, 10))
    """

    cell, gates = "lstm", 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        per_gate: bool = False,
        carry_normalised_c: bool = False,
    ) -> None:
        check_flag("LayerNormLSTMCell", "carry_normalised_c", carry_normalised_c)
        norm_of_c = NORMS_OF_C[carry_normalised_c]
        super().__init__(input_size, hidden_size, bias, device, dtype, per_gate, norm_of_c)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """input `[B, I]`, hx (h, c) `[B, H]` each or None for zeros -> (h', c')."""
        if isinstance(input, Proxy):
            return module_node(self, {"input": input, "hx": hx})
        if hx is not None:
            checks.check_pair("LayerNormLSTMCell", hx)
        return self._step(input, None if hx is None else list(hx), 2, ["hx[0]", "hx[1]"])
