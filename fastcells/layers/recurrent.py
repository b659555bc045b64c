"""RNN, LSTM and GRU: torch.nn's layers on fastcells' kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .. import checks
from ..functional.recurrent import gru_cell_name, run_stack
from .packed import pack, pad

__all__ = ["GRU", "LSTM", "RNN"]


class _RecurrentLayer(nn.RNNBase):
    """What the three layers share: unpack, check, run, repack.

    Subclasses of nn.RNNBase and not of nn.LSTM and its kind, which torch.compile refuses.
    Parameters are read by name at every call, so that parametrizations, pruning, functional_call
    and the like take effect.
    """

    cell: str  # name of the kernels' cell
    has_cell_state = False

    def flatten_parameters(self) -> None:
        """Does nothing: the kernels take parameters as they lie."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """See the class."""
        output, h_n, _, _ = self._run(input, hx, lengths, resets)
        return output, h_n

    def _run(self, input, hx, lengths, resets, want_cells=False):
        """output, h_n, c_n, cells, in the caller's layout; the last two None without c."""
        if isinstance(input, PackedSequence):
            return self._run_packed(input, hx, lengths, resets, want_cells)
        name = type(self).__name__
        checks.check_kind(name, "input", input)
        if input.dim() not in (2, 3):
            noun = " tensor" if isinstance(self, RNN) else ""
            raise ValueError(
                f"{name}: Expected input to be 2D or 3D, got {input.dim()}D{noun} instead"
            )
        is_batched = input.dim() == 3
        batch = input.shape[0 if self.batch_first else 1] if is_batched else None
        self._check_tensor(name, input, batch, lengths, resets)
        h_0, c_0 = self._initial_states(name, input, hx, batch)
        if not is_batched:
            input = input.unsqueeze(1)
            lengths = None if lengths is None else lengths.unsqueeze(0)
            resets = None if resets is None else resets.unsqueeze(1)
        elif self.batch_first:
            input = input.transpose(0, 1)
            resets = None if resets is None else resets.t()
        output, h_n, c_n, cells = self._run_stack(input, h_0, c_0, lengths, resets, want_cells)
        return (
            self._to_callers_layout(output, is_batched),
            h_n if is_batched else h_n.squeeze(1),
            c_n if is_batched or c_n is None else c_n.squeeze(1),
            None if cells is None else self._to_callers_layout(cells, is_batched),
        )

    def _run_packed(self, packed, hx, lengths, resets, want_cells):
        name = type(self).__name__
        for what, value in (("lengths", lengths), ("resets", resets)):
            if value is not None:
                raise ValueError(
                    f"{name}: {what} cannot be combined with a PackedSequence, which brings its "
                    "own lengths. Pass a padded tensor instead"
                )
        if packed.data.dim() != 2:
            raise RuntimeError(f"input must have 2 dimensions, got {packed.data.dim()}")
        steps = int(packed.batch_sizes.sum())
        if packed.data.shape[0] != steps:
            raise RuntimeError(
                f"{name}: data of a PackedSequence must have as many rows as batch_sizes add up to "
                f"= {steps}, got {packed.data.shape[0]}"
            )
        checks.check_input(name, packed.data, self._first_weight())
        checks.check_width(packed.data, self.input_size)
        states = self._initial_states(name, packed.data, hx, int(packed.batch_sizes[0]))
        if packed.sorted_indices is not None:
            states = [s if s is None else s.index_select(1, packed.sorted_indices) for s in states]
        padded = pad(packed)
        output, h_n, c_n, cells = self._run_stack(
            padded.data, *states, padded.lengths, None, want_cells, is_packed=True
        )
        if packed.unsorted_indices is not None:
            h_n = h_n.index_select(1, packed.unsorted_indices)
            c_n = None if c_n is None else c_n.index_select(1, packed.unsorted_indices)
        cells = None if cells is None else pack(cells, padded, packed)
        return pack(output, padded, packed), h_n, c_n, cells

    def _run_stack(self, input, h_0, c_0, lengths, resets, want_cells, is_packed=False):
        directions = 2 if self.bidirectional else 1
        names = self._all_weights
        layers = [
            [getattr(self, n) for d in range(directions) for n in names[i * directions + d]]
            for i in range(self.num_layers)
        ]
        dropout = self.dropout if self.training else 0.0
        return run_stack(
            self.cell, directions, input, h_0, c_0, layers, lengths, resets, dropout, want_cells,
            is_packed,
        )  # fmt: skip

    def _first_weight(self) -> Tensor:
        return getattr(self, self._all_weights[0][0])

    def _to_callers_layout(self, output: Tensor, is_batched: bool) -> Tensor:
        if not is_batched:
            return output.squeeze(1)
        return output.transpose(0, 1) if self.batch_first else output

    def _check_tensor(self, name, input, batch, lengths, resets) -> None:
        checks.check_input(name, input, self._first_weight())
        checks.check_width(input, self.input_size)
        time_dim = 1 if self.batch_first and batch is not None else 0
        if input.shape[time_dim] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        if lengths is not None:
            checks.check_lengths(name, lengths, input, batch)
        if resets is not None:
            checks.check_resets(name, resets, input)

    def _initial_states(self, name, input, hx, batch) -> tuple[Tensor | None, Tensor | None]:
        """Checked h_0 `[L*D, B, P]` and c_0 `[L*D, B, H]`, or None for zeros."""
        if hx is None:
            return None, None
        if self.has_cell_state:
            checks.check_pair(name, hx)
        else:
            checks.check_kind(name, "hx", hx)
        states = tuple(hx) if self.has_cell_state else (hx,)
        checks.check_ranks(states, batch is not None)
        if batch is None:
            states = tuple(state.unsqueeze(1) for state in states)
        rows = self.num_layers * (2 if self.bidirectional else 1)
        widths = (self.proj_size or self.hidden_size, self.hidden_size)
        for index, state in enumerate(states):
            place = f"[{index}]" if self.has_cell_state else ""
            expected = (rows, 1 if batch is None else batch, widths[index])
            checks.check_state(state, expected, input, place)
        return states if self.has_cell_state else (states[0], None)


