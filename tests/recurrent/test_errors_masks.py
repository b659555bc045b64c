"""What a layer refuses of lengths= and resets=, which torch.nn has not: type and whole text."""

import re

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

import fastcells
from fastcells import functional
from pairs import B, H, I, T, each_layer, make_input
from refusals import (
    UNKNOWN,
    Refusal,
    assert_refused,
    assert_refused_by_both,
    no_kernel,  # noqa: F401 (a fixture)
    parametrize,
)

int64 = torch.int64
INTEGERS = "{{name}}: lengths must have dtype torch.int64, got {}. Convert it with .to(torch.int64)"
BOOLEANS = "{{name}}: resets must have dtype torch.bool, got {}. Convert it with .to(torch.bool)"
LENGTHS_SHAPE = "{{name}}: lengths must have shape {} = {}, got {}"
ROWS = "like the input's first two dimensions"
RESETS_SHAPE = "{{name}}: resets must have shape {} = {}, got {}"
DEVICE = "{{name}}: {} must be on cpu, where the input is, got meta"
DENSE = (
    "{{name}}: {} must be a dense tensor (layout torch.strided), got layout torch.sparse_coo. "
    "Convert it with .to_dense() or to a padded tensor"
)


def refused(what, value, error, text, input_shape=(T, B, I), **options):
    def call(layer):
        return layer(torch.zeros(input_shape), **{what: value})

    return Refusal(call, error, text, UNKNOWN, options)


def lengths(value, error, text, *rest, **options):
    return refused("lengths", value, error, text, *rest, **options)


def resets(value, error, text, *rest, **options):
    return refused("resets", value, error, text, *rest, **options)


def ones(*shape, dtype=int64):
    return torch.ones(shape, dtype=dtype)


REFUSALS = {
    **{
        f"lengths of {dtype}": lengths(ones(B, dtype=dtype), TypeError, INTEGERS.format(dtype))
        for dtype in (torch.float32, torch.int32, torch.uint8)
    },
    "lengths in a list": lengths(
        [1] * B, TypeError, "{name}: lengths must be a Tensor, got list"
    ),
    "a number as length": lengths(3, TypeError, "{name}: lengths must be a Tensor, got int"),
    "lengths of too few rows": lengths(
        ones(3), ValueError, LENGTHS_SHAPE.format("(B,)", "(4,)", "(3,)")
    ),
    "lengths of too many rows": lengths(
        ones(T), ValueError, LENGTHS_SHAPE.format("(B,)", "(4,)", "(5,)")
    ),
    "lengths of the steps with batch_first": lengths(
        ones(T), ValueError, LENGTHS_SHAPE.format("(B,)", "(4,)", "(5,)"), (B, T, I),
        batch_first=True,
    ),
    "lengths in a column": lengths(
        ones(B, 1), ValueError, LENGTHS_SHAPE.format("(B,)", "(4,)", "(4, 1)")
    ),
    "one length of a batch": lengths(
        torch.tensor(3), ValueError, LENGTHS_SHAPE.format("(B,)", "(4,)", "()")
    ),
    "lengths of one sequence": lengths(
        ones(1), ValueError, LENGTHS_SHAPE.format("()", "()", "(1,)"), (T, I)
    ),
    "lengths on meta": lengths(ones(B).to("meta"), ValueError, DEVICE.format("lengths")),
    "sparse lengths": lengths(ones(B).to_sparse(), TypeError, DENSE.format("lengths")),
    **{
        f"resets of {dtype}": resets(ones(T, B, dtype=dtype), TypeError, BOOLEANS.format(dtype))
        for dtype in (torch.float32, int64, torch.uint8)
    },
    "resets in a list": resets(
        [[True]], TypeError, "{name}: resets must be a Tensor, got list"
    ),
    "resets of the steps": resets(
        ones(T, dtype=torch.bool), ValueError, RESETS_SHAPE.format(ROWS, "(5, 4)", "(5,)")
    ),
    "resets of batch_first": resets(
        ones(B, T, dtype=torch.bool), ValueError, RESETS_SHAPE.format(ROWS, "(5, 4)", "(4, 5)")
    ),
    "resets of steps first": resets(
        ones(T, B, dtype=torch.bool), ValueError, RESETS_SHAPE.format(ROWS, "(4, 5)", "(5, 4)"),
        (B, T, I), batch_first=True,
    ),
    "resets of every feature": resets(
        ones(T, B, I, dtype=torch.bool), ValueError,
        RESETS_SHAPE.format(ROWS, "(5, 4)", "(5, 4, 3)"),
    ),
    "resets of one sequence": resets(
        ones(T, 1, dtype=torch.bool), ValueError, RESETS_SHAPE.format("(T,)", "(5,)", "(5, 1)"),
        (T, I),
    ),
    "resets on meta": resets(
        ones(T, B, dtype=torch.bool).to("meta"), ValueError, DEVICE.format("resets")
    ),
    "sparse resets": resets(
        ones(T, B, dtype=torch.bool).to_sparse(), TypeError, DENSE.format("resets")
    ),
}  # fmt: skip


