"""Packed weights of the CPU engine: whatever writes to a weight is noticed, and no memory stays
behind. A stale pack would be a wrong result without a word."""

import copy
import gc
import os
from pathlib import Path

import pytest
import torch

import fastcells
from fastcells import _extension
from pairs import one_thread  # noqa: F401 (an autouse fixture)

packed_bytes = _extension._C.packed_bytes
I, H = 16, 32  # rows of a weight are whole cache lines, so that each column has its own words
LAYERS = {
    "rnn": lambda dtype: fastcells.RNN(I, H, dtype=dtype),
    "lstm": lambda dtype: fastcells.LSTM(I, H, bidirectional=True, dtype=dtype),
    "gru": lambda dtype: fastcells.GRU(I, H, dtype=dtype),
}
WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def results_of(layer, input):
    """Outputs, with and without a way back, and the gradient of the input: all three packs."""
    with torch.no_grad():
        output = layer(input)[0]
    leaf = input.detach().requires_grad_()
    again = layer(leaf)[0]
    return output, again, torch.autograd.grad(again, leaf, torch.ones_like(again))[0]


def assert_noticed(layer, change, is_small=False):
    """After `change()` the layer is what a new one with the same weights is. `is_small`: it may
    make no difference beyond rounding, so that no other results need to be seen."""
    input = torch.randn(4, 3, layer.input_size, dtype=layer.weight_ih_l0.dtype)
    before = results_of(layer, input)
    change()
    after, expected = results_of(layer, input), results_of(copy.deepcopy(layer), input)
    assert is_small or not torch.equal(before[0], expected[0])
    for name, got, want in zip(("output", "training", "gradient"), after, expected, strict=True):
        assert torch.equal(got, want), f"{name} is that of the old weights or of neither"


# ---- whatever writes to a weight ----


def write_through_data(weight):
    weight.data.mul_(1.5)


def write_in_place(weight):
    with torch.no_grad():
        weight.add_(0.25)


def write_by_numpy(weight):
    weight.detach().numpy()[...] *= 2


def write_through_a_view(weight):
    with torch.no_grad():
        weight.view(-1)[3:7] = 1


def write_negated(weight):
    with torch.no_grad():
        weight.neg_()


def write_negated_column(weight):
    """Of a bias every I-th element, which are as far apart."""
    with torch.no_grad():
        (weight[:, 1] if weight.dim() == 2 else weight[1::I]).neg_()


def write_two_negated(weight):
    with torch.no_grad():
        weight.view(-1)[1 : 1 + 2 * I : I].neg_()


def write_reversed(weight):
    with torch.no_grad():
        weight.copy_(weight.flip(0))


def write_rows_swapped(weight):
    with torch.no_grad():
        weight[[0, 1]] = weight[[1, 0]]


