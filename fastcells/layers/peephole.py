"""The LSTM whose gates see its cell state."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..checks.tensors import check_rates
from .recurrent_base import WithCellStates, rates_of
from .shaped import ShapedLayer

__all__ = ["PeepholeLSTM"]


class PeepholeLSTM(WithCellStates, ShapedLayer):
    r"""Long short-term memory with peepholes.

    .. math::
        i, f = \sigma(x_\cdot + p_\cdot \odot c_{t-1}) \quad g = \tanh(x_g) \qquad
        c_t = f \odot c_{t-1} + i \odot g \\
        o = \sigma(x_o + p_o \odot c_t) \qquad h_t = o \odot \tanh(c_t), \qquad
        x = W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}

    The constructor is that of :class:`torch.nn.LSTM` without proj_size, and beyond it:

    Args:
        recompute, zoneout, zoneout_c, recurrent_dropout, weight_dropout: as for
            :class:`fastcells.LSTM`.

    Parameters of layer k (`_reverse` behind those of the second direction), rows i, f, g, o:
    `weight_ih_l{k}` `[4H, I]` (D*H columns above the first layer), `weight_hh_l{k}` `[4H, H]`, with
    bias `bias_ih_l{k}` and `bias_hh_l{k}` `[4H]`, and `unit_weights_l{k}` `[3H]`: p_i, p_f, p_o.
    Initial values: all uniform in +-1/sqrt(H).

    Called as :class:`fastcells.LSTM`, with hx and the final states (h, c), `lengths`, `resets` and
    PackedSequence included; dtypes and errors as for :class:`fastcells.LSTM`.

    Source: Gers, Schmidhuber (2000), "Recurrent nets that time and count"; Graves (2013),
    https://arxiv.org/abs/1308.0850, equations 7 to 11.

    Example:
        >>> layer = fastcells.PeepholeLSTM(10, 20, num_layers=2)
        >>> output, (h_n, c_n) = layer(torch.randn(5, 3, 10))
    """

    cell = "lstm_peephole"

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
        recompute: bool = False,
        zoneout: float = 0.0,
        zoneout_c: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
    ) -> None:
        rates = rates_of(zoneout, recurrent_dropout, weight_dropout, zoneout_c=zoneout_c)
        check_rates("PeepholeLSTM", rates)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype, recompute=recompute,
        )  # fmt: skip
        self._set_rates(rates)

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        rows, hidden = 4 * self.hidden_size, self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, self._input_width(layer)),
            "weight_hh": (rows, hidden),
        }
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        return shapes | {"unit_weights": (3 * hidden,)}

    def _fill(self, layer: int, weight_ih: Tensor, **others: Tensor) -> None:
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in (weight_ih, *others.values()):
            weight.uniform_(-bound, bound)
