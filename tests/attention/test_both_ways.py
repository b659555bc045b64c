"""Calls of attention that go through C++ and are recorded there give the bits and the errors of the
way through Python (csrc/attention/at_once.cpp, layers.cpp, way_back.cpp)."""

import pytest
import torch

import fastcells
from attention_problems import assert_same, random, results_and_gradients
from ways import through_python

B, N, TQ, TK, E, EV = 2, 3, 5, 7, 8, 6
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def leading(rank):
    return (B, N)[: rank - 2] if rank < 4 else (B, N)


OPTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale and softcap": {"scale": 0.3, "softcap": 2.0},
    "dropout": {"dropout_p": 0.4},
    "weights": {"return_weights": True},
}


@pytest.mark.parametrize("mask", [None, "bool", "added", "small"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dot_products(dtype, rank, options, mask, took, monkeypatch):
    if mask and options == "causal":
        pytest.skip("torch refuses both")
    leaves = [
        random(*leading(rank), t, w, dtype=dtype, seed=s).requires_grad_()
        for s, (t, w) in enumerate(((TQ, E), (TK, E), (TK, EV)))
    ]
    given = None
    if mask == "bool":
        given = random(*leading(rank), TQ, TK) > 0
    elif mask is not None:
        shape = (*leading(rank), TQ, TK) if mask == "added" else (TQ, 1)
        given = random(*shape, dtype=dtype, seed=4).requires_grad_()
        leaves.append(given)

    def call():
        return fastcells.scaled_dot_product_attention(*leaves[:3], given, **OPTIONS[options])

    found = results_and_gradients(call, leaves)
    assert took == ["dot_at_once"]
    through_python(monkeypatch)
    assert_same(found, results_and_gradients(call, leaves))


@pytest.mark.parametrize("options", ["plain", "dropout", "weights"])
@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_additive_scores(dtype, has_mask, options, took, monkeypatch):
    shapes = ((B, TQ, E), (B, TK, E), (B, TK, EV), (E,))
    leaves = [random(*s, dtype=dtype, seed=i).requires_grad_() for i, s in enumerate(shapes)]
    if has_mask:
        leaves.append(random(TQ, TK, dtype=dtype, seed=5).requires_grad_())
    lengths = torch.tensor([TK, 3])

    def call():
        mask = leaves[4] if has_mask else None
        return fastcells.additive_attention(
            *leaves[:4], attn_mask=mask, key_lengths=lengths, **OPTIONS[options]
        )

    found = results_and_gradients(call, leaves)
    assert took == ["additive_at_once"]
    through_python(monkeypatch)
    assert_same(found, results_and_gradients(call, leaves))


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masks", ["", "padding", "mask", "heads", "padding mask"])
@pytest.mark.parametrize("sources", ["self", "cross", "three"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_multihead(batch_first, sources, masks, need_weights, took, monkeypatch):
    module = fastcells.MultiheadAttention(12, 3, dropout=0.2, batch_first=batch_first)

    def tensor(steps, seed):
        x = random(B, steps, 12, seed=seed)
        return (x if batch_first else x.transpose(0, 1)).requires_grad_()

    x, y, z = tensor(TQ, 1), tensor(TK, 2), tensor(TK, 3)
    inputs = {"self": (x, x, x), "cross": (x, y, y), "three": (x, y, z)}[sources]
    keys = TQ if sources == "self" else TK
    options = {"need_weights": need_weights}
    if "padding" in masks:
        options["key_padding_mask"] = torch.arange(keys) >= torch.tensor([[keys], [3]])
    if "mask" in masks.split():
        options["attn_mask"] = random(TQ, keys) > 1
    if masks == "heads":
        options["attn_mask"] = random(B * 3, TQ, keys)
    leaves = [*dict.fromkeys(inputs), *module.parameters()]

    def call():
        return module(*inputs, **options)

    found = results_and_gradients(call, leaves)
    assert took == ["multihead_at_once"]
    through_python(monkeypatch)
    assert_same(found, results_and_gradients(call, leaves))


def causal_mask(is_bool):
    mask = torch.ones(TQ, TQ, dtype=torch.bool).triu(1)
    return mask if is_bool else torch.zeros(TQ, TQ).masked_fill(mask, -torch.inf)


MULTIHEADS = {
    "keys of bias": ({"add_bias_kv": True}, {}),
    "a key of zeros": ({"add_zero_attn": True}, {}),
    "both, masked": (
        {"add_bias_kv": True, "add_zero_attn": True},
        {"attn_mask": random(TQ, TQ) > 1, "key_padding_mask": random(B, TQ) > 0},
    ),
    "both, added": (
        {"add_bias_kv": True, "add_zero_attn": True},
        {"attn_mask": random(TQ, TQ), "key_padding_mask": random(B, TQ)},
    ),
    "widths of their own": ({"kdim": 12, "vdim": 12}, {}),
    "without bias": ({"kdim": 12, "bias": False}, {}),
    "two added masks": ({}, {"attn_mask": random(TQ, TQ), "key_padding_mask": random(B, TQ)}),
    "a bool and an added mask": (
        {}, {"attn_mask": random(TQ, TQ), "key_padding_mask": random(B, TQ) > 0},
    ),
    "causal": ({}, {"attn_mask": causal_mask(True), "is_causal": True}),
    "causal, added": ({}, {"attn_mask": causal_mask(False), "is_causal": True}),
    "not what the hint says": ({}, {"attn_mask": random(TQ, TQ) > 1, "is_causal": True}),
    "causal with a key more": (
        {"add_zero_attn": True}, {"attn_mask": causal_mask(True), "is_causal": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("is_batched", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", MULTIHEADS)
def test_multihead_otherwise(kind, dtype, is_batched, took, monkeypatch):
    made, options = MULTIHEADS[kind]
    module = fastcells.MultiheadAttention(12, 3, dtype=dtype, batch_first=is_batched, **made)
    x = random(B, TQ, 12, dtype=dtype)[slice(None) if is_batched else 0].requires_grad_()
    if not is_batched and "key_padding_mask" in options:
        options = {**options, "key_padding_mask": options["key_padding_mask"][0]}
    leaves = [x, *module.parameters()]
    for parameter in module.parameters():
        parameter.data.copy_(random(*parameter.shape, dtype=dtype, seed=7))
    found = results_and_gradients(lambda: module(x, x, x, **options), leaves)
    assert took == ["multihead_at_once"]
    through_python(monkeypatch)
    assert_same(found, results_and_gradients(lambda: module(x, x, x, **options), leaves))


def broken_multihead(what):
    x, made, options = random(TQ, B, 12), {}, {}
    y = z = x
    if what == "hint without a mask":
        options["is_causal"] = True
    elif what == "mask's shape":
        options["attn_mask"] = random(TQ, TQ + 1)
    elif what == "padding's shape":
        options["key_padding_mask"] = random(B, TQ + 1)
    elif what == "mask's dtype":
        options["attn_mask"] = torch.zeros(TQ, TQ, dtype=torch.int64)
    elif what == "kdim":
        made = {"kdim": 7}
    elif what == "steps":
        z = random(TQ + 1, B, 12)
    elif what == "batch":
        y = z = random(TQ, B + 1, 12)
    elif what == "rank":
        y = z = random(TQ, 12)
    elif what == "unbatched, rank":
        x = random(TQ, 12)
    elif what == "dtype":
        y = z = random(TQ, B, 12).double()
    return fastcells.MultiheadAttention(12, 3, **made), (x, y, z), options


@pytest.mark.parametrize(
    "what",
    ["hint without a mask", "mask's shape", "padding's shape", "mask's dtype", "kdim", "steps",
     "batch", "rank", "unbatched, rank", "dtype"],
)  # fmt: skip
def test_errors_of_multihead(what, took, monkeypatch):
    module, arguments, options = broken_multihead(what)
    with pytest.raises(Exception) as found:
        module(*arguments, **options)
    assert not took
    through_python(monkeypatch)
    with pytest.raises(type(found.value)) as expected:
        module(*arguments, **options)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("score", ["dot", "scaled_dot", "additive"])
@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "identity"])
@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention(causal, rank, activation, score, took, monkeypatch):
    module = fastcells.SelfAttention(
        7, 8, 5, activation=activation, score=score, causal=causal, dropout=0.1
    )
    x = random(*(B, TQ, 7)[3 - rank :]).requires_grad_()
    leaves = [x, *module.parameters()]
    found = results_and_gradients(lambda: module(x, need_weights=True), leaves)
    assert took == ["self_attention_at_once"]
    through_python(monkeypatch)
    assert_same(found, results_and_gradients(lambda: module(x, need_weights=True), leaves))


def test_a_map_that_is_listened_to_is_called(took):
    module = fastcells.SelfAttention(7, 8)
    seen = []
    module.key_map.register_forward_hook(lambda *args: seen.append("key"))
    module(random(B, TQ, 7))
    assert seen == ["key"] and took == ["dot_at_once"]


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_second_derivatives(rank, took, monkeypatch):
    leaves = [
        random(*leading(rank), t, w, dtype=torch.float64, seed=s).requires_grad_()
        for s, (t, w) in enumerate(((TQ, E), (TK, E), (TK, EV), (1, TK)))
    ]

    def second():
        output = fastcells.scaled_dot_product_attention(*leaves[:3], leaves[3])
        first = torch.autograd.grad(output.pow(2).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves)

    found = second()
    assert took == ["dot_at_once"]
    through_python(monkeypatch)
    assert_same([found], [second()])


def test_second_derivatives_of_additive_scores(monkeypatch):
    shapes = ((B, TQ, E), (B, TK, E), (B, TK, EV), (E,), (TQ, TK))
    leaves = [
        random(*s, dtype=torch.float64, seed=i).requires_grad_() for i, s in enumerate(shapes)
    ]

    def second():
        output = fastcells.additive_attention(*leaves[:4], attn_mask=leaves[4])
        first = torch.autograd.grad(output.pow(2).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves)

    found = second()
    through_python(monkeypatch)
    assert_same([found], [second()])


BROKEN = {
    "rank": lambda q: ((q[0], q[0], q[0], q[0]), {}),
    "width": lambda q: ((q, q[..., 1:], q), {}),
    "dtype": lambda q: ((q, q.double(), q), {}),
    "mask": lambda q: ((q, q, q, torch.ones(3, 3, dtype=torch.bool)), {}),
    "mask's dtype": lambda q: ((q, q, q, torch.ones(TQ, TQ, dtype=torch.int64)), {}),
    "mask and causal": lambda q: ((q, q, q, torch.ones(TQ, TQ)), {"is_causal": True}),
    "dropout": lambda q: ((q, q, q), {"dropout_p": 1.5}),
    "softcap": lambda q: ((q, q, q), {"softcap": -1.0}),
    "lengths": lambda q: ((q, q, q), {"key_lengths": torch.tensor([1, 99])}),
    "not a number": lambda q: ((q, q, q), {"dropout_p": True}),
}


@pytest.mark.parametrize("what", BROKEN)
def test_errors(what, monkeypatch):
    arguments, options = BROKEN[what](random(B, N, TQ, E))
    with pytest.raises(Exception) as found:
        fastcells.scaled_dot_product_attention(*arguments, **options)
    through_python(monkeypatch)
    with pytest.raises(type(found.value)) as expected:
        fastcells.scaled_dot_product_attention(*arguments, **options)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("dropout_p", [0, 1, 2, -1, -1.0])
@pytest.mark.parametrize("score", ["dot", "additive"])
def test_a_probability_may_be_an_int(score, dropout_p):
    q, scale = random(B, TQ, E), random(E)

    def call(p):
        if score == "dot":
            return fastcells.scaled_dot_product_attention(q, q, q, dropout_p=p)
        return fastcells.additive_attention(q, q, q, scale, dropout_p=p)

    if 0 <= dropout_p <= 1:
        assert torch.equal(call(dropout_p), call(float(dropout_p)))
    else:
        with pytest.raises(RuntimeError, match="dropout probability has to be between 0 and 1"):
            call(dropout_p)


@pytest.mark.parametrize("score", ["dot", "additive"])
@pytest.mark.parametrize("is_leaf", [True, False])
def test_batched_gradients_of_one_tensor_in_every_place(score, is_leaf):
    leaf = random(B, TQ, E, dtype=torch.float64).requires_grad_()
    scale = random(E, dtype=torch.float64)

    def run():
        x = leaf if is_leaf else leaf.sin()
        if score == "dot":
            return fastcells.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])
        return fastcells.additive_attention(x, x, x, scale)

    output = run()
    rows = random(3, *output.shape, dtype=torch.float64, seed=7)
    (found,) = torch.autograd.grad(output, leaf, rows, is_grads_batched=True)
    expected = [torch.autograd.grad(run(), leaf, row)[0] for row in rows]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_a_refused_call_draws_no_random_number():
    """CPU kernels take no float16: the way through Python draws, once."""
    q = random(B, N, TQ, E, dtype=torch.float16)
    torch.manual_seed(0)
    expected = torch.randint(0, 2**62, (1,)), torch.rand(1)
    torch.manual_seed(0)
    fastcells.scaled_dot_product_attention(q, q, q, dropout_p=0.5)
    assert torch.equal(torch.rand(1), expected[1])
    torch.manual_seed(0)
    with pytest.raises(RuntimeError):
        fastcells.scaled_dot_product_attention(q, q[..., 1:], q, dropout_p=0.5)
    assert torch.equal(torch.randint(0, 2**62, (1,)), expected[0])


def test_what_is_no_flag_is_left_to_python():
    module, x = fastcells.MultiheadAttention(12, 3), random(TQ, B, 12)
    expected = module(x, x, x, need_weights=False)[0]
    assert torch.equal(module(x, x, x, need_weights=[])[0], expected)
    module.dropout = "a"
    with pytest.raises(TypeError) as error:
        module(x, x, x)
    assert "at_once" not in str(error.value)


def test_gradients_inside_inference_mode():
    q = random(B, N, TQ, E).requires_grad_()
    expected = fastcells.scaled_dot_product_attention(q, q, q)
    with torch.inference_mode(), torch.enable_grad():
        found = fastcells.scaled_dot_product_attention(q, q, q)
    assert torch.equal(found, expected) and not found.requires_grad
