"""Derivatives of attention, with dot-product and with additive scores.

As in :mod:`fastcells.functional.recurrent_autograd`: eager calls on a CPU are recorded by a node of
C++ (csrc/attention/way_back.cpp), others and those under a transform by :class:`Attention`, a
new-style Function, whose backward is :class:`AttentionBackward`, a Function of its own with a
derivative through `fastcells.reference`; a traced call meets the op itself, for which the same
formulas are registered. Forward mode goes to the reference before it comes here.

The two ops take the same tensors and differ in their variables and options, so that both Functions
serve both: `variables` are query, key, value, and for additive scores scale `[D]`; `options` are
the numbers of the op, in its order, without `return_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops import attention as ops
from ..reference import attention as reference
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

__all__ = [
    "SCORES",
    "AdditiveOptions",
    "Attention",
    "AttentionBackward",
    "DotOptions",
    "forward_without_graph",
    "gradients_of_node",
]


class DotOptions(NamedTuple):
    """The numbers of attention_forward; see fastcells.reference.attention."""

    scale: float
    softcap: float = 0.0
    left: int = -1
    right: int = -1
    offset: int = 0
    dropout_p: float = 0.0


class AdditiveOptions(NamedTuple):
    """The numbers of additive_attention_forward."""

    dropout_p: float = 0.0


class Score(NamedTuple):
    """What the two kinds of attention differ in."""

    forward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, ...]]
    reference: Callable[..., tuple[Tensor, Tensor]]
    variables: int


#: The kinds of score, by the name that stands first in a Function's arguments.
SCORES = {
    "dot": Score(ops.attention_forward, ops.attention_backward, reference.attention, 3),
    "additive": Score(
        ops.additive_attention_forward,
        ops.additive_attention_backward,
        reference.additive_attention,
        4,
    ),
}


@positional
def forward_without_graph(
    score: str,
    options: DotOptions | AdditiveOptions,
    return_weights: bool,
    mask: Tensor | None,
    key_lengths: Tensor | None,
    seed: Tensor | None,
    *variables: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The op past the formulas that are registered for it, which are Python and cost more than a
    small attention; nothing is recorded. For eager calls alone."""
    with torch._C._AutoDispatchBelowAutograd():
        return SCORES[score].forward(*variables, mask, key_lengths, seed, *options, return_weights)


class Attention(torch.autograd.Function):
    """(score, options, return_weights, mask, key_lengths, seed, *variables) -> output, logsumexp,
    weights; weights of shape (0,) where they are not asked for."""

    forward = staticmethod(forward_without_graph)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        ctx.score, ctx.options, return_weights, *tensors = inputs
        output, logsumexp, weights = outputs
        ctx.mark_non_differentiable(logsumexp, *(() if return_weights else (weights,)))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output, logsumexp, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        _, _, _, needs_mask, _, _, *needs = ctx.needs_input_grad
        *variables, mask = _gradients(
            ctx.score, ctx.options, (*needs, needs_mask), (grads[0], grads[2]), ctx.saved_tensors
        )
        return None, None, None, mask, None, None, *variables

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], Any]:
        seed, scale_dims = args[5], in_dims[9:]
        is_one_call = seed is None and all(dim is None for dim in scale_dims)
        if is_one_call and any(dim is not None for dim in in_dims[6:9]):
            return _vmap_as_batch(info.batch_size, in_dims, args)
        return vmap_as_loop(Attention, info.batch_size, in_dims, args)


class AttentionBackward(torch.autograd.Function):
    """(score, options, needs_mask_grad, grad_output, grad_weights, output, logsumexp, mask,
    key_lengths, seed, *variables) -> gradients of the variables, and of mask."""

    @staticmethod
    @positional
    def forward(
        score, options, needs_mask_grad, grad_output, grad_weights, output, logsumexp, mask,
        key_lengths, seed, *variables,
    ):  # fmt: skip
        if grad_output is None:
            grad_output = torch.zeros_like(output)
        with torch._C._AutoDispatchBelowAutograd():
            return SCORES[score].backward(
                grad_output, grad_weights, *variables, mask, key_lengths, seed, output, logsumexp,
                *options, needs_mask_grad,
            )  # fmt: skip

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        ctx.score, ctx.options, ctx.needs_mask_grad, *tensors = inputs
        if not ctx.needs_mask_grad:
            ctx.mark_non_differentiable(outputs[-1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_output, grad_weights, _, _, mask, key_lengths, seed, *variables = ctx.saved_tensors
        incoming, (*variables, mask) = second_derivative(
            _reference(ctx.score, ctx.options, key_lengths, seed),
            (*variables, mask),
            (grad_output, grad_weights),
            (*[True] * len(variables), ctx.needs_mask_grad),
            grads,
        )
        # Output and logsumexp depend on the variables alone and are accounted for there.
        return None, None, None, *incoming, None, None, mask, None, None, *variables

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], Any]:
        return vmap_as_loop(AttentionBackward, info.batch_size, in_dims, args)


def _reference(
    score: str, options: tuple[Any, ...], key_lengths: Tensor | None, seed: Tensor | None
) -> Callable[..., tuple[Tensor, Tensor]]:
    """output and weights as a function of the variables and the mask."""

    def attend(*variables_and_mask):
        return SCORES[score].reference(*variables_and_mask, key_lengths, seed, *options)

    return attend


