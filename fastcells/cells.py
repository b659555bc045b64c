"""Cells written as equations: examples to copy, and layers to use. `fastcells.cell` says how.

Each is a class of :class:`torch.nn.RNNBase`'s interface, `peephole_lstm(12, 128)`, and has `.Cell`,
one step. In the equations x_k stands for W_k x + b_k, h_k for R_k h + d_k.
"""

import torch
from torch import Tensor

from .equations import Values, cell

__all__ = [
    "article_gru",
    "coupled_lstm",
    "janet",
    "lltm",
    "minimal_gated_unit",
    "peephole_lstm",
    "slstm",
    "update_gate_rnn",
]


@cell(gates="i f g o", states="c", parameters={"p_i": 0.0, "p_f": 0.0, "p_o": 0.0})
def peephole_lstm(x: Values, h: Values, state: Values, p: Values) -> tuple[Tensor, Tensor]:
    """LSTM whose gates see the cell state: i and f the old one, o the new one.

    Gers, Schmidhuber (2000); Graves (2013), https://arxiv.org/abs/1308.0850, equations 7 to 11.
    """
    i = torch.sigmoid(x.i + h.i + p.p_i * state.c)
    f = torch.sigmoid(x.f + h.f + p.p_f * state.c)
    c = f * state.c + i * torch.tanh(x.g + h.g)
    o = torch.sigmoid(x.o + h.o + p.p_o * c)
    return o * torch.tanh(c), c


@cell(gates="f g o", states="c", biases={"f": 1.0})
def coupled_lstm(x: Values, h: Values, state: Values, p: Values) -> tuple[Tensor, Tensor]:
    """LSTM that forgets as much as it takes in: i = 1 - f.

    Greff et al. (2015), https://arxiv.org/abs/1503.04069, variant CIFG, without peepholes.
    """
    f = torch.sigmoid(x.f + h.f)
    c = f * state.c + (1 - f) * torch.tanh(x.g + h.g)
    return torch.sigmoid(x.o + h.o) * torch.tanh(c), c


@cell(gates="f n")
def minimal_gated_unit(x: Values, h: Values, state: Values, p: Values) -> Tensor:
    """GRU with one gate f in the place of its two, which stands behind the product, as torch's r.

    Zhou et al. (2016), https://arxiv.org/abs/1603.09420, have R_n (f h) where this has f (R_n h).
    """
    f = torch.sigmoid(x.f + h.f)
    n = torch.tanh(x.n + f * h.n)
    return (1 - f) * h.prev + f * n


@cell(gates="r z n")
def article_gru(x: Values, h: Values, state: Values, p: Values) -> Tensor:
    """GRU with its gates as the article prints them, r the merge gate, z the update gate; the cell
    of `fastcells.GRU(variant="article")`."""
    r = torch.sigmoid(x.r + h.r)
    z = torch.sigmoid(x.z + h.z)
    n = r * torch.tanh(x.n + (1 - z) * h.n)
    return (1 - z) * n + z * h.prev


@cell(gates="z i f o", states="c n m")
def slstm(x: Values, h: Values, state: Values, p: Values) -> tuple[Tensor, ...]:
    """LSTM with an exponential input gate: n counts what c holds, m keeps both in range.

    Beck et al. (2024), https://arxiv.org/abs/2405.04517, equations 8 to 17, of one head.
    """
    kept = torch.nn.functional.logsigmoid(x.f + h.f) + state.m
    m = torch.maximum(kept, x.i + h.i)
    i, f = torch.exp(x.i + h.i - m), torch.exp(kept - m)
    c = f * state.c + i * torch.tanh(x.z + h.z)
    n = f * state.n + i
    return torch.sigmoid(x.o + h.o) * c / n, c, n, m


@cell(gates="i o g", states="c")
def lltm(x: Values, h: Values, state: Values, p: Values) -> tuple[Tensor, Tensor]:
    """LSTM that never forgets, with elu in the place of tanh: the example of PyTorch's tutorial on
    C++ extensions, with the order of its rows."""
    c = state.c + torch.sigmoid(x.i + h.i) * torch.nn.functional.elu(x.g + h.g)
    return torch.sigmoid(x.o + h.o) * torch.tanh(c), c


@cell(gates="f g", biases={"f": 1.0})
def janet(x: Values, h: Values, state: Values, p: Values) -> Tensor:
    """LSTM with the forget gate alone.

    Van der Westhuizen, Lasenby (2018), https://arxiv.org/abs/1804.04849, equation 4, beta = 1.
    """
    s = x.f + h.f
    return torch.sigmoid(s) * h.prev + (1 - torch.sigmoid(s - 1)) * torch.tanh(x.g + h.g)


@cell(gates="g c", biases={"g": 1.0})
def update_gate_rnn(x: Values, h: Values, state: Values, p: Values) -> Tensor:
    """RNN with one gate between its old and its new state.

    Collins et al. (2016), https://arxiv.org/abs/1611.09913, section 2: UGRNN.
    """
    g = torch.sigmoid(x.g + h.g)
    return g * h.prev + (1 - g) * torch.tanh(x.c + h.c)
