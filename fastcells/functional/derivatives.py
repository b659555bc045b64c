"""What autograd Functions of every topic share: derivatives through the reference, and vmap.

A reference is a function of tensors alone (`None` where one is absent) that returns a tuple of
tensors, composed of differentiable torch operations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "first_derivative",
    "is_batched_by_autograd",
    "is_differentiated_again",
    "or_none",
    "positional",
    "second_derivative",
    "vmap_as_loop",
]

Reference = Callable[..., Sequence[Tensor]]
MaybeTensors = Sequence[Tensor | None]


def positional(forward: Any) -> Any:
    """A Function's forward, said to take any arguments: Function.apply reads its signature at each
    call, to fill in defaults that ours do not have, which costs more than a small layer."""
    forward.__signature__ = inspect.Signature(
        [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)]
    )
    return forward


def is_differentiated_again() -> bool:
    """Whether a backward that is being run may be differentiated, or transformed, in its turn."""
    return torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()


def or_none(grads: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Absent gradients as autograd wants them."""
    return tuple(g if needed else None for g, needed in zip(grads, needs, strict=True))


def is_batched_by_autograd(grads: MaybeTensors) -> bool:
    """Whether these are the batched gradients of torch.autograd.grad(is_grads_batched=True), whose
    vmap is not torch.func's and knows no rule of a Function."""
    return any(g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in grads)


def first_derivative(
    reference: Reference, arguments: MaybeTensors, needs: Sequence[bool], grads: MaybeTensors
) -> list[Tensor | None]:
    """Gradients of the `arguments` that are needed, given those of the results, by autograd."""
    wanted_at = [i for i, needed in enumerate(needs) if needed and arguments[i] is not None]
    given_at = [i for i, g in enumerate(grads) if g is not None]
    create_graph = torch.is_grad_enabled()
    # By aliases: the arguments may be one tensor, or depend on one another in the caller's graph.
    with torch.enable_grad():
        aliases: list[Any] = [
            a if a is None or not needed else a.view_as(a) if create_graph
            else a.detach().requires_grad_()
            for a, needed in zip(arguments, needs, strict=True)
        ]  # fmt: skip
        results = reference(*aliases)
    found = torch.autograd.grad(
        [results[i] for i in given_at],
        [aliases[i] for i in wanted_at],
        [grads[i] for i in given_at],
        create_graph=create_graph,
        allow_unused=True,
    )
    gradients: list[Tensor | None] = [None] * len(arguments)
    for i, g in zip(wanted_at, found, strict=True):
        gradients[i] = g
    return gradients


def second_derivative(
    reference: Reference,
    arguments: MaybeTensors,
    incoming: MaybeTensors,
    needs: Sequence[bool],
    grads: MaybeTensors,
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients of `incoming` and of `arguments`, given those of the first derivative's results.

    The first derivative is written as a function of the gradients `incoming` of the reference's
    results and of its arguments, and differentiated.
    """
    # Only what is there and needed is differentiated.
    cotangents_at = [i for i, g in enumerate(incoming) if g is not None]
    wanted_at = [i for i, g in enumerate(grads) if needs[i] and g is not None]
    variables_at = [i for i, a in enumerate(arguments) if a is not None and a.is_floating_point()]
    grad_incoming: list[Tensor | None] = [None] * len(incoming)
    grad_arguments: list[Tensor | None] = [None] * len(arguments)
    if not cotangents_at or not wanted_at:
        return grad_incoming, grad_arguments

    def first(*flat: Tensor) -> tuple[Tensor, ...]:
        cotangents, variables = flat[: len(cotangents_at)], flat[len(cotangents_at) :]

        def results_of(*variables: Tensor) -> tuple[Tensor, ...]:
            full = list(arguments)
            for i, variable in zip(variables_at, variables, strict=True):
                full[i] = variable
            results = reference(*full)
            return tuple(results[i] for i in cotangents_at)

        pullback = torch.func.vjp(results_of, *variables)[1]
        found = pullback(tuple(cotangents))
        return tuple(found[variables_at.index(i)] for i in wanted_at)

    primals = [incoming[i] for i in cotangents_at] + [arguments[i] for i in variables_at]
    pullback = torch.func.vjp(first, *primals)[1]
    found = pullback(tuple(grads[i] for i in wanted_at))
    for i, g in zip(cotangents_at, found[: len(cotangents_at)], strict=True):
        grad_incoming[i] = g
    for i, g in zip(variables_at, found[len(cotangents_at) :], strict=True):
        grad_arguments[i] = g
    return grad_incoming, grad_arguments


def vmap_as_loop(
    function: type[torch.autograd.Function],
    size: int,
    in_dims: tuple[Any, ...],
    args: tuple[Any, ...],
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
