"""What the cells, the constructors and the functions refuse: the type and the whole text."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastcells
from fastcells import functional
from pairs import CELLS, LAYERS, B, H, I, each_layer
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

pytestmark = pytest.mark.usefixtures("no_kernel")
LSTM, NOT_LSTM = ("LSTMCell",), ("RNNCell", "GRUCell")
DENSE = (
    "{{name}}: {} must be a dense tensor (layout torch.strided), got layout torch.sparse_coo. "
    "Convert it with .to_dense() or to a padded tensor"
)
PAIR = "LSTMCell: hx must be a tuple (h_0, c_0) of two tensors, got {}"
STATE_DTYPE = (
    "Input and hidden tensors are not the same dtype, found input tensor with torch.float32 and "
    "hidden tensor with {}"
)


def cell_refusal(call, error, text, torch_does=SAME, kinds=CELLS, **options):
    return Refusal(call, error, text, torch_does, options, kinds)


def of_input(make_input, *rest, **more):
    return cell_refusal(lambda cell: cell(make_input()), *rest, **more)


def of_state(make_state, *rest, shape=(B, I), **more):
    return cell_refusal(
        lambda cell: cell(torch.zeros(shape), two_for_lstm(cell, make_state())), *rest, **more
    )


def of_hx(value, kinds, text, torch_does=OTHER):
    call = lambda cell: cell(torch.zeros(B, I), value)  # noqa: E731
    return cell_refusal(call, TypeError, text, torch_does, kinds)


def zeros(*shape):
    return torch.zeros(shape)


RANK = "{{name}}: Expected {} to be 1D or 2D, got {}D instead"
WIDTH = "input has inconsistent input_size: got {} expected 3"
ONE = zeros(B, H)
CELL_INPUTS = {
    "rank 0": of_input(lambda: zeros(), ValueError, RANK.format("input", 0)),
    "rank 3": of_input(lambda: zeros(1, B, I), ValueError, RANK.format("input", 3)),
    "width": of_input(lambda: zeros(B, 4), RuntimeError, WIDTH.format(4)),
    "width of one row": of_input(lambda: zeros(2), RuntimeError, WIDTH.format(2)),
    "on meta": of_input(
        lambda: zeros(B, I).to("meta"),
        RuntimeError,
        "Input and parameter tensors are not at the same device, found input tensor at meta and "
        "parameter tensor at cpu",
        TYPE,
    ),
    "cell on meta": of_input(
        lambda: zeros(B, I),
        RuntimeError,
        "Input and parameter tensors are not at the same device, found input tensor at cpu and "
        "parameter tensor at meta",
        TYPE,
        device="meta",
    ),
    "None": of_input(
        lambda: None, TypeError, "{name}: input must be a Tensor, got NoneType", OTHER
    ),
    "array": of_input(
        lambda: np.zeros((B, I)), TypeError, "{name}: input must be a Tensor, got ndarray", OTHER
    ),
    "packed": of_input(
        lambda: pack_padded_sequence(zeros(2, B, I), torch.tensor([2, 2, 1, 1])),
        TypeError,
        "{name}: input must be a Tensor, got PackedSequence",
        OTHER,
    ),
    "sparse": of_input(
        lambda: zeros(B, I).to_sparse(), TypeError, DENSE.format("input"), TAKES
    ),
    "complex cell": of_input(
        lambda: zeros(B, I).to(torch.complex64),
        TypeError,
        "{name}: weights must be float32, float64, float16 or bfloat16, got torch.complex64",
        TAKES,
        dtype=torch.complex64,
    ),
}  # fmt: skip


@parametrize(CELL_INPUTS)
def test_a_cell_refuses_a_wrong_input(kind, refusal):
    assert_refused_by_both(kind, refusal)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64]
)
@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_refuses_an_input_of_another_dtype(kind, dtype):
    """torch's cells say it with a RuntimeError from a product, its layers with this ValueError."""
    input = zeros(B, I).to(dtype)
    assert_refused(
        lambda: getattr(fastcells, kind)(I, H)(input),
        ValueError,
        f"RNN input dtype ({dtype}) does not match weight dtype (torch.float32). Convert input: "
        f"input.to(torch.float32), or convert model: model.to({dtype})",
    )
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        getattr(nn, kind)(I, H)(input)


