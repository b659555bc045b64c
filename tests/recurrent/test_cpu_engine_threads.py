"""The CPU engine among threads and processes: any number of its own, calls from several at once,
children of a fork."""

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import fastcells
from fastcells import _extension
from fastcells.testing import make_layer_problem
from forks import forks, run_in_a_fork
from problems import assert_matches, assert_same_bits, evaluate, run_kernels

CELLS = ["rnn_tanh", "rnn_relu", "lstm", "gru", "gru_article"]
#: (cell, directions, T, B, I, H): problems, and what their grids of threads are made of.
UNITS = [("lstm", 1, 20, 1, 9, 300), ("gru", 1, 20, 1, 9, 400), ("lstm", 1, 10, 2, 70, 300)]
ROWS = [("lstm", 1, 12, 64, 9, 24), ("rnn_tanh", 1, 20, 5, 9, 64), ("gru", 1, 9, 20, 300, 64)]
TEAMS = [("gru", 2, 20, 2, 9, 96), ("rnn_tanh", 2, 20, 2, 9, 160)]


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def grid_of(problem):
    """The threads of a problem's plan, in words."""
    sizes = (*problem.input.shape, problem.weights[1].shape[1])
    engine, plan, _ = _extension._C.explain_cpu(
        problem.cell, problem.directions, sizes, problem.input.dtype, False, True, False
    )
    assert engine == "sequence"
    return re.fullmatch(r"\w+, (.*?); .*", plan).group(1)


def outputs_of(problem):
    with torch.no_grad():
        return [out for out in run_kernels(problem) if out is not None]


# ---- any number of threads ----


def assert_forward_is_the_same(sizes, dtype, part):
    """On 1, 2, 3 and 5 threads; some of the grids must have `part`."""
    problem = make_layer_problem(*sizes, dtype=dtype, resets=True)
    expected, grids = None, []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        grids.append(grid_of(problem))
        outputs = outputs_of(problem)
        expected = expected or outputs
        for out, want in zip(outputs, expected, strict=True):
            error = (out - want).abs().max().item()
            # Rows in other tiles add up in another order; T steps carry the last bits on.
            bound = 64 * torch.finfo(dtype).eps * max(1.0, want.abs().max().item())
            assert error <= bound, f"{grids[-1]}: differs by {error:.1e}"
    assert grids[0] == "one thread"
    assert any(part in grid for grid in grids[1:]), grids


each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])


@each_dtype
@pytest.mark.parametrize("sizes", UNITS, ids=str)
def test_threads_that_share_the_units_change_nothing_but_last_bits(sizes, dtype):
    assert_forward_is_the_same(sizes, dtype, "share the units")


@each_dtype
@pytest.mark.parametrize("sizes", ROWS, ids=str)
def test_groups_of_rows_change_nothing_but_last_bits(sizes, dtype):
    assert_forward_is_the_same(sizes, dtype, "groups of rows")


@each_dtype
@pytest.mark.parametrize("sizes", TEAMS, ids=str)
def test_directions_at_once_change_nothing_but_last_bits(sizes, dtype):
    assert_forward_is_the_same(sizes, dtype, "directions at once")


@pytest.mark.parametrize("sizes", [UNITS[0], ROWS[1], ROWS[2], TEAMS[1]], ids=str)
def test_gradients_are_the_same_on_any_number_of_threads(sizes):
    problem = make_layer_problem(*sizes, lengths=True, resets=True)
    torch.set_num_threads(1)
    expected = evaluate(run_kernels, problem)
    grids = set()
    for threads in (2, 3, 5):
        torch.set_num_threads(threads)
        grids.add(grid_of(problem))
        assert_matches(evaluate(run_kernels, problem), expected)
    assert "one thread" not in grids


@pytest.mark.parametrize("sizes", [("lstm", 1, 5, 1, 4, 400), ("gru", 2, 5, 40, 4, 64)], ids=str)
def test_more_threads_than_cores_finish(sizes):
    problem = make_layer_problem(*sizes, lengths=True)
    torch.set_num_threads(1)
    expected = evaluate(run_kernels, problem)
    torch.set_num_threads(3 * os.cpu_count() + 1)
    assert int(grid_of(problem).split()[0]) > os.cpu_count()
    assert_matches(evaluate(run_kernels, problem), expected)


# ---- several calls at once ----


