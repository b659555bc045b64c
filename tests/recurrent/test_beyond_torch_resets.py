"""resets= gives what torch gives for the pieces between resets, each run alone."""

import pytest
import torch
from torch import nn

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
    "two_layers": {"num_layers": 2},
    "two_layers_both_ways": {"num_layers": 2, "bidirectional": True},
}
each_case = pytest.mark.parametrize(("kind", "options"), [*layer_cases(OPTIONS), PROJECTED])
# [T, B]: row 0 at its start and inside, row 1 nowhere, row 2 at every step, row 3 at its last.
RESETS = torch.tensor(
    [
        [True, False, True, False],
        [False, False, True, False],
        [True, False, True, False],
        [True, False, True, False],
        [False, False, True, True],
    ]
)
LENGTHS = torch.tensor([4, 2, 0, 5])


class ByPieces(nn.Module):
    """torch's layer on each piece of each row alone: `[T, B, I]` input, hx given.

    The state that was given reaches the first piece of the forward direction, unless it begins
    with a reset, and the last piece of the reverse direction.
    """

    def __init__(self, layer, resets, lengths):
        super().__init__()
        self.layer, self.resets, self.lengths = layer, resets, lengths

    def forward(self, input, hx):
        states = tensors_of(hx)
        outputs, lasts = [], []
        for row, length in enumerate(self.lengths.tolist()):
            output, last = self.run_row(input[:length, row], [s[:, row] for s in states], row)
            missing = input.shape[0] - length
            outputs.append(nn.functional.pad(output, (0, 0, 0, missing)))
            lasts.append(last)
        joined = [torch.stack(of_rows, 1) for of_rows in zip(*lasts, strict=True)]
        return torch.stack(outputs, 1), *joined

    def run_row(self, input, states, row):
        layer, length = self.layer, len(input)
        if length == 0:
            width = layer.proj_size or layer.hidden_size
            return input.new_zeros(0, width * (2 if layer.bidirectional else 1)), states
        is_reverse = torch.arange(len(states[0])) % 2 == 1
        is_reverse = (is_reverse & bool(layer.bidirectional))[:, None]
        inner = [t for t in range(1, length) if self.resets[t, row]]
        starts, ends = [0, *inner], [*inner, length]
        outputs, last = [], [torch.zeros_like(s) for s in states]
        for start, end in zip(starts, ends, strict=True):
            reaches_forward = start == 0 and not self.resets[0, row]
            reaches_reverse = end == length
            keep = torch.where(is_reverse, reaches_reverse, reaches_forward)
            given = [torch.where(keep, s, 0.0) for s in states]
            output, after = layer(input[start:end], tuple(given) if len(given) == 2 else given[0])
            outputs.append(output)
            ours = torch.where(is_reverse, start == 0, end == length)
            last = [torch.where(ours, a, s) for a, s in zip(tensors_of(after), last, strict=True)]
        return torch.cat(outputs), last


def evaluate_by_pieces(layer, input, hx, resets, lengths=None):
    lengths = torch.full((input.shape[1],), input.shape[0]) if lengths is None else lengths
    found = evaluate(ByPieces(layer, resets, lengths), input, hx)
    return {name.replace("layer.", ""): tensor for name, tensor in found.items()}


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all_steps", "lengths"])
@each_case
def test_results_and_gradients_are_those_of_the_pieces_alone(kind, options, lengths):
    """With lengths, resets past a row's end have no effect."""
    ours, theirs = make_pair(kind, **options, **float64)
    input, hx = make_input(kind), make_hx(ours, B)
    found = evaluate(ours, input, hx, resets=RESETS, lengths=lengths)
    assert_near(found, evaluate_by_pieces(theirs, input, hx, RESETS, lengths))


@each_layer
def test_many_random_resets_give_the_pieces_alone(kind):
    for seed in range(5):
        torch.manual_seed(seed)
        ours, theirs = make_pair(kind, num_layers=2, bidirectional=True, **float64)
        input, hx = torch.randn(11, 6, I, **float64), make_hx(ours, 6)
        resets, lengths = torch.rand(11, 6) < 0.3, torch.randint(0, 12, (6,))
        found = evaluate(ours, input, hx, resets=resets, lengths=lengths)
        assert_near(found, evaluate_by_pieces(theirs, input, hx, resets, lengths))


@each_layer
def test_resets_lie_like_the_input_under_batch_first(kind):
    time_first = getattr(fastcells, kind)(I, H, bidirectional=True, **float64)
    batch_first = getattr(fastcells, kind)(I, H, bidirectional=True, batch_first=True, **float64)
    batch_first.load_state_dict(time_first.state_dict())
    input, hx = make_input(kind), make_hx(time_first, B)
    expected = tensors_of(time_first(input, hx, resets=RESETS))
    found = tensors_of(batch_first(input.transpose(0, 1), hx, resets=RESETS.t()))
    expected[0] = expected[0].transpose(0, 1)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@each_batch_first
