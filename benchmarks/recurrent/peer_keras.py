"""Keras as a peer: its JAX backend under jax.jit or, without JAX, its torch backend, eager.

Keras is batch-first, and gets its input so.
"""

import importlib.util
import os
from pathlib import Path

import torch

from benchmarks.paths import BUILD
from benchmarks.recurrent.gate_orders import KERAS_BLOCKS, reorder
from benchmarks.recurrent.layers import make_grad, make_input, make_layer
from benchmarks.recurrent.peers import Peer

CLASSES = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "SimpleRNN"}


def import_keras(folder=BUILD / "keras"):
    """Return the module, told its backend before it is imported, and where its settings go."""
    has_jax = importlib.util.find_spec("jax") is not None
    os.environ.setdefault("KERAS_BACKEND", "jax" if has_jax else "torch")
    os.environ.setdefault("KERAS_HOME", str(Path(folder)))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import keras

    return keras


def keras_weights(case, layer):
    """Return kernel [I, G*H], recurrent kernel [H, G*H], bias [G*H] or a GRU's [2, G*H]."""
    blocks = KERAS_BLOCKS[case.cell]
    w_ih, w_hh, b_ih, b_hh = (reorder(p.detach().numpy(), blocks) for p in layer.parameters())
    bias = torch.stack([torch.from_numpy(b_ih), torch.from_numpy(b_hh)]).numpy()
    return w_ih.T, w_hh.T, bias if case.cell == "gru" else bias.sum(axis=0)


def make_keras_layer(case):
    """Return the built Keras layer with the weights of torch's."""
    keras = import_keras()
    zeros = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}  # others take seconds
    layer = getattr(keras.layers, CLASSES[case.cell])(case.H, return_sequences=True, **zeros)
    layer.build((case.B, case.T, case.I))
    layer.set_weights(keras_weights(case, make_layer(case)))
    return keras, layer


class Keras(Peer):
    """keras.layers.LSTM, GRU and SimpleRNN."""

    name, package = "keras", "keras"

    def supports(self, case):
        return case.dtype == "float32" and case.layers == case.directions == 1

    def prepare(self, case):
        keras, layer = make_keras_layer(case)
        if keras.backend.backend() == "jax":
            return self._prepare_jax(layer, case)
        if case.mode == "training":
            raise NotImplementedError("training is measured on Keras' JAX backend only")
        x = make_input(case).transpose(0, 1).contiguous()

        def run():
            with torch.no_grad():
                return [layer(x)]

        return run

    def _prepare_jax(self, layer, case):
        """The weights are arguments of the compiled function: as constants they could be folded."""
        import jax

        def forward(weights, x):
            return layer.stateless_call(weights, state, x)[0]

        def train(weights, x, grad):
            output, pull_back = jax.vjp(forward, weights, x)
            grad_weights, grad_x = pull_back(grad)
            return output, grad_x, grad_weights

        state = [v.value for v in layer.non_trainable_variables]
        tensors = [make_input(case), *([make_grad(case)] if case.mode == "training" else [])]
        arguments = [jax.numpy.asarray(t.transpose(0, 1).contiguous().numpy()) for t in tensors]
        weights = [v.value for v in layer.trainable_variables]
        compiled = jax.jit(train if case.mode == "training" else lambda *a: [forward(*a)])
        return lambda: jax.block_until_ready(compiled(weights, *arguments))

    def arrays(self, result):
        """Those of output and input; weights are transposed and reordered, and left out."""
        import numpy as np

        return [np.asarray(array).swapaxes(0, 1) for array in result[:2]]
