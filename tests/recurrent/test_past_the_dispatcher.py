"""Layers and cells go past torch's dispatcher, and nothing but the time shows it: same bits, same
errors, and whoever could watch sees the op. With gradients: test_both_ways.py."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

import fastcells
from fastcells.functional import recurrent_calls as recurrent
from pairs import B, H, I, T, assert_same_bits, make_hx, make_input, tensors_of

FORMS = {
    "plain": {},
    "stack": {"num_layers": 3, "bidirectional": True},
    "batch_first": {"batch_first": True},
    "no_bias": {"bias": False},
    "dropout": {"num_layers": 2, "dropout": 0.5},
}


class Watch(TorchFunctionMode):
    """Sees every call and changes nothing."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.fixture
def ops_called(monkeypatch):
    """Names of the ops called from Python."""
    called = []
    for name in ("recurrent_forward", "recurrent_step"):
        original = getattr(recurrent.ops, name)

        def watching(*args, name=name, original=original, **kwargs):
            called.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(recurrent.ops, name, watching)
    return called


def make_layer(kind, form="plain", dtype=torch.float32):
    return getattr(fastcells, kind)(I, H, dtype=dtype, **FORMS[form]).eval()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("has_state", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_layers_give_the_ops_bits(kind, form, has_state, context, ops_called):
    layer = make_layer(kind, form)
    input = make_input(kind, torch.float32)
    rows = input.shape[0 if layer.batch_first else 1]
    hx = make_hx(layer, rows, torch.float32) if has_state else None
    with context():
        direct = layer(input, hx)
        assert ops_called == []
        with Watch():
            watched = layer(input, hx)
    assert ops_called == ["recurrent_forward"] * layer.num_layers
    for ours, theirs in zip(tensors_of(direct), tensors_of(watched), strict=True):
        assert_same_bits(ours, theirs)
        assert ours.stride() == theirs.stride()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"proj_size": 3}], ids=["plain", "projected"])
def test_every_dtype_and_projections(dtype, options, ops_called):
    layer = fastcells.LSTM(I, H, dtype=dtype, **options)
    input = make_input("LSTM", dtype)
    with torch.no_grad():
        direct = layer(input)
        assert ops_called == []
        with Watch():
            watched = layer(input)
    for ours, theirs in zip(tensors_of(direct), tensors_of(watched), strict=True):
        assert_same_bits(ours, theirs)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_lengths_and_resets(kind, batch_first, ops_called):
    layer = getattr(fastcells, kind)(I, H, num_layers=2, batch_first=batch_first)
    input, resets = make_input(kind, torch.float32), torch.rand(T, B) < 0.3
    if batch_first:
        input, resets = input.transpose(0, 1), resets.t()
    masks = {"lengths": torch.tensor([T, 0, 2, 3]), "resets": resets}
    with torch.no_grad():
        direct = layer(input, **masks)
        assert ops_called == []
        with Watch():
            watched = layer(input, **masks)
    for ours, theirs in zip(tensors_of(direct), tensors_of(watched), strict=True):
        assert_same_bits(ours, theirs)


def calls_that_need_the_op():
    layer, input = make_layer("LSTM"), make_input("LSTM", torch.float32)
    negated = torch._neg_view(input)
    return {
        "cell states": lambda: torch.no_grad()(layer)(input, return_cell_states=True),
        "a lazy negation": lambda: torch.no_grad()(layer)(negated),
    }


@pytest.mark.parametrize("name", calls_that_need_the_op())
def test_the_op_is_called(name, ops_called):
    calls_that_need_the_op()[name]()
    assert set(ops_called) == {"recurrent_forward"}


def test_no_gradient_is_lost_where_only_a_state_has_one(ops_called):
    layer = make_layer("GRU").requires_grad_(False)
    h_0 = make_hx(layer, B, torch.float32).requires_grad_()
    layer(make_input("GRU", torch.float32), h_0)[0].sum().backward()
    assert not ops_called and h_0.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "make_arguments",
    [
        lambda: (torch.randn(3, B, I + 1),),
        lambda: (torch.randn(0, B, I),),
        lambda: (torch.randn(3, B, I, dtype=torch.float64),),
        lambda: (torch.randn(3, B, I), (torch.zeros(1, B, H), torch.zeros(1, B + 1, H))),
        lambda: (torch.randn(3, B, I), (torch.zeros(2, B, H), torch.zeros(2, B, H))),
        lambda: (torch.randn(3, B, I), (torch.zeros(1, B, H),)),
        lambda: (torch.randn(3, B, I), torch.zeros(1, B, H)),
    ],
    ids=["width", "no steps", "dtype", "state", "layers", "half a pair", "no pair"],
)
def test_errors_are_the_same(make_arguments):
    layer, arguments = make_layer("LSTM"), make_arguments()
    with torch.no_grad():
        with pytest.raises(Exception) as direct:
            layer(*arguments)
        with Watch(), pytest.raises(Exception) as watched:
            layer(*arguments)
    assert type(direct.value) is type(watched.value)
    assert str(direct.value) == str(watched.value)


@pytest.mark.parametrize(
    "masks",
    [
        {"lengths": torch.tensor([1, 2, 3])},
        {"lengths": torch.tensor([1, 2, 3, T + 1])},
        {"lengths": torch.tensor([1.0, 2, 3, 4])},
        {"lengths": [1, 2, 3, 4]},
        {"resets": torch.zeros(T, B + 1, dtype=torch.bool)},
        {"resets": torch.zeros(T, B)},
    ],
    ids=["rows", "range", "dtype", "list", "shape", "dtype of resets"],
)
def test_errors_of_masks_are_the_same(masks):
    layer, input = make_layer("GRU"), make_input("GRU", torch.float32)
    with torch.no_grad():
        with pytest.raises(Exception) as direct:
            layer(input, **masks)
        with Watch(), pytest.raises(Exception) as watched:
            layer(input, **masks)
    assert type(direct.value) is type(watched.value)
    assert str(direct.value) == str(watched.value)
