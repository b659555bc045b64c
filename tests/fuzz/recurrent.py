"""Random layers and cells against torch.nn's in float64; what lengths hide, and bad structures."""

import itertools

import pytest
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
    wide_sizes,
)
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fastcells

KINDS = ["RNN", "LSTM", "GRU"]


@st.composite
def layers(draw):
    """A layer's constructor and the sizes of a call."""
    kind = draw(st.sampled_from(KINDS))
    H = draw(wide_sizes)
    options = {
        "num_layers": draw(st.integers(1, 2)),
        "bias": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
    }
    if kind == "LSTM" and H > 1 and draw(st.booleans()):
        options["proj_size"] = draw(st.integers(1, H - 1))
    dtype = draw(dtypes)
    if kind == "RNN" and dtype.itemsize > 2:  # rounding to 16 bits takes relu across its kink
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    return {
        "kind": kind, "I": draw(sizes), "H": H, "options": options,
        "T": draw(st.integers(1, 9)), "B": draw(st.integers(1, 9)), "dtype": dtype,
        "stride": draw(strides), "seed": draw(st.integers(0, 2**20)),
        "has_hx": draw(st.booleans()), "threads": draw(st.integers(1, 2)),
    }  # fmt: skip


def make(case):
    """The layer, torch's in its dtype and in float64, of the same weights."""
    modules = []
    for ns, dtype in ((fastcells, case["dtype"]), (nn, case["dtype"]), (nn, torch.float64)):
        torch.manual_seed(case["seed"])
        module = getattr(ns, case["kind"])(case["I"], case["H"], **case["options"])
        modules.append(module.to(case["dtype"]).to(dtype))
    return modules


def inputs(case):
    generator = torch.Generator().manual_seed(case["seed"])
    options = case["options"]
    shape = (case["T"], case["B"], case["I"])
    if options["batch_first"]:
        shape = (case["B"], case["T"], case["I"])
    input = strided(normal(generator, *shape, dtype=case["dtype"]), case["stride"])
    if not case["has_hx"]:
        return input, None
    rows = options["num_layers"] * (2 if options["bidirectional"] else 1)
    width = options.get("proj_size", 0) or case["H"]
    h = normal(generator, rows, case["B"], width, dtype=case["dtype"], scale=0.5)
    if case["kind"] != "LSTM":
        return input, h
    return input, (h, normal(generator, rows, case["B"], case["H"], dtype=case["dtype"]))


def run(module, input, hx, **options):
    """Results and gradients of all leaves, as flat lists."""
    dtype = next(module.parameters()).dtype
    states = () if hx is None else hx if isinstance(hx, tuple) else (hx,)
    leaves = [leaf(t, dtype) for t in (input, *states)]
    given = None if hx is None else tuple(leaves[1:]) if isinstance(hx, tuple) else leaves[1]
    output, states = module(leaves[0], given, **options)
    states = states if isinstance(states, tuple) else (states,)
    results = [output, *states]
    found = gradients(results, [*leaves, *module.parameters()], 3)
    return [r.detach() for r in results], found


def layers_equal_torchs(case):
    torch.set_num_threads(case["threads"])
    module, peer, exact = make(case)
    input, hx = inputs(case)
    kept = input.clone()
    ours, theirs, right = (run(m, input, hx) for m in (module, peer, exact))
    assert_same_bits([input], [kept], "the input was written")
    for found, rights, peers, what in zip(ours, right, theirs, ("result", "gradient"), strict=True):
        assert_near(found, rights, peers, what, case["dtype"])
    again = run(module, input, hx)
    assert_same_bits(again[0] + again[1], ours[0] + ours[1], "a repeat")
    with torch.no_grad():
        plain = module(input, hx)[0]
    assert_same_bits([plain], [ours[0][0]], "without gradients")


