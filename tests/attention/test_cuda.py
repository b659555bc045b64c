"""The attention kernels on a GPU: skipped where there is none. `make gpu` runs them there."""

from dataclasses import replace

import pytest
import torch

import fastcells
from attention_problems import LARGE, Sizes, each_case, evaluate, make_problem, run, run_reference
from problems import assert_replays, assert_same_bits

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
]

SIZES = {
    "misses every tile": LARGE,
    "one query": Sizes(B=2, N=4, Nk=4, Tq=1, Tk=200, E=64, Ev=64),
    "whole tiles": Sizes(B=1, N=2, Nk=2, Tq=128, Tk=128, E=64, Ev=64),
    "wide": Sizes(B=1, N=2, Nk=2, Tq=80, Tk=130, E=200, Ev=256),
}
# Of the largest number of a result. The reference computes in float64, from numbers of the dtype.
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 2e-5}


def to_gpu(problem):
    moved = problem.with_variables(v.cuda() for v in problem.variables.values())
    options = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value
        for name, value in problem.options.items()
    }
    return replace(moved, options=options)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@each_case
def test_the_kernels_equal_the_reference(case, sizes, dtype):
    problem = make_problem(case, sizes)
    problem.options.pop("dropout_p", None)  # the seed of a GPU's generator is another
    stored = problem.to(dtype)
    exact = evaluate(run_reference, stored.to(torch.float64))
    for name, result in evaluate(run, to_gpu(stored)).items():
        want = exact[name].detach()
        bound = TOLERANCE[dtype] * max(1.0, want.abs().max().item())
        torch.testing.assert_close(result.double().cpu(), want, rtol=0, atol=bound)


@each_case
def test_equal_bits_on_repetition(case):
    problem = to_gpu(make_problem(case, LARGE, torch.float16))
    assert_same_bits(evaluate(run, problem), evaluate(run, problem))


def test_dropout_is_the_references():
    problem = to_gpu(make_problem("dropout", LARGE, torch.float32))
    problem.options.update(return_weights=True)
    _, found = run(problem)
    _, expected = run_reference(problem)
    assert torch.equal(found == 0, expected == 0)


@pytest.mark.parametrize("score", ["dot", "additive"])
def test_capture_in_a_graph(score):
    layer = fastcells.SelfAttention(32, 64, score=score, device="cuda")
    input = torch.randn(8, 30, 32, device="cuda")
    assert_replays(layer, input)


def test_explain_names_the_kernels():
    query = torch.randn(2, 4, 9, 64, device="cuda")
    explained = fastcells.explain(fastcells.scaled_dot_product_attention, query, query, query)
    assert explained.kernel == "cuda dot attention"
