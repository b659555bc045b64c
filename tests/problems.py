"""Running a layer problem on the kernels, on the reference and on torch.nn, and comparing."""

import warnings
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.utils._pytree import tree_leaves

from fastcells.functional import recurrent_calls as functional
from fastcells.reference import recurrent as reference
from fastcells.testing import make_layer_problem

#: Every cell, and the one that can be projected with a projection.
each_cell = pytest.mark.parametrize(
    ("cell", "proj_size"),
    [*((pytest.param(cell, 0, id=cell)) for cell in reference.CELLS)]
    + [pytest.param("lstm", 3, id="lstm_proj")],
)
#: The dense ones alone.
each_dense_cell = pytest.mark.parametrize(
    ("cell", "proj_size"),
    [pytest.param(cell, 0, id=cell) for cell, facts in reference.CELLS.items()
     if facts.unit_weights is None and not facts.vectors]
    + [pytest.param("lstm", 3, id="lstm_proj")],
)  # fmt: skip
#: Those that carry c on alone: h_0 has no effect, and no gradient but zero.
IGNORING_H = ("sru", "sru_skip", "qrnn", "min_lstm", "min_lstm_identity")
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
#: Sizes that miss tiles; each two of them meet.
each_shape = pytest.mark.parametrize(
    ("T", "B", "H"),
    [
        (T, B, H)
        for t, T in enumerate([1, 2, 20])
        for b, B in enumerate([0, 1, 3])
        for h, H in enumerate([1, 7, 33, 64, 100])
        if (t + b + h) % 3 == 0
    ],
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


def tiny_problem(cell, directions=2, proj_size=0, masks=MASKS["lengths_and_resets"]):
    """Its projection is of width 2, so that W_hr and W_hh are not square. Each row has a reset,
    at its start or before its end, and two steps without one between them."""
    width = 2 if proj_size else 0
    problem = make_layer_problem(cell, directions, 3, 2, 2, 3, proj_size=width)
    lengths, resets = torch.tensor([3, 2]), torch.tensor([[0, 1], [0, 0], [1, 0]]).bool()
    return replace(
        problem,
        lengths=lengths if masks.get("lengths") else None,
        resets=resets if masks.get("resets") else None,
    )


# ---- three ways to run a problem: output, h_n, c_n and all c, the last two None without c ----


def run_kernels(problem, want_cells=True, recompute=False):
    return functional.run_layer(*problem.arguments(), want_cells, recompute=recompute)


def run_reference(problem, want_cells=True):
    results = reference.recurrent(*problem.arguments())
    return results if want_cells else (*results[:3], None)


def run_plainly(problem):
    """The reference in the tensors' own dtype, as a loop of torch would run."""
    compute = reference._compute_dtype
    reference._compute_dtype = lambda dtype: dtype
    try:
        output, h_n, c_n, cells = run_reference(problem)
        wide = compute(problem.input.dtype)
        return output, h_n, c_n, None if cells is None else cells.to(wide)
    finally:
        reference._compute_dtype = compute


def torch_layer(problem):
    """torch.nn's layer of the problem's sizes, and the problem's weights under its names."""
    kind, options = TORCH_LAYERS[problem.cell]
    if "weight_hr" in problem.names:
        weight_hr = problem.weights[problem.names.split().index("weight_hr")]
        options = {**options, "proj_size": weight_hr.shape[0]}
    gates = reference.CELLS[problem.cell].gates
    layer = kind(
        problem.input.shape[2],
        problem.weights[0].shape[0] // gates,
        bias="bias_ih" in problem.names,
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
    with warnings.catch_warnings():
        # torch tells which of its implementations runs; both are right.
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        output, last = torch.func.functional_call(layer, parameters, (input, hx))
    if problem.lengths is not None:
        steps = problem.input.shape[0]
        output, _ = torch.nn.utils.rnn.pad_packed_sequence(output, total_length=steps)
    return output, *(last if has_c else (last, None)), None


def with_one_result(run, index):
    """`run` with all results but one left out."""
    return lambda problem: tuple(
        result if i == index else None for i, result in enumerate(run(problem))
    )


# ---- a run as a function of the problem's variables ----


def variables_of(problem):
    return tuple(problem.variables().values())


def outputs_of(run, problem):
    """`run` as a function of the problem's variables, its results in a tuple."""

    def outputs(*variables):
        return tuple(out for out in run(problem.with_variables(variables)) if out is not None)

    return outputs


def loss_of(run, problem):
    """`run` as a scalar, of which every result has a different part."""
    outputs = outputs_of(run, problem)

    def loss(*variables):
        return sum((k * out).sin().sum() for k, out in enumerate(outputs(*variables), 1))

    return loss


# ---- outputs and gradients ----


def evaluate(run, problem, *, wanted=None, rounded_to=None, past_ends=None):
    """What `run` returns, by name, and the gradients of a random projection of all of it.

    Only the variables named in `wanted` need a gradient, if given. The projection is the same for
    all runs of the same shapes; it is rounded to `rounded_to`, and holds `past_ends` where a row
    has no step.
    """
    variables = {name: tensor.detach() for name, tensor in problem.variables().items()}
    leaves = {name: variables[name].requires_grad_() for name in wanted or variables}
    outputs = run(problem.with_variables(variables.values()))
    names = ("output", "h_n", "c_n", "cells")
    results = {name: out for name, out in zip(names, outputs, strict=True) if out is not None}
    generator = torch.Generator().manual_seed(1)
    cotangents = []
    for name, result in results.items():
        cotangent = torch.randn(result.shape, generator=generator, dtype=torch.float64)
        if past_ends is not None and name in ("output", "cells"):
            cotangent[steps_past_ends(problem)] = past_ends
        cotangents.append(cotangent.to(rounded_to).to(result.dtype))
    # Zeros of what the results do not depend on: h_0 of a cell whose c alone is carried on.
    grads = torch.autograd.grad(
        list(results.values()), list(leaves.values()), cotangents, materialize_grads=True
    )
    return results | {f"grad of {name}": g for name, g in zip(leaves, grads, strict=True)}


def steps_past_ends(problem):
    """[T, B] bool: where a row has no step."""
    return torch.arange(problem.input.shape[0])[:, None] >= problem.lengths


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


def assert_equal_trees(actual, expected):
    actual, expected = tree_leaves(actual), tree_leaves(expected)
    assert len(actual) == len(expected) > 0
    for got, want in zip(actual, expected, strict=True):
        assert got is not None
        scale = max(1.0, want.abs().max().item())
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12 * scale)


# ---- memory ----


def kept_for_the_way_back(function, arguments):
    """What autograd keeps for the way back of `function()`, besides its `arguments`."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        results = function()
    assert any(isinstance(t, torch.Tensor) and t.requires_grad for t in tree_leaves(results))
    own = {tensor.untyped_storage().data_ptr() for tensor in arguments}
    return [tensor for place, tensor in kept.items() if place not in own]


@contextmanager
def poisoned_memory():
    """Every tensor that torch leaves uninitialised is filled with NaN (integers with their
    largest value)."""
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    was_filled = torch.utils.deterministic.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = True
        assert torch.empty(8).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(was_deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = was_filled


def assert_replays(call, input):
    """A CUDA graph of call(input) gives the call's bits for an input written after its capture."""
    with torch.no_grad():
        warm = torch.cuda.Stream()
        with torch.cuda.stream(warm):
            call(input)
        torch.cuda.current_stream().wait_stream(warm)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = call(input)
        input.copy_(torch.randn_like(input))
        graph.replay()
        assert torch.equal(captured, call(input))
