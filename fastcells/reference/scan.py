"""The linear scan again in plain torch, a step at a time: see :mod:`fastcells.reference`.

Letters: T steps, B batch rows, H units. Everything is differentiable to any order and can be
vmapped: no value steers the control flow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["adjoint_scan", "linear_scan"]


def _exists(steps: int, lengths: Tensor | None, like: Tensor) -> Tensor | None:
    """`[T, B, 1]`: whether a row has the step; None where every row has all."""
    if lengths is None:
        return None
    return (torch.arange(steps, device=like.device)[:, None] < lengths)[:, :, None]


def _time_major(x: Any, batch_first: bool) -> Any:  # a tensor or None
    return x if x is None or not batch_first else x.transpose(0, 1)


def linear_scan(
    a: Tensor,
    b: Tensor,
    h_0: Tensor | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    batch_first: bool = False,
    reverse: bool = False,
) -> Tensor:
    """h_t = a_t h_p(t) + b_t for all t, with p(t) = t - 1, or t + 1 in reverse.

    Args:
        a, b: whatever broadcasts to `[T, B, H]` (batch_first: `[B, T, H]`).
        h_0: `[B, H]`, h in front of a row's first step: its last one in reverse. None: zeros.
        lengths: `[B]` int64, steps of each row; h is 0 past them. None: T.
        resets: `[T, B]` (`[B, T]`) bool; no state passes from step t - 1 to t, or back, where it
            is set.

    16-bit numbers are added up in float32.
    """
    storage = b.dtype
    compute = torch.float32 if storage in (torch.float16, torch.bfloat16) else storage
    shape = torch.broadcast_shapes(a.shape, b.shape)
    a, b = (_time_major(x.expand(shape), batch_first).to(compute) for x in (a, b))
    resets = _time_major(resets, batch_first)
    steps = b.shape[0]
    h = torch.zeros_like(b.sum(0)) if h_0 is None else h_0.to(compute)
    exists = _exists(steps, lengths, b)
    if exists is not None:  # NaN past a row's end must reach no product
        a, b = (torch.where(exists, x, torch.zeros_like(x)) for x in (a, b))
    states: list[Tensor] = [h] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        boundary = t + 1 if reverse else t  # a reset at `boundary` parts it from `boundary - 1`
        before = h
        if resets is not None and boundary < steps:
            cut = resets[boundary]
            if lengths is not None:
                cut = cut & (boundary < lengths)
            before = torch.where(cut[:, None], torch.zeros_like(h), h)
        after = a[t] * before + b[t]
        if exists is None:
            states[t] = h = after
        else:
            states[t] = torch.where(exists[t], after, torch.zeros_like(after))
            h = torch.where(exists[t], after, h)
    out = torch.stack(states) if steps else a * h + b
    return _time_major(out.to(storage), batch_first)


def adjoint_scan(
    a: Tensor,
    grad_h: Tensor,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    batch_first: bool = False,
    reverse: bool = False,
) -> Tensor:
    """The gradient of b, given that of h: g_t = grad_t + conj(a_n) g_n, with n the step that the
    scan of the same arguments takes after t."""
    a = _time_major(a.expand(torch.broadcast_shapes(a.shape, grad_h.shape)), batch_first)
    exists = _exists(a.shape[0], lengths, a)
    if exists is not None:
        a = torch.where(exists, a, torch.zeros_like(a))
    edge = torch.zeros_like(a[:1])
    following = torch.cat([edge, a[:-1]] if reverse else [a[1:], edge])
    factor = _time_major(following.conj(), batch_first)
    return linear_scan(factor, grad_h, None, lengths, resets, batch_first, not reverse)
