"""fastcells.keras from arrays and files, against Keras' equations: no Keras is needed."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import fastcells
import keras_equations as equations
from fastcells.keras import KerasLayer, load_model, load_weights, read
from keras_equations import config, write_h5, write_keras, write_older_h5

I, H = 3, 4
#: (gates, the step, the layer of fastcells, its configuration in Keras).
CELLS = {
    "SimpleRNN": (1, equations.simple_rnn, fastcells.RNN, {"activation": "tanh"}),
    "SimpleRNN of relu": (
        1,
        partial(equations.simple_rnn, f=lambda x: np.maximum(x, 0)),
        partial(fastcells.RNN, nonlinearity="relu"),
        {"activation": "relu"},
    ),
    "LSTM": (4, equations.lstm, fastcells.LSTM, {"recurrent_activation": "sigmoid"}),
    "torch's LSTM": (4, equations.lstm, nn.LSTM, {}),
    "GRU": (3, equations.gru, fastcells.GRU, {"reset_after": True}),
    "GRU of reset_after=False": (
        3,
        equations.gru_reset_before,
        partial(fastcells.GRU, variant="reset_before"),
        {"reset_after": False},
    ),
}


def arrays_of(gates, width=I, bias=True, two_biases=False):
    shapes = [(width, gates * H), (H, gates * H)]
    shapes += [(2, gates * H) if two_biases else (gates * H,)] if bias else []
    return [np.random.standard_normal(shape) * 0.5 for shape in shapes]


def assert_equal(ours, keras):
    torch.testing.assert_close(ours.detach(), torch.from_numpy(keras), rtol=0, atol=1e-12)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_layers_compute_as_in_keras(cell, bias, directions):
    gates, step, make, _ = CELLS[cell]
    layer = make(I, H, batch_first=True, bias=bias, bidirectional=directions == 2).double()
    arrays = [
        a for _ in range(directions) for a in arrays_of(gates, bias=bias, two_biases=cell == "GRU")
    ]
    load_weights(layer, arrays)
    x = np.random.standard_normal((2, 5, I))
    run = equations.run if directions == 1 else equations.bidirectional
    assert_equal(layer(torch.from_numpy(x))[0], run(step, x, arrays))


def test_a_stack_takes_a_layer_for_each_of_its_own():
    layer = fastcells.LSTM(I, H, 2, batch_first=True, dtype=torch.float64)
    first, second = arrays_of(4), arrays_of(4, width=H)
    load_weights(layer, [first, second])
    x = np.random.standard_normal((2, 5, I))
    expected = equations.run(equations.lstm, equations.run(equations.lstm, x, first), second)
    assert_equal(layer(torch.from_numpy(x))[0], expected)


def test_a_cell_takes_a_layer():
    arrays = arrays_of(3, two_biases=True)
    cell = fastcells.GRUCell(I, H, dtype=torch.float64)
    load_weights(cell, arrays)
    x = np.random.standard_normal((2, 1, I))
    assert_equal(cell(torch.from_numpy(x[:, 0])), equations.run(equations.gru, x, arrays)[:, 0])


def test_multi_head_attention_computes_as_in_keras():
    maps = [((8, 2, 4), (2, 4))] * 3 + [((2, 4, 8), (8,))]
    arrays = [np.random.standard_normal(shape) for pair in maps for shape in pair]
    layer = fastcells.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    load_weights(layer, arrays)
    x = np.random.standard_normal((2, 5, 8))
    t = torch.from_numpy(x)
    assert_equal(layer(t, t, t)[0], equations.multi_head_attention(x, arrays))


@pytest.mark.parametrize("score", ["dot", "additive"])
def test_three_dense_and_an_attention_compute_as_in_keras(score):
    shapes = [(I, 6), (6,), (I, 6), (6,), (I, 6), (6,), (6,)]
    arrays = [np.random.standard_normal(s) for s in shapes[: 7 if score == "additive" else 6]]
    layer = fastcells.SelfAttention(I, 6, score=score, dtype=torch.float64)
    load_weights(layer, arrays)
    x = np.random.standard_normal((2, 5, I))
    assert_equal(layer(torch.from_numpy(x)), equations.dense_attention(x, arrays))


# ---- files ----


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, I)
        self.both = fastcells.LSTM(I, H, bidirectional=True, batch_first=True)
        self.stack = fastcells.GRU(2 * H, H, 2, batch_first=True)
        self.out = nn.Linear(H, 2)

    def forward(self, ids):
        return self.out(self.stack(self.both(self.words(ids))[0])[0])


#: A GRU is called as the other one's group in a file that has no names.
NAMES = {"stack": ["gru_1", "gru_2"]}
SEQUENTIAL = {
    "class_name": "Sequential",
    "config": {
        "name": "classifier",
        "layers": [
            config("Embedding", "words"),
            config(
                "Bidirectional", "both", merge_mode="concat",
                layer=config("LSTM", "lstm", activation="tanh", go_backwards=False),
                backward_layer=config("LSTM", "lstm_b", activation="tanh", go_backwards=True),
            ),
            config("GRU", "gru_1", reset_after=True),
            config("GRU", "gru_2", reset_after=True),
            config("TimeDistributed", "out", layer=config("Dense", "dense")),
        ],
    },
}  # fmt: skip


@pytest.fixture
def keras_weights():
    return {
        "words": [np.random.standard_normal((7, I))],
        "both": arrays_of(4) + arrays_of(4),
        "gru_1": arrays_of(3, width=2 * H, two_biases=True),
        "gru_2": arrays_of(3, width=H, two_biases=True),
        "out": [np.random.standard_normal((H, 2)), np.random.standard_normal(2)],
    }


def write(path, weights, form):
    if form == "older.h5":
        write_older_h5(path, SEQUENTIAL, {name: (name, w) for name, w in weights.items()})
        return
    layers = {
        "embedding": ("words", weights["words"]),
        "bidirectional/forward_layer/cell": ("cell", weights["both"][:3]),
        "bidirectional/backward_layer/cell": ("cell", weights["both"][3:]),
        "bidirectional": ("both", []),
        "gru/cell": ("cell", weights["gru_1"]),
        "gru": ("gru_1", []),
        "gru_1/cell": ("cell", weights["gru_2"]),
        "gru_1": ("gru_2", []),
        "time_distributed/layer": ("dense", weights["out"]),
        "time_distributed": ("out", []),
    }
    if form == "model.weights.h5":
        write_h5(path, layers)
    else:
        write_keras(path, SEQUENTIAL, layers, is_named=form == "model.keras")


@pytest.mark.parametrize("form", ["model.keras", "unnamed.keras", "model.weights.h5", "older.h5"])
def test_a_model_is_read_from_a_file(form, tmp_path, keras_weights):
    pytest.importorskip("h5py")
    write(tmp_path / form, keras_weights, form)
    model = Classifier().double()
    load_model(model, tmp_path / form, NAMES)
    ids = np.array([[3, 1, 4], [1, 5, 6]])
    x = keras_weights["words"][0][ids]
    x = equations.bidirectional(equations.lstm, x, keras_weights["both"])
    for name in ("gru_1", "gru_2"):
        x = equations.run(equations.gru, x, keras_weights[name])
    kernel, bias = keras_weights["out"]
    assert_equal(model(torch.from_numpy(ids)), x @ kernel + bias)


def test_models_within_models_are_told_by_path(tmp_path):
    pytest.importorskip("h5py")
    inner = config("Sequential", "inner", layers=[config("Dense", "dense")])
    model = config("Functional", "outer", layers=[inner, config("Dense", "dense")])
    layers = {
        "sequential": ("inner", []),
        "sequential/layers/dense": ("dense", [np.ones((2, 3))]),
        "dense": ("dense", [np.ones((3, 1))]),
        "dense/seed_generator": ("seed", [np.ones(2)]),
    }
    for is_named in (True, False):
        write_keras(tmp_path / "m.keras", model, layers, is_named)
        found = read(tmp_path / "m.keras")
        assert {name: (one.kind, one.weights[0].shape) for name, one in found.items()} == {
            "inner/dense": ("Dense", (2, 3)),
            "dense": ("Dense", (3, 1)),
        }
        assert len(found["dense"].weights) == 1


# ---- what does not fit ----


def keras(kind, weights=None, **options):
    return KerasLayer("mem", kind, options, arrays_of(4) if weights is None else weights)


REFUSALS = {
    "activation": (
        fastcells.LSTM, {}, keras("LSTM", activation="relu"),
        "Keras' LSTM 'mem' has activation='relu', where LSTM computes as with activation='tanh'",
    ),
    "go_backwards": (
        fastcells.LSTM, {}, keras("LSTM", go_backwards=True),
        "Keras' LSTM 'mem' has go_backwards=True, where LSTM computes as with go_backwards=False",
    ),
    "class": (
        fastcells.GRU, {}, keras("LSTM"),
        "GRU takes the weights of Keras' GRU, got Keras' LSTM 'mem'",
    ),
    "shape": (
        fastcells.LSTM, {"input_size": 5}, keras("LSTM"),
        "weight_ih_l0 of LSTM has shape (16, 5), and the kernel of Keras' LSTM 'mem' makes (16, 3)",
    ),
    "bias": (
        fastcells.LSTM, {}, keras("LSTM", arrays_of(4, bias=False)),
        "Keras' LSTM 'mem' has no weights for bias_hh_l0, bias_ih_l0 of LSTM",
    ),
    "no bias": (
        fastcells.LSTM, {"bias": False}, keras("LSTM"),
        "LSTM has no parameter bias_ih_l0 for the bias of Keras' LSTM 'mem'. Its parameters are "
        "weight_ih_l0, weight_hh_l0",
    ),
    "variant": (
        fastcells.GRU, {}, keras("GRU", arrays_of(3), reset_after=False),
        "Keras' GRU 'mem' has reset_after=False, which is variant='reset_before' of "
        "fastcells.GRU; this GRU has 'reset_after'",
    ),
    "variant, by the bias": (
        fastcells.GRU, {}, keras("", arrays_of(3)),
        "Keras' layer 'mem' has reset_after=False, which is variant='reset_before' of "
        "fastcells.GRU; this GRU has 'reset_after'",
    ),
    "directions": (
        fastcells.LSTM, {"bidirectional": True}, keras("LSTM"),
        "Keras' LSTM 'mem' has one, LSTM has bidirectional=True",
    ),
    "merge_mode": (
        fastcells.LSTM, {"bidirectional": True},
        keras("Bidirectional", arrays_of(4) * 2, merge_mode="sum"),
        "Keras' Bidirectional 'mem' has merge_mode='sum', where LSTM computes as with "
        "merge_mode='concat'",
    ),
    "layers": (
        fastcells.LSTM, {"num_layers": 2}, keras("LSTM"),
        "LSTM has num_layers=2, and takes as many layers of Keras, got 1",
    ),
    "layers in one flat list": (
        fastcells.LSTM, {"num_layers": 2}, arrays_of(4) * 2,
        "LSTM has num_layers=2, and takes as many layers of Keras, got 1 list of 6 arrays: give a "
        "list for each",
    ),
    "not built": (
        fastcells.LSTM, {}, keras("LSTM", []),
        "Keras' LSTM 'mem' has no weights. Build it first",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit_is_refused_and_nothing_is_written(case):
    make, options, source, text = REFUSALS[case]
    layer = make(**{"input_size": I, "hidden_size": H, **options})
    before = {name: p.clone() for name, p in layer.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_weights(layer, source)
    assert str(caught.value) == f"fastcells.keras: {text}"
    assert all(torch.equal(p, before[name]) for name, p in layer.state_dict().items())


def test_what_is_left_over_is_refused(tmp_path, keras_weights):
    pytest.importorskip("h5py")
    path = tmp_path / "model.keras"
    write(path, keras_weights, "model.keras")
    model = Classifier()
    del model.stack
    model.new = nn.Linear(2, 2, bias=False)
    before = model.out.weight.clone()
    with pytest.raises(ValueError) as caught:
        load_model(model, path)
    assert str(caught.value) == (
        "fastcells.keras: layers of Keras left over: gru_1, gru_2; parameters of the model without "
        "weights: new.weight. Pair them with names, or leave them with strict=False"
    )
    assert torch.equal(model.out.weight, before)
    load_model(model, path, strict=False)
    assert not torch.equal(model.out.weight, before)


def test_other_layers_and_sources_are_refused(tmp_path):
    with pytest.raises(TypeError, match="no layer of Keras is known for Conv1d"):
        load_weights(nn.Conv1d(1, 1, 1), arrays_of(1))
    with pytest.raises(TypeError, match="got str"):
        load_weights(fastcells.LSTM(I, H), "model.keras")
    pytest.importorskip("h5py")
    (tmp_path / "text").write_text("no model")
    with pytest.raises(ValueError, match="neither a zip nor HDF5"):
        read(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read(tmp_path / "nothing.keras")
