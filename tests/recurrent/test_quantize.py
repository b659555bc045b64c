"""fastcells.quantize: the layer's call with weights in int8 or bfloat16."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastcells
from fastcells import _extension
from fastcells.layers import quantized
from pairs import one_thread  # noqa: F401 (an autouse fixture)

T, B, I, H = 7, 5, 11, 37
LAYERS = ("RNN", "LSTM", "GRU")
CELLS = ("RNNCell", "LSTMCell", "GRUCell")
each_layer = pytest.mark.parametrize("kind", LAYERS)
each_kind = pytest.mark.parametrize("kind", LAYERS + CELLS)
each_dtype = pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])

pytestmark = pytest.mark.skipif(not fastcells.is_compiled(), reason="kernels of narrow weights")


def flat(results):
    if isinstance(results, torch.Tensor):
        return [results]
    return [tensor for result in results for tensor in flat(result)]


def input_of(kind, **options):
    return torch.randn(B, I, **options) if kind in CELLS else torch.randn(T, B, I, **options)


def make(kind, peer=fastcells, **options):
    return getattr(peer, kind)(I, H, **options).eval()


def error(results, wanted):
    """Relative, of all outputs together."""
    got, want = (torch.cat([t.double().flatten() for t in flat(r)]) for r in (results, wanted))
    return ((got - want).norm() / want.norm()).item()


def exactly(module, input, *rest):
    return copy.deepcopy(module).double()(input.double(), *rest)


# ---- results ----


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"num_layers": 2, "bidirectional": True, "batch_first": True}],
    ids=["one", "no bias", "all"],
)
@each_layer
@torch.no_grad()
def test_int8_is_no_worse_than_torchs(kind, options):
    torch.manual_seed(1)
    layer = make(kind, nn, **options)
    ours, input = fastcells.quantize(layer), torch.randn(T, B, I)
    wanted = exactly(layer, input)
    assert error(ours(input), wanted) < 0.02
    if kind != "RNN" and options.get("bias", True):
        with warnings.catch_warnings(action="ignore"):  # it is deprecated
            theirs = torch.ao.quantization.quantize_dynamic(
                nn.Sequential(layer), {type(layer)}, dtype=torch.qint8
            )
        assert error(ours(input), wanted) <= error(theirs(input), wanted)


@each_dtype
@pytest.mark.parametrize("source", [fastcells, nn], ids=["fastcells", "torch"])
@each_kind
@torch.no_grad()
def test_a_copy_is_near_the_original(kind, source, dtype):
    layer, input = make(kind, source), input_of(kind)
    small = fastcells.quantize(layer, dtype=dtype)
    assert isinstance(small, getattr(fastcells, kind)) and not list(small.parameters())
    assert error(small(input), exactly(layer, input)) < (0.02 if dtype == torch.int8 else 0.006)
    assert all(
        a.dtype == b.dtype for a, b in zip(flat(small(input)), flat(layer(input)), strict=True)
    )


@each_dtype
@each_layer
@torch.no_grad()
def test_states_lengths_resets_and_packed_sequences(kind, dtype):
    layer, input = make(kind), torch.randn(T, B, I)
    small = fastcells.quantize(layer, dtype=dtype)
    h_0 = torch.randn(1, B, H).tanh()
    hx = (h_0, torch.randn(1, B, H)) if kind == "LSTM" else h_0
    lengths, resets = torch.tensor([7, 0, 3, 5, 1]), torch.rand(T, B) < 0.2
    input[3, 2:3], input[0:, 1] = float("nan"), float("nan")  # past the ends
    wanted = layer(input, hx, lengths, resets)
    bound = 0.02 if dtype == torch.int8 else 0.006
    assert error(small(input, hx, lengths, resets), wanted) < bound
    lengths = torch.tensor([7, 2, 3, 5, 1])
    packed = pack_padded_sequence(torch.randn(T, B, I), lengths, enforce_sorted=False)
    output, states = small(packed, hx)
    wanted_output, wanted_states = layer(packed, hx)
    assert error(pad_packed_sequence(output)[0], pad_packed_sequence(wanted_output)[0]) < bound
    assert error(states, wanted_states) < bound


@torch.no_grad()
def test_return_cell_states():
    layer, input = make("LSTM"), input_of("LSTM")
    small = fastcells.quantize(layer)
    results, wanted = (module(input, return_cell_states=True) for module in (small, layer))
    assert error(results, wanted) < 0.02


def test_rows_are_scaled_one_by_one():
    weight = torch.tensor([[1e-3, -2e-3, 0.5e-3], [100.0, -50.0, 1.0], [0.0, 0.0, 0.0]])
    narrow, scale = quantized.quantized_rows(weight)
    assert narrow.tolist() == [[64, -127, 32], [127, -64, 1], [0, 0, 0]]
    assert torch.allclose(scale, torch.tensor([2e-3 / 127, 100 / 127, 1.0]))


@torch.no_grad()
def test_rows_do_not_meet():
    """A row's own range: a large neighbour changes no bit, nor does NaN, which stays its own."""
    small, input = fastcells.quantize(make("GRU")), torch.randn(T, B, I)
    alone = small(input)[0]
    input[:, 1], input[:, 2], input[4, 3] = 1e6, float("nan"), float("inf")
    output = small(input)[0]
    assert torch.equal(output[:, [0, 4]], alone[:, [0, 4]])
    assert output[:, 2].isnan().all() and output[4:, 3].isnan().all()
    assert torch.equal(output[:4, 3], alone[:4, 3])


