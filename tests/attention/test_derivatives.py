"""Derivatives of attention, of any order and under every transform of torch.func.

The same transform of fastcells.reference, which is plain torch, says what is right.
"""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap

from attention_problems import (
    SEED,
    TINY,
    each_case,
    loss_of,
    make_problem,
    on_the_reference,
    outputs_of,
    run,
)
from fastcells.functional import scaled_dot_product_attention
from pairs import one_thread  # noqa: F401 (an autouse fixture)
from problems import assert_equal_trees

#: The second derivative knows the options from the reference alone: not every one is tried.
SOME = ["plain", "bias", "lengths", "dropout", "everything", "additive", "additive_everything"]


def tiny(case):
    return make_problem(case, TINY)


def leaves_of(problem):
    return [t.clone().requires_grad_() for t in problem.variables.values()]


# ---- finite differences ----


@pytest.mark.sampled(3)
@each_case
def test_gradients_are_finite_differences(case):
    problem = tiny(case)
    assert gradcheck(outputs_of(run, problem), leaves_of(problem), check_forward_ad=True)


@pytest.mark.parametrize("case", SOME)
def test_second_derivatives_are_finite_differences(case):
    problem = tiny(case)
    assert gradgradcheck(outputs_of(run, problem), leaves_of(problem))


@pytest.mark.parametrize("case", ["everything", "additive_everything"])
def test_derivatives_of_the_weights_alone(case):
    problem = tiny(case)
    leaves = leaves_of(problem)
    used = [leaf for name, leaf in zip(problem.variables, leaves, strict=True) if name != "value"]

    def weights(*variables):
        return run(problem.with_variables(variables))[1]

    assert gradcheck(weights, leaves)
    assert gradgradcheck(weights, leaves)
    assert all(g is not None for g in torch.autograd.grad(weights(*leaves).sum(), used))


@pytest.mark.parametrize("wanted", ["query", "key", "value", "attn_mask"])
def test_one_gradient_alone_is_the_same_as_with_the_others(wanted):
    problem = tiny("everything")
    leaves = dict(zip(problem.variables, leaves_of(problem), strict=True))
    torch.manual_seed(0)
    output, weights = run(problem.with_variables(leaves.values()))
    loss = output.sin().sum() + weights.cos().sum()
    expected = torch.autograd.grad(loss, leaves[wanted])
    detached = {n: t if n == wanted else t.detach() for n, t in leaves.items()}
    output, weights = run(problem.with_variables(detached.values()))
    assert_equal_trees(
        torch.autograd.grad(output.sin().sum() + weights.cos().sum(), leaves[wanted]), expected
    )


# ---- torch.func: f gives all results, loss a scalar, v are the variables ----


def batch(tensor, dim=0):
    """Three slices, of which the first is the tensor itself."""
    return torch.stack([tensor, 0.5 * tensor, tensor.flip(0)], dim)


def everything(v):
    return tuple(range(len(v)))


def vmap_over(f, v, which, dim=0, **options):
    """vmap of f over three slices of the variables numbered in `which`."""
    batched = [batch(t, dim) if i in which else t for i, t in enumerate(v)]
    in_dims = tuple(dim if i in which else None for i in everything(v))
    return vmap(f, in_dims, randomness="same", **options)(*batched)


def tangents(v):
    """One for each of `v`, and not random, which vmap refuses."""
    return tuple((k + 3 * t).cos() for k, t in enumerate(v))


def grad_of_grad(f, loss, v):
    first = grad(loss, everything(v))
    return grad(lambda *v: sum(g.sin().sum() for g in first(*v)), everything(v))(*v)


