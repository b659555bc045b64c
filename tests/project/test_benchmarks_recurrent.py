"""The benchmark of layers: what it counts, and that all compute the same."""

import importlib

import numpy as np
import pytest
import torch

import fastcells
from benchmarks.experiments import check
from benchmarks.recurrent import cases, gate_orders, layers, memory, modes


@pytest.mark.parametrize(
    ("arguments", "flops"),
    [
        (dict(cell="lstm", B=32, T=50, I=256, H=256), 2 * 4 * 256 * 512 * 32 * 50),
        (dict(cell="gru", B=3, T=2, I=5, H=7), 2 * 3 * 7 * 12 * 3 * 2),
        (dict(cell="rnn_tanh", B=1, T=1, I=1, H=1), 4),
        (dict(cell="rnn_tanh", B=1, T=1, I=1, H=1, mode="training"), 12),
        (dict(cell="gru", B=1, T=1, I=2, H=3, directions=2), 2 * 2 * 9 * 5),
        (dict(cell="gru", B=1, T=1, I=2, H=3, directions=2, layers=2), 4 * 9 * 5 + 4 * 9 * 9),
    ],
)
def test_flops_of_known_cases(arguments, flops):
    assert cases.Case(**arguments).flops == flops


def test_weight_bytes_are_those_of_the_layer():
    case = cases.Case("lstm", B=1, T=1, I=6, H=4, directions=2, layers=2)
    layer = torch.nn.LSTM(6, 4, num_layers=2, bidirectional=True)
    matrices = [p for p in layer.parameters() if p.dim() == 2]
    assert case.weight_bytes == sum(p.nbytes for p in matrices)
    recurrent = [p for name, p in layer.named_parameters() if name.startswith("weight_hh")]
    assert case.recurrent_bytes == sum(p.nbytes for p in recurrent)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_an_onnx_model_computes_what_torchs_layer_does(cell, directions):
    pytest.importorskip("onnx", reason="onnx is not installed: `make bench` installs it")
    evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator
    onnx_models = importlib.import_module("benchmarks.recurrent.onnx_models")
    case = cases.Case(cell, B=3, T=4, I=2, H=5, directions=directions)
    layer, x = layers.make_layer(case), layers.make_input(case)
    (y,) = evaluator(onnx_models.make_model(case, layer)).run(["Y"], {"X": x.numpy()})
    expected = layer(x)[0].detach().numpy()
    np.testing.assert_allclose(onnx_models.to_torch_layout(y), expected, atol=1e-6)


@pytest.mark.parametrize("library", ["ONNX_BLOCKS", "KERAS_BLOCKS"])
def test_reordering_moves_whole_gate_blocks(library):
    blocks = getattr(gate_orders, library)["gru"]
    torchs = np.array(["r0", "r1", "z0", "z1", "n0", "n1"])
    moved = gate_orders.reorder(torchs, blocks)
    assert moved.tolist() == ["z0", "z1", "r0", "r1", "n0", "n1"]


def test_fastcells_gets_torchs_weights():
    case = cases.square("gru", 2, 3, T=4, directions=2)
    ours, theirs = (layers.make_layer(case, library) for library in (fastcells, torch.nn))
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, ours.get_parameter(name))


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_packed_and_padded_rows_are_compared_in_one_layout(mode):
    case = cases.square("lstm", 3, 4, T=5, mode=mode, lengths="random")
    experiment = modes.prepare_lengths(case, None)
    names = set(experiment.variants)
    errors = check(experiment, 1e-5)
    assert set(experiment.variants) == set(errors) == names and not experiment.skipped


def test_held_bytes_are_those_of_saved_tensors_without_parameters_and_input():
    x = torch.randn(5, 4)
    layer = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())
    assert memory.held_bytes(layer_of_first(layer), x) == 5 * 3 * 4


def layer_of_first(layer):
    """Return `layer` as one that returns a tuple, as a recurrent one does."""

    class Tupled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return (self.layer(x),)

    return Tupled()
