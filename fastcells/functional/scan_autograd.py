"""Derivatives of linear_scan, of any order and in both modes: all of them are scans.

With p(t) the step that a scan takes before t, and n(t) the one after it,

    h_t = a_t h_p(t) + b_t                      the scan
    g_t = grad_t + conj(a_n(t)) g_n(t)          its adjoint: g is the gradient of b,
                                                g_t conj(h_p(t)) that of a_t
    dh_t = a_t dh_p(t) + (da_t h_p(t) + db_t)   its derivative forward, a scan of the same factors

and the adjoint of the adjoint is the scan again. :class:`LinearScan` is both, and its backward and
jvp are written with it. A first derivative that will not be differentiated again takes one op,
which computes all gradients in a single pass. A traced call meets the ops themselves, with the same
formulas.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops import is_compiled
from ..ops import scan as ops
from ..reference import scan as reference
from .derivatives import is_batched_by_autograd, is_differentiated_again, or_none, positional
from .processes import settle_in_forked_child

__all__ = ["LinearScan", "ScanOptions", "forward_without_graph", "gradients_of_node"]


class ScanOptions(NamedTuple):
    """What a scan is besides its tensors."""

    batch_first: bool
    reverse: bool
    adjoint: bool = False
    keeps_h: bool = True  # for a gradient of a, or a tangent


@positional
def forward_without_graph(
    options: ScanOptions,
    a: Tensor,
    b: Tensor,
    h_0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
) -> Tensor:
    """The op past the formulas that are registered for it; nothing is recorded. For eager calls."""
    with torch._C._AutoDispatchBelowAutograd():
        return ops.linear_scan(a, b, h_0, lengths, resets, *options[:3])


class LinearScan(torch.autograd.Function):
    """(options, a, b, h_0, lengths, resets) -> h."""

    forward = staticmethod(forward_without_graph)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        options, a, _, h_0, lengths, resets = inputs
        ctx.options = options
        ctx.set_materialize_grads(False)
        saved = (a, output if options.keeps_h else None, h_0, lengths, resets)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        _, *needs, _, _ = ctx.needs_input_grad
        found = _gradients(ctx.options, needs, grad, *ctx.saved_tensors)
        return None, *found, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        (_, da, db, dh_0, _, _), options = tangents, ctx.options
        a, h, h_0, lengths, resets = ctx.saved_tensors
        given = None if db is None else db.expand(h.shape)
        if da is not None:
            if options.adjoint:  # conj(da_n) g_n
                opposite = options._replace(reverse=not options.reverse)
                of_a = _before(da.conj() * h, None, lengths, resets, opposite)
            else:
                of_a = da * _before(h, h_0, lengths, resets, options)
            given = of_a if given is None else given + of_a
        given = torch.zeros_like(h) if given is None else given
        return LinearScan.apply(options, a, given, dh_0, lengths, resets)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        return _vmap_as_batch(info.batch_size, in_dims, args)


def _gradients(
    options: ScanOptions,
    needs: list[bool],  # of a, b and h_0
    grad: Tensor | None,
    a: Tensor,
    h: Tensor | None,
    h_0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients of a, b and h_0, which may be differentiated again."""
    if grad is None or not any(needs):
        return None, None, None
    settle_in_forked_child()
    if is_batched_by_autograd((grad,)):
        return _composed(_plain, options, needs, grad, a, h, h_0, lengths, resets)
    if options.adjoint or is_differentiated_again():
        return _composed(LinearScan.apply, options, needs, grad, a, h, h_0, lengths, resets)
    with torch._C._AutoDispatchBelowAutograd():
        found = ops.linear_scan_backward(
            grad, a, grad if h is None else h, h_0, lengths, resets, *options[:2], needs
        )
    return or_none(found, needs)


def gradients_of_node(
    batch_first: bool,
    reverse: bool,
    needs: list[bool],
    grads: list[Tensor | None],
    saved: list[Any],
) -> tuple[Tensor | None, ...]:
    """The same for the node of C++ (csrc/scan/way_back.cpp), where it may be differentiated again,
    or something watches."""
    return _gradients(ScanOptions(batch_first, reverse), list(needs), grads[0], *saved)


