"""Arguments of attention whose dtypes differ: computed right, or refused by name.

Outside autocast. Which errors are torch's: test_errors.py, test_multihead.py.
"""

import pytest
import torch
from torch import nn

import fastcells
from pairs import one_thread  # noqa: F401 (an autouse fixture)
from refusals import assert_refused

BIASES = ["in_proj_bias", "bias_k", "bias_v", "out_proj.bias"]
each_bias = pytest.mark.parametrize("name", BIASES)


def make_layer(name, dtype, ns=fastcells, of_layer=torch.float32):
    """A layer with one bias of another dtype, random as all its biases are."""
    torch.manual_seed(0)
    layer = ns.MultiheadAttention(8, 2, add_bias_kv=True, dtype=of_layer)
    biases = {name: torch.randn_like(layer.get_parameter(name)) for name in BIASES}
    for path, bias in biases.items():
        owner, _, last = path.rpartition(".")
        values = (3 * bias).to(dtype) if path == name else bias
        needs_grad = values.is_floating_point() or values.is_complex()
        layer.get_submodule(owner)._parameters[last] = nn.Parameter(values, needs_grad)
    return layer


@each_bias
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.float8_e4m3fn])
@pytest.mark.parametrize("needs_weights", [False, True])
def test_a_bias_that_no_product_can_hold_is_refused(needs_weights, dtype, name):
    layer, x = make_layer(name, dtype), torch.randn(5, 2, 8)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            assert_refused(
                lambda: layer(x, x, x, need_weights=needs_weights),
                TypeError,
                f"MultiheadAttention: {name} must be float32, float64, float16 or bfloat16, got "
                f"{dtype}",
            )


@each_bias
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_a_bias_of_another_real_dtype_counts_in_full(dtype, name):
    """torch refuses some of these: what is computed is what float64 gives."""
    x = torch.randn(5, 2, 8)
    found = make_layer(name, dtype)(x, x, x)
    exact = make_layer(name, dtype).double()
    theirs = nn.MultiheadAttention(8, 2, add_bias_kv=True, dtype=torch.float64)
    theirs.load_state_dict(exact.state_dict())
    for ours, right in zip(found, theirs(*(x.double(),) * 3), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, right.float(), atol=1e-5, rtol=1e-5)


OTHERS = [torch.float64, torch.bfloat16, torch.complex64, torch.int64, torch.float8_e4m3fn]
each_other = pytest.mark.parametrize("dtype", OTHERS)


def changed(tensors, index, dtype):
    return [t.to(dtype) if i == index else t for i, t in enumerate(tensors)]


@each_other
@pytest.mark.parametrize("index", range(4), ids=["query", "key", "value", "mask"])
def test_a_tensor_of_another_dtype_beside_dot_products_is_refused(index, dtype):
    tensors = [torch.ones(2, 2, 5, 8) for _ in range(3)] + [torch.ones(5, 5)]
    with pytest.raises(RuntimeError, match=r"^Expected (query, key, and value|attn_mask dtype) "):
        fastcells.scaled_dot_product_attention(*changed(tensors, index, dtype))


@each_other
@pytest.mark.parametrize("index", range(4), ids=["query", "key", "value", "scale"])
def test_a_tensor_of_another_dtype_beside_additive_scores_is_refused(index, dtype):
    tensors = [torch.ones(2, 5, 8) for _ in range(3)] + [torch.ones(8)]
    with pytest.raises(RuntimeError, match=r"Expected query, key, and value|scale must be "):
        fastcells.additive_attention(*changed(tensors, index, dtype))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.float8_e4m3fn])
def test_tensors_of_a_dtype_that_is_no_real_float_are_refused(dtype):
    tensors = [torch.ones(2, 5, 8).to(dtype) for _ in range(3)]
    text = f"query, key and value must be float32, float64, float16 or bfloat16, got {dtype}"
    for name, more in (("scaled_dot_product_attention", []), ("additive_attention", [8])):
        function = getattr(fastcells, name)
        scale = [torch.ones(n).to(dtype) for n in more]
        assert_refused(lambda f=function, s=scale: f(*tensors, *s), TypeError, f"{name}: {text}")


LAYERS = {
    "multihead": lambda: fastcells.MultiheadAttention(8, 2),
    "self": lambda: fastcells.SelfAttention(8, 8),
    "self_additive": lambda: fastcells.SelfAttention(8, 8, score="additive"),
    "additive": lambda: fastcells.AdditiveAttention(8, 8, 8, bias=True),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_a_complex_parameter_or_input_is_refused(make):
    """No result is what is left of it."""
    names = [name for name, _ in make().named_parameters()]
    for name in ["input", *names]:
        layer, x = make(), torch.randn(5, 2, 8)
        if name == "input":
            x = torch.complex(x, x)
        else:
            owner, _, last = name.rpartition(".")
            values = torch.complex(layer.get_parameter(name).detach(), torch.ones(()))
            layer.get_submodule(owner)._parameters[last] = nn.Parameter(values)
        arguments = (x,) if isinstance(layer, fastcells.SelfAttention) else (x, x, x)
        with pytest.raises((RuntimeError, TypeError)):
            layer(*arguments)
