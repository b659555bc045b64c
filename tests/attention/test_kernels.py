"""The attention kernels against fastcells.reference: results, every gradient, every mask.

The reference in float64 is exact; a kernel may err by twice what torch errs in the same dtype, as
fastcells.testing says.
"""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import fastcells
from attention_problems import (
    ADDITIVE_CASES,
    CASES,
    LARGE,
    Sizes,
    each_case,
    eager,
    evaluate,
    make_problem,
    run,
    run_reference,
    seen_by,
)
from fastcells.reference import attention as reference
from pairs import one_thread  # noqa: F401 (an autouse fixture)
from problems import assert_matches, assert_same_bits, poisoned_memory

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])


def run_torch(problem):
    """torch's own function where it can, attention by hand elsewhere."""
    options = problem.options
    is_own = options.get("softcap") or options.get("return_weights") or options.get("dropout_p")
    if problem.function == "additive_attention" or is_own:
        return eager(problem)[: 1 + options.get("return_weights", False)]
    named = dict(problem.variables)
    seen = seen_by(problem)
    bias = named.pop("attn_mask", None)
    mask = seen if bias is None else torch.where(seen, bias, -torch.inf)
    # Where a row sees nothing torch has NaN gradients; what such a row gives is known: 0.
    sees = seen.any(-1, keepdim=True)
    output = scaled_dot_product_attention(
        **named, attn_mask=torch.where(sees, mask, torch.ones_like(mask)),
        scale=options.get("scale"), enable_gqa=options.get("enable_gqa", False),
    )  # fmt: skip
    return (torch.where(sees, output, 0.0),)


#: What is allowed where torch happens to be nearly exact: some roundings of terms of size 1.
FLOORS = {torch.float32: 4e-7, torch.float64: 1e-15, torch.bfloat16: 2**-8}
#: A gradient below this is 0 in truth, and its terms cancel: the scores of a row may all be shifted
#: by the same number, and a single key has weight 1 whatever its score. Such a gradient has no size
#: to be relative to; its terms, products of Ev numbers, are up to 16.
CANCELS, TERMS = 1e-6, 16


def floor_factor(name, problem):
    """An additive score is a sum of D values of a tanh that is within 1.5 units in the last
    place (csrc/math/activations.h), torch's within 1: twice the floor. The gradients of scale
    and of a broadcast mask are sums over (nearly) all scores, one tile after another, whose
    roundings grow with the square root of the number of terms; torch adds pairwise."""
    factor = 2.0 if problem.function == "additive_attention" else 1.0
    if name not in ("grad of scale", "grad of attn_mask"):
        return factor
    query, key = problem.variables["query"], problem.variables["key"]
    scores = query.shape[:-1].numel() * key.shape[-2]
    size = problem.variables[name.removeprefix("grad of ")].numel()
    terms = scores / (1 if name == "grad of scale" else size)
    return factor * max(1.0, (terms / 1000) ** 0.5)


def assert_kernels_accurate(problem, dtype, assert_accurate):
    stored = problem.to(dtype)
    exact = evaluate(run_reference, stored.to(torch.float64))
    actual, by_torch = evaluate(run, stored), evaluate(run_torch, stored)
    assert actual.keys() == exact.keys() == by_torch.keys()
    for name, result in actual.items():
        want, floor = exact[name].detach(), FLOORS[dtype]
        size = want.abs().max().item()
        if size < CANCELS:
            assert (result.double() - want).abs().max().item() <= TERMS * floor, name
            continue
        floor *= floor_factor(name, problem) / min(1.0, size)
        assert_accurate(result, want, by_torch[name], floor=floor, what=name)


@each_dtype
@each_case
def test_results_and_gradients_of_sizes_that_miss_every_tile(case, dtype, assert_accurate):
    assert_kernels_accurate(make_problem(case, LARGE), dtype, assert_accurate)


