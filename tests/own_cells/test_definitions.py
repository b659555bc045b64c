"""What fastcells.cell refuses, in the user's names and with the line."""

import random

import pytest
import torch
from torch.nn import functional as F

import fastcells
from fastcells import CellError, cell

COUNT = 0


def take(function, **options):
    return cell(**({"gates": "a b"} | options))(function)


def refusal(function, **options):
    with pytest.raises(CellError) as caught:
        take(function, **options)
    return str(caught.value)


def line_of(text):
    """A refusal without its line's number and path."""
    before, _, rest = text.partition(", line ")
    number, _, rest = rest.partition(" of ")
    assert number.isdigit() and rest.startswith(__file__)
    return before + rest.removeprefix(__file__)


def good(x, h, state, p):
    return torch.tanh(x.a + h.a) * torch.sigmoid(x.b + h.b)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gates": ""}, "cell: gates must name one gate at least, got none"),
        ({"gates": 3}, "cell: gates must be names with spaces between, got 3"),
        ({"gates": "a 1"}, "cell: gates must be names of Python that do not begin with _, got '1'"),
        ({"gates": "a a"}, "cell: gates must be different, got a a"),
        ({"gates": "a prev"}, "cell: no gate may be named prev: h.prev is h itself"),
        ({"states": "c h"}, "cell: states are those beside h, which every cell has; got h among "
         "them"),
        ({"recurrent": "full"}, "cell: recurrent must be one of 'dense', 'vector', 'none', got "
         "'full'"),
        ({"recurrent_gates": "q"}, "cell: recurrent_gates must be among the gates a b, got 'q'"),
        ({"recurrent_gates": ""}, "cell: recurrent_gates is empty; a cell without them has "
         "recurrent='none'"),
        ({"recurrent": "none", "recurrent_gates": "a"}, "cell: recurrent='none' has no "
         "recurrent_gates, but they were given"),
        ({"biases": {"q": 1.0}}, "cell: biases must be among the gates a b, got 'q'"),
        ({"parameters": {"w": "1"}}, "cell: parameters['w'] must be a finite number, got '1'"),
        ({"parameters": ["w"]}, "cell: parameters must be a dictionary from name to value, got "
         "['w']"),
        ({"parameters": {"bias_ih": 1}}, "cell: a parameter may not be named bias_ih, as the "
         "layer's weights are"),
    ],
)  # fmt: skip
def test_declarations_that_do_not_fit_are_refused(options, told):
    assert refusal(good, **options) == told


def unknown_gate(x, h, state, p):
    return x.q + h.a


def product(x, h, state, p):
    return torch.matmul(x.a, h.b)


def control_flow(x, h, state, p):
    return x.a if x.b > 0 else h.a


def as_number(x, h, state, p):
    return float(x.a) * x.b


def noise(x, h, state, p):
    return x.a + F.dropout(x.b)


def over_units(x, h, state, p):
    return x.a - x.b.mean()


def shape(x, h, state, p):
    return x.a / x.b.shape[-1]


def in_place(x, h, state, p):
    return x.a.add_(x.b)


def augmented(x, h, state, p):
    y = x.a
    y += x.b
    return y


def sets_a_state(x, h, state, p):
    state.c = x.a


def outside(x, h, state, p):
    global COUNT
    COUNT += 1
    return x.a


def foreign_tensor(x, h, state, p):
    return x.a + torch.ones(3)


def not_known(x, h, state, p):
    return torch.round(x.a)


def wrong_bound(x, h, state, p):
    return torch.clamp(x.a, x.b)


