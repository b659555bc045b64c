"""torch.compile, torch.export and torch.library's own checks of the recurrent ops.

A traced layer is one op, on the same kernels as an eager one. Where a test compiles, the backend is
aot_eager, which traces the way back as well and leaves out only inductor's code; once it is
inductor.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad
from torch.export import Dim
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.library import opcheck

from fastcells.functional import recurrent_calls as functional
from fastcells.ops import recurrent as ops
from fastcells.testing import make_layer_problem
from problems import (
    assert_matches,
    each_cell,
    evaluate,
    run_kernels,
    run_reference,
    small_problem,
)
from tracing import (
    no_compiled_code_from_other_tests,  # noqa: F401 (an autouse fixture)
    quiet_tracing,
)

pytestmark = quiet_tracing


def masked_problem(cell, proj_size=0, directions=2):
    return small_problem(cell, directions, proj_size, lengths=True, resets=True)


# ---- torch.library.opcheck: schema, fake, autograd registration, tracing with dynamic sizes ----

VALUES_AND_SHAPES = ("test_schema", "test_faketensor")
EVERY_CHECK = (*VALUES_AND_SHAPES, "test_autograd_registration", "test_aot_dispatch_dynamic")


@pytest.mark.sampled(7)
@pytest.mark.parametrize("needs_grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("masked", [False, True], ids=["all_steps", "lengths_and_resets"])
@each_cell
def test_opcheck_of_the_forward_op(cell, proj_size, masked, needs_grad):
    problem = masked_problem(cell, proj_size) if masked else small_problem(cell, 2, proj_size)
    for variable in problem.variables().values():
        variable.requires_grad_(needs_grad)
    kept = ["states", "everything"]
    for keep in kept if needs_grad else ["nothing", "cells", *kept]:
        # All checks of one keep; how it is traced and recorded depends on no other.
        checks = EVERY_CHECK if keep == "everything" else VALUES_AND_SHAPES
        op = torch.ops.fastcells.recurrent_forward.default
        opcheck(op, (*problem.arguments(), keep), test_utils=checks)


# These two have no autograd formula: the functions of fastcells.functional never differentiate
# them, and opcheck would only find that out.
@pytest.mark.sampled(7)
@pytest.mark.parametrize("keep", ["states", "everything"])
@each_cell
def test_opcheck_of_the_backward_op(cell, proj_size, keep):
    problem = masked_problem(cell, proj_size)
    name, directions, *tensors = problem.arguments()
    *outputs, saved = ops.recurrent_forward(*problem.arguments(), keep)
    grads = [torch.ones_like(out) if out.numel() else None for out in outputs]
    for needs in ([True] * (3 + len(problem.weights)), [False, True] * 8):
        needs = needs[: 3 + len(problem.weights)]
        arguments = (name, directions, *grads, *tensors, outputs[0], outputs[3], saved, needs)
        opcheck(torch.ops.fastcells.recurrent_backward.default, arguments)


@pytest.mark.sampled(3)
@each_cell
def test_opcheck_of_the_step_op(cell, proj_size):
    problem = small_problem(cell, 1, proj_size)
    c = None if problem.c_0 is None else problem.c_0[0]
    for h in (problem.h_0[0], None):
        arguments = (cell, problem.input[0], h, c, problem.weights, problem.names)
        opcheck(torch.ops.fastcells.recurrent_step.default, arguments)


# ---- torch.compile ----


def ops_of(function, *arguments):
    """What a compiled `function` calls, without the unpacking of tuples."""
    called = []

    def backend(graph, inputs):
        calls = (n for n in graph.graph.nodes if n.op.startswith("call_"))
        called.extend(str(n.target) for n in calls if "getitem" not in str(n.target))
        return graph

    torch.compile(function, backend=backend, fullgraph=True)(*arguments)
    return called


@pytest.mark.parametrize("needs_grad", [False, True], ids=["no_grad", "grad"])
def test_a_compiled_layer_is_one_op(needs_grad):
    problem = masked_problem("gru")
    problem.input.requires_grad_(needs_grad)
    run = partial(run_kernels, want_cells=False)
    called = ops_of(lambda x: run(replace(problem, input=x))[0], problem.input)
    assert called == ["fastcells.recurrent_forward"]


@pytest.mark.parametrize("needs_grad", [False, True], ids=["no_grad", "grad"])
def test_a_compiled_step_is_one_op(needs_grad):
    problem = small_problem("gru", directions=1)
    input, h = problem.input[0].requires_grad_(needs_grad), problem.h_0[0]
    weights = problem.weights, problem.names
    called = ops_of(lambda x: functional.run_step("gru", x, h, None, *weights)[0], input)
    reshaping = {"unsqueeze", "squeeze"}
    op = "fastcells.recurrent_forward" if needs_grad else "fastcells.recurrent_step"
    assert [target for target in called if target not in reshaping] == [op]


def compiled(run, **options):
    """`run`, compiled as a function of the problem's tensors."""

    def compiled_run(problem):
        @torch.compile(fullgraph=True, **{"backend": "aot_eager", **options})
        def function(variables, lengths, resets):
            changed = problem.with_variables(variables)
            return run(replace(changed, lengths=lengths, resets=resets))

        return function(list(problem.variables().values()), problem.lengths, problem.resets)

    return compiled_run


