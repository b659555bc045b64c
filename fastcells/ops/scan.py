"""The ops of the linear scan: fakes for the tracer, and typed calls of `torch.ops.fastcells`.

Shapes, dtypes and ownership: csrc/ops.h. Fakes are in Python because sizes may be symbolic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._extension import _C, is_compiled
from .devices import check_device, check_dtype, has_kernels
from .exporting import call

__all__ = ["has_kernels", "linear_scan", "linear_scan_backward", "scan_at_once"]


def _never(*arguments: object) -> None:
    """Without a compiled module nothing is done at once."""


#: h of (a, b, h_0, lengths, resets, batch_first, reverse) past torch's dispatcher, which costs more
#: than a small scan; where a derivative may be asked for, recorded by a node of C++. None where
#: only the way through Python can tell: something watches, a tensor is not plain memory of a CPU,
#: or arguments do not fit together.
scan_at_once = _never if _C is None else _C.scan_at_once


def linear_scan(
    a: Tensor,  # [1|T, 1|B, 1|H], with batch_first [1|B, 1|T, 1|H]
    b: Tensor,  # [T, B, H], or [B, T, H]
    h_0: Tensor | None,  # [B, H]
    lengths: Tensor | None,  # [B]
    resets: Tensor | None,  # [T, B], or [B, T]
    batch_first: bool,
    reverse: bool,
    adjoint: bool,  # the adjoint of this scan: b is the gradient of h, the result that of b
) -> Tensor:
    """h, like b."""
    return call("linear_scan", a, b, h_0, lengths, resets, batch_first, reverse, adjoint)


def linear_scan_backward(
    grad_h: Tensor,
    a: Tensor,
    h: Tensor,  # read for the gradient of a alone
    h_0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    batch_first: bool,
    reverse: bool,
    needs: Sequence[bool],  # a, b, h_0
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a, b and h_0; what is not needed has shape `(0,)`."""
    return torch.ops.fastcells.linear_scan_backward(
        grad_h, a, h, h_0, lengths, resets, batch_first, reverse, needs
    )


def _check(op: str, a: Tensor, b: Tensor, h_0, lengths, resets) -> None:
    check_device(op, b, a=a, h_0=h_0, lengths=lengths, resets=resets)
    check_dtype(op, b.dtype, a=a, h_0=h_0)


def _fake_scan(a, b, h_0, lengths, resets, batch_first, reverse, adjoint):
    _check("linear_scan", a, b, h_0, lengths, resets)
    return b.new_empty(b.shape)


def _fake_backward(grad_h, a, h, h_0, lengths, resets, batch_first, reverse, needs):
    _check("linear_scan_backward", a, grad_h, h_0, lengths, resets)
    rows, units = grad_h.shape[0 if batch_first else 1], grad_h.shape[2]
    return (
        a.new_empty(a.shape if needs[0] else (0,)),
        a.new_empty(grad_h.shape if needs[1] else (0,)),
        a.new_empty((rows, units) if needs[2] else (0,)),
    )


if is_compiled():
    torch.library.register_fake("fastcells::linear_scan", _fake_scan)
    torch.library.register_fake("fastcells::linear_scan_backward", _fake_backward)
