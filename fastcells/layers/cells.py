"""RNNCell, LSTMCell and GRUCell: torch.nn's cells on fastcells' kernels.

Letters: B batch, I `input_size`, H `hidden_size`. Input `[B, I]` or `[I]`, states `[B, H]` or
`[H]`. Equations: :class:`fastcells.RNN`, :class:`fastcells.LSTM`, :class:`fastcells.GRU`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import recurrent as checks
from ..functional.graphs import Proxy, Unscriptable, module_node
from ..functional.processes import settle_in_forked_child
from ..functional.recurrent import gru_cell_name
from ..functional.recurrent_calls import run_module_step, run_step

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]


class RecurrentCell(Unscriptable, nn.RNNCellBase):
    """What the three cells share: check, run one step, drop the batch again."""

    cell: str  # name of the kernels' cell

    def _step(
        self, input: Tensor, states: list[Tensor] | None, count: int, names: list[str]
    ) -> Any:
        settle_in_forked_child()
        name = type(self).__name__
        checks.check_cell_input(name, input, self._typical(), self.input_size)
        if states is None:
            shape = (*input.shape[:-1], self.hidden_size)
            states = [input.new_zeros(shape)] * count
        for index, (state, what) in enumerate(zip(states, names, strict=True)):
            checks.check_cell_hidden(name, state, input, self.hidden_size, index, what)
        is_batched = input.dim() == 2
        if not is_batched:
            input, states = input.unsqueeze(0), [state.unsqueeze(0) for state in states]
        weights = self._weights()
        h, c = run_step(
            self.cell, input, states[0], states[1] if count == 2 else None,
            tuple(weights.values()), " ".join(weights),
        )  # fmt: skip
        if is_batched:
            return h, c
        return h.squeeze(0), None if c is None else c.squeeze(0)

    def _stored_weights(self) -> Any:
        """The module's own dictionary that holds the weights."""
        return self._parameters

    def _typical(self) -> Tensor:
        """A tensor of the device and dtype that the kernels want of an input."""
        return self.weight_ih

    def _weights(self) -> dict[str, Tensor]:
        weights = {"weight_ih": self.weight_ih, "weight_hh": self.weight_hh}
        biases = {"bias_ih": self.bias_ih, "bias_hh": self.bias_hh}
        if all(bias is None for bias in biases.values()):
            return weights
        for name, bias in biases.items():  # one alone may have been taken away
            is_gone = bias is None
            weights[name] = self._typical().new_zeros(self.weight_ih.shape[0]) if is_gone else bias
        return weights


class RNNCell(RecurrentCell, nn.RNNCell):
    """One step of an Elman network, in the place of :class:`torch.nn.RNNCell`.

    Equation: :class:`fastcells.RNN`. Source and errors: :class:`torch.nn.RNNCell`.

    Shapes: B batch, I `input_size`, H `hidden_size`. input `[B, I]` or `[I]`; hx and the new
    state `[B, H]` or `[H]`. dtypes as for :class:`fastcells.RNN`.

    Example:
        >>> cell = fastcells.RNNCell(10, 20, nonlinearity="relu")
        >>> h = cell(torch.randn(3, 10), torch.randn(3, 20))
    """

    @property
    def cell(self) -> str:  # type: ignore[override]  # read at every call
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return f"rnn_{self.nonlinearity}"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """input `[B, I]`, hx `[B, H]` or None for zeros -> h' `[B, H]`."""
        done = run_module_step(self.cell, input, hx, None, self._stored_weights())
        if done is not None:
            return done
        if isinstance(input, Proxy):
            return module_node(self, {"input": input, "hx": hx})
        return self._step(input, None if hx is None else [hx], 1, ["hidden"])[0]


class LSTMCell(RecurrentCell, nn.LSTMCell):
    """One step of an LSTM, in the place of :class:`torch.nn.LSTMCell`.

    Equations: :class:`fastcells.LSTM`. Source and errors: :class:`torch.nn.LSTMCell`.

    Shapes: B batch, I `input_size`, H `hidden_size`. input `[B, I]` or `[I]`; h and c of hx
    and of the result `[B, H]` or `[H]`. dtypes as for :class:`fastcells.RNN`.

    Example:
        >>> cell = fastcells.LSTMCell(10, 20)
        >>> h, c = cell(torch.randn(3, 10))
    """

    cell = "lstm"

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """input `[B, I]`, hx (h, c) `[B, H]` each or None for zeros -> (h', c')."""
        states: Any = (None, None) if hx is None else hx
        if isinstance(states, tuple) and len(states) == 2 and (states[0] is None) == (hx is None):
            done = run_module_step(self.cell, input, *states, self._stored_weights())
            if done is not None:
                return done
        if isinstance(input, Proxy):
            return module_node(self, {"input": input, "hx": hx})
        if hx is not None:
            checks.check_pair("LSTMCell", hx)
        return self._step(input, None if hx is None else list(hx), 2, ["hx[0]", "hx[1]"])


class GRUCell(RecurrentCell, nn.GRUCell):
    """One step of a GRU, in the place of :class:`torch.nn.GRUCell`.

    Equations, and `variant`, which torch has not: :class:`fastcells.GRU`. Source and errors:
    :class:`torch.nn.GRUCell`; another variant is a ValueError.

    Shapes: B batch, I `input_size`, H `hidden_size`. input `[B, I]` or `[I]`; hx and the new
    state `[B, H]` or `[H]`. dtypes as for :class:`fastcells.RNN`.

    Example:
        >>> cell = fastcells.GRUCell(10, 20, variant="reset_before")
        >>> h = cell(torch.randn(10), torch.randn(20))
    """

    variant = "reset_after"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        variant: str = "reset_after",
    ) -> None:
        gru_cell_name(variant)  # refuses an unknown one
        super().__init__(input_size, hidden_size, bias, device=device, dtype=dtype)
        self.variant = variant

    @property
    def cell(self) -> str:  # type: ignore[override]  # read at every call
        return gru_cell_name(self.variant)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """input `[B, I]`, hx `[B, H]` or None for zeros -> h' `[B, H]`."""
        done = run_module_step(self.cell, input, hx, None, self._stored_weights())
        if done is not None:
            return done
        if isinstance(input, Proxy):
            return module_node(self, {"input": input, "hx": hx})
        return self._step(input, None if hx is None else [hx], 1, ["hidden"])[0]

    def extra_repr(self) -> str:
        shown = "" if self.variant == "reset_after" else f", variant={self.variant!r}"
        return super().extra_repr() + shown
