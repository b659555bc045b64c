"""The recurrent functions on flat lists of weights; what recompute must not change."""

import re

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

from fastcells import functional, reference

FUNCTIONS = {  # what fastcells.functional has, with the options that choose a cell
    "rnn_tanh": (functional.rnn, {"nonlinearity": "tanh"}),
    "rnn_relu": (functional.rnn, {"nonlinearity": "relu"}),
    "lstm": (functional.lstm, {}),
    "gru": (functional.gru, {}),
    "gru_reset_before": (functional.gru, {"variant": "reset_before"}),
    "gru_article": (functional.gru, {"variant": "article"}),
}
CELLS = reference.recurrent.CELLS


@st.composite
def calls(draw):
    cell, dtype, H = draw(st.sampled_from([*FUNCTIONS])), draw(dtypes), draw(wide_sizes)
    if cell == "rnn_relu" and dtype.itemsize == 2:  # rounding to 16 bits takes relu across its kink
        cell = "rnn_tanh"
    return {
        "cell": cell, "dtype": dtype, "H": H, "I": draw(sizes),
        "P": draw(st.integers(1, H)) if cell == "lstm" and draw(st.booleans()) else None,
        "L": draw(st.integers(1, 3)), "D": draw(st.integers(1, 2)), "bias": draw(st.booleans()),
        "T": draw(st.integers(1, 9)), "B": draw(st.integers(0, 9)), "has_hx": draw(st.booleans()),
        "has_lengths": draw(st.booleans()), "has_resets": draw(st.booleans()),
        "all_cells": draw(st.booleans()), "recompute": draw(st.booleans()),
        "strides": draw(st.tuples(strides, strides)), "seed": draw(st.integers(0, 2**20)),
        "threads": draw(st.integers(1, 2)),
    }  # fmt: skip


def make_weights(case, random):
    """Flat, as the functions take them, and the names of those of one direction."""
    rows, width, below = CELLS[case["cell"]].gates * case["H"], case["P"] or case["H"], case["I"]
    names = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * case["bias"]
    names += ["weight_hr"] * (case["P"] is not None)
    weights = []
    for _ in range(case["L"]):
        for _ in range(case["D"]):
            weights += [random(rows, below) * below**-0.5, random(rows, width) * width**-0.5]
            weights += [random(rows) * 0.5, random(rows) * 0.5] if case["bias"] else []
            if case["P"] is not None:
                weights.append(random(width, case["H"]) * case["H"] ** -0.5)
        below = width * case["D"]
    return weights, " ".join(names)


def make(case):
    """Input, states and weights by turns in the strides asked for, the names, lengths, resets."""
    generator = torch.Generator().manual_seed(case["seed"])
    of_input, of_weights = case["strides"]

    def random(*shape):
        return normal(generator, *shape, dtype=case["dtype"])

    T, B, rows = case["T"], case["B"], case["L"] * case["D"]
    weights, names = make_weights(case, random)
    lengths = torch.randint(0, T + 1, (B,), generator=generator) if case["has_lengths"] else None
    resets = torch.rand(T, B, generator=generator) < 0.3 if case["has_resets"] else None
    widths = [case["P"] or case["H"], case["H"]] if case["cell"] == "lstm" else [case["H"]]
    states = [random(rows, B, width) for width in widths] if case["has_hx"] else []
    given = [strided(t, of_input) for t in (random(T, B, case["I"]), *states)]
    return given, [strided(w, of_weights) for w in weights], names, lengths, resets


def fill_past(input, lengths, value):
    """A copy with `value` in the steps that do not exist, in the same strides."""
    exists = torch.arange(input.shape[0])[:, None, None] < lengths[:, None]
    filled = torch.empty_like(input)
    return filled.copy_(torch.where(exists, input, value))


def ours(case, given, weights, lengths, resets, recompute):
    function, options = FUNCTIONS[case["cell"]]
    input, *states = given
    hx = (tuple(states) if len(states) == 2 else states[0]) if states else None
    if case["cell"] == "lstm":
        options = {**options, "return_cell_states": case["all_cells"]}
    output, states, *cells = function(
        input, hx, weights, num_layers=case["L"], bidirectional=case["D"] == 2, lengths=lengths,
        resets=resets, recompute=recompute, **options,
    )  # fmt: skip
    return [output, *(states if isinstance(states, tuple) else [states]), *cells]


