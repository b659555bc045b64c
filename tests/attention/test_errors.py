"""Every refusal of the attention functions: its type and its whole text, before anything runs."""

import pytest
import torch
from torch.nn.attention.bias import causal_upper_left
from torch.nn.functional import scaled_dot_product_attention as torch_attention

from attention_problems import on_the_reference
from fastcells.functional import additive_attention, attention, scaled_dot_product_attention
from refusals import assert_refused

Q, K, V = torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 5, 6)
NAME = "scaled_dot_product_attention: "


def change(**changes):
    """The arguments of a call, of which some are replaced."""
    return {"query": Q, "key": K, "value": V} | changes


#: What torch refuses with the same type and text.
AS_TORCH = {
    "mask and causal": (
        change(attn_mask=torch.ones(4, 5, dtype=torch.bool), is_causal=True),
        "_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True",
    ),
    "dropout above 1": (
        change(dropout_p=1.5),
        "dropout probability has to be between 0 and 1, but got 1.5",
    ),
    "dtypes": (
        change(key=K.double()),
        "Expected query, key, and value to have the same dtype, but got query.dtype: float "
        "key.dtype: double and value.dtype: float instead.",
    ),
    "devices": (
        change(value=V.to("meta")),
        "Expected query, key, and value to have the same device type, but got query.device: cpu "
        "key.device: cpu and value.device: meta instead.",
    ),
    "ranks": (
        change(query=torch.zeros(4)),
        "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: 1 "
        "key.dim: 4 and value.dim: 4 instead.",
    ),
    "mask dtype": (
        change(attn_mask=torch.ones(4, 5, dtype=torch.int64)),
        "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
        "attn_mask.dtype: long int and  query.dtype: float instead.",
    ),
    "mask of more bits": (
        change(attn_mask=torch.ones(4, 5, dtype=torch.float64)),
        "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
        "attn_mask.dtype: double and  query.dtype: float instead.",
    ),
}

