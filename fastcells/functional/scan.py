"""The linear scan: an elementwise linear recurrence over a sequence."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..checks import scan as checks
from ..ops import scan as ops
from ..reference import scan as reference
from .autocast import without_autocast
from .graphs import Proxy, function_node
from .processes import settle_in_forked_child
from .routing import (
    choose_scan_route,
    is_functionalized,
    is_traced,
    needs_grad,
    uses_forward_mode,
)
from .scan_autograd import LinearScan, ScanOptions, forward_without_graph

__all__ = ["linear_scan"]


def linear_scan(
    a: Tensor,
    b: Tensor,
    h_0: Tensor | None = None,
    *,
    batch_first: bool = False,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    r"""The states of a linear recurrence, all of them.

    .. math:: h_t = a_t \odot h_{t-1} + b_t

    from t = 0 on, or, in reverse, with :math:`h_{t+1}` from T - 1 down. Exact for any factors:
    there is no logarithm, and none needs to be positive, or not zero.

    Args:
        a, b: float32, float64, bfloat16, float16, complex64 or complex128, both the same, of shapes
            that broadcast to `[T, B, H]`; with batch_first to `[B, T, H]`. A factor `[H]`,
            `[T, 1, H]` or `[]` is read as it is, and never expanded in memory.
        h_0: `[B, H]`, the state in front of each row's first step, or None for zeros.
        batch_first: a, b, resets and the result have the batch first.
        lengths: `[B]` int64 in 0..T, steps of each row: h is 0 past them, and nothing there is
            read; in reverse a row begins at its last one. None: T.
        resets: `[T, B]` bool (`[B, T]` with batch_first): where it is set no state passes between
            steps t - 1 and t, in either direction; at t = 0 forward, none of h_0. There, as in
            front of a row's first step without h_0, the state is 0 and not the factor: an infinite
            or NaN a_t gives NaN.
        reverse: from each row's end to its beginning.

    Returns:
        h, `[T, B, H]` (`[B, T, H]`) in the dtype of the arguments. The final state is its last
        step: `h[-1]`, in reverse `h[0]`, and forward with lengths `h[lengths - 1, range(B)]` for
        rows that have steps. To scan in pieces, give it as h_0 to the next.

    Raises:
        ValueError: shapes that do not fit together, lengths out of range.
        TypeError: dtypes that are not supported, or differ; arguments of another kind.
        RuntimeError: devices that differ.

    16-bit numbers are added up in float32, and each h is rounded once. Under autocast nothing is
    rounded: where dtypes differ, all take the widest. Derivatives of any order, reverse and forward
    mode, are scans themselves.

    Source: Blelloch (1990), "Prefix sums and their applications"; as a layer's recurrence Martin
    and Cundy (2018), https://arxiv.org/abs/1709.04057.

    Example:
        >>> decay, x = torch.rand(20), torch.randn(100, 3, 20)
        >>> average = fastcells.linear_scan(decay, (1 - decay) * x)
    """
    if isinstance(a, Proxy) or isinstance(b, Proxy):
        return function_node(linear_scan, locals())
    settle_in_forked_child()
    if not is_traced():
        done = ops.scan_at_once(a, b, h_0, lengths, resets, batch_first, reverse)
        if done is not None:
            return done
    options = ScanOptions(batch_first, reverse)
    if torch.jit.is_tracing():  # sizes are tensors there: the op's checks are the only ones
        b = torch.broadcast_tensors(a, b)[1]
    else:
        casts = torch._C._is_any_autocast_enabled()
        shape = checks.check_scan(a, b, h_0, batch_first, lengths, resets, reverse, casts)
        if casts:
            a, b, h_0 = _promoted(a, b, h_0)
            checks.check_scan(a, b, h_0, batch_first, None, None, reverse, casts=False)
        b = b.expand(shape)
    a = a[(None,) * (3 - a.dim())]
    with without_autocast(a):
        return run_scan(a, b, h_0, lengths, resets, options)


def _promoted(*tensors: Tensor | None) -> list[Any]:
    """All floating ones in the widest of their dtypes; None stays None."""
    dtypes = [t.dtype for t in tensors if t is not None and t.dtype in checks.DTYPES]
    widest = reduce(torch.promote_types, dtypes) if dtypes else None
    return [
        t if t is None or t.dtype not in checks.DTYPES or t.dtype == widest else t.to(widest)
        for t in tensors
    ]


def run_scan(
    a: Tensor,
    b: Tensor,
    h_0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    options: ScanOptions,
) -> Tensor:
    """On the kernels or on the reference, of arguments as the op takes them."""
    tensors = (a, b, h_0)
    if not choose_scan_route(tensors).is_kernel:
        return reference.linear_scan(a, b, h_0, lengths, resets, *options[:2])
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_functionalized():
        return ops.linear_scan(a, b, h_0, lengths, resets, *options[:3])
    has_tangents = uses_forward_mode(tensors)
    if not has_tangents and not needs_grad(tensors):
        return forward_without_graph(options, a, b, h_0, lengths, resets)
    keeps_h = has_tangents or needs_grad((a,))
    return LinearScan.apply(options._replace(keeps_h=keeps_h), a, b, h_0, lengths, resets)
