"""fastcells.keras beside Keras itself: its layers, and the files that it saves."""

from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

import fastcells
from benchmarks.recurrent.peer_keras import import_keras
from fastcells.keras import load_model, load_weights

pytest.importorskip("h5py")
if find_spec("keras") is None:  # imported later, when its backend is known
    pytest.skip("Keras is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    return import_keras(tmp_path_factory.mktemp("keras"))


def fill(layer):
    layer.set_weights([np.random.standard_normal(w.shape) * 0.4 for w in layer.get_weights()])


def assert_equal(keras, ours, theirs):
    theirs = torch.from_numpy(np.array(keras.ops.convert_to_numpy(theirs)))
    torch.testing.assert_close(ours.detach(), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("is_bidirectional", [False, True])
@pytest.mark.parametrize(
    ("name", "options", "make"),
    [
        ("SimpleRNN", {}, fastcells.RNN),
        ("LSTM", {}, fastcells.LSTM),
        ("GRU", {}, fastcells.GRU),
        ("GRU", {"reset_after": False}, partial(fastcells.GRU, variant="reset_before")),
    ],
)
def test_recurrent_layers(keras, name, options, make, is_bidirectional):
    theirs = getattr(keras.layers, name)(4, return_sequences=True, **options)
    if is_bidirectional:
        theirs = keras.layers.Bidirectional(theirs)
    theirs.build((2, 5, 3))
    fill(theirs)
    ours = make(3, 4, batch_first=True, bidirectional=is_bidirectional)
    load_weights(ours, theirs)
    x = np.random.standard_normal((2, 5, 3)).astype("float32")
    assert_equal(keras, ours(torch.from_numpy(x))[0], theirs(x))


def test_multi_head_attention(keras):
    theirs = keras.layers.MultiHeadAttention(2, 4)
    x, y = (np.random.standard_normal((2, t, 8)).astype("float32") for t in (5, 6))
    theirs(x, y)
    fill(theirs)
    ours = fastcells.MultiheadAttention(8, 2, batch_first=True)
    load_weights(ours, theirs)
    memory = torch.from_numpy(y)
    assert_equal(keras, ours(torch.from_numpy(x), memory, memory)[0], theirs(x, y))


def test_attention_among_dense_maps(keras):
    x = np.random.standard_normal((2, 5, 3)).astype("float32")
    maps = [keras.layers.Dense(6, activation="tanh") for _ in range(3)]
    query, key, value = (dense(x) for dense in maps)
    for score, kind in (("dot", "Attention"), ("additive", "AdditiveAttention")):
        attention = getattr(keras.layers, kind)()
        theirs = attention([query, value, key])
        ours = fastcells.SelfAttention(3, 6, score=score)
        load_weights(ours, maps if score == "dot" else [*maps, attention])
        assert_equal(keras, ours(torch.from_numpy(x)), theirs)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 3)
        self.both = fastcells.LSTM(3, 4, bidirectional=True, batch_first=True)
        self.memory = fastcells.GRU(8, 5, batch_first=True)
        self.out = nn.Linear(5, 2)

    def forward(self, ids, lengths):
        output, _ = self.both(self.words(ids), lengths=lengths)
        _, h_n = self.memory(output, lengths=lengths)
        return self.out(h_n[-1])


@pytest.mark.filterwarnings("ignore")
def test_models_and_their_files(keras, tmp_path):
    layers = keras.layers
    theirs = keras.Sequential(
        [
            layers.Input((None,)),
            layers.Embedding(11, 3, mask_zero=True, name="words"),
            layers.Bidirectional(
                layers.LSTM(4, return_sequences=True, recurrent_dropout=0.1), name="both"
            ),
            layers.GRU(5, name="memory"),
            layers.Dropout(0.5),
            layers.Dense(2, name="out"),
        ]
    )
    fill(theirs)
    theirs.save(tmp_path / "model.keras")
    theirs.save_weights(tmp_path / "model.weights.h5")
    theirs.save(tmp_path / "older.h5")
    ids = np.array([[3, 1, 4, 1, 5], [9, 2, 0, 0, 0]])  # 0: hidden, after the end
    lengths = torch.from_numpy((ids > 0).sum(1))
    files = ("model.keras", "model.weights.h5", "older.h5")
    for source in (theirs, *(tmp_path / name for name in files)):
        ours = Classifier()
        load_model(ours, source)
        assert_equal(keras, ours(torch.from_numpy(ids), lengths), theirs(ids))
