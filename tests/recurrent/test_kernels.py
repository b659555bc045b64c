"""The kernels of the recurrent layers equal fastcells.reference, whatever they are given."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcells import _extension
from fastcells.functional import recurrent_calls as functional
from fastcells.ops import recurrent as ops
from fastcells.reference import recurrent as reference
from fastcells.testing import make_layer_problem
from problems import (
    IGNORING_H,
    TORCH_LAYERS,
    assert_matches,
    assert_same_bits,
    each_cell,
    each_direction,
    each_mask,
    each_shape,
    evaluate,
    poisoned_memory,
    run_kernels,
    run_reference,
    run_torch,
    small_problem,
    steps_past_ends,
    with_one_result,
)


def test_kernels_know_the_cells_of_the_reference():
    kernels = {name: (c["gates"], c["states"]) for name, c in _extension._C.cells().items()}
    assert kernels == {name: (c.gates, c.states) for name, c in reference.CELLS.items()}


def test_calls_of_these_tests_run_on_the_kernels():
    problem = small_problem("lstm")
    assert functional.choose_route(list(problem.variables().values())).is_kernel


# ---- float64: everything equals the reference ----


@each_mask
@each_direction
@each_cell
def test_outputs_and_gradients_match_reference(cell, proj_size, directions, masks):
    bias = (directions + sum(masks.values())) % 2 == 0  # each mask with and without
    problem = small_problem(cell, directions, proj_size, bias=bias, **masks)
    assert_matches(evaluate(run_kernels, problem), evaluate(run_reference, problem))


@each_shape
@each_cell
def test_shapes_that_miss_tiles_match_reference(cell, proj_size, T, B, H):
    width = (H + 1) // 2 if proj_size else 0
    problem = make_layer_problem(cell, 2, T, B, 5, H, proj_size=width, lengths=True)
    assert_matches(evaluate(run_kernels, problem), evaluate(run_reference, problem))


@each_direction
@each_cell
def test_absent_initial_states_are_zeros(cell, proj_size, directions):
    problem = small_problem(cell, directions, proj_size, lengths=True)
    zeros = [None if s is None else torch.zeros_like(s) for s in (problem.h_0, problem.c_0)]
    expected = evaluate(run_kernels, replace(problem, h_0=zeros[0], c_0=zeros[1]))
    for state in ("h_0", "c_0"):
        expected.pop(f"grad of {state}", None)
    assert_same_bits(evaluate(run_kernels, replace(problem, h_0=None, c_0=None)), expected)


@st.composite
def layer_problems(draw):
    """Any layer of a few steps: each row's length and each reset are drawn one by one."""
    cell = draw(st.sampled_from(list(reference.CELLS)))
    T, B, I, H = (draw(st.integers(low, high)) for low, high in ((1, 6), (0, 5), (1, 9), (1, 20)))
    # The op allows a projection to H units and more, which torch's layers refuse.
    proj_size = draw(st.integers(0, H + 3)) if cell == "lstm" else 0
    bias, directions = draw(st.booleans()), draw(st.integers(1, 2))
    problem = make_layer_problem(cell, directions, T, B, I, H, proj_size=proj_size, bias=bias)
    lengths = draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B))
    resets = draw(st.none() | st.lists(st.booleans(), min_size=T * B, max_size=T * B))
    return replace(
        problem,
        lengths=None if lengths is None else torch.tensor(lengths, dtype=torch.int64),
        resets=None if resets is None else torch.tensor(resets, dtype=torch.bool).view(T, B),
    )


@settings(deadline=None, derandomize=True, max_examples=120, print_blob=True)
@given(layer_problems())
def test_any_layer_matches_reference(problem):
    assert_matches(evaluate(run_kernels, problem), evaluate(run_reference, problem))


# ---- other dtypes: as accurate as torch ----


def run_in_storage_dtype(problem):
    """A cell that torch lacks, with every operation rounded to storage, as torch's are."""
    cell = reference.CELLS[problem.cell]
    outputs, h_n, c_n = [], [], []
    for d, weights in enumerate(reference.split_weights(problem.weights, problem.names)):
        h, c = problem.h_0[d], None if problem.c_0 is None else problem.c_0[d]
        steps, hs = list(problem.input), []
        for x in reversed(steps) if d else steps:
            h, c = cell.step(x, h, c, weights, *((x,) if cell.reads_input else ()))
            hs.append(h)
        outputs.append(torch.stack(hs[::-1] if d else hs))
        h_n, c_n = [*h_n, h], [*c_n, *([] if c is None else [c])]
    return torch.cat(outputs, dim=2), torch.stack(h_n), torch.stack(c_n) if c_n else None, None


