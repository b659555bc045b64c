"""The adding problem of long series: its initial values, its learning, its report."""

from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from torch import nn

with patch("torch.optim.Adam", side_effect=AssertionError("trains on import")):
    import long_adding
import fastcells


def asked(**options):
    defaults = {"length": 6, "steps": 150, "layers": 1, "memory": "default"}
    return SimpleNamespace(**{**defaults, **options})


@pytest.mark.parametrize("kind", ["RGLRU", "DiagonalGRU"])
def test_what_holds_what_it_has_seen_learns_to_add(kind):
    lesson = long_adding.learn(kind, asked(), seed=0)
    assert (lesson.kind, len(lesson.losses)) == (kind, 150)
    assert lesson.error < long_adding.GUESS / 4


@pytest.mark.parametrize("kind", ["DiagonalGRU", "DiagonalLSTM", "GRU", "LSTM", "MinGRU"])
def test_long_memory_holds_a_state_over_the_whole_series(kind):
    """Half of the units lose less than three quarters of a state over 50 empty steps."""
    kept = {}
    for memory in ("default", "long"):
        model = long_adding.LongAdder(fastcells, kind, 1)
        if memory == "long":
            model.remember(100)
        with torch.no_grad():
            for name, weight in model.layer.named_parameters():
                if name.startswith("weight"):
                    weight.zero_()
            state = torch.ones(1, 1, long_adding.UNITS)
            pairs = isinstance(model.layer(torch.zeros(1, 1, long_adding.UNITS))[1], tuple)
            results = [
                model.layer(torch.zeros(50, 1, long_adding.UNITS), (s, s) if pairs else s)[1]
                for s in (state, 0 * state)
            ]
            one, zero = (r[1] if pairs else r for r in results)
            kept[memory] = (one - zero).median().item()
    assert kept["default"] < 1e-6
    assert kept["long"] > 0.25


def test_solved_is_the_step_after_which_the_loss_stays_low(monkeypatch):
    monkeypatch.setattr(long_adding, "SMOOTH", 2)
    low, high = 0.0, 1.0
    for losses, step in (
        ([high, low, high, low, low, low], 6 - 1),
        ([low, low, low], 2),
        ([low, low, high], None),
        ([low, float("nan"), low], None),
    ):
        assert long_adding.Lesson("GRU", 0, losses).solved_after() == step


def test_every_kind_is_timed_and_those_of_torch_beside_it(monkeypatch):
    monkeypatch.setattr(long_adding, "ROUNDS", 1)
    seconds = long_adding.time_steps(asked(kinds=("MinGRU", "GRU")))
    assert set(seconds) == {("fastcells", "MinGRU"), ("fastcells", "GRU"), ("torch.nn", "GRU")}
    assert all(s > 0 for s in seconds.values())


def test_torchs_layers_give_the_same_loss():
    ours = long_adding.LongAdder(fastcells, "LSTM", 2).double()
    theirs = long_adding.LongAdder(nn, "LSTM", 2).double()
    theirs.load_state_dict(ours.state_dict())
    series = torch.rand(4, 9, 2, dtype=torch.float64)
    torch.testing.assert_close(ours(series), theirs(series), rtol=0, atol=1e-12)


def test_main_prints_every_kind_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(long_adding, "ROUNDS", 1)
    picture = tmp_path / "new" / "long.png"
    arguments = ["--kinds", "MinGRU", "GRU", "--length", "8", "--steps", "25", "--seeds", "0", "1"]
    assert long_adding.main([*arguments, "--memory", "long", "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "MinGRU" in printed and "torch.nn, ms" in printed
    assert "error, seed 1" in " ".join(printed.split())


def test_too_little_is_refused(capsys):
    with pytest.raises(SystemExit):
        long_adding.parse_arguments(["--steps", "24"])
    assert "--steps must be at least 25" in capsys.readouterr().err
