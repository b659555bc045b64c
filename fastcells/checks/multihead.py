"""What MultiheadAttention refuses: what torch.nn's does, with the same types and texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .tensors import FLOATING

__all__ = ["check_multihead"]


def check_multihead(
    layer: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
    is_causal: bool,
) -> None:
    """Everything that torch.nn.MultiheadAttention asserts of a call."""
    _check_multihead_biases(layer)
    for name, mask in (("key_padding_mask", key_padding_mask), ("attn_mask", attn_mask)):
        if mask is not None and mask.dtype != torch.bool and not mask.is_floating_point():
            raise AssertionError(f"only bool and floating types of {name} are supported")
    if query.dim() not in (2, 3):
        raise AssertionError(
            "query should be unbatched 2D or batched 3D tensor but received "
            f"{query.dim()}-D query tensor"
        )
    _check_multihead_ranks(query, key, value, key_padding_mask, attn_mask)
    if is_causal and attn_mask is None:
        raise RuntimeError(
            "Need attn_mask if specifying the is_causal hint. You may use the Transformer module "
            "method `generate_square_subsequent_mask` to create this mask."
        )
    if query.shape[-1] != layer.embed_dim:
        raise AssertionError(
            f"was expecting embedding dimension of {layer.embed_dim}, but got {query.shape[-1]}"
        )
    if layer._qkv_same_embed_dim and key.shape != value.shape:
        raise AssertionError(f"key shape {key.shape} does not match value shape {value.shape}")
    batch_dim = 0 if layer.batch_first else 1
    sizes = [t.shape if t.dim() == 3 else t.unsqueeze(batch_dim).shape for t in (query, key, value)]
    if sizes[1][:2] != sizes[2][:2]:
        raise AssertionError(
            f"key's sequence and batch dims {sizes[1][:2]} do not match value's {sizes[2][:2]}"
        )
    rows, columns = (size[1 - batch_dim] for size in sizes[:2])
    batch = sizes[0][batch_dim]
    if sizes[1][batch_dim] != batch:
        raise RuntimeError(
            f"MultiheadAttention: query and key must have the same batch, got {batch} and "
            f"{sizes[1][batch_dim]}"
        )
    _check_multihead_masks(
        key_padding_mask, attn_mask, layer.num_heads, batch, (rows, columns), query.dim() == 3
    )


def _check_multihead_biases(layer: nn.MultiheadAttention) -> None:
    """What is added to a product is cast to the product's dtype, which would take the imaginary
    part from a complex one. Weights of another dtype are refused by the product itself."""
    for name, bias in (
        ("in_proj_bias", layer.in_proj_bias),
        ("bias_k", layer.bias_k),
        ("bias_v", layer.bias_v),
        ("out_proj.bias", layer.out_proj.bias),
    ):
        if bias is None or bias.dtype in FLOATING:
            continue
        if bias.is_complex() or bias.is_floating_point():  # an integer one is added exactly
            raise TypeError(
                f"MultiheadAttention: {name} must be float32, float64, float16 or bfloat16, got "
                f"{bias.dtype}"
            )


def _check_multihead_ranks(
    query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, mask: Tensor | None
) -> None:
    rank = query.dim()
    kind = "batched (3-D)" if rank == 3 else "unbatched (2-D)"
    start = f"For {kind} `query`, expected "
    if key.dim() != rank or value.dim() != rank:
        raise AssertionError(
            f"{start}`key` and `value` to be {rank}-D but found {key.dim()}-D and {value.dim()}-D "
            "tensors respectively"
        )
    if padding is not None and padding.dim() != rank - 1:
        raise AssertionError(
            f"{start}`key_padding_mask` to be `None` or {rank - 1}-D but found {padding.dim()}-D "
            "tensor instead"
        )
    if mask is not None and mask.dim() not in (2, 3):
        raise AssertionError(
            f"{start}`attn_mask` to be `None`, 2-D or 3-D but found {mask.dim()}-D tensor instead"
        )


def _check_multihead_masks(
    padding: Tensor | None,
    mask: Tensor | None,
    heads: int,
    batch: int,
    scores: tuple[int, int],
    is_batched: bool,
) -> None:
    if mask is not None:
        expected = scores if mask.dim() == 2 else (batch * heads, *scores)
        if tuple(mask.shape) != expected and mask.dim() == 3 and not is_batched:
            raise AssertionError(
                f"Expected `attn_mask` shape to be {expected} but got {mask.shape}"
            )
        if tuple(mask.shape) != expected:
            raise RuntimeError(
                f"The shape of the {mask.dim()}D attn_mask is {mask.shape}, but should be "
                f"{expected}."
            )
    if padding is not None:
        own = padding.shape if is_batched else (batch, *padding.shape)
        for at, size in enumerate((batch, scores[1])):
            if own[at] != size:
                raise AssertionError(
                    f"Expected key_padded_mask.shape[{at}] to be {size}, but got {own[at]}"
                )
