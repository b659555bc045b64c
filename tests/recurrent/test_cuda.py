"""The kernels on a GPU: skipped where there is none. `make gpu` runs them there."""

from dataclasses import replace

import pytest
import torch

import fastcells
from fastcells.functional.recurrent_calls import run_layer
from fastcells.reference import recurrent as reference
from fastcells.testing import make_layer_problem
from problems import assert_replays

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
]

CELLS = ["rnn_tanh", "rnn_relu", "lstm", "gru", "gru_article"]
# T, B, I, H: one block, clusters of 2, 4 and 8, a grid of one slice and of several, sizes that miss
# tiles.
SIZES = [
    (5, 3, 4, 20),
    (9, 17, 5, 61),
    (7, 9, 16, 128),
    (6, 8, 33, 200),
    (4, 3, 8, 384),
    (3, 2, 8, 700),
    (3, 37, 8, 1030),
]
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 2e-5}


def to_gpu(problem):
    moved = problem.with_variables(v.cuda() for v in problem.variables().values())
    masks = {name: getattr(problem, name) for name in ("lengths", "resets")}
    return replace(moved, **{name: m if m is None else m.cuda() for name, m in masks.items()})


def results_and_gradients(run, problem):
    """All results, and the gradients of a projection of them, in float64 on the CPU."""
    leaves = [v.detach().requires_grad_() for v in problem.variables().values()]
    results = [r for r in run(problem.with_variables(leaves)) if r is not None]
    torch.manual_seed(1)
    weights = [torch.randn(r.shape, dtype=torch.float64) for r in results]
    loss = sum((r.double() * w.to(r.device)).sum() for r, w in zip(results, weights, strict=True))
    grads = torch.autograd.grad(loss, leaves)
    return [t.detach().double().cpu() for t in (*results, *grads)]


def run_kernels(problem):
    return run_layer(*problem.arguments(), want_cells=problem.cell == "lstm")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_the_kernels_equal_the_reference(cell, sizes, dtype):
    problem = make_layer_problem(cell, 2, *sizes, dtype=dtype, lengths=True, resets=True)
    exact = problem.to(torch.float64)
    want = results_and_gradients(lambda p: reference.recurrent(*p.arguments()), exact)
    got = results_and_gradients(run_kernels, to_gpu(problem))
    for a, b in zip(got, want, strict=True):
        if cell == "rnn_relu" and dtype != torch.float32:
            # Rounding takes some sums across the kink, and each such step has another derivative:
            # few elements, off by much. Of all together the error is the rounding's again.
            assert (a - b).norm() <= 4 * TOLERANCE[dtype] * b.norm() + TOLERANCE[dtype]
            continue
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE[dtype] * max(1.0, b.abs().max()))


@pytest.mark.parametrize("H", [64, 256, 512, 1024])
def test_equal_bits_on_repetition_and_a_second_way_back(H):
    problem = to_gpu(make_layer_problem("lstm", 1, 50, 9, 16, H, dtype=torch.float16))
    first, second = (results_and_gradients(run_kernels, problem) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    layer = fastcells.LSTM(16, H, device="cuda", dtype=torch.float16)
    output, _ = layer(torch.randn(20, 9, 16, device="cuda", dtype=torch.float16))
    grads = [
        torch.autograd.grad(output.float().sum(), list(layer.parameters()), retain_graph=True)
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("H", [128, 1280])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_capture_in_a_graph(kind, H):
    layer = getattr(fastcells, kind)(32, H, device="cuda", dtype=torch.float16)
    input = torch.randn(30, 8, 32, device="cuda", dtype=torch.float16)
    assert_replays(lambda x: layer(x)[0], input)


def test_explain_names_the_sequence_kernels():
    layer = fastcells.LSTM(64, 64, device="cuda", dtype=torch.float16)
    explanation = fastcells.explain(
        layer, torch.randn(5, 4, 64, device="cuda", dtype=torch.float16)
    )
    assert explanation.kernel == "cuda sequence"


ROW_LAYERS = {
    "norms of both products": lambda: fastcells.LayerNormGRU(5, 37, recurrent_dropout=0.3),
    "a norm of c": lambda: fastcells.LayerNormLSTM(5, 300, bidirectional=True, zoneout=0.2),
    "a carried norm of c": lambda: fastcells.LayerNormLSTM(5, 37, carry_normalised_c=True),
    "a norm of each gate": lambda: fastcells.LayerNormLSTM(5, 37, per_gate=True, zoneout_c=0.2),
    "peepholes": lambda: fastcells.PeepholeLSTM(5, 37, bidirectional=True),
}


@pytest.mark.parametrize("kind", ROW_LAYERS)
def test_layers_of_whole_rows_equal_those_of_the_cpu_with_the_same_masks(kind):
    torch.manual_seed(1)
    layer, frames = ROW_LAYERS[kind](), torch.randn(9, 4, 5)
    found = []
    for device in ("cpu", "cuda"):
        layer.zero_grad()
        layer.to(device)
        x, lengths = frames.to(device).requires_grad_(), torch.tensor([9, 4, 0, 7], device=device)
        assert fastcells.explain(layer, x).kernel == f"{device} rowwise"
        torch.manual_seed(2)  # of the masks
        output, _ = layer(x, lengths=lengths)
        (output * torch.arange(9, device=device).view(9, 1, 1)).sum().backward()
        tensors = [output, x.grad, *(p.grad for p in layer.parameters())]
        found.append([t.detach().cpu() for t in tensors])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * max(1.0, b.abs().max()))
