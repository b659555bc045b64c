"""State of torch's modules that their forward reads at a call, ours reads too."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize

import fastcells

KINDS = ["RNN", "LSTM", "GRU"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def pair(kind, *sizes, **options):
    """torch's layer and ours, with the same weights."""
    peer = getattr(nn, kind)(*sizes, **options)
    layer = getattr(fastcells, kind)(*sizes, **options)
    layer.load_state_dict(peer.state_dict())
    return peer, layer


def dropping(base):
    class Dropping(base):
        """DropConnect by the list that torch.nn.RNNBase.forward reads."""

        def forward(self, *arguments):
            kept = self._flat_weights
            self._flat_weights = [weight * 0.5 for weight in kept]
            try:
                return super().forward(*arguments)
            finally:
                self._flat_weights = kept

    return Dropping


def assert_trains_alike(peer, layer, *arguments, call=lambda module, *a: module(*a)):
    gradients = []
    for module in (peer, layer):
        module.zero_grad()
        output = call(module, *arguments)[0]
        output = output.data if hasattr(output, "batch_sizes") else output
        output.square().sum().backward()
        with torch.no_grad():  # the way past the dispatcher
            again = call(module, *arguments)[0]
            again = again.data if hasattr(again, "batch_sizes") else again
        torch.testing.assert_close(again, output.detach())
        gradients.append([output.detach(), *(p.grad for p in module.parameters())])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    return gradients[1][0]


@each_kind
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_a_list_of_weights_that_a_subclass_swaps_is_used(kind, options):
    peer, layer = (dropping(getattr(ns, kind))(3, 4, **options) for ns in (nn, fastcells))
    layer.load_state_dict(peer.state_dict())
    input = torch.randn(5, 2, 3)
    dropped = assert_trains_alike(peer, layer, input)
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    assert_trains_alike(peer, layer, packed)
    plain = getattr(fastcells, kind)(3, 4, **options)
    plain.load_state_dict(peer.state_dict())
    assert not torch.allclose(plain(input)[0], dropped)


@each_kind
def test_a_member_of_the_list_that_is_written_is_used(kind):
    peer, layer = pair(kind, 3, 4)
    for module in (peer, layer):
        module._flat_weights[1] = torch.zeros_like(module._flat_weights[1])
    assert_trains_alike_in_outputs(peer, layer, torch.randn(5, 2, 3))


def assert_trains_alike_in_outputs(peer, layer, input):
    torch.testing.assert_close(layer(input)[0], peer(input)[0])
    with torch.no_grad():
        torch.testing.assert_close(layer(input)[0], peer(input)[0])


@each_kind
def test_a_list_of_another_length_is_refused(kind):
    layer = getattr(fastcells, kind)(3, 4)
    layer._flat_weights = layer._flat_weights[:3]
    with pytest.raises(RuntimeError) as raised:
        layer(torch.randn(5, 2, 3))
    assert str(raised.value) == (
        f"{kind}: _flat_weights must hold 4 tensors, weight_ih_l0, weight_hh_l0, bias_ih_l0, "
        "bias_hh_l0, got 3"
    )


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


@each_kind
def test_named_weights_that_are_replaced_go_on_taking_effect(kind):
    peer, layer = pair(kind, 3, 4)
    input = torch.randn(5, 2, 3)
    plain = layer(input)[0]
    doubled = {name: p * 2 for name, p in layer.named_parameters()}
    found = functional_call(layer, doubled, (input,))[0]
    by_hand = getattr(fastcells, kind)(3, 4)
    by_hand.load_state_dict(doubled)
    torch.testing.assert_close(found, by_hand(input)[0])
    torch.testing.assert_close(layer(input)[0], plain)
    for module in (peer, layer):
        parametrize.register_parametrization(module, "weight_hh_l0", Halved())
    assert_trains_alike(peer, layer, input)
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    torch.testing.assert_close(layer(input)[0], peer(input)[0])
    layer.weight_ih_l0 = nn.Parameter(layer.weight_ih_l0 * 3)
    peer.weight_ih_l0 = nn.Parameter(layer.weight_ih_l0.detach().clone())
    torch.testing.assert_close(layer(input)[0], peer(input)[0])


@each_kind
def test_a_swapped_list_is_used_in_a_compiled_layer(kind):
    layer = dropping(getattr(fastcells, kind))(3, 4)
    input = torch.randn(5, 2, 3)
    compiled = torch.compile(layer, backend="aot_eager")
    torch.testing.assert_close(compiled(input)[0], layer(input)[0])


def test_an_rnn_reads_its_mode_as_torchs_does():
    peer, layer = pair("RNN", 3, 4)
    for module in (peer, layer):
        module.mode = "RNN_RELU"
    input = torch.randn(5, 2, 3)
    torch.testing.assert_close(layer(input)[0], peer(input)[0])
    for module in (peer, layer):
        module.nonlinearity = "tanh"
    torch.testing.assert_close(layer(input)[0], peer(input)[0])


def test_attention_reads_its_number_of_heads_as_torchs_does():
    torch.manual_seed(0)
    peer = nn.MultiheadAttention(12, 2, batch_first=True)
    layer = fastcells.MultiheadAttention(12, 2, batch_first=True)
    layer.load_state_dict(peer.state_dict())
    peer.num_heads = layer.num_heads = 3
    peer.head_dim = 4  # which torch asserts
    input = torch.randn(2, 5, 12)
    for found, expected in zip(layer(input, input, input), peer(input, input, input), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("other", [torch.half, torch.bfloat16, torch.float64])
def test_an_input_bias_of_another_dtype_runs_as_torchs(dtype, other):
    torch.manual_seed(0)
    peer = nn.MultiheadAttention(8, 2, batch_first=True, dtype=dtype).eval()
    layer = fastcells.MultiheadAttention(8, 2, batch_first=True, dtype=dtype).eval()
    layer.load_state_dict(peer.state_dict())
    bias = torch.randn(24).to(other)
    for module in (peer, layer):
        module.in_proj_bias = nn.Parameter(bias)
    input = torch.randn(4, 3, 8, dtype=dtype)
    with torch.no_grad():
        found, expected = (module(input, input, input) for module in (layer, peer))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype == dtype
        torch.testing.assert_close(ours, theirs)
