"""RNN, LSTM and GRU with layer normalisation over the units of a row."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..checks.tensors import check_flag, check_rates
from .normalised_packages import custom_lstms_layers, haste_gru, haste_lstm
from .recurrent_base import WithCellStates, rates_of
from .shaped import ShapedLayer

__all__ = ["LayerNormGRU", "LayerNormLSTM", "LayerNormRNN"]

#: The gain of c, by whether the normalised c is carried on.
NORMS_OF_C = {False: "norm_c", True: "norm_carried_c"}


def shapes_of(
    gates: int, width: int, hidden: int, bias: bool, per_gate: bool, norm_of_c: str
) -> dict[str, tuple[int, ...]]:
    """Of the weights of one direction; `norm_of_c` is the name of the gain of c, or empty."""
    rows = gates * hidden
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, hidden)}
    if bias:
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    shapes |= {name: (rows,) for name in (["norm_gates"] if per_gate else ["norm_ih", "norm_hh"])}
    if norm_of_c:
        shapes |= {norm_of_c: (hidden,), "norm_c_bias": (hidden,)}
    return shapes


def fill(weights: dict[str, Tensor], hidden: int) -> None:
    """Initial values: gains 1, norm_c_bias 0, the rest as torch.nn's layers."""
    bound = 1 / math.sqrt(hidden) if hidden > 0 else 0
    for name, weight in weights.items():
        if name == "norm_c_bias":
            weight.zero_()
        elif name.startswith("norm"):
            weight.fill_(1.0)
        else:
            weight.uniform_(-bound, bound)


class _LayerNormLayer(ShapedLayer):
    """What the three share."""

    gates: int
    per_gate = False
    norm_of_c = ""

    def __init__(self, *arguments: Any, rates: dict[str, float], **options: Any) -> None:
        check_rates(type(self).__name__, rates)
        check_flag(type(self).__name__, "per_gate", self.per_gate)
        super().__init__(*arguments, **options)
        self._set_rates(rates)

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        return shapes_of(
            self.gates, self._input_width(layer), self.hidden_size, self.bias, self.per_gate,
            self.norm_of_c,
        )  # fmt: skip

    def _fill(self, layer: int, weight_ih: Tensor, **others: Tensor) -> None:
        fill({"weight_ih": weight_ih, **others}, self.hidden_size)

    @classmethod
    def _with_weights(
        cls, found: list[dict[str, Tensor]], directions: int = 1, **options: Any
    ) -> Any:
        """A layer with these weights of each layer and direction."""
        first = found[0]["weight_ih"]
        layer = cls(
            first.shape[1], first.shape[0] // cls.gates, len(found) // directions,
            bidirectional=directions == 2, device=first.device, dtype=first.dtype, **options,
        )  # fmt: skip
        with torch.no_grad():
            for names, weights in zip(layer._all_weights, found, strict=True):
                for name in names:
                    weight, own = weights[name.partition("_l")[0]], getattr(layer, name)
                    if weight.shape != own.shape:
                        raise ValueError(
                            f"{cls.__name__}: {name} must have shape {tuple(own.shape)}, "
                            f"got {tuple(weight.shape)}"
                        )
                    own.copy_(weight)
        return layer

    def extra_repr(self) -> str:
        return super().extra_repr() + (", per_gate=True" if self.per_gate else "")


