"""convert: what a model had before, it has after, on fastcells' layers."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, rnn

import fastcells
from conversion_models import KINDS, Model, make_layer
from pairs import (
    B,
    H,
    I,
    T,
    assert_near,
    gradients_of_projection,
    one_thread,  # noqa: F401
    tensors_of,
)

each_kind = pytest.mark.parametrize("kind", KINDS)


def evaluate(module, arguments):
    """Results of a call and the gradients of all parameters."""
    found = {f"result {i}": t for i, t in enumerate(tensors_of(module(*arguments)))}
    return found | gradients_of_projection(found, dict(module.named_parameters()))


@each_kind
def test_a_layer_alone_is_copied_and_converted(kind):
    layer, arguments = make_layer(kind)
    converted = fastcells.convert(layer)
    assert type(layer) is getattr(nn, kind) and type(converted) is getattr(fastcells, kind)
    assert not {*map(id, layer.parameters())} & {*map(id, converted.parameters())}
    assert_near(evaluate(converted, arguments), evaluate(layer, arguments))


def test_a_model_in_place_keeps_every_object_and_every_result():
    model, x = Model(), torch.randn(T, B, I, dtype=torch.float64)
    expected = evaluate(model, (x,))
    before = [(name, id(m)) for name, m in model.named_modules(remove_duplicate=False)]
    parameters = [(name, id(p)) for name, p in model.named_parameters(remove_duplicate=False)]
    assert fastcells.convert(model, inplace=True) is model
    assert before == [(name, id(m)) for name, m in model.named_modules(remove_duplicate=False)]
    assert parameters == [
        (name, id(p)) for name, p in model.named_parameters(remove_duplicate=False)
    ]
    kinds = {
        type(m).__module__.partition(".")[0] for m in model.modules() if not len(list(m.children()))
    }
    assert kinds == {"fastcells", "torch"}  # the latter for out_proj
    assert fastcells.conversion_report(model).layers[0].is_fastcells
    assert_near(evaluate(model, (x,)), expected)


@each_kind
def test_nothing_that_an_instance_holds_is_another(kind):
    layer, _ = make_layer(kind)
    layer.register_buffer("scale", torch.ones(1))
    layer.tag = object()
    layer.weight_like = nn.Linear(2, 2)
    layer.eval()
    next(layer.parameters()).requires_grad_(False)
    before = {name: id(value) for name, value in vars(layer).items()}
    fastcells.convert(layer, inplace=True)
    assert before == {name: id(value) for name, value in vars(layer).items()}
    assert not layer.training and not next(layer.parameters()).requires_grad


def test_an_optimizer_goes_on_with_its_state():
    x = torch.randn(T, B, I, dtype=torch.float64)
    theirs = Model()
    ours = copy.deepcopy(theirs)

    def steps(model, optimizer):
        for _ in range(2):
            optimizer.zero_grad()
            model(x).pow(2).sum().backward()
            optimizer.step()

    optimizers = [
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (theirs, ours)
    ]
    steps(theirs, optimizers[0])
    steps(ours, optimizers[1])
    fastcells.convert(ours, inplace=True)
    start = [p.detach().clone() for p in ours.parameters()]
    steps(theirs, optimizers[0])
    steps(ours, optimizers[1])
    assert not all(torch.equal(a, b) for a, b in zip(start, ours.parameters(), strict=True))
    assert_near(ours.state_dict(), theirs.state_dict())


@each_kind
def test_hooks_of_modules_and_tensors_are_called(kind):
    layer, arguments = make_layer(kind)
    called = []
    layer.register_forward_pre_hook(lambda *_: called.append("before"))
    layer.register_forward_hook(lambda *_: called.append("after"))
    layer.register_full_backward_hook(lambda *_: called.append("back"))
    next(layer.parameters()).register_hook(lambda grad: called.append("gradient"))
    fastcells.convert(layer, inplace=True)
    arguments[0].requires_grad_()
    sum(t.sum() for t in tensors_of(layer(*arguments))).backward()
    assert sorted(called) == ["after", "back", "before", "gradient"]


def test_tied_weights_stay_tied():
    first, second = nn.LSTM(H, H), nn.LSTM(H, H)
    second.weight_hh_l0 = first.weight_hh_l0
    model = fastcells.convert(nn.Sequential(first, nn.Identity(), second))
    assert model[0].weight_hh_l0 is model[2].weight_hh_l0
    x = torch.randn(T, B, H)
    before = model[2](x)[0]
    with torch.no_grad():
        model[0].weight_hh_l0.zero_()
    assert not torch.equal(model[2](x)[0], before)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


MEASURES = {
    "parametrization": lambda layer, name: parametrize.register_parametrization(
        layer, name, Doubled()
    ),
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "old weight norm": nn.utils.weight_norm,
    "old spectral norm": nn.utils.spectral_norm,
    "pruning": lambda layer, name: prune.l1_unstructured(layer, name, 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("measure", MEASURES)
@each_kind
def test_whatever_computes_a_weight_goes_on_doing_so(kind, measure):
    layer, arguments = make_layer(kind)
    name = {"LSTM": "weight_hh_l0", "GRU": "weight_hh_l0", "RNN": "weight_hh_l0"}.get(
        kind, "weight_hh"
    )
    name = "in_proj_weight" if kind == "MultiheadAttention" else name
    MEASURES[measure](layer, name)
    layer.eval()  # a spectral norm iterates at each call of training
    expected = evaluate(layer, arguments)
    fastcells.convert(layer, inplace=True)
    assert isinstance(layer, getattr(fastcells, kind))
    assert_near(evaluate(layer, arguments), expected)
    if parametrize.is_parametrized(layer):
        parametrize.remove_parametrizations(layer, name)
        assert type(layer) is getattr(fastcells, kind)
        results = {k: v for k, v in expected.items() if k.startswith("result")}
        found = {f"result {i}": t for i, t in enumerate(tensors_of(layer(*arguments)))}
        assert_near(found, results)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("before", ["called", "moved"])
def test_a_copy_of_what_was_called_or_moved(before, measure):
    """What was computed then is no leaf of autograd's, which copy.deepcopy refuses."""
    layer, arguments = make_layer("GRU")
    MEASURES[measure](layer, "weight_hh_l0")
    layer.eval()
    layer(*arguments) if before == "called" else layer.float().double()
    converted = fastcells.convert(layer)
    with torch.no_grad():  # what is computed is computed from these
        for parameter in (*layer.parameters(), *converted.parameters()):
            parameter.mul_(1.25)
    expected = evaluate(layer, arguments)
    assert_near(evaluate(converted, arguments), expected)
    layer(*arguments), converted(*arguments)
    assert_near(evaluate(fastcells.to_torch(converted), arguments), expected)