def lengths_equal_rows_alone(case):
    """Each row as if it were run alone; NaN past a row's end leaves no trace."""
    module, peer, exact = make(case)
    input, hx = inputs(case)
    first = case["options"]["batch_first"]
    generator = torch.Generator().manual_seed(case["seed"] + 1)
    lengths = torch.randint(0, case["T"] + 1, (case["B"],), generator=generator)
    clean, poisoned = input.clone(), input.clone()
    for b, length in enumerate(lengths.tolist()):
        for tensor, value in ((clean, 0.0), (poisoned, NAN)):
            (tensor[b, length:] if first else tensor[length:, b]).fill_(value)
    ours = run(module, poisoned, hx, lengths=lengths)
    expected = run(module, clean, hx, lengths=lengths)
    assert_same_bits(ours[0] + ours[1], expected[0] + expected[1], "NaN past the lengths")
    for b, length in enumerate(lengths.tolist()):
        row = ours[0][0][b] if first else ours[0][0][:, b]
        assert (row[length:] == 0).all()
        if length == 0:
            continue
        steps = clean[b : b + 1, :length] if first else clean[:length, b : b + 1]
        state = hx
        if hx is not None:
            states = hx if isinstance(hx, tuple) else (hx,)
            states = tuple(s[:, b : b + 1].contiguous() for s in states)
            state = states if isinstance(hx, tuple) else states[0]
        with torch.no_grad():
            alone, single = (
                m(steps.to(next(m.parameters()).dtype),
                  None if state is None else
                  tuple(s.to(next(m.parameters()).dtype) for s in state)
                  if isinstance(state, tuple) else state.to(next(m.parameters()).dtype))[0]
                for m in (exact, peer)
            )  # fmt: skip
        shaped = row[:length].reshape(alone.shape)
        assert_near([shaped], [alone], [single], f"row {b}", case["dtype"])


def resets_equal_pieces_alone(case):
    """A reset is a boundary for both directions: each piece as if it were run alone."""
    module, peer, exact = make(case)
    input, _ = inputs(case)
    first = case["options"]["batch_first"]
    generator = torch.Generator().manual_seed(case["seed"] + 2)
    resets = torch.rand(case["T"], case["B"], generator=generator) < 0.3
    output, _ = run(module, input, None, resets=resets.t() if first else resets)
    rows = output[0] if first else output[0].transpose(0, 1)
    steps = input if first else input.transpose(0, 1)
    for b in range(case["B"]):
        starts = {0, *resets[:, b].nonzero().flatten().tolist()}
        ends = sorted(starts | {case["T"]})
        for begin, end in itertools.pairwise(ends):
            piece = steps[b, begin:end]
            with torch.no_grad():
                alone, single = (m(piece.to(next(m.parameters()).dtype))[0] for m in (exact, peer))
            assert_near([rows[b, begin:end]], [alone], [single], f"row {b}", case["dtype"])


def packed_sequences_equal_torchs(case):
    module, peer, exact = make(case)
    generator = torch.Generator().manual_seed(case["seed"])
    lengths = torch.randint(1, case["T"] + 1, (case["B"],), generator=generator).tolist()
    rows = [normal(generator, n, case["I"], dtype=case["dtype"]) for n in lengths]
    found = []
    for m in (module, exact, peer):
        dtype = next(m.parameters()).dtype
        packed = pack_sequence([r.to(dtype) for r in rows], enforce_sorted=False)
        found.append([m(packed)[0].data.detach()])
    assert_near(*found, "packed", case["dtype"])


@st.composite
def broken_packs(draw):
    sizes = draw(st.lists(st.integers(-1, 4), min_size=0, max_size=5))
    rows = draw(st.integers(0, 12))
    order = draw(st.none() | st.lists(st.integers(-1, 4), max_size=4))
    return {"kind": draw(st.sampled_from(KINDS)), "sizes": sizes, "rows": rows, "order": order}


def broken_structures_are_refused(case):
    """Or, where nothing is wrong with one, computed as torch does."""
    sizes, rows, order = case["sizes"], case["rows"], case["order"]
    batch = sizes[0] if sizes else 0
    falling = all(a >= b for a, b in itertools.pairwise(sizes))
    is_sound = bool(sizes) and min(sizes) > 0 and falling and sum(sizes) == rows
    is_sound = is_sound and (order is None or sorted(order) == list(range(batch)))
    indices = None if order is None else torch.tensor(order, dtype=torch.int64)
    back = None
    if indices is not None:
        back = torch.argsort(indices) if is_sound else indices.clone()
    packed = PackedSequence(
        torch.ones(rows, 2), torch.tensor(sizes, dtype=torch.int64), indices, back
    )
    layer = getattr(fastcells, case["kind"])(2, 3)
    if is_sound:
        peer = getattr(nn, case["kind"])(2, 3)
        peer.load_state_dict(layer.state_dict())
        torch.testing.assert_close(layer(packed)[0].data, peer(packed)[0].data)
        return
    with pytest.raises(RuntimeError, match="of a PackedSequence must"):
        layer(packed)


TARGETS = {
    "layers": (layers(), layers_equal_torchs),
    "lengths": (layers(), lengths_equal_rows_alone),
    "resets": (layers(), resets_equal_pieces_alone),
    "packed": (layers(), packed_sequences_equal_torchs),
    "broken packs": (broken_packs(), broken_structures_are_refused),
}
