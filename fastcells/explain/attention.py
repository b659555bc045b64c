"""What :func:`fastcells.explain` says of attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import CausalBias

from ..functional import additive_attention, scaled_dot_product_attention
from ..functional.autocast import low_dtype
from ..functional.routing import TORCH_IS_FASTER_ON, choose_attention_route
from ..layers import AdditiveAttention, MultiheadAttention, SelfAttention

__all__ = ["describe_attention", "is_attention"]

FUNCTIONS = {scaled_dot_product_attention: "dot", additive_attention: "additive"}


def is_attention(target: Any) -> bool:
    """Whether this is a function or a layer of attention."""
    layers = (MultiheadAttention, AdditiveAttention, SelfAttention)
    return isinstance(target, layers) or (callable(target) and target in FUNCTIONS)


def _tensors(arguments: tuple[Any, ...], options: dict[str, Any]) -> Iterator[Tensor]:
    for value in (*arguments, *options.values()):
        if isinstance(value, Tensor) and not isinstance(value, CausalBias):
            yield value


def describe_attention(
    target: nn.Module | Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[str, str, torch.dtype, str, tuple[str, ...]]:
    """Kernel, kind of score, dtype, reason and notes of `target(*arguments, **options)`."""
    tensors = list(_tensors(arguments, options))
    if not tensors:
        raise TypeError("explain: a call of attention needs its tensors")
    if isinstance(target, nn.Module):
        is_additive = getattr(target, "score", "") == "additive"
        is_additive = is_additive or isinstance(target, AdditiveAttention)
        score = "additive" if is_additive else "dot"
        tensors += list(target.parameters())
    else:
        score = FUNCTIONS[target]
    query = tensors[0]
    dtype = low_dtype(query) or query.dtype
    meant = query if query.dtype == dtype else torch.empty(0, dtype=dtype, device=query.device)
    route = choose_attention_route((meant, *tensors), _head_width(target, score, tensors))
    name = f"{score} attention"
    if not route.is_kernel:
        return "reference", name, dtype, route.reason, ("the matrix of scores is held as a whole",)
    notes = ["scores in tiles; their matrix is never held"]
    if score == "additive":
        notes = ["scores in tiles; no tensor of [B, Tq, Tk, D] is held"]
    if score == "dot" and query.device.type in TORCH_IS_FASTER_ON and dtype.itemsize == 2:
        notes.append("without a gradient to come, a mask or dropout: torch's own kernel")
    if dtype.itemsize == 2:
        notes.append("arithmetic in float32")
    notes += _notes_of_masks(target, options)
    if isinstance(target, MultiheadAttention) and options.get("need_weights", True):
        notes.append("need_weights: the same kernel writes the weights [B, N, Tq, Tk]")
    return f"{query.device.type} {name}", name, dtype, route.reason, tuple(notes)


def _head_width(target: Any, score: str, tensors: list[Tensor]) -> int:
    """The widest of a dot product's heads."""
    if score != "dot":
        return 0
    if isinstance(target, MultiheadAttention):
        return target.head_dim
    if isinstance(target, nn.Module):
        sizes: Any = target
        return max(sizes.attention_units, sizes.output_size)
    return max(tensor.shape[-1] for tensor in tensors[:3])


def _notes_of_masks(target: object, options: dict[str, Any]) -> list[str]:
    """What is skipped, and what is read."""
    notes = []
    mask = options.get("attn_mask")
    is_causal = options.get("is_causal") or isinstance(mask, CausalBias)
    if getattr(target, "causal", False):
        is_causal = getattr(target, "score", "") != "additive"
    if is_causal or options.get("window") is not None:
        notes.append("tiles outside the causal mask or the window are skipped")
    if options.get("key_lengths") is not None or options.get("lengths") is not None:
        notes.append("keys past a length are neither read nor computed")
    is_read = isinstance(mask, Tensor) and not isinstance(mask, CausalBias)
    if is_read or options.get("key_padding_mask") is not None:
        notes.append("the mask is read tile by tile, not expanded")
    return notes
