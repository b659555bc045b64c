"""Random calls of attention under autocast: torch's dtypes, and values near those of float64."""

import torch
from comparing import (
    FLOORS,
    assert_near,
    gradients,
    leaf,
    normal,
    sizes,
    strided,
    strides,
)
from hypothesis import strategies as st
from torch.nn import functional as F

import attention
import fastcells

LOW = [torch.bfloat16, torch.float16]
lows = st.sampled_from(LOW)
given_dtypes = st.sampled_from([torch.float32, torch.float32, *LOW])


def autocast(low):
    return torch.autocast("cpu", low, enabled=low is not None)


def assert_near_under_autocast(found, exact, peers, what):
    """Each is as near as the least precise dtype that the call has rounded a result to."""
    coarsest = max((r.dtype for r in found[0]), key=FLOORS.get)
    for a, b, c, kind in zip(found, exact, peers, ("result", "gradient"), strict=True):
        assert [x.dtype for x in a] == [x.dtype for x in c], f"{what}: {kind} dtypes"
        assert_near(a, b, c, f"{what} {kind}", coarsest)


@st.composite
def attentions(draw):
    case = draw(attention.calls())
    case["dtype"] = draw(st.sampled_from([torch.float32, *LOW]))
    return case | {"low": draw(lows)}


def attention_under_autocast(case):
    """Query, key and value count as rounded to autocast's dtype, and so does the result; a float32
    mask stays what it is."""
    torch.set_num_threads(case["threads"])
    tensors, mask, lengths, window, units, seen = attention.make(case)
    low = case["low"]
    given = [strided(t, case["stride"]) for t in tensors]

    def call(leaves, bias, units):
        with autocast(low):
            return attention.ours(case, leaves, bias, lengths, window, units)

    def exactly(leaves, bias, units):
        return attention.plain(case, leaves, bias, units, seen)

    def rounded(t, dtype):
        return t if t is None or t.dtype == torch.bool else t.to(low).to(dtype)

    def wide(t, dtype):
        return t if t is None or t.dtype == torch.bool else t.to(dtype)

    found = attention.run(call, given, mask, units)
    assert {t.dtype for t in found[0]} == {low}
    dtypes_of_leaves = [*(t.dtype for t in tensors), *(t.dtype for t in (units,) if t is not None)]
    assert [g.dtype for g in found[1]][: len(dtypes_of_leaves)] == dtypes_of_leaves
    exact, peers = (
        attention.run(
            exactly, [rounded(t, dtype) for t in tensors], wide(mask, dtype), rounded(units, dtype)
        )
        for dtype in (torch.float64, torch.float32)
    )
    coarsest = max((low, case["dtype"]), key=FLOORS.get)
    for a, b, c, what in zip(found, exact, peers, ("result", "gradient"), strict=True):
        assert_near(a, b, c, what, coarsest)


@st.composite
def dot_products(draw):
    return {
        "shape": (draw(st.integers(1, 2)), draw(st.integers(1, 3))), "Tq": draw(sizes),
        "Tk": draw(sizes), "E": draw(sizes), "low": draw(lows),
        "dtypes": draw(st.tuples(*[given_dtypes] * 3)), "stride": draw(strides),
        "mask": draw(st.sampled_from([None, "causal", torch.bool, torch.float32, *LOW])),
        "is_float64": draw(st.booleans()), "seed": draw(st.integers(0, 2**20)),
    }  # fmt: skip


def sdpa_as_torch_under_autocast(case):
    """Arguments of several dtypes, which autocast brings to one; but float64 it leaves alone."""
    c = case
    generator = torch.Generator().manual_seed(c["seed"])
    given_dtypes = [torch.float64] * 3 if c["is_float64"] else c["dtypes"]
    shapes = [(*c["shape"], T, c["E"]) for T in (c["Tq"], c["Tk"], c["Tk"])]
    given = [
        strided(normal(generator, *s, dtype=d), c["stride"])
        for s, d in zip(shapes, given_dtypes, strict=True)
    ]
    mask = None
    if isinstance(c["mask"], torch.dtype):
        mask = torch.rand(c["Tq"], c["Tk"], generator=generator) < 0.7
        mask[:, 0] = True
        if c["mask"] != torch.bool:
            mask = normal(generator, *mask.shape, dtype=c["mask"]).masked_fill(~mask, -torch.inf)
            # torch asks for the dtype of a query that autocast leaves alone.
            mask = mask.double() if c["is_float64"] else mask
    found = []
    for sdpa, low, dtype in (
        (fastcells.scaled_dot_product_attention, c["low"], None),
        (F.scaled_dot_product_attention, None, torch.float64),
        (F.scaled_dot_product_attention, c["low"], None),
    ):
        leaves = [leaf(t, dtype) for t in given]
        bias = mask if mask is None or mask.dtype == torch.bool else mask.to(dtype or mask.dtype)
        with autocast(low):
            result = sdpa(*leaves, bias, is_causal=c["mask"] == "causal")
        found.append(([result.detach()], gradients([result], leaves, 3)))
    assert_near_under_autocast(*found, "sdpa")


TARGETS = {
    "autocast: attention": (attentions(), attention_under_autocast),
    "autocast: dot products": (dot_products(), sdpa_as_torch_under_autocast),
}