@each_layer
def test_one_sequence_takes_resets_of_its_steps(kind, batch_first):
    layer = getattr(fastcells, kind)(I, H, batch_first=batch_first, **float64)
    input, hx = torch.randn(T, I, **float64), make_hx(layer)
    resets = torch.tensor([False, False, True, False, True])
    found = tensors_of(layer(input, hx, resets=resets))
    pieces = [layer(input[:2], hx), layer(input[2:4]), layer(input[4:])]
    expected = [torch.cat([output for output, _ in pieces]), *tensors_of(pieces[-1][1])]
    assert_near(dict(enumerate(found)), dict(enumerate(expected)))


@each_layer
def test_no_reset_is_no_resets(kind):
    layer = getattr(fastcells, kind)(I, H, num_layers=2, bidirectional=True, **float64)
    input, hx = make_input(kind), make_hx(layer, B)
    found = evaluate(layer, input, hx, resets=torch.zeros(T, B, dtype=torch.bool))
    assert_near(found, evaluate(layer, input, hx))


@each_layer
def test_a_reset_at_the_first_step_ignores_the_given_state(kind):
    """Whatever it is: NaN too. The reverse direction, which starts at the end, uses its own."""
    layer = getattr(fastcells, kind)(I, H, bidirectional=True, **float64)
    input, resets = make_input(kind), torch.zeros(T, B, dtype=torch.bool)
    resets[0] = True
    hx = [s.clone() for s in tensors_of(make_hx(layer, B))]
    expected = None
    for filling in (0.0, 3.0, torch.nan):
        given = [torch.cat([torch.full_like(s[:1], filling), s[1:]]) for s in hx]
        call = tuple(given) if len(given) == 2 else given[0]
        found = tensors_of(layer(input, call, resets=resets))
        expected = expected or found
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    others = [2 * s for s in hx]
    changed = layer(input, tuple(others) if len(others) == 2 else others[0], resets=resets)[0]
    assert torch.equal(changed[..., :H], expected[0][..., :H])
    assert not torch.equal(changed[..., H:], expected[0][..., H:])


@each_layer
def test_no_gradient_crosses_a_reset(kind):
    layer = getattr(fastcells, kind)(I, H, num_layers=2, bidirectional=True, **float64)
    input, resets = make_input(kind).requires_grad_(), torch.zeros(T, B, dtype=torch.bool)
    resets[3] = True
    output = layer(input, resets=resets)[0]
    (before,) = torch.autograd.grad(output[:3].sum(), input, retain_graph=True)
    (after,) = torch.autograd.grad(output[3:].sum(), input)
    assert before[:3].all() and not before[3:].any()
    assert after[3:].all() and not after[:3].any()


@each_layer
def test_nan_stays_on_its_side_of_a_reset(kind):
    """In both directions, in the upper layer, and in its own row."""
    layer = getattr(fastcells, kind)(I, H, num_layers=2, bidirectional=True, **float64)
    input, resets = make_input(kind), torch.zeros(T, B, dtype=torch.bool)
    resets[2] = resets[4] = True
    expected = tensors_of(layer(input, resets=resets))
    spoiled = input.clone()
    spoiled[2:4, 1] = torch.nan
    found = tensors_of(layer(spoiled, resets=resets))
    is_clean = torch.ones(T, B, dtype=torch.bool)
    is_clean[2:4, 1] = False
    assert torch.equal(found[0][is_clean], expected[0][is_clean])
    assert found[0][~is_clean].isnan().all()
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(a, b)


def test_an_episode_in_a_longer_row_teaches_as_if_it_were_alone():
    """The use of resets in reinforcement learning: episodes follow each other in one row."""
    layer = fastcells.LSTM(I, H, **float64)
    episodes = [torch.randn(steps, I, **float64) for steps in (3, 1, 4)]
    resets = torch.zeros(8, 1, dtype=torch.bool)
    resets[3] = resets[4] = True
    together = layer(torch.cat(episodes).unsqueeze(1), resets=resets)[0].pow(2).sum()
    alone = sum(layer(episode)[0].pow(2).sum() for episode in episodes)
    parameters = list(layer.parameters())
    grads = torch.autograd.grad(together, parameters), torch.autograd.grad(alone, parameters)
    assert_near(dict(enumerate(grads[0])), dict(enumerate(grads[1])))
