"""Attention as products and a softmax; fastcells.reference where keys may be hidden.

Letters: fastcells.reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..reference import attention as reference
from .scan import arithmetic

__all__ = ["additive_attention_forward", "attention_forward"]


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    key_lengths: Tensor | None,
    seed: Tensor | None,
    scale: float,
    softcap: float,
    left: int,
    right: int,
    offset: int,
    dropout_p: float,
    return_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As the op of this name; no logsumexp, which the way back alone reads."""
    _refuse_dropout(dropout_p)
    options = (scale, softcap, left, right, offset)
    if mask is None and key_lengths is None and max(left, right) < 0:
        if query.shape[1] != key.shape[1]:
            group = query.shape[1] // key.shape[1]
            key, value = (t.repeat_interleave(group, dim=1) for t in (key, value))
        q, k = (t.to(arithmetic(t.dtype)) for t in (query, key))
        output, weights = _attend(reference.scores(q, k, None, None, *options), value)
    else:
        output, weights = reference.attention(query, key, value, mask, key_lengths, None, *options)
    absent = query.new_empty(0)
    return output, absent, weights if return_weights else absent


def additive_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: Tensor,
    mask: Tensor | None,
    key_lengths: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    return_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Likewise."""
    _refuse_dropout(dropout_p)
    if mask is None and key_lengths is None:
        q, k, v = (t.to(arithmetic(t.dtype)) for t in (query, key, scale))
        output, weights = _attend(reference.additive_scores(q, k, v, None, None), value)
    else:
        output, weights = reference.additive_attention(query, key, value, scale, mask, key_lengths)
    absent = query.new_empty(0)
    return output, absent, weights if return_weights else absent


def _attend(scores: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Output and weights where no key is hidden, in the value's dtype."""
    weights = torch.softmax(scores, dim=-1)
    output = weights @ value.to(weights.dtype)
    return output.to(value.dtype), weights.to(value.dtype)


def _refuse_dropout(dropout_p: float) -> None:
    if dropout_p > 0:
        raise NotImplementedError(
            f"fastcells.onnx: attention with dropout_p={dropout_p} has no translation. Call "
            "model.eval() before the export"
        )