def _gradients(
    score: str,
    options: DotOptions | AdditiveOptions,
    needs: Sequence[bool],  # of the variables and the mask
    grads: tuple[Tensor | None, Tensor | None],  # of output and weights
    saved: Sequence[Tensor | None],  # as Attention saves them
) -> tuple[Tensor | None, ...]:
    """Gradients of the variables and the mask, None where not needed."""
    settle_in_forked_child()
    output, logsumexp, mask, key_lengths, seed, *variables = saved
    if is_batched_by_autograd(grads):
        attend = _reference(score, options, key_lengths, seed)
        return tuple(first_derivative(attend, (*variables, mask), needs, grads))
    again = is_differentiated_again()
    found = (AttentionBackward.apply if again else AttentionBackward.forward)(
        score, options, needs[-1], *grads, output, logsumexp, mask, key_lengths, seed, *variables
    )
    return or_none(found, needs)


def gradients_of_node(
    is_additive: bool,
    scale: float,
    softcap: float,
    left: int,
    right: int,
    offset: int,
    dropout_p: float,
    needs: Sequence[bool],
    grads: Sequence[Tensor | None],
    saved: Sequence[Any],
) -> tuple[Tensor | None, ...]:
    """The same for the node of C++ (csrc/attention/way_back.cpp), where it may be differentiated
    again, or something watches. Its dot products may have a head alone, and neither heads nor
    batch; its masks may lack dimensions in front."""
    score = "additive" if is_additive else "dot"
    options: DotOptions | AdditiveOptions = AdditiveOptions(dropout_p)
    if not is_additive:
        options = DotOptions(scale, softcap, left, right, offset, dropout_p)
    output, logsumexp, mask, key_lengths, seed, *variables = saved
    rank = variables[0].dim()
    heads = {4: (), 3: () if is_additive else (slice(None), None), 2: (None, None)}[rank]
    one_head = tuple(0 if part is None else part for part in heads)

    def of_op(tensor: Any) -> Any:
        return tensor if tensor is None or not heads else tensor[heads]

    def of_rank(tensor: Any) -> Any:
        return tensor if tensor is None or not heads else tensor[one_head]

    missing = 0 if mask is None else rank - mask.dim()
    with torch.enable_grad():  # what is differentiated again is the op's, of these
        wide = of_op(mask[(None,) * missing]) if missing else of_op(mask)
        kept = (of_op(output), logsumexp.squeeze(1) if is_additive else logsumexp)
        arguments = variables if is_additive else [*map(of_op, variables)]
    *found, grad_mask = _gradients(
        score, options, needs, (of_op(grads[0]), of_op(grads[1])),
        (*kept, wide, key_lengths, seed, *arguments),
    )  # fmt: skip
    if grad_mask is not None:
        grad_mask = of_rank(grad_mask)
        grad_mask = grad_mask[(0,) * missing] if missing else grad_mask
    return (*(found if is_additive else map(of_rank, found)), grad_mask)


def _vmap_as_batch(
    size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """One call for all slices, laid side by side in the batch."""
    score, options, return_weights, mask, key_lengths, _, *variables = args
    mask_dim, lengths_dim, _, *dims = in_dims[3:]
    rows = next(v.movedim(d, 0).shape[1] for v, d in zip(variables, dims, strict=True)
                if d is not None)  # fmt: skip

    def folded(tensor: Tensor | None, dim: int | None) -> Tensor | None:
        if tensor is None:
            return None
        tensor = tensor.unsqueeze(0) if dim is None else tensor.movedim(dim, 0)
        return tensor.expand(size, rows, *tensor.shape[2:]).flatten(0, 1)

    is_shared = mask is not None and mask_dim is None and mask.shape[0] == 1
    results = Attention.apply(
        score,
        options,
        return_weights,
        mask if is_shared else folded(mask, mask_dim),
        folded(key_lengths, lengths_dim),
        None,
        *(folded(v, d) for v, d in zip(variables[:3], dims[:3], strict=True)),
        *variables[3:],
    )
    output, logsumexp, weights = (r if r.dim() == 1 else r.unflatten(0, (size, rows))
                                  for r in results)  # fmt: skip
    return (output, logsumexp, weights), (0, 0, 0 if return_weights else None)


def _op_setup_context(score: str) -> Callable[..., None]:
    count = SCORES[score].variables

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        variables, (mask, key_lengths, seed, *options, return_weights) = (
            inputs[:count], inputs[count:],
        )  # fmt: skip
        flat = (score, tuple(options), return_weights, mask, key_lengths, seed, *variables)
        Attention.setup_context(ctx, flat, output)

    return setup_context


def _op_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    count = SCORES[ctx.score].variables
    found = _gradients(
        ctx.score, ctx.options, ctx.needs_input_grad[: count + 1], (grads[0], grads[2]),
        ctx.saved_tensors,
    )  # fmt: skip
    rest = len(ctx.needs_input_grad) - count - 1
    return *found, *(None,) * rest


if ops.KERNEL_DEVICES:
    for _name, _score in (("attention", "dot"), ("additive_attention", "additive")):
        torch.library.register_autograd(
            f"fastcells::{_name}_forward", _op_backward, setup_context=_op_setup_context(_score)
        )
