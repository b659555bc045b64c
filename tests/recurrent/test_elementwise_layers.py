"""The layers of elementwise cells: arguments, parameters, shapes, PackedSequence, transforms."""

import copy
import inspect
import pickle
import re

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastcells
from equations import CELLS, run_equations
from fastcells.testing import LayerProblem
from pairs import B, H, I, T, float64, one_thread  # noqa: F401

#: Of each layer its arguments besides sizes, and the names of its parameters in front of "_l0".
LAYERS = {
    "IndRNN": ({}, "weight_ih weight_hh bias_ih"),
    "IndRNN-relu": ({"nonlinearity": "relu"}, "weight_ih weight_hh bias_ih"),
    "SRU": ({}, "weight_ih weight_hh bias_ih"),
    "SRU-plain": ({"rescale": False, "highway_bias": -1.0}, "weight_ih weight_hh bias_ih"),
    "QRNN": ({}, "weight_ih bias_ih"),
    "MinGRU": ({}, "weight_ih bias_ih"),
    "MinGRU-identity": ({"activation": "identity"}, "weight_ih bias_ih"),
    "MinLSTM": ({}, "weight_ih bias_ih"),
    "MinLSTM-identity": ({"activation": "identity"}, "weight_ih bias_ih"),
    "RGLRU": ({}, "weight_ih weight_hh bias_ih"),
    "DiagonalGRU": ({}, "weight_ih weight_hh bias_ih"),
    "DiagonalLSTM": ({}, "weight_ih weight_hh bias_ih"),
}
each_layer = pytest.mark.parametrize("kind", LAYERS)
WITH_C = ("SRU", "QRNN", "MinLSTM", "DiagonalLSTM")


def make(kind, *sizes, **options):
    name = kind.split("-")[0]
    sizes = sizes or ((H, H) if name == "RGLRU" else (I, H))
    return getattr(fastcells, name)(*sizes, **LAYERS[kind][0], **options)


def has_c(kind):
    return kind.split("-")[0] in WITH_C


def make_states(layer, batch=B, dtype=torch.float64):
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    states = [torch.randn(rows, batch, H, dtype=dtype) for _ in range(1 + layer.has_cell_state)]
    return tuple(states) if layer.has_cell_state else states[0]


@each_layer
def test_a_constructor_names_its_arguments_and_takes_them_in_torchs_order(kind):
    parameters = inspect.signature(getattr(fastcells, kind.split("-")[0])).parameters.values()
    assert all(p.annotation is not p.empty for p in parameters)
    assert not any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
    given = {"input_size": H, "hidden_size": H, "num_layers": 2, "nonlinearity": "relu",
             "bias": False, "batch_first": True, "dropout": 0.25, "bidirectional": True,
             "device": "meta", "dtype": torch.float64}  # fmt: skip
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert names == [name for name in given if name != "nonlinearity" or "IndRNN" in kind]
    only_named = {"recompute": True} | LAYERS[kind][0]
    only_named.pop("nonlinearity", None)
    layer = getattr(fastcells, kind.split("-")[0])(*(given[name] for name in names), **only_named)
    for name, value in ({n: given[n] for n in names[:-2]} | only_named).items():
        assert getattr(layer, name) == value
    assert (layer.weight_ih_l0.device.type, layer.weight_ih_l0.dtype) == ("meta", torch.float64)


def as_equations(layer, input, states, lengths=None, resets=None):
    """output, h_n and c_n of a stack, each layer by the equations."""
    directions = 2 if layer.bidirectional else 1
    h_0, c_0 = states if layer.has_cell_state else (states, None)
    finals = []
    for k in range(layer.num_layers):
        named = layer._all_weights[k * directions : (k + 1) * directions]
        weights = [getattr(layer, name) for names in named for name in names]
        own = slice(k * directions, (k + 1) * directions)
        cells = layer._cells()
        problem = LayerProblem(
            cells if isinstance(cells, str) else cells[k], directions, input, h_0[own],
            None if c_0 is None else c_0[own], weights,
            " ".join(name.removesuffix(f"_l{k}") for name in named[0]), lengths, resets,
        )  # fmt: skip
        input, h, c, _ = run_equations(problem)
        finals.append((h, c))
    h_n = torch.cat([h for h, _ in finals])
    return input, h_n, torch.cat([c for _, c in finals]) if layer.has_cell_state else None


def flat(results):
    output, last = results[:2]
    return output, *(last if isinstance(last, tuple) else (last, None))


def assert_near(actual, expected, tolerance=1e-12):
    for got, want in zip(actual, expected, strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layers", [1, 2], ids="L{}".format)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both_ways"])
@each_layer
def test_layers_are_their_equations(kind, bidirectional, layers):
    layer = make(kind, num_layers=layers, bidirectional=bidirectional, **float64)
    input = torch.randn(T, B, layer.input_size, **float64)
    states = make_states(layer)
    lengths = torch.tensor([T, 0, 3, 2])
    resets = torch.rand(T, B) < 0.3
    expected = as_equations(layer, input, states, lengths, resets)
    assert_near(flat(layer(input, states, lengths, resets)), expected)
    loss = sum((k * x).sin().sum() for k, x in enumerate(expected, 1) if x is not None)
    wanted = torch.autograd.grad(loss, list(layer.parameters()))
    results = flat(layer(input, states, lengths, resets))
    loss = sum((k * x).sin().sum() for k, x in enumerate(results, 1) if x is not None)
    assert_near(torch.autograd.grad(loss, list(layer.parameters())), wanted)