@pytest.mark.sampled(3)
@each_cell
def test_a_compiled_layer_and_its_gradients_match_reference(cell, proj_size):
    problem = masked_problem(cell, proj_size)
    assert_matches(evaluate(compiled(run_kernels), problem), evaluate(run_reference, problem))
    with torch.no_grad():
        without_grad = compiled(run_kernels)(problem)[:2]
    for got, want in zip(without_grad, run_kernels(problem), strict=False):
        assert torch.equal(got, want)


def test_a_layer_compiled_by_inductor_and_its_gradients_match_reference():
    problem = masked_problem("lstm")
    run = compiled(run_kernels, backend="inductor")
    assert_matches(evaluate(run, problem), evaluate(run_reference, problem))


def test_one_compilation_serves_all_lengths_and_batch_sizes():
    counter = CompileCounterWithBackend("aot_eager")
    weights, names = masked_problem("lstm").weights, masked_problem("lstm").names

    @torch.compile(backend=counter, fullgraph=True, dynamic=True)
    def layer(input, lengths, resets):
        return functional.run_layer(
            "lstm", 2, input, None, None, weights, names, lengths, resets, True
        )

    for steps, batch in [(5, 4), (2, 7), (9, 3)]:
        problem = make_layer_problem("lstm", 2, steps, batch, 3, 6, lengths=True, resets=True)
        problem = replace(problem, h_0=None, c_0=None, weights=weights)
        results = layer(problem.input, problem.lengths, problem.resets)
        for got, want in zip(results, run_kernels(problem), strict=True):
            assert torch.equal(got, want)
    assert counter.frame_count == 1


def test_lengths_out_of_range_are_refused_in_compiled_code_too():
    problem = masked_problem("gru")
    problem.lengths[0] = 6
    with pytest.raises(ValueError, match=r"lengths must lie in 0 .. T = 5, got values from 0 to 6"):
        compiled(run_kernels)(problem)


def tangent_in_dual_level(f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, x.cos()))).tangent


