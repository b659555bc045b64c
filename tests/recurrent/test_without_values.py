"""Layers and cells where no value can be read: the shapes and dtypes of a call that has values.

The shapes of a PackedSequence are the values of its batch_sizes, so that these must be there, as
they must be for torch's layers.
"""

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import fastcells
import without_values
from fastcells.functional import recurrent_calls as recurrent
from pairs import LAYERS, one_thread  # noqa: F401 (an autouse fixture)
from tracing import quiet_tracing
from without_values import FAKES, TRACERS, Call, described

pytestmark = quiet_tracing


def make_calls(kind, dtype=torch.float32):
    layer = getattr(fastcells, kind)(3, 4, bidirectional=True, dtype=dtype)
    cell = getattr(fastcells, f"{kind}Cell")(3, 4, dtype=dtype)
    weights = [w.detach() for w in layer.parameters()]
    input = torch.randn(3, 2, 3, dtype=dtype)
    masks = {"lengths": torch.tensor([3, 0]), "resets": torch.rand(3, 2) < 0.5}
    options = {"bidirectional": True, **masks}
    return {
        "layer": Call(layer, (input,)),
        "masks": Call(layer, (input,), masks),
        "function": Call(getattr(fastcells.functional, kind.lower()), (input, None, weights),
                         options),
        "cell": Call(cell, (input[0],)),
    }  # fmt: skip


def make_pack():
    return pack_sequence([torch.randn(3, 3), torch.randn(5, 3)], enforce_sorted=False)


each_kind = pytest.mark.parametrize("kind", LAYERS)
each_call = pytest.mark.parametrize("name", make_calls("RNN"))


@pytest.fixture(params=["kernels", "reference"])
def implementation(request, monkeypatch):
    if request.param == "reference":  # as a build without kernels for the device has it
        monkeypatch.setattr(recurrent.ops, "has_kernels", lambda device: False)


@each_kind
@each_call
@pytest.mark.parametrize("needs_grad", [False, True], ids=["no_grad", "grad"])
@without_values.parametrize(FAKES)
@pytest.mark.usefixtures("implementation")
def test_a_call_without_values_has_the_shapes_of_one_with_values(way, needs_grad, name, kind):
    call = make_calls(kind)[name]
    with torch.set_grad_enabled(needs_grad):
        assert described(way(call)) == described(call.run(*call.arguments, **call.options))


@pytest.mark.sampled(5)
@each_kind
@without_values.parametrize(TRACERS)
@pytest.mark.usefixtures("implementation")
def test_a_traced_call_with_masks_reads_no_value(way, kind):
    call = make_calls(kind)["masks"]
    torch.testing.assert_close(way(call), call.run(*call.arguments, **call.options))


@each_kind
@pytest.mark.parametrize("needs_grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.usefixtures("implementation")
def test_a_packed_sequence_on_meta_has_the_shapes_of_one_with_values(needs_grad, kind):
    call = make_calls(kind)["layer"]._replace(arguments=(make_pack(),))
    with torch.set_grad_enabled(needs_grad):
        found, expected = without_values.on_meta(call), call.run(*call.arguments)
    assert described(found) == described(expected)
    assert torch.equal(found[0].batch_sizes, expected[0].batch_sizes)


@each_kind
@pytest.mark.usefixtures("implementation")
def test_lengths_out_of_range_are_refused_where_they_can_be_read(kind):
    call = make_calls(kind)["masks"]
    with pytest.raises(ValueError, match=r"must lie in 0 .. T = 3, got values from -1 to 6"):
        call.run(*call.arguments, lengths=torch.tensor([6, -1]))
