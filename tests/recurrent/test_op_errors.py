"""What the recurrent ops refuse, and in which words: each check of csrc/recurrent, the whole text.

Layers refuse most of this earlier, in torch.nn's words.
"""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.autograd import forward_ad

from fastcells.ops import recurrent as ops
from fastcells.reference import recurrent as reference
from problems import run_kernels, small_problem

KNOWN = ", ".join(reference.CELLS)
OTHERS = [
    c for c, facts in reference.CELLS.items() if facts.unit_weights is None and facts.states == 1
]
COUNT = (
    "weights must hold weight_ih, weight_hh, bias_ih, bias_hh for each of {} directions, got {} "
    "tensors"
)


def with_weight(problem, index, change):
    """The problem with its weight number `index` changed."""
    weights = list(problem.weights)
    weights[index] = change(weights[index])
    return replace(problem, weights=weights)


def changed(**changes):
    return lambda problem: replace(problem, **{k: f(problem) for k, f in changes.items()})


def weight(index, change):
    return lambda problem: with_weight(problem, index, change)


# What is done to an LSTM layer of T=5, B=4, I=3, H=6, D=2 with biases (W_ih, W_hh, b_ih, b_hh for
# each direction, G*H = 24), lengths and resets, the error it meets, and its text.
REFUSED = {
    "unknown cell": (
        changed(cell=lambda p: "elman"),
        ValueError,
        f"fastcells: unknown cell 'elman', known are {KNOWN}",
    ),
    "three directions": (
        changed(directions=lambda p: 3),
        ValueError,
        "directions must be 1 or 2, got 3",
    ),
    "input of rank 2": (
        changed(input=lambda p: p.input[0]),
        RuntimeError,
        "input must have shape (T, B, I), got (4, 3)",
    ),
    "input of rank 1": (
        changed(input=lambda p: p.input[0, 0]),
        RuntimeError,
        "input must have shape (T, B, I), got (3,)",
    ),
    "integer input": (
        changed(input=lambda p: p.input.long()),
        TypeError,
        "dtype Long is not supported (float32, float64, float16, bfloat16)",
    ),
    "complex input": (
        changed(input=lambda p: p.input.to(torch.complex128)),
        TypeError,
        "dtype ComplexDouble is not supported (float32, float64, float16, bfloat16)",
    ),
    "no weights": (changed(weights=lambda p: []), RuntimeError, COUNT.format(2, 0)),
    "six weights a direction": (
        changed(weights=lambda p: p.weights[:6] * 2),
        RuntimeError,
        COUNT.format(2, 12),
    ),
    "a weight too few": (
        changed(weights=lambda p: p.weights[:7]),
        RuntimeError,
        COUNT.format(2, 7),
    ),
    "weight_ih of rank 1": (
        weight(0, lambda w: w[:, 0]),
        RuntimeError,
        "weight_ih and weight_hh must have shapes (G*H, I) and (G*H, P), got (24,) and (24, 6)",
    ),
    "weight_hh of rank 3": (
        weight(5, lambda w: w[None]),
        RuntimeError,
        "weight_ih and weight_hh must have shapes (G*H, I) and (G*H, P), got (24, 3) and "
        "(1, 24, 6)",
    ),
    "rows that the gates do not divide": (
        weight(0, lambda w: w[:-1]),
        RuntimeError,
        "weight_ih of a lstm must have 4*H rows, got 23",
    ),
    "weight_ih of another input size": (
        weight(0, lambda w: w[:, :2]),
        RuntimeError,
        "weight_ih must have shape (G*H, I) = (24, 3), got (24, 2)",
    ),
    "weight_hh of another size": (
        weight(1, lambda w: w[:, :5]),
        RuntimeError,
        "weight_hh must have shape (G*H, P) = (24, 6), got (24, 5)",
    ),
    "bias_ih of another size": (
        weight(2, lambda w: w[:-1]),
        RuntimeError,
        "bias_ih must have shape (G*H,) = (24,), got (23,)",
    ),
    "bias_hh of another size": (
        weight(7, lambda w: w[:, None]),
        RuntimeError,
        "bias_hh must have shape (G*H,) = (24,), got (24, 1)",
    ),
    "directions of different sizes": (
        changed(weights=lambda p: p.weights[:4] + small_weights(p)),
        RuntimeError,
        "both directions must have weights of the same shapes",
    ),
    "float32 weight": (
        weight(3, torch.Tensor.float),
        TypeError,
        "bias_hh must have dtype Double, got Float. Convert it with .to(...)",
    ),
    "h_0 of another batch": (
        changed(h_0=lambda p: p.h_0[:, :3]),
        RuntimeError,
        "h_0 must have shape (D, B, P) = (2, 4, 6), got (2, 3, 6)",
    ),
    "h_0 of one direction": (
        changed(h_0=lambda p: p.h_0[:1]),
        RuntimeError,
        "h_0 must have shape (D, B, P) = (2, 4, 6), got (1, 4, 6)",
    ),
    "float32 h_0": (
        changed(h_0=lambda p: p.h_0.float()),
        TypeError,
        "h_0 must have dtype Double, got Float. Convert it with .to(...)",
    ),
    "c_0 of another width": (
        changed(c_0=lambda p: p.c_0[..., :5]),
        RuntimeError,
        "c_0 must have shape (D, B, H) = (2, 4, 6), got (2, 4, 5)",
    ),
    "float16 c_0": (
        changed(c_0=lambda p: p.c_0.half()),
        TypeError,
        "c_0 must have dtype Double, got Half. Convert it with .to(...)",
    ),
    "lengths of another batch": (
        changed(lengths=lambda p: p.lengths[:3]),
        RuntimeError,
        "lengths must have shape (B,) = (4,), got (3,)",
    ),
    "int32 lengths": (
        changed(lengths=lambda p: p.lengths.int()),
        TypeError,
        "lengths must have dtype Long, got Int. Convert it with .to(...)",
    ),
    "lengths past the last step": (
        changed(lengths=lambda p: torch.tensor([5, 0, 6, 1])),
        ValueError,
        "lengths must lie in 0 .. T = 5, got values from 0 to 6",
    ),
    "negative lengths": (
        changed(lengths=lambda p: torch.tensor([5, 0, -1, 1])),
        ValueError,
        "lengths must lie in 0 .. T = 5, got values from -1 to 5",
    ),
    "resets laid out batch first": (
        changed(resets=lambda p: p.resets.t()),
        RuntimeError,
        "resets must have shape (T, B) = (5, 4), got (4, 5)",
    ),
    "float resets": (
        changed(resets=lambda p: p.resets.double()),
        TypeError,
        "resets must have dtype Bool, got Double. Convert it with .to(...)",
    ),
}


