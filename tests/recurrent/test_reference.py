"""fastcells.reference equals torch.nn in float64, and the equations where torch has no cell."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from fastcells.reference import recurrent as reference
from fastcells.testing import make_layer_problem
from problems import (
    TORCH_LAYERS,
    assert_matches,
    each_direction,
    each_mask,
    evaluate,
    run_reference,
    run_torch,
    small_problem,
    torch_layer,
)

run_without_cells = partial(run_reference, want_cells=False)

each_torch_cell = pytest.mark.parametrize(
    ("cell", "proj_size"),
    [pytest.param(cell, 0, id=cell) for cell in TORCH_LAYERS]
    + [pytest.param("lstm", 3, id="lstm_proj")],
)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@each_direction
@each_torch_cell
def test_reference_equals_torch_layers(cell, proj_size, directions, bias):
    problem = small_problem(cell, directions, proj_size, bias=bias)
    assert_matches(evaluate(run_without_cells, problem), evaluate(run_torch, problem))


@each_direction
@each_torch_cell
def test_reference_without_initial_states_equals_torch_layers(cell, proj_size, directions):
    problem = small_problem(cell, directions, proj_size)
    layer, parameters = torch_layer(problem)
    expected, _ = torch.func.functional_call(layer, parameters, (problem.input,))
    output = run_reference(replace(problem, h_0=None, c_0=None))[0]
    assert_matches({"output": output}, {"output": expected})


@each_direction
@each_torch_cell
def test_lengths_equal_a_packed_sequence(cell, proj_size, directions):
    problem = small_problem(cell, directions, proj_size, lengths=True)
    problem.lengths.clamp_(min=1)  # PackedSequence has no empty rows
    assert 1 < problem.lengths.unique().numel()
    assert_matches(evaluate(run_without_cells, problem), evaluate(run_torch, problem))


TORCH_CELLS = {
    "rnn_tanh": (torch.nn.RNNCell, {"nonlinearity": "tanh"}),
    "rnn_relu": (torch.nn.RNNCell, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTMCell, {}),
    "gru": (torch.nn.GRUCell, {}),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("cell", TORCH_CELLS)
def test_reference_step_equals_torch_cells(cell, bias):
    problem = make_layer_problem(cell, 1, 1, 4, 3, 6, bias=bias)

    def run_step(problem):
        c = None if problem.c_0 is None else problem.c_0[0]
        h, c = reference.recurrent_step(
            cell, problem.input[0], problem.h_0[0], c, problem.weights, problem.names
        )
        return None, h, c, None

    def run_torch_cell(problem):
        kind, options = TORCH_CELLS[cell]
        layer = kind(3, 6, bias=bias, dtype=torch.float64, **options)
        names = [name for name, _ in layer.named_parameters()]
        hx = problem.h_0[0] if problem.c_0 is None else (problem.h_0[0], problem.c_0[0])
        parameters = dict(zip(names, problem.weights, strict=True))
        last = torch.func.functional_call(layer, parameters, (problem.input[0], hx))
        return None, *(last if problem.c_0 is not None else (last, None)), None

    assert_matches(evaluate(run_step, problem), evaluate(run_torch_cell, problem))


def test_cell_states_of_the_reference_are_those_between_its_steps():
    problem = small_problem("lstm", directions=1)
    _, _, c_n, cells = run_reference(problem)
    h, c = problem.h_0[0], problem.c_0[0]
    for t, x in enumerate(problem.input):
        h, c = reference.recurrent_step("lstm", x, h, c, problem.weights, problem.names)
        torch.testing.assert_close(cells[t], c, rtol=0, atol=1e-14)
    assert torch.equal(c_n[0], cells[-1])


# ---- resets: the pieces between them are sequences of their own ----


def run_in_pieces(problem):
    """torch.nn on each piece of each row alone, joined to what the whole layer returns."""
    steps, batch, _ = problem.input.shape
    results = [[], [], []]
    for b in range(batch):
        end = steps if problem.lengths is None else int(problem.lengths[b])
        resets = torch.zeros(steps, dtype=torch.bool)
        if problem.resets is not None:
            resets = problem.resets[:, b]
        for into, result in zip(results, run_row(problem, b, end, resets[:end]), strict=True):
            into.append(result)
    output, h_n, c_n = (None if part[0] is None else torch.cat(part, dim=1) for part in results)
    return output, h_n, c_n, None


def run_row(problem, b, end, resets):
    """Row b, whose steps from `end` on do not exist: output, h_n and c_n, with a batch of one."""
    row = slice(b, b + 1)
    first = [None if s is None else s[:, row] for s in (problem.h_0, problem.c_0)]
    edges = sorted({0, end, *resets.nonzero().flatten().tolist()})
    output, last = [], [[s for s in first if s is not None] for _ in range(problem.directions)]
    for start, stop in pairwise(edges):
        # The forward direction brings the first states into the first piece, unless it is cut
        # off there; the reverse direction brings them into the last.
        enters = (start == 0 and not resets[0], stop == end)
        states = [
            None if s is None else torch.stack([v * e for v, e in zip(s, enters, strict=False)])
            for s in first
        ]
        piece = replace(
            problem, input=problem.input[start:stop, row], h_0=states[0], c_0=states[1],
            lengths=None, resets=None,
        )  # fmt: skip
        out, *final, _ = run_torch(piece)
        output.append(out)
        final = [s for s in final if s is not None]
        if stop == end:
            last[0] = [s[:1] for s in final]
        if start == 0 and problem.directions == 2:
            last[1] = [s[1:] for s in final]
    if end == 0:  # nothing runs: the states stay what they were
        last = [[s[d : d + 1] for s in states] for d, states in enumerate(last)]
    width = problem.directions * problem.h_0.shape[2]
    output.append(problem.input.new_zeros(problem.input.shape[0] - end, 1, width))
    h_n, *c_n = (torch.cat(parts) for parts in zip(*last, strict=True))
    return torch.cat(output), h_n, c_n[0] if c_n else None


@each_mask
@each_direction
@each_torch_cell
def test_resets_and_lengths_equal_each_piece_run_alone(cell, proj_size, directions, masks):
    problem = small_problem(cell, directions, proj_size, **masks)
    if problem.resets is not None:
        assert problem.resets[0].any()
        assert problem.resets[1:].any()
    assert_matches(evaluate(run_without_cells, problem), evaluate(run_in_pieces, problem))


# ---- the GRU variants that torch lacks, written out with numpy, unit by unit ----


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reset_before_unit(x, h, w_ih, w_hh, b_ih, b_hh):
    """n = tanh(x_n + W_hn (r*h) + b_hn): every unit's r is needed before any unit's n."""
    H = len(h)
    r = np.array([sigmoid(w_ih[u] @ x + b_ih[u] + w_hh[u] @ h + b_hh[u]) for u in range(H)])
    new = np.empty(H)
    for u in range(H):
        row_z, row_n = H + u, 2 * H + u
        z = sigmoid(w_ih[row_z] @ x + b_ih[row_z] + w_hh[row_z] @ h + b_hh[row_z])
        n = np.tanh(w_ih[row_n] @ x + b_ih[row_n] + w_hh[row_n] @ (r * h) + b_hh[row_n])
        new[u] = (1 - z) * n + z * h[u]
    return new


def article_unit(x, h, w_ih, w_hh, b_ih, b_hh):
    """n = r * tanh(x_n + (1-z) * g_n)."""
    H = len(h)
    new = np.empty(H)
    for u in range(H):
        r, z = (
            sigmoid(w_ih[row] @ x + b_ih[row] + w_hh[row] @ h + b_hh[row]) for row in (u, H + u)
        )
        row = 2 * H + u
        n = r * np.tanh(w_ih[row] @ x + b_ih[row] + (1 - z) * (w_hh[row] @ h + b_hh[row]))
        new[u] = (1 - z) * n + z * h[u]
    return new


@pytest.mark.parametrize(
    ("cell", "unit"), [("gru_reset_before", reset_before_unit), ("gru_article", article_unit)]
)
def test_gru_variant_equals_its_equations(cell, unit):
    problem = small_problem(cell, directions=1)
    weights = [w.numpy() for w in problem.weights]
    output, h_n, _, _ = run_reference(problem)
    for b in range(problem.input.shape[1]):
        h = problem.h_0[0, b].numpy()
        for t, x in enumerate(problem.input[:, b].numpy()):
            h = unit(x, h, *weights)
            np.testing.assert_allclose(output[t, b].numpy(), h, rtol=0, atol=1e-14)
        np.testing.assert_allclose(h_n[0, b].numpy(), h, rtol=0, atol=1e-14)


@pytest.mark.parametrize("cell", ["gru_reset_before", "gru_article"])
def test_gru_variants_without_bias_equal_a_bias_of_zero(cell):
    problem = small_problem(cell, directions=1, bias=False)
    zeros = torch.zeros(18, dtype=torch.float64)
    with_bias = replace(
        problem, weights=[*problem.weights, zeros, zeros],
        names=problem.names + " bias_ih bias_hh",
    )  # fmt: skip
    for got, want in zip(run_reference(problem)[:2], run_reference(with_bias)[:2], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-14)


@pytest.mark.parametrize("cell", ["gru_reset_before", "gru_article"])
def test_reverse_direction_of_a_gru_variant_is_the_forward_one_on_reversed_input(cell):
    problem = small_problem(cell, directions=2)
    output, h_n, _, _ = run_reference(problem)
    backwards = replace(
        problem, directions=1, input=problem.input.flip(0), h_0=problem.h_0[1:],
        weights=problem.weights[4:],
    )  # fmt: skip
    alone, last, _, _ = run_reference(backwards)
    assert torch.equal(output[:, :, 6:], alone.flip(0))
    assert torch.equal(h_n[1], last[0])


# ---- 16-bit storage ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_reference_computes_16_bit_storage_in_float32(dtype):
    problem = small_problem("lstm").to(dtype)
    output, h_n, c_n, cells = run_reference(problem)
    exact_output, exact_h_n, exact_c_n, exact_cells = run_reference(problem.to(torch.float32))
    assert torch.equal(output, exact_output.to(dtype))
    assert torch.equal(h_n, exact_h_n.to(dtype))
    assert torch.equal(c_n, exact_c_n.to(dtype))
    assert cells.dtype == torch.float32
    assert torch.equal(cells, exact_cells)