@each_layer
def test_parameters_have_names_and_shapes_of_their_own(kind):
    layer = make(kind, num_layers=2, bidirectional=True)
    names = LAYERS[kind][1].split()
    suffixes = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"]
    expected = [name + suffix for suffix in suffixes for name in names]
    assert [name for name, _ in layer.named_parameters()] == expected
    gates = [layer._gates_of(k) for k in range(2)]
    assert layer.weight_ih_l0.shape == (gates[0] * H, layer.input_size)
    assert layer.weight_ih_l1.shape == (gates[1] * H, 2 * H)
    assert layer.bias_ih_l1_reverse.shape == (gates[1] * H,)
    if "weight_hh" in names:
        assert layer.weight_hh_l1.shape == (layer.unit_weights * H,)
    bare = make(kind, bias=False)
    assert [name for name, _ in bare.named_parameters()] == [
        f"{name}_l0" for name in names if name != "bias_ih"
    ]
    assert all(p.isfinite().all() for p in layer.state_dict().values())


@each_layer
def test_state_dicts_copies_and_pickles_give_the_same(kind):
    layer, other = (make(kind, num_layers=2, bidirectional=True, **float64) for _ in range(2))
    input = torch.randn(T, B, layer.input_size, **float64)
    expected = flat(layer(input))
    assert not torch.equal(flat(other(input))[0], expected[0])
    other.load_state_dict(layer.state_dict())
    for copied in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_near(flat(copied(input)), expected, 0)
    assert type(layer).__name__ in repr(layer)
    layer.float()
    assert flat(layer(input.float()))[0].dtype == torch.float32


@each_layer
def test_batch_first_unbatched_packed_and_lengths_are_one_thing(kind):
    layer = make(kind, bidirectional=True, **float64)
    input, states = torch.randn(T, B, layer.input_size, **float64), make_states(layer)
    lengths = torch.tensor([T, 1, 3, 2])
    expected = flat(layer(input, states, lengths))
    packed, *last = flat(layer(pack_padded_sequence(input, lengths, enforce_sorted=False), states))
    unpacked, _ = pad_packed_sequence(packed, total_length=T)
    assert_near((unpacked, *last), expected)
    first = make(kind, bidirectional=True, batch_first=True, **float64)
    first.load_state_dict(layer.state_dict())
    output, *last = flat(first(input.transpose(0, 1), states, lengths))
    assert_near((output.transpose(0, 1), *last), expected)
    of_row = [s[:, 2] for s in states] if has_c(kind) else states[:, 2]
    alone = flat(layer(input[:3, 2], tuple(of_row) if has_c(kind) else of_row))
    assert_near(alone[:1], (expected[0][:3, 2],))
    assert_near(alone[1:2], (expected[1][:, 2],))


@each_layer
def test_steps_one_by_one_are_the_layer(kind):
    layer = make(kind, num_layers=2, **float64).eval()
    input = torch.randn(T, B, layer.input_size, **float64)
    with torch.no_grad():
        whole = flat(layer(input))
        state, steps = None, []
        for t in range(T):
            output, state = layer(input[t : t + 1], state)
            steps.append(output)
    assert_near(flat((torch.cat(steps), state)), whole)


@each_layer
def test_dropout_zeroes_and_scales_between_layers(kind):
    layer = make(kind, num_layers=2, dropout=1.0, bias=False, **float64)
    input = torch.randn(T, B, layer.input_size, **float64)
    output = flat(layer(input))[0]
    still = flat(layer(torch.randn_like(input)))[0]
    assert torch.equal(output, still)  # nothing of the first layer is left
    layer.eval()
    assert not torch.equal(flat(layer(input))[0], output)


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if has_c(kind)])
def test_cell_states_of_every_step(kind):
    layer = make(kind, bidirectional=True, **float64)
    results = layer(torch.randn(T, B, I, **float64), return_cell_states=True)
    (_, c_n), cells = results[1:]
    assert cells.shape == (T, B, 2 * H) and cells.dtype == torch.float64
    assert torch.equal(cells[-1, :, :H], c_n[0]) and torch.equal(cells[0, :, H:], c_n[1])


