"""Random cells, a few steps one after the other, against torch.nn's in float64."""

import torch
from comparing import (
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
from fastcells.reference.recurrent import recurrent_step

KINDS = ["RNNCell", "LSTMCell", "GRUCell"]
VARIANTS = {"reset_before": "gru_reset_before", "article": "gru_article"}


@st.composite
def cells(draw):
    """A cell's constructor and the sizes of some calls."""
    kind, dtype = draw(st.sampled_from(KINDS)), draw(dtypes)
    options = {"bias": draw(st.booleans())}
    if kind == "RNNCell" and dtype.itemsize > 2:  # rounding to 16 bits takes relu across its kink
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    variant = None
    if kind == "GRUCell":
        variant = draw(st.sampled_from([None, *VARIANTS]))
    return {
        "kind": kind, "variant": variant, "options": options, "dtype": dtype,
        "I": draw(sizes), "H": draw(st.integers(1, 70)),
        "B": draw(st.sampled_from([None, *range(10)])), "steps": draw(st.integers(1, 4)),
        "has_hx": draw(st.booleans()), "strides": draw(st.tuples(strides, strides)),
        "without_graph": draw(st.sampled_from(["no_grad", "inference_mode", "frozen"])),
        "seed": draw(st.integers(0, 2**20)), "threads": draw(st.integers(1, 2)),
    }  # fmt: skip


class PlainGRUCell(nn.GRUCell):
    """The variants, which torch has not, in plain torch."""

    def __init__(self, *sizes, variant, **options):
        super().__init__(*sizes, **options)
        self.cell = VARIANTS[variant]

    def forward(self, input, hx=None):
        hx = input.new_zeros((*input.shape[:-1], self.hidden_size)) if hx is None else hx
        named = dict(self.named_parameters())
        return recurrent_step(self.cell, input, hx, None, list(named.values()), " ".join(named))[0]


def make(case):
    """The cell, its peer in its dtype and in float64, of the same weights."""
    options, theirs = dict(case["options"]), getattr(nn, case["kind"])
    if case["variant"] is not None:
        options["variant"], theirs = case["variant"], PlainGRUCell
    modules = []
    for kind, dtype in (
        (getattr(fastcells, case["kind"]), case["dtype"]),
        (theirs, case["dtype"]),
        (theirs, torch.float64),
    ):
        torch.manual_seed(case["seed"])
        modules.append(kind(case["I"], case["H"], **options).to(case["dtype"]).to(dtype))
    return modules


def inputs(case):
    """One input a step, and the states before the first: one, two or none."""
    generator = torch.Generator().manual_seed(case["seed"])
    batch = () if case["B"] is None else (case["B"],)
    of_input, of_state = case["strides"]

    def random(width, how):
        return strided(normal(generator, *batch, width, dtype=case["dtype"]), how)

    steps = [random(case["I"], of_input) for _ in range(case["steps"])]
    count = 2 if case["kind"] == "LSTMCell" else 1
    return steps, [random(case["H"], of_state) for _ in range(count * case["has_hx"])]


def unroll(module, steps, states):
    """Every state of every step."""
    hx = (tuple(states) if len(states) == 2 else states[0]) if states else None
    results = []
    for step in steps:
        hx = module(step, hx)
        results += hx if isinstance(hx, tuple) else [hx]
    return results


def run(module, steps, states, dtype=None):
    """Results and gradients of all leaves, as flat lists."""
    steps, states = ([leaf(t, dtype) for t in tensors] for tensors in (steps, states))
    results = unroll(module, steps, states)
    found = gradients(results, [*steps, *states, *module.parameters()], 3)
    return [r.detach() for r in results], found


def run_without_graph(module, steps, states, how):
    if how == "frozen":
        module.requires_grad_(False)
        results = unroll(module, steps, states)
        module.requires_grad_(True)
        return results
    with torch.no_grad() if how == "no_grad" else torch.inference_mode():
        return [r.clone() for r in unroll(module, steps, states)]


def cells_equal_torchs(case):
    torch.set_num_threads(case["threads"])
    module, peer, exact = make(case)
    steps, states = inputs(case)
    kept = [t.clone(memory_format=torch.contiguous_format) for t in steps + states]
    alone = run_without_graph(module, steps, states, case["without_graph"])
    assert_same_bits(steps + states, kept, "an argument was written")
    with torch.no_grad():
        dense = unroll(module, kept[: len(steps)], kept[len(steps) :])
    assert_same_bits(alone, dense, "dense arguments")
    ours, theirs, right = (
        run(m, steps, states, dtype)
        for m, dtype in ((module, None), (peer, None), (exact, torch.float64))
    )
    for found, rights, peers, what in zip(ours, right, theirs, ("result", "gradient"), strict=True):
        assert_near(found, rights, peers, what, case["dtype"])
    assert_near(alone, right[0], theirs[0], "result without gradients", case["dtype"])
    again = run(module, steps, states)
    assert_same_bits(again[0] + again[1], ours[0] + ours[1], "a repeat")


TARGETS = {"cells": (cells(), cells_equal_torchs)}
