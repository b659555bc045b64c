"""What is refused of a PackedSequence, part by part: see :mod:`fastcells.checks`."""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import PackedSequence

from .tensors import can_be_looked_at, check_kind

__all__ = ["check_packed"]


def check_packed(name: str, packed: PackedSequence) -> None:
    """data `[sum(batch_sizes), I]`; batch_sizes int64 `[T]` on the CPU, positive and not rising;
    sorted_indices and unsorted_indices None, or int64 `[B]` beside the data, permutations that undo
    one another. Values are compared where they can be looked at."""
    for part in ("data", "batch_sizes"):
        check_kind(name, f"{part} of a PackedSequence", getattr(packed, part))
    data, sizes = packed.data, packed.batch_sizes
    if data.dim() != 2:
        raise RuntimeError(f"input must have 2 dimensions, got {data.dim()}")
    if sizes.dim() != 1 or sizes.shape[0] == 0:
        raise RuntimeError(
            f"{name}: batch_sizes of a PackedSequence must have shape (T,) with T > 0, got "
            f"{tuple(sizes.shape)}"
        )
    if sizes.dtype != torch.int64 or not sizes.is_cpu:
        raise RuntimeError(
            f"{name}: batch_sizes of a PackedSequence must be int64 on the CPU, got {sizes.dtype} "
            f"on {sizes.device}"
        )
    if not can_be_looked_at(sizes):
        return
    _check_sizes(name, data.shape[0], sizes.tolist())
    _check_indices(name, packed, int(sizes[0]))


def _check_sizes(name: str, rows: int, sizes: list[int]) -> None:
    before = sizes[0]
    for step, size in enumerate(sizes):
        if size <= 0 or size > before:
            raise RuntimeError(
                f"{name}: batch_sizes of a PackedSequence must be positive and never rise, got "
                f"{size} after {before} at step {step}"
            )
        before = size
    if sum(sizes) != rows:
        raise RuntimeError(
            f"{name}: data of a PackedSequence must have as many rows as batch_sizes add up to = "
            f"{sum(sizes)}, got {rows}"
        )


def _check_indices(name: str, packed: PackedSequence, batch: int) -> None:
    given = {}
    for part in ("sorted_indices", "unsorted_indices"):
        indices = getattr(packed, part)
        if indices is None:
            continue
        what = f"{part} of a PackedSequence"
        check_kind(name, what, indices)
        if indices.dtype != torch.int64 or indices.device != packed.data.device:
            raise RuntimeError(
                f"{name}: {what} must be int64 on {packed.data.device}, where the data are, got "
                f"{indices.dtype} on {indices.device}"
            )
        if tuple(indices.shape) != (batch,):
            raise RuntimeError(
                f"{name}: {what} must have shape (B,) = ({batch},), B being batch_sizes[0], got "
                f"{tuple(indices.shape)}"
            )
        if can_be_looked_at(indices):
            given[part] = indices.tolist()
            if sorted(given[part]) != list(range(batch)):
                raise RuntimeError(
                    f"{name}: {what} must hold each of 0 .. B - 1 = {batch - 1} once, got "
                    f"{given[part]}"
                )
    if len(given) == 2:
        order, back = given["sorted_indices"], given["unsorted_indices"]
        if any(back[row] != place for place, row in enumerate(order)):
            raise RuntimeError(
                f"{name}: unsorted_indices of a PackedSequence must undo sorted_indices = {order}, "
                f"got {back}"
            )
