"""Derivatives of a recurrent layer.

Eager calls go through :class:`Recurrent`, a new-style `torch.autograd.Function`, which torch.func
understands. Its backward is :class:`RecurrentBackward`, a Function of its own whose backward is
composed of differentiable torch operations over `fastcells.reference`: derivatives of any order.
A traced call (torch.compile, torch.export) meets the op itself, and the same formulas are
registered for it. There is no forward mode here: :mod:`fastcells.functional.recurrent` sends that
to the reference, because a Function with a jvp cannot be compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops import is_compiled
from ..ops import recurrent as ops
from ..reference import recurrent as reference

__all__ = ["Recurrent", "RecurrentBackward"]

_GRADS = 4  # of output, h_n, c_n and cells


def _or_none(grads: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Absent gradients as autograd wants them."""
    return tuple(g if needed else None for g, needed in zip(grads, needs, strict=True))


class Recurrent(torch.autograd.Function):
    """(cell, directions, keep, input, h_0, c_0, lengths, resets, *weights) -> output, h_n, c_n,
    cells, saved: the op with keep "everything", or "states", which leaves `saved` absent."""

    @staticmethod
    def forward(cell, directions, keep, input, h_0, c_0, lengths, resets, *weights):
        return ops.recurrent_forward(
            cell, directions, input, h_0, c_0, weights, lengths, resets, keep
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, outputs: tuple) -> None:
        cell, directions, _, input, h_0, c_0, lengths, resets, *weights = inputs
        output, _, c_n, cells, saved = outputs
        ctx.cell, ctx.directions = cell, directions
        has_c = reference.CELLS[cell].states == 2
        ctx.mark_non_differentiable(saved, *(() if has_c else (c_n, cells)))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, h_0, c_0, lengths, resets, output, cells, saved, *weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        _, _, _, *tensors = ctx.needs_input_grad
        needs = (*tensors[:3], *tensors[5:])
        if any(g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in grads):
            input, h_0, c_0, *weights = _reference_gradients(ctx, needs, grads)
            return None, None, None, input, h_0, c_0, None, None, *weights
        found = RecurrentBackward.apply(
            ctx.cell, ctx.directions, needs, *grads[:_GRADS], *ctx.saved_tensors
        )
        input, h_0, c_0, *weights = _or_none(found, needs)
        return None, None, None, input, h_0, c_0, None, None, *weights

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple[Tensor, ...], Any]:
        if all(dim is None for dim in in_dims[8:]):
            return _vmap_as_batch(info.batch_size, in_dims, args)
        return _vmap_as_loop(Recurrent, info.batch_size, in_dims, args)