WRITES = [
    write_through_data, write_in_place, write_by_numpy, write_through_a_view, write_negated,
    write_negated_column, write_two_negated, write_reversed, write_rows_swapped,
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_changed_weight_is_noticed(kind, write, dtype):
    layer = LAYERS[kind](dtype)
    for name in WEIGHTS:
        assert_noticed(layer, lambda name=name: write(getattr(layer, name)))


@pytest.mark.parametrize("sizes", [(I, H), (5, 3), (70, 75)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_a_changed_bit_is_noticed(dtype, sizes):
    """The first, the last and others, in the last place and in the first; of weights that are whole
    cache lines, that end within one, and that are more than a thread hashes at a time."""
    layer = fastcells.LSTM(*sizes, dtype=dtype)
    bits = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    for name in WEIGHTS:
        flat = getattr(layer, name).data.view(-1).view(bits)
        for index in (0, 1, flat.numel() // 2, flat.numel() - 2, flat.numel() - 1):
            for bit in (1, torch.iinfo(bits).min):

                def flip(flat=flat, index=index, bit=bit):
                    flat[index] ^= bit

                assert_noticed(layer, flip, is_small=True)


def test_weights_by_other_means_are_used():
    """A new tensor in a weight's place, a state that is loaded, functional_call's."""
    layer, other = LAYERS["gru"](torch.float32), LAYERS["gru"](torch.float32)
    assert_noticed(layer, lambda: layer.load_state_dict(other.state_dict()))
    weight = torch.nn.Parameter(torch.randn(3 * H, H))
    assert_noticed(layer, lambda: setattr(layer, "weight_hh_l0", weight))
    input = torch.randn(4, 3, I)
    for _ in range(3):
        weights = {name: torch.randn_like(w) for name, w in layer.named_parameters()}
        got = torch.func.functional_call(layer, weights, (input,))[0]
        layer.load_state_dict(weights)
        assert torch.equal(got, copy.deepcopy(layer)(input)[0])


def test_two_layers_may_share_a_weight_and_not_its_bias():
    layer, other = LAYERS["gru"](torch.float32), LAYERS["gru"](torch.float32)
    other.weight_ih_l0, other.weight_hh_l0 = layer.weight_ih_l0, layer.weight_hh_l0
    input = torch.randn(4, 3, I)
    expected = [copy.deepcopy(module)(input)[0] for module in (layer, other)]
    for _ in range(2):
        assert all(
            torch.equal(module(input)[0], want)
            for module, want in zip((layer, other), expected, strict=True)
        )


def test_a_weight_serves_in_two_shapes():
    """W_ih [12, 16] of one layer is W_hh [24, 8] of another: the same bytes."""
    layer, other = fastcells.GRU(8, 8, bias=False), fastcells.GRU(16, 4, bias=False)
    other.weight_ih_l0 = torch.nn.Parameter(layer.weight_hh_l0.detach().view(12, 16))
    for module in (layer, other, layer, other):
        input = torch.randn(4, 3, module.input_size)
        assert torch.equal(module(input)[0], copy.deepcopy(module)(input)[0])


# ---- memory ----


def test_packs_go_with_their_weights():
    gc.collect()
    before = packed_bytes()
    layer = LAYERS["lstm"](torch.float32)
    results_of(layer, torch.randn(4, 3, I))
    weights = 4 * sum(w.numel() for name, w in layer.named_parameters() if "weight" in name)
    # W_ih and W_hh as gates and as they lie; the padding of the last panels comes on top.
    assert 2 * weights <= packed_bytes() - before <= 3 * weights
    del layer
    gc.collect()
    assert packed_bytes() == before


def test_a_look_up_frees_the_packs_of_weights_that_are_gone():
    gc.collect()
    layer, input = LAYERS["gru"](torch.float32), torch.randn(4, 3, I)
    before = None
    with torch.no_grad():
        for _ in range(30):
            weights = {name: torch.randn_like(w) for name, w in layer.named_parameters()}
            torch.func.functional_call(layer, weights, (input,))
            before = before or packed_bytes()
            assert packed_bytes() == before


def test_training_keeps_one_pack_of_each_weight():
    layer, input = LAYERS["lstm"](torch.float32), torch.randn(6, 4, I)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sizes = set()
    for _ in range(50):
        optimizer.zero_grad()
        layer(input)[0].square().sum().backward()
        optimizer.step()
        sizes.add(packed_bytes())
    assert len(sizes) == 1


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc/self/statm")
def test_memory_stays_flat_over_thousands_of_calls():
    """Of changing shapes and weights, with a way back every fourth time. It grows by 1 MB, and by
    29 MB where packs are never freed."""
    generator = torch.Generator().manual_seed(0)

    def calls(count):
        for index in range(count):
            T, B, width, units = torch.randint(1, 40, (4,), generator=generator).tolist()
            layer = (fastcells.LSTM, fastcells.GRU, fastcells.RNN)[index % 3](width, units)
            input = torch.randn(T, B, width)
            with torch.set_grad_enabled(index % 4 == 0):
                output = layer(input)[0]
            if output.requires_grad:
                output.sum().backward()

    calls(300)
    gc.collect()
    before = resident_bytes()
    calls(2000)
    gc.collect()
    assert resident_bytes() - before < 10e6
