"""A PackedSequence whose parts do not fit together is refused, and the error names the part."""

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fastcells

LAYERS = [fastcells.RNN, fastcells.LSTM, fastcells.GRU]
each_layer = pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)


def packed(sizes, rows=None, order=None, back=None):
    data = torch.ones(sum(sizes) if rows is None else rows, 2)
    return PackedSequence(data, torch.tensor(sizes), order, back)


def numbers(*values, dtype=torch.int64):
    return torch.tensor(values, dtype=dtype)


BROKEN = {
    "rise": (
        lambda: packed([2, 3, 1]),
        "batch_sizes of a PackedSequence must be positive and never rise, got 3 after 2 at step 1",
    ),
    "rise later": (
        lambda: packed([2, 1, 2]),
        "batch_sizes of a PackedSequence must be positive and never rise, got 2 after 1 at step 2",
    ),
    "zero": (
        lambda: packed([2, 1, 0]),
        "batch_sizes of a PackedSequence must be positive and never rise, got 0 after 1 at step 2",
    ),
    "negative": (
        lambda: packed([2, -1], rows=1),
        "batch_sizes of a PackedSequence must be positive and never rise, got -1 after 2 at step 1",
    ),
    "sum too small": (
        lambda: packed([2, 1], rows=4),
        "data of a PackedSequence must have as many rows as batch_sizes add up to = 3, got 4",
    ),
    "sum too large": (
        lambda: packed([2, 2], rows=3),
        "data of a PackedSequence must have as many rows as batch_sizes add up to = 4, got 3",
    ),
    "no steps": (
        lambda: packed([], rows=0),
        "batch_sizes of a PackedSequence must be int64 on the CPU, got torch.float32 on cpu",
    ),
    "two dimensions": (
        lambda: PackedSequence(torch.ones(3, 2), torch.tensor([[2, 1]])),
        "batch_sizes of a PackedSequence must have shape (T,) with T > 0, got (1, 2)",
    ),
    "int32": (
        lambda: PackedSequence(torch.ones(3, 2), numbers(2, 1, dtype=torch.int32)),
        "batch_sizes of a PackedSequence must be int64 on the CPU, got torch.int32 on cpu",
    ),
    "short order": (
        lambda: packed([3, 2], order=numbers(1, 0), back=numbers(1, 0, 2)),
        "sorted_indices of a PackedSequence must have shape (B,) = (3,), B being batch_sizes[0], "
        "got (2,)",
    ),
    "order out of range": (
        lambda: packed([3, 2], order=numbers(0, 1, 3), back=numbers(0, 1, 2)),
        "sorted_indices of a PackedSequence must hold each of 0 .. B - 1 = 2 once, got [0, 1, 3]",
    ),
    "negative order": (
        lambda: packed([3, 2], order=numbers(0, 1, 2), back=numbers(0, 1, -1)),
        "unsorted_indices of a PackedSequence must hold each of 0 .. B - 1 = 2 once, got "
        "[0, 1, -1]",
    ),
    "twice": (
        lambda: packed([3, 2], order=numbers(0, 0, 2), back=numbers(0, 1, 2)),
        "sorted_indices of a PackedSequence must hold each of 0 .. B - 1 = 2 once, got [0, 0, 2]",
    ),
    "not the inverse": (
        lambda: packed([3, 2], order=numbers(1, 2, 0), back=numbers(1, 2, 0)),
        "unsorted_indices of a PackedSequence must undo sorted_indices = [1, 2, 0], got [1, 2, 0]",
    ),
    "order of int32": (
        lambda: packed([2, 1], order=numbers(1, 0, dtype=torch.int32), back=numbers(1, 0)),
        "sorted_indices of a PackedSequence must be int64 on cpu, where the data are, got "
        "torch.int32 on cpu",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
@each_layer
def test_a_broken_structure_is_refused_by_its_part(kind, case):
    make, text = BROKEN[case]
    if case == "no steps":
        given = PackedSequence(torch.ones(0, 2), torch.tensor([]))
        text = "batch_sizes of a PackedSequence must have shape (T,) with T > 0, got (0,)"
    else:
        given = make()
    layer = kind(2, 3)
    for call in (layer, lambda given: fastcells.explain(layer, given)):
        with pytest.raises(RuntimeError) as raised:
            call(given)
        assert str(raised.value) == f"{kind.__name__}: {text}"


@each_layer
def test_sound_structures_pass(kind):
    layer, peer = kind(2, 3), getattr(torch.nn, kind.__name__)(2, 3)
    peer.load_state_dict(layer.state_dict())
    sequences = [torch.randn(n, 2) for n in (2, 4, 1, 4)]
    for given in (
        pack_sequence(sequences, enforce_sorted=False),
        pack_sequence(sorted(sequences, key=len, reverse=True)),
        pack_sequence(sequences[:1]),
    ):
        torch.testing.assert_close(layer(given)[0].data, peer(given)[0].data)
        assert fastcells.explain(layer, given).kernel


@pytest.mark.parametrize("what", ["lengths", "key_lengths"])
def test_lengths_given_as_a_mask_are_told_how_to_become_lengths(what):
    mask = torch.ones(3, 5, dtype=torch.bool)
    input = torch.randn(3, 5, 2)
    layer = fastcells.GRU(2, 4, batch_first=True)
    attend = fastcells.scaled_dot_product_attention
    with pytest.raises(TypeError) as raised:
        layer(input, lengths=mask) if what == "lengths" else attend(
            input, input, input, key_lengths=mask
        )
    assert "must have dtype torch.int64, got torch.bool" in str(raised.value)
    assert str(raised.value).endswith(
        "Of a mask that is True where a step exists they are mask.sum(-1), of one that is True at "
        "padding (~mask).sum(-1)"
    )
