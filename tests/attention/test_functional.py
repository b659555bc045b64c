"""scaled_dot_product_attention keeps torch's contract, and what is beyond it holds."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.bias import causal_lower_right, causal_upper_left
from torch.nn.functional import scaled_dot_product_attention as torch_attention
from torch.testing._internal.common_methods_invocations import (
    sample_inputs_scaled_dot_product_attention,
)

import fastcells
from attention_problems import (
    CASES,
    DOT_CASES,
    LARGE,
    AttentionProblem,
    Sizes,
    each_case,
    eager,
    evaluate,
    make_problem,
    normal,
    run,
    run_reference,
)
from fastcells.functional import additive_attention, routing, scaled_dot_product_attention
from pairs import one_thread  # noqa: F401 (an autouse fixture)
from problems import assert_matches, assert_same_bits

# ---- torch's contract ----


def torchs_samples():
    """torch's own sample inputs of its function, without those whose dropout is random."""
    samples = sample_inputs_scaled_dot_product_attention(None, "cpu", torch.float64, False)
    return [s for s in samples if s.kwargs["dropout_p"] == 0]


def as_problem(query, key, value, **options):
    variables = {"query": query, "key": key, "value": value}
    if "attn_mask" in options and options["attn_mask"].is_floating_point():
        variables["attn_mask"] = options.pop("attn_mask")
    return AttentionProblem("scaled_dot_product_attention", variables, options)


def run_torch(problem):
    return (torch_attention(**problem.variables, **problem.options),)


@pytest.mark.parametrize("sample", torchs_samples())
def test_torchs_sample_inputs(sample):
    problem = as_problem(sample.input, *sample.args, **sample.kwargs)
    assert_matches(evaluate(run, problem), evaluate(run_torch, problem))


SHAPES = {
    "2-D": [(4, 8), (5, 8), (5, 6)],
    "3-D": [(2, 4, 8), (2, 5, 8), (2, 5, 6)],
    "5-D": [(2, 3, 2, 4, 8), (2, 3, 2, 5, 8), (2, 3, 2, 5, 6)],
    "one head of keys": [(2, 3, 4, 8), (2, 1, 5, 8), (2, 1, 5, 6)],
    "one row of keys": [(2, 3, 4, 8), (1, 3, 5, 8), (3, 5, 6)],
    "one row of queries": [(4, 8), (2, 3, 5, 8), (2, 3, 5, 6)],
}
GROUPED = {
    "3-D": [(4, 4, 8), (2, 5, 8), (2, 5, 6)],
    "4-D": [(2, 4, 4, 8), (2, 2, 5, 8), (2, 2, 5, 6)],
    "keys and values apart": [(2, 4, 4, 8), (2, 2, 5, 8), (2, 1, 5, 6)],
    "one row of keys": [(2, 4, 4, 8), (1, 2, 5, 8), (2, 5, 6)],
    "5-D": [(2, 1, 4, 4, 8), (2, 3, 2, 5, 8), (2, 3, 2, 5, 6)],
}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}], ids=str)
def test_leading_dimensions(shapes, options):
    problem = as_problem(*(normal(*shape) for shape in shapes), **options)
    assert_matches(evaluate(run, problem), evaluate(run_torch, problem))


@pytest.mark.parametrize("shapes", GROUPED.values(), ids=GROUPED.keys())
def test_grouped_heads(shapes):
    problem = as_problem(*(normal(*shape) for shape in shapes), enable_gqa=True)
    assert_matches(evaluate(run, problem), evaluate(run_torch, problem))


@pytest.mark.parametrize(
    ("query", "mask"),
    [
        ((4, 8), (4, 5)),
        ((4, 8), (1, 5)),
        ((2, 4, 8), (2, 1, 5)),
        ((2, 4, 8), (4, 1)),
        ((2, 3, 4, 8), (3, 1, 5)),
        ((2, 3, 4, 8), (2, 1, 1, 5)),
        ((2, 3, 2, 4, 8), (3, 1, 4, 5)),
        ((2, 3, 2, 4, 8), (1, 1, 2, 4, 5)),
    ],
)
@pytest.mark.parametrize("is_bool", [False, True], ids=["float", "bool"])
def test_masks_broadcast(query, mask, is_bool):
    keys = (*query[:-2], 5)
    mask = (
        torch.arange(torch.Size(mask).numel()).reshape(mask) % 3 > 0 if is_bool else normal(*mask)
    )
    if is_bool:
        mask[..., 0] = True
    problem = as_problem(normal(*query), normal(*keys, 8), normal(*keys, 6), attn_mask=mask)
    assert_matches(evaluate(run, problem), evaluate(run_torch, problem))