def _reference_gradients(
    ctx: Any, needs: Sequence[bool], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients of input, h_0, c_0 and weights through the reference: for the batched gradients of
    torch.autograd.grad(is_grads_batched=True), whose vmap is not torch.func's and knows no rule of
    a Function."""
    input, h_0, c_0, lengths, resets, _, _, _, *weights = ctx.saved_tensors
    arguments = (input, h_0, c_0, *weights)
    wanted_at = [i for i, needed in enumerate(needs) if needed and arguments[i] is not None]
    given_at = [i for i, g in enumerate(grads[:_GRADS]) if g is not None]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        results = reference.recurrent(
            ctx.cell, ctx.directions, input, h_0, c_0, weights, lengths, resets
        )
    found = torch.autograd.grad(
        [results[i] for i in given_at],
        [arguments[i] for i in wanted_at],
        [grads[i] for i in given_at],
        create_graph=create_graph,
        allow_unused=True,
    )
    gradients: list[Tensor | None] = [None] * len(arguments)
    for i, g in zip(wanted_at, found, strict=True):
        gradients[i] = g
    return gradients


class RecurrentBackward(torch.autograd.Function):
    """(cell, directions, needs, grad_output, grad_h_n, grad_c_n, grad_cells, input, h_0, c_0,
    lengths, resets, output, cells, saved, *weights) -> gradients of input, h_0, c_0 and weights;
    those not in `needs` have shape (0,)."""

    @staticmethod
    def forward(cell, directions, needs, *tensors):
        grads = tensors[:_GRADS]
        input, h_0, c_0, lengths, resets, output, cells, saved, *weights = tensors[_GRADS:]
        found = ops.recurrent_backward(
            cell, directions, grads, input, h_0, c_0, weights, lengths, resets,
            (output, cells, saved), needs,
        )  # fmt: skip
        return *found[:3], *found[3]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, outputs: tuple) -> None:
        ctx.cell, ctx.directions, ctx.needs, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, None, None) + second_derivative(
            ctx.cell, ctx.directions, ctx.needs, ctx.saved_tensors, grads
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple[Tensor, ...], Any]:
        return _vmap_as_loop(RecurrentBackward, info.batch_size, in_dims, args)


def second_derivative(
    cell: str,
    directions: int,
    needs: Sequence[bool],
    saved: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Gradients of RecurrentBackward's tensors, given those of its results.

    The first derivative is written as a function of the incoming gradients and of the layer's
    arguments, by the reference, and differentiated. What the forward pass kept depends on the
    arguments alone and is accounted for there.
    """
    incoming = saved[:_GRADS]
    input, h_0, c_0, lengths, resets, *kept_and_weights = saved[_GRADS:]
    weights = kept_and_weights[3:]
    arguments = (input, h_0, c_0, *weights)
    # Only what is there and needed is differentiated.
    cotangents_at = [i for i, g in enumerate(incoming) if g is not None]
    wanted_at = [i for i, g in enumerate(grads) if needs[i] and g is not None]
    variables_at = [i for i, a in enumerate(arguments) if a is not None]
    no_grad_of_kept = (None,) * 5  # lengths, resets, output, cells, saved
    grad_incoming: list[Tensor | None] = [None] * _GRADS
    grad_arguments: list[Tensor | None] = [None] * len(arguments)
    if not cotangents_at or not wanted_at:
        return *grad_incoming, *grad_arguments[:3], *no_grad_of_kept, *grad_arguments[3:]

    def first_derivative(*flat: Tensor) -> tuple[Tensor, ...]:
        cotangents, variables = flat[: len(cotangents_at)], flat[len(cotangents_at) :]

        def layer(*variables: Tensor) -> tuple[Tensor, ...]:
            full = list(arguments)
            for i, variable in zip(variables_at, variables, strict=True):
                full[i] = variable
            results = reference.recurrent(cell, directions, *full[:3], full[3:], lengths, resets)
            return tuple(results[i] for i in cotangents_at)

        _, pullback = torch.func.vjp(layer, *variables)
        found = pullback(tuple(cotangents))
        return tuple(found[variables_at.index(i)] for i in wanted_at)

    primals = [incoming[i] for i in cotangents_at] + [arguments[i] for i in variables_at]
    _, pullback = torch.func.vjp(first_derivative, *primals)
    found = pullback(tuple(grads[i] for i in wanted_at))
    for i, g in zip(cotangents_at, found[: len(cotangents_at)], strict=True):
        grad_incoming[i] = g
    for i, g in zip(variables_at, found[len(cotangents_at) :], strict=True):
        grad_arguments[i] = g
    return *grad_incoming, *grad_arguments[:3], *no_grad_of_kept, *grad_arguments[3:]


def _vmap_as_loop(
    function: type[torch.autograd.Function], size: int, in_dims: tuple, args: tuple
) -> tuple[tuple[Tensor, ...], int]:
    """One call for each slice: for ensembles of weights, and gradients for each sample."""
    runs = []
    for i in range(size):
        runs.append(
            function.apply(
                *(
                    arg.select(dim, i) if isinstance(arg, Tensor) and dim is not None else arg
                    for arg, dim in zip(args, in_dims, strict=True)
                )
            )
        )
    return tuple(torch.stack(results) for results in zip(*runs, strict=True)), 0


def _vmap_as_batch(
    size: int, in_dims: tuple, args: tuple
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """One call for all slices, laid side by side in the batch: the weights are shared."""
    cell, directions, keep, *tensors = args
    batch_dims = (1, 1, 1, 0, 1)  # of input, h_0, c_0, lengths, resets
    folded: list[Tensor | None] = []
    for tensor, dim, batch_dim in zip(tensors[:5], in_dims[3:8], batch_dims, strict=True):
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
    results = Recurrent.apply(cell, directions, keep, *folded, *tensors[5:])
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


def _op_setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    cell, directions, input, h_0, c_0, weights, lengths, resets, keep = inputs
    if keep not in ("everything", "states"):
        raise RuntimeError(
            "fastcells::recurrent_forward: gradients need keep='everything' or 'states', "
            f"got keep={keep!r}; fastcells.functional chooses it by itself"
        )
    flat = (cell, directions, keep, input, h_0, c_0, lengths, resets, *weights)
    Recurrent.setup_context(ctx, flat, output)


def _op_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    _, _, *needs_states, needs_weights, _, _, _ = ctx.needs_input_grad
    needs = (*needs_states, *needs_weights)
    found = RecurrentBackward.apply(
        ctx.cell, ctx.directions, needs, *grads[:_GRADS], *ctx.saved_tensors
    )
    states = _or_none(found[:3], needs_states)
    return None, None, *states, list(_or_none(found[3:], needs_weights)), None, None, None


if is_compiled():
    torch.library.register_autograd(
        "fastcells::recurrent_forward", _op_backward, setup_context=_op_setup_context
    )
