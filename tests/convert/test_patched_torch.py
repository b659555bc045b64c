"""patched_torch: what torch.nn's constructors build within it."""

import asyncio
import copy
import inspect
import threading

import pytest
import torch
from torch import nn
from torch.nn import GRUCell, modules  # as a package does, before anything is patched

import fastcells
from conversion_models import KINDS, Model, make_layer
from fastcells.convert.kinds import BOTH
from pairs import (
    LAYERS,
    B,
    H,
    I,
    T,
    assert_near,
    one_thread,  # noqa: F401
)


def is_patched():
    """Whether this thread's torch.nn builds fastcells' layers."""
    return isinstance(nn.LSTM(I, H), fastcells.LSTM)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_is_built_within_is_both_and_has_torchs_numbers(kind):
    torch.manual_seed(3)
    layer, arguments = make_layer(kind)
    torch.manual_seed(3)
    with fastcells.patched_torch():
        patched, _ = make_layer(kind)
    assert isinstance(patched, getattr(fastcells, kind)) and isinstance(patched, getattr(nn, kind))
    assert_near(patched.state_dict(), layer.state_dict(), 0)
    assert_near({"result": patched(*arguments)[0]}, {"result": layer(*arguments)[0]})


def test_a_whole_model_is_built_of_our_layers_under_any_name():
    with fastcells.patched_torch():
        model = Model()
        found = [GRUCell(I, H), modules.rnn.GRUCell(I, H), modules.LSTM(I, H)]
        encoder = nn.TransformerEncoderLayer(H, 2)
    assert all(line.is_fastcells for line in fastcells.conversion_report(model).layers)
    kinds = [fastcells.GRUCell, fastcells.GRUCell, BOTH[nn.LSTM], fastcells.MultiheadAttention]
    assert [type(m) for m in (*found, encoder.self_attn)] == kinds
    assert model(torch.randn(T, B, I, dtype=torch.float64)).shape == (B, H)


def test_torch_is_as_it_was_afterwards_and_after_an_exception():
    before = {kind: kind.__init__ for kind in BOTH}

    def fail():
        with fastcells.patched_torch():
            assert is_patched()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert {kind: kind.__init__ for kind in BOTH} == before
    assert not is_patched()


def test_contexts_may_be_nested_and_entered_again():
    context = fastcells.patched_torch()
    with context:
        with pytest.raises(KeyError), fastcells.patched_torch():
            raise KeyError
        assert is_patched()
        with fastcells.patched_torch():
            assert is_patched()
    assert not is_patched()
    with fastcells.patched_torch():
        assert is_patched()


def test_other_threads_and_tasks_build_torchs_layers():
    entered, seen = threading.Event(), threading.Event()
    found = []

    def enter():
        with fastcells.patched_torch():
            entered.set()
            seen.wait(10)
            found.append(is_patched())

    thread = threading.Thread(target=enter)
    thread.start()
    assert entered.wait(10)
    assert not is_patched()
    with fastcells.patched_torch():
        seen.set()
        thread.join(10)
        assert is_patched()  # though the other context has ended
    assert found == [True] and not is_patched()

    async def inside():
        with fastcells.patched_torch():
            await asyncio.sleep(0.01)
            return is_patched()

    async def outside():
        await asyncio.sleep(0)
        return is_patched()

    async def both():
        return await asyncio.gather(inside(), outside())

    assert asyncio.run(both()) == [True, False]


def test_subclasses_copies_and_errors_are_torchs():
    class Own(nn.LSTM):
        pass

    theirs = nn.LSTM(I, H)
    with fastcells.patched_torch():
        assert type(Own(I, H)) is Own and type(copy.deepcopy(theirs)) is nn.LSTM
        assert type(nn.RNN(I, H, dtype=torch.complex64)) is nn.RNN
        with pytest.raises(ValueError) as error:
            nn.LSTM(I, 0)
        assert "device" in inspect.signature(nn.LSTMCell).parameters
    assert str(error.value) == "hidden_size must be greater than zero"


def test_a_patched_layer_may_be_made_plain_for_torch_compile():
    for kind in LAYERS:
        with fastcells.patched_torch():
            layer, _ = make_layer(kind)
        assert type(fastcells.convert(layer, inplace=True)) is getattr(fastcells, kind)
