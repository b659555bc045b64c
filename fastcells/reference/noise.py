"""What a recurrent layer draws while it runs: zoneout, and dropout of the h that enters W_hh h.

`noise` of a direction is float64 `[5]`: a seed, the rates of dropout, zoneout of h and zoneout of
c, and 1 in training. Masks are a matter of position alone, so that every pass over a layer draws
the same: csrc/recurrent/rowwise/noise.h.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .philox import words_of_units

__all__ = ["Noise"]

_DROPOUT, _ZONEOUT_H, _ZONEOUT_C = 0, 1, 2


class Noise:
    """The masks of one direction. No value steers the control flow."""

    def __init__(self, noise: Tensor, like: Tensor) -> None:
        noise = noise.to(like.device)
        self._seed = noise[0].to(torch.int64)
        self._rates = noise[1:4]
        self._is_training = noise[4] != 0

    def _drawn(self, kind: int, step: int, like: Tensor) -> Tensor:
        """`[B, H]`, as of a state: true with the probability of this kind."""
        words = words_of_units(self._seed, step, kind, *like.shape)
        return words < torch.ceil(self._rates[kind] * 2.0**32)

    def dropped(self, h: Tensor) -> Tensor:
        """The factors of h in front of W_hh, 0 or 1 / (1 - rate), at every step."""
        rate = self._rates[_DROPOUT]
        kept = torch.where(rate < 1, 1 / (1 - torch.where(rate < 1, rate, 0.0)), 0.0)
        factors = torch.where(self._drawn(_DROPOUT, 0, h), 0.0, kept)
        return torch.where(self._is_training, factors, 1.0).to(h.dtype)

    def zoned_out(self, step: int, old: Tensor, new: Tensor) -> Tensor:
        """h after a step: old where it is drawn, in evaluation what is expected of that.
        Krueger et al. 2016, https://arxiv.org/abs/1606.01305, section 3."""
        part = self._part(_ZONEOUT_H, step, old)
        return part * old + (1 - part) * new

    def zoned_out_c(self, step: int, old: Tensor, new: Tensor, states: int) -> Tensor:
        """The same of c, of `states` side by side: a unit keeps all of its own, or none."""
        part = self._part(_ZONEOUT_C, step, old[:, : old.shape[1] // states]).repeat(1, states)
        return part * old + (1 - part) * new

    def _part(self, kind: int, step: int, like: Tensor) -> Tensor:
        """How much a unit keeps of its old state, `[B, H]`."""
        drawn = self._drawn(kind, step, like).to(torch.float64)
        return torch.where(self._is_training, drawn, self._rates[kind]).to(like.dtype)
