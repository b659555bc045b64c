"""torch.compile, torch.export and torch.library's own checks of the attention ops.

A traced call is one op, on the same kernels as an eager one. Where a test compiles, the backend is
aot_eager, which traces the way back as well and leaves out only inductor's code; once it is
inductor.
"""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad
from torch.export import Dim
from torch.func import grad, jvp, vmap
from torch.library import opcheck
from torch.nn.attention.bias import causal_lower_right

import fastcells
from attention_problems import (
    ADDITIVE_CASES,
    CASES,
    Sizes,
    evaluate,
    make_problem,
    normal,
    run,
    run_reference,
)
from fastcells.functional import attention, scaled_dot_product_attention
from pairs import one_thread  # noqa: F401 (an autouse fixture)
from problems import assert_matches
from tracing import (
    no_compiled_code_from_other_tests,  # noqa: F401 (an autouse fixture)
    quiet_tracing,
)
from ways import through_python

pytestmark = quiet_tracing

SOME = ["plain", "causal", "bias", "lengths", "grouped", "weights", "additive_lengths",
        "additive_bias"]  # fmt: skip
WITH_DROPOUT = ["dropout", "everything", "additive_everything"]


# ---- torch.library.opcheck: schema, fake, autograd registration, tracing with dynamic sizes ----


def recorded(case, monkeypatch, needs_grad):
    """The op's arguments in a call of `case`, and in its way back."""
    calls = []

    def watched(f):
        def watching(*args):
            calls.append([a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args])
            return f(*args)

        return watching

    name = "additive" if case in ADDITIVE_CASES else "dot"
    score = attention.SCORES[name]
    watching = score._replace(forward=watched(score.forward), backward=watched(score.backward))
    monkeypatch.setitem(attention.SCORES, name, watching)
    through_python(monkeypatch)
    evaluate(run, make_problem(case))
    monkeypatch.undo()
    forward, backward = calls
    for tensor in forward:
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            tensor.requires_grad_(needs_grad)
    return forward, backward


def op(case, way):
    prefix = "additive_" if case in ADDITIVE_CASES else ""
    return getattr(torch.ops.fastcells, f"{prefix}attention_{way}").default


@pytest.mark.parametrize("needs_grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("case", ["plain", "everything", "additive", "additive_everything"])
def test_opcheck_of_the_forward_op(case, needs_grad, monkeypatch):
    forward, _ = recorded(case, monkeypatch, needs_grad)
    opcheck(op(case, "forward"), tuple(forward))


@pytest.mark.parametrize("case", ["plain", "everything", "additive", "additive_everything"])
def test_opcheck_of_the_backward_op(case, monkeypatch):
    _, backward = recorded(case, monkeypatch, needs_grad=False)
    opcheck(op(case, "backward"), tuple(backward))


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
@pytest.mark.parametrize("case", ["causal", "lengths", "grouped", "additive"])
def test_a_compiled_call_is_one_op(case, needs_grad):
    problem = make_problem(case)
    variables = [t.requires_grad_(needs_grad) for t in problem.variables.values()]
    function = getattr(fastcells, problem.function)
    names, options = list(problem.variables), problem.options

    def call(*variables):
        return function(**dict(zip(names, variables, strict=True)), **options)

    prefix = "additive_" if case in ADDITIVE_CASES else ""
    assert ops_of(call, *variables) == [f"fastcells.{prefix}attention_forward"]


def test_a_compiled_layer_with_masks_has_no_other_attention():
    layer = fastcells.MultiheadAttention(8, 2, batch_first=True)
    x, lengths = torch.randn(3, 5, 8), torch.tensor([5, 0, 2])
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    called = ops_of(
        lambda x: layer(x, x, x, attn_mask=mask, is_causal=True, key_lengths=lengths)[0], x
    )
    assert called.count("fastcells.attention_forward") == 1
    assert not any("softmax" in name or "bmm" in name for name in called)


def compiled(run, **options):
    """`run`, compiled as a function of the problem's variables."""

    def compiled_run(problem):
        @torch.compile(fullgraph=True, **{"backend": "aot_eager", **options})
        def function(variables):
            named = dict(zip(problem.variables, variables, strict=True))
            result = getattr(fastcells, problem.function)(**named, **problem.options)
            return result if isinstance(result, tuple) else (result,)

        torch.manual_seed(5)
        return function(list(problem.variables.values()))

    return compiled_run


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", SOME + WITH_DROPOUT)
def test_a_compiled_call_and_its_gradients_match_the_reference(case):
    problem = make_problem(case)
    assert_matches(evaluate(compiled(run), problem), evaluate(run_reference, problem))
    with torch.no_grad():
        for got, want in zip(compiled(run)(problem), run(problem), strict=True):
            assert torch.equal(got, want)


def test_a_call_compiled_by_inductor_and_its_gradients_match_the_reference():
    problem = make_problem("bias")
    run_inductor = compiled(run, backend="inductor")
    assert_matches(evaluate(run_inductor, problem), evaluate(run_reference, problem))


def test_dropout_compiled_by_inductor_draws_a_new_seed_each_time():
    query = torch.ones(1, 1, 8, 8)

    @torch.compile(fullgraph=True)  # by inductor, which draws random numbers its own way
    def drop(query):
        return scaled_dot_product_attention(
            query, query, query, dropout_p=0.5, return_weights=True
        )[1]

    torch.manual_seed(0)
    first, second = drop(query), drop(query)
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) == {0, 0.25}
    torch.manual_seed(0)
    assert torch.equal(drop(query), first)


