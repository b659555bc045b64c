"""recompute=True of layers and functions: they learn what they learn without it, from less memory.

Kernels and derivatives: test_recompute.py.
"""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastcells
from fastcells import functional
from fastcells.ops import recurrent as ops
from fastcells.reference import recurrent as reference
from pairs import (
    B,
    H,
    I,
    T,
    assert_near,
    assert_same_bits,
    each_layer,
    evaluate,
    float64,
    make_hx,
    one_thread,  # noqa: F401 (an autouse fixture)
    tensors_of,
)
from problems import (
    assert_equal_trees,
    each_dense_cell,
    kept_for_the_way_back,
    small_problem,
    variables_of,
)
from refusals import assert_refused
from ways import through_python


def make_recomputing(kind, **options):
    """(a layer that recomputes, the same layer without)."""
    layer = getattr(fastcells, kind)(I, H, recompute=True, **options)
    plain = copy.deepcopy(layer)
    plain.recompute = False
    return layer, plain


@pytest.fixture
def keeps(monkeypatch):
    """What each call of the forward op was told to keep."""
    seen, original = [], ops.recurrent_forward

    def spy(*arguments):
        seen.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(ops, "recurrent_forward", spy)
    through_python(monkeypatch)
    return seen


# ---- what is kept ----


# Numbers a unit and step, besides the output.
KEPT = {"RNN": (1, 0), "LSTM": (5, 1), "GRU": (4, 0)}


@pytest.mark.parametrize(("kind", "without", "with_it"), [(k, *n) for k, n in KEPT.items()])
def test_a_layer_keeps_what_its_documentation_says(kind, without, with_it):
    input = torch.randn(T, B, I)
    for layer, states in zip(make_recomputing(kind, num_layers=2), (with_it, without), strict=True):
        kept = kept_for_the_way_back(lambda layer=layer: layer(input), [input, *layer.parameters()])
        assert sum(t.numel() for t in kept) == 2 * T * B * H * (states + 1)


def test_without_gradients_it_changes_nothing(keeps):
    layer, plain = make_recomputing("LSTM")
    input = torch.randn(T, B, I)
    with torch.no_grad():
        assert_same_bits(layer(input), plain(input))
        layer(input, return_cell_states=True)
    layer(input)
    assert keeps == ["nothing", "nothing", "cells", "states"]


# ---- layers and functions ----

