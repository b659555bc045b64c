"""Layers and functions in a forked child whose parent has used threads: no call of ours waits for
threads that stayed behind, though torch's operations are around the kernels."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import fastcells
from forks import forks, run_in_a_fork


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.randn(1000, 1000).square().sum()  # the parent has a pool
    yield
    torch.set_num_threads(before)


def sequences():
    return pack_sequence([torch.randn(n, 128) for n in (40, 70, 60, 70)], enforce_sorted=False)


def recurrent(kind, **options):
    layer = kind(128, 96, **options)
    return layer, lambda given: layer(given)[0]


def attending(layer):
    return layer, lambda given: layer(given, given, given)[0]


CASES = {
    "packed": lambda: (*recurrent(fastcells.LSTM), sequences()),
    "dropout": lambda: (
        *recurrent(fastcells.GRU, num_layers=2, dropout=0.1), torch.randn(70, 16, 128)
    ),
    "lengths": lambda: (
        *recurrent(fastcells.RNN, bidirectional=True, num_layers=2), torch.randn(70, 16, 128)
    ),
    "projection": lambda: (*recurrent(fastcells.LSTM, proj_size=64), torch.randn(70, 16, 128)),
    "multihead": lambda: (
        *attending(fastcells.MultiheadAttention(128, 4, batch_first=True)),
        torch.randn(8, 80, 128),
    ),
    "self": lambda: (
        *(lambda layer: (layer, layer))(fastcells.SelfAttention(128, 96)), torch.randn(8, 80, 128)
    ),
    "additive": lambda: (
        *(lambda layer: (layer, lambda x: layer(x, x)))(fastcells.AdditiveAttention(128, 128, 64)),
        torch.randn(8, 80, 128),
    ),
    "cell": lambda: (
        *(lambda layer: (layer, lambda x: layer(x)[0]))(fastcells.LSTMCell(128, 256)),
        torch.randn(300, 128),
    ),
    "function": lambda: (
        torch.nn.Linear(1, 1),
        lambda x: fastcells.scaled_dot_product_attention(
            x, x, x, torch.zeros(80, 80, requires_grad=True)
        ),
        torch.randn(8, 80, 128),
    ),
}  # fmt: skip


@forks
@pytest.mark.parametrize("trains", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("case", CASES)
def test_a_layer_computes_in_a_forked_child(case, trains):
    layer, call, given = CASES[case]()
    leaf = given.data if hasattr(given, "batch_sizes") else given
    leaf.requires_grad_(trains)
    if not trains:
        layer.eval()
        layer.requires_grad_(False)

    def compute():
        torch.manual_seed(5)
        output = call(given)
        output = output.data if hasattr(output, "batch_sizes") else output
        if trains:
            leaf.grad = None
            output.backward(torch.ones_like(output))
            return [output.detach().numpy(), leaf.grad.numpy()]
        return [output.detach().numpy()]

    expected = [array.copy() for array in compute()]

    def is_right():
        found = compute()
        return all(
            np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(found, expected, strict=True)
        )

    assert run_in_a_fork(is_right, 30) == "right"
    assert torch.get_num_threads() == 2


@forks
def test_a_way_back_alone_computes_in_a_forked_child():
    """Of a graph that the parent has made."""
    layer = fastcells.GRU(128, 96, num_layers=2)
    input = torch.randn(70, 16, 128, requires_grad=True)
    output = layer(input)[0]
    (expected,) = torch.autograd.grad(output, input, torch.ones_like(output), retain_graph=True)
    ones = torch.ones_like(output)

    def is_right():
        (found,) = torch.autograd.grad(output, input, ones)
        return np.allclose(found.numpy(), expected.numpy(), rtol=1e-3, atol=1e-4)

    assert run_in_a_fork(is_right, 30) == "right"