class LayerNormRNN(_LayerNormLayer):
    r"""Elman network with layer normalisation.

    .. math:: h_t = f(\mathrm{LN}(W_{ih} x_t; g_{ih}) + b_{ih} +
        \mathrm{LN}(W_{hh} h_{t-1}; g_{hh}) + b_{hh}), \quad f = \tanh, \mathrm{relu}

    .. math:: \mathrm{LN}(v; g) = g \odot (v - \mathrm{mean}\,v) / \sqrt{\mathrm{var}\,v + 10^{-5}}

    over all elements of v, the variance without Bessel's correction.

    The constructor is that of :class:`torch.nn.RNN`, and beyond it:

    Args:
        per_gate: one normalisation of the sum, :math:`f(\mathrm{LN}(W_{ih} x_t + W_{hh} h_{t-1};
            g) + b_{ih} + b_{hh})`, Ba et al.'s equation 4.
        recompute, zoneout, recurrent_dropout, weight_dropout: as for :class:`fastcells.RNN`.

    Parameters of layer k (`_reverse` behind those of the second direction), H `hidden_size`, I
    `input_size` (D*H above the first layer): `weight_ih_l{k}` `[H, I]`, `weight_hh_l{k}` `[H, H]`,
    with bias `bias_ih_l{k}` and `bias_hh_l{k}` `[H]`, the gains `norm_ih_l{k}` and `norm_hh_l{k}`
    `[H]`, or with per_gate `norm_gates_l{k}` `[H]`. Initial values: gains 1, the rest uniform in
    +-1/sqrt(H).

    Args and results of a call, shapes, dtypes: as for :class:`fastcells.RNN`, `lengths`, `resets`
    and PackedSequence included. Statistics are float32 for 16-bit input.

    Raises:
        ValueError, RuntimeError, TypeError: as :class:`fastcells.RNN`.

    Source: Ba, Kiros, Hinton (2016), https://arxiv.org/abs/1607.06450.

    Example:
        >>> layer = fastcells.LayerNormRNN(10, 20, nonlinearity="relu")
        >>> output, h_n = layer(torch.randn(5, 3, 10), lengths=torch.tensor([5, 2, 0]))
    """

    gates = 1

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
        per_gate: bool = False,
        recompute: bool = False,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"LayerNormRNN: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}"
            )
        self.per_gate, self.nonlinearity = per_gate, nonlinearity
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype, recompute=recompute, rates=rates_of(zoneout, recurrent_dropout, weight_dropout),
        )  # fmt: skip

    @property
    def cell(self) -> str:  # type: ignore[override]  # read at every call
        return f"rnn_{self.nonlinearity}"

    def extra_repr(self) -> str:
        shown = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}"
        return super().extra_repr() + shown


class LayerNormLSTM(WithCellStates, _LayerNormLayer):
    r"""Long short-term memory with layer normalisation.

    .. math::
        (i, f, g, o) = \mathrm{LN}(W_{ih} x_t; g_{ih}) + b_{ih} +
            \mathrm{LN}(W_{hh} h_{t-1}; g_{hh}) + b_{hh} \\
        c_t = \sigma(f) \odot c_{t-1} + \sigma(i) \odot \tanh(g) \qquad
        h_t = \sigma(o) \odot \tanh(\mathrm{LN}(c_t; g_c) + b_c)

    LN as in :class:`LayerNormRNN`, over all 4H gates at once; c itself is not normalised.

    The constructor is that of :class:`torch.nn.LSTM` without proj_size, and beyond it:

    Args:
        per_gate: each gate normalised by itself, over the sum of both products, as TensorFlow's
            LayerNormBasicLSTMCell: :math:`\mathrm{LN}(W_{i\cdot} x_t + W_{h\cdot} h_{t-1}; g) +
            b_{i\cdot} + b_{h\cdot}`.
        carry_normalised_c: the normalised c is what the next step and the caller get as c, too, as
            in torch's benchmarks/fastrnns/custom_lstms.py; its gain is then `norm_carried_c_l{k}`.
        recompute, zoneout, zoneout_c, recurrent_dropout, weight_dropout: as for
            :class:`fastcells.LSTM`.

    Parameters of layer k, rows i, f, g, o: `weight_ih_l{k}` `[4H, I]`, `weight_hh_l{k}` `[4H, H]`,
    with bias `bias_ih_l{k}` and `bias_hh_l{k}` `[4H]`, the gains `norm_ih_l{k}` and `norm_hh_l{k}`
    `[4H]` (with per_gate `norm_gates_l{k}` `[4H]`), `norm_c_l{k}` and `norm_c_bias_l{k}` `[H]`.
    Initial values: gains 1, `norm_c_bias` 0, the rest uniform in +-1/sqrt(H).

    Called as :class:`fastcells.LSTM`, with hx and the final states (h, c); other arguments, dtypes
    and errors as for :class:`LayerNormRNN`.

    Source: Ba, Kiros, Hinton (2016), https://arxiv.org/abs/1607.06450, equations 20 to 22.

    Example:
        >>> layer = fastcells.LayerNormLSTM(10, 20, num_layers=2, zoneout=0.1)
        >>> output, (h_n, c_n) = layer(torch.randn(5, 3, 10))
    """

    cell, gates = "lstm", 4

    @classmethod
    def from_haste(cls, state_dict: dict[str, Tensor]) -> LayerNormLSTM:
        """A layer with the weights of haste's LayerNormLSTM (`kernel`, `recurrent_kernel`, `bias`,
        `gamma`, `gamma_h`, `beta_h`). Its `zoneout` is ours, its `dropout` our weight_dropout: they
        are no weights, and are set on the layer. ValueError for other keys or shapes.

        Example:
            >>> state = {"kernel": torch.randn(3, 20), "recurrent_kernel": torch.randn(5, 20)}
            >>> state |= {"bias": torch.zeros(20), "gamma": torch.ones(2, 20)}
            >>> state |= {"gamma_h": torch.ones(5), "beta_h": torch.zeros(5)}
            >>> layer = fastcells.LayerNormLSTM.from_haste(state)
        """
        return cls._with_weights([haste_lstm(state_dict)])

    @classmethod
    def from_custom_lstms(cls, state_dict: dict[str, Tensor]) -> LayerNormLSTM:
        """A layer with the weights of a LayerNormLSTMCell, of a layer or of a stack of torch's
        benchmarks/fastrnns/custom_lstms.py, whose c is carried on normalised. ValueError for other
        keys or shapes.

        Example:
            >>> state = {"weight_ih": torch.randn(20, 3), "weight_hh": torch.randn(20, 5)}
            >>> for which, width in (("i", 20), ("h", 20), ("c", 5)):
            ...     state[f"layernorm_{which}.weight"] = torch.ones(width)
            ...     state[f"layernorm_{which}.bias"] = torch.zeros(width)
            >>> layer = fastcells.LayerNormLSTM.from_custom_lstms(state)
        """
        found, is_bidirectional = custom_lstms_layers(state_dict)
        return cls._with_weights(found, 1 + is_bidirectional, carry_normalised_c=True)

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
        per_gate: bool = False,
        carry_normalised_c: bool = False,
        recompute: bool = False,
        zoneout: float = 0.0,
        zoneout_c: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
    ) -> None:
        check_flag("LayerNormLSTM", "carry_normalised_c", carry_normalised_c)
        self.per_gate, self.norm_of_c = per_gate, NORMS_OF_C[carry_normalised_c]
        rates = rates_of(zoneout, recurrent_dropout, weight_dropout, zoneout_c=zoneout_c)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype, recompute=recompute, rates=rates,
        )  # fmt: skip


