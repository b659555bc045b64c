"""Attention where no value can be read: the shapes and dtypes of a call that has values.

float16 runs on the reference on a CPU, where checks read the lengths; the others on the kernels,
whose ops have fakes.
"""

import pytest
import torch

import fastcells
import without_values
from pairs import one_thread  # noqa: F401 (an autouse fixture)
from tracing import quiet_tracing
from without_values import FAKES, TRACERS, Call, described

pytestmark = quiet_tracing

LENGTHS = torch.tensor([5, 0])


def make_calls(dtype):
    def normal(*shape):
        return torch.randn(shape, dtype=dtype)

    query, key = normal(2, 5, 8), normal(2, 6, 8)
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    lengths, layer = {"key_lengths": LENGTHS}, {"dtype": dtype, "batch_first": True}
    return {
        "dot": Call(
            fastcells.scaled_dot_product_attention,
            (normal(2, 2, 5, 8), normal(2, 2, 6, 8), normal(2, 2, 6, 8)), lengths,
        ),
        "additive": Call(fastcells.additive_attention, (query, key, key, normal(8)), lengths),
        "multihead": Call(
            fastcells.MultiheadAttention(8, 2, **layer), (query, key, key), lengths
        ),
        "added keys": Call(
            fastcells.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True, **layer),
            (query, key, key), lengths,
        ),
        "hint": Call(
            fastcells.MultiheadAttention(8, 2, **layer), (query, query, query),
            {"attn_mask": hidden, "is_causal": True},
        ),
        "self": Call(fastcells.SelfAttention(8, 8, dtype=dtype), (query, LENGTHS)),
        "AdditiveAttention": Call(
            fastcells.AdditiveAttention(8, 8, 5, dtype=dtype), (query, key), lengths
        ),
    }  # fmt: skip


each_call = pytest.mark.parametrize("name", make_calls(torch.float32))


@each_call
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["kernels", "reference"])
@pytest.mark.parametrize("needs_grad", [False, True], ids=["no_grad", "grad"])
@without_values.parametrize(FAKES)
def test_a_call_without_values_has_the_shapes_of_one_with_values(way, needs_grad, dtype, name):
    call = make_calls(dtype)[name]
    with torch.set_grad_enabled(needs_grad):
        assert described(way(call)) == described(call.run(*call.arguments, **call.options))


@pytest.mark.sampled(5)
@each_call
@without_values.parametrize(TRACERS)
def test_a_traced_call_of_the_reference_reads_no_value(way, name):
    call = make_calls(torch.float16)[name]
    torch.testing.assert_close(way(call), call.run(*call.arguments, **call.options))


@pytest.mark.parametrize("name", ["dot", "additive", "multihead", "self"])
def test_lengths_out_of_range_are_refused_where_they_can_be_read(name):
    call = make_calls(torch.float16)[name]
    given = [torch.tensor([7, -1]) if x is LENGTHS else x for x in call.arguments]
    options = call.options and {"key_lengths": torch.tensor([7, -1])}
    with pytest.raises(ValueError, match=r"must lie in 0 .. Tk = [56], got values from -1 to 7"):
        call.run(*given, **options)
