"""The steps of cells whose units see themselves alone, in plain torch: see `recurrent`.

    step(x [B, I], h [B, H], c [B, H] or None, weights, s [B, H] or None) -> (h', c' or None)

`weight_hh` holds V vectors of one value a unit, one after the other, `[V*H]`; s is the input as it
is (of a cell that reads it), before `skip_scale`. Written from the papers, not from the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import linear

if TYPE_CHECKING:
    from .recurrent import Weights

__all__ = [
    "diagonal_gru_step",
    "diagonal_lstm_step",
    "indrnn_step",
    "min_gru_step",
    "min_lstm_step",
    "qrnn_step",
    "rg_lru_step",
    "sru_skip_step",
    "sru_step",
]

Step = Callable[..., tuple[Tensor, Tensor | None]]


def indrnn_step(activation: Callable[[Tensor], Tensor]) -> Step:
    """h' = f(W x + b + u h), Li et al. 2018, https://arxiv.org/abs/1803.04831."""

    def step(x: Tensor, h: Tensor, c: None, w: Weights) -> tuple[Tensor, None]:
        return activation(linear(x, w.weight_ih, w.bias_ih) + w.weight_hh * h), None

    return step


def _sru(
    candidate: Tensor, x_f: Tensor, x_r: Tensor, skip: Tensor, c: Tensor, w: Weights
) -> tuple[Tensor, Tensor]:
    v_f, v_r = w.weight_hh.chunk(2)
    f = torch.sigmoid(x_f + v_f * c)
    r = torch.sigmoid(x_r + v_r * c)
    c = f * c + (1 - f) * candidate
    return r * c + (1 - r) * skip, c


def sru_step(x: Tensor, h: Tensor, c: Tensor, w: Weights, s: Tensor) -> tuple[Tensor, Tensor]:
    """c' = f c + (1 - f) x~;  h' = r c' + (1 - r) alpha s; f and r see the c that came in; alpha
    is `skip_scale`. Lei et al. 2018, https://arxiv.org/abs/1709.02755, equations 1 to 4."""
    skip = s if w.skip_scale is None else s * w.skip_scale
    candidate, x_f, x_r = linear(x, w.weight_ih, w.bias_ih).chunk(3, dim=-1)
    return _sru(candidate, x_f, x_r, skip, c, w)


def sru_skip_step(x: Tensor, h: Tensor, c: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
    """The same, the skip term a fourth block of rows, where widths differ."""
    candidate, x_f, x_r, skip = linear(x, w.weight_ih, w.bias_ih).chunk(4, dim=-1)
    return _sru(candidate, x_f, x_r, skip, c, w)


def qrnn_step(x: Tensor, h: Tensor, c: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
    """c' = f c + (1 - f) tanh(z);  h' = o c', Bradbury et al. 2016, equation 4 (fo-pooling),
    https://arxiv.org/abs/1611.01576."""
    z, f, o = linear(x, w.weight_ih, w.bias_ih).chunk(3, dim=-1)
    f = torch.sigmoid(f)
    c = f * c + (1 - f) * torch.tanh(z)
    return torch.sigmoid(o) * c, c


def _positive(x: Tensor) -> Tensor:
    """g(x) = x + 0.5 for x >= 0, else sigmoid(x)."""
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


def _identity(x: Tensor) -> Tensor:
    return x


def _softplus(x: Tensor) -> Tensor:
    """log(1 + e^x): torch.nn.functional.softplus is the identity from 20 on, off by 2e-9."""
    return torch.logaddexp(x, torch.zeros_like(x))


def min_gru_step(is_positive: bool) -> Step:
    """h' = (1 - z) h + z a(h~), Feng et al. 2024, https://arxiv.org/abs/2410.01201, sec. 3.1;
    a is g of its appendix B, or the identity."""
    activation = _positive if is_positive else _identity

    def step(x: Tensor, h: Tensor, c: None, w: Weights) -> tuple[Tensor, None]:
        z, candidate = linear(x, w.weight_ih, w.bias_ih).chunk(2, dim=-1)
        z = torch.sigmoid(z)
        return (1 - z) * h + z * activation(candidate), None

    return step


def min_lstm_step(is_positive: bool) -> Step:
    """c' = f/(f + i) c + i/(f + i) a(h~);  h' = c', the same, sec. 3.2. f/(f + i) is
    sigmoid(softplus(-x_i) - softplus(-x_f)), which is never 0/0."""
    activation = _positive if is_positive else _identity

    def step(x: Tensor, h: Tensor, c: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
        x_f, x_i, candidate = linear(x, w.weight_ih, w.bias_ih).chunk(3, dim=-1)
        log_ratio = _softplus(-x_i) - _softplus(-x_f)  # of f to i
        c = torch.sigmoid(log_ratio) * c + torch.sigmoid(-log_ratio) * activation(candidate)
        return c, c

    return step


def rg_lru_step(x: Tensor, h: Tensor, c: None, w: Weights, s: Tensor) -> tuple[Tensor, None]:
    """a = exp(-8 softplus(L) r);  h' = a h + sqrt(1 - a^2) (i s), Griffin, De et al. 2024,
    https://arxiv.org/abs/2402.19427, sec. 2.4; L is weight_hh. 1 - a^2 by expm1."""
    r, i = linear(x, w.weight_ih, w.bias_ih).chunk(2, dim=-1)
    log_a = -8 * _softplus(w.weight_hh) * torch.sigmoid(r)
    s = s if w.skip_scale is None else s * w.skip_scale
    b = torch.sqrt(-torch.expm1(2 * log_a))
    return torch.exp(log_a) * h + b * (torch.sigmoid(i) * s), None


def diagonal_gru_step(x: Tensor, h: Tensor, c: None, w: Weights) -> tuple[Tensor, None]:
    """n = tanh(x_n + u_n (r h));  h' = (1 - z) n + z h; r and z see u h. ParaRNN's with z for its
    1 - z, https://arxiv.org/abs/2510.21450."""
    x_r, x_z, x_n = linear(x, w.weight_ih, w.bias_ih).chunk(3, dim=-1)
    u_r, u_z, u_n = w.weight_hh.chunk(3)
    r, z = torch.sigmoid(x_r + u_r * h), torch.sigmoid(x_z + u_z * h)
    n = torch.tanh(x_n + u_n * (r * h))
    return (1 - z) * n + z * h, None


def diagonal_lstm_step(x: Tensor, h: Tensor, c: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
    """c' = f c + (1 - f) g;  h' = o tanh(c'); f, g and o see u h. ParaRNN's without peepholes."""
    x_f, x_g, x_o = linear(x, w.weight_ih, w.bias_ih).chunk(3, dim=-1)
    u_f, u_g, u_o = w.weight_hh.chunk(3)
    f = torch.sigmoid(x_f + u_f * h)
    c = f * c + (1 - f) * torch.tanh(x_g + u_g * h)
    return torch.sigmoid(x_o + u_o * h) * torch.tanh(c), c