def small_weights(problem):
    """Of a direction with H=5."""
    return [w[:20, :5] if w.dim() == 2 else w[:20] for w in problem.weights[4:]]


@contextmanager
def refused(error, text, op="recurrent_forward"):
    """Expects `error` with exactly this text, behind the op's name unless it brings its own."""
    with pytest.raises(error) as caught:
        yield
    assert type(caught.value) is error
    assert str(caught.value) == (
        text if text.startswith("fastcells") else f"fastcells::{op}: {text}"
    )


@pytest.mark.parametrize(("change", "error", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_forward_op_refuses(change, error, text):
    problem = change(small_problem("lstm", lengths=True, resets=True))
    with refused(error, text):
        ops.recurrent_forward(*problem.arguments(), "everything")


@pytest.mark.parametrize("cell", OTHERS)
def test_a_cell_without_c_refuses_a_cell_state_and_a_projection(cell):
    problem = small_problem(cell, directions=1)
    with refused(RuntimeError, f"a {cell} has no cell state, but c_0 was given"):
        ops.recurrent_forward(*replace(problem, c_0=problem.h_0).arguments(), "nothing")
    projected = replace(
        problem, weights=[*problem.weights, torch.zeros(6, 6).double()],
        names=problem.names + " weight_hr",
    )  # fmt: skip
    with refused(RuntimeError, f"a projection needs an lstm, got a {cell}"):
        ops.recurrent_forward(*projected.arguments(), "nothing")


def test_a_projection_of_another_shape_is_refused():
    problem = small_problem("lstm", directions=1, proj_size=3)
    with refused(RuntimeError, "weight_hr must have shape (P, H) = (3, 6), got (6, 3)"):
        ops.recurrent_forward(*weight(4, torch.t)(problem).arguments(), "nothing")


def test_an_unknown_keep_is_refused():
    text = "keep must be 'nothing', 'cells', 'states' or 'everything', got 'all'"
    with refused(ValueError, text):
        ops.recurrent_forward(*small_problem("gru").arguments(), "all")


# ---- devices: a "meta" tensor has no values ----

META = {
    "h_0": (changed(h_0=lambda p: p.h_0.to("meta")), "h_0"),
    "c_0": (changed(c_0=lambda p: p.c_0.to("meta")), "c_0"),
    "bias_ih": (weight(2, lambda w: w.to("meta")), "bias_ih"),
    "lengths": (changed(lengths=lambda p: p.lengths.to("meta")), "lengths"),
    "resets": (changed(resets=lambda p: p.resets.to("meta")), "resets"),
}
each_meta = pytest.mark.parametrize(("change", "name"), META.values(), ids=META.keys())


@each_meta
def test_cpu_kernel_refuses_a_tensor_of_another_device(change, name):
    problem = change(small_problem("lstm", lengths=True, resets=True))
    cpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)  # the dispatcher would choose meta
    with refused(RuntimeError, f"{name} must be on cpu, where the input is, got meta"):
        torch.ops.fastcells.recurrent_forward.default.redispatch(
            cpu, *problem.arguments(), "nothing"
        )


@each_meta
def test_a_layer_refuses_tensors_of_two_devices(change, name):
    problem = change(small_problem("lstm", lengths=True, resets=True))
    with pytest.raises(RuntimeError, match="must be on cpu, where the input is, got meta"):
        run_kernels(problem)


# ---- forward mode: a tangent would be lost ----

NO_JVP = (
    "forward-mode derivatives (jvp) are not implemented by the op; fastcells.functional and the "
    "layers take them"
)


@pytest.mark.parametrize("name", ["input", "h_0", "c_0", "weight_ih", "bias_hh_reverse"])
def test_ops_refuse_a_tangent(name):
    problem = small_problem("lstm")
    variables = problem.variables()
    with forward_ad.dual_level():
        variables[name] = forward_ad.make_dual(variables[name], variables[name])
        dual = problem.with_variables(variables.values())
        with refused(NotImplementedError, NO_JVP):
            ops.recurrent_forward(*dual.arguments(), "nothing")


def test_step_op_refuses_a_tangent():
    problem = small_problem("gru", directions=1)
    with forward_ad.dual_level():
        h = forward_ad.make_dual(problem.h_0[0], problem.h_0[0])
        with refused(NotImplementedError, NO_JVP, "recurrent_step"):
            ops.recurrent_step("gru", problem.input[0], h, None, problem.weights, problem.names)


# ---- the op of the way back ----


def backward_arguments(cell="lstm", proj_size=0):
    """By name, in the order of ops.recurrent_backward."""
    problem = small_problem(cell, 2, proj_size, lengths=True)
    output, h_n, c_n, cells, saved = ops.recurrent_forward(*problem.arguments(), "everything")
    name, directions, input, h_0, c_0, weights, names, lengths, resets = problem.arguments()
    return {
        "cell": name, "directions": directions,
        "grads": [torch.ones_like(t) for t in (output, h_n, c_n, cells)],
        "input": input, "h_0": h_0, "c_0": c_0, "weights": weights, "names": names,
        "lengths": lengths, "resets": resets, "kept": [output, cells, saved],
        "needs": [True] * (3 + len(weights)),
    }  # fmt: skip


# Which list of arguments is changed where, the error, and its text. H=6, P=3, S=5.
BACKWARD_REFUSED = {
    "grad_output": (
        "grads",
        0,
        "grad_output must have shape (T, B, D*P) = (5, 4, 6), got (4, 4, 6)",
    ),
    "grad_h_n": ("grads", 1, "grad_h_n must have shape (D, B, P) = (2, 4, 3), got (1, 4, 3)"),
    "grad_c_n": ("grads", 2, "grad_c_n must have shape (D, B, H) = (2, 4, 6), got (1, 4, 6)"),
    "grad_cells": (
        "grads",
        3,
        "grad_cells must have shape (T, B, D*H) = (5, 4, 12), got (4, 4, 12)",
    ),
    "output": ("kept", 0, "output must have shape (T, B, D*P) = (5, 4, 6), got (4, 4, 6)"),
    "cells": ("kept", 1, "cells must have shape (T, B, D*H) = (5, 4, 12), got (4, 4, 12)"),
    "saved": (
        "kept",
        2,
        "saved must have shape (D, T, B, S*H) = (2, 5, 4, 30), got (1, 5, 4, 30)",
    ),
}


@pytest.mark.parametrize(
    ("which", "index", "text"), BACKWARD_REFUSED.values(), ids=BACKWARD_REFUSED.keys()
)
def test_backward_op_refuses_another_shape_and_dtype(which, index, text):
    arguments = backward_arguments(proj_size=3)
    tensor = arguments[which][index]
    arguments[which][index] = tensor[:-1]
    with refused(RuntimeError, text, "recurrent_backward"):
        ops.recurrent_backward(**arguments)
    arguments[which][index] = tensor.float()
    name = text.partition(" must")[0]
    text = f"{name} must have dtype Double, got Float. Convert it with .to(...)"
    with refused(TypeError, text, "recurrent_backward"):
        ops.recurrent_backward(**arguments)


def test_backward_op_refuses_needs_of_another_number():
    arguments = backward_arguments("gru")
    arguments["needs"] = [True] * 4
    with refused(RuntimeError, "needs must have 3 + 8 values, got 4", "recurrent_backward"):
        ops.recurrent_backward(**arguments)


def test_backward_op_checks_the_layer_as_the_forward_op_does():
    arguments = backward_arguments("gru") | {"lengths": torch.tensor([5, 0, 6, 1])}
    text = "lengths must lie in 0 .. T = 5, got values from 0 to 6"
    with refused(ValueError, text, "recurrent_backward"):
        ops.recurrent_backward(**arguments)


def test_a_traced_gradient_needs_what_keep_everything_or_states_keeps():
    problem = small_problem("gru")
    problem.input.requires_grad_()
    text = (
        "gradients need keep='everything' or 'states', got keep='cells'; fastcells.functional "
        "chooses it by itself"
    )
    with refused(RuntimeError, text):
        ops.recurrent_forward(*problem.arguments(), "cells")


# ---- the op of one step ----


def test_step_op_refuses_a_sequence():
    problem = small_problem("gru", directions=1)
    with refused(RuntimeError, "input must have shape (B, I), got (5, 4, 3)", "recurrent_step"):
        ops.recurrent_step("gru", problem.input, None, None, problem.weights, problem.names)


def test_step_op_checks_states_and_weights_as_a_layer_of_one_step():
    problem = small_problem("lstm", directions=1)
    x, h, c = problem.input[0], problem.h_0[0], problem.c_0[0]
    text = "h_0 must have shape (D, B, P) = (1, 4, 6), got (1, 3, 6)"
    with refused(RuntimeError, text, "recurrent_step"):
        ops.recurrent_step("lstm", x, h[:3], c, problem.weights, problem.names)
    with refused(
        TypeError,
        "c_0 must have dtype Double, got Float. Convert it with .to(...)",
        "recurrent_step",
    ):
        ops.recurrent_step("lstm", x, h, c.float(), problem.weights, problem.names)
    with refused(RuntimeError, COUNT.format(1, 1), "recurrent_step"):
        ops.recurrent_step("lstm", x, h, c, problem.weights[:1], problem.names)
    with refused(ValueError, f"fastcells: unknown cell 'elman', known are {KNOWN}"):
        ops.recurrent_step("elman", x, h, c, problem.weights, problem.names)
