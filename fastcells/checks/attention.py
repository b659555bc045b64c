"""What attention refuses, before any kernel runs: see :mod:`fastcells.checks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias

from .tensors import FLOATING, can_be_looked_at, check_flag, check_kind, check_mask

__all__ = [
    "broadcast",
    "check_additive",
    "check_attention",
    "check_attention_kinds",
    "check_broadcastable",
    "check_causal_bias",
    "check_grouped_heads",
    "check_key_lengths",
    "check_layer_input",
    "check_number",
    "check_range_of_key_lengths",
    "check_ranks",
    "check_score_options",
    "check_self_attention",
    "check_sizes",
]

#: Dtypes by the names of C++, which torch's own errors of attention use.
_CPP_NAMES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "c10::BFloat16",
    torch.float16: "c10::Half",
    torch.int64: "long int",
    torch.int32: "int",
    torch.int16: "short int",
    torch.int8: "signed char",
    torch.uint8: "unsigned char",
    torch.bool: "bool",
}


def _cpp(dtype: torch.dtype) -> str:
    return _CPP_NAMES.get(dtype, str(dtype))


def check_attention_kinds(name: str, mask: object, dropout_p: object, **tensors: object) -> None:
    """What is not a dense tensor, or not a number."""
    for what, tensor in tensors.items():
        check_kind(name, what, tensor)
    if mask is not None:
        check_kind(name, "attn_mask", mask)
    check_number(name, "dropout_p", dropout_p)


def check_number(name: str, what: str, value: object) -> None:
    """An int or a float, and not a bool."""
    if isinstance(value, bool) or not isinstance(
        value, int | float | torch.SymInt | torch.SymFloat
    ):
        raise TypeError(f"{name}: {what} must be a number, got {type(value).__name__}")


def check_attention(
    name: str, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float
) -> None:
    """Ranks, dtypes, devices and widths that query, key, value and mask must share."""
    if not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(
            "Expected query, key, and value to have the same dtype, but got query.dtype: "
            f"{_cpp(query.dtype)} key.dtype: {_cpp(key.dtype)} and value.dtype: "
            f"{_cpp(value.dtype)} instead."
        )
    if not query.device == key.device == value.device:
        raise RuntimeError(
            "Expected query, key, and value to have the same device type, but got query.device: "
            f"{query.device} key.device: {key.device} and value.device: {value.device} instead."
        )
    if query.dtype not in FLOATING:
        raise TypeError(
            f"{name}: query, key and value must be float32, float64, float16 or bfloat16, got "
            f"{query.dtype}"
        )
    if min(query.dim(), key.dim(), value.dim()) < 2:
        raise RuntimeError(
            "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: "
            f"{query.dim()} key.dim: {key.dim()} and value.dim: {value.dim()} instead."
        )
    if query.shape[-1] != key.shape[-1]:
        raise RuntimeError(
            f"{name}: query and key must have the same width, got {query.shape[-1]} and "
            f"{key.shape[-1]}"
        )
    if key.shape[-2] != value.shape[-2]:
        raise RuntimeError(
            f"{name}: key and value must have the same number of keys Tk, got {key.shape[-2]} and "
            f"{value.shape[-2]}"
        )
    if not 0 <= dropout_p <= 1:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {dropout_p}")
    if mask is not None:
        _check_attention_mask(name, mask, query)


def _check_attention_mask(name: str, mask: Tensor, query: Tensor) -> None:
    if mask.dtype not in (torch.bool, torch.float32, query.dtype):
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
            f"attn_mask.dtype: {_cpp(mask.dtype)} and  query.dtype: {_cpp(query.dtype)} instead."
        )
    if mask.device != query.device:
        raise RuntimeError(
            f"{name}: attn_mask must be on {query.device}, where the query is, got {mask.device}"
        )


def check_causal_bias(
    name: str, bias: CausalBias, query: Tensor, key: Tensor, is_causal: bool
) -> None:
    """A CausalBias: its sizes, and that is_causal is not set as well."""
    if is_causal:
        raise ValueError("CausalBias should not be used with causal=True")
    sizes, expected = (bias.seq_len_q, bias.seq_len_kv), (query.shape[-2], key.shape[-2])
    if sizes != expected:
        raise RuntimeError(
            f"{name}: the CausalBias must have the sizes (Tq, Tk) = {expected}, got {sizes}"
        )


def check_broadcastable(name: str, mask: Tensor, shape: tuple[int, ...]) -> None:
    """That the mask broadcasts to exactly the shape of the scores."""
    own = tuple(mask.shape)
    fits = len(own) <= len(shape) and all(
        m in (1, s) for m, s in zip(reversed(own), reversed(shape), strict=False)
    )
    if not fits:
        raise RuntimeError(
            f"{name}: attn_mask must broadcast to the shape of the scores (..., Tq, Tk) = {shape}, "
            f"got {own}"
        )


def broadcast(name: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Leading dimensions of query, key and value together."""
    rank = max(len(shape) for shape in shapes)
    result = [1] * rank
    for shape in shapes:
        for i, size in enumerate(shape, rank - len(shape)):
            if size != 1 and result[i] not in (1, size):
                given = ", ".join(str(tuple(s)) for s in shapes)
                raise RuntimeError(
                    f"{name}: the leading dimensions of query, key and value must broadcast, got "
                    f"{given}"
                )
            result[i] = size if result[i] == 1 else result[i]
    return tuple(result)


