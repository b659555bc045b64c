"""An op knows each weight by its name: the order of the list says nothing."""

from dataclasses import replace

import pytest
import torch

import fastcells
from fastcells.functional import recurrent
from fastcells.functional import recurrent_calls as functional
from fastcells.ops import recurrent as ops
from problems import (
    assert_same_bits,
    each_cell,
    evaluate,
    run_kernels,
    run_reference,
    small_problem,
)


def reordered(problem):
    """The same layer, each direction's weights from the last to the first."""
    count = len(problem.names.split())
    directions = [problem.weights[i : i + count] for i in range(0, len(problem.weights), count)]
    return replace(
        problem,
        weights=[weight for direction in directions for weight in reversed(direction)],
        names=" ".join(reversed(problem.names.split())),
    )


@pytest.mark.parametrize("run", [run_kernels, run_reference], ids=["kernels", "reference"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@each_cell
def test_the_order_of_the_weights_changes_nothing(cell, proj_size, bias, run):
    problem = small_problem(cell, 2, proj_size, bias=bias, lengths=True, resets=True)
    assert reordered(problem).names != problem.names or " " not in problem.names
    assert_same_bits(
        dict(sorted(evaluate(run, reordered(problem)).items())),
        dict(sorted(evaluate(run, problem).items())),
    )


@each_cell
def test_the_order_of_the_weights_changes_no_step(cell, proj_size):
    problem = small_problem(cell, 1, proj_size)
    c = None if problem.c_0 is None else problem.c_0[0]

    def step(problem):
        return functional.run_step(
            cell, problem.input[0], problem.h_0[0], c, problem.weights, problem.names
        )

    for got, want in zip(step(reordered(problem)), step(problem), strict=True):
        assert got is want is None or got.equal(want)


KNOWN = (
    "weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, scale_ih, scale_hh, skip_scale, norm_ih, "
    "norm_hh, norm_gates, norm_c, norm_carried_c, norm_c_bias, unit_weights, noise"
)
BOTH = "names must hold weight_ih and weight_hh, and bias_ih and bias_hh or neither, got "
# Names for the four weights of each direction, or for as many of them as there are names.
REFUSED = {
    "unknown": (
        "weight_ih weight_hh bias_ih peephole",
        f"names must be different ones of {KNOWN}, got 'peephole'",
    ),
    "empty": (
        "weight_ih  weight_hh bias_ih",
        f"names must be different ones of {KNOWN}, got ''",
    ),
    "twice": (
        "weight_ih weight_hh weight_hh bias_hh",
        f"names must be different ones of {KNOWN}, got 'weight_hh' twice",
    ),
    "no weight_hh": (
        "weight_ih bias_ih bias_hh weight_hr",
        BOTH + "weight_ih, bias_ih, bias_hh, weight_hr",
    ),
    "one bias": ("weight_ih weight_hh bias_hh", BOTH + "weight_ih, weight_hh, bias_hh"),
    "none": ("", BOTH),
}


@pytest.mark.parametrize(("names", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_the_op_refuses_names(names, text):
    problem = small_problem("lstm")
    weights = problem.weights[: 2 * len(names.split(" "))] if names else []
    with pytest.raises(ValueError) as caught:
        ops.recurrent_forward(*replace(problem, names=names, weights=weights).arguments(), "cells")
    assert str(caught.value) == f"fastcells::recurrent_forward: {text}"


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("count", [0, 1, 6])
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_a_function_refuses_a_number_of_weights(name, count, bidirectional):
    directions = 1 + bidirectional
    weights = [torch.zeros(8, 8)] * count * directions
    with pytest.raises(ValueError) as caught:
        getattr(fastcells.functional, name)(
            torch.zeros(2, 3, 8), None, weights, bidirectional=bidirectional
        )
    assert str(caught.value) == (
        f"{name}: weights must hold w_ih, w_hh[, b_ih, b_hh][, w_hr] for each of {directions} "
        f"directions, got {count * directions} tensors in a layer"
    )


@pytest.mark.parametrize("is_cell", [False, True], ids=["layer", "cell"])
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_a_function_refuses_what_is_no_tensor(name, is_cell):
    run = getattr(fastcells.functional, f"{name}_cell" if is_cell else name)
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[name]
    x, h = (torch.zeros(4, 3), torch.zeros(4, 6)) if is_cell else (torch.zeros(2, 4, 3), None)
    state = (h, h) if is_cell and name == "lstm" else h
    weights = [torch.zeros(gates * 6, 3), torch.zeros(gates * 6, 6)]
    run(x, state, weights)
    called = run.__name__
    for what, arguments in {
        "input": ([1.0], state, weights),
        "weights[1]": (x, state, [weights[0], None]),
        "weights[0]": (x, state, [1.0, weights[1]]),
    }.items():
        with pytest.raises(TypeError) as caught:
            run(*arguments)
        assert str(caught.value).startswith(f"{called}: {what} must be a Tensor, got ")
    with pytest.raises(TypeError, match=rf"^{called}: h\w* must be "):
        run(x, (1.0, 1.0) if name == "lstm" else 1.0, weights)


def test_a_function_refuses_no_layers():
    with pytest.raises(ValueError, match=r"^gru: num_layers must be a positive int, got 0$"):
        recurrent.gru(torch.zeros(2, 4, 3), None, [], num_layers=0)
