"""The main example: its data, and that torch.nn and fastcells learn the same in it."""

import importlib.util
import math
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TEST_UTTERANCES = [31, 35, 88, 44, 29, 24, 40, 50, 29]


def load(path):
    """Import the script at `path`, which is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with patch.object(sys, "path", [str(path.parent), *sys.path]):
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def speakers():
    """Return the example as a module; an import that trains anything fails here."""
    with patch("torch.optim.Adam", side_effect=AssertionError("trains on import")):
        return load(EXAMPLES / "speakers.py")


@pytest.fixture(scope="module")
def few(speakers):
    """Return 54 training and 74 test utterances, of all speakers."""
    return [speakers.Utterances(*(x[::5] for x in part)) for part in speakers.load_data()]


def made_up(speakers, cell, theirs, ours, accuracy):
    """Return a Comparison of one epoch with these losses and this accuracy of fastcells."""
    runs = []
    for name, losses in (("torch.nn", theirs), ("fastcells", ours)):
        run = speakers.Run(name, torch.nn.Linear(1, 1), epochs=1)
        run.losses, run.seconds, run.accuracies = losses, [0.1], [accuracy]
        runs.append(run)
    return speakers.Comparison(cell, *runs, "a kernel")


@pytest.mark.parametrize(
    ("part", "counts"), [("train", [30] * 9), ("test", TEST_UTTERANCES)], ids=["train", "test"]
)
def test_data_file_holds_every_utterance(speakers, part, counts):
    arrays = np.load(speakers.DATA)
    frames, lengths, labels = (arrays[f"{part}_{x}"] for x in ("frames", "lengths", "labels"))
    assert (frames.dtype, lengths.dtype, labels.dtype) == (np.float32, np.int64, np.int64)
    assert np.bincount(labels).tolist() == counts
    assert lengths.shape == labels.shape
    assert lengths.min() >= 7 and lengths.max() <= 29
    assert frames.shape == (lengths.sum(), 12)
    assert np.isfinite(frames).all()


def test_lengths_reach_7_and_29(speakers):
    train, test = speakers.load_data()
    lengths = torch.cat([train.lengths, test.lengths])
    assert (len(train.lengths), len(test.lengths)) == (270, 370)
    assert (lengths.min(), lengths.max()) == (7, 29)


def test_inputs_are_standardised_by_the_training_set(speakers):
    train, _ = speakers.load_data()
    real = torch.arange(train.frames.shape[1]) < train.lengths[:, None]
    assert train.frames[~real].abs().max() == 0
    torch.testing.assert_close(train.frames[real].mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    deviation = train.frames[real].std(0, correction=0)
    torch.testing.assert_close(deviation, torch.ones(12), atol=1e-5, rtol=0)


def test_data_file_repeats_the_text_exactly(tmp_path):
    convert = load(EXAMPLES / "data" / "convert.py")
    text = tmp_path / "two.ts"
    text.write_text("#\n@data\n1.635533,-0.5:0.024848,0.25:1\n1.0:2.0:9\n", encoding="ascii")
    frames, lengths, labels = convert.read_ts(text)
    assert frames.tolist() == [[1.635533, 0.024848], [-0.5, 0.25], [1.0, 2.0]]
    assert (lengths.tolist(), labels.tolist()) == ([2, 1], [0, 8])
    assert convert.to_float32(frames).dtype == np.float32
    with pytest.raises(ValueError, match="six decimals"):
        convert.to_float32(np.array([123456.123456]))


def test_a_seed_gives_the_same_batches_again(speakers, few):
    first, second = (
        speakers.make_batches(few[0], torch.Generator().manual_seed(3)) for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert a.frames.shape[1] == a.lengths.max()


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU", "SelfAttention"])
def test_both_implementations_learn_the_same(speakers, few, cell):
    c = speakers.compare(cell, *few, epochs=2, seed=1)
    assert len(c.theirs.losses) == len(c.ours.losses) == 4
    assert len(c.ours.seconds) == len(c.ours.accuracies) == 2
    assert c.ours.losses[0] == pytest.approx(c.theirs.losses[0], abs=1e-5)
    assert c.loss_difference(1) <= c.loss_difference() <= speakers.LOSS_CLAIM
    assert c.ours.losses[-1] < c.ours.losses[0]
    assert c.kernel


def test_a_missed_claim_is_named(speakers):
    good = made_up(speakers, "LSTM", [1.0, 0.5], [1.0, 0.5005], 0.96)
    assert speakers.failed_claims([good]) == []
    [sentence] = speakers.failed_claims([made_up(speakers, "GRU", [1.0], [1.0], 0.94)])
    assert "fastcells.GRU reached 94.0% test accuracy" in sentence
    for wrong in (1.002, math.nan):
        pair = [1.0, 1.0], [1.0, wrong]
        [sentence] = speakers.failed_claims([made_up(speakers, "RNN", *pair, 0.5)])
        assert "RNN differ by" in sentence


def test_main_reports_and_exits_with_1_when_a_claim_fails(
    speakers, few, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(speakers, "load_data", lambda: few)
    picture = tmp_path / "new" / "speakers.png"
    monkeypatch.setattr(speakers.adding, "STEPS", {5: 8, 9: 8})
    asked = ["--epochs", "2", "--adding", "0.5", "--output", str(picture)]
    assert speakers.main(asked) == 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert printed.count("torch.nn, packed") == 3
    assert "SelfAttention, cpu dot attention" in printed
    assert "Claim not met: fastcells.LSTM reached" in printed


def test_a_series_has_two_marks_and_their_sum(speakers):
    series, answers = speakers.adding.make_series(100, 9, torch.Generator().manual_seed(0))
    numbers, marks = series.unbind(-1)
    assert series.shape == (100, 9, 2)
    assert (marks[:, :4].sum(1) == 1).all() and (marks[:, 4:].sum(1) == 1).all()
    torch.testing.assert_close((numbers * marks).sum(1), answers)
    assert marks.sum(0).min() > 0  # every step is marked somewhere


def test_always_guessing_1_is_as_wrong_as_is_said(speakers):
    _, answers = speakers.adding.make_series(20000, 10, torch.Generator().manual_seed(0))
    error = ((answers - 1) ** 2).mean().item()
    assert error == pytest.approx(speakers.adding.GUESS, rel=0.03)


@pytest.mark.parametrize("kind", ["GRU", "SelfAttention"])
def test_what_can_add_learns_it_over_few_steps(speakers, kind):
    answer = speakers.adding.learn_to_add(kind, 4, steps=300, seed=0)
    assert (answer.kind, answer.length) == (kind, 4)
    assert answer.error < speakers.adding.GUESS / 5


@pytest.mark.parametrize("share", ["0", "1.5"])
def test_another_share_than_a_share_is_refused(speakers, capsys, share):
    with pytest.raises(SystemExit):
        speakers.parse_arguments(["--adding", share])
    assert "above 0 and at most 1" in capsys.readouterr().err


def test_epochs_below_one_are_refused(speakers, capsys):
    with pytest.raises(SystemExit):
        speakers.parse_arguments(["--epochs", "0"])
    assert "at least 1" in capsys.readouterr().err