@each_dtype
@torch.no_grad()
def test_calls_give_the_same_bits(dtype):
    small, input = fastcells.quantize(fastcells.LSTM(64, 200), dtype), torch.randn(30, 4, 64)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)  # which `one_thread` undoes
        first, *others = (flat(small(input)) for _ in range(4))
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@each_kind
@torch.no_grad()
def test_a_16_bit_layer_keeps_its_dtype(kind):
    layer, input = make(kind, dtype=torch.bfloat16), input_of(kind, dtype=torch.bfloat16)
    small = fastcells.quantize(layer)
    assert {t.dtype for t in flat(small(input))} == {torch.bfloat16}
    assert error(small(input), exactly(layer, input)) < 0.03
    small.float()
    assert {t.dtype for t in flat(small(input.float()))} == {torch.float32}
    weight = small.weight_ih if kind in CELLS else small.weight_ih_l0
    assert weight.dtype == torch.int8


@torch.no_grad()
def test_an_empty_batch():
    small = fastcells.quantize(make("LSTM"))
    output, (h_n, c_n) = small(torch.randn(T, 0, I))
    assert output.shape == (T, 0, H) and h_n.shape == c_n.shape == (1, 0, H)


@pytest.mark.parametrize("kind", CELLS)
@torch.no_grad()
def test_an_input_without_elements(kind):
    cell = getattr(fastcells, kind)(0, H)
    assert error(fastcells.quantize(cell)(torch.randn(B, 0)), cell(torch.randn(B, 0))) < 0.02


@torch.no_grad()
def test_the_mode_of_a_call_is_copied():
    layer, input = make("RNN"), input_of("RNN")
    layer.mode = "RNN_RELU"
    assert error(fastcells.quantize(layer)(input), layer(input)) < 0.02


# ---- as a module ----


@each_dtype
@each_kind
@torch.no_grad()
def test_state_dict_pickle_and_copies(kind, dtype):
    small, input = fastcells.quantize(make(kind), dtype), input_of(kind)
    wanted = flat(small(input))
    other = fastcells.quantize(make(kind), dtype)
    other(input)  # packed, with other weights
    other.load_state_dict(small.state_dict())
    for copied in (other, pickle.loads(pickle.dumps(small)), copy.deepcopy(small)):
        assert all(torch.equal(a, b) for a, b in zip(wanted, flat(copied(input)), strict=True))
    assert sorted(small.state_dict()) == sorted(pickle.loads(pickle.dumps(small)).state_dict())


@each_kind
def test_a_checkpoint_of_the_original_is_refused(kind):
    layer = make(kind)
    with pytest.raises(RuntimeError, match=r"weight_ih\w* must be torch.int8, .*, got torch.float"):
        fastcells.quantize(layer).load_state_dict(layer.state_dict())


@each_kind
def test_training_is_refused(kind):
    small, input = fastcells.quantize(make(kind)), input_of(kind, requires_grad=True)
    with pytest.raises(RuntimeError, match=f"Quantized{kind} is for inference, .*no_grad"):
        small(input)
    with torch.inference_mode():
        small(input)
    small(input.detach())


@torch.no_grad()
def test_a_whole_model():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.encoder = nn.Embedding(9, I), fastcells.LSTM(I, H, batch_first=True)
            self.again = self.encoder
            self.cell, self.head = nn.GRUCell(H, H), nn.Linear(H, 3)

        def forward(self, tokens):
            output, _ = self.encoder(self.embed(tokens))
            return self.head(self.cell(output[:, -1]))

    model, tokens = Model().eval(), torch.randint(9, (4, 6))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = fastcells.quantize(model)
    assert isinstance(small.encoder, quantized.QuantizedLSTM) and small.again is small.encoder
    assert isinstance(small.cell, quantized.QuantizedGRUCell) and type(model.cell) is nn.GRUCell
    assert error(small(tokens), model(tokens)) < 0.03
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert small.head.weight is not model.head.weight
    assert fastcells.quantize(small).encoder.weight_ih_l0.dtype == torch.int8