def test_a_float32_mask_beside_float64():
    problem = as_problem(normal(4, 8), normal(5, 8), normal(5, 6), attn_mask=torch.randn(4, 5))
    assert_matches(evaluate(run, problem), evaluate(run_torch, problem))


@pytest.mark.parametrize("sizes", [(5, 5), (4, 7)], ids=str)
@pytest.mark.parametrize("variant", [causal_upper_left, causal_lower_right])
def test_a_causal_bias(sizes, variant):
    query, key = normal(2, 3, sizes[0], 8), normal(2, 3, sizes[1], 8)
    bias = variant(*sizes)
    actual = scaled_dot_product_attention(query, key, key, attn_mask=bias)
    torch.testing.assert_close(actual, torch_attention(query, key, key, attn_mask=bias))


# ---- beyond torch ----


@pytest.mark.parametrize("case", [c for c in CASES if "dropout" not in c and "every" not in c])
def test_results_and_gradients_are_those_of_attention_by_hand(case):
    problem = make_problem(case, Sizes(Tq=9, Tk=11, E=5, Ev=4))
    by_hand = lambda p: eager(p)[: 1 + p.options.get("return_weights", False)]  # noqa: E731
    assert_matches(evaluate(run, problem), evaluate(by_hand, problem))


@given(
    Tq=st.integers(1, 9),
    Tk=st.integers(1, 9),
    left=st.one_of(st.none(), st.integers(0, 9)),
    right=st.one_of(st.none(), st.integers(0, 9)),
    alignment=st.sampled_from(["top_left", "bottom_right"]),
    is_causal=st.booleans(),
    lengths=st.lists(st.integers(0, 9), min_size=2, max_size=2),
    density=st.one_of(st.none(), st.floats(0, 1)),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_any_masks_together(
    Tq, Tk, left, right, alignment, is_causal, lengths, density, seed
):  # fmt: skip
    torch.manual_seed(seed)
    options = {
        "window": (left, right), "causal_alignment": alignment, "is_causal": is_causal,
        "key_lengths": torch.tensor(lengths).clamp_max(Tk), "return_weights": True,
    }  # fmt: skip
    if density is not None and not is_causal:
        options["attn_mask"] = torch.rand(2, 1, Tq, Tk) < density
    problem = as_problem(normal(2, 2, Tq, 3), normal(2, 2, Tk, 3), normal(2, 2, Tk, 2), **options)
    found = evaluate(run, problem)
    assert_matches(found, evaluate(eager, problem))
    sees = found["weights"].sum(-1)
    torch.testing.assert_close(sees, (sees > 0).double())


def nothing_seen(problem):
    """Rows of the output that see no key, from the weights by hand."""
    return eager(problem)[1].sum(-1) == 0


@pytest.mark.parametrize("case", ["bool_mask", "lengths", "lengths_causal", "additive_bool_mask"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_row_that_sees_nothing_gives_0_both_ways(case, dtype):
    problem = make_problem(case, LARGE, dtype)
    empty = nothing_seen(problem.to(torch.float64))
    assert empty.any()
    found = evaluate(run, problem)
    assert found["output"][empty].count_nonzero() == 0
    assert found["grad of query"][empty].count_nonzero() == 0
    assert not any(tensor.isnan().any() for tensor in found.values())


@pytest.mark.parametrize("case", ["lengths", "lengths_causal", "everything", "additive_lengths"])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_stands_past_a_length_has_no_effect(case, poison):
    problem = make_problem(case, LARGE)
    problem.options.pop("softcap", None)
    past = torch.arange(LARGE.Tk) >= problem.options["key_lengths"][:, None]
    poisoned = dict(problem.variables)
    for name in ("key", "value"):
        tensor = poisoned[name] = poisoned[name].clone()
        tensor.movedim(-2, 1)[past] = poison
    expected = evaluate(run, problem)
    found = evaluate(run, problem.with_variables(poisoned.values()))
    assert_same_bits(found, expected)
    for name in ("key", "value"):
        assert found[f"grad of {name}"].movedim(-2, 1)[past].count_nonzero() == 0


@each_case
def test_a_repeat_is_equal_bit_for_bit(case):
    problem = make_problem(case, LARGE, torch.float32)
    assert_same_bits(evaluate(run, problem), evaluate(run, problem))


@pytest.mark.parametrize("case", ["plain", "bias", "everything", "additive_everything"])
def test_tensors_of_any_stride(case):
    problem = make_problem(case)
    odd = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in problem.variables.values()]
    assert not all(t.is_contiguous() for t in odd)
    assert_matches(evaluate(run, problem.with_variables(odd)), evaluate(run, problem))
    heads_inside = {
        name: t.transpose(1, 2).contiguous().transpose(1, 2)
        for name, t in problem.variables.items() if t.dim() == 4
    }  # fmt: skip
    inside = problem.with_variables((problem.variables | heads_inside).values())
    assert_matches(evaluate(run, inside), evaluate(run, problem))


@pytest.mark.parametrize("zero", ["B", "N", "Tq", "Tk", "E", "Ev"])
@pytest.mark.parametrize(
    "case",
    ["plain", "causal", "bias", "lengths", "weights", "dropout", "additive", "additive_everything"],
)
def test_sizes_of_zero(case, zero):
    problem = make_problem(case, Sizes(**{zero: 0} | ({"Nk": 0} if zero == "N" else {})))
    found = evaluate(run, problem)
    assert_matches(found, evaluate(run_reference, problem))
    assert not any(tensor.isnan().any() for tensor in found.values())
    if zero == "Tk":
        assert found["output"].count_nonzero() == 0
    if zero == "E" and case == "plain":  # all scores are 0
        mean = problem.variables["value"].mean(-2, keepdim=True)
        torch.testing.assert_close(found["output"], mean.expand(found["output"].shape))


@pytest.mark.parametrize("case", ["dropout", "additive_dropout"])
def test_dropout_depends_on_the_position_alone(case):
    """More keys that nobody sees, and more queries, change nothing for the others."""
    problem = make_problem(case)
    problem.options.update(dropout_p=0.5, return_weights=True)
    _, weights = run(problem)
    longer = dict(problem.variables)
    for name in ("query", "key", "value"):
        longer[name] = torch.cat([longer[name]] * 2, dim=-2)
    columns = problem.variables["key"].shape[-2]
    lengths = torch.full((2,), columns)
    problem.options["key_lengths"] = lengths
    _, more = run(problem.with_variables(longer.values()))
    rows = weights.shape[-2]
    assert 0.2 < (weights == 0).double().mean() < 0.8
    torch.testing.assert_close(more[..., :rows, :columns], weights)


def test_half_precision_under_autocast():
    problem = make_problem("bias", dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (output,) = run(problem)
        expected = torch_attention(**problem.variables)
    assert output.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)
    double = make_problem("plain")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run(double)[0].dtype == torch.float64
        additive = make_problem("additive", dtype=torch.float32)
        assert run(additive)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("case", ["everything", "additive_everything"])
def test_gradients_of_leaves_under_autocast_have_their_dtype(case):
    problem = make_problem(case, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = evaluate(run, problem)
    assert {t.dtype for n, t in found.items() if n.startswith("grad")} == {torch.float32}


def test_names_at_top_level():
    assert fastcells.scaled_dot_product_attention is scaled_dot_product_attention
    assert fastcells.additive_attention is additive_attention
    assert set(DOT_CASES) < set(CASES)


def test_where_torch_is_faster_it_takes_plain_calls_alone(monkeypatch):
    """16-bit on a GPU; here the CPU stands in for one."""
    calls = []
    by_torch = torch.nn.functional.scaled_dot_product_attention

    def counted(*arguments, **options):
        calls.append(options)
        return by_torch(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(routing, "TORCH_IS_FASTER_ON", ("cpu",))
    query, key, value = (torch.randn(2, n, 6, 8).bfloat16() for n in (4, 2, 2))
    sdpa = partial(fastcells.scaled_dot_product_attention, enable_gqa=True)
    plain = sdpa(query, key, value, scale=0.5)
    causal = sdpa(query, key, value, is_causal=True)
    assert [call["is_causal"] for call in calls] == [False, True]
    monkeypatch.setattr(routing, "TORCH_IS_FASTER_ON", ())
    close = partial(torch.testing.assert_close, rtol=0, atol=2**-6)  # torch rounds weights, too
    close(plain, sdpa(query, key, value, scale=0.5))
    close(causal, sdpa(query, key, value, is_causal=True))
    monkeypatch.setattr(routing, "TORCH_IS_FASTER_ON", ("cpu",))
    sdpa(query, key, value, window=(2, 0))
    sdpa(query, key, value, attn_mask=torch.ones(6, 6, dtype=torch.bool))
    sdpa(query, key, value, dropout_p=0.5)
    sdpa(query, key, value, return_weights=True)
    sdpa(query.requires_grad_(), key, value)
    sdpa(*(t.detach().float() for t in (query, key, value)))
    assert len(calls) == 2