@parametrize(REFUSALS)
@pytest.mark.usefixtures("no_kernel")
def test_a_wrong_mask_is_refused(kind, refusal):
    assert_refused_by_both(kind, refusal)


@pytest.mark.usefixtures("no_kernel")
@each_layer
def test_a_layer_without_cell_states_does_not_take_the_question(kind):
    layer = getattr(fastcells, kind)(I, H)
    if kind == "LSTM":
        with pytest.raises(AssertionError, match="a kernel ran"):
            layer(torch.zeros(T, B, I), return_cell_states=True)
    else:
        with pytest.raises(TypeError, match="unexpected keyword argument 'return_cell_states'"):
            layer(torch.zeros(T, B, I), return_cell_states=True)


RANGES = {
    "beyond the end": ([5, 0, 6, 1], "from 0 to 6"),
    "below zero": ([5, -1, 2, 1], "from -1 to 5"),
    "far beyond": ([2**62, 1, 1, 1], f"from 1 to {2**62}"),
    "far below": ([-(2**63), 1, 1, 1], f"from {-(2**63)} to 1"),
}


@pytest.mark.parametrize(("values", "span"), RANGES.values(), ids=RANGES.keys())
@pytest.mark.parametrize("has_grad", [False, True], ids=["no_grad", "grad"])
@each_layer
def test_lengths_out_of_range_are_refused(kind, values, span, has_grad):
    """By the op, which alone can look at them inside a graph: the text names it."""
    layer = getattr(fastcells, kind)(I, H)
    with torch.set_grad_enabled(has_grad), pytest.raises(ValueError) as found:
        layer(make_input(kind, torch.float32), lengths=torch.tensor(values))
    assert str(found.value) == (
        f"fastcells::recurrent_forward: lengths must lie in 0 .. T = 5, got values {span}"
    )


@pytest.mark.parametrize(("values", "span"), RANGES.values(), ids=RANGES.keys())
@each_layer
def test_the_reference_refuses_lengths_out_of_range_too(kind, values, span, monkeypatch):
    monkeypatch.setattr(functional.routing, "is_compiled", lambda: False)
    layer, input = getattr(fastcells, kind)(I, H), make_input(kind, torch.float32)
    assert_refused(
        lambda: layer(input, lengths=torch.tensor(values)),
        ValueError,
        f"lengths must lie in 0 .. T = 5, got values {span}",
    )


@each_layer
def test_a_length_of_one_sequence_is_refused_out_of_range(kind):
    with pytest.raises(ValueError, match=r"must lie in 0 \.\. T = 5, got values from 6 to 6$"):
        getattr(fastcells, kind)(I, H)(torch.zeros(T, I), lengths=torch.tensor(6))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_packed_input_whose_data_do_not_fit_its_batch_sizes_is_refused(kind):
    packed = PackedSequence(torch.zeros(6, I), torch.tensor([3, 2]))
    text = (
        f"{kind}: data of a PackedSequence must have as many rows as batch_sizes add up to = 5, "
        "got 6"
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(text)}$"):
        getattr(fastcells, kind)(I, H)(packed)