TRANSFORMS = {
    "jvp": lambda f, x: jvp(f, (x,), (x.cos(),)),
    "dual_level": tangent_in_dual_level,
    "jacfwd": lambda f, x: jacfwd(f)(x),
    "grad": lambda f, x: grad(lambda x: f(x).sin().sum())(x),
    "jacrev": lambda f, x: jacrev(f)(x),
    "hessian": lambda f, x: hessian(lambda x: f(x).sin().sum())(x),
    "vmap": lambda f, x: vmap(f)(torch.stack([x, 2 * x])),
    "vmap_of_grad": lambda f, x: vmap(grad(lambda x: f(x).sin().sum()))(torch.stack([x, 2 * x])),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_a_transform_inside_compiled_code_equals_the_transformed_reference(transform):
    problem = make_layer_problem("lstm", 1, 2, 2, 2, 2)

    def transformed(x, run):
        return transform(lambda x: run(replace(problem, input=x))[0], x)

    x, kernels, exact = problem.input, run_kernels, run_reference
    actual = torch.compile(transformed, backend="aot_eager", fullgraph=True)(x, kernels)
    torch.testing.assert_close(actual, transformed(x, exact), rtol=0, atol=1e-12)


# ---- torch.export ----


class Layer(torch.nn.Module):
    """A layer whose weights are parameters, as export wants it."""

    def __init__(self, problem):
        super().__init__()
        self.problem = problem
        self.weights = torch.nn.ParameterList(problem.weights)

    def forward(self, input, lengths, resets):
        weights = list(self.weights)
        return functional.run_layer(
            self.problem.cell, 2, input, None, None, weights, self.problem.names, lengths, resets
        )[:2]


def exported(problem, strict=False):
    T, B = Dim("T", min=1, max=4096), Dim("B", min=1, max=4096)
    sizes = {"input": {0: T, 1: B}, "lengths": {0: B}, "resets": {0: T, 1: B}}
    inputs = (problem.input, problem.lengths, problem.resets)
    return torch.export.export(Layer(problem), inputs, dynamic_shapes=sizes, strict=strict)


@pytest.mark.parametrize("strict", [False, True], ids=["non_strict", "strict"])
def test_an_exported_layer_is_one_op(strict):
    program = exported(masked_problem("lstm", proj_size=3), strict)
    calls = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert [c for c in calls if "getitem" not in c] == ["fastcells.recurrent_forward.default"]


@each_cell
def test_an_exported_layer_runs_and_trains_at_other_sizes(cell, proj_size):
    problem = masked_problem(cell, proj_size)
    layer = exported(problem).module()
    other = make_layer_problem(cell, 2, 7, 9, 3, 6, lengths=True, resets=True)
    other = replace(other, weights=problem.weights, names=problem.names, h_0=None, c_0=None)

    def run_exported(problem):
        results = layer(problem.input, problem.lengths, problem.resets)
        grads = torch.autograd.grad(sum(r.sin().sum() for r in results), list(layer.parameters()))
        return dict(enumerate((*results, *grads)))

    def run_directly(problem):
        weights = [w.clone().requires_grad_() for w in problem.weights]
        results = run_reference(replace(problem, weights=weights))[:2]
        grads = torch.autograd.grad(sum(r.sin().sum() for r in results), weights)
        return dict(enumerate((*results, *grads)))

    assert_matches(run_exported(other), run_directly(other))


def functions_of_input(problem):
    """The exported layer and the reference, as functions of the input."""
    layer, without_states = exported(problem).module(), replace(problem, h_0=None, c_0=None)
    return (
        lambda x: layer(x, problem.lengths, problem.resets)[0],
        lambda x: run_reference(replace(without_states, input=x))[0],
    )


def test_second_derivatives_of_an_exported_layer_match_reference():
    problem = masked_problem("lstm")

    def second(f):
        x = problem.input.clone().requires_grad_()
        (first,) = torch.autograd.grad(f(x).sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.sin().sum(), x)[0]

    actual, expected = map(second, functions_of_input(problem))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["jvp", "dual_level", "grad", "vmap"])
def test_a_transform_of_an_exported_layer_is_right_or_refused(name):
    problem = masked_problem("lstm")
    exported_layer, reference_layer = functions_of_input(problem)
    try:
        actual = TRANSFORMS[name](exported_layer, problem.input)
    except (RuntimeError, NotImplementedError):
        return  # the op has no rule for it, and says so
    expected = TRANSFORMS[name](reference_layer, problem.input)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
