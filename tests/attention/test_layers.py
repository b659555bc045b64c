"""AdditiveAttention and SelfAttention do what their equations say."""

import itertools

import pytest
import torch

import fastcells
from attention_problems import normal, on_the_reference
from pairs import one_thread  # noqa: F401 (an autouse fixture)
from refusals import assert_refused

L, S, B = 5, 7, 3
DOUBLE = {"dtype": torch.float64}


# ---- AdditiveAttention ----


@pytest.mark.parametrize("bias", [False, True])
def test_additive_attention_is_its_equation(bias):
    layer = fastcells.AdditiveAttention(6, 4, 5, bias=bias, **DOUBLE)
    query, key, value = normal(B, L, 6), normal(B, S, 4), normal(B, S, 3)
    output, weights = layer(query, key, value, need_weights=True)
    inside = (query @ layer.query_weight.T)[:, :, None] + (key @ layer.key_weight.T)[:, None]
    inside = inside + (layer.bias if bias else 0)
    expected = torch.softmax(torch.tanh(inside) @ layer.scale, dim=-1)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(output, expected @ value)
    assert torch.equal(layer(query[0], key[0], value[0]), output[0])
    assert torch.equal(layer(query, key), layer(query, key, key))


def test_additive_attention_with_lengths_masks_and_dropout():
    layer = fastcells.AdditiveAttention(6, 4, 5, dropout=0.5)
    query, key = torch.randn(B, L, 6), torch.randn(B, S, 4)
    lengths, mask = torch.tensor([S, 0, 2]), torch.rand(L, S) < 0.7
    key[2, 2:] = torch.nan
    found = layer(query, key, attn_mask=mask, key_lengths=lengths, need_weights=True)
    loss = found[0].sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, list(layer.parameters())))
    assert found[0][1].count_nonzero() == 0
    layer.eval()
    _, weights = layer(query, key, attn_mask=mask, key_lengths=lengths, need_weights=True)
    assert weights[:, ~mask].count_nonzero() == 0
    assert str(layer) == "AdditiveAttention(6, 4, units=5, dropout=0.5)"


# ---- SelfAttention ----


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("score", "softcap"),
    [("dot", None), ("dot", 2.0), ("scaled_dot", None), ("scaled_dot", 2.0), ("additive", None)],
)
def test_self_attention_is_its_equation(score, causal, softcap):
    layer = fastcells.SelfAttention(4, 6, 3, score=score, causal=causal, softcap=softcap, **DOUBLE)
    input = normal(B, S, 4)
    output, weights = layer(input, need_weights=True)
    q, k, v = (torch.tanh(f(input)) for f in (layer.query_map, layer.key_map, layer.value_map))
    if score == "additive":
        s = torch.tanh(q[:, :, None] + k[:, None]) @ layer.scale
    else:
        s = q @ k.mT / (1 if score == "dot" else 6**0.5)
        s = s if softcap is None else softcap * torch.tanh(s / softcap)
    if causal:
        s = s.masked_fill(torch.ones(S, S, dtype=torch.bool).triu(1), -torch.inf)
    torch.testing.assert_close(weights, torch.softmax(s, -1))
    torch.testing.assert_close(output, torch.softmax(s, -1) @ v)
    torch.testing.assert_close(layer(input[0]), output[0], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("score", ["dot", "additive"])
def test_self_attention_ends_where_a_row_does(score):
    layer = fastcells.SelfAttention(4, 6, score=score)
    input, lengths = torch.randn(B, S, 4), torch.tensor([S, 0, 3])
    past = torch.arange(S) >= lengths[:, None]
    input[past] = torch.nan
    output, weights = layer(input, lengths, need_weights=True)
    assert output[past].count_nonzero() == 0
    assert weights[past].count_nonzero() == 0
    torch.testing.assert_close(output[2, :3], layer(input[2, :3]))
    torch.testing.assert_close(layer(input[2], lengths[2]), output[2])
    grads = torch.autograd.grad(output.sin().sum(), list(layer.parameters()))
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "identity"])
def test_activations(activation):
    layer = fastcells.SelfAttention(4, 6, activation=activation)
    input = torch.randn(1, 1, 4)  # of one step alone: the output is v
    function = getattr(torch, activation, lambda x: x)
    torch.testing.assert_close(layer(input), function(layer.value_map(input)))


X = torch.zeros(B, S, 4)
LAYER_REFUSALS = {
    "activation": (
        lambda: fastcells.SelfAttention(4, 6, activation="gelu"),
        ValueError,
        "SelfAttention: activation must be one of tanh, relu, sigmoid, identity, got 'gelu'",
    ),
    "score": (
        lambda: fastcells.SelfAttention(4, 6, score="cosine"),
        ValueError,
        "SelfAttention: score must be one of dot, scaled_dot, additive, got 'cosine'",
    ),
    "softcap": (
        lambda: fastcells.SelfAttention(4, 6, score="additive", softcap=2.0),
        ValueError,
        "SelfAttention: softcap caps a dot product; with score='additive' it must be None, got 2.0",
    ),
    "causal": (
        lambda: fastcells.SelfAttention(4, 6, causal=1),
        TypeError,
        "SelfAttention: causal must be a bool, got int",
    ),
    "size": (
        lambda: fastcells.SelfAttention(4, 0),
        ValueError,
        "SelfAttention: attention_units must be greater than 0, got 0",
    ),
    "size kind": (
        lambda: fastcells.AdditiveAttention(4, 3.0, 2),
        TypeError,
        "AdditiveAttention: key_size must be an int, got float",
    ),
    "rank": (
        lambda: fastcells.SelfAttention(4, 6)(X[0, 0]),
        ValueError,
        "SelfAttention: expected input to be 2-D or 3-D, got 1-D",
    ),
    "width": (
        lambda: fastcells.SelfAttention(5, 6)(X),
        RuntimeError,
        "SelfAttention: input must have width 5, got 4",
    ),
    "lengths": (
        lambda: fastcells.SelfAttention(4, 6)(X, torch.tensor([1, 2])),
        ValueError,
        "SelfAttention: lengths must have shape (B,) = (3,), got (2,)",
    ),
    "ranks": (
        lambda: fastcells.AdditiveAttention(4, 4, 6)(X, X[0]),
        RuntimeError,
        "AdditiveAttention: query, key, value must have the same rank, got 3-D, 2-D, 2-D",
    ),
    "key width": (
        lambda: fastcells.AdditiveAttention(4, 5, 6)(X, X),
        RuntimeError,
        "AdditiveAttention: key must have width 5, got 4",
    ),
}


@pytest.mark.parametrize(
    ("call", "error", "text"), LAYER_REFUSALS.values(), ids=LAYER_REFUSALS.keys()
)
def test_refusals_of_the_layers(call, error, text):
    assert_refused(call, error, text)


def test_the_layers_run_the_same_on_the_reference():
    layers = [
        fastcells.SelfAttention(4, 6, score=score, causal=causal, **DOUBLE)
        for score, causal in itertools.product(["scaled_dot", "additive"], [False, True])
    ]
    input, lengths = normal(B, S, 4), torch.tensor([S, 0, 3])
    found = [layer(input, lengths) for layer in layers]
    with on_the_reference():
        torch.testing.assert_close([layer(input, lengths) for layer in layers], found)