class LayerNormGRU(_LayerNormLayer):
    r"""Gated recurrent unit with layer normalisation.

    .. math::
        x = \mathrm{LN}(W_{ih} x_t; g_{ih}) + b_{ih} \quad
        y = \mathrm{LN}(W_{hh} h_{t-1}; g_{hh}) + b_{hh} \quad r, z = \sigma(x_\cdot + y_\cdot) \\
        n = \tanh(x_n + r \odot y_n) \qquad h_t = (1 - z) \odot n + z \odot h_{t-1}

    LN as in :class:`LayerNormRNN`, over all 3H gates at once.

    The constructor is that of :class:`torch.nn.GRU`, and beyond it:

    Args:
        recompute, zoneout, recurrent_dropout, weight_dropout: as for :class:`fastcells.GRU`.

    Parameters of layer k, rows r, z, n: `weight_ih_l{k}` `[3H, I]`, `weight_hh_l{k}` `[3H, H]`,
    with bias `bias_ih_l{k}` and `bias_hh_l{k}` `[3H]`, the gains `norm_ih_l{k}` and `norm_hh_l{k}`
    `[3H]`. Initial values, a call, dtypes and errors: as for :class:`LayerNormRNN`.

    Source: Ba, Kiros, Hinton (2016), https://arxiv.org/abs/1607.06450, on the GRU of
    :class:`torch.nn.GRU`.

    Example:
        >>> output, h_n = fastcells.LayerNormGRU(10, 20, bidirectional=True)(torch.randn(5, 3, 10))
    """

    cell, gates = "gru", 3

    @classmethod
    def from_haste(cls, state_dict: dict[str, Tensor]) -> LayerNormGRU:
        """A layer with the weights of haste's LayerNormGRU (`kernel`, `recurrent_kernel`, `bias`,
        `recurrent_bias`, `gamma`); else as :meth:`LayerNormLSTM.from_haste`.

        Example:
            >>> state = {"kernel": torch.randn(3, 15), "recurrent_kernel": torch.randn(5, 15)}
            >>> state |= {"bias": torch.zeros(15), "recurrent_bias": torch.zeros(15)}
            >>> layer = fastcells.LayerNormGRU.from_haste(state | {"gamma": torch.ones(2, 15)})
        """
        return cls._with_weights([haste_gru(state_dict)])

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
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype, recompute=recompute, rates=rates_of(zoneout, recurrent_dropout, weight_dropout),
        )  # fmt: skip