def _composed(scan, options, needs, grad, a, h, h_0, lengths, resets) -> tuple[Tensor | None, ...]:
    """The same of scans and operations of torch."""
    other = options._replace(adjoint=not options.adjoint, keeps_h=True)
    g = scan(other, a, grad, None, lengths, resets)
    grad_a = grad_h_0 = None
    if needs[0]:
        of_scan, of_adjoint = (g, h) if options.adjoint else (h, g)
        before = _before(of_scan, h_0, lengths, resets, options)
        grad_a = (of_adjoint * before.conj()).sum_to_size(a.shape)
    if needs[2]:
        first = _first(a.expand(g.shape).conj(), lengths, options) * _first(g, lengths, options)
        reaches = None if lengths is None else lengths > 0
        if resets is not None and not options.reverse and g.shape[options.batch_first] > 0:
            uncut = ~resets.select(int(options.batch_first), 0)
            reaches = uncut if reaches is None else reaches & uncut
        grad_h_0 = first if reaches is None else torch.where(reaches[:, None], first, 0)
    return grad_a, g if needs[1] else None, grad_h_0


def _before(
    x: Tensor,
    x_0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    options: ScanOptions,
) -> Tensor:
    """x_p(t) at each t: 0 where no state passes and past a row's end, x_0 at a row's first step."""
    dim = int(options.batch_first)
    steps = x.shape[dim]
    if steps == 0:
        return x
    edge = (torch.zeros_like(x.select(dim, 0)) if x_0 is None else x_0).unsqueeze(dim)
    reverse = options.reverse
    rest = x.narrow(dim, 1 if reverse else 0, steps - 1)
    moved = torch.cat([rest, edge] if reverse else [edge, rest], dim)
    if lengths is not None:
        t = torch.arange(steps, device=x.device).unsqueeze(1 - dim)
        ends = lengths.unsqueeze(dim)
        if reverse:
            moved = torch.where((t == ends - 1).unsqueeze(-1), edge, moved)
        moved = torch.where((t < ends).unsqueeze(-1), moved, 0)
    if resets is not None:
        cut = resets
        if reverse:
            last = torch.zeros_like(cut.narrow(dim, 0, 1))
            cut = torch.cat([cut.narrow(dim, 1, steps - 1), last], dim)
            cut = cut if lengths is None else cut & (t + 1 < ends)
        moved = torch.where(cut.unsqueeze(-1), 0, moved)
    return moved


def _first(x: Tensor, lengths: Tensor | None, options: ScanOptions) -> Tensor:
    """x at each row's first step as the scan goes, `[B, H]`; anything for a row without steps."""
    dim = int(options.batch_first)
    steps = x.shape[dim]
    if steps == 0:
        return x.sum(dim)
    if not options.reverse or lengths is None:
        return x.select(dim, steps - 1 if options.reverse else 0)
    index = (lengths - 1).clamp(min=0).unsqueeze(dim).unsqueeze(-1)
    return torch.take_along_dim(x, index, dim).squeeze(dim)


def _plain(options, a, b, h_0, lengths, resets) -> Tensor:
    """LinearScan in plain torch, for torch.autograd.grad(is_grads_batched=True), whose vmap knows
    no rule of a Function."""
    if options.adjoint:
        return reference.adjoint_scan(a, b, lengths, resets, *options[:2])
    return reference.linear_scan(a, b, h_0, lengths, resets, *options[:2])


def _vmap_as_batch(
    size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[Tensor, int]:
    """One call for all slices, laid side by side in the batch."""
    options, a, b, h_0, lengths, resets = args
    at = 0 if options.batch_first else 1  # the batch of a, b and resets
    b_rows = b.shape[at] if in_dims[2] is None else b.movedim(in_dims[2], 0).shape[at + 1]

    def folded(tensor: Tensor | None, dim: int | None, place: int) -> Tensor | None:
        if tensor is None:
            return None
        tensor = tensor.unsqueeze(place) if dim is None else tensor.movedim(dim, place)
        shape = list(tensor.shape)
        shape[place : place + 2] = size, b_rows
        return tensor.expand(shape).flatten(place, place + 1)

    is_shared = in_dims[1] is None and a.shape[at] == 1
    h = LinearScan.apply(
        options,
        a if is_shared else folded(a, in_dims[1], at),
        folded(b, in_dims[2], at),
        folded(h_0, in_dims[3], 0),
        folded(lengths, in_dims[4], 0),
        folded(resets, in_dims[5], at),
    )
    return h.unflatten(at, (size, b_rows)), at


def _op_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, h_0, lengths, resets, *options = inputs
    flat = (ScanOptions(*options), a, b, h_0, lengths, resets)
    LinearScan.setup_context(ctx, flat, output)


def _op_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    found = _gradients(ctx.options, list(ctx.needs_input_grad[:3]), grad, *ctx.saved_tensors)
    return *found, None, None, None, None, None


if is_compiled():
    torch.library.register_autograd(
        "fastcells::linear_scan", _op_backward, setup_context=_op_setup_context
    )