def test_a_layer_without_a_recurrent_matrix_is_copied():
    model = nn.ModuleDict({"a": fastcells.LSTM(4, 4), "b": fastcells.SRU(4, 4)})
    small = fastcells.quantize(model)
    assert type(small["a"]).__name__ == "QuantizedLSTM" and type(small["b"]) is fastcells.SRU
    assert small["b"].weight_ih_l0 is not model["b"].weight_ih_l0
    with pytest.raises(TypeError, match="MinGRU holds no recurrent layer or cell with a recurrent"):
        fastcells.quantize(fastcells.MinGRU(4, 4))


@torch.no_grad()
def test_a_parametrized_layer_is_quantized_as_it_is():
    layer, input = make("LSTM"), input_of("LSTM")
    parametrizations.weight_norm(layer, "weight_hh_l0")
    layer.parametrizations.weight_hh_l0.original0.mul_(2)
    assert error(fastcells.quantize(layer)(input), layer(input)) < 0.03


@torch.no_grad()
def test_a_write_to_a_weight_is_seen():
    small, input = fastcells.quantize(make("RNN")), input_of("RNN")
    before = small(input)[0]
    small.scale_hh_l0.mul_(1.5)
    assert not torch.equal(before, small(input)[0])


@each_dtype
@torch.no_grad()
def test_compiled_whole(dtype):
    small, input = fastcells.quantize(make("GRU"), dtype), input_of("GRU")
    compiled = torch.compile(small, fullgraph=True)
    assert all(
        torch.equal(a, b) for a, b in zip(flat(small(input)), flat(compiled(input)), strict=True)
    )


@torch.no_grad()
def test_autocast_changes_nothing():
    small, input = fastcells.quantize(make("LSTM")), input_of("LSTM")
    wanted = flat(small(input))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(wanted, flat(small(input)), strict=True))


@torch.no_grad()
def test_it_is_explained():
    layer, input = make("LSTM"), input_of("LSTM")
    best = _extension._C.instruction_set()
    vnni = {"avx512_bf16": "avx512_vnni"}.get(best, best)
    told = fastcells.explain(fastcells.quantize(layer), input)
    assert told.kernel == "cpu sequence" and told.plan.startswith(f"{vnni}, ")
    assert "weights in torch.int8, packed once" in str(told)
    told = fastcells.explain(fastcells.quantize(layer, torch.bfloat16), input)
    assert told.plan.startswith(f"{best.replace('_vnni', '')}, ")
    assert "QuantizedLSTM(11, 37, dtype=torch.int8)" == repr(fastcells.quantize(layer))


# ---- refused ----


class Own(fastcells.LSTM):
    pass


@pytest.mark.parametrize(
    ("make_module", "dtype", "kind", "text"),
    [
        (lambda: 3, torch.int8, TypeError, "module must be a torch.nn.Module, got int"),
        (lambda: nn.Linear(2, 3), torch.int8, TypeError, "Linear holds no recurrent layer or cell"),
        (lambda: make("LSTM"), torch.float16, ValueError, "dtype must be torch.int8 or .*float16"),
        (lambda: Own(2, 3), torch.int8, TypeError, "Own is a Own, a subclass"),
        (lambda: make("LSTM", proj_size=3), torch.int8, ValueError, "with proj_size=3"),
        (lambda: make("GRU", variant="reset_before"), torch.int8, ValueError, "reset_before"),
        (lambda: make("RNN", device="meta"), torch.int8, ValueError, "is on meta, expected a CPU"),
        (lambda: nn.Sequential(Own(2, 3)), torch.int8, TypeError, "quantize: 0 is a Own"),
    ],
)
def test_what_cannot_be_quantized_is_refused(make_module, dtype, kind, text):
    with pytest.raises(kind, match=text):
        fastcells.quantize(make_module(), dtype=dtype)


def test_weights_that_are_not_finite_are_refused():
    layer = make("GRU")
    with torch.no_grad():
        layer.weight_hh_l0[3, 4] = float("nan")
    with pytest.raises(ValueError, match="weight_hh_l0 of GRU holds NaN or infinity"):
        fastcells.quantize(layer)


@each_kind
def test_inputs_of_another_dtype_are_refused(kind):
    small = fastcells.quantize(make(kind))
    with pytest.raises((ValueError, RuntimeError)):
        small(input_of(kind, dtype=torch.float64))
    states = torch.zeros(B, H, dtype=torch.float64)
    states = states if kind in CELLS else states[None]
    with pytest.raises(ValueError, match="hx must have the input's dtype"):
        small(input_of(kind), (states, states) if "LSTM" in kind else states)
