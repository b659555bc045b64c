"""Random MultiheadAttention against torch's in float64; what lengths hide from attention layers."""

from contextlib import nullcontext

import torch
from comparing import (
    NAN,
    assert_near,
    assert_same_bits,
    dtypes,
    gradients,
    leaf,
    normal,
    sizes,
    strided,
    strides,
)
from hypothesis import strategies as st
from torch import nn

import fastcells

INF = float("inf")


@st.composite
def calls(draw):
    heads = draw(st.integers(1, 3))
    return {
        "heads": heads, "E": heads * draw(st.integers(1, 9)), "L": draw(sizes), "S": draw(sizes),
        "B": draw(st.sampled_from([None, 1, 2, 3])), "bias": draw(st.booleans()),
        "kdim": draw(st.none() | sizes), "vdim": draw(st.none() | sizes),
        "zero": draw(st.booleans()), "bias_kv": draw(st.booleans()), "first": draw(st.booleans()),
        "dtype": draw(dtypes), "padding": draw(st.booleans()),
        "mask": draw(st.sampled_from([None, "bool", "float", "causal"])),
        "per_head": draw(st.booleans()), "hint": draw(st.booleans()),
        "weights": draw(st.booleans()), "average": draw(st.booleans()),
        "self": draw(st.booleans()), "stride": draw(strides), "seed": draw(st.integers(0, 2**20)),
        "threads": draw(st.integers(1, 2)),
    }  # fmt: skip


def make_module(case, ns, to=None):
    torch.manual_seed(case["seed"])
    widths = {} if case["self"] else {"kdim": case["kdim"], "vdim": case["vdim"]}
    module = ns.MultiheadAttention(
        case["E"], case["heads"], bias=case["bias"], add_bias_kv=case["bias_kv"],
        add_zero_attn=case["zero"], batch_first=case["first"], **widths,
    )  # fmt: skip
    return module.to(case["dtype"]).to(to or case["dtype"])


def make_masks(case, generator):
    """What hides no query's first key: torch's own has NaN where all are hidden."""
    L, S, rows = case["L"], case["L"] if case["self"] else case["S"], case["B"] or 1
    padding = mask = None
    if case["padding"]:
        padding = torch.rand(rows, S, generator=generator) < 0.3
        padding[:, 0] = False
        padding = padding[0] if case["B"] is None else padding
    if case["mask"] == "causal":
        mask = torch.ones(L, S, dtype=torch.bool).triu(1)
    elif case["mask"] is not None:
        shape = (rows * case["heads"], L, S) if case["per_head"] else (L, S)
        mask = torch.rand(shape, generator=generator) < 0.3
        mask[..., 0] = False
        if case["mask"] == "float":
            mask = normal(generator, *shape, dtype=case["dtype"]).masked_fill(mask, -INF)
    return padding, mask


def make(case, of_input=None):
    """Query, key and value, one of them or three; the masks."""
    generator = torch.Generator().manual_seed(case["seed"])

    def random(steps, width):
        shape = [steps, width]
        if case["B"] is not None:
            shape.insert(0 if case["first"] else 1, case["B"])
        tensor = normal(generator, *shape, dtype=of_input or case["dtype"])
        return strided(tensor, case["stride"])

    tensors = [random(case["L"], case["E"])]
    if not case["self"]:
        tensors += [random(case["S"], case[w] or case["E"]) for w in ("kdim", "vdim")]
    return tensors, *make_masks(case, generator)


