"""A cell of ours and torch's in a loop over time, and the graph that autograd keeps of it."""

import pytest
import torch
from torch import nn

import fastcells

CELLS = {"RNN": {}, "RNN-relu": {"nonlinearity": "relu"}, "LSTM": {}, "GRU": {}}
each_cell = pytest.mark.parametrize("kind", CELLS)
T, B, I, H = 6, 3, 5, 7


def pair_of(kind, dtype=torch.float64, sizes=(I, H), **options):
    """Return a cell of ours and torch's with the same weights."""
    name = kind.split("-")[0]
    torch.manual_seed(0)
    ours = getattr(fastcells, f"{name}Cell")(*sizes, dtype=dtype, **CELLS[kind], **options)
    theirs = getattr(nn, f"{name}Cell")(*sizes, dtype=dtype, **CELLS[kind], **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def inputs_of(dtype=torch.float64, steps=T, rows=B, size=I):
    torch.manual_seed(1)
    return torch.randn(steps, rows, size, dtype=dtype)


def h_of(state):
    return state[0] if isinstance(state, tuple) else state


def masked(state, row):
    """The state with one row set back, as users of episodes do between steps."""
    keep = torch.ones(len(h_of(state)), 1, dtype=h_of(state).dtype)
    keep[row % len(keep)] = 0
    return tuple(s * keep for s in state) if isinstance(state, tuple) else state * keep


def loop(cell, x, state=None, between=lambda state, t: state):
    outputs = []
    for t, step in enumerate(x):
        state = cell(step, state)
        outputs.append(h_of(state))
        state = between(state, t)
    return torch.stack(outputs)


def loss_of(outputs):
    return (
        outputs * torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    ).sum()


def gradients(cell, x, **options):
    x = x.clone().requires_grad_()
    cell.zero_grad()
    loss_of(loop(cell, x, **options)).backward()
    return [x.grad, *(p.grad for p in cell.parameters())]


def assert_close(actual, expected, **tolerance):
    assert len(actual) == len(expected) > 0
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) == (e is None)
        if e is not None:
            torch.testing.assert_close(a, e, **(tolerance or {"rtol": 1e-12, "atol": 1e-12}))


def nodes_of(tensor):
    """Count the names of all nodes of a graph."""
    seen, waiting, names = set(), [tensor.grad_fn], []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        names.append(node.name())
        waiting += [following for following, _ in node.next_functions]
    return names
