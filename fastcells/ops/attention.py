"""The attention ops: fakes for the tracer, and typed calls of `torch.ops.fastcells`.

Shapes, dtypes and ownership: csrc/ops.h. Fakes are in Python because sizes may be symbolic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._extension import _C, is_compiled
from . import devices
from .devices import arithmetic_dtype, check_device
from .exporting import call

__all__ = [
    "KERNEL_DEVICES",
    "KERNEL_DTYPES",
    "MOST_HEAD_WIDTH",
    "additive_at_once",
    "additive_attention_backward",
    "additive_attention_forward",
    "attention_backward",
    "attention_forward",
    "dot_at_once",
    "has_kernels",
    "multihead_at_once",
    "self_attention_at_once",
]

_HAS_OPS = is_compiled() and hasattr(torch.ops.fastcells, "attention_forward")

#: Device types that have attention kernels in this build; a fake stands in for them on "meta".
KERNEL_DEVICES: tuple[str, ...] = devices.KERNEL_DEVICES if _HAS_OPS else ()

#: What the kernels of a device type store; they compute in float32, or float64 for float64.
KERNEL_DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.bfloat16),
    "meta": (torch.float32, torch.float64, torch.bfloat16),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}

#: The widest head, of keys and of values, that dot-product kernels take where there is a limit.
MOST_HEAD_WIDTH = {} if _C is None else {"cuda": _C.MOST_HEAD_WIDTH_CUDA}


def _never(*arguments: object) -> None:
    """Without a compiled module nothing is done at once."""


#: Calls past torch's dispatcher, which costs more than a small attention; where a derivative may be
#: asked for, recorded by nodes of C++. None where only the way through Python can tell: something
#: watches (a mode, a tracer, a transform, autocast, a profiler), a tensor is not plain memory of a
#: CPU, an argument is a rarer one, or tensors do not fit together.
dot_at_once = _never if _C is None else _C.dot_at_once
additive_at_once = _never if _C is None else _C.additive_at_once
multihead_at_once = _never if _C is None else _C.multihead_at_once
self_attention_at_once = _never if _C is None else _C.self_attention_at_once


def has_kernels(device: torch.device) -> bool:
    """Whether this build brings attention kernels for `device`."""
    return device.type in KERNEL_DEVICES


def attention_forward(
    query: Tensor,  # [B, N, Tq, E]
    key: Tensor,  # [B, Nk, Tk, E]
    value: Tensor,  # [B, Nk, Tk, Ev]
    mask: Tensor | None,  # [1|B, 1|N, 1|Tq, 1|Tk]
    key_lengths: Tensor | None,  # [B]
    seed: Tensor | None,  # [1]
    scale: float,
    softcap: float,
    left: int,
    right: int,
    offset: int,
    dropout_p: float,
    return_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """output, logsumexp, weights; weights of shape `(0,)` where they are not asked for."""
    return call(
        "attention_forward", query, key, value, mask, key_lengths, seed, scale, softcap, left,
        right, offset, dropout_p, return_weights,
    )  # fmt: skip


def attention_backward(
    grad_output: Tensor,
    grad_weights: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    key_lengths: Tensor | None,
    seed: Tensor | None,
    output: Tensor,
    logsumexp: Tensor,
    scale: float,
    softcap: float,
    left: int,
    right: int,
    offset: int,
    dropout_p: float,
    needs_mask_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and mask; the last of shape `(0,)` where not needed."""
    return torch.ops.fastcells.attention_backward(
        grad_output, grad_weights, query, key, value, mask, key_lengths, seed, output, logsumexp,
        scale, softcap, left, right, offset, dropout_p, needs_mask_grad,
    )  # fmt: skip