def test_one_compilation_serves_all_lengths_and_batch_sizes():
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True, dynamic=True)
    def attend(query, key, bias, lengths):
        return scaled_dot_product_attention(
            query, key, key, bias, key_lengths=lengths, return_weights=True
        )

    compilations = []
    for batch, rows, columns in [(3, 5, 4), (2, 9, 7), (4, 3, 11)]:
        query, key = normal(batch, 2, rows, 8), normal(batch, 2, columns, 8)
        bias, lengths = normal(rows, columns), torch.arange(batch)
        got = attend(query, key, bias, lengths)
        want = scaled_dot_product_attention(
            query, key, key, bias, key_lengths=lengths, return_weights=True
        )
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        compilations.append(counter.frame_count)
    # torch begins the first anew when it finds out that dropout_p is a constant.
    assert len(set(compilations)) == 1


def test_a_causal_bias_in_compiled_code():
    query, key, bias = normal(1, 2, 3, 4), normal(1, 2, 5, 4), causal_lower_right(3, 5)
    attend = torch.compile(
        lambda q, k: scaled_dot_product_attention(q, k, k, bias), backend="eager", fullgraph=True
    )
    expected = scaled_dot_product_attention(query, key, key, bias)
    assert torch.equal(attend(query, key), expected)


def tangent_in_dual_level(f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, x.cos()))).tangent


TRANSFORMS = {
    "jvp": lambda f, x: jvp(f, (x,), (x.cos(),)),
    "dual_level": tangent_in_dual_level,
    "grad": lambda f, x: grad(lambda x: f(x).sin().sum())(x),
    "vmap_of_grad": lambda f, x: vmap(grad(lambda x: f(x).sin().sum()))(torch.stack([x, 2 * x])),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
@pytest.mark.parametrize("case", ["bias", "additive_lengths"])
def test_a_transform_inside_compiled_code_equals_the_transformed_reference(case, transform):
    problem = make_problem(case, Sizes(Tq=2, Tk=3, N=2, Nk=2))
    query, *rest = problem.variables.values()

    def transformed(x, run):
        return transform(lambda x: run(problem.with_variables([x, *rest]))[0], x)

    plain = lambda p: (getattr(fastcells, p.function)(**p.variables, **p.options),)  # noqa: E731
    actual = torch.compile(transformed, backend="aot_eager", fullgraph=True)(query, plain)
    expected = transformed(query, run_reference)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


# ---- torch.export ----


class Block(torch.nn.Module):
    """Every layer of attention, one after another."""

    def __init__(self):
        super().__init__()
        self.own = fastcells.SelfAttention(8, 8, score="additive", causal=True)
        self.heads = fastcells.MultiheadAttention(8, 2, batch_first=True)
        self.additive = fastcells.AdditiveAttention(8, 8, 5)

    def forward(self, x, lengths):
        x = self.own(x, lengths)
        x, weights = self.heads(x, x, x, key_lengths=lengths)
        return self.additive(x, x, key_lengths=lengths), weights


@pytest.mark.parametrize("strict", [False, True], ids=["non_strict", "strict"])
def test_exported_layers_run_and_train_at_other_sizes(strict):
    block = Block()
    T, B = Dim("T", min=2, max=4096), Dim("B", min=1, max=4096)
    arguments = (torch.randn(3, 5, 8), torch.tensor([5, 0, 2]))
    sizes = {"x": {0: B, 1: T}, "lengths": {0: B}}
    program = torch.export.export(block, arguments, dynamic_shapes=sizes, strict=strict)
    calls = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    ops = [c for c in calls if c.startswith("fastcells")]
    assert ops == [
        "fastcells.additive_attention_forward.default",
        "fastcells.attention_forward.default",
        "fastcells.additive_attention_forward.default",
    ]
    x, lengths = torch.randn(4, 7, 8), torch.tensor([7, 0, 1, 4])

    def evaluate_block(f):
        results = f(x, lengths)
        named = dict(f.named_parameters())
        grads = torch.autograd.grad(results[0].sin().sum() + results[1].sum(), named.values())
        return dict(zip(("output", "weights", *named), (*results, *grads), strict=True))

    assert_matches(evaluate_block(program.module()), evaluate_block(block), tolerance=1e-5)


def test_every_case_is_compiled_or_alike():
    assert set(SOME + WITH_DROPOUT) < set(CASES)
