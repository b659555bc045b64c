"""A mask that is added keeps its own width beside 16-bit tensors, and only -inf and False hide."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import fastcells

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}
each_low = pytest.mark.parametrize("dtype", LOW.values(), ids=LOW)
each_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, *LOW.values()], ids=["fp32", "fp64", *LOW]
)
each_rows = pytest.mark.parametrize("rows", [2, 50], ids=["few", "tiles"])


def far_bias(rows, columns=50):
    """Biases that 16 bits would round away; softmax does not see the constant."""
    i, j = torch.arange(float(rows)), torch.arange(float(columns))
    return -(i[:, None] - j).abs() / 4 + 100.37


def gradients(function, query, key, bias):
    """Output and gradients of query, keys (which are the values, too) and bias."""
    leaves = [t.clone().requires_grad_() for t in (query, key, bias)]
    output = function(leaves[0], leaves[1], leaves[1], leaves[2])
    (output.double() * torch.arange(16.0, dtype=torch.float64)).sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves)]


@each_low
@each_rows
def test_a_float32_mask_is_added_in_float32(dtype, rows, assert_accurate):
    query, key = torch.randn(1, 1, rows, 16).to(dtype), torch.randn(1, 1, 50, 16).to(dtype)
    bias = far_bias(rows)
    found = gradients(fastcells.scaled_dot_product_attention, query, key, bias)
    peers = gradients(F.scaled_dot_product_attention, query, key, bias)
    exact = gradients(F.scaled_dot_product_attention, query.double(), key.double(), bias.double())
    assert found[3].dtype == torch.float32
    for actual, right, peer in zip(found, exact, peers, strict=True):
        assert_accurate(actual, right, peer, floor=4 * torch.finfo(dtype).eps)


@each_low
def test_the_gradient_of_a_mask_comes_back_in_its_own_dtype(dtype):
    query = torch.randn(1, 2, 5, 8).to(dtype)
    for width in (torch.float32, dtype):
        for shape in ((5, 50), (1, 50), (2, 5, 50), (1, 1, 1, 1)):
            bias = torch.randn(shape).to(width).requires_grad_()
            key = torch.randn(1, 2, 50, 8).to(dtype)
            fastcells.scaled_dot_product_attention(query, key, key, bias).sum().backward()
            assert bias.grad.dtype == width
            assert bias.grad.shape == shape
            additive = torch.randn(1, 50).to(width).requires_grad_()
            args = (query[0], key[0], key[0], torch.randn(8).to(dtype))
            fastcells.additive_attention(*args, attn_mask=additive).sum().backward()
            assert additive.grad.dtype == width


@each_dtype
@each_rows
@pytest.mark.parametrize("low", [torch.finfo(torch.float32).min, -1e9, -1e30])
@pytest.mark.parametrize("score", ["dot", "additive"])
def test_a_row_of_one_low_number_is_a_mean(score, low, rows, dtype):
    """Forward and backward: its weights are 1 / Tk, and so is the way back to the values."""
    query, key = torch.randn(1, 1, rows, 16).to(dtype), torch.randn(1, 1, 50, 16).to(dtype)
    value = torch.randn(1, 1, 50, 16, dtype=dtype, requires_grad=True)
    if low > -1e20:  # which leaves the scores what they are, but for their rounding beside it
        query, key = query * 0, key * 0
    bias = torch.full((rows, 50), low)
    if score == "dot":
        output = fastcells.scaled_dot_product_attention(query, key, value, bias)
    else:
        scale = torch.randn(16).to(dtype) * (low < -1e20)
        output = fastcells.additive_attention(query[0], key[0], value[0], scale, attn_mask=bias)
    mean = value.detach().double().mean(-2)
    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": torch.finfo(dtype).eps}
    if dtype == torch.float64:
        tolerance = {"rtol": 1e-5, "atol": 1e-5}  # scores beside -1e9 in float64 are still seen
    torch.testing.assert_close(
        output.detach().double().reshape(-1, 16), mean[0].expand(rows, 16), **tolerance
    )
    output.double().sum().backward()
    torch.testing.assert_close(
        value.grad.double(), torch.full((1, 1, 50, 16), rows / 50).double(), **tolerance
    )


@each_dtype
@each_rows
def test_low_numbers_beside_ordinary_ones_give_what_torch_gives(dtype, rows, assert_accurate):
    """torch's plain way: its fused one for a CPU keeps one number for a row's logsumexp, and has
    gradients Tk times too large where all keys have finfo.min."""
    low = torch.zeros(rows, 50)
    low[torch.rand(rows, 50) < 0.5] = torch.finfo(torch.float32).min
    low[1] = torch.finfo(torch.float32).min  # every key of a query
    query, key = (torch.randn(1, 1, n, 16).to(dtype) for n in (rows, 50))
    results = {}
    for name, function, width in (
        ("ours", fastcells.scaled_dot_product_attention, dtype),
        ("torch", F.scaled_dot_product_attention, dtype),
        ("exact", F.scaled_dot_product_attention, torch.float64),
    ):
        leaves = [t.to(width).clone().requires_grad_() for t in (query, key, key)]
        mask = low.to(torch.promote_types(width, torch.float32))
        with sdpa_kernel(SDPBackend.MATH):
            output = function(*leaves, mask)
        output.sum().backward()
        results[name] = [output.detach(), *(leaf.grad for leaf in leaves)]
    for ours, peer, exact in zip(results["ours"], results["torch"], results["exact"], strict=True):
        assert_accurate(ours, exact, peer, floor=4 * torch.finfo(dtype).eps)


def test_a_float32_mask_stays_wide_under_autocast():
    query, bias = torch.randn(1, 1, 50, 16), far_bias(50)
    with torch.autocast("cpu", torch.bfloat16):
        found = fastcells.scaled_dot_product_attention(query, query, query, bias)
        plain = fastcells.scaled_dot_product_attention(query, query, query, bias - 100.37)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, plain)


def test_masks_of_two_widths_are_merged_in_the_wider():
    """MultiheadAttention's two masks, of which torch rounds one to the other's dtype, or fails."""
    layer = fastcells.MultiheadAttention(16, 2, batch_first=True).bfloat16()
    input = torch.randn(3, 50, 16).bfloat16()
    padding = torch.zeros(3, 50, dtype=torch.bool)
    padding[1, 30:] = True
    bias = far_bias(50)
    found = layer(input, input, input, key_padding_mask=padding, attn_mask=bias)
    plain = layer(input, input, input, key_padding_mask=padding, attn_mask=bias - 100.37)
    torch.testing.assert_close(found, plain)


@each_low
def test_a_compiled_call_keeps_the_width(dtype):
    query = torch.randn(1, 1, 50, 16).to(dtype).requires_grad_()
    bias = far_bias(50).requires_grad_()

    def call(query, bias):
        return fastcells.scaled_dot_product_attention(query, query, query, bias)

    gradients = []
    for function in (call, torch.compile(call, backend="aot_eager", fullgraph=True)):
        query.grad = bias.grad = None
        function(query, bias).sum().backward()
        gradients.append((query.grad, bias.grad))
    for eager, compiled in zip(*gradients, strict=True):
        assert torch.equal(eager, compiled)