def additive_attention_forward(
    query: Tensor,  # [B, Tq, D]
    key: Tensor,  # [B, Tk, D]
    value: Tensor,  # [B, Tk, E]
    scale: Tensor,  # [D]
    mask: Tensor | None,  # [1|B, 1|Tq, 1|Tk]
    key_lengths: Tensor | None,  # [B]
    seed: Tensor | None,  # [1]
    dropout_p: float,
    return_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """output, logsumexp, weights; weights of shape `(0,)` where they are not asked for."""
    return call(
        "additive_attention_forward", query, key, value, scale, mask, key_lengths, seed, dropout_p,
        return_weights,
    )  # fmt: skip


def additive_attention_backward(
    grad_output: Tensor,
    grad_weights: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: Tensor,
    mask: Tensor | None,
    key_lengths: Tensor | None,
    seed: Tensor | None,
    output: Tensor,
    logsumexp: Tensor,
    dropout_p: float,
    needs_mask_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, scale and mask; the last of shape `(0,)` where not needed."""
    return torch.ops.fastcells.additive_attention_backward(
        grad_output, grad_weights, query, key, value, scale, mask, key_lengths, seed, output,
        logsumexp, dropout_p, needs_mask_grad,
    )  # fmt: skip


def _results(query: Tensor, keys: int, width: int, return_weights: bool):
    """output, logsumexp and weights of an op whose scores are [..., Tq, Tk]."""
    rows = query.shape[:-1]
    return (
        query.new_empty(*rows, width),
        query.new_empty((*rows, 2), dtype=arithmetic_dtype(query.dtype)),
        query.new_empty(*rows, keys) if return_weights else query.new_empty(0),
    )


def _grads(variables: tuple[Tensor, ...], mask: Tensor | None, needs_mask_grad: bool):
    grads = [v.new_empty(v.shape) for v in variables]
    if not needs_mask_grad or mask is None or mask.dtype == torch.bool:
        return *grads, variables[0].new_empty(0)
    return *grads, mask.new_empty(mask.shape)


def _fake_attention_forward(
    query, key, value, mask, key_lengths, seed, scale, softcap, left, right, offset, dropout_p,
    return_weights,
):  # fmt: skip
    check_device(
        "attention_forward", query, key=key, value=value, mask=mask, key_lengths=key_lengths,
        seed=seed,
    )  # fmt: skip
    return _results(query, key.shape[2], value.shape[3], return_weights)


def _fake_attention_backward(
    grad_output, grad_weights, query, key, value, mask, key_lengths, seed, output, logsumexp,
    scale, softcap, left, right, offset, dropout_p, needs_mask_grad,
):  # fmt: skip
    check_device(
        "attention_backward", query, grad_output=grad_output, key=key, value=value, mask=mask,
        key_lengths=key_lengths, seed=seed, output=output, logsumexp=logsumexp,
    )  # fmt: skip
    return _grads((query, key, value), mask, needs_mask_grad)


def _fake_additive_forward(
    query, key, value, scale, mask, key_lengths, seed, dropout_p, return_weights
):
    check_device(
        "additive_attention_forward", query, key=key, value=value, scale=scale, mask=mask,
        key_lengths=key_lengths, seed=seed,
    )  # fmt: skip
    return _results(query, key.shape[1], value.shape[2], return_weights)


def _fake_additive_backward(
    grad_output, grad_weights, query, key, value, scale, mask, key_lengths, seed, output,
    logsumexp, dropout_p, needs_mask_grad,
):  # fmt: skip
    check_device(
        "additive_attention_backward", query, grad_output=grad_output, key=key, value=value,
        scale=scale, mask=mask, key_lengths=key_lengths, seed=seed, output=output,
        logsumexp=logsumexp,
    )  # fmt: skip
    return _grads((query, key, value, scale), mask, needs_mask_grad)


if _HAS_OPS:
    torch.library.register_fake("fastcells::attention_forward", _fake_attention_forward)
    torch.library.register_fake("fastcells::attention_backward", _fake_attention_backward)
    torch.library.register_fake("fastcells::additive_attention_forward", _fake_additive_forward)
    torch.library.register_fake("fastcells::additive_attention_backward", _fake_additive_backward)
