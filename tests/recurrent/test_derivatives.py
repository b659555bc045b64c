"""Derivatives of the recurrent layers, of any order and under every transform of torch.func.

The same transform of fastcells.reference, which is plain torch, says what is right. T=3, B=2, I=2,
H=3 with lengths and resets: small, because Jacobians and finite differences visit every element.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from fastcells.functional import recurrent_calls as functional
from problems import (
    IGNORING_H,
    MASKS,
    assert_equal_trees,
    assert_matches,
    assert_same_bits,
    each_cell,
    each_direction,
    each_mask,
    evaluate,
    loss_of,
    outputs_of,
    run_kernels,
    run_reference,
    tiny_problem,
    variables_of,
    with_one_result,
)

run_recomputing = partial(run_kernels, recompute=True)

# ---- finite differences ----


@pytest.mark.sampled(7)
@each_mask
@each_direction
@each_cell
def test_gradients_are_finite_differences(cell, proj_size, directions, masks):
    problem = tiny_problem(cell, directions, proj_size, masks)
    leaves = [v.requires_grad_() for v in variables_of(problem)]
    # Every element with both masks at once, one projection of them all with one or none.
    is_fast = len(masks) < 2
    function = outputs_of(run_kernels, problem)
    assert gradcheck(function, leaves, check_forward_ad=True, fast_mode=is_fast)


# Both masks at once, or neither: the second derivative knows them from the reference alone.
@pytest.mark.sampled(7)
@pytest.mark.parametrize("masks", ["all_steps", "lengths_and_resets"])
@each_direction
@each_cell
def test_second_derivatives_are_finite_differences(cell, proj_size, directions, masks):
    problem = tiny_problem(cell, directions, proj_size, MASKS[masks])
    leaves = [v.requires_grad_() for v in variables_of(problem)]
    assert gradgradcheck(outputs_of(run_kernels, problem), leaves, fast_mode=True)


# ---- torch.func: f gives all results, loss a scalar, v are the variables, v[0] the input ----


def batch(tensor, dim=0):
    """Three slices, of which the first is the tensor itself."""
    return torch.stack([tensor, 0.5 * tensor, tensor.flip(0)], dim)


def everything(v):
    return tuple(range(len(v)))


def states_in(v):
    """How many of the variables stand before the weights: input, h_0 and perhaps c_0."""
    return next(i for i, tensor in enumerate(v) if tensor.dim() == 2)


def vmap_over(f, v, which, dim=0, **options):
    """vmap of f over three slices of the variables numbered in `which`."""
    batched = [batch(t, dim) if i in which else t for i, t in enumerate(v)]
    in_dims = tuple(dim if i in which else None for i in everything(v))
    return vmap(f, in_dims, **options)(*batched)


def nested_vmap(f, loss, v):
    inner = vmap(f, (1, *[None] * (len(v) - 1)), out_dims=1)
    outer = vmap(inner, (None, *[0] * (len(v) - 1)))
    return outer(batch(v[0], 1), *map(batch, v[1:]))


def grad_of_vmap(f, loss, v):
    return grad(lambda *v: vmap_over(loss, v, [0]).sin().sum(), everything(v))(*v)


def grad_of_grad(f, loss, v):
    first = grad(loss, everything(v))
    return grad(lambda *v: sum(g.sin().sum() for g in first(*v)), everything(v))(*v)


def tangents(v):
    """One for each of `v`, and not random, which vmap refuses."""
    return tuple((k + 3 * t).cos() for k, t in enumerate(v))


TRANSFORMS = {
    "grad": lambda f, loss, v: grad(loss, everything(v))(*v),
    "vjp": lambda f, loss, v: vjp(f, *v)[1](tuple(torch.cos(out) for out in f(*v))),
    "grad_of_grad": grad_of_grad,
    "jacrev": lambda f, loss, v: jacrev(f, (0, 1))(*v),
    "jacfwd": lambda f, loss, v: jacfwd(f, (0, 1))(*v),
    "jvp": lambda f, loss, v: jvp(f, v, tangents(v)),
    "jvp_of_grad": lambda f, loss, v: jvp(grad(loss, everything(v)), v, tangents(v)),
    "hessian": lambda f, loss, v: hessian(loss, (0, 1))(*v),
    "jacrev_of_jacrev": lambda f, loss, v: jacrev(jacrev(loss, 1), 1)(*v),
    "vmap_input": lambda f, loss, v: vmap_over(f, v, [0]),
    "vmap_input_dim_2": lambda f, loss, v: vmap_over(f, v, [0], dim=2),
    "vmap_input_last_dim": lambda f, loss, v: vmap_over(f, v, [0], dim=-1),
    "vmap_states": lambda f, loss, v: vmap_over(f, v, range(1, states_in(v))),
    "vmap_weights": lambda f, loss, v: vmap_over(f, v, range(states_in(v), len(v))),
    "vmap_weight_ih_dim_1": lambda f, loss, v: vmap_over(f, v, [states_in(v)], dim=1),
    "vmap_everything": lambda f, loss, v: vmap_over(f, v, everything(v), out_dims=1),
    "nested_vmap": nested_vmap,
    "vmap_of_grad": lambda f, loss, v: vmap_over(grad(loss, everything(v)), v, [0]),
    "vmap_of_grad_of_weights": lambda f, loss, v: vmap_over(grad(loss, 0), v, everything(v)),
    "vmap_of_jvp": lambda f, loss, v: vmap_over(lambda *v: jvp(f, v, tangents(v)), v, [0]),
    "grad_of_vmap": grad_of_vmap,
    "jvp_of_vmap": lambda f, loss, v: jvp(lambda *v: vmap_over(f, v, [0]), v, tangents(v)),
}


#: Forward mode runs on the reference, for which recompute is nothing.
RECOMPUTED = ["grad", "vjp", "grad_of_grad", "vmap_input", "vmap_everything", "vmap_of_grad",
              "vmap_of_grad_of_weights", "grad_of_vmap"]  # fmt: skip
RUNS = [pytest.param(run_kernels, name, id=name) for name in TRANSFORMS]
RUNS += [pytest.param(run_recomputing, name, id=f"{name}-recompute") for name in RECOMPUTED]


@pytest.mark.sampled(7)
@pytest.mark.parametrize(("run", "name"), RUNS)
@each_cell
def test_a_transformed_layer_equals_the_transformed_reference(cell, proj_size, run, name):
    problem, transform = tiny_problem(cell, 2, proj_size), TRANSFORMS[name]
    actual, expected = (
        transform(outputs_of(r, problem), loss_of(r, problem), variables_of(problem))
        for r in (run, run_reference)
    )
    assert_equal_trees(actual, expected)


@pytest.mark.parametrize("transform", ["vmap_input", "vmap_of_grad", "grad", "jacrev"])
def test_transforms_without_forward_mode_run_on_the_kernels(transform, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("this call went to the reference")

    monkeypatch.setattr(functional.reference, "recurrent", refuse)
    problem = tiny_problem("gru")
    f, loss = outputs_of(run_kernels, problem), loss_of(run_kernels, problem)
    TRANSFORMS[transform](f, loss, variables_of(problem))
    with pytest.raises(AssertionError, match="went to the reference"):
        TRANSFORMS["jvp"](f, loss, variables_of(problem))


@pytest.mark.parametrize("dim", [0, 1])
@each_cell
def test_vmap_over_lengths_and_resets_equals_a_loop(cell, proj_size, dim):
    problem = tiny_problem(cell, 2, proj_size)
    lengths = torch.tensor([[3, 0], [1, 2], [2, 3], [0, 0]])
    resets = torch.rand(4, 3, 2) < 0.4

    def f(lengths, resets):
        masked = replace(problem, lengths=lengths, resets=resets)
        return tuple(out for out in run_kernels(masked) if out is not None)

    loop = [f(*masks) for masks in zip(lengths, resets, strict=True)]
    batched = vmap(f, (dim, dim))(lengths.movedim(0, dim), resets.movedim(0, dim))
    assert_equal_trees(batched, tuple(torch.stack(results) for results in zip(*loop, strict=True)))


def test_forward_mode_agrees_with_the_gradients_of_the_kernels():
    problem = tiny_problem("lstm", 2, proj_size=2)
    f, variables = outputs_of(run_kernels, problem), variables_of(problem)
    _, pushed = jvp(f, variables, tangents(variables))
    leaves = [v.requires_grad_() for v in variables]
    outputs = f(*leaves)
    cotangents = tangents(outputs)
    pulled = torch.autograd.grad(outputs, leaves, cotangents)
    forward = sum((a * b).sum() for a, b in zip(cotangents, pushed, strict=True))
    backward = sum((a * b).sum() for a, b in zip(pulled, tangents(variables), strict=True))
    torch.testing.assert_close(forward, backward, rtol=1e-12, atol=0)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad])
@each_cell
def test_a_dual_number_anywhere_keeps_its_tangent(cell, proj_size, grad_mode):
    problem = tiny_problem(cell, 2, proj_size)
    f, variables = outputs_of(run_kernels, problem), variables_of(problem)
    for i, (variable, tangent) in enumerate(zip(variables, tangents(variables), strict=True)):

        def of_one(value, i=i):
            return outputs_of(run_reference, problem)(*variables[:i], value, *variables[i + 1 :])

        _, expected = jvp(of_one, (variable,), (tangent,))
        with grad_mode(), forward_ad.dual_level():
            dual = forward_ad.make_dual(variable, tangent)
            results = f(*variables[:i], dual, *variables[i + 1 :])
            actual = [forward_ad.unpack_dual(result).tangent for result in results]
            # What a result does not depend on brings no tangent, where jvp has zeros.
            actual = [
                torch.zeros_like(e) if t is None and not e.any() else t
                for t, e in zip(actual, expected, strict=True)
            ]
            assert_equal_trees(actual, expected)


def test_a_gradient_within_a_dual_level_keeps_its_tangent():
    problem = tiny_problem("gru")
    variables = variables_of(problem)
    tangent = tangents(variables)[0]
    _, expected = jvp(grad(lambda x: loss_of(run_reference, problem)(x, *variables[1:])),
                      (variables[0],), (tangent,))  # fmt: skip
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(variables[0].requires_grad_(), tangent)
        loss = loss_of(run_kernels, problem)(dual, *variables[1:])
        (gradient,) = torch.autograd.grad(loss, dual)
        assert_equal_trees(forward_ad.unpack_dual(gradient).tangent, expected)


# ---- parts of the gradient ----


@each_direction
@each_cell
def test_each_gradient_alone_equals_it_among_all(cell, proj_size, directions):
    problem = tiny_problem(cell, directions, proj_size)
    among_all = evaluate(run_kernels, problem)
    outputs = {name: among_all[name] for name in among_all if not name.startswith("grad of ")}
    for name in problem.variables():
        alone = evaluate(run_kernels, problem, wanted=[name])
        assert_same_bits(alone, outputs | {f"grad of {name}": among_all[f"grad of {name}"]})


RESULTS = {"output": 0, "h_n": 1, "c_n": 2, "cells": 3}


@each_direction
@each_cell
def test_gradients_of_each_result_alone_match_reference(cell, proj_size, directions):
    problem = tiny_problem(cell, directions, proj_size)
    for index in range(2 if problem.c_0 is None else 4):
        runs = (with_one_result(run, index) for run in (run_kernels, run_reference))
        actual, expected = (evaluate(run, problem) for run in runs)
        assert_matches(actual, expected)


def second_derivatives(run, problem, index, first):
    """Of one result: with respect to the variable `first`, and then to all of them."""
    leaves = {name: v.detach().requires_grad_() for name, v in problem.variables().items()}
    result = run(problem.with_variables(leaves.values()))[index]
    (gradient,) = torch.autograd.grad(result.sin().sum(), leaves[first], create_graph=True)
    return torch.autograd.grad(gradient.sin().sum(), list(leaves.values()), materialize_grads=True)


@pytest.mark.parametrize("first", ["input", "c_0", "weight_hh", "bias_ih_reverse", "weight_hr"])
@pytest.mark.parametrize("index", RESULTS.values(), ids=RESULTS.keys())
def test_second_derivatives_of_parts_match_reference(index, first):
    problem = tiny_problem("lstm", 2, proj_size=2)
    actual, expected = (
        second_derivatives(run, problem, index, first) for run in (run_kernels, run_reference)
    )
    assert_equal_trees(actual, expected)
    assert any(part.any() for part in actual)


@each_cell
def test_third_derivatives_match_reference(cell, proj_size):
    problem = tiny_problem(cell, 2, proj_size)

    def third(run):
        leaves = [v.detach().requires_grad_() for v in variables_of(problem)]
        result = loss_of(run, problem)(*leaves)
        for create_graph in (True, True, False):
            grads = torch.autograd.grad(result, leaves, create_graph=create_graph)
            result = sum((0.1 * g).sin().sum() for g in grads)  # stays of order one
        return grads

    assert_equal_trees(third(run_kernels), third(run_reference))


def test_a_retained_graph_gives_the_same_second_derivatives_again():
    problem = tiny_problem("lstm")
    leaves = [v.requires_grad_() for v in variables_of(problem)]
    first = torch.autograd.grad(loss_of(run_kernels, problem)(*leaves), leaves, create_graph=True)
    penalty = sum(g.pow(2).sum() for g in first)
    once = torch.autograd.grad(penalty, leaves, retain_graph=True)
    again = torch.autograd.grad(penalty, leaves)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("run", [run_kernels, run_recomputing], ids=["kept", "recompute"])
@each_cell
def test_a_batch_of_gradients_equals_one_after_the_other(cell, proj_size, run):
    problem = tiny_problem(cell, 2, proj_size)
    leaves = [v.requires_grad_() for v in variables_of(problem)]
    output = run(problem)[0]
    cotangents = torch.randn(3, *output.shape, dtype=torch.float64)
    if cell in IGNORING_H:
        leaves.pop(1)
    batched = torch.autograd.grad(
        output, leaves, cotangents, is_grads_batched=True, retain_graph=True
    )
    loop = [torch.autograd.grad(output, leaves, g, retain_graph=True) for g in cotangents]
    assert_equal_trees(batched, tuple(torch.stack(grads) for grads in zip(*loop, strict=True)))