@pytest.mark.sampled(5)
@each_layer
def test_second_derivatives_and_forward_mode(kind):
    layer = make(kind, bidirectional=True, **float64)
    names = [name for name, _ in layer.named_parameters()]
    width = layer.input_size
    input = torch.randn(3, 2, width, **float64, requires_grad=True)
    lengths, resets = torch.tensor([3, 2]), torch.tensor([[0, 1], [0, 0], [1, 0]]).bool()

    def call(input, *weights):
        parameters = dict(zip(names, weights, strict=True))
        results = torch.func.functional_call(layer, parameters, (input, None, lengths, resets))
        return tuple(x for x in flat(results) if x is not None)

    arguments = (input, *(p.detach().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(call, arguments, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, arguments, fast_mode=True)


@each_layer
def test_vmap_over_inputs_and_over_weights(kind):
    layer = make(kind, **float64)
    inputs = torch.randn(3, T, B, layer.input_size, **float64)
    mapped = torch.vmap(lambda x: flat(layer(x))[0])(inputs)
    assert_near((mapped,), (torch.stack([flat(layer(x))[0] for x in inputs]),))
    others = [make(kind, **float64) for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(others)

    def call(parameters, buffers):
        return flat(torch.func.functional_call(layer, (parameters, buffers), (inputs[0],)))[0]

    mapped = torch.vmap(call)(parameters, buffers)
    assert_near((mapped,), (torch.stack([flat(o(inputs[0]))[0] for o in others]),))


@pytest.mark.sampled(5)
@each_layer
def test_compiles_whole(kind):
    layer = make(kind, num_layers=2, **float64)
    input = torch.randn(T, B, layer.input_size, **float64, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected, actual = flat(layer(input)), flat(compiled(input))
    assert_near(actual, expected)
    parameters = list(layer.parameters())
    wanted = torch.autograd.grad(expected[0].sum(), [input, *parameters])
    assert_near(torch.autograd.grad(actual[0].sum(), [input, *parameters]), wanted)


@each_layer
def test_explain_names_the_engine(kind):
    layer = make(kind)
    told = fastcells.explain(layer, torch.randn(T, B, layer.input_size))
    assert told.kernel == "cpu elementwise" and told.cell == layer.cell
    assert told.cell in CELLS
    assert "chunks of" in told.plan and "walks through time" in str(told)


@each_layer
def test_frozen_weights_and_what_is_kept_by_recompute(kind):
    layer = make(kind, recompute=True)
    input = torch.randn(T, B, layer.input_size)
    with torch.no_grad():
        expected = flat(layer(input))
        assert_near(flat(fastcells.freeze(layer)(input)), expected, 0)
        fastcells.unfreeze(layer)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        flat(layer(input))
    largest = T * B * max(H, layer.input_size)
    own = sum(p.numel() for p in layer.parameters())
    assert sum(x.numel() for x in kept) <= 3 * largest + own + H


@each_layer
def test_autocast_computes_in_the_dtype_of_the_state(kind):
    layer = make(kind)
    input = torch.randn(T, B, layer.input_size)
    expected = flat(layer(input))
    with torch.autocast("cpu", torch.bfloat16):
        actual = flat(layer(input))
        narrow = flat(layer(input.bfloat16()))
    assert_near(actual, expected, 0)
    assert narrow[0].dtype == torch.bfloat16
    torch.testing.assert_close(narrow[0].float(), expected[0], rtol=0.1, atol=0.1)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("make_it", "error", "text"),
    [
        (
            lambda: fastcells.IndRNN(3, 4, nonlinearity="elu"), ValueError,
            "IndRNN: nonlinearity must be 'tanh' or 'relu', got 'elu'",
        ),
        (
            lambda: fastcells.MinGRU(3, 4, activation="tanh"), ValueError,
            "MinGRU: activation must be 'g' or 'identity', got 'tanh'",
        ),
        (
            lambda: fastcells.RGLRU(3, 4), ValueError,
            "RGLRU: input_size must be hidden_size, for the unit gates its input as it is, got "
            "3 and 4",
        ),
        (
            lambda: fastcells.SRU(3, 4, rescale=1), TypeError,
            "SRU: rescale must be a bool, got int",
        ),
        (
            lambda: fastcells.SRU(3, 4, highway_bias="0"), TypeError,
            "SRU: highway_bias must be a number, got str",
        ),
        (
            lambda: fastcells.QRNN(3, 4, recompute=0), TypeError,
            "QRNN: recompute must be a bool, got int",
        ),
        (lambda: fastcells.QRNN(0, 4), ValueError, "input_size must be greater than zero"),
        (
            lambda: fastcells.MinLSTM(3, 4, bias=1), TypeError,
            "bias should be of type bool, got: int",
        ),
        (
            lambda: fastcells.DiagonalLSTM(3, 4)(torch.randn(2, 1, 3), torch.randn(1, 1, 4)),
            TypeError,
            "DiagonalLSTM: hx must be a tuple (h_0, c_0) of two tensors, got Tensor",
        ),
        (
            lambda: fastcells.DiagonalGRU(3, 4)(torch.randn(2, 1, 5)), RuntimeError,
            "input.size(-1) must be equal to input_size. Expected 3, got 5",
        ),
        (
            lambda: fastcells.MinGRU(3, 4)(torch.randn(2, 1, 3), lengths=torch.tensor([3])),
            ValueError, "lengths must lie in 0 .. T = 2, got values from 3 to 3",
        ),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(make_it, error, text):
    with pytest.raises(error, match=re.escape(text)):
        make_it()


def test_dropout_of_one_layer_warns_as_torch_does():
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        fastcells.QRNN(3, 4, dropout=0.5)