def check_grouped_heads(name: str, *leading: tuple[int, ...]) -> None:
    """enable_gqa: each of key and value has heads, and divides those of the query."""
    if any(len(shape) == 0 for shape in leading):
        raise RuntimeError(f"{name}: enable_gqa needs heads: query, key and value of at least 3-D")
    heads, *groups = (shape[-1] for shape in leading)
    if any(group == 0 or heads % group for group in groups):
        raise RuntimeError(
            f"{name}: with enable_gqa the heads of key and value must divide those of the query = "
            f"{heads}, got {groups[0]} and {groups[1]}"
        )


def check_score_options(
    name: str, scale: object, softcap: Any, window: object, causal_alignment: object
) -> None:
    """Numbers of a dot-product score."""
    if scale is not None:
        check_number(name, "scale", scale)
    if softcap is not None:
        check_number(name, "softcap", softcap)
        if not softcap > 0:
            raise ValueError(f"{name}: softcap must be above 0, or None for none, got {softcap}")
    if causal_alignment not in ("top_left", "bottom_right"):
        raise ValueError(
            f"{name}: causal_alignment must be 'top_left' or 'bottom_right', got "
            f"{causal_alignment!r}"
        )
    if window is None:
        return
    if not isinstance(window, tuple | list) or len(window) != 2:
        raise TypeError(f"{name}: window must be a pair (left, right), got {window!r}")
    for side in window:
        if side is not None and (isinstance(side, bool) or not isinstance(side, int)):
            raise TypeError(f"{name}: both sides of window must be an int or None, got {window!r}")
        if side is not None and side < -1:
            raise ValueError(
                f"{name}: both sides of window must be at least 0, or -1 or None for no limit, got "
                f"{tuple(window)}"
            )


def check_key_lengths(
    name: str,
    lengths: object,
    batch: tuple[int, ...],
    query: Tensor,
    what: str = "key_lengths",
) -> None:
    """int64, of the shape of the batch, where the query is."""
    if lengths is not None:
        names = "(B,)" if len(batch) == 1 else "like the leading dimensions without the heads"
        check_mask(name, what, lengths, torch.int64, names, batch, query.device)


def check_range_of_key_lengths(name: str, lengths: Tensor, keys: int) -> None:
    """Values in 0 .. Tk, where they can be looked at; the ops check theirs."""
    if lengths.numel() and can_be_looked_at(lengths):
        low, high = torch.aminmax(lengths)
        if low < 0 or high > keys:
            raise ValueError(
                f"{name}: key_lengths must lie in 0 .. Tk = {keys}, got values from {int(low)} to "
                f"{int(high)}"
            )


def check_additive(name: str, query: Tensor, key: Tensor, value: Tensor, scale: Tensor) -> None:
    """Ranks and batch of the three, and shape, dtype and device of the scale."""
    for what, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 3:
            raise RuntimeError(f"{name}: {what} must be 3-D (B, T, width), got {tensor.dim()}-D")
    if not query.shape[0] == key.shape[0] == value.shape[0]:
        raise RuntimeError(
            f"{name}: query, key and value must have the same batch B, got {query.shape[0]}, "
            f"{key.shape[0]} and {value.shape[0]}"
        )
    expected = (query.shape[2],)
    if tuple(scale.shape) != expected:
        raise RuntimeError(
            f"{name}: scale must have shape (D,) = {expected}, the width of query and key, got "
            f"{tuple(scale.shape)}"
        )
    if scale.dtype != query.dtype or scale.device != query.device:
        raise RuntimeError(
            f"{name}: scale must be {query.dtype} on {query.device} like the query, got "
            f"{scale.dtype} on {scale.device}"
        )


# ---- layers ----


def check_sizes(name: str, **sizes: object) -> None:
    """Widths of a layer: ints above 0."""
    for what, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name}: {what} must be an int, got {type(size).__name__}")
        if size < 1:
            raise ValueError(f"{name}: {what} must be greater than 0, got {size}")


def check_layer_input(name: str, what: str, input: Any, width: int | None) -> None:
    """A batch or one sequence, of the layer's width."""
    check_kind(name, what, input)
    if input.dim() not in (2, 3):
        raise ValueError(f"{name}: expected {what} to be 2-D or 3-D, got {input.dim()}-D")
    if width is not None and input.shape[-1] != width:
        raise RuntimeError(f"{name}: {what} must have width {width}, got {input.shape[-1]}")


def check_ranks(name: str, **tensors: Tensor) -> None:
    """All batched or all unbatched."""
    if len({t.dim() for t in tensors.values()}) > 1:
        given = ", ".join(f"{t.dim()}-D" for t in tensors.values())
        raise RuntimeError(f"{name}: {', '.join(tensors)} must have the same rank, got {given}")


def check_self_attention(
    activation: str,
    activations: tuple[str, ...],
    score: str,
    scores: tuple[str, ...],
    softcap: float | None,
    causal: bool,
) -> None:
    """What SelfAttention is made of."""
    name = "SelfAttention"
    for what, value, known in (
        ("activation", activation, activations),
        ("score", score, scores),
    ):
        if value not in known:
            raise ValueError(f"{name}: {what} must be one of {', '.join(known)}, got {value!r}")
    check_flag(name, "causal", causal)
    if softcap is not None and score == "additive":
        raise ValueError(
            f"{name}: softcap caps a dot product; with score='additive' it must be None, got "
            f"{softcap}"
        )
    check_score_options(name, None, softcap, None, "top_left")
