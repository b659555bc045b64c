"""Layers that look at whole rows, and draw masks: kernels and reference against the equations, and
what is particular to their engine."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from fastcells.testing import assert_as_accurate_as_torch, make_layer_problem
from problems import (
    MASKS,
    assert_matches,
    assert_same_bits,
    each_direction,
    each_mask,
    evaluate,
    loss_of,
    poisoned_memory,
    run_kernels,
    run_plainly,
    run_reference,
    small_problem,
    steps_past_ends,
    tiny_problem,
    variables_of,
)
from row_equations import GATES, run_equations

#: Norms and noise: rates of dropout, zoneout of h and of c, and 1 in training.
FORMS = {
    "parts": {"norm": "parts", "rates": (0.3, 0.4, 0.2, 1.0)},
    "gates": {"norm": "gates"},
    "carried": {"norm": "parts carried", "rates": (0.0, 0.0, 0.3, 1.0)},
    "noise": {"rates": (0.3, 0.4, 0.2, 1.0)},
    "evaluated": {"norm": "parts", "rates": (0.3, 0.4, 0.2, 0.0)},
    "bare": {},
}
CASES = [
    pytest.param(cell, form, id=f"{cell}-{form}")
    for cell in GATES
    for form in FORMS
    if cell == "lstm" or form != "carried"
    if "gru" not in cell or form != "gates"
    if cell == "lstm_peephole" or form != "bare"
]
each_case = pytest.mark.parametrize(("cell", "form"), CASES)
#: One cell of each kind of the way back: with c and without, additive and not.
few_cases = pytest.mark.parametrize(
    ("cell", "form"), [case for case in CASES if case.values[0] in ("lstm", "gru")]
)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("run", [run_kernels, run_reference], ids=["kernels", "reference"])
@each_mask
@each_direction
@each_case
def test_outputs_and_gradients_are_those_of_the_equations(cell, form, directions, masks, run):
    problem = small_problem(cell, directions, **masks, **FORMS[form])
    assert_matches(evaluate(run, problem), evaluate(run_equations, problem))


@pytest.mark.parametrize("H", [1, 15, 17, 70], ids="H{}".format)
@pytest.mark.parametrize("B", [1, 3, 20], ids="B{}".format)
@few_cases
def test_units_and_rows_that_fill_no_vector(cell, form, B, H):
    problem = make_layer_problem(
        cell, 1, 7, B, 5, H, bias=B != 3, lengths=True, resets=True, **FORMS[form]
    )
    assert_matches(evaluate(run_kernels, problem), evaluate(run_reference, problem), 1e-10)


@each_case
def test_gates_computed_again_give_the_same(cell, form):
    for directions in (1, 2):
        problem = make_layer_problem(
            cell, directions, 70, 9, 4, 18, lengths=True, resets=True, **FORMS[form]
        )
        again = evaluate(partial(run_kernels, recompute=True), problem)
        assert_matches(again, evaluate(run_kernels, problem), 1e-11)


@few_cases
def test_chunks_of_steps_on_the_way_back(cell, form):
    problem = make_layer_problem(cell, 1, 48, 90, 5, 9, lengths=True, resets=True, **FORMS[form])
    few = torch.rand(48, 90, generator=torch.Generator().manual_seed(0)) > 0.99
    problem = replace(problem, resets=few)
    assert_matches(evaluate(run_kernels, problem), evaluate(run_reference, problem), 1e-9)


@few_cases
def test_repeats_give_the_same_bits_and_threads_the_same_numbers(cell, form):
    before = torch.get_num_threads()
    try:
        for size in [(2, 40, 1, 9, 100), (1, 7, 40, 5, 20), (2, 30, 3, 5, 150)]:
            problem = make_layer_problem(cell, *size, lengths=True, resets=True, **FORMS[form])
            torch.set_num_threads(1)
            expected = evaluate(run_kernels, problem)
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                found = evaluate(run_kernels, problem)
                assert_same_bits(evaluate(run_kernels, problem), found)
                assert_matches(found, expected, 1e-11)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "again"])
@each_direction
@few_cases
def test_what_lies_past_a_rows_end_leaves_no_trace(cell, form, directions, recompute):
    run = partial(run_kernels, recompute=recompute)
    problem = make_layer_problem(
        cell, directions, 12, 5, 4, 18, lengths=True, resets=True, **FORMS[form]
    )
    expected = evaluate(run, problem)
    input = problem.input.clone()
    input[steps_past_ends(problem)] = torch.nan
    with poisoned_memory():
        found = evaluate(run, replace(problem, input=input), past_ends=torch.nan)
    assert_same_bits(found, expected)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@each_case
def test_lower_precision_is_as_accurate_as_a_loop_of_torch(cell, form, dtype):
    problem = make_layer_problem(
        cell, 2, 20, 7, 12, 33, lengths=True, resets=True, dtype=dtype, **FORMS[form]
    )
    exact = evaluate(run_reference, problem.to(torch.float64), rounded_to=dtype)
    plain = evaluate(run_plainly, problem, rounded_to=dtype)
    for name, result in evaluate(run_kernels, problem, rounded_to=dtype).items():
        # One problem's ratio scatters: of a plain LSTM, too, up to 3.5 over a dozen seeds.
        assert_as_accurate_as_torch(
            result, exact[name], plain[name].to(result.dtype), factor=5, what=name
        )


@few_cases
def test_derivatives_by_differences(cell, form):
    problem = tiny_problem(cell, 1, masks=MASKS["lengths_and_resets"])
    like = make_layer_problem(cell, 1, 3, 2, 2, 3, **FORMS[form])
    problem = replace(problem, weights=like.weights, names=like.names)
    variables = [v.requires_grad_() for v in variables_of(problem)]
    assert torch.autograd.gradgradcheck(loss_of(run_kernels, problem), variables, fast_mode=True)


def test_matrices_narrower_than_the_input_are_refused():
    problem = make_layer_problem("gru", 1, 3, 2, 4, 5, norm="parts", dtype=torch.float32)
    names = problem.names.split()
    weights = [w.bfloat16() if n.startswith("weight") else w
               for n, w in zip(names, problem.weights, strict=True)]  # fmt: skip
    with pytest.raises(TypeError) as caught:
        torch.ops.fastcells.recurrent_forward(
            "gru", 1, problem.input, None, None, weights, problem.names, None, None, "nothing"
        )
    assert str(caught.value).splitlines()[0] == (
        "fastcells::recurrent_forward: weight_ih must have dtype Float, got BFloat16. "
        "Convert it with .to(...)"
    )
