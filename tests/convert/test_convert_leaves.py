"""What convert leaves alone, says and refuses; and code that asks which class a layer is of."""

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic

import fastcells
from conversion_models import KINDS, Model, make_layer
from pairs import (
    LAYERS,
    B,
    H,
    I,
    T,
    assert_near,
    one_thread,  # noqa: F401
)

#: torch's own layers and functions, which give notice of their end.
quiet_quantization = pytest.mark.filterwarnings("ignore:.*deprecated")


class Widened(nn.LSTM):
    """A subclass with ways of its own."""

    def forward(self, input, hx=None):
        return super().forward(2 * input, hx)


def with_attribute(layer, name, value):
    setattr(layer, name, value)
    return layer


#: {what it is: (how it is made, the text)}
LEFT = {
    "a subclass": (
        lambda: Widened(I, H),
        f"{__name__}.Widened is a subclass of torch.nn.LSTM, whose own ways would be lost. Convert "
        "the layer before it is wrapped, or derive its class from the other one",
    ),
    "TorchScript": (
        lambda: torch.jit.script(nn.GRU(I, H)),
        "torch.jit._script.RecursiveScriptModule is TorchScript. Convert the module that it was "
        "made of",
    ),
    "a quantized layer": (
        lambda: quantize_dynamic(nn.Sequential(nn.LSTM(I, H)), {nn.LSTM})[0],
        "torch.ao.nn.quantized.dynamic.modules.rnn.LSTM is a layer of torch.ao. Convert the one "
        "that it was made of; see fastcells.quantize",
    ),
    "a forward of its own": (
        lambda: with_attribute(nn.GRU(I, H), "forward", lambda input: input),
        "torch.nn.GRU has a forward of its own on the instance. Convert it before that is set",
    ),
    "an attribute of its own": (
        lambda: with_attribute(nn.LSTM(I, H), "cell", "mine"),
        "torch.nn.LSTM has an attribute 'cell' of its own, which fastcells' layer means otherwise",
    ),
    "complex weights": (
        lambda: nn.RNN(I, H, dtype=torch.complex64),
        "torch.nn.RNN has weight_ih_l0 in torch.complex64, for which fastcells has no kernel",
    ),
    "the base class": (
        lambda: nn.RNNBase("LSTM", I, H),
        "torch.nn.modules.rnn.RNNBase is none of torch.nn's layers",
    ),
}


@quiet_quantization
@pytest.mark.parametrize("what", LEFT)
def test_what_cannot_be_converted_is_left_and_named(what):
    make, text = LEFT[what]
    layer = make()
    before = type(layer)
    model = nn.Sequential(layer, nn.GRU(I, H))
    with pytest.warns(UserWarning, match="convert left") as caught:
        fastcells.convert(model, inplace=True)
    assert [str(w.message) for w in caught if w.filename == __file__] == [
        f"fastcells.convert left these layers of Sequential as they are:\n  0: {text}"
    ]
    assert type(model[0]) is before and type(model[1]) is fastcells.GRU
    with pytest.raises(TypeError) as error:
        fastcells.convert(layer)
    assert str(error.value) == (
        f"convert: {before.__name__} holds no layer that can be converted:\n"
        f"  the module itself: {text}"
    )


@pytest.mark.parametrize("function", [fastcells.convert, fastcells.to_torch])
def test_what_is_no_model_or_holds_no_layer_is_refused(function):
    name = function.__name__
    with pytest.raises(TypeError) as error:
        function("model")
    assert str(error.value) == f"{name}: module must be a torch.nn.Module, got str"
    with pytest.raises(TypeError) as error:
        function(nn.GRU(2, 3), "yes")
    assert str(error.value) == f"{name}: inplace must be a bool, got str"
    with pytest.raises(TypeError) as error:
        function(nn.Linear(2, 3))
    assert str(error.value) == (
        f"{name}: Linear holds no recurrent layer or cell and no MultiheadAttention, of torch.nn "
        "or fastcells"
    )


def test_a_model_that_cannot_be_copied_says_what_to_do():
    model = nn.Sequential(nn.LSTM(I, H))
    model.seen = {"last": 2 * torch.ones(1, requires_grad=True)}
    with pytest.raises(RuntimeError) as error:
        fastcells.convert(model)
    text = str(error.value)
    assert text.startswith("convert: Sequential cannot be copied (Only Tensors created explicitly")
    assert text.endswith(". Change it in place: convert(module, inplace=True)")
    assert type(fastcells.convert(model, inplace=True)[0]) is fastcells.LSTM


@pytest.mark.parametrize("kind", KINDS)
def test_as_subclass_every_layer_is_an_instance_of_torchs_class(kind):
    layer, arguments = make_layer(kind)
    expected = layer(*arguments)[0]
    converted = fastcells.convert(layer, as_subclass=True)
    assert isinstance(converted, getattr(nn, kind))
    assert isinstance(converted, getattr(fastcells, kind))
    assert_near({"result": converted(*arguments)[0]}, {"result": expected})
    sizes = (H, 2) if kind == "MultiheadAttention" else (I, H)
    assert repr(type(converted)(*sizes)).removeprefix("Torch") == repr(getattr(nn, kind)(*sizes))
    if kind != "MultiheadAttention":
        assert type(fastcells.quantize(converted)).__name__ == f"Quantized{kind}"
    plain = fastcells.convert(converted)
    assert type(plain) is getattr(fastcells, kind)
    assert isinstance(plain, getattr(nn, kind)) == (kind not in LAYERS)


def test_the_initialisation_of_a_package_finds_the_layers_as_subclass():
    def initialise(model):
        for module in model.modules():
            if isinstance(module, (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)):
                for name, parameter in module.named_parameters():
                    if "weight_hh" in name:
                        nn.init.zeros_(parameter)
        return [n for n, p in model.named_parameters() if "weight_hh" in n and not p.any()]

    every = [n for n, _ in Model().named_parameters() if "weight_hh" in n]
    assert initialise(fastcells.convert(Model(), as_subclass=True)) == every
    assert initialise(fastcells.convert(Model())) == [n for n in every if n.startswith("cells")]


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_a_converted_layer_compiles_without_a_graph_break(kind):
    layer, arguments = make_layer(kind)
    compiled = torch.compile(fastcells.convert(layer), fullgraph=True, backend="eager")
    assert_near({"result": compiled(*arguments)[0]}, {"result": layer(*arguments)[0]})


def test_as_subclass_torch_compile_needs_allow_rnn():
    layer, arguments = make_layer("LSTM")
    converted = fastcells.convert(layer, as_subclass=True)
    compiled = torch.compile(converted, fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="allow_rnn"):
        compiled(*arguments)
    with torch._dynamo.config.patch(allow_rnn=True):
        torch._dynamo.reset()
        found = torch.compile(converted, fullgraph=True, backend="eager")(*arguments)
    assert_near({"result": found[0]}, {"result": layer(*arguments)[0]})


def test_a_wrapped_model_is_converted_inside_its_wrapper(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        model, x = Model(), torch.randn(T, B, I, dtype=torch.float64)
        expected = model(x)
        wrapped = nn.parallel.DistributedDataParallel(model)
        fastcells.convert(wrapped, inplace=True)
        assert type(wrapped.module.lstm) is fastcells.LSTM
        result = wrapped(x)
        result.sum().backward()
        assert_near({"result": result}, {"result": expected})
        assert all(p.grad is not None for p in model.parameters())
    finally:
        torch.distributed.destroy_process_group()