def problems_of_every_cell():
    """Each on two threads."""
    sizes = (2, 6, 16, 8, 64)
    problems = [make_layer_problem(cell, *sizes, lengths=True) for cell in [*CELLS, "lstm"]]
    assert all(grid_of(problem) != "one thread" for problem in problems)
    return problems


def test_six_threads_at_once_get_the_bits_of_a_call_alone():
    problems = problems_of_every_cell()
    expected = [evaluate(run_kernels, problem) for problem in problems]
    start = threading.Barrier(len(problems))

    def work(index):
        start.wait(timeout=60)
        return [evaluate(run_kernels, problems[index]) for _ in range(3)]

    with ThreadPoolExecutor(len(problems)) as pool:
        for want, results in zip(expected, pool.map(work, range(len(problems))), strict=True):
            for got in results:
                assert_same_bits(got, want)


def test_six_threads_share_the_weights_of_one_layer():
    layer = fastcells.LSTM(8, 64, dtype=torch.float64)
    inputs = [torch.randn(6, 4, 8, dtype=torch.float64) for _ in range(6)]
    start = threading.Barrier(6)

    def work(input):
        start.wait(timeout=60)
        with torch.no_grad():
            return [layer(input)[0] for _ in range(20)]

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(work, inputs))
    for input, outputs in zip(inputs, results, strict=True):
        want = layer(input)[0]
        assert all(torch.equal(output, want) for output in outputs)


def test_a_way_back_started_in_another_thread_gives_the_same_bits():
    for problem in problems_of_every_cell():
        leaves = [tensor.requires_grad_() for tensor in problem.variables().values()]
        loss = sum(out.sin().sum() for out in run_kernels(problem) if out is not None)
        expected = torch.autograd.grad(loss, leaves, retain_graph=True)
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert all(torch.equal(t.grad, want) for t, want in zip(leaves, expected, strict=True))


# ---- children of a fork ----


def are_near(actual, expected):
    """By NumPy: in a forked child torch's own operations would wait for the parent's threads."""
    return all(
        np.allclose(got.detach().numpy(), want.detach().numpy(), rtol=0, atol=1e-11)
        for got, want in zip(actual, expected, strict=True)
    )


@forks
@pytest.mark.parametrize("masks", [{}, {"lengths": True}], ids=["all_steps", "lengths"])
def test_a_forked_child_computes_though_its_parent_used_threads(masks):
    # More than 32768 elements of input, which is where torch starts threads of its own.
    problem = make_layer_problem("lstm", 1, 6, 16, 400, 128, **masks)
    leaves = [tensor.requires_grad_() for tensor in problem.variables().values()]
    cotangent = torch.randn(6, 16, 128, dtype=torch.float64)

    def compute():
        output = run_kernels(problem)[0]
        return [output, *torch.autograd.grad(output, leaves, cotangent)]

    assert grid_of(problem) != "one thread"
    expected = compute()
    assert run_in_a_fork(lambda: are_near(compute(), expected)) == "right"


@forks
def test_a_fork_while_another_thread_looks_up_weights_leaves_a_child_that_can():
    torch.set_num_threads(1)
    layers = [fastcells.GRU(4, 4, dtype=torch.float64) for _ in range(200)]
    input = torch.randn(1, 1, 4, dtype=torch.float64)
    is_over = threading.Event()

    def work():
        torch.set_num_threads(1)
        with torch.no_grad():
            while not is_over.is_set():
                layers[0](input)

    threads = [threading.Thread(target=work) for _ in range(3)]
    with torch.no_grad():
        expected = [layer(input)[0] for layer in layers][1]
        for thread in threads:
            thread.start()
        try:
            for _ in range(60):
                ended = run_in_a_fork(lambda: are_near([layers[1](input)[0]], [expected]), 5)
                assert ended == "right"
        finally:
            is_over.set()
            for thread in threads:
                thread.join()


class Outputs(Dataset):
    """Outputs of a problem's layer, computed wherever they are asked for."""

    def __init__(self, problem):
        self.problem = problem

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return outputs_of(self.problem)


@forks
def test_a_data_loaders_workers_compute():
    problem = make_layer_problem("gru", 2, 6, 16, 8, 64, lengths=True)
    expected = outputs_of(problem)
    loader = DataLoader(
        Outputs(problem), batch_size=None, num_workers=2, timeout=60, multiprocessing_context="fork"
    )
    found = list(loader)
    assert len(found) == 4
    for outputs in found:
        assert are_near(outputs, expected)