def raises(x, h, state, p):
    return x.a + missing  # noqa: F821


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (unknown_gate, "`return x.q + h.a`: x has no 'q'; it has a, b"),
        (product, "`return torch.matmul(x.a, h.b)`: torch.matmul is a product over the units. A "
         "cell has those of its gates: x.gate is W_ih x + b_ih, h.gate is W_hh h + b_hh"),
        (control_flow, "`return x.a if x.b > 0 else h.a`: a value steers the control flow, or is "
         "asked for as a number. Values are not known here: write torch.where(condition, a, b), "
         "and torch's functions in the place of math's"),
        (as_number, "`return float(x.a) * x.b`: a value steers the control flow, or is asked for "
         "as a number. Values are not known here: write torch.where(condition, a, b), and torch's "
         "functions in the place of math's"),
        (noise, "`return x.a + F.dropout(x.b)`: torch.nn.functional.dropout is random. A cell "
         "follows from its arguments; dropout= stands between layers"),
        (over_units, "`return x.a - x.b.mean()`: Tensor.mean reads other units. A cell is said for "
         "one unit, as all of them are computed"),
        (shape, "`return x.a / x.b.shape[-1]`: torch.getattr asks for a shape, which is not known "
         "here, or changes it"),
        (in_place, "`return x.a.add_(x.b)`: Tensor.add_ changes a value in place. Give the result "
         "a name instead"),
        (augmented, "`y += x.b`: an assignment like += changes a tensor in place, and whoever else "
         "holds it. Write y = y + z"),
        (sets_a_state, "`state.c = x.a`: state.c cannot be set: the new states are returned, h "
         "first, in their order"),
        (outside, "`COUNT += 1`: an assignment like += changes a tensor in place, and whoever else "
         "holds it. Write y = y + z"),
        (foreign_tensor, "`return x.a + torch.ones(3)`: a tensor that is no argument of the cell. "
         "Numbers are constants; a value a unit is a parameter: parameters={'name': initial "
         "value}"),
        (wrong_bound, "`return torch.clamp(x.a, x.b)`: torch.clamp: the bounds must be numbers; "
         "minimum and maximum take values"),
        (raises, "`return x.a + missing  # noqa: F821`: NameError: name 'missing' is not defined"),
    ],
)  # fmt: skip
def test_what_a_cell_cannot_say_is_refused_with_its_line(function, told):
    assert line_of(refusal(function)) == f"{function.__name__}: {told}"


def test_an_operation_that_is_not_known_is_told_with_those_that_are():
    told = line_of(refusal(not_known))
    assert told.startswith("not_known: `return torch.round(x.a)`: torch.round is not among what a")


def test_what_fails_on_tensors_is_refused():
    def no_tensors(x, h, state, p):
        return (x.a + h.a).maximum(0.0) + x.b + h.b

    assert line_of(refusal(no_tensors)).startswith(
        "no_tensors: `return (x.a + h.a).maximum(0.0) + x.b + h.b`: on tensors it fails, "
        "TypeError: maximum(): argument 'other'"
    )


def test_what_is_no_function_is_refused():
    class Callable:
        __name__ = "callable"

        def __call__(self, x, h, state, p):
            return x.a

    assert refusal(Callable()) == ("cell: decorates a function of (x, h, state, p), got a Callable")


def test_a_state_that_is_not_returned_is_refused():
    def forgets(x, h, state, p):
        return torch.tanh(x.a + h.a + x.b + h.b)

    assert refusal(forgets, states="c") == (
        "forgets: the function must return the new h, c, 2 values, got 1"
    )


def test_a_result_that_is_no_value_is_refused():
    assert refusal(lambda x, h, state, p: 1.0) == (
        "<lambda>: the new h must be a value made of the arguments, got a float"
    )


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"gates": "a b c"}, "gate x.c is declared and not used"),
        ({"parameters": {"w": 1.0}}, "parameter p.w is declared and not used"),
    ],
)
def test_what_is_declared_and_not_used_is_refused(options, what):
    assert refusal(good, recurrent_gates="a b", **options) == f"good: {what}"


def test_a_gate_without_its_recurrent_part_is_told_what_to_declare():
    def half(x, h, state, p):
        return torch.tanh(x.a + h.a) * x.b

    assert refusal(half) == (
        "half: gate h.b is declared and not used; recurrent_gates= names those that are"
    )
    assert take(half, recurrent_gates="a")(3, 4).weight_hh_l0.shape == (4, 4)


def test_a_cell_that_differs_from_call_to_call_is_refused():
    def jumps(x, h, state, p):
        return random.random() * good(x, h, state, p)

    assert refusal(jumps).startswith("jumps: two calls of the function gave different equations")


def test_a_change_outside_is_refused():
    seen = 0

    def counts(x, h, state, p):
        nonlocal seen
        seen = seen + 1
        return good(x, h, state, p)

    assert "the function changes seen, which lives outside it" in refusal(counts)


def test_two_definitions_of_one_name_do_not_meet():
    def twice(factor):
        @cell(gates="a", recurrent="none")
        def same_name(x, h, state, p):
            return factor * x.a + h.prev

        return same_name

    one, other, again = twice(1.0), twice(2.0), twice(2.0)
    assert one.definition.name != other.definition.name == again.definition.name


def test_the_source_is_a_struct_in_the_users_names():
    source = fastcells.cells.coupled_lstm.source
    assert "struct CoupledLstm {" in source
    assert "static constexpr int kGates = 3;  // f, g, o" in source
    assert "const A f = sigmoid(x[0] + g[0]);" in source
    assert max(map(len, source.splitlines())) <= 100