#: Others: torch has no such argument, computes something, or fails in a part inside.
OWN = {
    "negative dropout": (
        change(dropout_p=-0.5),
        RuntimeError,
        "dropout probability has to be between 0 and 1, but got -0.5",
    ),
    "dropout nan": (
        change(dropout_p=float("nan")),
        RuntimeError,
        "dropout probability has to be between 0 and 1, but got nan",
    ),
    "dropout kind": (
        change(dropout_p="0.5"), TypeError, NAME + "dropout_p must be a number, got str",
    ),
    "kind": (change(key=[1.0]), TypeError, NAME + "key must be a Tensor, got list"),
    "mask kind": (change(attn_mask=[1]), TypeError, NAME + "attn_mask must be a Tensor, got list"),
    "sparse": (
        change(query=Q.to_sparse()),
        TypeError,
        NAME + "query must be a dense tensor (layout torch.strided), got layout torch.sparse_coo. "
        "Convert it with .to_dense() or to a padded tensor",
    ),
    "integers": (
        {"query": Q.int(), "key": K.int(), "value": V.int()},
        TypeError,
        NAME + "query, key and value must be float32, float64, float16 or bfloat16, got "
        "torch.int32",
    ),
    "widths": (
        change(key=K[..., :7]),
        RuntimeError,
        NAME + "query and key must have the same width, got 8 and 7",
    ),
    "numbers of keys": (
        change(value=V[:, :, :4]),
        RuntimeError,
        NAME + "key and value must have the same number of keys Tk, got 5 and 4",
    ),
    "leading dimensions": (
        change(key=K[:, :2]),
        RuntimeError,
        NAME + "the leading dimensions of query, key and value must broadcast, got (2, 3), "
        "(2, 2), (2, 3)",
    ),
    "mask shape": (
        change(attn_mask=torch.ones(4, 6, dtype=torch.bool)),
        RuntimeError,
        NAME + "attn_mask must broadcast to the shape of the scores (..., Tq, Tk) = "
        "(2, 3, 4, 5), got (4, 6)",
    ),
    "mask rank": (
        change(attn_mask=torch.ones(1, 1, 1, 4, 5)),
        RuntimeError,
        NAME + "attn_mask must broadcast to the shape of the scores (..., Tq, Tk) = "
        "(2, 3, 4, 5), got (1, 1, 1, 4, 5)",
    ),
    "mask device": (
        change(attn_mask=torch.ones(4, 5, device="meta")),
        RuntimeError,
        NAME + "attn_mask must be on cpu, where the query is, got meta",
    ),
    "heads that do not divide": (
        change(key=K[:, :2], value=V[:, :2], enable_gqa=True),
        RuntimeError,
        NAME + "with enable_gqa the heads of key and value must divide those of the query = 3, "
        "got 2 and 2",
    ),
    "no heads to group": (
        change(key=K[0, 0], value=V[0, 0], enable_gqa=True),
        RuntimeError,
        NAME + "enable_gqa needs heads: query, key and value of at least 3-D",
    ),
    "scale": (change(scale="1"), TypeError, NAME + "scale must be a number, got str"),
    "softcap kind": (change(softcap=True), TypeError, NAME + "softcap must be a number, got bool"),
    "softcap": (
        change(softcap=0.0),
        ValueError,
        NAME + "softcap must be above 0, or None for none, got 0.0",
    ),
    "window kind": (
        change(window=3), TypeError, NAME + "window must be a pair (left, right), got 3",
    ),
    "window side": (
        change(window=(1.5, 0)),
        TypeError,
        NAME + "both sides of window must be an int or None, got (1.5, 0)",
    ),
    "negative window": (
        change(window=(2, -2)),
        ValueError,
        NAME + "both sides of window must be at least 0, or -1 or None for no limit, got (2, -2)",
    ),
    "alignment": (
        change(causal_alignment="left"),
        ValueError,
        NAME + "causal_alignment must be 'top_left' or 'bottom_right', got 'left'",
    ),
    "lengths kind": (
        change(key_lengths=[5, 5]),
        TypeError,
        NAME + "key_lengths must be a Tensor, got list",
    ),
    "lengths dtype": (
        change(key_lengths=torch.tensor([5.0, 5.0])),
        TypeError,
        NAME + "key_lengths must have dtype torch.int64, got torch.float32. Convert it with "
        ".to(torch.int64)",
    ),
    "lengths shape": (
        change(key_lengths=torch.tensor([5, 5, 5])),
        ValueError,
        NAME + "key_lengths must have shape (B,) = (2,), got (3,)",
    ),
    "lengths device": (
        change(key_lengths=torch.tensor([5, 5], device="meta")),
        ValueError,
        NAME + "key_lengths must be on cpu, where the input is, got meta",
    ),
    "bias and causal": (
        change(attn_mask=causal_upper_left(4, 5), is_causal=True),
        ValueError,
        "CausalBias should not be used with causal=True",
    ),
    "bias sizes": (
        change(attn_mask=causal_upper_left(5, 5)),
        RuntimeError,
        NAME + "the CausalBias must have the sizes (Tq, Tk) = (4, 5), got (5, 5)",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    def refuse(*args):
        raise AssertionError("something ran before the refusal")

    score = attention.SCORES["dot"]._replace(forward=refuse, reference=refuse)
    monkeypatch.setitem(attention.SCORES, "dot", score)
    monkeypatch.setitem(attention.SCORES, "additive", score)
    monkeypatch.setattr(attention.Attention, "apply", refuse)


@pytest.mark.parametrize(("arguments", "text"), AS_TORCH.values(), ids=AS_TORCH.keys())
def test_torchs_refusals(arguments, text):
    assert_refused(lambda: scaled_dot_product_attention(**arguments), RuntimeError, text)
    assert_refused(lambda: torch_attention(**arguments), RuntimeError, text)


@pytest.mark.parametrize(("arguments", "error", "text"), OWN.values(), ids=OWN.keys())
def test_own_refusals(arguments, error, text):
    assert_refused(lambda: scaled_dot_product_attention(**arguments), error, text)


def test_lengths_beside_other_leading_dimensions():
    text = (
        NAME + "key_lengths must have shape like the leading dimensions without the heads = "
        "(2, 3), got (2,)"
    )
    five = [t[None].expand(2, *t.shape).transpose(1, 2) for t in (Q, K, V)]
    assert_refused(
        lambda: scaled_dot_product_attention(*five, key_lengths=torch.tensor([5, 5])),
        ValueError,
        text,
    )


ADDITIVE = "additive_attention: "
q, k, v, u = torch.zeros(2, 4, 8), torch.zeros(2, 5, 8), torch.zeros(2, 5, 6), torch.zeros(8)
ADDITIVE_REFUSALS = {
    "rank": (
        (Q, K, V, u), {}, RuntimeError, "query must be 3-D (B, T, width), got 4-D",
    ),
    "batch": (
        (q, k[:1], v, u),
        {},
        RuntimeError,
        "query, key and value must have the same batch B, got 2, 1 and 2",
    ),
    "width": (
        (q[..., :7], k, v, u),
        {},
        RuntimeError,
        "query and key must have the same width, got 7 and 8",
    ),
    "scale length": (
        (q, k, v, u[:7]),
        {},
        RuntimeError,
        "scale must have shape (D,) = (8,), the width of query and key, got (7,)",
    ),
    "scale dtype": (
        (q, k, v, u.double()),
        {},
        RuntimeError,
        "scale must be torch.float32 on cpu like the query, got torch.float64 on cpu",
    ),
    "scale kind": ((q, k, v, 1.0), {}, TypeError, "scale must be a Tensor, got float"),
    "mask": (
        (q, k, v, u),
        {"attn_mask": torch.ones(3, 4, 5)},
        RuntimeError,
        "attn_mask must broadcast to the shape of the scores (..., Tq, Tk) = (2, 4, 5), got "
        "(3, 4, 5)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    ADDITIVE_REFUSALS.values(),
    ids=ADDITIVE_REFUSALS.keys(),
)
def test_refusals_of_additive_attention(arguments, options, error, text):
    assert_refused(lambda: additive_attention(*arguments, **options), error, ADDITIVE + text)


# ---- lengths out of range: the op looks at them, which alone can inside a graph ----

RANGES = {"too long": ([6, 1], "from 1 to 6"), "below 0": ([-1, 1], "from -1 to 1")}
each_range = pytest.mark.parametrize(("lengths", "span"), RANGES.values(), ids=RANGES.keys())
FUNCTIONS = {
    "scaled_dot_product_attention": (scaled_dot_product_attention, (Q, K, V), "attention"),
    "additive_attention": (additive_attention, (q, k, v, u), "additive_attention"),
}


@each_range
@pytest.mark.parametrize("has_grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_lengths_out_of_range(name, has_grad, lengths, span, monkeypatch):
    monkeypatch.undo()
    function, tensors, op = FUNCTIONS[name]
    tensors = [t.clone().requires_grad_(has_grad) for t in tensors]
    assert_refused(
        lambda: function(*tensors, key_lengths=torch.tensor(lengths)),
        ValueError,
        f"fastcells::{op}_forward: key_lengths must lie in 0 .. Tk = 5, got values {span}",
    )


@each_range
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_reference_refuses_lengths_out_of_range_too(name, lengths, span):
    function, tensors, _ = FUNCTIONS[name]
    with on_the_reference():
        assert_refused(
            lambda: function(*tensors, key_lengths=torch.tensor(lengths)),
            ValueError,
            f"{name}: key_lengths must lie in 0 .. Tk = 5, got values {span}",
        )
