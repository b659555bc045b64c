"""Derivatives of linear_scan, of any order, in both modes, under every transform of torch.func."""

import itertools

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import fastcells
from fastcells.functional import scan_autograd
from scan_problems import make_problem, run, run_reference
from ways import through_python

CASES = {
    "plain": {},
    "without_h_0": dict(h_0=False),
    "reverse": dict(reverse=True),
    "lengths": dict(lengths=True),
    "reverse_lengths_resets": dict(reverse=True, lengths=True, resets=True, batch_first=True),
    "resets": dict(resets=True),
    "lengths_resets": dict(lengths=True, resets=True),
    "unit_factor": dict(factor="unit", batch_first=True),
    "row_factor": dict(factor="row", reverse=True),
    "one_factor": dict(factor="one", lengths=True),
}
each_case = pytest.mark.parametrize("case", CASES)
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)


def tiny(case, dtype=torch.float64):
    return make_problem(4, 3, 2, dtype=dtype, **CASES[case])


def function_of(run, problem):
    return lambda *variables: run(problem.with_variables(variables))


def leaves_of(problem):
    return [x.clone().requires_grad_() for x in problem.variables()]


def assert_trees_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.sampled(3)
@each_dtype
@each_case
def test_gradients_are_finite_differences(case, dtype):
    problem = tiny(case, dtype)
    assert gradcheck(function_of(run, problem), leaves_of(problem), check_forward_ad=True)


@pytest.mark.sampled(3)
@each_dtype
@each_case
def test_second_derivatives_are_finite_differences(case, dtype):
    problem = tiny(case, dtype)
    assert gradgradcheck(
        function_of(run, problem), leaves_of(problem), check_fwd_over_rev=dtype == torch.float64
    )


@pytest.mark.parametrize("case", ["plain", "reverse_lengths_resets", "unit_factor"])
def test_third_derivatives_equal_the_references(case):
    def third(run):
        leaves = leaves_of(problem)
        h = run(problem.with_variables(leaves))
        for _ in range(2):
            found = torch.autograd.grad((h**3).sum(), leaves, create_graph=True)
            h = sum((g**2).sum() for g in found)
        return torch.autograd.grad(h, leaves)

    problem = tiny(case)
    assert_trees_close(third(run), third(run_reference))


@each_case
def test_what_is_not_needed_is_not_computed(case, monkeypatch):
    """Each argument alone, and which gradients the op was asked for."""
    through_python(monkeypatch)
    asked, original = [], scan_autograd.ops.linear_scan_backward

    def watching(*args):
        asked.append(list(args[-1]))
        return original(*args)

    monkeypatch.setattr(scan_autograd.ops, "linear_scan_backward", watching)
    problem = tiny(case)
    for number in range(len(problem.variables())):
        variables, plain = problem.variables(), problem.variables()
        variables[number] = variables[number].clone().requires_grad_()
        plain[number] = plain[number].clone().requires_grad_()
        (found,) = torch.autograd.grad(
            (run(problem.with_variables(variables)) ** 2).sum(), [variables[number]]
        )
        (expected,) = torch.autograd.grad(
            (run_reference(problem.with_variables(plain)) ** 2).sum(), [plain[number]]
        )
        assert_trees_close(found, expected)
        assert asked.pop() == [number == i for i in range(3)]


def test_h_is_kept_for_the_gradient_of_a_alone():
    a, b = torch.rand(5, 2, 3), torch.rand(5, 2, 3).requires_grad_()
    h = fastcells.linear_scan(a, b)
    h.mul_(2).sum().backward()
    a.requires_grad_()
    h = fastcells.linear_scan(a, b)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.mul_(2).sum().backward()


def test_a_graph_may_be_used_twice():
    leaves = leaves_of(problem := tiny("plain"))
    h = run(problem.with_variables(leaves)).sum()
    first = torch.autograd.grad(h, leaves, retain_graph=True)
    assert_trees_close(torch.autograd.grad(h, leaves), first)


def test_one_tensor_as_factor_and_input():
    x = torch.rand(6, 2, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: fastcells.linear_scan(x, x), [x])


@each_case
def test_forward_mode_equals_the_references(case):
    problem = tiny(case)
    variables = tuple(problem.variables())
    tangents = tuple(torch.randn_like(x) for x in variables)
    found = jvp(function_of(run, problem), variables, tangents)
    expected = jvp(function_of(run_reference, problem), variables, tangents)
    assert_trees_close(found, expected)
    zeros = [torch.zeros_like(t) for t in tangents]
    only_b = (zeros[0], tangents[1], *zeros[2:])
    of_b_alone = jvp(function_of(run_reference, problem), variables, only_b)[1]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, t) for x, t in zip(variables, tangents, strict=True)]
        assert_trees_close(tuple(forward_ad.unpack_dual(run(problem.with_variables(duals)))), found)
        alone = [variables[0], duals[1], *variables[2:]]
        tangent = forward_ad.unpack_dual(run(problem.with_variables(alone))).tangent
        assert_trees_close(tangent, of_b_alone)