SHAPES = {
    "one query": Sizes(B=2, N=4, Nk=4, Tq=1, Tk=200, E=64, Ev=64),
    "one key": Sizes(B=2, N=4, Nk=4, Tq=33, Tk=1, E=17, Ev=5),
    "whole tiles": Sizes(B=1, N=2, Nk=2, Tq=128, Tk=128, E=64, Ev=64),
    "wide": Sizes(B=1, N=2, Nk=2, Tq=40, Tk=65, E=160, Ev=144),
    "width of one": Sizes(B=1, N=2, Nk=2, Tq=20, Tk=30, E=1, Ev=1),
}


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("case", ["plain", "causal", "everything", "additive_everything"])
def test_other_shapes(case, sizes, assert_accurate):
    assert_kernels_accurate(make_problem(case, sizes), torch.float32, assert_accurate)


FEW = Sizes(B=2, N=2, Nk=2, Tq=3, Tk=131, E=40, Ev=33)  # queries that no lanes are filled with


@each_dtype
@each_case
def test_few_queries(case, dtype, assert_accurate):
    assert_kernels_accurate(make_problem(case, FEW), dtype, assert_accurate)


@pytest.mark.parametrize("sizes", [LARGE, FEW], ids=["many", "few"])
@pytest.mark.parametrize("case", ["causal", "bool_mask", "softcap", "additive_bool_mask"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_hidden_is_not_looked_at(case, sizes, poison):
    """A key that a query does not see may hold anything, whoever else sees it."""
    problem = make_problem(case, sizes, torch.float32)
    seen = torch.rand(sizes.Tq, sizes.Tk) < 0.6
    seen[:2] = True
    seen[0, [7, 100]] = False
    seen[:, 40] = False
    if case == "causal":
        seen = torch.ones(sizes.Tq, sizes.Tk, dtype=torch.bool).tril()
    else:
        problem.options["attn_mask"] = seen
    poisoned = [sizes.Tk - 1, 30] if case == "causal" else [7, 40, 100]
    blind = ~seen[:, poisoned].any(1)
    assert blind.any() and (case == "causal" or not blind.all())

    def results(variables):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in variables.items()}
        output = run(problem.with_variables(leaves.values()))[0][..., blind, :]
        (gradient,) = torch.autograd.grad(output.square().sum(), leaves["query"])
        return output, gradient[..., blind, :]

    variables = dict(problem.variables)
    for name in ("key", "value"):
        variables[name] = variables[name].clone()
        variables[name][..., poisoned, :] = poison
    for a, b in zip(results(variables), results(problem.variables), strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("sizes", [LARGE, FEW], ids=["many", "few"])
@pytest.mark.parametrize("case", ["bool_mask", "softcap", "additive_bool_mask"])
def test_what_nobody_sees_is_in_no_gradient(case, sizes):
    problem = make_problem(case, sizes, torch.float32)
    problem.options["attn_mask"] = torch.ones(1, sizes.Tk, dtype=torch.bool)
    problem.options["attn_mask"][:, [3, 50]] = False
    clean = evaluate(run, problem)
    for name in ("key", "value"):
        problem.variables[name][..., [3, 50], :] = float("nan")
    assert_matches(evaluate(run, problem), clean, tolerance=1e-6)


@pytest.mark.parametrize("scale", [40.0, -3.0, 0.0])
@pytest.mark.parametrize("case", ["plain", "softcap"])
def test_scores_of_any_size(case, scale):
    """Large scores overflow no exponential; a scale of 0 gives the mean."""
    problem = make_problem(case, LARGE)
    problem.options["scale"] = scale
    assert_matches(evaluate(run, problem), evaluate(run_reference, problem), tolerance=1e-10)


@pytest.mark.parametrize("size", [20.0, 1000.0])
def test_additive_scores_of_any_size(size):
    """The tanh saturates, and none of it overflows."""
    problem = make_problem("additive", LARGE)
    variables = {n: size * t if n in ("query", "key") else t for n, t in problem.variables.items()}
    problem = problem.with_variables(variables.values())
    assert_matches(evaluate(run, problem), evaluate(run_reference, problem), tolerance=1e-10)


@each_dtype
@pytest.mark.parametrize("case", ["dropout", "everything", "additive_everything"])
def test_dropout_of_the_kernels_is_that_of_the_reference(case, dtype):
    problem = make_problem(case, LARGE, dtype)
    problem.options.update(return_weights=True)
    _, weights = run(problem)
    _, expected = run_reference(problem)
    assert torch.equal(weights == 0, expected == 0)
    assert 0.1 < (weights == 0).double().mean() < 0.9


@each_case
def test_nothing_is_left_unwritten(case):
    problem = make_problem(case, LARGE, torch.float32)
    expected = evaluate(run, problem)
    with poisoned_memory():
        assert_same_bits(evaluate(run, problem), expected)


@pytest.mark.parametrize("case", ["plain", "causal", "everything", "additive_everything"])
def test_any_number_of_threads_gives_the_same(case):
    problem = make_problem(case, LARGE, torch.float32)
    expected = evaluate(run, problem)
    for threads in (2, 6):
        torch.set_num_threads(threads)  # one_thread sets it back
        found = evaluate(run, problem)
        assert_matches(found, expected, tolerance=1e-6)
        assert_same_bits(evaluate(run, problem), found)


@each_dtype
@pytest.mark.parametrize("case", ["lengths", "everything", "additive_everything"])
def test_the_logsumexp_of_the_ops(case, dtype):
    """What the forward op keeps for the way back, `[B, N, Tq, 2]` or `[B, Tq, 2]`: two parts."""
    problem = make_problem(case, LARGE, dtype)
    query, key, value, *rest = problem.variables.values()
    lengths = problem.options["key_lengths"]
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    if case in ADDITIVE_CASES:
        _, found, _ = torch.ops.fastcells.additive_attention_forward(
            query, key, value, rest[0], None, lengths, None, 0.0, False
        )
        s = torch.tanh(query.double()[:, :, None] + key.double()[:, None]) @ rest[0].double()
        seen = torch.arange(LARGE.Tk) < lengths[:, None, None]
    else:
        _, found, _ = torch.ops.fastcells.attention_forward(
            query, key, value, None, lengths, None, 0.5, 0.0, -1, -1, 0, 0.0, False
        )
        keys = key.double().repeat_interleave(query.shape[1] // key.shape[1], 1)
        s = 0.5 * query.double() @ keys.mT
        seen = torch.arange(LARGE.Tk) < lengths[:, None, None, None]
    expected = torch.where(seen, s, -torch.inf).logsumexp(-1)
    assert found.dtype == arithmetic
    torch.testing.assert_close(found.double().sum(-1), expected, rtol=1e-5, atol=1e-5)
    largest = torch.where(seen, s, -torch.inf).amax(-1)
    torch.testing.assert_close(found[..., 0].double(), largest, rtol=1e-5, atol=1e-5)


def test_the_kernels_ran():
    """Else this file compares the reference with itself."""
    assert torch.ops.fastcells.attention_forward.default.name() == "fastcells::attention_forward"
    assert set(ADDITIVE_CASES) < set(CASES)


@pytest.mark.parametrize("size", [10.5, 20.0, 22.0, 60.0, 1e4, 1e30])
def test_additive_scores_of_large_numbers_that_cancel(size):
    torch.manual_seed(0)
    query = size * torch.randn(1, 5, 7).sign()
    key = -query[:, [0, 1, 2, 3, 4, 0]] + 0.5 * torch.randn(1, 6, 7)
    scale = torch.randn(7)
    leaves = [t.detach().requires_grad_() for t in (query, key, torch.randn(1, 6, 3), scale)]

    def results(dtype, function):
        tensors = [t.detach().to(dtype).requires_grad_() for t in leaves]
        output = function(*tensors)
        return output, *torch.autograd.grad(output.sin().sum(), tensors)

    found = results(torch.float32, fastcells.additive_attention)
    exact = results(torch.float64, lambda *t: reference.additive_attention(*t)[0])
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=3e-6)
