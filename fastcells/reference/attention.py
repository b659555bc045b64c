"""Attention again in plain torch, written for reading.

Three uses: the oracle of the tests, the path of every transform that the kernels cannot take
(forward mode, second derivatives), and the documentation of what the kernels compute. It shares
no code with them. Letters: B batch, N heads of the query, Nk heads of key and value, Tq queries,
Tk keys, E width of query and key, Ev width of value; D units of an additive score.

Everything is differentiable to any order and can be vmapped: no value steers the control flow.
Whole matrices of scores are held here, which the kernels never do.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .philox import philox

__all__ = ["additive_attention", "additive_scores", "attention", "keep_mask", "scores", "softmax"]


def seen_keys(
    rows: int, columns: int, left: int, right: int, offset: int, device: torch.device
) -> Tensor | None:
    """[Tq, Tk]: whether -left <= j - (i + offset) <= right; negative means no limit there."""
    if left < 0 and right < 0:
        return None
    i = torch.arange(rows, device=device)[:, None] + offset
    j = torch.arange(columns, device=device)[None, :]
    seen = torch.ones(rows, columns, dtype=torch.bool, device=device)
    if left >= 0:
        seen = seen & (j - i >= -left)
    if right >= 0:
        seen = seen & (j - i <= right)
    return seen


def _exists(lengths: Tensor, keys: int) -> Tensor:
    """[B, Tk]: whether key j of a row is within its length."""
    return torch.arange(keys, device=lengths.device) < lengths[:, None]


def _shown(mask: Tensor) -> Tensor:
    """Where a mask lets a key be seen: only False and -inf hide it."""
    return mask if mask.dtype == torch.bool else mask != -math.inf


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """A bool mask leaves the scores where it is True; any other is added. What it hides is -inf,
    whatever the score."""
    if mask is None:
        return scores
    added = scores if mask.dtype == torch.bool else scores + mask.to(scores.dtype)
    return torch.where(_shown(mask), added, -math.inf)


def _seen_by_some(
    mask: Tensor | None,  # [1|B, 1|N, 1|Tq, 1|Tk], or without the heads
    window: Tensor | None,  # [Tq, Tk]
    exists: Tensor | None,  # [B, 1, Tk], or [B, 1, 1, Tk]
) -> Tensor | None:
    """[..., 1|Tk]: the keys that some query sees; the others may hold NaN, and are to reach no
    product, forward or backward."""
    seen = None
    for part in (None if mask is None else _shown(mask), window, exists):
        if part is not None:
            seen = part if seen is None else seen & part
    return None if seen is None else seen.any(dim=-2)


def scores(
    query: Tensor,  # [B, N, Tq, E]
    key: Tensor,  # [B, N, Tk, E]
    mask: Tensor | None,  # [1|B, 1|N, 1|Tq, 1|Tk]
    key_lengths: Tensor | None,  # [B]
    scale: float,
    softcap: float,
    left: int,
    right: int,
    offset: int,
) -> Tensor:
    """s = scale * q.k, capped to softcap * tanh(s / softcap), plus the mask; [B, N, Tq, Tk], -inf
    where query i does not see key j."""
    s = (scale * query) @ key.transpose(-1, -2)
    if softcap > 0:
        s = softcap * torch.tanh(s / softcap)
    s = _masked(s, mask)
    window = seen_keys(s.shape[-2], s.shape[-1], left, right, offset, s.device)
    s = _masked(s, window)
    return (
        s if key_lengths is None else _masked(s, _exists(key_lengths, s.shape[-1])[:, None, None])
    )


def softmax(s: Tensor) -> Tensor:
    """softmax over the last dimension; a row that is -inf throughout gives 0, and gradients 0."""
    sees = (s != -math.inf).any(dim=-1, keepdim=True)
    return torch.where(sees, torch.softmax(torch.where(sees, s, 0.0), dim=-1), 0.0)


def keep_mask(seed: Tensor, slices: int, rows: int, columns: int, dropout_p: float) -> Tensor:
    """[slices, Tq, Tk]: which weights dropout keeps; slices are B * N, b * N + n.

    A pure function of the seed (int64 `[1]`) and of the position: Philox4x32-10 with the seed as
    its 64-bit key and the counter (j // 4, i, b * N + n, 0) gives four words, of which word j % 4
    decides: kept iff it is at least dropout_p * 2^32.
    """
    device = seed.device
    blocks = (columns + 3) // 4
    block = torch.arange(blocks, device=device).expand(slices, rows, blocks)
    row = torch.arange(rows, device=device)[:, None].expand(slices, rows, blocks)
    part = torch.arange(slices, device=device)[:, None, None].expand(slices, rows, blocks)
    key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
    words = torch.stack(philox((block, row, part, torch.zeros_like(block)), key), dim=-1)
    return words.flatten(-2)[..., :columns] >= math.ceil(dropout_p * 2**32)


def _dropped_out(weights: Tensor, seed: Any, dropout_p: float) -> Tensor:
    """Weights [..., Tq, Tk] after dropout; seed may be None where there is none."""
    if dropout_p == 0:
        return weights
    *slices, rows, columns = weights.shape
    keep = keep_mask(seed, math.prod(slices), rows, columns, dropout_p).reshape(weights.shape)
    factor = 1 / (1 - dropout_p) if dropout_p < 1 else 0.0
    return torch.where(keep, weights * factor, 0.0)


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic of 16-bit storage is float32, as in the kernels."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    key_lengths: Tensor | None = None,
    seed: Tensor | None = None,
    scale: float = 1.0,
    softcap: float = 0.0,
    left: int = -1,
    right: int = -1,
    offset: int = 0,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """output = dropout(softmax(scores)) value, and the weights before the product.

    Args:
        query: `[B, N, Tq, E]`; head n reads head n // (N // Nk) of key and value.
        key, value: `[B, Nk, Tk, E]`, `[B, Nk, Tk, Ev]`.
        mask: `[1|B, 1|N, 1|Tq, 1|Tk]`; bool (True: attend) or added to the score, in float32 at
            least. Only False and -inf hide a key.
        key_lengths: `[B]` int64; keys from there on do not exist, whatever they hold.
        seed: `[1]` int64, needed iff dropout_p > 0; see :func:`keep_mask`.
        scale, softcap, left, right, offset: see :func:`scores` and :func:`seen_keys`.

    Returns:
        output `[B, N, Tq, Ev]` and weights `[B, N, Tq, Tk]`, in the query's dtype. A row that sees
        no key gives 0 in both.
    """
    storage, compute = query.dtype, _compute_dtype(query.dtype)
    query, key, value = query.to(compute), key.to(compute), value.to(compute)
    group = query.shape[1] // key.shape[1] if key.shape[1] else 1
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    window = seen_keys(query.shape[-2], key.shape[-2], left, right, offset, key.device)
    exists = None if key_lengths is None else _exists(key_lengths, key.shape[-2])[:, None, None]
    seen = _seen_by_some(mask, window, exists)
    if seen is not None:
        key = torch.where(seen[..., None], key, 0.0)
        value = torch.where(seen[..., None], value, 0.0)
    s = scores(query, key, mask, key_lengths, scale, softcap, left, right, offset)
    weights = _dropped_out(softmax(s), seed, dropout_p)
    return (weights @ value).to(storage), weights.to(storage)


def additive_scores(
    query: Tensor,  # [B, Tq, D]
    key: Tensor,  # [B, Tk, D]
    scale: Tensor,  # [D]
    mask: Tensor | None,  # [1|B, 1|Tq, 1|Tk]
    key_lengths: Tensor | None,  # [B]
) -> Tensor:
    """s_ij = sum_d scale_d tanh(q_id + k_jd), plus the mask; [B, Tq, Tk]."""
    s = torch.tanh(query[:, :, None] + key[:, None]) @ scale
    s = _masked(s, mask)
    return s if key_lengths is None else _masked(s, _exists(key_lengths, s.shape[-1])[:, None])


def additive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: Tensor,
    mask: Tensor | None = None,
    key_lengths: Tensor | None = None,
    seed: Tensor | None = None,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Bahdanau et al. (2014): as :func:`attention`, with the scores of :func:`additive_scores`.

    Args:
        query, key, value: `[B, Tq, D]`, `[B, Tk, D]`, `[B, Tk, E]`.
        scale: `[D]`.
        mask: `[1|B, 1|Tq, 1|Tk]`; bool (True: attend) or added to the score.
        key_lengths, seed: as for :func:`attention`; slice b takes the place of b * N + n.

    Returns:
        output `[B, Tq, E]` and weights `[B, Tq, Tk]`, in the query's dtype.
    """
    storage, compute = query.dtype, _compute_dtype(query.dtype)
    query, key, value, scale = (t.to(compute) for t in (query, key, value, scale))
    exists = None if key_lengths is None else _exists(key_lengths, key.shape[-2])[:, None]
    seen = _seen_by_some(mask, None, exists)
    if seen is not None:
        key = torch.where(seen[..., None], key, 0.0)
        value = torch.where(seen[..., None], value, 0.0)
    s = additive_scores(query, key, scale, mask, key_lengths)
    weights = _dropped_out(softmax(s), seed, dropout_p)
    return (weights @ value).to(storage), weights.to(storage)
