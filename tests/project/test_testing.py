"""The rule of accuracy and the random problems that every other test of the kernels rests on."""

import pytest
import torch

from fastcells.testing import assert_as_accurate_as_torch, make_layer_problem

EXACT = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
EPS = torch.finfo(torch.float32).eps


def off_by(*units):
    """EXACT in float32, each element wrong by so many eps of the largest one."""
    return (EXACT + 4 * EPS * torch.tensor(units, dtype=torch.float64)).float()


def test_twice_torchs_error_passes_and_its_ratio_is_returned():
    ratio = assert_as_accurate_as_torch(off_by(0, 20, 0), EXACT, off_by(0, 0, -10))
    assert ratio == pytest.approx(2)


def test_more_than_twice_torchs_error_fails_with_the_place_and_both_errors():
    with pytest.raises(AssertionError) as caught:
        assert_as_accurate_as_torch(off_by(0, 24, 0), EXACT, off_by(0, 0, 10), what="h_n")
    text = str(caught.value)
    assert text.startswith("h_n: error 2.86e-06 exceeds 2 x torch's own 1.19e-06 + 1.19e-07 ")
    assert "the worst is at (1,): got -1.99998" in text
    assert "exact is -2, torch has -2" in text


def test_one_eps_is_allowed_where_torch_is_exact_and_no_more():
    assert assert_as_accurate_as_torch(off_by(0, 1, 0), EXACT, off_by(0, 0, 0)) == pytest.approx(1)
    with pytest.raises(AssertionError, match="error"):
        assert_as_accurate_as_torch(off_by(0, 2, 0), EXACT, off_by(0, 0, 0))
    assert_as_accurate_as_torch(off_by(0, 2, 0), EXACT, off_by(0, 0, 0), floor=2.5 * EPS)
    with pytest.raises(AssertionError, match="error"):
        assert_as_accurate_as_torch(off_by(0, 2, 0), EXACT, off_by(0, 1, 0), factor=0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_must_stand_in_the_same_place(value):
    wrong, exact = off_by(0, 0, 0), EXACT.clone()
    wrong[1] = value
    with pytest.raises(AssertionError, match=r"at \(1,\), the first of 1 positions"):
        assert_as_accurate_as_torch(wrong, EXACT, off_by(0, 0, 0))
    exact[1] = value
    assert assert_as_accurate_as_torch(wrong, exact, wrong) == 0
    with pytest.raises(AssertionError, match=r"at \(1,\), the first of 1 positions"):
        assert_as_accurate_as_torch(off_by(0, 0, 0), exact, wrong)


def test_nan_of_torch_excuses_nothing():
    theirs = off_by(0, 0, 0)
    theirs[0] = float("nan")
    with pytest.raises(AssertionError, match="torch's own nan"):
        assert_as_accurate_as_torch(off_by(0, 100, 0), EXACT, theirs)


@pytest.mark.parametrize("proj_size", [0, 3])
def test_variables_of_a_problem_can_be_exchanged_for_others(proj_size):
    problem = make_layer_problem("lstm", 2, 5, 4, 3, 6, proj_size=proj_size, bias=proj_size == 0)
    names = list(problem.variables())
    last = "bias_hh_reverse" if proj_size == 0 else "weight_hr_reverse"
    assert names[:4] == ["input", "h_0", "c_0", "weight_ih"]
    assert names[-1] == last
    doubled = problem.with_variables(2 * v for v in problem.variables().values())
    for name, variable in doubled.variables().items():
        assert torch.equal(variable, 2 * problem.variables()[name])
    assert doubled.h_0.shape == (2, 4, proj_size or 6)


def test_a_problem_is_the_same_for_the_same_seed_alone():
    first, again, other = (
        make_layer_problem("gru", 1, 9, 5, 3, 6, lengths=True, resets=True, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.input, again.input)
    assert torch.equal(first.resets, again.resets)
    assert not torch.equal(first.input, other.input)
    assert first.lengths.tolist()[:3] == [9, 0, 5]
    assert first.resets[0, 0]