@pytest.mark.parametrize("transform", [jacrev, jacfwd, hessian], ids=lambda t: t.__name__)
@pytest.mark.parametrize("case", ["plain", "reverse_lengths_resets", "row_factor"])
def test_transforms_equal_the_references(case, transform):
    problem = tiny(case)

    def of(run):
        def loss(a, b):
            rest = problem.variables()[2:]
            return (run(problem.with_variables([a, b, *rest])) ** 3).sum(-1)

        return transform(loss, argnums=(0, 1))(problem.a, problem.b)

    assert_trees_close(of(run), of(run_reference))


@pytest.mark.parametrize("in_dims", list(itertools.product((None, 0, 1), repeat=2))[1:])
@pytest.mark.parametrize("case", ["plain", "reverse_lengths_resets", "unit_factor"])
def test_vmap_equals_a_loop(case, in_dims):
    problem, size = tiny(case), 3
    a, b, *h_0 = problem.variables()
    batched = [
        x
        if dim is None
        else torch.stack([x * (i + 1) / size for i in range(size)], min(dim, x.dim()))
        for x, dim in zip((a, b), in_dims, strict=True)
    ]

    def call(a, b):
        return run(problem.with_variables([a, b, *h_0]))

    def loss(a, b):
        return (call(a, b) ** 2).sum()

    for function in (call, grad(loss), grad(loss, argnums=1)):
        found = vmap(function, in_dims)(*batched)
        for i in range(size):
            one = [
                x if d is None else x.select(d, i) for x, d in zip(batched, in_dims, strict=True)
            ]
            assert_trees_close(found[i], function(*one))


def test_vmap_over_everything():
    problem = make_problem(5, 2, 3, lengths=True, resets=True)
    others = make_problem(5, 2, 3, lengths=True, resets=True, seed=3)

    def call(a, b, h_0, lengths, resets):
        return fastcells.linear_scan(a, b, h_0, lengths=lengths, resets=resets)

    both = [torch.stack(pair) for pair in zip(
        (*problem.variables(), problem.lengths, problem.resets),
        (*others.variables(), others.lengths, others.resets), strict=True)]  # fmt: skip
    found = vmap(call)(*both)
    assert_trees_close(found[0], run(problem))
    assert_trees_close(found[1], run(others))


@pytest.mark.parametrize("case", ["plain", "reverse_lengths_resets"])
def test_batched_gradients(case):
    problem = tiny(case)

    def of(run):
        leaves = leaves_of(problem)
        h = run(problem.with_variables(leaves))
        along = torch.eye(h.numel(), dtype=h.dtype).view(-1, *h.shape)
        return torch.autograd.grad(h, leaves, along, is_grads_batched=True)

    assert_trees_close(of(run), of(run_reference))


def test_vjp_and_functionalize():
    problem = tiny("lengths_resets")
    variables = problem.variables()
    h, pullback = vjp(function_of(run, problem), *variables)
    expected, pull = vjp(function_of(run_reference, problem), *variables)
    assert_trees_close((h, pullback(h)), (expected, pull(expected)))
    assert_trees_close(functionalize(function_of(run, problem))(*variables), expected)


@each_case
def test_both_ways_of_an_eager_call_give_the_same_bits(case, monkeypatch, took):
    """At once in C++, and through Python: results, gradients, and what is differentiated again."""

    def everything():
        leaves = leaves_of(problem)
        h = run(problem.with_variables(leaves))
        first = torch.autograd.grad(h.sum(), leaves, retain_graph=True)
        grads = torch.autograd.grad((h**2).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in grads), leaves)
        with torch.no_grad():
            return [run(problem), h.detach(), *first, *(g.detach() for g in grads), *second]

    problem = tiny(case)
    found = everything()
    assert took == ["scan_at_once"] * 2
    through_python(monkeypatch)
    assert all(torch.equal(x, y) for x, y in zip(found, everything(), strict=True))
    assert took == ["scan_at_once"] * 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_the_adjoint_of_the_op_is_the_adjoint(dtype):
    """<S b, g> = <b, S* g>."""
    for case in CASES:
        problem = tiny(case, dtype)
        a = problem.a[(None,) * (3 - problem.a.dim())]
        op = torch.ops.fastcells.linear_scan
        rest = (None, problem.lengths, problem.resets, problem.batch_first, problem.reverse)
        g = torch.randn_like(problem.b)
        left = (op(a, problem.b, *rest, False) * g.conj()).sum()
        right = (problem.b * op(a, g, *rest, True).conj()).sum()
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
