"""fastcells.reference.attention equals what torch computes, and its dropout is Philox."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.functional import softmax as torch_softmax

from attention_problems import (
    CASES,
    Sizes,
    each_case,
    eager,
    evaluate,
    make_problem,
    run_reference,
)
from fastcells.reference import attention as reference
from fastcells.reference.philox import philox
from problems import assert_matches

WITHOUT_DROPOUT = [name for name in CASES if "dropout" not in name and "everything" not in name]


@pytest.mark.parametrize("case", WITHOUT_DROPOUT)
def test_results_and_gradients_are_those_of_attention_by_hand(case):
    problem = make_problem(case)
    by_hand = lambda p: eager(p)[: 1 + p.options.get("return_weights", False)]  # noqa: E731
    assert_matches(evaluate(run_reference, problem), evaluate(by_hand, problem))


@pytest.mark.parametrize(
    "case", ["plain", "causal", "bool_mask", "bias", "bias_of_keys", "grouped"]
)
def test_results_and_gradients_are_those_of_torch(case):
    problem = make_problem(case)
    if case == "bool_mask":  # torch has NaN gradients, or none, in a row that sees nothing
        problem.options["attn_mask"][..., 0, 0] = True

    def run_torch(p):
        return (scaled_dot_product_attention(**p.variables, **p.options),)

    assert_matches(evaluate(run_reference, problem), evaluate(run_torch, problem))


@each_case
def test_dtype_and_accuracy_of_16_bits(case):
    """Stored in bfloat16, computed in float32: no worse than one rounding of the result."""
    problem = make_problem(case, dtype=torch.bfloat16)
    exact = run_reference(problem.to(torch.float64))
    for result, want in zip(run_reference(problem), exact, strict=True):
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result.double(), want, rtol=2**-8, atol=1e-5)


def test_a_row_that_sees_nothing_is_0_and_so_are_its_gradients():
    s = torch.tensor([[1.0, -torch.inf], [-torch.inf, -torch.inf]], requires_grad=True)
    weights = reference.softmax(s)
    assert weights.tolist() == [[1, 0], [0, 0]]
    (grad,) = torch.autograd.grad(weights, s, torch.tensor([[2.0, 3.0], [4.0, 5.0]]))
    assert grad.tolist() == [[0, 0], [0, 0]]


def test_a_score_that_is_not_a_number_is_not_taken_for_a_masked_one():
    assert reference.softmax(torch.tensor([[torch.nan, torch.nan]])).isnan().all()


def test_softmax_is_torchs_where_every_row_sees_something():
    s = torch.randn(3, 4, dtype=torch.float64)
    assert torch.equal(reference.softmax(s), torch_softmax(s, dim=-1))


# ---- dropout ----

#: Of the authors' own known answers (Random123, kat_vectors): counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, words):
    counter, key = ([torch.tensor([x]) for x in numbers] for numbers in (counter, key))
    assert tuple(int(word) for word in philox(counter, key)) == words


def philox_word(seed, part, row, column):
    """One word in Python's own integers."""
    c, k = [column // 4, row, part, 0], [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        low = 0xFFFFFFFF
        c = [b >> 32 ^ c[1] ^ k[0], b & low, a >> 32 ^ c[3] ^ k[1], a & low]
        k = [k[0] + 0x9E3779B9 & low, k[1] + 0xBB67AE85 & low]
    return c[column % 4]


@pytest.mark.parametrize("seed", [0, 1, 2**62 - 1, -1])
def test_what_is_kept_is_a_function_of_seed_and_position(seed):
    p = 0.3
    keep = reference.keep_mask(torch.tensor([seed]), 3, 4, 6, p)
    for part, row, column in [(0, 0, 0), (2, 3, 5), (1, 2, 3), (2, 0, 4), (0, 3, 1)]:
        assert keep[part, row, column] == (
            philox_word(seed % 2**64, part, row, column) >= p * 2**32
        )
    larger = reference.keep_mask(torch.tensor([seed]), 5, 7, 30, p)
    assert torch.equal(keep, larger[:3, :4, :6])


def test_the_share_of_what_is_kept_and_what_it_is_scaled_by():
    keep = reference.keep_mask(torch.tensor([7]), 4, 100, 101, 0.25)
    assert keep.double().mean().item() == pytest.approx(0.75, abs=0.01)
    problem = make_problem("dropout")
    (output,) = run_reference(problem)
    problem.options["return_weights"] = True
    output_too, weights = run_reference(problem)
    assert torch.equal(output, output_too)
    problem.options["dropout_p"] = 0.0
    _, before = run_reference(problem)
    kept = weights != 0
    assert 0.5 < kept.double().mean() < 0.9
    torch.testing.assert_close(weights[kept], before[kept] / 0.7)


@pytest.mark.parametrize("case", ["dropout", "additive_dropout"])
def test_a_dropout_of_1_leaves_nothing(case):
    problem = make_problem(case)
    problem.options["dropout_p"] = 1.0
    found = evaluate(run_reference, problem)
    assert all(tensor.count_nonzero() == 0 for tensor in found.values())


@pytest.mark.parametrize("zero", ["B", "N", "Tq", "Tk", "E", "Ev"])
def test_sizes_of_zero(zero):
    for case in ("plain", "causal", "bias", "lengths", "weights", "dropout", "additive_lengths"):
        sizes = Sizes(**{zero: 0} | ({"Nk": 0} if zero == "N" else {}))
        problem = make_problem(case, sizes)
        found = evaluate(run_reference, problem)
        assert not any(tensor.isnan().any() for tensor in found.values())
        if zero in ("Tk",):
            assert found["output"].count_nonzero() == 0
