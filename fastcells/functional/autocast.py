"""The dtype of a call under autocast: torch's. First that of a recurrent layer.

On a GPU torch (cuDNN) casts everything to autocast's dtype. On a CPU what comes out depends on the
path inside torch: with `low` autocast's dtype and S that of the initial state (of the input, where
there is none) promoted with `low`,

    RNN, RNNCell                                    output, h   low
    GRU, GRUCell                                    output, h   S
    LSTM on a padded tensor                         output, h   low      c   low
    LSTM with proj_size                             output, h   low      c   S
    LSTM on a PackedSequence, LSTMCell              output, h   S        c   S
    (a PackedSequence of rows of one length is a padded tensor)

The layer is computed in the dtype of its output; so where that is float32 nothing is rounded at
all. Inside, the cell state is float32 in any case. Tensors of float64 are never cast.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "AutocastDtypes",
    "autocast_dtypes",
    "cast",
    "low_dtype",
    "wide_mask",
    "without_autocast",
]


class AutocastDtypes(NamedTuple):
    storage: torch.dtype  # of all tensors of the call, and so of output and h
    cell_state: torch.dtype  # of c_n as it is returned


def autocast_dtypes(
    cell: str, input: Tensor, state: Tensor | None, is_projected: bool, is_packed: bool
) -> AutocastDtypes | None:
    """What autocast makes of a call, or None where it is off; a cell counts as packed, and a
    PackedSequence of rows of one length does not."""
    device = input.device.type
    if input.dtype == torch.float64 or not _is_on(device):
        return None
    low = torch.get_autocast_dtype(device)
    of_state = torch.promote_types(input.dtype if state is None else state.dtype, low)
    if device != "cpu" or cell.startswith("rnn"):
        return AutocastDtypes(low, low)
    if cell != "lstm":
        return AutocastDtypes(of_state, of_state)
    if is_projected:
        return AutocastDtypes(low, of_state)
    return AutocastDtypes(of_state, of_state) if is_packed else AutocastDtypes(low, low)


def _is_on(device_type: str) -> bool:
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """For copies between tensors of one dtype: torch.cat and the like refuse, under autocast, a
    16-bit dtype that is not autocast's own."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if _is_on(device) else nullcontext()


def cast(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[Any]:
    """Every floating tensor but float64 to `dtype`; None stays None."""
    return [
        t if t is None or not t.is_floating_point() or t.dtype == torch.float64 else t.to(dtype)
        for t in tensors
    ]


def wide_mask(mask: Tensor | None, low: torch.dtype) -> Tensor | None:
    """A mask beside tensors that were cast to `low`: as it is, for the kernels add it in float32;
    float32 where it is of another 16-bit dtype. torch rounds it to `low`."""
    if mask is None or mask.dtype not in (torch.float16, torch.bfloat16) or mask.dtype == low:
        return mask
    return mask.to(torch.float32)


def low_dtype(input: Tensor) -> torch.dtype | None:
    """Autocast's dtype where it is on and casts `input`, else None: for attention."""
    device = input.device.type
    if not _is_on(device) or input.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(device)
