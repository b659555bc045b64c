"""lengths= gives what torch gives for a PackedSequence, and takes rows without a step."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastcells
from pairs import (
    PROJECTED,
    B,
    H,
    I,
    T,
    assert_near,
    each_batch_first,
    each_layer,
    evaluate,
    float64,
    layer_cases,
    make_hx,
    make_input,
    make_pair,
    one_thread,  # noqa: F401 (an autouse fixture)
    quiet_projections,
    tensors_of,
)

pytestmark = quiet_projections
OPTIONS = {
    "plain": {},
    "both_ways": {"bidirectional": True},
    "two_layers_both_ways": {"num_layers": 2, "bidirectional": True},
    "no_bias": {"bias": False, "bidirectional": True},
}
each_case = pytest.mark.parametrize(("kind", "options"), [*layer_cases(OPTIONS), PROJECTED])
LENGTHS = {
    "unsorted": [2, 5, 1, 3],
    "with_empty_rows": [0, 5, 0, 3],
    "all_short": [2, 1, 2, 2],
    "all_full": [5, 5, 5, 5],
    "all_empty": [0, 0, 0, 0],
}
each_lengths = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())


class ByPacking(nn.Module):
    """torch's layer on a PackedSequence; rows without a step stay outside and keep their state."""

    def __init__(self, layer, lengths):
        super().__init__()
        self.layer, self.lengths = layer, lengths

    def forward(self, input, hx=None):
        layer, batch_dim = self.layer, 0 if self.layer.batch_first else 1
        rows = self.lengths.nonzero().squeeze(1)
        batch, steps = input.shape[batch_dim], input.shape[1 - batch_dim]
        if hx is None:
            hx = [torch.zeros_like(s) for s in tensors_of(make_hx(layer, batch, input.dtype))]
        states = tensors_of(hx)
        directions = 2 if layer.bidirectional else 1
        width = directions * (layer.proj_size or layer.hidden_size)
        shape = (batch, steps, width) if layer.batch_first else (steps, batch, width)
        # Adding it gives a gradient of 0 where nothing runs.
        zero = 0 * (input.sum() + sum(p.sum() for p in layer.parameters()))
        output, states = input.new_zeros(shape) + zero, [state + zero for state in states]
        if len(rows):
            packed = pack_padded_sequence(
                input.index_select(batch_dim, rows), self.lengths[rows], layer.batch_first, False
            )
            inner = [state.index_select(1, rows) for state in states]
            found, last = layer(packed, tuple(inner) if len(inner) == 2 else inner[0])
            padded, _ = pad_packed_sequence(found, layer.batch_first, total_length=steps)
            output = output.index_copy(batch_dim, rows, padded)
            last = tensors_of(last)
            states = [s.index_copy(1, rows, new) for s, new in zip(states, last, strict=True)]
        return output, tuple(states) if len(states) == 2 else states[0]


def evaluate_by_packing(layer, input, hx, lengths):
    found = evaluate(ByPacking(layer, lengths), input, hx)
    return {name.replace("layer.", ""): tensor for name, tensor in found.items()}


@pytest.mark.parametrize("has_hx", [False, True], ids=["zeros", "hx"])
@each_batch_first
@each_lengths
@each_case
def test_results_and_gradients_are_those_of_a_packed_sequence(
    kind, options, lengths, batch_first, has_hx
):
    ours, theirs = make_pair(kind, batch_first=batch_first, **options, **float64)
    input = torch.randn(*((B, T) if batch_first else (T, B)), I, **float64)
    lengths = torch.tensor(lengths)
    hx = make_hx(ours, B) if has_hx else None
    found = evaluate(ours, input, hx, lengths=lengths)
    assert_near(found, evaluate_by_packing(theirs, input, hx, lengths))
    past = torch.arange(T)[:, None] >= lengths
    past = past.t() if batch_first else past
    assert not found["result 0"][past].any()
    assert not found["grad of argument 0"][past].any()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_lengths_of_any_layer_are_those_of_a_packed_sequence(data):
    kind = data.draw(st.sampled_from(["RNN", "LSTM", "GRU"]))
    steps, batch = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    options = {
        "num_layers": data.draw(st.integers(1, 3)),
        "bidirectional": data.draw(st.booleans()),
        "bias": data.draw(st.booleans()),
        "batch_first": data.draw(st.booleans()),
    }
    sizes = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    rows = data.draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    ours, theirs = make_pair(kind, *sizes, **options, **float64)
    shape = (batch, steps) if options["batch_first"] else (steps, batch)
    input, hx = torch.randn(*shape, sizes[0], **float64), make_hx(ours, batch)
    lengths = torch.tensor(rows)
    assert_near(
        evaluate(ours, input, hx, lengths=lengths), evaluate_by_packing(theirs, input, hx, lengths)
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=["nan", "inf"])
@each_case
def test_what_stands_past_the_end_has_no_effect_on_anything(kind, options, value):
    """Values and gradients, bit for bit; also what stands there in the gradient of the output."""
    layer = getattr(fastcells, kind)(I, H, **options, **float64)
    input, hx, lengths = make_input(kind), make_hx(layer, B), torch.tensor([5, 2, 0, 3])
    past = torch.arange(T)[:, None] >= lengths
    found = []
    for filling in (0.0, value):
        filled = input.masked_fill(past[:, :, None], filling).requires_grad_()
        results = tensors_of(layer(filled, hx, lengths=lengths))
        torch.manual_seed(1)
        cotangents = [torch.randn_like(r) for r in results]
        cotangents[0].masked_fill_(past[:, :, None], filling)
        grads = torch.autograd.grad(results, [filled, *layer.parameters()], cotangents)
        found.append([*results, *grads])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(tensor.isfinite().all() for tensor in found[1])


