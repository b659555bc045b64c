"""The T-maze example: its task, its learning, and the one call beside the loop."""

from unittest.mock import patch

import pytest
import torch
from torch import nn

with patch("torch.optim.Adam", side_effect=AssertionError("trains on import")):
    import corridors
    import episodes
import fastcells


@pytest.fixture
def small(monkeypatch):
    """Rollouts of 24 steps in 6 corridors."""
    monkeypatch.setattr(episodes, "STEPS", 24)
    monkeypatch.setattr(episodes, "CORRIDORS", 6)


def walk(task, actions):
    """Return what was seen, the rewards and the ends of one corridor, lists over `actions`."""
    seen, rewards, ends = [], [], []
    for action in actions:
        seen.append(task.look()[0].tolist())
        reward, ended = task.act(torch.tensor([action]))
        rewards.append(round(reward.item(), 3))
        ends.append(ended.item())
    return seen, rewards, ends


def corridor(length, cue):
    task = corridors.Corridors(1, length, torch.Generator().manual_seed(0))
    task.length, task.cue = torch.tensor([length]), torch.tensor([cue])
    return task


@pytest.mark.parametrize(("turn", "reward"), [(corridors.RIGHT, 1.0), (corridors.LEFT, -1.0)])
def test_the_cue_is_seen_once_and_says_which_turn_is_right(turn, reward):
    ahead = corridors.AHEAD
    actions = [corridors.LEFT, ahead, ahead, ahead, turn]
    seen, rewards, ends = walk(corridor(2, 1), actions)
    assert seen == [[1, 0], [0, 0], [0, 0], [0, 1], [0, 1]]
    assert rewards == [-0.1, 0, 0, -0.1, reward]
    assert ends == [False, False, False, False, True]


def test_an_episode_ends_when_patience_does_and_a_new_one_begins():
    task = corridor(2, -1)
    _, _, ends = walk(task, [corridors.LEFT] * 6)
    assert ends == [False] * 5 + [True]
    assert (task.age, task.place) == (0, 0)
    assert abs(task.look()[0, 0]) == 1  # a cue again


def test_advantages_do_not_reach_over_an_end():
    rewards, values, last = torch.rand(7, 3), torch.rand(7, 3), torch.rand(3)
    ends = torch.zeros(7, 3, dtype=torch.bool)
    ends[2, 0] = ends[6, 1] = True
    advantages = episodes.advantages_of(rewards, values, ends, last)
    following = torch.cat([values[1:], last[None]])
    errors = rewards + episodes.DISCOUNT * following * ~ends - values
    for row in range(3):
        for t in range(7):
            expected, factor = 0.0, 1.0
            for later in range(t, 7):
                expected += factor * errors[later, row].item()
                if ends[later, row]:
                    break
                factor *= episodes.DISCOUNT * episodes.TRACE
            assert advantages[t, row].item() == pytest.approx(expected, abs=1e-5)


def in_float64(rollout):
    *steps, state = rollout
    steps = [x.double() if x.is_floating_point() else x for x in steps]
    state = tuple(s.double() for s in state) if isinstance(state, tuple) else state.double()
    return episodes.Rollout(*steps, state)


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_one_call_gives_the_scores_and_gradients_of_the_loop(small, cell):
    learner, _ = episodes.train(cell, 5, updates=1, seed=0)
    rollout = in_float64(learner.collect())
    assert rollout.starts[1:-1].sum() >= 6  # inside the rollout, where a mask is needed
    assert not rollout.starts[0].all()  # and a state is carried into it
    by_torch, *ours = episodes.compare(learner.actor.double(), rollout, rounds=1)
    assert "torch.nn" in by_torch.name and len(ours) == 2
    for measured in ours:
        assert episodes.apart(by_torch.scores, measured.scores) < 1e-12
        assert episodes.apart(by_torch.gradients, measured.gradients) < 1e-11


def test_an_actor_learns_to_walk_short_corridors(monkeypatch):
    for name, value in {"STEPS": 16, "CORRIDORS": 32, "PARTS": 2, "LEARNING_RATE": 1e-2}.items():
        monkeypatch.setattr(episodes, name, value)
    learner, _ = episodes.train("GRU", 2, updates=20, seed=0)
    assert len(learner.finished) == len(learner.learning) == 20
    assert episodes.final_return(learner) > learner.finished[0] + 0.5


def test_main_reports_and_exits_with_1_when_a_claim_fails(small, tmp_path, capsys):
    picture = tmp_path / "new" / "episodes.png"
    arguments = ["--updates", "1", "--longest", "4", "--seeds", "0", "1", "--output", str(picture)]
    assert episodes.main(arguments) == 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert printed.count("Claim not met: The return with seed") == 2
    assert "gradients of" not in printed.split("Claim", 1)[1]
    assert "fastcells, one call with resets=" in printed


def test_wrong_gradients_are_named():
    first = episodes.Measured("torch.nn", torch.ones(1), torch.ones(3))
    for wrong in (1.1, float("nan")):
        other = episodes.Measured("ours", torch.ones(1), torch.tensor([1.0, wrong, 1.0]))
        [sentence] = episodes.failed_claims({}, [first, other])
        assert "gradients of ours differ by" in sentence
    assert episodes.failed_claims({}, [first, first]) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["--longest", "43"], "must be 2 to 42"), (["--updates", "0"], "at least 1")],
)
def test_what_cannot_be_walked_is_refused(capsys, arguments, text):
    with pytest.raises(SystemExit):
        episodes.parse_arguments(arguments)
    assert text in capsys.readouterr().err


def test_the_loop_of_torch_and_of_fastcells_take_the_same_weights():
    ours, theirs = episodes.Actor(fastcells), episodes.Actor(nn)
    theirs.load_state_dict(ours.state_dict())