TRANSFORMS = {
    "grad": lambda f, loss, v: grad(loss, everything(v))(*v),
    "vjp": lambda f, loss, v: vjp(f, *v)[1](tuple(torch.cos(out) for out in f(*v))),
    "grad_of_grad": grad_of_grad,
    "jacrev": lambda f, loss, v: jacrev(f, (0, 1))(*v),
    "jacfwd": lambda f, loss, v: jacfwd(f, (0, 1), randomness="same")(*v),
    "jvp": lambda f, loss, v: jvp(f, v, tangents(v)),
    "jvp_of_grad": lambda f, loss, v: jvp(grad(loss, everything(v)), v, tangents(v)),
    "hessian": lambda f, loss, v: jacfwd(jacrev(loss, 0), 0, randomness="same")(*v),
    "vmap_query": lambda f, loss, v: vmap_over(f, v, [0]),
    "vmap_key_last_dim": lambda f, loss, v: vmap_over(f, v, [1], dim=-1),
    "vmap_everything": lambda f, loss, v: vmap_over(f, v, everything(v), out_dims=1),
    "vmap_last": lambda f, loss, v: vmap_over(f, v, [len(v) - 1]),
    "vmap_of_grad": lambda f, loss, v: vmap_over(grad(loss, everything(v)), v, [0, 1, 2]),
    "grad_of_vmap": lambda f, loss, v: grad(
        lambda *v: vmap_over(loss, v, [0, 2]).sin().sum(), everything(v)
    )(*v),
    "nested_vmap": lambda f, loss, v: vmap_over(lambda *v: vmap_over(f, v, [1]), v, [0]),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("case", SOME)
def test_transforms_match_the_reference(case, transform):
    problem = tiny(case)
    values = tuple(problem.variables.values())
    apply = lambda: TRANSFORMS[transform](  # noqa: E731
        outputs_of(run, problem), loss_of(run, problem), values
    )
    actual = apply()
    with on_the_reference():
        expected = apply()
    assert_equal_trees(actual, expected)


def test_gradients_of_each_sample_are_those_of_a_loop():
    problem = tiny("bias")
    query, key, value, bias = problem.variables.values()

    def loss(bias, query, key, value):
        return scaled_dot_product_attention(query, key, value, bias).sin().sum()

    found = vmap(grad(loss), (None, 0, 0, 0))(bias, query, key, value)
    expected = [grad(loss)(bias, *sample) for sample in zip(query, key, value, strict=True)]
    assert_equal_trees(found, torch.stack(expected))


def test_vmap_draws_dropout_as_torch_does():
    """One mask for all with randomness="same", one for each with "different"."""
    query = torch.ones(3, 1, 1, 8, 4)

    def drop(query):
        return scaled_dot_product_attention(query, query, query, dropout_p=0.5)

    same = vmap(drop, randomness="same")(query)
    assert torch.equal(same[0], same[1])
    different = vmap(drop, randomness="different")(query)
    assert not torch.equal(different[0], different[1])
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(drop)(query)


def test_forward_mode_keeps_its_tangent():
    query = torch.randn(1, 1, 3, 2, dtype=torch.float64)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(query, torch.ones_like(query))
        output = scaled_dot_product_attention(dual, query, query)
        assert forward_ad.unpack_dual(output).tangent is not None


@pytest.mark.parametrize("case", ["everything", "additive_everything"])
def test_batched_gradients_are_those_of_a_loop(case):
    problem = tiny(case)
    leaves = leaves_of(problem)
    output = run(problem.with_variables(leaves))[0]
    cotangents = torch.randn(2, *output.shape, dtype=torch.float64)
    found = torch.autograd.grad(
        output, leaves, cotangents, is_grads_batched=True, retain_graph=True
    )
    loop = [torch.autograd.grad(output, leaves, c, retain_graph=True) for c in cotangents]
    assert_equal_trees(found, [torch.stack(g) for g in zip(*loop, strict=True)])


def test_the_seed_of_a_call_is_torchs():
    query = torch.randn(1, 2, 6, 4)
    torch.manual_seed(SEED)
    first, second = (
        scaled_dot_product_attention(query, query, query, dropout_p=0.5) for _ in range(2)
    )
    assert not torch.equal(first, second)
    torch.manual_seed(SEED)
    assert torch.equal(scaled_dot_product_attention(query, query, query, dropout_p=0.5), first)
