"""recompute=True of a layer's kernels: only states are kept, and derivatives stay what they are.

Those without it equal the reference's (recurrent/test_kernels.py). Its transforms: together with
those without it, in test_derivatives.py. The layers: test_recompute_layers.py.
"""

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastcells.ops import recurrent as ops
from fastcells.testing import make_layer_problem
from pairs import one_thread  # noqa: F401 (an autouse fixture)
from problems import (
    assert_equal_trees,
    assert_matches,
    each_cell,
    each_direction,
    each_mask,
    evaluate,
    kept_for_the_way_back,
    loss_of,
    outputs_of,
    poisoned_memory,
    run_kernels,
    run_reference,
    small_problem,
    tiny_problem,
    variables_of,
    with_one_result,
)
from refusals import assert_refused

run_recomputing = partial(run_kernels, recompute=True)


# ---- gradients ----


@each_mask
@each_direction
@each_cell
def test_results_and_gradients_are_those_without_it(cell, proj_size, directions, masks):
    problem = small_problem(cell, directions, proj_size, **masks)
    expected = evaluate(run_kernels, problem)
    assert_matches(evaluate(run_recomputing, problem), expected)
    with poisoned_memory():
        assert_matches(evaluate(run_recomputing, problem), expected)


@pytest.mark.parametrize("sizes", [(1, 3, 1), (2, 0, 7), (20, 1, 33), (4, 64, 64)])
@each_cell
def test_gradients_of_any_sizes_are_those_without_it(cell, proj_size, sizes):
    steps, rows, hidden = sizes
    width = (hidden + 1) // 2 if proj_size else 0
    problem = make_layer_problem(cell, 2, steps, rows, 5, hidden, proj_size=width, lengths=True)
    assert_matches(evaluate(run_recomputing, problem), evaluate(run_kernels, problem))


@each_cell
def test_gradients_of_one_result_and_of_one_variable_are_those_without_it(cell, proj_size):
    problem = small_problem(cell, 2, proj_size, resets=True)
    for index in range(2 if problem.c_0 is None else 4):
        actual, expected = (
            evaluate(with_one_result(run, index), problem, wanted=wanted)
            for run, wanted in ((run_recomputing, ["h_0", "weight_ih"]), (run_kernels, None))
        )
        assert_matches(actual, {name: expected[name] for name in actual})


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)
@each_cell
def test_its_error_is_no_larger_than_without_it(cell, proj_size, dtype, assert_accurate):
    problem = make_layer_problem(cell, 2, 12, 16, 24, 33, proj_size=proj_size, dtype=dtype)
    exact = evaluate(run_reference, problem.to(torch.float64), rounded_to=dtype)
    without = evaluate(run_kernels, problem)
    for name, result in evaluate(run_recomputing, problem).items():
        assert_accurate(result, exact[name], without[name], what=name)


@pytest.mark.sampled(3)
@each_cell
def test_first_and_second_derivatives_are_finite_differences(cell, proj_size):
    problem = tiny_problem(cell, 1, proj_size)
    leaves = [v.requires_grad_() for v in variables_of(problem)]
    outputs = outputs_of(run_recomputing, problem)
    assert gradcheck(outputs, leaves, check_forward_ad=True)
    assert gradgradcheck(outputs, leaves, fast_mode=True)


@each_cell
def test_a_retained_graph_gives_the_same_gradients_again(cell, proj_size):
    problem = small_problem(cell, 2, proj_size, lengths=True)
    leaves = [v.requires_grad_() for v in variables_of(problem)]
    loss = loss_of(run_recomputing, problem)(*leaves)
    first, second = (torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_argument_changed_in_place_is_refused():
    """The gates would be computed from other values than those of the forward pass."""
    problem = small_problem("gru")
    leaf = problem.h_0.requires_grad_()
    loss = run_recomputing(problem)[0].sum()
    problem.input.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, leaf)


# ---- what is kept ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@each_cell
def test_besides_arguments_and_output_only_cell_states_are_kept(cell, proj_size, dtype):
    problem = small_problem(cell, 2, proj_size, lengths=True, resets=True, dtype=dtype)
    arguments = [*variables_of(problem), problem.lengths, problem.resets]
    problem.input.requires_grad_()
    numbers = {}
    for run in (run_kernels, run_recomputing):
        kept = kept_for_the_way_back(lambda run=run: run(problem), arguments)
        numbers[run] = sum(t.numel() for t in kept)
    steps, width, units = 5 * 4 * 2, proj_size or 6, 6
    facts = ops.CELL_FACTS[cell]
    has_c, saved = facts["states"] == 2, facts["saved"] + (proj_size > 0)
    assert numbers[run_recomputing] == steps * (width + has_c * units)
    assert numbers[run_kernels] == numbers[run_recomputing] + steps * saved * units


def test_the_op_leaves_out_what_is_computed_again():
    problem = small_problem("lstm")
    *outputs, cells, saved = ops.recurrent_forward(*problem.arguments(), "states")
    assert saved.shape == (0,)
    *expected, all_cells, _ = ops.recurrent_forward(*problem.arguments(), "everything")
    assert_equal_trees([*outputs, cells], [*expected, all_cells])
    name, directions, *tensors = problem.arguments()
    needs = [True] * (3 + len(problem.weights))
    wrong = (outputs[0], cells, torch.zeros(5).double())
    assert_refused(
        lambda: ops.recurrent_backward(name, directions, [None] * 4, *tensors, wrong, needs),
        RuntimeError,
        "fastcells::recurrent_backward: saved must have shape (D, T, B, S*H) = (2, 5, 4, 24), got "
        "(5,)",
    )