class RNN(_RecurrentLayer):
    r"""Elman network, in the place of :class:`torch.nn.RNN`.

    .. math:: h_t = f(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}), \quad f = \tanh, \mathrm{relu}

    Constructor, parameters, state_dict, results and errors are torch's. Beyond it:

    Args of a call:
        lengths: int64 `[B]`, on the input's device, each in 0..T: the steps of each row. Outputs
            past a row's end are 0, and what stands there in the input has no effect; final states
            are those at the end, and the reverse direction starts there, as with a
            PackedSequence, but without sorting and with empty rows. `[]` beside unbatched input.
        resets: bool, `[T, B]`, or `[B, T]` with batch_first: the state is zero before a step where
            it is set, whatever hx was. The steps between resets behave as sequences of their own,
            in the reverse direction and in upper layers too.

    Shapes: T steps, B batch, I `input_size`, H `hidden_size`, L `num_layers`, D 2 if bidirectional
    else 1. input `[T, B, I]` (`[B, T, I]` with batch_first, `[T, I]` unbatched) or a
    PackedSequence; hx and h_n `[L*D, B, H]`; output `[T, B, D*H]`. float32, float64, bfloat16 or
    float16, with float32 arithmetic for the last two.

    Raises:
        ValueError, RuntimeError, TypeError: as torch.nn.RNN; for lengths and resets of another
            shape, dtype or device, and for either beside a PackedSequence.

    Source: Elman (1990), "Finding structure in time"; :class:`torch.nn.RNN`.

    Example:
        >>> layer = fastcells.RNN(10, 20, nonlinearity="relu")
        >>> output, h_n = layer(torch.randn(5, 3, 10), lengths=torch.tensor([5, 2, 0]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        proj_size: int | None = None,
    ) -> None:
        _refuse_projection(proj_size)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first,
            dropout, bidirectional, device=device, dtype=dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    @property
    def cell(self) -> str:
        return f"rnn_{self.nonlinearity}"


class LSTM(_RecurrentLayer):
    r"""Long short-term memory, in the place of :class:`torch.nn.LSTM`.

    .. math::
        i, f, o = \sigma(W_{i\cdot} x_t + b_{i\cdot} + W_{h\cdot} h_{t-1} + b_{h\cdot}) \quad
        g = \tanh(W_{ig} x_t + b_{ig} + W_{hg} h_{t-1} + b_{hg}) \\
        c_t = f \odot c_{t-1} + i \odot g \qquad h_t = W_{hr} (o \odot \tanh(c_t))

    W_hr only with `proj_size`. Constructor, parameters, state_dict, results and errors are
    torch's. Beyond it:

    Args:
        unit_forget_bias: at initialisation b_ih of the forget gate is 1 and its b_hh 0, so that
            the cell remembers (Gers et al. 2000; Jozefowicz et al. 2015). Default: torch's
            initialisation.

    Args of a call:
        lengths, resets: as for :class:`RNN`.
        return_cell_states: also return c_t of every step of the last layer, laid out like the
            output, `[T, B, D*H]`, differentiable.

    Shapes: letters as for :class:`RNN`, P `proj_size` or H. input `[T, B, I]` (`[B, T, I]` with
    batch_first, `[T, I]` unbatched) or a PackedSequence; hx and the final states
    (h `[L*D, B, P]`, c `[L*D, B, H]`); output `[T, B, D*P]`. For bfloat16 and float16, and under
    autocast, arithmetic and cell state are float32 inside.

    Raises:
        ValueError, RuntimeError, TypeError: as torch.nn.LSTM and :class:`RNN`; for
            unit_forget_bias without bias.

    Source: Hochreiter, Schmidhuber (1997); Sak et al. (2014), https://arxiv.org/abs/1402.1128 for
    projections; :class:`torch.nn.LSTM`.

    Example:
        >>> layer = fastcells.LSTM(10, 20, num_layers=2)
        >>> output, (h_n, c_n), cells = layer(torch.randn(5, 3, 10), return_cell_states=True)
    """

    cell = "lstm"
    has_cell_state = True
    unit_forget_bias = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        unit_forget_bias: bool = False,
    ) -> None:
        if unit_forget_bias and not bias:
            raise ValueError("LSTM: unit_forget_bias=True needs bias=True, got bias=False")
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, proj_size, device=device, dtype=dtype,
        )  # fmt: skip
        if unit_forget_bias:
            self.unit_forget_bias = True
            self._fill_forget_bias()

    def reset_parameters(self) -> None:
        """torch.nn.LSTM's: uniform in +-1/sqrt(H); then the forget bias, if it was asked for."""
        super().reset_parameters()
        if self.unit_forget_bias:
            self._fill_forget_bias()

    def _fill_forget_bias(self) -> None:
        forget = slice(self.hidden_size, 2 * self.hidden_size)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.startswith("bias_"):
                    parameter[forget] = 1.0 if name.startswith("bias_ih") else 0.0

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_cell_states: bool = False,
    ):
        """See the class."""
        output, h_n, c_n, cells = self._run(input, hx, lengths, resets, return_cell_states)
        if return_cell_states:
            return output, (h_n, c_n), cells
        return output, (h_n, c_n)

    def extra_repr(self) -> str:
        return super().extra_repr() + (", unit_forget_bias=True" if self.unit_forget_bias else "")