def move_from_kink(problem):
    """Half of the relus always on, half always off: where rounding moves one across its kink, its
    gradient is another one, and that says nothing of the arithmetic."""
    for w in reference.split_weights(problem.weights, problem.names):
        w.weight_ih.mul_(0.5), w.weight_hh.mul_(0.1)
        w.bias_ih.fill_(4.0)[::2] = -4.0
        if w.bias_hh is not None:
            w.bias_hh.zero_()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)
@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (12, 16, 24, 33)], ids=["tiny", "small"])
@each_cell
def test_kernels_are_as_accurate_as_torch(cell, proj_size, shape, dtype, assert_accurate):
    problem = make_layer_problem(cell, 2, *shape, proj_size=proj_size, dtype=dtype)
    if cell.endswith("relu"):
        move_from_kink(problem)
    actual = evaluate(partial(run_kernels, want_cells=False), problem)
    torchs = evaluate(run_torch if cell in TORCH_LAYERS else run_in_storage_dtype, problem)
    exact_run, exact_problem = partial(run_reference, want_cells=False), problem.to(torch.float64)
    exact = evaluate(exact_run, exact_problem, rounded_to=dtype)
    assert actual.keys() == torchs.keys() == exact.keys()
    # The gradient of a weight is one product over all T*B rows. Where torch adds up a product a
    # step, fewer roundings add up; where it makes one product too, as for W_ih of nn.LSTM, it errs
    # by 4 eps of float32 as well.
    order_of_sums = 4 * torch.finfo(torch.float32).eps
    for name, result in actual.items():
        floor = torch.finfo(dtype).eps + (order_of_sums if "weight" in name else 0)
        assert_accurate(result, exact[name], torchs[name], floor=floor, what=name)


# ---- what does not exist has no effect ----


@each_direction
@each_cell
def test_nan_past_a_rows_end_has_no_effect(cell, proj_size, directions):
    problem = small_problem(cell, directions, proj_size, lengths=True)
    past = steps_past_ends(problem)
    problem.input[past] = 0
    expected = evaluate(run_kernels, problem, past_ends=0.0)
    problem.input[past] = float("nan")
    actual = evaluate(run_kernels, problem, past_ends=float("nan"))
    assert_same_bits(actual, expected)
    for name in {"output", "cells", "grad of input"} & actual.keys():
        assert not actual[name][past].any(), name


@each_direction
@each_cell
def test_a_row_of_length_zero_keeps_its_initial_states(cell, proj_size, directions):
    problem = small_problem(cell, directions, proj_size)
    lengths, resets = torch.tensor([5, 0, 3, 0]), torch.ones(5, 4, dtype=torch.bool)
    problem = replace(problem, lengths=lengths, resets=resets)
    results = evaluate(run_kernels, problem)
    assert torch.equal(results["h_n"][:, 1::2], problem.h_0[:, 1::2])
    assert not results["output"][:, 1::2].any()
    if problem.c_0 is not None:
        assert torch.equal(results["c_n"][:, 1::2], problem.c_0[:, 1::2])
    assert_matches(results, evaluate(run_reference, problem))


@each_cell
def test_nan_before_a_reset_stays_before_it(cell, proj_size):
    problem = small_problem(cell, 2, proj_size)
    resets = torch.zeros(5, 4, dtype=torch.bool)
    resets[3, 0] = True
    problem = replace(problem, resets=resets)
    expected = evaluate(run_kernels, problem)
    problem.input[:3, 0] = problem.h_0[0, 0] = float("nan")
    actual = evaluate(run_kernels, problem)
    for name in {"output", "cells", "grad of input"} & actual.keys():
        assert actual[name][:3, 0].isnan().all() or name == "grad of input", name
        assert torch.equal(actual[name][3:, 0], expected[name][3:, 0]), name
        assert torch.equal(actual[name][:, 1:], expected[name][:, 1:]), name
    for name in {"h_n", "c_n"} & actual.keys():
        assert torch.equal(actual[name][0], expected[name][0]), name
        assert torch.equal(actual[name][1, 1:], expected[name][1, 1:]), name


