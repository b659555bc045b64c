"""Derivatives of a recurrent layer.

Eager calls of modules on a CPU are recorded by a node of C++ (csrc/recurrent/way_back.cpp), others
and those under a transform by :class:`Recurrent`, a new-style `torch.autograd.Function`, which
torch.func understands. What both save, and in which order, is the same. Recurrent's backward is
:class:`RecurrentBackward`, a Function of its own whose backward is composed of differentiable torch
operations over `fastcells.reference`: derivatives of any order.
A traced call (torch.compile, torch.export) meets the op itself, and the same formulas are
registered for it. There is no forward mode here: :mod:`fastcells.functional.recurrent_calls` sends
that to the reference, because a Function with a jvp cannot be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops import is_compiled
from ..ops import recurrent as ops
from ..reference import recurrent as reference
from .derivatives import (
    first_derivative,
    is_batched_by_autograd,
    is_differentiated_again,
    or_none,
    positional,
    second_derivative,
    vmap_as_loop,
)
from .processes import settle_in_forked_child

__all__ = ["Recurrent", "RecurrentBackward", "gradients_of_node"]

_GRADS = 4  # of output, h_n, c_n and cells


class Recurrent(torch.autograd.Function):
    """(cell, directions, names, keep, input, h_0, c_0, lengths, resets, *weights) -> output, h_n,
    c_n, cells, saved: the op with keep "everything", or "states", which leaves `saved` absent."""

    @staticmethod
    @positional
    def forward(cell, directions, names, keep, input, h_0, c_0, lengths, resets, *weights):
        return ops.recurrent_forward(
            cell, directions, input, h_0, c_0, weights, names, lengths, resets, keep
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        cell, directions, names, _, input, h_0, c_0, lengths, resets, *weights = inputs
        output, _, c_n, cells, saved = outputs
        ctx.cell, ctx.directions, ctx.names = cell, directions, names
        has_c = reference.find_cell(cell).states == 2
        ctx.mark_non_differentiable(saved, *(() if has_c else (c_n, cells)))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, h_0, c_0, lengths, resets, output, cells, saved, *weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        _, _, _, _, *tensors = ctx.needs_input_grad
        needs = (*tensors[:3], *tensors[5:])
        input, h_0, c_0, *weights = _gradients(
            ctx.cell, ctx.directions, ctx.names, needs, grads[:_GRADS], ctx.saved_tensors
        )
        return None, None, None, None, input, h_0, c_0, None, None, *weights

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], Any]:
        # Masks are drawn by the place in the batch, and each slice is a batch of its own.
        is_drawn = "noise" in args[2].split()
        if all(dim is None for dim in in_dims[9:]) and not is_drawn:
            return _vmap_as_batch(info.batch_size, in_dims, args)
        return vmap_as_loop(Recurrent, info.batch_size, in_dims, args)


def _gradients(
    cell: str,
    directions: int,
    names: str,
    needs: Sequence[bool],  # of input, h_0, c_0 and the weights
    grads: Sequence[Tensor | None],  # of output, h_n, c_n and cells
    saved: Sequence[Tensor | None],  # as Recurrent saves them
) -> tuple[Tensor | None, ...]:
    """Gradients of input, h_0, c_0 and the weights, which may be differentiated again."""
    settle_in_forked_child()
    if is_batched_by_autograd(grads):
        input, h_0, c_0, lengths, resets, _, _, _, *weights = saved
        layer = _reference(cell, directions, names, lengths, resets)
        return tuple(first_derivative(layer, (input, h_0, c_0, *weights), needs, grads))
    again = is_differentiated_again()
    found = (RecurrentBackward.apply if again else RecurrentBackward.forward)(
        cell, directions, names, needs, *grads, *saved
    )
    return or_none(found, needs)


def gradients_of_node(
    cell: str,
    directions: int,
    names: str,
    needs: Sequence[bool],
    grads: Sequence[Tensor | None],
    saved: Sequence[Any],
) -> tuple[Tensor | None, ...]:
    """The same for the node of C++ (csrc/recurrent/way_back.cpp), where it may be differentiated
    again, or something watches. It also records steps, whose tensors are of lower rank."""
    rank = saved[0].dim()

    def as_layer(tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or rank == 3 else tensor[(None,) * (3 - rank)]

    def of_rank(tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or rank == 3 else tensor[(0,) * (3 - rank)]

    input, h_0, c_0, *rest = saved
    with torch.enable_grad():  # what is differentiated again is the layer's, of these
        sequence = (as_layer(input), as_layer(h_0), as_layer(c_0), *rest)
    found = _gradients(cell, directions, names, needs, [*map(as_layer, grads)], sequence)
    return (*map(of_rank, found[:3]), *found[3:])


def _reference(
    cell: str, directions: int, names: str, lengths: Tensor | None, resets: Tensor | None
) -> Callable[..., tuple[Tensor | Any, ...]]:
    """The layer as a function of input, h_0, c_0 and the weights."""

    def layer(input, h_0, c_0, *weights):
        return reference.recurrent(
            cell, directions, input, h_0, c_0, weights, names, lengths, resets
        )

    return layer


class RecurrentBackward(torch.autograd.Function):
    """(cell, directions, names, needs, grad_output, grad_h_n, grad_c_n, grad_cells, input, h_0,
    c_0, lengths, resets, output, cells, saved, *weights) -> gradients of input, h_0, c_0 and
    weights; those not in `needs` have shape (0,)."""

    @staticmethod
    @positional
    def forward(cell, directions, names, needs, *tensors):
        grads = tensors[:_GRADS]
        input, h_0, c_0, lengths, resets, output, cells, saved, *weights = tensors[_GRADS:]
        found = ops.recurrent_backward(
            cell, directions, grads, input, h_0, c_0, weights, names, lengths, resets,
            (output, cells, saved), needs,
        )  # fmt: skip
        return *found[:3], *found[3]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        ctx.cell, ctx.directions, ctx.names, ctx.needs, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        incoming = ctx.saved_tensors[:_GRADS]
        input, h_0, c_0, lengths, resets, *kept_and_weights = ctx.saved_tensors[_GRADS:]
        arguments = (input, h_0, c_0, *kept_and_weights[3:])
        layer = _reference(ctx.cell, ctx.directions, ctx.names, lengths, resets)
        of_incoming, of_arguments = second_derivative(layer, arguments, incoming, ctx.needs, grads)
        # What the forward pass kept depends on the arguments alone and is accounted for there.
        no_grad_of_kept = (None,) * 5  # lengths, resets, output, cells, saved
        of_states, of_weights = of_arguments[:3], of_arguments[3:]
        return None, None, None, None, *of_incoming, *of_states, *no_grad_of_kept, *of_weights

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], Any]:
        return vmap_as_loop(RecurrentBackward, info.batch_size, in_dims, args)


def _vmap_as_batch(
    size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """One call for all slices, laid side by side in the batch: the weights are shared."""
    cell, directions, names, keep, *tensors = args
    batch_dims = (1, 1, 1, 0, 1)  # of input, h_0, c_0, lengths, resets
    folded: list[Tensor | None] = []
    for tensor, dim, batch_dim in zip(tensors[:5], in_dims[4:9], batch_dims, strict=True):
        if tensor is None:
            folded.append(None)
            continue
        if dim is None:
            moved = tensor.unsqueeze(batch_dim)
            shape = list(moved.shape)
            shape[batch_dim] = size
            moved = moved.expand(shape)
        else:
            moved = tensor.movedim(dim, batch_dim)
        folded.append(moved.flatten(batch_dim, batch_dim + 1))
    results = Recurrent.apply(cell, directions, names, keep, *folded, *tensors[5:])
    unfolded, out_dims = [], []
    for result, batch_dim in zip(results, (1, 1, 1, 1, 2), strict=True):
        is_absent = result.dim() == 1
        if is_absent:
            result = result.expand(size, 0)
        else:
            result = result.unflatten(batch_dim, (size, result.shape[batch_dim] // size))
        unfolded.append(result)
        out_dims.append(0 if is_absent else batch_dim)
    return tuple(unfolded), tuple(out_dims)


def _op_setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    cell, directions, input, h_0, c_0, weights, names, lengths, resets, keep = inputs
    if keep not in ("everything", "states"):
        raise RuntimeError(
            "fastcells::recurrent_forward: gradients need keep='everything' or 'states', "
            f"got keep={keep!r}; fastcells.functional chooses it by itself"
        )
    flat = (cell, directions, names, keep, input, h_0, c_0, lengths, resets, *weights)
    Recurrent.setup_context(ctx, flat, output)


def _op_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    _, _, *needs_states, needs_weights, _, _, _, _ = ctx.needs_input_grad
    needs = (*needs_states, *needs_weights)
    found = RecurrentBackward.apply(
        ctx.cell, ctx.directions, ctx.names, needs, *grads[:_GRADS], *ctx.saved_tensors
    )
    states = or_none(found[:3], needs_states)
    return None, None, *states, list(or_none(found[3:], needs_weights)), None, None, None, None


if is_compiled():
    torch.library.register_autograd(
        "fastcells::recurrent_forward", _op_backward, setup_context=_op_setup_context
    )
