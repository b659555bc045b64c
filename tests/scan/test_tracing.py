"""linear_scan under torch.compile, torch.export, torch.jit.trace, torch.fx, autocast, without
values; what the tools of torch and fastcells.explain say of it."""

import copy

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

import fastcells
from fastcells.functional import routing
from scan_problems import evaluate, make_problem, run, run_reference
from tracing import (
    no_compiled_code_from_other_tests,  # noqa: F401 (an autouse fixture)
    quiet_tracing,
)
from ways import through_python
from without_values import FAKES, TRACERS, Call, described, parametrize

pytestmark = quiet_tracing

MASKED = dict(lengths=True, resets=True, batch_first=True, reverse=True)


def arguments_of(problem):
    a = problem.a[(None,) * (3 - problem.a.dim())]
    return (a, problem.b, problem.h_0, problem.lengths, problem.resets, problem.batch_first,
            problem.reverse)  # fmt: skip


@pytest.mark.sampled(5)
@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("options", [{}, MASKED, dict(factor="unit")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_opcheck(options, dtype, needs_grad):
    problem = make_problem(5, 3, 4, dtype=dtype, **options)
    a, b, h_0, *rest = arguments_of(problem)
    leaves = [x.clone().requires_grad_(needs_grad) for x in (a, b, h_0)]
    opcheck(torch.ops.fastcells.linear_scan.default, (*leaves, *rest, False))
    opcheck(torch.ops.fastcells.linear_scan.default, (*leaves[:2], None, *rest, True))
    h = run(problem)
    back = (h, a, h, h_0, *rest)
    for needs in ([True, True, True], [True, False, False], [False, True, False]):
        opcheck(torch.ops.fastcells.linear_scan_backward.default, (*back, needs))


class Mixer(nn.Module):
    def forward(self, a, b, h_0, lengths):
        return fastcells.linear_scan(a.sigmoid(), b, h_0, lengths=lengths) * 2


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_call_is_the_op_forward_and_back(dynamic):
    problem = make_problem(6, 3, 4, lengths=True)
    targets = []

    def backend(graph, inputs):
        targets.extend(str(n.target) for n in graph.graph.nodes if n.op == "call_function")
        return graph

    torch.compile(run, backend=backend, fullgraph=True)(problem)
    assert [t for t in targets if "fastcells" in t] == ["fastcells.linear_scan"]
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for T in (6, 9):
        problem = make_problem(T, 3, 4, lengths=True, resets=True, factor="unit")
        found, expected = evaluate(compiled, problem), evaluate(run, problem)
        for x, y in zip(found, expected, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_inductor():
    problem = make_problem(6, 3, 4, dtype=torch.float32, resets=True)
    found = evaluate(torch.compile(run, fullgraph=True), problem)
    for x, y in zip(found, evaluate(run, problem), strict=True):
        torch.testing.assert_close(x, y)


def test_export_with_dynamic_steps_and_rows():
    T, B = Dim("T", min=2, max=500), Dim("B", min=2, max=64)
    arguments = (torch.randn(7, 3, 4), torch.randn(7, 3, 4), torch.randn(3, 4),
                 torch.tensor([7, 0, 3]))  # fmt: skip
    shapes = ({0: T, 1: B}, {0: T, 1: B}, {0: B}, {0: B})
    program = torch.export.export(Mixer(), arguments, dynamic_shapes=shapes)
    other = (torch.randn(11, 5, 4), torch.randn(11, 5, 4), torch.randn(5, 4),
             torch.tensor([11, 0, 3, 5, 1]))  # fmt: skip
    assert torch.equal(program.module()(*other), Mixer()(*other))


def test_jit_trace_and_fx():
    arguments = (torch.randn(7, 3, 4), torch.randn(7, 3, 4), torch.randn(3, 4),
                 torch.tensor([7, 0, 3]))  # fmt: skip
    traced = torch.jit.trace(Mixer(), arguments)
    assert torch.equal(traced(*arguments), Mixer()(*arguments))
    graph = torch.fx.symbolic_trace(Mixer())
    assert [n.target for n in graph.graph.nodes].count(fastcells.linear_scan) == 1
    assert torch.equal(graph(*arguments), Mixer()(*arguments))


@parametrize(FAKES | TRACERS)
def test_a_call_without_values_has_the_shapes_of_one_with_them(way):
    problem = make_problem(6, 3, 4, dtype=torch.complex64, factor="step", **MASKED)
    call = Call(
        lambda a, b, h_0, lengths, resets: fastcells.linear_scan(
            a, b, h_0, lengths=lengths, resets=resets, batch_first=True, reverse=True
        ),
        (*problem.variables(), problem.lengths, problem.resets),
    )
    assert described(way(call)) == described(call.run(*call.arguments))


def test_without_kernels_it_runs_on_the_reference(monkeypatch):
    through_python(monkeypatch)
    monkeypatch.setattr(routing, "is_compiled", lambda: False)
    problem = make_problem(6, 3, 4, **MASKED)
    assert torch.equal(run(problem), run_reference(problem))
    assert fastcells.explain(fastcells.linear_scan, problem.a, problem.b).kernel == "reference"


def test_autocast_rounds_nothing_and_takes_the_widest_dtype():
    a, b = torch.rand(5, 2, 3), torch.randn(5, 2, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = fastcells.linear_scan(a, b)
        assert torch.equal(fastcells.linear_scan(b, b), fastcells.linear_scan(b, b))
        assert fastcells.linear_scan(b, b).dtype == torch.bfloat16
        assert fastcells.linear_scan(a.half(), b).dtype == torch.float32
        with pytest.raises(TypeError, match="linear_scan: a must be float32"):
            fastcells.linear_scan(a.long(), b)
    assert h.dtype == torch.float32 and torch.equal(h, fastcells.linear_scan(a, b.float()))


def test_flops():
    a, b = torch.rand(5, 2, 3, requires_grad=True), torch.randn(5, 2, 3, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        h = fastcells.linear_scan(a, b)
        assert counter.get_total_flops() == 2 * 30
        h.sum().backward()
        assert counter.get_total_flops() == 5 * 30


def test_explain_says_what_runs():
    problem = make_problem(6, 3, 4, dtype=torch.bfloat16, factor="unit", lengths=True)
    told = fastcells.explain(
        fastcells.linear_scan, problem.a, problem.b, problem.h_0, lengths=problem.lengths
    )
    assert (told.kernel, told.cell, told.dtype) == ("cpu scan", "linear scan", torch.bfloat16)
    assert told.reason == "compiled kernels"
    assert told.notes == (
        "all steps in one pass over memory, lanes side by side; in chunks of time where lanes are "
        "fewer than threads",
        "states in float32, each rounded once",
        "steps past a row's end are not read",
        "the factor is read as it is, not expanded",
    )
    with pytest.raises(TypeError, match="explain: a call of linear_scan needs its tensors"):
        fastcells.explain(fastcells.linear_scan, 1, 2)


def test_a_parameter_is_trained():
    decay = nn.Parameter(torch.full((3,), 0.5))
    copied = copy.deepcopy(decay)
    for factor, scan in (
        (decay, fastcells.linear_scan),
        (copied, fastcells.reference.scan.linear_scan),
    ):
        scan(factor, torch.ones(4, 2, 3)).sum().backward()
    torch.testing.assert_close(decay.grad, copied.grad)