@each_cell
def test_a_reset_at_step_zero_hides_the_initial_states(cell, proj_size):
    problem = small_problem(cell, 1, proj_size)
    resets = torch.zeros(5, 4, dtype=torch.bool)
    resets[0, 0] = True
    problem = replace(problem, resets=resets)
    states = [s for s in (problem.h_0, problem.c_0) if s is not None]
    expected = evaluate(run_kernels, problem)
    for state in states:
        state[:, 0] = float("nan")
    actual = evaluate(run_kernels, problem)
    assert_same_bits(actual, expected)
    for name in {"grad of h_0", "grad of c_0"} & actual.keys():
        assert not actual[name][:, 0].any(), name
        if name == "grad of c_0" or cell not in IGNORING_H:
            others = actual[name][:, 1:]
            assert others.any() if cell == "indrnn_relu" else others.all(), name


@each_mask
@each_direction
@each_cell
def test_uninitialised_memory_is_never_read(cell, proj_size, directions, masks):
    problem = small_problem(cell, directions, proj_size, **masks)
    expected = evaluate(run_kernels, problem)
    kept = ops.recurrent_forward(*problem.arguments(), "everything")
    # Where only one result has a gradient, those of the others are zero without being given.
    alone = [
        with_one_result(run_kernels, index) for index in range(2 if problem.c_0 is None else 4)
    ]
    expected_alone = [evaluate(run, problem) for run in alone]
    with poisoned_memory():
        assert_same_bits(evaluate(run_kernels, problem), expected)
        for run, want in zip(alone, expected_alone, strict=True):
            assert_same_bits(evaluate(run, problem), want)
        without_grad = run_kernels(problem)
        poisoned = ops.recurrent_forward(*problem.arguments(), "everything")
    assert all(torch.equal(a, b) for a, b in zip(poisoned, kept, strict=True))
    assert torch.equal(without_grad[0], expected["output"])


# ---- calls that follow or meet one another ----


def busy_problem(cell="lstm", proj_size=0):
    """Large enough for several threads to work on it."""
    return make_layer_problem(cell, 2, 4, 64, 16, 64, proj_size=proj_size, lengths=True)


@each_cell
def test_repeated_calls_are_equal_to_the_bit(cell, proj_size):
    problem = busy_problem(cell, proj_size)
    assert_same_bits(evaluate(run_kernels, problem), evaluate(run_kernels, problem))


@each_cell
def test_a_retained_graph_gives_the_same_gradients_again(cell, proj_size):
    problem = small_problem(cell, 2, proj_size, lengths=True)
    leaves = [v.requires_grad_() for v in problem.variables().values()]
    loss = sum(out.sin().sum() for out in run_kernels(problem) if out is not None)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    second = torch.autograd.grad(loss, leaves)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("keep", ["states", "everything"])
@each_cell
def test_the_way_back_harms_neither_arguments_nor_what_was_kept(cell, proj_size, keep):
    problem = small_problem(cell, 2, proj_size, lengths=True, resets=True)
    output, h_n, c_n, cells, saved = ops.recurrent_forward(*problem.arguments(), keep)
    grads = [torch.ones_like(t) for t in (output, h_n, c_n, cells)]
    used = [*problem.variables().values(), problem.lengths, problem.resets, output, cells, saved]
    used += grads
    before = [t.clone() for t in used]
    name, directions, input, h_0, c_0, weights, names, lengths, resets = problem.arguments()
    needs = [True] * (3 + len(weights))
    results = ops.recurrent_backward(
        name, directions, grads, input, h_0, c_0, weights, names, lengths, resets,
        (output, cells, saved), needs,
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(used, before, strict=True))
    theirs = {t.untyped_storage().data_ptr() for t in used if t.numel()}
    ours = [t.untyped_storage().data_ptr() for t in (*results[:3], *results[3]) if t.numel()]
    assert not theirs & set(ours)
    assert len(ours) == len(set(ours))


