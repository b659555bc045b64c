"""Cells whose units see themselves alone: kernels and reference against the equations, and what
is particular to their engine."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from equations import CELLS, run_equations
from fastcells import _extension
from fastcells.functional.recurrent_calls import run_layer
from fastcells.reference import recurrent as reference
from fastcells.testing import assert_as_accurate_as_torch, make_layer_problem
from problems import (
    MASKS,
    assert_matches,
    assert_same_bits,
    each_direction,
    each_mask,
    evaluate,
    poisoned_memory,
    run_kernels,
    run_plainly,
    run_reference,
    small_problem,
    steps_past_ends,
)

each_cell = pytest.mark.parametrize("cell", CELLS)
READING = [cell for cell, facts in CELLS.items() if facts[-1]]


def wide_problem(cell, directions=2, **options):
    """Each direction reads its own half of an input of D*H columns."""
    problem = small_problem(cell, directions, **options)
    input = torch.randn(5, 4, directions * 6, dtype=torch.float64)
    weights = [
        torch.randn(w.shape[0], directions * 6, dtype=torch.float64) / 3 if w.dim() == 2 else w
        for w in problem.weights
    ]
    return replace(problem, input=input, weights=weights)


def test_these_are_the_elementwise_cells():
    ours = {name for name, c in reference.CELLS.items() if c.unit_weights is not None}
    theirs = {name for name, c in _extension._C.cells().items() if c["is_elementwise"]}
    assert ours == theirs == CELLS.keys()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("run", [run_kernels, run_reference], ids=["kernels", "reference"])
@each_mask
@each_direction
@each_cell
def test_outputs_and_gradients_are_those_of_the_equations(cell, directions, masks, run):
    problem = small_problem(cell, directions, **masks)
    assert_matches(evaluate(run, problem), evaluate(run_equations, problem))


@pytest.mark.parametrize("cell", READING)
@pytest.mark.parametrize("run", [run_kernels, run_reference], ids=["kernels", "reference"])
def test_each_direction_reads_its_own_columns(cell, run):
    problem = wide_problem(cell, lengths=True, resets=True)
    assert_matches(evaluate(run, problem), evaluate(run_equations, problem))


@pytest.mark.parametrize("H", [1, 15, 17, 70], ids="H{}".format)
@pytest.mark.parametrize("B", [1, 3, 20], ids="B{}".format)
@each_cell
def test_units_and_rows_that_fill_no_vector(cell, B, H):
    problem = make_layer_problem(cell, 2, 9, B, 5, H, lengths=True, resets=True)
    assert_matches(evaluate(run_kernels, problem), evaluate(run_reference, problem))


@pytest.mark.sampled(5)
@each_cell
def test_many_chunks_of_steps(cell):
    problem = make_layer_problem(cell, 2, 1500, 2, 3, 5, lengths=True, resets=True)
    plan = _extension._C.explain_cpu(cell, 2, (1500, 2, 3, 5), torch.float64, False, True, True)[1]
    assert int(plan.split("chunks of ")[1].split()[0]) < 1000
    keep = torch.rand(1500, 2) > 0.99  # few enough that a state passes from chunk to chunk
    problem = replace(problem, resets=keep)
    assert_matches(evaluate(run_kernels, problem), evaluate(run_reference, problem), 1e-11)


@each_cell
def test_gates_computed_again_give_the_same(cell):
    for directions in (1, 2):
        problem = make_layer_problem(cell, directions, 70, 9, 4, 18, lengths=True, resets=True)
        again = evaluate(partial(run_kernels, recompute=True), problem)
        assert_matches(again, evaluate(run_kernels, problem))


@each_cell
def test_repeats_and_threads_give_the_same_bits(cell):
    before = torch.get_num_threads()
    sizes = [(2, 40, 3, 9, 100), (1, 7, 40, 5, 20), (2, 130, 1, 5, 150)]
    try:
        for dtype in (torch.float32, torch.bfloat16):
            for size in sizes:
                problem = make_layer_problem(cell, *size, lengths=True, resets=True, dtype=dtype)
                torch.set_num_threads(1)
                expected = evaluate(run_kernels, problem)
                for threads in (1, 2, 3):
                    torch.set_num_threads(threads)
                    assert_same_bits(evaluate(run_kernels, problem), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "again"])
@each_direction
@each_cell
def test_what_lies_past_a_rows_end_leaves_no_trace(cell, directions, recompute):
    run = partial(run_kernels, recompute=recompute)
    problem = make_layer_problem(cell, directions, 12, 5, 4, 18, lengths=True, resets=True)
    expected = evaluate(run, problem)
    input = problem.input.clone()
    input[steps_past_ends(problem)] = torch.nan
    with poisoned_memory():
        poisoned = evaluate(run, replace(problem, input=input), past_ends=torch.nan)
    assert_same_bits(poisoned, expected)
    past = steps_past_ends(problem)
    assert poisoned["output"][past].eq(0).all() and poisoned["grad of input"][past].eq(0).all()


@each_cell
def test_nan_stays_in_its_row_and_behind_a_reset(cell):
    problem = make_layer_problem(cell, 1, 8, 3, 4, 20)
    resets = torch.zeros(8, 3, dtype=torch.bool)
    resets[5, 1] = True
    problem = replace(problem, resets=resets)
    clean = run_kernels(problem)[0]
    input = problem.input.clone()
    input[3, 1] = torch.nan
    output = run_kernels(replace(problem, input=input))[0]
    hit = torch.zeros(8, 3, dtype=torch.bool)
    hit[3:5, 1] = True
    assert output[hit].isnan().all()
    assert torch.equal(output[~hit], clean[~hit])


@pytest.mark.sampled(5)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@each_mask
@each_cell
def test_other_dtypes_are_as_accurate_as_plain_torch(cell, dtype, masks):
    """Plain torch in that dtype: the reference's steps on tensors that are not widened."""
    problem = make_layer_problem(cell, 2, 30, 6, 10, 24, dtype=dtype, **masks)
    exact = evaluate(run_reference, problem.to(torch.float64), rounded_to=dtype)
    plain = evaluate(run_plainly, problem, rounded_to=dtype)
    ours = evaluate(run_kernels, problem, rounded_to=dtype)
    for name, result in ours.items():
        assert_as_accurate_as_torch(result, exact[name], plain[name].to(result.dtype), what=name)


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_other_instruction_sets_compute_the_same(isa, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import torch\nfrom problems import *\nfrom fastcells import _extension\n"
        f"assert _extension._C.instruction_set() == {isa!r}\n"
        "from equations import CELLS\n"
        "for cell in CELLS:\n"
        "    problem = make_layer_problem(cell, 2, 20, 5, 7, 19, lengths=True, resets=True)\n"
        "    expected = evaluate(run_reference, problem)\n"
        "    assert_matches(evaluate(run_kernels, problem), expected)\n"
        "    narrow = evaluate(run_kernels, problem.to(torch.float32))\n"
        "    for name, want in expected.items():\n"
        "        scale = max(1.0, want.abs().max().item())\n"
        "        assert (narrow[name] - want).abs().max() < 2e-5 * scale, (cell, name)\n"
    )
    environment = dict(os.environ, FASTCELLS_CPU_ISA=isa)
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, script], check=True, env=environment, timeout=240)


