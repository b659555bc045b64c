"""Random calls under autocast on a CPU: torch's dtypes, and values near those of float64."""

import cells
import multihead
import torch
from comparing import (
    FLOORS,
    NAN,
    assert_near,
    assert_same_bits,
    gradients,
    leaf,
    normal,
    sizes,
    strided,
    strides,
)
from hypothesis import assume
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

import attention
import fastcells
import recurrent

LOW = [torch.bfloat16, torch.float16]
lows = st.sampled_from(LOW)
given_dtypes = st.sampled_from([torch.float32, torch.float32, *LOW])
#: Where oneDNN has no LSTM in a dtype, torch refuses one on a padded tensor, or takes another path,
#: of other dtypes.
ONEDNN = {
    torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
}


def autocast(low):
    return torch.autocast("cpu", low, enabled=low is not None)


def assert_near_under_autocast(found, exact, peers, what):
    """Each is as near as the least precise dtype that the call has rounded a result to, or that it
    has itself: gradients of 16-bit parameters are rounded to 16 bits in every step that uses them,
    and summed so, though all results be float32. Of an LSTMCell in 300 random calls the errors of
    these are 7e-4 on average, and torch's own 2e-3, but torch's may be the smaller in one call."""
    coarsest = max((r.dtype for r in found[0]), key=FLOORS.get)
    for a, b, c, kind in zip(found, exact, peers, ("result", "gradient"), strict=True):
        assert [x.dtype for x in a] == [x.dtype for x in c], f"{what}: {kind} dtypes"
        for number, (x, right, peer) in enumerate(zip(a, b, c, strict=True)):
            own = max((coarsest, x.dtype), key=FLOORS.get)
            assert_near([x], [right], [peer], f"{what} {kind} {number}", own)


# ---- recurrent layers and cells ----


@st.composite
def layers(draw):
    case = draw(recurrent.layers())
    case["options"].pop("nonlinearity", None)  # rounding to 16 bits takes relu across its kink
    case["dtype"] = draw(given_dtypes)
    more = {
        "low": draw(lows), "of_input": draw(given_dtypes), "of_hx": draw(given_dtypes),
        "how": draw(st.sampled_from(["padded", "packed", "lengths"])),
    }  # fmt: skip
    return case | more


def as_pair(states):
    return (tuple(states) if len(states) == 2 else states[0]) if states else None


def run_layer(module, tensors, low, lengths=None, how="padded", dtype=None):
    """Results and gradients of a layer, as flat lists."""
    input, *states = leaves = [leaf(t, dtype) for t in tensors]
    options = {"lengths": lengths} if how == "lengths" else {}
    if how == "packed":
        input = pack_padded_sequence(input, lengths, module.batch_first, enforce_sorted=False)
    with autocast(low):
        output, states = module(input, as_pair(states), **options)
    output = output.data if how == "packed" else output
    results = [output, *(states if isinstance(states, tuple) else [states])]
    return [r.detach() for r in results], gradients(results, [*leaves, *module.parameters()], 3)


def layers_under_autocast(case):
    torch.set_num_threads(case["threads"])
    module, peer, exact = recurrent.make(case)
    input, hx = recurrent.inputs(case | {"dtype": torch.float32})
    states = [] if hx is None else list(hx) if isinstance(hx, tuple) else [hx]
    given = [input.to(case["of_input"]), *(s.to(case["of_hx"]) for s in states)]
    generator = torch.Generator().manual_seed(case["seed"])
    lengths = torch.randint(1, case["T"] + 1, (case["B"],), generator=generator)
    low, how = case["low"], case["how"]
    if how == "lengths":
        poisoned_steps_leave_no_trace(case, module, given, lengths)
        return
    is_ragged = how == "packed" and len(lengths.unique()) > 1
    by_onednn = case["kind"] == "LSTM" and not is_ragged and not case["options"].get("proj_size")
    assume(not by_onednn or (ONEDNN[low] and case["of_input"] in (torch.float32, low)))
    # torch cannot join packed rows of the two 16-bit dtypes.
    dtypes = (case["of_input"], case["of_hx"])
    assume(not is_ragged or all(d in (torch.float32, low) for d in dtypes))
    found = run_layer(module, given, low, lengths, how)
    theirs = run_layer(peer, given, low, lengths, how)
    right = run_layer(exact, given, None, lengths, how, torch.float64)
    assert_near_under_autocast(found, right, theirs, case["kind"])


def poisoned_steps_leave_no_trace(case, module, given, lengths):
    found = []
    steps = torch.arange(case["T"])
    exists = (steps < lengths[:, None])[:, :, None]
    exists = exists if module.batch_first else exists.transpose(0, 1)
    for value in (0.0, NAN):
        filled = [torch.where(exists, given[0], value), *given[1:]]
        found.append(run_layer(module, filled, case["low"], lengths, "lengths"))
    assert_same_bits(found[1][0] + found[1][1], found[0][0] + found[0][1], "NaN past the lengths")
    assert all(t.isfinite().all() for t in found[1][0] + found[1][1])


@st.composite
def some_cells(draw):
    case = draw(cells.cells())
    case["options"].pop("nonlinearity", None)  # rounding to 16 bits takes relu across its kink
    case["dtype"] = draw(given_dtypes)
    return case | {"low": draw(lows), "of_input": draw(given_dtypes), "of_hx": draw(given_dtypes)}


def cells_under_autocast(case):
    assume(case["variant"] is None)  # torch has no other, and so no dtypes for it
    torch.set_num_threads(case["threads"])
    module, peer, exact = cells.make(case)
    steps, states = cells.inputs(case | {"dtype": torch.float32})
    steps, states = [t.to(case["of_input"]) for t in steps], [t.to(case["of_hx"]) for t in states]
    found = []
    for m, low, dtype in ((module, case["low"], None), (exact, None, torch.float64),
                          (peer, case["low"], None)):  # fmt: skip
        with autocast(low):
            found.append(cells.run(m, steps, states, dtype))
    assert_near_under_autocast(*found, case["kind"])
    with autocast(case["low"]), torch.no_grad():
        alone = cells.unroll(module, steps, states)
    assert [t.dtype for t in alone] == [t.dtype for t in found[0][0]]
    floor = max((r.dtype for r in alone), key=FLOORS.get)
    assert_near(alone, found[1][0], found[2][0], "result without gradients", floor)


# ---- attention ----


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


@st.composite
def multiheads(draw):
    case = draw(multihead.calls())
    return case | {"dtype": draw(given_dtypes), "of_input": draw(given_dtypes), "low": draw(lows)}


def multihead_under_autocast(case):
    torch.set_num_threads(case["threads"])
    # torch cannot append a bias of the other 16-bit dtype to the keys.
    assume(not case["bias_kv"] or case["dtype"] in (torch.float32, case["low"]))
    given = multihead.make(case, case["of_input"])
    found = [
        multihead.run(
            multihead.make_module(case, ns, dtype), case, *given, within=autocast(low), dtype=dtype
        )
        for ns, dtype, low in (
            (fastcells, None, case["low"]), (nn, torch.float64, None), (nn, None, case["low"])
        )
    ]  # fmt: skip
    assert_near_under_autocast(*found, "multihead")


TARGETS = {
    "autocast: layers": (layers(), layers_under_autocast),
    "autocast: cells": (some_cells(), cells_under_autocast),
    "autocast: attention": (attentions(), attention_under_autocast),
    "autocast: dot products": (dot_products(), sdpa_as_torch_under_autocast),
    "autocast: multihead": (multiheads(), multihead_under_autocast),
}
