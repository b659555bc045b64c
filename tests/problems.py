"""Running a layer problem on the kernels, on the reference and on torch.nn, and comparing."""

import pytest
import torch

from fastcells.functional import recurrent as functional
from fastcells.reference import recurrent as reference
from fastcells.testing import make_layer_problem

#: Every cell, and the one that can be projected with a projection.
each_cell = pytest.mark.parametrize(
    ("cell", "proj_size"),
    [*((pytest.param(cell, 0, id=cell)) for cell in reference.CELLS)]
    + [pytest.param("lstm", 3, id="lstm_proj")],
)
each_direction = pytest.mark.parametrize(
    "directions", [pytest.param(1, id="forward"), pytest.param(2, id="both_ways")]
)
MASKS = {
    "all_steps": {},
    "lengths": {"lengths": True},
    "resets": {"resets": True},
    "lengths_and_resets": {"lengths": True, "resets": True},
}
each_mask = pytest.mark.parametrize(
    "masks", [pytest.param(masks, id=name) for name, masks in MASKS.items()]
)
#: The cells that torch.nn has: its layer and the arguments it takes besides the sizes.
TORCH_LAYERS = {
    "rnn_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
}


def small_problem(cell, directions=2, proj_size=0, **options):
    """T=5, B=4, I=3, H=6: every index wrong by one is seen."""
    return make_layer_problem(cell, directions, 5, 4, 3, 6, proj_size=proj_size, **options)


# ---- three ways to run a problem: output, h_n, c_n and all c, the last two None without c ----


def run_kernels(problem, want_cells=True):
    return functional.run_layer(*problem.arguments(), want_cells)


def run_reference(problem):
    return reference.recurrent(*problem.arguments())


def torch_layer(problem):
    """torch.nn's layer of the problem's sizes, and the problem's weights under its names."""
    kind, options = TORCH_LAYERS[problem.cell]
    count = len(problem.weights) // problem.directions
    if count in (3, 5):
        options = {**options, "proj_size": problem.weights[count - 1].shape[0]}
    gates = reference.CELLS[problem.cell].gates
    layer = kind(
        problem.input.shape[2],
        problem.weights[0].shape[0] // gates,
        bias=count >= 4,
        bidirectional=problem.directions == 2,
        dtype=problem.input.dtype,
        **options,
    )
    names = [name for name, _ in layer.named_parameters()]
    return layer, dict(zip(names, problem.weights, strict=True))


def run_torch(problem):
    """torch.nn's layer; rows that end early go through a PackedSequence."""
    assert problem.resets is None
    layer, parameters = torch_layer(problem)
    has_c = reference.CELLS[problem.cell].states == 2
    input, hx = problem.input, (problem.h_0, problem.c_0) if has_c else problem.h_0
    if problem.lengths is not None:
        input = torch.nn.utils.rnn.pack_padded_sequence(
            input, problem.lengths, enforce_sorted=False
        )
    output, last = torch.func.functional_call(layer, parameters, (input, hx))
    if problem.lengths is not None:
        steps = problem.input.shape[0]
        output, _ = torch.nn.utils.rnn.pad_packed_sequence(output, total_length=steps)
    return output, *(last if has_c else (last, None)), None


# ---- outputs and gradients ----


def evaluate(run, problem):
    """What `run` returns, by name, and the gradients of a random projection of all of it."""
    leaves = {
        name: tensor.detach().requires_grad_() for name, tensor in problem.variables().items()
    }
    outputs = run(problem.with_variables(leaves.values()))
    names = ("output", "h_n", "c_n", "cells")
    results = {name: out for name, out in zip(names, outputs, strict=True) if out is not None}
    grads = torch.autograd.grad(
        list(results.values()), list(leaves.values()), cotangents_of(results.values())
    )
    return results | {f"grad of {name}": g for name, g in zip(leaves, grads, strict=True)}


def cotangents_of(results, seed=1):
    """The random projection: the same values for the same shapes."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in results
    ]


def assert_matches(actual, expected, tolerance=1e-12):
    """Equal names, shapes and dtypes, and values up to `tolerance` of the largest expected one."""
    assert actual.keys() == expected.keys()
    for name, want in expected.items():
        scale = max(1.0, want.abs().max().item()) if want.numel() else 1.0
        torch.testing.assert_close(
            actual[name], want, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_same_bits(actual, expected):
    assert actual.keys() == expected.keys()
    different = [name for name, want in expected.items() if not torch.equal(actual[name], want)]
    assert not different