CELL_STATES = {
    "rank 0": of_state(lambda: zeros(), ValueError, RANK.format("{hidden}", 0)),
    "rank 3": of_state(lambda: zeros(1, B, H), ValueError, RANK.format("{hidden}", 3)),
    "rank of c": cell_refusal(
        lambda cell: cell(zeros(B, I), (ONE, zeros(1, B, H))),
        ValueError,
        RANK.format("hx[1]", 3),
        kinds=LSTM,
    ),
    "one row beside a batch": of_state(
        lambda: zeros(H), RuntimeError, "{name}: {hidden} must be 2-D like the input, got 1-D", TYPE
    ),
    "a batch beside one row": of_state(
        lambda: zeros(1, H),
        RuntimeError,
        "{name}: {hidden} must be 1-D like the input, got 2-D",
        TYPE,
        shape=(I,),
    ),
    "batch": of_state(
        lambda: zeros(3, H), RuntimeError, "Input batch size 4 doesn't match hidden0 batch size 3"
    ),
    "batch of c": cell_refusal(
        lambda cell: cell(zeros(B, I), (ONE, zeros(3, H))),
        RuntimeError,
        "Input batch size 4 doesn't match hidden1 batch size 3",
        kinds=LSTM,
    ),
    "width": of_state(
        lambda: zeros(B, 5),
        RuntimeError,
        "hidden0 has inconsistent hidden_size: got 5, expected 6",
    ),
    "width of one row": of_state(
        lambda: zeros(5),
        RuntimeError,
        "hidden0 has inconsistent hidden_size: got 5, expected 6",
        shape=(I,),
    ),
    "width of c": cell_refusal(
        lambda cell: cell(zeros(B, I), (ONE, zeros(B, 5))),
        RuntimeError,
        "hidden1 has inconsistent hidden_size: got 5, expected 6",
        kinds=LSTM,
    ),
    **{
        str(dtype): of_state(
            lambda dtype=dtype: ONE.to(dtype), RuntimeError, STATE_DTYPE.format(dtype), TYPE
        )
        for dtype in (torch.float64, torch.float16, torch.int64, torch.complex64)
    },
    "on meta": of_state(
        lambda: ONE.to("meta"),
        RuntimeError,
        "Input and hidden tensors are not at the same device, found input tensor at cpu and hidden "
        "tensor at meta",
        TYPE,
    ),
    "sparse": of_state(
        lambda: ONE.to_sparse(), TypeError, DENSE.format("{cell_state}"), UNKNOWN
    ),
    "a pair": of_hx((ONE, ONE), NOT_LSTM, "{name}: hidden must be a Tensor, got tuple"),
    "a list": of_hx([ONE], NOT_LSTM, "{name}: hidden must be a Tensor, got list"),
    "an array": of_hx(ONE.numpy(), NOT_LSTM, "{name}: hidden must be a Tensor, got ndarray"),
    "one tensor": of_hx(ONE, LSTM, PAIR.format("Tensor"), TYPE),
    "a tuple of one": of_hx((ONE,), LSTM, PAIR.format("tuple of 1")),
    "a tuple of three": of_hx((ONE,) * 3, LSTM, PAIR.format("tuple of 3")),
    "no c": of_hx((ONE, None), LSTM, "LSTMCell: c_0 must be a Tensor, got NoneType"),
    "no h": of_hx((None, ONE), LSTM, "LSTMCell: h_0 must be a Tensor, got NoneType"),
}  # fmt: skip


@parametrize(CELL_STATES)
def test_a_cell_refuses_a_wrong_state(kind, refusal):
    assert_refused_by_both(kind, refusal)


def test_a_cell_refuses_an_unknown_nonlinearity_when_it_is_called():
    """As torch's, which takes it at construction."""
    for module in (nn, fastcells):
        cell = module.RNNCell(I, H, nonlinearity="sigmoid")
        assert_refused(
            lambda cell=cell: cell(zeros(B, I)), RuntimeError, "Unknown nonlinearity: sigmoid"
        )


# ---- constructors ----