def plain(case, given, weights, names, lengths, resets):
    """The layers one after the other in fastcells.reference: plain torch, a step at a time."""
    D, has_c, storage = case["D"], case["cell"] == "lstm", given[0].dtype
    count = len(names.split()) * D
    input, h_0, c_0 = (*given, None, None)[:3]
    ends, cells = [], None
    for i in range(case["L"]):
        of_layer = slice(i * D, (i + 1) * D)
        states = [None if s is None else s[of_layer] for s in (h_0, c_0)]
        input, h_n, c_n, cells = reference.recurrent.recurrent(
            case["cell"], D, input, *states, weights[i * count : (i + 1) * count], names, lengths,
            resets,
        )  # fmt: skip
        ends.append([h_n, c_n] if has_c else [h_n])
    wanted = [cells.to(storage)] if has_c and case["all_cells"] else []
    return [input, *(torch.cat(s) for s in zip(*ends, strict=True)), *wanted]


def run(call, given, weights, dtype=None):
    """Results and gradients of all arguments, as flat lists."""
    given, weights = ([leaf(t, dtype) for t in tensors] for tensors in (given, weights))
    results = call(given, weights)
    return [r.detach() for r in results], gradients(results, [*given, *weights], 3)


def functions_equal_the_reference(case):
    torch.set_num_threads(case["threads"])
    given, weights, names, lengths, resets = make(case)

    def call(given, weights):
        return ours(case, given, weights, lengths, resets, case["recompute"])

    def exactly(given, weights):
        return plain(case, given, weights, names, lengths, resets)

    right = run(exactly, given, weights, torch.float64)
    theirs = run(exactly, given, weights)
    if lengths is not None:
        given = [fill_past(given[0], lengths, NAN), *given[1:]]
    found = run(call, given, weights)
    for a, b, c, what in zip(found, right, theirs, ("result", "gradient"), strict=True):
        assert_near(a, b, c, what, case["dtype"])
    with torch.no_grad():
        alone = ours(case, given, weights, lengths, resets, case["recompute"])
    assert_same_bits(alone, found[0], "without gradients")


def recompute_changes_nothing(case):
    """Not a bit of the results. Gradients differ in their last bits: the gates are computed again
    in other tiles, and of bfloat16 they are not rounded. Their error is no larger than without."""
    torch.set_num_threads(case["threads"])
    given, weights, names, lengths, resets = make(case)
    exact = run(
        lambda g, w: plain(case, g, w, names, lengths, resets), given, weights, torch.float64
    )
    if lengths is not None:
        given = [fill_past(given[0], lengths, NAN), *given[1:]]
    without, found = (
        run(lambda g, w, r=r: ours(case, g, w, lengths, resets, r), given, weights)
        for r in (False, True)
    )
    assert_same_bits(found[0], without[0], "recompute")
    assert_near(found[1], exact[1], without[1], "gradient", case["dtype"])


MUTATIONS = {
    "one less": lambda weights, k: weights[:k] + weights[k + 1 :],
    "one more": lambda weights, k: [*weights[:k], weights[k], *weights[k:]],
    "a row more": lambda weights, k: change(weights, k, lambda w: torch.cat([w, w[:1]])),
    "a column more": lambda weights, k: change(
        weights, k, lambda w: torch.cat([w, w[..., :1]], -1)
    ),
    "a dimension more": lambda weights, k: change(weights, k, lambda w: w[None]),
    "a dimension less": lambda weights, k: change(weights, k, lambda w: w[0]),
    "None": lambda weights, k: change(weights, k, lambda w: None),
    "a number": lambda weights, k: change(weights, k, lambda w: 1.0),
    "of int64": lambda weights, k: change(weights, k, lambda w: w.long()),
    "on meta": lambda weights, k: change(weights, k, lambda w: w.to("meta")),
}


def change(weights, k, how):
    return [*weights[:k], how(weights[k]), *weights[k + 1 :]]


def wrong_weights_are_refused(case):
    _, weights, _, _, _ = parts = make(case)
    given, lengths, resets = parts[0], parts[3], parts[4]
    generator = torch.Generator().manual_seed(case["seed"])
    k = int(torch.randint(len(weights), (), generator=generator))
    is_one = case["L"] * case["D"] == 1  # where one less may be no projection, and one more one
    for what, mutate in MUTATIONS.items():
        if is_one and what in ("one less", "one more"):
            continue
        for grad in (True, False):
            with (
                torch.set_grad_enabled(grad),
                pytest.raises((RuntimeError, TypeError, ValueError)) as refused,
            ):
                ours(case, given, mutate(weights, k), lengths, resets, case["recompute"])
            text = str(refused.value)
            assert re.search("must|needs|[Ee]xpected", text) and re.search("got|found", text), (
                f"{what}: {text}"
            )


TARGETS = {
    "functions": (calls(), functions_equal_the_reference),
    "recompute": (calls(), recompute_changes_nothing),
    "wrong weights": (calls(), wrong_weights_are_refused),
}
