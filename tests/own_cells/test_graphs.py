"""Graphs of random cells: values, gradients, and what the way back is left with."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastcells.equations.derivative import differentiate
from fastcells.equations.expression import cost, evaluate
from fastcells.equations.saving import MOST_AGAIN, choose_kept
from fastcells.equations.specification import specify
from fastcells.equations.tracing import trace
from programs import OPERATIONS, Program, work

STEPS = st.tuples(
    st.sampled_from(sorted(OPERATIONS)),
    st.integers(0, 30),
    st.integers(0, 30),
    st.sampled_from([-1.3, 0.4, 2.0, 2.5]),
)
PROGRAMS = st.builds(
    Program, st.sampled_from(["dense", "vector"]), st.lists(STEPS, max_size=9).map(tuple)
)
random_cells = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def close(actual, expected, what):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11, msg=lambda m: what + m)


@random_cells
@given(PROGRAMS)
def test_a_graph_gives_what_the_function_gives(program):
    torch.manual_seed(0)
    done = work(program)
    for found, expected in zip(
        evaluate(list(done.equations.results), done.leaves), done.results, strict=True
    ):
        close(found, expected, "result: ")


@random_cells
@given(PROGRAMS)
def test_gradients_are_autograds_and_follow_from_what_is_kept(program):
    check_gradients(program)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_gradient_of_every_operation_is_autograds(operation):
    check_gradients(Program("dense", ((operation, 0, 3, 2.5), (operation, 2, 7, 0.4))))


def check_gradients(program):
    torch.manual_seed(0)
    done = work(program)
    nodes = [done.gradients[key] for key in done.expected]
    kept = dict(zip(done.kept.nodes, evaluate(list(done.kept.nodes), done.leaves), strict=True))
    kept[done.equations.results[1]] = done.results[1]
    gone = {
        key: leaf if key[0] in ("state", "u", "d") else torch.full_like(leaf, float("nan"))
        for key, leaf in done.leaves.items()
    }
    for leaves, known in ((done.leaves, {}), (gone, kept)):
        for (kind, index), found in zip(done.expected, evaluate(nodes, leaves, known), strict=True):
            close(found, done.expected[kind, index], f"gradient of {kind} {index}: ")


@random_cells
@given(PROGRAMS)
def test_what_is_computed_again_is_bounded(program):
    done = work(program)
    there = set(done.equations.graph.reachable(list(done.equations.results)))
    again = sum(cost(node) for node in done.kept.again if node in there)
    assert again <= MOST_AGAIN * sum(map(cost, there))


def lstm(x, h, state, p):
    i, f, o = (torch.sigmoid(a + b) for a, b in ((x.i, h.i), (x.f, h.f), (x.o, h.o)))
    c = f * state.c + i * torch.tanh(x.g + h.g)
    return o * torch.tanh(c), c


def gru(x, h, state, p):
    r, z = torch.sigmoid(x.r + h.r), torch.sigmoid(x.z + h.z)
    n = torch.tanh(x.n + r * h.n)
    return (1 - z) * n + z * h.prev


@pytest.mark.parametrize(
    ("function", "gates", "states", "kept"), [(lstm, "i f g o", "c", 4), (gru, "r z n", "", 4)]
)
def test_as_little_is_kept_as_by_hand(function, gates, states, kept):
    equations = trace(specify(function, gates, "dense", None, states, {}, {}))
    found = choose_kept(equations, differentiate(equations))
    assert len(found.nodes) == kept
    assert all(node.operation in ("sigmoid", "tanh", "h") for node in found.nodes)


def test_much_arithmetic_is_kept_and_not_computed_again():
    def costly(x, h, state, p):
        return torch.sin(x.a) * torch.erf(x.a) * torch.cos(2 * x.a) + h.prev

    equations = trace(specify(costly, "a", "none", None, "", {}, {}))
    found = choose_kept(equations, differentiate(equations))
    assert len(found.nodes) > 1  # x.a alone would do