# ---- where arithmetic is delicate ----


def one_unit(cell, gates, h=0.0, c=None, u=(), x=(1.0,), dtype=torch.float32):
    """A layer of one unit and one step whose gates are given; h' and c'."""
    facts = reference.CELLS[cell]
    weights, names = [torch.zeros(facts.gates, len(x), dtype=dtype)], ["weight_ih"]
    if facts.unit_weights:
        weights.append(torch.tensor(u, dtype=dtype))
        names.append("weight_hh")
    weights.append(torch.tensor(gates, dtype=dtype).requires_grad_())
    names.append("bias_ih")
    states = [None if s is None else torch.full((1, 1, 1), s, dtype=dtype) for s in (h, c)]
    results = run_layer(
        cell, 1, torch.tensor(x, dtype=dtype).view(1, 1, -1), *states, weights, " ".join(names)
    )
    return results[0], weights[-1]


@pytest.mark.parametrize("gates", [(-200.0, -200.0), (-200.0, -300.0), (-1e30, 0.0), (0.0, -500.0)])
def test_min_lstm_shares_out_where_both_gates_underflow(gates):
    output, bias = one_unit("min_lstm_identity", [*gates, 5.0], c=1.0, h=1.0)
    f = 0.5 if gates[0] == gates[1] else float(gates[0] > gates[1])
    assert output.item() == pytest.approx(f * 1 + (1 - f) * 5, abs=1e-6)
    output.sum().backward()
    assert bias.grad.isfinite().all()
    if gates[0] == gates[1]:  # d (f/(f+i)) / d x_f = 1/4 where both are far below zero
        assert bias.grad[0].item() == pytest.approx((1 - 5) / 4)


def test_rg_lru_is_exact_where_a_is_nearly_one():
    softplus, r = 1e-7, 0.5  # a = 1 - 4e-7: 1 - a^2 is nothing in float32
    weight = torch.log(torch.expm1(torch.tensor(softplus, dtype=torch.float64))).item()
    output, _ = one_unit("rg_lru", [0.0, 40.0], u=(weight,))
    exact = (-torch.expm1(torch.tensor(-16 * softplus * r, dtype=torch.float64))).sqrt()
    assert output.item() == pytest.approx(exact.item(), rel=2e-6)


def test_rg_lru_has_a_gradient_where_its_gate_is_shut():
    output, bias = one_unit("rg_lru", [-200.0, 0.0], h=1.0, u=(0.0,))
    output.sum().backward()
    assert output.item() == 1.0 and torch.equal(bias.grad, torch.zeros(2))


@pytest.mark.parametrize("name", MASKS)
def test_no_rows_no_steps(name):
    for cell in CELLS:
        for T, B in ((3, 0), (1, 1)):
            problem = make_layer_problem(cell, 2, T, B, 4, 5, **MASKS[name])
            assert_matches(evaluate(run_kernels, problem), evaluate(run_reference, problem))
