"""Layers whose units see themselves alone: IndRNN, SRU, QRNN, MinGRU, MinLSTM, RGLRU and the
diagonal GRU and LSTM.

There is no recurrent matrix: a unit's next state depends on the input and on its own state. Each
lane, a unit of a row, walks through time by itself (csrc/recurrent/elementwise), which is exact and
needs neither a parallel scan nor logarithms.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .elementwise_base import ElementwiseLayer, ElementwiseLayerWithCell

__all__ = ["QRNN", "RGLRU", "DiagonalGRU", "DiagonalLSTM", "IndRNN", "MinGRU", "MinLSTM"]


class IndRNN(ElementwiseLayer):
    r"""Independently recurrent network.

    .. math:: h_t = f(W x_t + b + u \odot h_{t-1}), \quad f = \tanh, \mathrm{relu}

    The constructor is that of :class:`torch.nn.RNN`, and of it:

    Args:
        nonlinearity: f, "tanh" or "relu".
        recompute: as for :class:`fastcells.RNN`.

    Parameters of layer k (`_reverse` behind those of the second direction), H `hidden_size`, I
    `input_size` (D*H above the first layer): `weight_ih_l{k}` `[H, I]`, `weight_hh_l{k}` `[H]`, the
    vector u, and `bias_ih_l{k}` `[H]`. There is one bias. Initial values: W and b uniform in
    +-1/sqrt(I); u uniform in 0..1, the bound of the paper's section 4.1 for long sequences, which
    it keeps by clipping in training.

    Args and results of a call, shapes, dtypes: as for :class:`fastcells.RNN`, `lengths`, `resets`
    and PackedSequence included. For 16-bit input h is carried in float32.

    Raises:
        ValueError, RuntimeError, TypeError: as :class:`fastcells.RNN`.

    Source: Li et al. (2018), https://arxiv.org/abs/1803.04831, equation 2.

    Example:
        >>> layer = fastcells.IndRNN(10, 20, nonlinearity="relu")
        >>> output, h_n = layer(torch.randn(5, 3, 10), lengths=torch.tensor([5, 2, 0]))
    """

    gates, unit_weights = 1, 1

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
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"IndRNN: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype, recompute=recompute,
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    @property
    def cell(self) -> str:  # type: ignore[override]  # read at every call
        return f"indrnn_{self.nonlinearity}"

    def _fill(self, layer: int, weight_ih: Tensor, **others: Tensor) -> None:
        super()._fill(layer, weight_ih, **others)
        others["weight_hh"].uniform_(0, 1)

    def extra_repr(self) -> str:
        shown = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}"
        return super().extra_repr() + shown


class QRNN(ElementwiseLayerWithCell):
    r"""Quasi-recurrent network with fo-pooling and a window of one step.

    .. math::
        z = \tanh(W_z x_t + b_z) \quad f, o = \sigma(W_\cdot x_t + b_\cdot) \\
        c_t = f \odot c_{t-1} + (1 - f) \odot z \qquad h_t = o \odot c_t

    Parameters: rows z, f, o: `weight_ih_l{k}` `[3H, I]`, `bias_ih_l{k}` `[3H]`. Initial values: all
    uniform in +-1/sqrt(I), as of :class:`torch.nn.Linear`. Called as :class:`fastcells.LSTM`, with
    hx and the final states (h, c); other arguments, dtypes and errors as for :class:`IndRNN`. A
    wider window is a concatenation of the last inputs in front of the layer.

    Source: Bradbury et al. (2016), https://arxiv.org/abs/1611.01576, equation 4.

    Example:
        >>> output, (h_n, c_n) = fastcells.QRNN(10, 20)(torch.randn(5, 3, 10))
    """

    cell, gates, unit_weights = "qrnn", 3, 0


if TYPE_CHECKING:
    _InFrontOf = ElementwiseLayer
else:
    _InFrontOf = object


class _Minimal(_InFrontOf):
    """The activation of the candidate."""

    _cell: str
    activation = "g"

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
        activation: str = "g",
        recompute: bool = False,
    ) -> None:
        if activation not in ("g", "identity"):
            raise ValueError(
                f"{type(self).__name__}: activation must be 'g' or 'identity', got {activation!r}"
            )
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype, recompute=recompute,
        )  # fmt: skip
        self.activation = activation

    @property
    def cell(self) -> str:  # type: ignore[override]  # read at every call
        return self._cell if self.activation == "g" else f"{self._cell}_identity"

    def extra_repr(self) -> str:
        shown = "" if self.activation == "g" else f", activation={self.activation!r}"
        return super().extra_repr() + shown


class MinGRU(_Minimal, ElementwiseLayer):
    r"""Minimal gated recurrent unit: a GRU whose gates see the input alone.

    .. math::
        z = \sigma(W_z x_t + b_z) \qquad h_t = (1 - z) \odot h_{t-1} + z \odot a(W_h x_t + b_h)

    The constructor is that of :class:`IndRNN` without nonlinearity, and beyond it:

    Args:
        activation: a. "g" (default): x + 0.5 for x >= 0, else sigmoid(x), positive throughout
            (appendix B of the paper); "identity": the paper's section 3.1.

    Parameters: rows z, h: `weight_ih_l{k}` `[2H, I]`, `bias_ih_l{k}` `[2H]`. Initial values: all
    uniform in +-1/sqrt(I), as of :class:`torch.nn.Linear`. Called as :class:`fastcells.GRU`. With
    "g" the log-space form of others lets an initial state through g first; here it is the state.
    Shapes, dtypes, errors: as for :class:`IndRNN`; another activation is a ValueError.

    Source: Feng et al. (2024), https://arxiv.org/abs/2410.01201, section 3.1.

    Example:
        >>> output, h_n = fastcells.MinGRU(10, 20)(torch.randn(5, 3, 10))
    """

    _cell, gates, unit_weights = "min_gru", 2, 0

    @classmethod
    def from_mingru_pytorch(cls, state_dict: dict[str, Tensor]) -> MinGRU:
        """The layer of a `minGRU` of the package minGRU-pytorch: `to_hidden_and_gate.weight`
        `[2*H, I]`, rows hidden then gate, no bias. A projection behind it (`to_out.weight`, of
        expansion_factor other than 1) is not part of it.

        The result has batch_first=True and no bias. Raises ValueError for other keys.

        Example:
            >>> trained = {"to_hidden_and_gate.weight": torch.randn(2 * 16, 8)}
            >>> output, h_n = fastcells.MinGRU.from_mingru_pytorch(trained)(torch.randn(3, 50, 8))
        """
        weight = _only_weight(cls, state_dict, "to_hidden_and_gate.weight", 2)
        hidden, gate = weight.chunk(2)
        return _layer_of(cls, torch.cat([gate, hidden]), 2)


class MinLSTM(_Minimal, ElementwiseLayerWithCell):
    r"""Minimal LSTM: gates see the input alone, and share out between the old and the new.

    .. math::
        f, i = \sigma(W_\cdot x_t + b_\cdot) \qquad
        c_t = \tfrac{f}{f + i} \odot c_{t-1} + \tfrac{i}{f + i} \odot a(W_h x_t + b_h)
        \qquad h_t = c_t

    f/(f + i) is computed from exponentials of which the largest is 1, so that it is exact where
    both gates underflow: it equals sigmoid(softplus(-x_i) - softplus(-x_f)).

    The constructor is that of :class:`MinGRU`.

    Parameters: rows f, i, h: `weight_ih_l{k}` `[3H, I]`, `bias_ih_l{k}` `[3H]`. Initial values as
    for :class:`MinGRU`. Called as :class:`fastcells.LSTM`, with hx and the final states (h, c);
    shapes, dtypes, errors as there and for :class:`MinGRU`.

    Source: Feng et al. (2024), https://arxiv.org/abs/2410.01201, section 3.2.

    Example:
        >>> output, (h_n, c_n) = fastcells.MinLSTM(10, 20)(torch.randn(5, 3, 10))
    """

    _cell, gates, unit_weights = "min_lstm", 3, 0

    @classmethod
    def from_mingru_pytorch(cls, state_dict: dict[str, Tensor]) -> MinLSTM:
        """The layer of a `minLSTM` of minGRU-pytorch: `to_hidden_and_f_i_gate.weight` `[3*H, I]`,
        rows hidden, f, i; the rest as :meth:`MinGRU.from_mingru_pytorch`.

        Example:
            >>> trained = {"to_hidden_and_f_i_gate.weight": torch.randn(3 * 16, 8)}
            >>> layer = fastcells.MinLSTM.from_mingru_pytorch(trained)
        """
        weight = _only_weight(cls, state_dict, "to_hidden_and_f_i_gate.weight", 3)
        hidden, f, i = weight.chunk(3)
        return _layer_of(cls, torch.cat([f, i, hidden]), 3)


def _only_weight(cls: type, state_dict: dict[str, Tensor], key: str, gates: int) -> Tensor:
    keys = set(state_dict) - {"to_out.weight"}
    if keys != {key} or state_dict[key].dim() != 2 or state_dict[key].shape[0] % gates:
        raise ValueError(
            f"{cls.__name__}: state_dict must hold {key} of shape ({gates}*H, I), got "
            + ", ".join(f"{name} {tuple(x.shape)}" for name, x in sorted(state_dict.items()))
        )
    return state_dict[key]


def _layer_of(cls: type, weight: Tensor, gates: int) -> Any:
    rows, width = weight.shape
    layer = cls(width, rows // gates, bias=False, batch_first=True, device=weight.device,
                dtype=weight.dtype)  # fmt: skip
    with torch.no_grad():
        layer.weight_ih_l0.copy_(weight)
    return layer


class RGLRU(ElementwiseLayer):
    r"""Real-gated linear recurrent unit of Griffin.

    .. math::
        r, i = \sigma(W_\cdot x_t + b_\cdot) \qquad
        a = \exp(-8\, \mathrm{softplus}(\Lambda) \odot r) \\
        h_t = a \odot h_{t-1} + \sqrt{1 - a^2} \odot (i \odot x_t)

    The square root is of 1 - exp(2 log a) by expm1, which is exact where a is nearly 1. The input
    gate multiplies the input as it is, so that input_size must be hidden_size; above the first of
    several bidirectional layers each direction multiplies its own half.

    Parameters: rows r, i: `weight_ih_l{k}` `[2H, I]`, `bias_ih_l{k}` `[2H]`; `weight_hh_l{k}` `[H]`
    is Lambda. Initial values: W normal with variance 1/I, b 0, Lambda so that exp(-8
    softplus(Lambda)) is uniform in 0.9..0.999 (section 2.4). Griffin's own layers have W block
    diagonal, and drop sqrt(1 - a^2) at the first step of a sequence; here neither is so.

    Args, results: as for :class:`IndRNN`, without nonlinearity.

    Raises:
        ValueError: input_size is not hidden_size; as for :class:`IndRNN`.

    Source: De et al. (2024), https://arxiv.org/abs/2402.19427, section 2.4.

    Example:
        >>> output, h_n = fastcells.RGLRU(20, 20)(torch.randn(5, 3, 20))
    """

    cell, gates, unit_weights = "rg_lru", 2, 1

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
    ) -> None:
        if input_size != hidden_size:
            raise ValueError(
                "RGLRU: input_size must be hidden_size, for the unit gates its input as it is, got "
                f"{input_size} and {hidden_size}"
            )
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype, recompute=recompute,
        )  # fmt: skip

    def _fill(self, layer: int, weight_ih: Tensor, **others: Tensor) -> None:
        weight_ih.normal_(std=1 / math.sqrt(self._input_width(layer)))
        if "bias_ih" in others:
            others["bias_ih"].zero_()
        lowest = others["weight_hh"].uniform_(0.9, 0.999)
        others["weight_hh"].copy_((-lowest.log() / 8).expm1().log())


class _Diagonal(_InFrontOf):
    def _fill(self, layer: int, weight_ih: Tensor, **others: Tensor) -> None:
        bound = math.sqrt(6 / (self._input_width(layer) + self.hidden_size))
        weight_ih.uniform_(-bound, bound)
        others["weight_hh"].uniform_(-1, 1)
        if "bias_ih" in others:
            others["bias_ih"].zero_()


class DiagonalGRU(_Diagonal, ElementwiseLayer):
    r"""GRU whose recurrent matrices are diagonal.

    .. math::
        r, z = \sigma(W_\cdot x_t + b_\cdot + u_\cdot \odot h_{t-1}) \qquad
        n = \tanh(W_n x_t + b_n + u_n \odot (r \odot h_{t-1})) \\
        h_t = (1 - z) \odot n + z \odot h_{t-1}

    ParaRNN's diagonal GRU, with z, as in :class:`torch.nn.GRU`, the share of the old state, where
    ParaRNN's z is that of the new one.

    Parameters: rows r, z, n: `weight_ih_l{k}` `[3H, I]`, `bias_ih_l{k}` `[3H]`; `weight_hh_l{k}`
    `[3H]`: u_r, u_z, u_n. Initial values: W Glorot's uniform of one gate (as ParaRNN), u uniform in
    +-1, b 0.

    Args, results, errors: as for :class:`IndRNN`, without nonlinearity.

    Source: Danieli et al. (2025), https://arxiv.org/abs/2510.21450; its code
    `pararnn/rnn_cell/gru_diag_mh.py`, with one head.

    Example:
        >>> output, h_n = fastcells.DiagonalGRU(10, 20, bidirectional=True)(torch.randn(5, 3, 10))
    """

    cell, gates, unit_weights = "diagonal_gru", 3, 3


class DiagonalLSTM(_Diagonal, ElementwiseLayerWithCell):
    r"""LSTM with coupled input and forget gates whose recurrent matrices are diagonal.

    .. math::
        f, o = \sigma(W_\cdot x_t + b_\cdot + u_\cdot \odot h_{t-1}) \qquad
        g = \tanh(W_g x_t + b_g + u_g \odot h_{t-1}) \\
        c_t = f \odot c_{t-1} + (1 - f) \odot g \qquad h_t = o \odot \tanh(c_t)

    ParaRNN's has peepholes besides: its f sees c, its o the new c; its rows are f, o, g.

    Parameters: rows f, g, o: `weight_ih_l{k}` `[3H, I]`, `bias_ih_l{k}` `[3H]`; `weight_hh_l{k}`
    `[3H]`: u_f, u_g, u_o. Initial values as for :class:`DiagonalGRU`. Called as
    :class:`fastcells.LSTM`, with hx and the final states (h, c); other arguments, dtypes and errors
    as for :class:`IndRNN`, without nonlinearity.

    Source: Danieli et al. (2025), https://arxiv.org/abs/2510.21450; Greff et al. (2015),
    https://arxiv.org/abs/1503.04069, for the coupled gates.

    Example:
        >>> output, (h_n, c_n) = fastcells.DiagonalLSTM(10, 20)(torch.randn(5, 3, 10))
    """

    cell, gates, unit_weights = "diagonal_lstm", 3, 3