def test_a_parametrized_projection_of_attention_is_read():
    layer, arguments = make_layer("MultiheadAttention")
    parametrize.register_parametrization(layer.out_proj, "weight", Doubled())
    expected = evaluate(layer, arguments)
    fastcells.convert(layer, inplace=True)
    assert_near(evaluate(layer, arguments), expected)


def test_a_parametrized_layer_may_be_copied():
    layer, arguments = make_layer("GRU")
    parametrize.register_parametrization(layer, "weight_hh_l0", Doubled())
    converted = fastcells.convert(layer)
    assert isinstance(converted, fastcells.GRU) and not isinstance(layer, fastcells.GRU)
    assert_near(evaluate(converted, arguments), evaluate(layer, arguments))


def test_layers_without_values_are_converted():
    model = nn.Sequential(nn.LazyLinear(I), nn.LSTM(I, H))
    model[1].to("meta")
    assert type(fastcells.convert(model)[1]) is fastcells.LSTM
    converted = fastcells.convert(nn.GRU(I, H, device="meta")).to_empty(device="cpu")
    assert converted(torch.zeros(T, B, I))[0].shape == (T, B, H)


@pytest.mark.parametrize("is_training", [False, True], ids=["eval", "train"])
def test_a_whole_transformer_gives_the_same(is_training):
    model = nn.Transformer(H, 2, 2, 2, 8, dropout=0.0, batch_first=True, dtype=torch.float64)
    model.train(is_training)
    converted = fastcells.convert(model)
    source, target = torch.randn(B, T, H).double(), torch.randn(B, 3, H).double()
    padding = torch.zeros(B, T, dtype=torch.bool)
    padding[1, 3:] = True
    call = {"src_key_padding_mask": padding, "memory_key_padding_mask": padding}
    with torch.set_grad_enabled(is_training):
        assert_near({"result": converted(source, target, **call)},
                    {"result": model(source, target, **call)})  # fmt: skip
    assert {type(m) for m in converted.modules() if isinstance(m, nn.MultiheadAttention)} == {
        fastcells.MultiheadAttention
    }


def test_a_traced_graph_and_a_compiled_model_take_the_layer_in_their_place():
    x = torch.randn(T, B, I, dtype=torch.float64)
    model = nn.Sequential(nn.GRU(I, H, dtype=torch.float64))
    expected = model(x)
    traced = fastcells.convert(torch.fx.symbolic_trace(model))
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    fastcells.convert(compiled, inplace=True)
    for converted in (traced, compiled):
        report = fastcells.conversion_report(converted, x)
        assert [line.kind for line in report.layers] == ["fastcells.GRU"]
        assert_near({"output": converted(x)[0]}, {"output": expected[0]})


@each_kind
def test_a_converted_layer_is_pickled_copied_packed_and_trained_as_one_that_was_built(kind):
    layer, arguments = make_layer(kind)
    converted = fastcells.convert(layer)
    expected = evaluate(layer, arguments)
    for again in (pickle.loads(pickle.dumps(converted)), copy.deepcopy(converted)):
        assert type(again) is getattr(fastcells, kind)
        assert_near(evaluate(again, arguments), expected)
    built = getattr(fastcells, kind)(*((H, 2) if kind == "MultiheadAttention" else (I, H)))
    assert repr(built) == repr(converted)
    if isinstance(layer, nn.RNNBase):
        packed = rnn.pack_padded_sequence(arguments[0], torch.tensor([5, 4, 2, 1]))
        assert_near(evaluate(converted, (packed,)), evaluate(layer, (packed,)))


def test_options_of_fastcells_may_be_set_on_a_converted_layer():
    layer = fastcells.convert(nn.GRU(I, H))
    layer.recompute, layer.variant = True, "reset_before"
    layer.reset_parameters()
    assert repr(layer) == f"GRU({I}, {H}, recompute=True, variant='reset_before')"
    assert layer(torch.randn(T, B, I), lengths=torch.tensor([5, 0, 3, 1]))[0].shape == (T, B, H)


def test_converting_again_changes_nothing():
    model = fastcells.convert(Model())
    kinds = [type(m) for m in model.modules()]
    assert fastcells.convert(model, inplace=True) is model
    assert kinds == [type(m) for m in model.modules()]
    own = nn.Sequential(fastcells.SRU(I, H), fastcells.GRU(I, H, variant="reset_before"))
    assert [type(m) for m in fastcells.convert(own)] == [fastcells.SRU, fastcells.GRU]