def spread(tensor):
    """The same values, with others between them."""
    return torch.stack([tensor, torch.ones_like(tensor)], dim=-1)[..., 0]


def transposed(tensor):
    """The same values in reversed order of dimensions."""
    dims = tuple(reversed(range(tensor.dim())))
    return tensor.permute(dims).contiguous().permute(dims)


@pytest.mark.parametrize("layout", [spread, transposed])
@each_cell
def test_non_contiguous_arguments_give_the_same_results(cell, proj_size, layout):
    problem = small_problem(cell, 2, proj_size, lengths=True, resets=True)
    changed = replace(
        problem.with_variables(map(layout, problem.variables().values())),
        lengths=layout(problem.lengths),
        resets=layout(problem.resets),
    )
    assert not changed.weights[0].is_contiguous()
    assert_same_bits(evaluate(run_kernels, changed), evaluate(run_kernels, problem))


@each_cell
def test_expanded_gradients_give_the_same_results(cell, proj_size):
    problem = small_problem(cell, 2, proj_size)
    leaves = [v.requires_grad_() for v in problem.variables().values()]
    outputs = [out for out in run_kernels(problem) if out is not None]
    one = torch.ones((), dtype=torch.float64)
    expanded = torch.autograd.grad(
        outputs, leaves, [one.expand(out.shape) for out in outputs], retain_graph=True
    )
    full = torch.autograd.grad(outputs, leaves, [torch.ones_like(out) for out in outputs])
    assert all(torch.equal(a, b) for a, b in zip(expanded, full, strict=True))


def test_six_threads_at_once_get_the_serial_result():
    problems = [busy_problem(cell) for cell in reference.CELLS]
    expected = [evaluate(run_kernels, problem) for problem in problems]
    start = threading.Barrier(len(problems))

    def work(index):
        start.wait(timeout=60)
        return [evaluate(run_kernels, problems[index]) for _ in range(3)]

    with ThreadPoolExecutor(len(problems)) as pool:
        for want, results in zip(expected, pool.map(work, range(len(problems))), strict=True):
            for got in results:  # not to the bit: a busy BLAS may use fewer threads
                assert_matches(got, want)


# From Python 3.12 on a fork beside running threads, here torch's, warns of deadlocks: that there
# is none is what this test is for.
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_kernels_run_in_a_forked_worker_after_use_in_the_parent():
    problem = busy_problem()
    expected = evaluate(run_kernels, problem)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work():
        torch.set_num_threads(1)  # as DataLoader's workers do: OpenMP does not survive a fork
        assert_matches(evaluate(run_kernels, problem), expected)
        sender.send("equal")

    worker = context.Process(target=work, daemon=True)
    worker.start()
    sender.close()
    try:
        assert receiver.poll(timeout=60), "the worker hangs"
        assert receiver.recv() == "equal"
    finally:
        worker.kill()
        worker.join()


# ---- one step ----


def run_step(problem):
    c = None if problem.c_0 is None else problem.c_0[0]
    h, c = functional.run_step(
        problem.cell, problem.input[0], problem.h_0[0], c, problem.weights, problem.names
    )
    return None, h[None], None if c is None else c[None], None


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@each_cell
def test_a_step_equals_a_layer_of_one_step(cell, proj_size, bias):
    problem = make_layer_problem(cell, 1, 1, 4, 3, 6, proj_size=proj_size, bias=bias)
    with torch.no_grad():
        by_layer, by_step = run_kernels(problem)[1:3], run_step(problem)[1:3]
    for layers, steps in zip(by_layer, by_step, strict=True):
        assert layers is steps is None or torch.equal(layers, steps)

    def run_reference_step(problem):
        return None, *run_reference(problem)[1:3], None

    assert_matches(evaluate(run_step, problem), evaluate(run_reference_step, problem))


def test_the_step_op_takes_absent_states_for_zeros():
    problem = make_layer_problem("lstm", 1, 1, 4, 3, 6)
    x, zeros = problem.input[0], torch.zeros(4, 6, dtype=torch.float64)
    absent = ops.recurrent_step("lstm", x, None, None, problem.weights, problem.names)
    given = ops.recurrent_step("lstm", x, zeros, zeros, problem.weights, problem.names)
    assert all(torch.equal(a, b) for a, b in zip(absent, given, strict=True))