OPTIONS = {
    "plain": {},
    "both_ways": {"num_layers": 2, "bidirectional": True},
    "dropout": {"num_layers": 3, "dropout": 0.4, "batch_first": True},
    "no_bias": {"bias": False},
}
LAYERS = [
    *((kind, options) for kind in ("RNN", "LSTM", "GRU") for options in OPTIONS.values()),
    ("LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True}),
    ("GRU", {"variant": "reset_before"}),
    ("GRU", {"variant": "article"}),
]


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_a_layer_learns_what_it_learns_without_it(kind, options, keeps):
    layers = make_recomputing(kind, **options, **float64)
    input, lengths = torch.randn(4, 4, I, **float64), torch.tensor([4, 0, 2, 3])
    hx = make_hx(layers[0], 4)
    found = []
    for layer in layers:
        torch.manual_seed(7)
        found.append(evaluate(layer, input, hx, lengths=lengths))
    assert_near(*found)
    count = options.get("num_layers", 1)
    assert keeps == ["states"] * count + ["everything"] * count


@each_layer
def test_a_packed_sequence_and_autocast_are_as_without_it(kind):
    layer, plain = make_recomputing(kind, num_layers=2)
    packed = pack_padded_sequence(torch.randn(T, B, I), torch.tensor([5, 3, 2, 1]))
    assert_near(evaluate(layer, packed), evaluate(plain, packed), 1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        input = torch.randn(T, B, I)
        found, expected = evaluate(layer, input), evaluate(plain, input)
    assert_near(found, expected, torch.finfo(torch.bfloat16).eps)


FUNCTIONS = {
    "rnn_tanh": functional.rnn,
    "rnn_relu": partial(functional.rnn, nonlinearity="relu"),
    "lstm": functional.lstm,
    "gru": functional.gru,
    "gru_reset_before": partial(functional.gru, variant="reset_before"),
    "gru_article": partial(functional.gru, variant="article"),
}


def test_every_cell_has_a_function_here():
    assert FUNCTIONS.keys() == {
        cell for cell, facts in reference.CELLS.items()
        if facts.unit_weights is None and not facts.vectors
    }  # fmt: skip


@each_dense_cell
def test_a_function_takes_it_too(cell, proj_size, keeps):
    problem = small_problem(cell, 2, proj_size, lengths=True, resets=True)
    hx = problem.h_0 if problem.c_0 is None else (problem.h_0, problem.c_0)
    options = {"bidirectional": True, "lengths": problem.lengths, "resets": problem.resets}
    leaves = [v.requires_grad_() for v in variables_of(problem)]
    found = []
    for recompute in (True, False):
        results = FUNCTIONS[cell](
            problem.input, hx, problem.weights, **options, recompute=recompute
        )
        grads = torch.autograd.grad(sum(r.sin().sum() for r in tensors_of(results)), leaves)
        found.append([*tensors_of(results), *grads])
    assert_equal_trees(*found)
    assert keeps == ["states", "everything"]


def test_all_cell_states_have_the_gradients_they_have_without_it():
    layers = make_recomputing("LSTM", num_layers=2, bidirectional=True, **float64)
    input = torch.randn(T, B, I, **float64)
    assert_near(*(evaluate(layer, input, return_cell_states=True) for layer in layers))


@each_layer
def test_it_is_shown_copied_and_pickled(kind):
    layer, plain = make_recomputing(kind)
    assert repr(layer) == f"{kind}({I}, {H}, recompute=True)"
    assert repr(plain) == repr(getattr(fastcells, kind)(I, H)) == f"{kind}({I}, {H})"
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert copied.recompute is True
    assert layer.state_dict().keys() == getattr(nn, kind)(I, H).state_dict().keys()


def test_it_is_shown_beside_other_options():
    layer = fastcells.LSTM(I, H, unit_forget_bias=True, recompute=True)
    assert repr(layer) == f"LSTM({I}, {H}, recompute=True, unit_forget_bias=True)"
    layer = fastcells.GRU(I, H, variant="article", recompute=True)
    assert repr(layer) == f"GRU({I}, {H}, recompute=True, variant='article')"


@each_layer
def test_a_layer_from_before_there_was_recompute_does_without(kind, keeps):
    layer = getattr(fastcells, kind)(I, H)
    del layer.__dict__["recompute"]  # as its pickle has none
    layer = pickle.loads(pickle.dumps(layer))
    layer(torch.randn(T, B, I))
    assert keeps == ["everything"]
    assert repr(layer) == f"{kind}({I}, {H})"


@pytest.mark.parametrize(("value", "name"), [(1, "int"), (None, "NoneType"), ("yes", "str")])
@each_layer
def test_what_is_not_a_bool_is_refused(kind, value, name):
    text = f"recompute must be a bool, got {name}"
    make = getattr(fastcells, kind)
    assert_refused(lambda: make(I, H, recompute=value), TypeError, f"{kind}: {text}")
    run, weights = getattr(functional, kind.lower()), list(make(I, H).parameters())
    assert_refused(
        lambda: run(torch.randn(T, B, I), None, weights, recompute=value),
        TypeError,
        f"{kind.lower()}: {text}",
    )


# ---- torch.compile, torch.export ----


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@each_layer
def test_a_compiled_layer_trains_as_an_eager_one(kind, fresh_compiler):
    layer, plain = make_recomputing(kind, num_layers=2, bidirectional=True, **float64)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    input, lengths = torch.randn(T, B, I, **float64), torch.tensor([5, 0, 3, 1])
    for _ in range(2):
        for module in (compiled, plain):
            loss = tensors_of(module(input, lengths=lengths))[0].pow(2).sum()
            loss.backward()
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
            optimizer.step(), optimizer.zero_grad()
    trained, expected = (dict(m.named_parameters()) for m in (layer, plain))
    assert_near(trained, expected)


@pytest.mark.parametrize("recompute", [False, True], ids=["everything", "states"])
def test_a_traced_layer_keeps_what_an_eager_one_keeps(recompute, fresh_compiler):
    layer, seen = fastcells.LSTM(I, H, num_layers=2, recompute=recompute), []

    def backend(graph, inputs):
        seen.extend(n.args[-1] for n in graph.graph.nodes if "recurrent_forward" in str(n.target))
        return graph

    input = torch.randn(T, B, I)
    torch.compile(layer, backend=backend, fullgraph=True)(input)
    program = torch.export.export(layer, (input,))
    seen.extend(n.args[-1] for n in program.graph.nodes if "recurrent_forward" in str(n.target))
    assert seen == ["states" if recompute else "everything"] * 4
