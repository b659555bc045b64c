"""MultiheadAttention is torch.nn's, without its NaN, and with lengths."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize as parametrizations
from torch.testing._internal import common_modules as cm

import fastcells
from attention_problems import normal
from pairs import assert_near, one_thread, with_leaves  # noqa: F401 (one is an autouse fixture)
from refusals import assert_refused

L, S, B, E, N = 5, 7, 3, 8, 2
DOUBLE = {"dtype": torch.float64}


def make_pair(**options):
    """(fastcells', torch.nn's) layer with the same parameters, none of them 0."""
    theirs = nn.MultiheadAttention(E, N, **{**DOUBLE, **options})
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.4)
    ours = fastcells.MultiheadAttention(E, N, **{**DOUBLE, **options})
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def evaluate(layer, query, key, value, **options):
    """Results and all gradients, by name."""
    leaves = with_leaves([query.clone(), key.clone(), value.clone()])
    results = [r for r in layer(*leaves, **options) if r is not None]
    found = {f"result {i}": r for i, r in enumerate(results)}
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
    named = dict(layer.named_parameters()) | dict(zip("qkv", leaves, strict=True))
    grads = torch.autograd.grad(results, list(named.values()), cotangents)
    return found | {f"grad of {name}": g for name, g in zip(named, grads, strict=True)}


def inputs(kdim=E, vdim=E):
    return normal(L, B, E), normal(S, B, kdim), normal(S, B, vdim)


# ---- torch's own samples ----

TORCH_SAMPLES = cm.module_inputs_torch_nn_MultiheadAttention(
    None, "cpu", torch.float64, requires_grad=False, training=True
)


@pytest.mark.parametrize("sample", TORCH_SAMPLES, ids=[str(i) for i in range(len(TORCH_SAMPLES))])
def test_torchs_sample_inputs(sample):
    made, called = sample.constructor_input, sample.forward_input
    theirs = nn.MultiheadAttention(*made.args, **made.kwargs, **DOUBLE)
    ours = fastcells.MultiheadAttention(*made.args, **made.kwargs, **DOUBLE)
    ours.load_state_dict(theirs.state_dict())
    assert_near(
        evaluate(ours, *called.args, **called.kwargs),
        evaluate(theirs, *called.args, **called.kwargs),
    )


# ---- constructor, masks, weights ----

OPTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "bias_kv": {"add_bias_kv": True},
    "zero_attn": {"add_zero_attn": True},
    "both added": {"add_bias_kv": True, "add_zero_attn": True},
    "kdim vdim": {"kdim": 5, "vdim": 6},
    "kdim vdim added": {"kdim": 5, "vdim": 6, "add_bias_kv": True, "bias": False},
}


def masks(kind):
    """Arguments with masks; every query sees at least key 0."""
    padding = torch.arange(S) >= torch.tensor([[S], [3], [1]])
    forbidden = torch.rand(L, S) < 0.5
    forbidden[:, 0] = False
    return {
        "none": {},
        "padding": {"key_padding_mask": padding},
        "float padding": {"key_padding_mask": normal(B, S)},
        "bool 2-D": {"attn_mask": forbidden},
        "float 2-D": {"attn_mask": normal(L, S)},
        "bool 3-D": {"attn_mask": forbidden.expand(B * N, L, S) & (torch.rand(B * N, 1, S) < 0.8)},
        "float 3-D": {"attn_mask": normal(B * N, L, S)},
        "both bool": {"attn_mask": forbidden, "key_padding_mask": padding},
        "both float": {"attn_mask": normal(B * N, L, S), "key_padding_mask": normal(B, S)},
    }[kind]


KINDS = ["none", "padding", "float padding", "bool 2-D", "float 2-D", "bool 3-D", "float 3-D",
         "both bool", "both float"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_results_and_gradients_are_torchs(options, kind):
    ours, theirs = make_pair(**options)
    args = inputs(options.get("kdim", E), options.get("vdim", E))
    given = masks(kind)
    for asked in ({}, {"average_attn_weights": False}, {"need_weights": False}):
        assert_near(
            evaluate(ours, *args, **given, **asked), evaluate(theirs, *args, **given, **asked)
        )


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("source", ["one tensor", "key is value", "three tensors"])
def test_one_product_for_one_tensor(source, batch_first):
    ours, theirs = make_pair(batch_first=batch_first)
    x, y = normal(B, L, E), normal(B, L, E)
    args = {"one tensor": (x, x, x), "key is value": (x, y, y), "three tensors": (x, y, x + y)}
    for training in (True, False):  # eval() and no_grad: torch takes its fast path
        for module in (ours, theirs):
            module.train(training)
        with torch.set_grad_enabled(training):
            for asked in ({}, {"need_weights": False}, {"average_attn_weights": False}):
                for got, want in zip(ours(*args[source], **asked), theirs(*args[source], **asked),
                                     strict=True):  # fmt: skip
                    assert (got is None) == (want is None)
                    if want is not None:
                        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_the_causal_hint(need_weights, padded, added):
    ours, theirs = make_pair(add_zero_attn=added)
    x = normal(L, B, E)
    causal = torch.ones(L, L, dtype=torch.bool).triu(1)
    padding = {"key_padding_mask": torch.arange(L) >= torch.tensor([[L], [3], [1]])}
    given = {"attn_mask": causal, "need_weights": need_weights} | (padding if padded else {})
    # With a key added torch takes the hint for the mask, which would hide that key.
    hint = {"is_causal": not (added and not padded and not need_weights)}
    actual = evaluate(ours, x, x, x, **given, is_causal=True)
    assert_near(actual, evaluate(theirs, x, x, x, **given, **hint))


def test_a_causal_hint_beside_a_mask_that_learns():
    ours, _ = make_pair()
    x, mask = normal(L, B, E), normal(L, L).requires_grad_()
    output, _ = ours(x, x, x, attn_mask=mask, is_causal=True)
    (grad,) = torch.autograd.grad(output.sin().sum(), mask)
    assert grad.abs().max() > 0


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_key_lengths_are_a_padding_mask(added, batched):
    ours, theirs = make_pair(add_bias_kv=added)
    args, lengths = inputs(), torch.tensor([S, 3, 1])
    if not batched:
        args, lengths = [t[:, 1] for t in args], lengths[1]
    padding = torch.arange(S) >= lengths[..., None]
    mask = {"attn_mask": normal(L, S)}
    assert_near(
        evaluate(ours, *args, key_lengths=lengths, **mask),
        evaluate(theirs, *args, key_padding_mask=torch.zeros(padding.shape, **DOUBLE).masked_fill(
            padding, -torch.inf), **mask),
    )  # fmt: skip


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("by", ["mask", "lengths"])
def test_a_row_without_keys_has_no_nan(by, need_weights):
    ours, _ = make_pair()
    hidden = {
        "mask": {"key_padding_mask": torch.tensor([[False] * S, [True] * S, [False] * S])},
        "lengths": {"key_lengths": torch.tensor([S, 0, S])},
    }
    found = evaluate(ours, *inputs(), need_weights=need_weights, **hidden[by])
    assert not any(tensor.isnan().any() for tensor in found.values())
    empty = found["result 0"][:, 1]
    torch.testing.assert_close(empty, ours.out_proj.bias.expand(empty.shape), rtol=0, atol=0)
    assert found["grad of q"][:, 1].count_nonzero() == 0
    if need_weights:
        assert found["result 1"][1].count_nonzero() == 0


def test_dropped_out_weights_are_returned():
    ours, _ = make_pair(dropout=0.5)
    args = inputs()
    torch.manual_seed(1)
    output, weights = ours(*args, average_attn_weights=False)
    assert 0.2 < (weights == 0).double().mean() < 0.8
    value = args[2] @ ours.in_proj_weight[2 * E :].T + ours.in_proj_bias[2 * E :]
    heads = (weights @ value.unflatten(2, (N, E // N)).permute(1, 2, 0, 3)).permute(2, 0, 1, 3)
    expected = nn.functional.linear(heads.flatten(2), ours.out_proj.weight, ours.out_proj.bias)
    torch.testing.assert_close(output, expected)
    ours.eval()
    assert torch.equal(ours(*args)[0], ours(*args)[0])


# ---- state, copies, tools ----


def test_states_copies_and_text():
    ours, theirs = make_pair(add_bias_kv=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert isinstance(ours, nn.MultiheadAttention)
    args = inputs()
    for other in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert torch.equal(other(*args)[0], ours(*args)[0])
    torch.manual_seed(3)
    fresh = nn.MultiheadAttention(E, N)
    torch.manual_seed(3)
    assert torch.equal(fastcells.MultiheadAttention(E, N).in_proj_weight, fresh.in_proj_weight)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_parametrizations_take_effect():
    ours, theirs = make_pair()
    for layer in (ours, theirs):
        parametrizations.register_parametrization(layer, "in_proj_weight", Doubled())
    args = inputs()
    torch.testing.assert_close(ours(*args), theirs(*args))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_inside_an_encoder_layer(training, norm_first):
    """In inference torch may take its own fast path over the same parameters."""
    theirs = nn.TransformerEncoderLayer(
        E, N, 16, dropout=0.0, batch_first=True, norm_first=norm_first, dtype=torch.float64
    )
    ours = copy.deepcopy(theirs)
    ours.self_attn = fastcells.MultiheadAttention(E, N, batch_first=True, **DOUBLE)
    ours.self_attn.load_state_dict(theirs.self_attn.state_dict())
    x, padding = normal(B, L, E), torch.arange(L) >= torch.tensor([[L], [3], [1]])
    causal = nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    for module in (ours, theirs):
        module.train(training)
    with torch.set_grad_enabled(training):
        for options in ({}, {"src_mask": causal, "is_causal": True}):
            torch.testing.assert_close(ours(x, **options), theirs(x, **options))
        got, want = (m(x, src_key_padding_mask=padding) for m in (ours, theirs))
        torch.testing.assert_close(got[~padding], want[~padding])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_inside_an_encoder_with_nested_tensors():
    theirs = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(E, N, 16, batch_first=True), 2, enable_nested_tensor=True
    ).eval()
    ours = copy.deepcopy(theirs)
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        mine.self_attn = fastcells.MultiheadAttention(E, N, batch_first=True)
        mine.self_attn.load_state_dict(other.self_attn.state_dict())
    ours.eval()
    x, padding = torch.randn(B, L, E), torch.arange(L) >= torch.tensor([[L], [3], [1]])
    with torch.no_grad():
        got, want = (m(x, src_key_padding_mask=padding) for m in (ours, theirs))
    torch.testing.assert_close(got, want)


def test_a_decoder_layer():
    theirs = nn.TransformerDecoderLayer(E, N, 16, dropout=0.0, dtype=torch.float64)
    ours = copy.deepcopy(theirs)
    for name in ("self_attn", "multihead_attn"):
        layer = fastcells.MultiheadAttention(E, N, **DOUBLE)
        layer.load_state_dict(getattr(theirs, name).state_dict())
        setattr(ours, name, layer)
    causal = nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    args = (normal(L, B, E), normal(S, B, E))
    for module in (ours, theirs):
        module.train()
    torch.testing.assert_close(
        ours(*args, tgt_mask=causal, tgt_is_causal=True),
        theirs(*args, tgt_mask=causal, tgt_is_causal=True),
    )


def test_dtypes_under_autocast():
    ours, theirs = make_pair(dtype=torch.float32)
    args = [t.float() for t in inputs()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, want = ours(*args), theirs(*args)
    assert [t.dtype for t in got] == [t.dtype for t in want]
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


# ---- refusals: torch's, of the same type and text ----

Q, K = torch.zeros(L, B, E), torch.zeros(S, B, E)
REFUSALS = {
    "rank": lambda m: m(Q[None], K, K),
    "ranks": lambda m: m(Q, K[:, 0], K),
    "padding rank": lambda m: m(Q, K, K, key_padding_mask=torch.zeros(S, dtype=torch.bool)),
    "mask rank": lambda m: m(Q, K, K, attn_mask=torch.zeros(S)),
    "mask kind": lambda m: m(Q, K, K, attn_mask=torch.zeros(L, S, dtype=torch.int64)),
    "padding kind": lambda m: m(Q, K, K, key_padding_mask=torch.zeros(B, S, dtype=torch.int64)),
    "hint alone": lambda m: m(Q, K, K, is_causal=True),
    "width": lambda m: m(Q[..., :7], K, K),
    "key and value": lambda m: m(Q, K, K[:6]),
    "mask 2-D": lambda m: m(Q, K, K, attn_mask=torch.zeros(L, S + 1)),
    "mask 3-D": lambda m: m(Q, K, K, attn_mask=torch.zeros(B, L, S)),
    "mask 3-D unbatched": lambda m: m(Q[:, 0], K[:, 0], K[:, 0], attn_mask=torch.zeros(B, L, S)),
    "padding batch": lambda m: m(Q, K, K, key_padding_mask=torch.zeros(B + 1, S)),
    "padding keys": lambda m: m(Q, K, K, key_padding_mask=torch.zeros(B, S + 1)),
}


@pytest.mark.parametrize("call", REFUSALS.values(), ids=REFUSALS.keys())
def test_torchs_refusals(call):
    ours, theirs = make_pair(dtype=torch.float32)
    with pytest.raises(Exception) as refused:
        call(theirs)
    text = str(refused.value).partition("\nException raised from")[0]
    assert_refused(lambda: call(ours), refused.type, text)


def test_own_refusals():
    ours, _ = make_pair(dtype=torch.float32)
    assert_refused(
        lambda: ours(Q, K[:, :1], K[:, :1]),
        RuntimeError,
        "MultiheadAttention: query and key must have the same batch, got 3 and 1",
    )
    assert_refused(
        lambda: ours(Q, K, K, key_lengths=torch.tensor([S, 0, S + 1])),
        ValueError,
        "fastcells::attention_forward: key_lengths must lie in 0 .. Tk = 7, got values from 0 to 8",
    )
    with pytest.raises(AssertionError, match="embed_dim must be divisible by num_heads"):
        fastcells.MultiheadAttention(7, 2)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["self", "cross", "kdim", "added"])
def test_steps_past_the_lengths_leave_no_trace(kind, batch_first):
    """Neither in a result nor in a gradient of a parameter, whatever stands there."""
    options = {"kdim": {"kdim": 6, "vdim": 5}, "added": {"add_bias_kv": True}}.get(kind, {})
    layer = fastcells.MultiheadAttention(8, 2, batch_first=batch_first, **options).double()
    lengths = torch.tensor([3, 0, 7])
    exists = (torch.arange(7) < lengths[:, None])[:, :, None]
    query, key, value = (torch.randn(3, 7, n).double() for n in (8, layer.kdim, layer.vdim))
    found = []
    for hidden in (0.0, float("nan"), float("inf")):
        given = [query, *(torch.where(exists, t, hidden) for t in (key, value))]
        if kind == "self":  # zeros in the query, which may be one tensor with the keys
            shown = given[1] if hidden == 0.0 else torch.where(exists, key, 0.0)
            given = [shown, given[1], given[1]]
        given = [t if batch_first else t.transpose(0, 1) for t in given]
        output, weights = layer(*given, key_lengths=lengths)
        grads = torch.autograd.grad(output.sum() + weights.sin().sum(), list(layer.parameters()))
        found.append([output, weights, *grads])
    for other in found[1:]:
        for got, want in zip(other, found[0], strict=True):
            assert got.isfinite().all()
            torch.testing.assert_close(got, want, rtol=0, atol=1e-13)
