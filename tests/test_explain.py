"""explain() says which implementation a call runs, and the call does run it."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import pack_padded_sequence

import fastcells
from fastcells.functional import recurrent, routing
from pairs import (
    CELLS,
    LAYERS,
    B,
    H,
    I,
    T,
    each_kind,
    float64,
    make_hx,
    make_input,
    one_thread,  # noqa: F401 (an autouse fixture)
)

STEPWISE = (
    "input product for all steps at once, then a matrix product and a fused step kernel per step"
)
PACKED = "the PackedSequence is padded first; lengths= saves both copies"
FORWARD_MODE = (
    "forward-mode derivatives (jvp), and any torch.func transform inside a compiled graph, run on "
    "the reference"
)


@pytest.fixture
def ran(monkeypatch):
    """What implementations ran, and with which dtype of the weights."""
    calls = []

    def watch(owner, name, kind, weight_of):
        original = getattr(owner, name)

        def watching(*args, **kwargs):
            calls.append((kind, weight_of(args).dtype))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, watching)

    watch(recurrent.ops, "recurrent_forward", "cpu stepwise", lambda args: args[5][0])
    watch(recurrent.ops, "recurrent_step", "cpu stepwise", lambda args: args[4][0])
    watch(recurrent.reference, "recurrent", "reference", lambda args: args[5][0])
    watch(recurrent.reference, "recurrent_step", "reference", lambda args: args[4][0])
    return calls


def assert_explained(ran, module, *args, **kwargs):
    """The explanation holds: its kernel and dtype are what the call then uses."""
    explanation = fastcells.explain(module, *args, **kwargs)
    assert not ran  # nothing is computed
    module(*args, **kwargs)
    assert set(ran) == {(explanation.kernel, explanation.dtype)}
    return explanation


@pytest.mark.parametrize("has_grad", [False, True], ids=["no_grad", "grad"])
@each_kind
def test_an_eager_call_runs_the_kernels(kind, has_grad, monkeypatch):
    module = getattr(fastcells, kind)(I, H)
    input = make_input(kind, torch.float32)
    explanation = fastcells.explain(module, input, make_hx(module, B, torch.float32))
    cell = {"RNN": "rnn_tanh"}.get(kind.removesuffix("Cell"), kind.removesuffix("Cell").lower())
    assert str(explanation) == (
        f"{cell}, torch.float32: cpu stepwise\n  why: compiled kernels\n  {STEPWISE}"
    )
    assert explanation.notes == (STEPWISE,)

    def refuse(*args):
        raise AssertionError("the reference ran")

    monkeypatch.setattr(recurrent.reference, "recurrent", refuse)
    monkeypatch.setattr(recurrent.reference, "recurrent_step", refuse)
    with torch.set_grad_enabled(has_grad):
        module(input)


@each_kind
def test_a_call_without_gradients_runs_what_is_explained(kind, ran):
    module = getattr(fastcells, kind)(I, H)
    with torch.no_grad():
        assert_explained(ran, module, make_input(kind, torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_computed_in_float32(dtype, ran):
    layer = fastcells.GRU(I, H, variant="article", dtype=dtype)
    explanation = assert_explained(ran, layer, make_input("GRU", dtype))
    assert explanation.cell == "gru_article"
    assert explanation.notes == (STEPWISE, "arithmetic and cell state in float32")


def test_a_packed_input_is_told_to_be_padded(ran):
    layer = fastcells.LSTM(I, H)
    packed = pack_padded_sequence(make_input("LSTM", torch.float32), torch.tensor([5, 4, 2, 1]))
    assert assert_explained(ran, layer, packed).notes == (STEPWISE, PACKED)


@pytest.mark.parametrize(
    ("kind", "is_packed"),
    [*((kind, False) for kind in LAYERS + CELLS), *((kind, True) for kind in LAYERS)],
)
@pytest.mark.parametrize(
    "hx_dtype", [None, torch.float32, torch.bfloat16], ids=["hx_0", "hx_f32", "hx_bf16"]
)
def test_the_dtype_under_autocast_is_the_one_that_is_used(kind, is_packed, hx_dtype, ran):
    """Which on a CPU is autocast's for some layers, and the state's for others, as in torch."""
    module = getattr(fastcells, kind)(I, H)
    input = make_input(kind, torch.float32)
    hx = None if hx_dtype is None else make_hx(module, B, hx_dtype)
    if is_packed:
        input = pack_padded_sequence(input, torch.tensor([5, 4, 2, 1]))
    with torch.autocast("cpu", torch.bfloat16):
        assert_explained(ran, module, input, hx)


@each_kind
def test_forward_mode_runs_the_reference(kind, ran):
    module = getattr(fastcells, kind)(I, H, **float64)
    input = make_input(kind)
    assert fastcells.explain(module, input).kernel == "cpu stepwise"
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(input, torch.ones_like(input))
        explanation = assert_explained(ran, module, dual)
    assert explanation.reason == FORWARD_MODE
    assert explanation.notes == ("plain torch operations, step by step",)


def test_a_tangent_of_the_state_counts_too(ran):
    layer = fastcells.LSTM(I, H, **float64)
    h_0, c_0 = make_hx(layer, B)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(c_0, torch.ones_like(c_0))
        assert assert_explained(ran, layer, make_input("LSTM"), (h_0, dual)).kernel == "reference"


def test_without_the_extension_the_reference_runs(ran, monkeypatch):
    monkeypatch.setattr(routing, "is_compiled", lambda: False)
    monkeypatch.setattr(routing, "why_not_compiled", lambda: "no compiler was there")
    explanation = assert_explained(ran, fastcells.GRU(I, H), make_input("GRU", torch.float32))
    assert str(explanation) == (
        "gru, torch.float32: reference\n  why: no compiler was there\n"
        "  plain torch operations, step by step"
    )


def test_a_device_without_kernels_is_named(monkeypatch):
    monkeypatch.setattr(recurrent.ops, "has_kernels", lambda device: False)
    explanation = fastcells.explain(fastcells.RNN(I, H), make_input("RNN", torch.float32))
    assert explanation.kernel == "reference"
    assert explanation.reason == "this build of fastcells has no kernels for cpu"


def test_lengths_and_resets_are_taken(ran):
    layer = fastcells.GRU(I, H)
    masks = {"lengths": torch.tensor([5, 0, 2, 3]), "resets": torch.rand(T, B) < 0.5}
    assert_explained(ran, layer, make_input("GRU", torch.float32), **masks)


@pytest.mark.parametrize(
    "module", [nn.LSTM(I, H), nn.GRUCell(I, H), nn.Linear(I, H), None], ids=lambda m: repr(m)[:7]
)
def test_another_module_is_refused(module):
    with pytest.raises(TypeError) as refused:
        fastcells.explain(module, make_input("LSTM", torch.float32))
    assert str(refused.value) == (
        f"explain: layer must be a layer or cell of fastcells, got {type(module).__name__}"
    )