class GRU(_RecurrentLayer):
    r"""Gated recurrent unit, in the place of :class:`torch.nn.GRU`.

    .. math::
        r, z = \sigma(W_{i\cdot} x_t + b_{i\cdot} + W_{h\cdot} h_{t-1} + b_{h\cdot}) \qquad
        h_t = (1 - z) \odot n + z \odot h_{t-1}

    Constructor, parameters, state_dict, results and errors are torch's. Beyond it:

    Args:
        variant: the new gate n.
            "reset_after" (default; torch, cuDNN, Keras):
            :math:`n = \tanh(W_{in} x + b_{in} + r \odot (W_{hn} h + b_{hn}))`.
            "reset_before" (Cho et al. 2014; Keras with reset_after=False):
            :math:`n = \tanh(W_{in} x + b_{in} + W_{hn} (r \odot h) + b_{hn})`.
            "article": :math:`n = r \odot \tanh(W_{in} x + b_{in} + (1 - z) \odot (W_{hn} h +
            b_{hn}))`, as printed in the article that this project implements, which calls z the
            update gate and r the merge gate.

    Args of a call:
        lengths, resets: as for :class:`RNN`.

    Shapes, dtypes: as for :class:`RNN`.

    Raises:
        ValueError, RuntimeError, TypeError: as torch.nn.GRU and :class:`RNN`; for an unknown
            variant.

    Source: Cho et al. (2014), https://arxiv.org/abs/1406.1078; :class:`torch.nn.GRU`.

    Example:
        >>> layer = fastcells.GRU(10, 20, bidirectional=True, variant="reset_before")
        >>> output, h_n = layer(torch.randn(5, 3, 10))
    """

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
        variant: str = "reset_after",
        proj_size: int | None = None,
    ) -> None:
        _refuse_projection(proj_size)
        gru_cell_name(variant)  # refuses an unknown one
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.variant = variant

    @property
    def cell(self) -> str:
        return gru_cell_name(self.variant)

    def extra_repr(self) -> str:
        shown = "" if self.variant == "reset_after" else f", variant={self.variant!r}"
        return super().extra_repr() + shown


def _refuse_projection(proj_size: int | None) -> None:
    if proj_size is not None:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
