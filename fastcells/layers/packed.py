"""PackedSequence to padded tensor and back.

The rows of a PackedSequence are sorted by falling length and stored step by step. The kernels take
padded rows with lengths, so the data are laid into `[T, B, I]` and gathered again: two copies, and
no host synchronisation, since batch_sizes is on the CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..functional.autocast import without_autocast

__all__ = ["Padded", "pack", "pad"]


class Padded(NamedTuple):
    """A PackedSequence with its rows padded, in the packed (sorted) order."""

    data: Tensor  # [T, B, I]
    lengths: Tensor | None  # [B] int64, or None: all rows are full
    rows: Tensor | None  # places of the packed rows in [T*B]; None: all of them


def pad(packed: PackedSequence) -> Padded:
    """Lays the packed steps into `[T, B, I]`, 0 past a row's end."""
    data, batch_sizes = packed.data, packed.batch_sizes
    steps, batch = batch_sizes.shape[0], int(batch_sizes[0])
    if data.shape[0] == steps * batch:
        return Padded(data.unflatten(0, (steps, batch)), None, None)
    exists = torch.arange(batch) < batch_sizes[:, None]
    rows = exists.flatten().nonzero().squeeze(1).to(data.device, non_blocking=True)
    lengths = exists.sum(0).to(data.device, non_blocking=True)
    with without_autocast(data):
        padded = data.new_zeros(steps * batch, data.shape[1]).index_copy(0, rows, data)
    return Padded(padded.unflatten(0, (steps, batch)), lengths, rows)


def pack(output: Tensor, padded: Padded, like: PackedSequence) -> PackedSequence:
    """Gathers `[T, B, X]` into a PackedSequence with the steps and the order of `like`."""
    data = output.flatten(0, 1)
    if padded.rows is not None:
        data = data.index_select(0, padded.rows)
    return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)
