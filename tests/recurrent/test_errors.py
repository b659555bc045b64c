"""What the layers refuse: the type, the whole text, and what torch.nn makes of the same call."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastcells
from pairs import LAYERS, B, H, I, T, each_layer
from refusals import (
    OTHER,
    SAME,
    TAKES,
    TYPE,
    UNKNOWN,
    Refusal,
    assert_refused,
    assert_refused_by_both,
    no_kernel,  # noqa: F401 (a fixture)
    parametrize,
    two_for_lstm,
)

pytestmark = [
    pytest.mark.usefixtures("no_kernel"),
    # torch says so once of each kind of tensor that is not dense.
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
]
DENSE = (
    "{{name}}: {what} must be a dense tensor (layout torch.strided), got layout {layout}. Convert "
    "it with .to_dense() or to a padded tensor"
)
DTYPE = (
    "RNN input dtype ({given}) does not match weight dtype ({weight}). Convert input: "
    "input.to({weight}), or convert model: model.to({given})"
)
STATE_DTYPE = (
    "Input and hidden tensors are not the same dtype, found input tensor with torch.float32 and "
    "hidden tensor with {}"
)
PAIR = "LSTM: hx must be a tuple (h_0, c_0) of two tensors, got {}"
EMPTY = "Expected sequence length to be larger than 0 in RNN"
LSTM, GRU, NOT_LSTM = ("LSTM",), ("GRU",), ("RNN", "GRU")


def zeros(*shape, dtype=torch.float32, device=None):
    return torch.zeros(shape, dtype=dtype, device=device)


def given(make_input, *rest):
    """A call with this input."""
    return lambda layer: layer(make_input(), *rest)


def state(make_state, input_shape=(T, B, I)):
    """A call with this state, both of them for an LSTM."""
    return lambda layer: layer(zeros(*input_shape), two_for_lstm(layer, make_state()))


def of_dtype(dtype):
    text = DTYPE.format(given=dtype, weight=torch.float32)
    return Refusal(given(lambda: zeros(T, B, I, dtype=dtype)), ValueError, text)


def of_rank(rank):
    text = f"{{name}}: Expected input to be 2D or 3D, got {rank}D{{tensor}} instead"
    return Refusal(given(lambda: zeros(*[I] * rank)), ValueError, text)


def of_kind(value):
    text = f"{{name}}: input must be a Tensor, got {type(value).__name__}"
    return Refusal(given(lambda: value), TypeError, text, OTHER)


WIDTH = "input.size(-1) must be equal to input_size. Expected 3, got {}"
INPUTS = {
    **{f"rank {rank}": of_rank(rank) for rank in (0, 1, 4)},
    "width": Refusal(given(lambda: zeros(T, B, I + 1)), RuntimeError, WIDTH.format(4)),
    "width of one sequence": Refusal(given(lambda: zeros(T, 1)), RuntimeError, WIDTH.format(1)),
    "no width": Refusal(given(lambda: zeros(T, B, 0)), RuntimeError, WIDTH.format(0)),
    **{
        str(dtype): of_dtype(dtype)
        for dtype in (
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.uint8,
            torch.bool,
            torch.complex64,
            torch.float8_e4m3fn,
        )
    },
    "float32 for float64": Refusal(
        given(lambda: zeros(T, B, I)),
        ValueError,
        DTYPE.format(given=torch.float32, weight=torch.float64),
        options={"dtype": torch.float64},
    ),
    **{
        type(value).__name__: of_kind(value)
        for value in (None, "speech", 1, [[1.0]], np.zeros((T, B, I), dtype="float32"))
    },
    "sparse": Refusal(
        given(lambda: zeros(T, B, I).to_sparse()),
        TypeError,
        DENSE.format(what="input", layout="torch.sparse_coo"),
        OTHER,
    ),
    "sparse rows": Refusal(
        given(lambda: torch.eye(T, I).to_sparse_csr()),
        TypeError,
        DENSE.format(what="input", layout="torch.sparse_csr"),
        OTHER,
    ),
    "jagged": Refusal(
        given(lambda: torch.nested.nested_tensor([zeros(2, I), zeros(1, I)], layout=torch.jagged)),
        TypeError,
        DENSE.format(what="input", layout="torch.jagged"),
        OTHER,
    ),
    "nested": Refusal(
        given(lambda: torch.nested.nested_tensor([zeros(2, I), zeros(1, I)])),
        TypeError,
        "{name}: input must be a dense tensor (layout torch.strided), got a nested tensor. Convert "
        "it with .to_dense() or to a padded tensor",
        OTHER,
    ),
    "on meta": Refusal(
        given(lambda: zeros(T, B, I, device="meta")),
        RuntimeError,
        "Input and parameter tensors are not at the same device, found input tensor at meta and "
        "parameter tensor at cpu",
    ),
    "layer on meta": Refusal(
        given(lambda: zeros(T, B, I)),
        RuntimeError,
        "Input and parameter tensors are not at the same device, found input tensor at cpu and "
        "parameter tensor at meta",
        options={"device": "meta"},
    ),
    "no step": Refusal(given(lambda: zeros(0, B, I)), RuntimeError, EMPTY),
    "no step of one sequence": Refusal(given(lambda: zeros(0, I)), RuntimeError, EMPTY),
    "no step with batch_first": Refusal(
        given(lambda: zeros(B, 0, I)), RuntimeError, EMPTY, options={"batch_first": True}
    ),
    "no step and no row": Refusal(given(lambda: zeros(0, 0, I)), RuntimeError, EMPTY),
    "complex layer": Refusal(
        given(lambda: zeros(T, B, I, dtype=torch.complex64)),
        TypeError,
        "{name}: weights must be float32, float64, float16 or bfloat16, got torch.complex64",
        TAKES,
        {"dtype": torch.complex64},
    ),
}


@parametrize(INPUTS)
def test_a_wrong_input_is_refused(kind, refusal):
    assert_refused_by_both(kind, refusal)


def of_state_dtype(dtype):
    text = STATE_DTYPE.format(dtype)
    return Refusal(state(lambda: zeros(1, B, H, dtype=dtype)), RuntimeError, text, TYPE)


def shape_of(expected, got, make_state, options=None):
    text = f"Expected hidden{{first}} size {expected}, got {got}"
    return Refusal(state(make_state), RuntimeError, text, SAME, options or {})


def hx(value, kinds, text, torch_does=OTHER):
    """A call with this hx, as it is."""
    return Refusal(
        lambda layer: layer(zeros(T, B, I), value), TypeError, text, torch_does, {}, kinds
    )


ONE = zeros(1, B, H)
RANK = "For {} input, {} should also be {}-D but got {}"
STATES = {
    "rank beside a batch": Refusal(
        state(lambda: zeros(B, H)),
        RuntimeError,
        RANK.format("batched 3-D", "hx", 3, "2-D tensor"),
        kinds=NOT_LSTM,
    ),
    "ranks beside a batch": Refusal(
        state(lambda: zeros(B, H)),
        RuntimeError,
        RANK.format("batched 3-D", "hx and cx", 3, "(2-D, 2-D) tensors"),
        kinds=LSTM,
    ),
    "rank beside one sequence": Refusal(
        state(lambda: ONE, (T, I)),
        RuntimeError,
        RANK.format("unbatched 2-D", "hx", 2, "3-D tensor"),
        kinds=NOT_LSTM,
    ),
    "ranks beside one sequence": Refusal(
        lambda layer: layer(zeros(T, I), (zeros(1, H), ONE)),
        RuntimeError,
        RANK.format("unbatched 2-D", "hx and cx", 2, "(2-D, 3-D) tensors"),
        kinds=LSTM,
    ),
    "batch": shape_of((1, B, H), [1, 3, H], lambda: zeros(1, 3, H)),
    "width": shape_of((1, B, H), [1, B, 5], lambda: zeros(1, B, 5)),
    "layers": shape_of((1, B, H), [2, B, H], lambda: zeros(2, B, H)),
    "directions": shape_of((4, B, H), [2, B, H], lambda: zeros(2, B, H),
                           {"num_layers": 2, "bidirectional": True}),
    "batch with batch_first": shape_of((1, T, H), [1, B, H], lambda: ONE, {"batch_first": True}),
    "layers of one sequence": Refusal(
        state(lambda: zeros(2, H), (T, I)),
        RuntimeError,
        f"Expected hidden{{first}} size (1, 1, {H}), got [2, 1, {H}]",
    ),
    "width of c": Refusal(
        lambda layer: layer(zeros(T, B, I), (ONE, zeros(1, B, 5))),
        RuntimeError,
        f"Expected hidden[1] size (1, {B}, {H}), got [1, {B}, 5]",
        kinds=LSTM,
    ),
    "h not projected": Refusal(
        state(lambda: ONE),
        RuntimeError,
        f"Expected hidden[0] size (1, {B}, 2), got [1, {B}, {H}]",
        options={"proj_size": 2},
        kinds=LSTM,
    ),
    "c projected": Refusal(
        state(lambda: zeros(1, B, 2)),
        RuntimeError,
        f"Expected hidden[1] size (1, {B}, {H}), got [1, {B}, 2]",
        options={"proj_size": 2},
        kinds=LSTM,
    ),
    **{
        str(dtype): of_state_dtype(dtype)
        for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.complex64)
    },
    "c of another dtype": hx((ONE, ONE.double()), LSTM, STATE_DTYPE.format(torch.float64), TYPE)
    ._replace(error=RuntimeError),
    "on meta": Refusal(
        state(lambda: zeros(1, B, H, device="meta")),
        RuntimeError,
        "Input and hidden tensors are not at the same device, found input tensor at cpu and hidden "
        "tensor at meta",
    ),
    "sparse": Refusal(
        state(lambda: ONE.to_sparse()),
        TypeError,
        DENSE.format(what="{hx}", layout="torch.sparse_coo"),
        UNKNOWN,  # RNN and GRU compute something, LSTM does not
    ),
    "an array": hx(ONE.numpy(), NOT_LSTM, "{name}: hx must be a Tensor, got ndarray"),
    "arrays": hx((ONE.numpy(),) * 2, LSTM, "LSTM: h_0 must be a Tensor, got ndarray"),
    "a pair": hx((ONE, ONE), NOT_LSTM, "{name}: hx must be a Tensor, got tuple"),
    "a list": hx([ONE], NOT_LSTM, "{name}: hx must be a Tensor, got list"),
    "a number": hx(0, NOT_LSTM, "{name}: hx must be a Tensor, got int"),
    "one tensor": hx(ONE, LSTM, PAIR.format("Tensor")),
    "one tensor of two rows": hx(zeros(2, B, H), LSTM, PAIR.format("Tensor")),
    "a tuple of one": hx((ONE,), LSTM, PAIR.format("tuple of 1")),
    "a tuple of three": hx((ONE, ONE, ONE), LSTM, PAIR.format("tuple of 3")),
    "an empty tuple": hx((), LSTM, PAIR.format("tuple of 0")),
    "names": hx({"h": ONE, "c": ONE}, LSTM, PAIR.format("dict")),
    "the number 0": hx(0, LSTM, PAIR.format("int"), TYPE),
    "no c": hx((ONE, None), LSTM, "LSTM: c_0 must be a Tensor, got NoneType"),
    "no h": hx((None, ONE), LSTM, "LSTM: h_0 must be a Tensor, got NoneType"),
    "neither": hx((None, None), LSTM, "LSTM: h_0 must be a Tensor, got NoneType"),
}  # fmt: skip


@parametrize(STATES)
def test_a_wrong_state_is_refused(kind, refusal):
    assert_refused_by_both(kind, refusal)


def packed(*shape, dtype=torch.float32, lengths=(2, 5, 1, 5)):
    data = zeros(*shape, dtype=dtype)
    return pack_padded_sequence(data, torch.tensor(lengths), enforce_sorted=False)


def packed_state(make_state):
    return lambda layer: layer(packed(T, B, I), two_for_lstm(layer, make_state()))


def packed_data(*shape):
    """Which pack_padded_sequence() would not make."""
    return PackedSequence(zeros(*shape), torch.tensor([3, 2]))


# torch checks a PackedSequence for RNN and GRU, and leaves an LSTM's to its products.
PACKED = {
    f"{name} of {'an LSTM' if kinds is LSTM else 'others'}": refusal._replace(
        kinds=kinds, torch=of_lstm if kinds is LSTM else SAME
    )
    for name, refusal, of_lstm in (
        ("width", Refusal(given(lambda: packed(T, B, 4)), RuntimeError, WIDTH.format(4)), TYPE),
        ("rank 1", Refusal(given(lambda: packed_data(5)), RuntimeError,
                           "input must have 2 dimensions, got 1"), TYPE),
        ("rank 3", Refusal(given(lambda: packed_data(5, 2, I)), RuntimeError,
                           "input must have 2 dimensions, got 3"), TYPE),
        ("float64", Refusal(given(lambda: packed(T, B, I, dtype=torch.float64)), ValueError,
                            DTYPE.format(given=torch.float64, weight=torch.float32)), OTHER),
        ("int64", Refusal(given(lambda: packed(T, B, I, dtype=torch.int64)), ValueError,
                          DTYPE.format(given=torch.int64, weight=torch.float32)), OTHER),
    )
    for kinds in (NOT_LSTM, LSTM)
} | {
    "state of too few rows": Refusal(
        packed_state(lambda: zeros(1, 3, H)),
        RuntimeError,
        f"Expected hidden{{first}} size (1, {B}, {H}), got [1, 3, {H}]",
        TYPE,  # torch reads past its end
    ),
    "state of too many rows": Refusal(
        packed_state(lambda: zeros(1, 8, H)),
        RuntimeError,
        f"Expected hidden{{first}} size (1, {B}, {H}), got [1, 8, {H}]",
        TAKES,
    ),
    "state of one row": Refusal(
        packed_state(lambda: zeros(1, H)),
        RuntimeError,
        RANK.format("batched 3-D", "hx", 3, "2-D tensor"),
        TYPE,
        kinds=NOT_LSTM,
    ),
    "state of another dtype": Refusal(
        packed_state(lambda: ONE.double()), RuntimeError, STATE_DTYPE.format(torch.float64), TYPE
    ),
    "three states": Refusal(
        lambda layer: layer(packed(T, B, I), (ONE, ONE, ONE)),
        TypeError,
        PAIR.format("tuple of 3"),
        TAKES,
        kinds=LSTM,
    ),
}  # fmt: skip


@parametrize(PACKED)
def test_a_wrong_call_with_a_packed_sequence_is_refused(kind, refusal):
    assert_refused_by_both(kind, refusal)


@pytest.mark.parametrize("what", ["lengths", "resets"])
@each_layer
def test_a_packed_sequence_brings_its_own_lengths(kind, what):
    layer = getattr(fastcells, kind)(I, H)
    assert_refused(
        lambda: layer(packed(T, B, I), **{what: torch.ones(B, dtype=torch.int64)}),
        ValueError,
        f"{kind}: {what} cannot be combined with a PackedSequence, which brings its own lengths. "
        "Pass a padded tensor instead",
    )


@each_layer
def test_what_torch_takes_is_not_refused(kind, monkeypatch):
    """Lists for pairs, expanded states, gradients that are not asked for."""
    monkeypatch.undo()  # here the kernels run
    layer, theirs = getattr(fastcells, kind)(I, H), getattr(nn, kind)(I, H)
    pair = [ONE, ONE] if kind == "LSTM" else ONE
    spread = two_for_lstm(layer, zeros(1, 1, H).expand(1, B, H))
    assert kind in LAYERS
    for module in (layer, theirs):
        for value in (None, pair, spread):
            assert module(zeros(T, B, I), value)[0].shape == (T, B, H)