def run(module, case, tensors, padding, mask, within=None, dtype=None, **options):
    """Results and gradients of all leaves, as flat lists."""
    is_ours = isinstance(module, fastcells.MultiheadAttention)
    leaves = [leaf(t, dtype) for t in tensors]
    is_bias = mask is not None and mask.is_floating_point()
    bias = leaf(mask, dtype) if is_bias else mask
    if is_bias and padding is not None and not is_ours:  # torch asks for two masks of one dtype
        padding = torch.zeros(padding.shape, dtype=bias.dtype).masked_fill(padding, -INF)
    if is_ours and mask is not None:  # torch's own takes the hint in the place of the mask
        options["is_causal"] = case["hint"]
    with within or nullcontext():
        results = module(
            *(leaves * 3)[:3], key_padding_mask=padding, attn_mask=bias,
            need_weights=case["weights"], average_attn_weights=case["average"], **options,
        )  # fmt: skip
    results = [r for r in results if r is not None]
    variables = [*leaves, *[bias] * is_bias, *module.parameters()]
    return [r.detach() for r in results], gradients(results, variables, 3)


def multihead_equals_torchs(case):
    torch.set_num_threads(case["threads"])
    given = make(case)
    ours, right, theirs = (
        run(make_module(case, ns, dtype), case, *given, dtype=dtype)
        for ns, dtype in ((fastcells, None), (nn, torch.float64), (nn, None))
    )
    for a, b, c, what in zip(ours, right, theirs, ("result", "gradient"), strict=True):
        assert_near(a, b, c, what, case["dtype"])


# ---- what lengths hide ----


@st.composite
def hiding_calls(draw):
    case = draw(calls())
    return case | {
        "layer": draw(st.sampled_from(["multihead", "additive", "self"])),
        "score": draw(st.sampled_from(["dot", "scaled_dot", "additive"])),
        "causal": draw(st.booleans()), "B": draw(st.integers(1, 3)), "first": True, "self": False,
        "O": draw(sizes),
    }  # fmt: skip


def make_hiding(case):
    """A layer and its call on (query, key, value), or on the steps alone, and lengths."""
    torch.manual_seed(case["seed"])
    sizes = [case["E"], case["kdim"] or case["E"], case["O"]]
    if case["layer"] == "additive":
        module = fastcells.AdditiveAttention(*sizes, bias=case["bias"])
    elif case["layer"] == "self":
        module = fastcells.SelfAttention(
            sizes[1], case["O"], case["E"], score=case["score"], causal=case["causal"]
        )
    else:
        module = make_module(case, fastcells)

    def call(tensors, lengths, padding, mask):
        if case["layer"] == "self":
            return module(tensors[1], lengths, need_weights=True)
        if case["layer"] == "additive":
            mask = (
                None
                if mask is None or mask.dim() != 2
                else ~mask
                if case["mask"] != "float"
                else mask
            )
            return module(*tensors, attn_mask=mask, key_lengths=lengths, need_weights=True)
        return module(*tensors, padding, attn_mask=mask, key_lengths=lengths)

    return module.to(case["dtype"]), call


def hidden_steps_leave_no_trace(case):
    """What stands past the lengths: the same bits of zeros, of NaN and of infinity."""
    torch.set_num_threads(case["threads"])
    module, call = make_hiding(case)
    tensors, padding, mask = make(case)
    generator = torch.Generator().manual_seed(case["seed"])
    lengths = torch.randint(0, case["S"] + 1, (case["B"],), generator=generator)
    exists = (torch.arange(case["S"]) < lengths[:, None])[:, :, None]
    found = []
    for value in (0.0, NAN, INF):
        filled = [torch.where(exists, t, torch.tensor(value, dtype=t.dtype)) for t in tensors[1:]]
        leaves = [leaf(t) for t in (tensors[0], *filled)]
        results = call(leaves, lengths, padding, mask)
        found.append([*results, *gradients(results, [*leaves, *module.parameters()], 3)])
    for other, what in zip(found[1:], ("NaN", "infinity"), strict=True):
        assert_same_bits(other, found[0], f"{what} past the lengths")
    assert all(t.isfinite().all() for t in found[0])


TARGETS = {
    "multihead": (calls(), multihead_equals_torchs),
    "hidden steps": (hiding_calls(), hidden_steps_leave_no_trace),
}
