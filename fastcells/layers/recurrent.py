"""RNN, LSTM and GRU: torch.nn's layers on fastcells' kernels."""

from __future__ import annotations

import torch

from ..functional.recurrent import gru_cell_name
from .recurrent_base import RecurrentLayer, WithCellStates, rates_of

__all__ = ["GRU", "LSTM", "RNN"]


class RNN(RecurrentLayer):
    r"""Elman network, in the place of :class:`torch.nn.RNN`.

    .. math:: h_t = f(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}), \quad f = \tanh, \mathrm{relu}

    Constructor, parameters, state_dict, results and errors are torch's. Beyond it:

    Args:
        recompute: training in less memory. Between the forward and the backward pass the states
            alone are kept, which are the output and, in an LSTM, c; the backward pass first
            computes the gates again. Numbers kept besides the output, for each step, row,
            direction and layer: RNN 0, not H; GRU 0, not 4H (3H for "reset_before"); LSTM H, not
            5H (6H with proj_size). The price is another forward pass on the way back, which holds
            the gates of one layer at a time. Gradients are the same. Without gradients, and on
            the reference, it changes nothing. The attribute may be set at any time.

        zoneout: probability that a unit of h keeps its old value at a step, drawn anew for each
            unit, row and step (Krueger et al. 2016); in evaluation h is `zoneout * old + (1 -
            zoneout) * new`.
        recurrent_dropout: probability that a unit of h enters :math:`W_{hh} h` as 0, else it is
            divided by 1 minus that; one mask for all steps of a row (Gal, Ghahramani 2016; Keras).
            Nothing in evaluation.
        weight_dropout: the same of the elements of :math:`W_{hh}`, one mask a call for all rows and
            steps (Merity et al. 2018). Nothing in evaluation.

    Masks come from torch's generator of the CPU: `torch.manual_seed` repeats them. All three hold
    in every layer and direction, each with masks of its own, and beside lengths, resets and
    recompute; second derivatives are of the same masks. The attributes may be set at any time.

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
            shape, dtype or device, and for either beside a PackedSequence; for a recompute that is
            not a bool; for a rate outside 0 .. 1.

    Source: Elman (1990), "Finding structure in time"; :class:`torch.nn.RNN`. Zoneout:
    https://arxiv.org/abs/1606.01305; the dropouts: https://arxiv.org/abs/1512.05287,
    https://arxiv.org/abs/1708.02182.

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
        recompute: bool = False,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        proj_size: int | None = None,
    ) -> None:
        _refuse_projection(proj_size)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first,
            dropout, bidirectional, device=device, dtype=dtype, recompute=recompute,
            rates=rates_of(zoneout, recurrent_dropout, weight_dropout),
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    @property
    def cell(self) -> str:  # type: ignore[override]  # read at every call
        # Of the mode, which torch.nn.RNN reads at a call; nonlinearity only tells how it was made.
        if self.mode not in ("RNN_TANH", "RNN_RELU"):
            raise RuntimeError(f"Unrecognized RNN mode: {self.mode}")
        return self.mode.lower()


class LSTM(WithCellStates, RecurrentLayer):
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
        zoneout, recurrent_dropout, weight_dropout, recompute: as for :class:`RNN`.
        zoneout_c: as zoneout, of c, with masks of its own; h is that of the new c.

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
        recompute: bool = False,
        zoneout: float = 0.0,
        zoneout_c: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
    ) -> None:
        if unit_forget_bias and not bias:
            raise ValueError("LSTM: unit_forget_bias=True needs bias=True, got bias=False")
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, proj_size, device=device, dtype=dtype, recompute=recompute,
            rates=rates_of(zoneout, recurrent_dropout, weight_dropout, zoneout_c=zoneout_c),
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

    def extra_repr(self) -> str:
        return super().extra_repr() + (", unit_forget_bias=True" if self.unit_forget_bias else "")


class GRU(RecurrentLayer):
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
        zoneout, recurrent_dropout, weight_dropout, recompute: as for :class:`RNN`.

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

    variant = "reset_after"

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
        recompute: bool = False,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        proj_size: int | None = None,
    ) -> None:
        _refuse_projection(proj_size)
        gru_cell_name(variant)  # refuses an unknown one
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype, recompute=recompute,
            rates=rates_of(zoneout, recurrent_dropout, weight_dropout),
        )  # fmt: skip
        self.variant = variant

    @property
    def cell(self) -> str:  # type: ignore[override]  # read at every call
        return gru_cell_name(self.variant)

    def extra_repr(self) -> str:
        shown = "" if self.variant == "reset_after" else f", variant={self.variant!r}"
        return super().extra_repr() + shown


def _refuse_projection(proj_size: int | None) -> None:
    if proj_size is not None:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