@each_layer
def test_padding_may_be_of_any_length(kind):
    layer = getattr(fastcells, kind)(I, H, bidirectional=True, **float64)
    input, lengths = make_input(kind), torch.tensor([3, 2, 0, 3])
    short = tensors_of(layer(input[:3], lengths=lengths))
    long = tensors_of(layer(input, lengths=lengths))
    assert not long[0][3:].any()
    assert_near(dict(enumerate([long[0][:3], *long[1:]])), dict(enumerate(short)))


@each_layer
def test_rows_do_not_know_of_each_other(kind):
    layer = getattr(fastcells, kind)(I, H, bidirectional=True, **float64)
    input, lengths = make_input(kind), torch.tensor([3, 5, 0, 1])
    together = layer(input, lengths=lengths)[0]
    for row, length in enumerate(lengths.tolist()):
        if length:
            alone = layer(input[:length, row : row + 1])[0]
            assert_near({"output": together[:length, row]}, {"output": alone[:, 0]})


@each_layer
def test_full_lengths_are_no_lengths(kind):
    layer = getattr(fastcells, kind)(I, H, num_layers=2, bidirectional=True, **float64)
    input, hx = make_input(kind), make_hx(layer, B)
    found = evaluate(layer, input, hx, lengths=torch.full((B,), T))
    assert_near(found, evaluate(layer, input, hx))


@pytest.mark.parametrize("length", [0, 2, T])
@each_batch_first
@each_layer
def test_one_sequence_takes_a_length_without_dimensions(kind, batch_first, length):
    layer = getattr(fastcells, kind)(I, H, batch_first=batch_first, bidirectional=True, **float64)
    input, hx = torch.randn(T, I, **float64), make_hx(layer)
    alone = tensors_of(layer(input, hx, lengths=torch.tensor(length)))
    batch_dim = 0 if batch_first else 1
    states = [s.unsqueeze(1) for s in tensors_of(hx)]
    batched = tensors_of(
        layer(
            input.unsqueeze(batch_dim),
            tuple(states) if len(states) == 2 else states[0],
            lengths=torch.tensor([length]),
        )
    )
    dims = [batch_dim, 1, 1]
    expected = [t.squeeze(dim) for t, dim in zip(batched, dims[: len(batched)], strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(alone, expected, strict=True))
    assert not alone[0][length:].any()


@each_layer
def test_lengths_of_a_batch_without_rows_are_taken(kind):
    layer = getattr(fastcells, kind)(I, H, **float64)
    output = layer(torch.randn(T, 0, I, **float64), lengths=torch.zeros(0, dtype=torch.int64))[0]
    assert output.shape == (T, 0, H)


@each_layer
def test_lengths_may_lie_anywhere_and_stay_as_they_are(kind):
    layer = getattr(fastcells, kind)(I, H, bidirectional=True, **float64)
    input, lengths = make_input(kind), torch.tensor([3, 5, 0, 1])
    strided = torch.stack([lengths, lengths + 9], 1)[:, 0]
    assert not strided.is_contiguous()
    expected = evaluate(layer, input, lengths=lengths)
    assert_near(evaluate(layer, input, lengths=strided), expected, 0)
    assert lengths.tolist() == strided.tolist() == [3, 5, 0, 1]


@each_layer
def test_dropout_leaves_what_is_past_the_end_at_zero(kind):
    layer = getattr(fastcells, kind)(I, H, num_layers=3, dropout=0.5, bidirectional=True)
    lengths = torch.tensor([3, 5, 0, 1])
    output = layer(torch.randn(T, B, I), lengths=lengths)[0]
    past = torch.arange(T)[:, None] >= lengths
    assert not output[past].any()
    assert output[~past].any(-1).all()
