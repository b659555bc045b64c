"""What linear_scan refuses, before any kernel runs: see :mod:`fastcells.checks`."""

from __future__ import annotations

import torch
from torch import Tensor

from .recurrent import check_range_of_lengths
from .tensors import FLOATING, check_flag, check_kind, check_mask

__all__ = ["DTYPES", "check_scan"]

DTYPES = (*FLOATING, torch.complex64, torch.complex128)

_NAME = "linear_scan"


def _check_dtypes(a: Tensor, b: Tensor, h_0: Tensor | None) -> None:
    for what, tensor in (("a", a), ("b", b), ("h_0", h_0)):
        if tensor is not None and tensor.dtype not in DTYPES:
            raise TypeError(
                f"{_NAME}: {what} must be float32, float64, float16, bfloat16, complex64 or "
                f"complex128, got {tensor.dtype}. Convert it with .to(...)"
            )
    for what, tensor in (("b", b), ("h_0", h_0)):
        if tensor is not None and tensor.dtype != a.dtype:
            raise TypeError(
                f"{_NAME}: {what} must have the dtype of a, {a.dtype}, got {tensor.dtype}. Convert "
                f"one of them with .to(...)"
            )


def _broadcast(a: Tensor, b: Tensor, letters: str) -> tuple[int, ...]:
    """`[T, B, H]`, or `[B, T, H]`, of both together."""
    came = f"got a {tuple(a.shape)} and b {tuple(b.shape)}"
    try:
        shape = torch.broadcast_shapes(a.shape, b.shape)
    except RuntimeError:
        raise ValueError(f"{_NAME}: a and b must broadcast to {letters}, {came}") from None
    if len(shape) != 3:
        raise ValueError(
            f"{_NAME}: a and b must broadcast to the three dimensions {letters}, {came}. A single "
            "sequence has a batch of one: unsqueeze it"
        )
    return tuple(shape)


def check_scan(
    a: Tensor,
    b: Tensor,
    h_0: Tensor | None,
    batch_first: bool,
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    casts: bool,
) -> tuple[int, ...]:
    """All arguments; the shape of the result. `casts`: dtypes may differ, and will be brought to
    one."""
    check_flag(_NAME, "batch_first", batch_first)
    check_flag(_NAME, "reverse", reverse)
    check_kind(_NAME, "a", a)
    check_kind(_NAME, "b", b)
    if h_0 is not None:
        check_kind(_NAME, "h_0", h_0)
    if not casts:
        _check_dtypes(a, b, h_0)
    for what, tensor in (("b", b), ("h_0", h_0)):
        if tensor is not None and tensor.device != a.device:
            raise RuntimeError(
                f"{_NAME}: {what} must be on {a.device}, where a is, got {tensor.device}"
            )
    shape = _broadcast(a, b, "(B, T, H)" if batch_first else "(T, B, H)")
    steps, rows = (shape[1], shape[0]) if batch_first else shape[:2]
    if h_0 is not None and tuple(h_0.shape) != (rows, shape[2]):
        raise ValueError(
            f"{_NAME}: h_0 must have shape (B, H) = {(rows, shape[2])}, got {tuple(h_0.shape)}"
        )
    if lengths is not None:
        check_mask(_NAME, "lengths", lengths, torch.int64, "(B,)", (rows,), a.device)
        check_range_of_lengths(lengths, steps)
    if resets is not None:
        names = "(B, T)" if batch_first else "(T, B)"
        check_mask(_NAME, "resets", resets, torch.bool, names, shape[:2], a.device)
    return shape
