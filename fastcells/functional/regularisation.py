"""What regularises a recurrent layer: masks drawn from torch's generator at each call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Regularisation"]

#: Seeds are integers that float64 holds.
_SEEDS = 2**53


class Regularisation(NamedTuple):
    """Rates of a layer; what they do: :class:`fastcells.RNN`."""

    zoneout: float = 0.0
    zoneout_c: float = 0.0
    recurrent_dropout: float = 0.0
    weight_dropout: float = 0.0

    def is_at_work(self, is_training: bool) -> bool:
        """Zoneout counts in evaluation, too."""
        if self.zoneout or self.zoneout_c:
            return True
        return is_training and bool(self.recurrent_dropout or self.weight_dropout)

    def applied(
        self, weights: Sequence[Tensor], names: str, directions: int, is_training: bool
    ) -> tuple[list[Tensor], str]:
        """The weights of one layer with what is drawn for a call, and their names: W_hh dropped
        out, and a tensor `noise` for the masks that the kernels draw."""
        named = names.split()
        has_noise = self._replace(weight_dropout=0.0).is_at_work(is_training)
        drawn: list[Tensor] = []
        for start in range(0, len(weights), len(weights) // directions):
            for name, weight in zip(named, weights[start : start + len(named)], strict=True):
                if name == "weight_hh" and is_training and self.weight_dropout:
                    weight = torch.nn.functional.dropout(weight, self.weight_dropout)
                drawn.append(weight)
            if has_noise:
                drawn.append(self._noise(is_training))
        return drawn, f"{names} noise" if has_noise else names

    def _noise(self, is_training: bool) -> Tensor:
        """float64 `[5]`, on the CPU: csrc/recurrent/rowwise/noise.h. In evaluation nothing is
        drawn, and no seed either: torch's generator stays where it is."""
        rates = (self.recurrent_dropout, self.zoneout, self.zoneout_c, float(is_training))
        seed = torch.zeros(1, dtype=torch.float64)
        if is_training:
            seed = torch.randint(_SEEDS, (1,), dtype=torch.float64)
        return torch.cat((seed, torch.tensor(rates, dtype=torch.float64)))