ONLY_LSTM = "proj_size argument is only supported for LSTM, not RNN or GRU"
DROPOUT = (
    "dropout should be a number in range [0, 1] representing the probability of an element being "
    "zeroed"
)
# name: (arguments, options, error, text, kinds); torch.nn says the same of each.
CONSTRUCTORS = {
    "no hidden unit": ((I, 0), {}, ValueError, "hidden_size must be greater than zero", LAYERS),
    "negative hidden size": (
        (I, -1), {}, ValueError, "hidden_size must be greater than zero", LAYERS
    ),
    "no input": ((0, H), {}, ValueError, "input_size must be greater than zero", LAYERS),
    "no layer": ((I, H, 0), {}, ValueError, "num_layers must be greater than zero", LAYERS),
    "float size": (
        (I, 6.0), {}, TypeError, "hidden_size should be of type int, got: float", LAYERS
    ),
    "text size": (("3", H), {}, TypeError, "input_size should be of type int, got: str", LAYERS),
    "number for bias": (
        (I, H), {"bias": 1}, TypeError, "bias should be of type bool, got: int", LAYERS
    ),
    "number for batch_first": (
        (I, H), {"batch_first": 1}, TypeError, "batch_first should be of type bool, got: int",
        LAYERS,
    ),
    **{
        f"dropout {value}": ((I, H, 2), {"dropout": value}, ValueError, DROPOUT, LAYERS)
        for value in (-0.1, 1.1, True)
    },
    **{
        f"proj_size {value}": ((I, H), {"proj_size": value}, ValueError, ONLY_LSTM, ("RNN", "GRU"))
        for value in (0, 2)
    },
    "negative proj_size": (
        (I, H), {"proj_size": -1}, ValueError,
        "proj_size should be a positive integer or zero to disable projections", ("LSTM",),
    ),
    "large proj_size": (
        (I, H), {"proj_size": H}, ValueError, "proj_size has to be smaller than hidden_size",
        ("LSTM",),
    ),
    "unknown nonlinearity": (
        (I, H), {"nonlinearity": "sigmoid"}, ValueError,
        "Unknown nonlinearity 'sigmoid'. Select from 'tanh' or 'relu'.", ("RNN",),
    ),
    "integer parameters": (
        (I, H), {"dtype": torch.int64}, RuntimeError,
        "Only Tensors of floating point and complex dtype can require gradients", LAYERS + CELLS,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "arguments", "options", "error", "text"),
    [
        pytest.param(kind, *case, id=f"{kind}-{name}".replace(" ", "_"))
        for name, (*case, kinds) in CONSTRUCTORS.items()
        for kind in kinds
    ],
)
def test_a_constructor_refuses_what_torch_s_refuses(kind, arguments, options, error, text):
    for module in (nn, fastcells):
        assert_refused(lambda m=module: getattr(m, kind)(*arguments, **options), error, text)


@pytest.mark.parametrize("variant", ["reset_around", "", None, 3])
@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_an_unknown_variant_is_refused(kind, variant):
    assert_refused(
        lambda: getattr(fastcells, kind)(I, H, variant=variant),
        ValueError,
        f"gru: variant must be one of 'reset_after', 'reset_before', 'article', got {variant!r}",
    )


def test_a_forget_bias_without_biases_is_refused():
    assert_refused(
        lambda: fastcells.LSTM(I, H, bias=False, unit_forget_bias=True),
        ValueError,
        "LSTM: unit_forget_bias=True needs bias=True, got bias=False",
    )


@each_layer
def test_arguments_of_other_layers_are_refused(kind):
    foreign = {"RNN": "variant", "LSTM": "nonlinearity", "GRU": "unit_forget_bias"}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_refused(
            lambda: getattr(fastcells, kind)(I, H, **{foreign: "x"}),
            TypeError,
            f"{kind}.__init__() got an unexpected keyword argument '{foreign}'",
        )


# ---- functions ----


def test_functions_refuse_names_they_do_not_know():
    weights = list(fastcells.RNN(I, H).parameters())
    assert_refused(
        lambda: functional.rnn(zeros(2, B, I), None, weights, nonlinearity="sigmoid"),
        ValueError,
        "rnn: nonlinearity must be 'tanh' or 'relu', got 'sigmoid'",
    )
    for function, state in ((functional.gru, None), (functional.gru_cell, ONE)):
        assert_refused(
            lambda f=function, s=state: f(zeros(2, B, I), s, weights, variant="x"),
            ValueError,
            "gru: variant must be one of 'reset_after', 'reset_before', 'article', got 'x'",
        )


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_a_function_refuses_weights_that_layers_cannot_share(name):
    weights = list(getattr(fastcells, name.upper())(I, H, num_layers=2).parameters())[:7]
    assert_refused(
        lambda: getattr(functional, name)(zeros(2, B, I), None, weights, num_layers=2),
        ValueError,
        f"{name}: weights must hold the same number of tensors for each of num_layers = 2 layers, "
        "got 7 tensors",
    )


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "SRU", "MinGRU"])
def test_a_weight_that_is_gone_is_named(kind):
    layer = getattr(fastcells, kind)(4, 4)
    layer.bias_ih_l0 = None
    with pytest.raises(TypeError, match=f"{kind}: bias_ih_l0 must be a Tensor, got NoneType"):
        layer(torch.randn(2, 2, 4))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "SRU", "MinGRU"])
def test_a_layer_alone_is_not_traced_by_fx(kind):
    layer = getattr(fastcells, kind)(4, 4)
    with pytest.raises(torch.fx.proxy.TraceError):
        torch.fx.symbolic_trace(layer)
    graph = torch.fx.symbolic_trace(torch.nn.Sequential(layer)).graph
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "output"]


def test_multihead_names_what_is_no_tensor():
    layer, x = fastcells.MultiheadAttention(8, 2), torch.randn(5, 2, 8)
    with pytest.raises(TypeError, match="MultiheadAttention: query must be a Tensor, got NoneType"):
        layer(None, x, x)
    with pytest.raises(TypeError, match="MultiheadAttention: attn_mask must be a Tensor, got list"):
        layer(x, x, x, attn_mask=[1])
