"""to_torch: the way back, and what torch.nn cannot express."""

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils import parametrize

import fastcells
from conversion_models import KINDS, Model, make_layer
from pairs import (
    B,
    H,
    I,
    T,
    assert_near,
    one_thread,  # noqa: F401
)


@pytest.mark.parametrize("as_subclass", [False, True], ids=["plain", "as_subclass"])
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_where_it_began(kind, as_subclass):
    layer, arguments = make_layer(kind)
    before, expected = dict(vars(layer)), layer(*arguments)[0]
    fastcells.convert(layer, inplace=True, as_subclass=as_subclass)
    assert type(layer) is not getattr(nn, kind)
    assert fastcells.to_torch(layer, inplace=True) is layer
    assert type(layer) is getattr(nn, kind)
    assert vars(layer).keys() == before.keys()
    assert all(vars(layer)[name] is value for name, value in before.items())
    assert torch.equal(layer(*arguments)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_fastcells_built_becomes_torchs(kind):
    sizes = (H, 2) if kind == "MultiheadAttention" else (I, H)
    layer = getattr(fastcells, kind)(*sizes, dtype=torch.float64)
    theirs = fastcells.to_torch(layer)
    assert type(layer) is getattr(fastcells, kind) and type(theirs) is getattr(nn, kind)
    assert vars(theirs).keys() == vars(getattr(nn, kind)(*sizes)).keys()
    _, arguments = make_layer(kind)
    assert_near({"result": theirs(*arguments)[0]}, {"result": layer(*arguments)[0]})


def test_options_that_change_no_result_are_dropped():
    layer = fastcells.LSTM(I, H, unit_forget_bias=True, recompute=True)
    forget = layer.bias_ih_l0[H : 2 * H].clone()
    theirs = fastcells.to_torch(layer)
    assert repr(theirs) == repr(nn.LSTM(I, H))
    assert torch.equal(theirs.bias_ih_l0[H : 2 * H], forget)


def test_a_parametrized_layer_goes_back():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    layer, arguments = make_layer("GRU")
    parametrize.register_parametrization(layer, "weight_hh_l0", Doubled())
    expected = layer(*arguments)[0]
    fastcells.to_torch(fastcells.convert(layer, inplace=True), inplace=True)
    assert type(layer).__mro__[1] is nn.GRU and torch.equal(layer(*arguments)[0], expected)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_tools_that_go_by_torchs_classes_take_a_model_that_went_back():
    model = fastcells.convert(Model())
    assert fastcells.to_torch(model) is not model
    back = fastcells.to_torch(model, inplace=True)
    assert back is model and type(model.lstm) is nn.LSTM
    narrow = quantize_dynamic(nn.Sequential(fastcells.to_torch(fastcells.GRU(I, H))), {nn.GRU})
    assert type(narrow[0]).__module__.startswith("torch.ao.nn.quantized")
    scripted = torch.jit.script(nn.Sequential(fastcells.to_torch(fastcells.LSTM(I, H))))
    assert scripted(torch.randn(T, B, I))[0].shape == (T, B, H)


def test_what_torch_cannot_express_is_refused_with_nothing_changed():
    class Own(fastcells.LSTM):
        pass

    replaced = fastcells.RNN(I, H)
    replaced.forward = lambda input: input
    model = nn.ModuleDict({
        "fine": fastcells.LSTM(I, H),
        "theirs": nn.GRU(I, H),
        "sru": fastcells.SRU(I, H),
        "gru": fastcells.GRU(I, H, variant="reset_before"),
        "zoned": fastcells.LSTM(I, H, zoneout=0.1),
        "cell": fastcells.GRUCell(I, H, variant="article"),
        "narrow": fastcells.quantize(fastcells.GRU(I, H)),
        "additive": fastcells.AdditiveAttention(2, 3, 4),
        "own": Own(I, H),
        "replaced": replaced,
    })  # fmt: skip
    with pytest.raises(ValueError) as error:
        fastcells.to_torch(model, inplace=True)
    assert str(error.value) == (
        "to_torch: ModuleDict holds layers that torch.nn cannot express:\n"
        "  sru: fastcells.SRU is a layer that torch.nn has not\n"
        "  gru: fastcells.GRU has variant='reset_before', which torch.nn has not\n"
        "  zoned: fastcells.LSTM has zoneout=0.1, which torch.nn has not\n"
        "  cell: fastcells.GRUCell has variant='article', which torch.nn has not\n"
        "  narrow: fastcells.QuantizedGRU is a layer that torch.nn has not\n"
        "  additive: fastcells.AdditiveAttention is a layer that torch.nn has not\n"
        f"  own: {__name__}.{Own.__qualname__} is a subclass of fastcells.LSTM, whose own ways "
        "would be lost. Convert the layer before it is wrapped, or derive its class from the other "
        "one\n"
        "  replaced: fastcells.RNN has a forward of its own on the instance. Convert it before "
        "that is set"
    )
    assert type(model["fine"]) is fastcells.LSTM
