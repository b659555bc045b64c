"""The example of several processes: two of them learn what one process learns with torch.nn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import distributed
import fastcells
import speakers

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no gloo",
)

EXAMPLE = Path(distributed.__file__)
SECONDS = 300


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return what two processes print, and where they wrote their weights: one epoch, 5 and 4
    batches a step."""
    weights = tmp_path_factory.mktemp("distributed") / "new" / "weights.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    arguments = ["2", EXAMPLE, "--epochs", "1", "--accumulate", "5", "--output", weights]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    assert weights.is_file(), done.stderr
    return done.stdout, weights


def learn_alone():
    """Return the same model after the same epoch: torch.nn, one process, no wrapping."""
    train, _ = speakers.load_data()
    torch.manual_seed(0)
    model = distributed.Stack(nn, "LSTM", 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=speakers.LEARNING_RATE)
    batches = speakers.make_batches(train, torch.Generator().manual_seed(0))
    for group in (batches[:5], batches[5:]):
        losses = [cross_entropy(model(b.frames, b.lengths), b.speakers) for b in group]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    return model


def test_both_ways_learn_in_two_processes_what_torch_learns_in_one(trained):
    expected = learn_alone().state_dict()
    model = distributed.read(trained[1], nn)
    assert expected.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        # Adam's first steps are nearly the sign of the gradient: 2e-3 is what one step changes.
        torch.testing.assert_close(weight, expected[name], atol=2e-5, rtol=0, msg=name)


def test_the_losses_of_all_four_runs_agree(trained):
    printed = trained[0]
    assert "2 processes, gloo" in printed
    assert printed.count("torch.nn") == printed.count("fastcells ") == 2
    apart = [float(x) for x in re.findall(r"\d\.\de[-+]\d\d", printed)]
    assert len(apart) == 4 and max(apart) < 1e-5
    assert "differ by" not in printed
    assert "Claim not met: fastcells under fully_shard reached" in printed


def test_a_single_process_reads_the_weights(trained, capsys):
    assert distributed.main(["--read", str(trained[1])]) == 0
    printed = re.findall(r"(\S+), one process: (\S+)%", capsys.readouterr().out)
    assert [name for name, _ in printed] == ["torch.nn", "fastcells"]
    assert printed[0][1] == printed[1][1]
    assert isinstance(distributed.read(trained[1], fastcells).layers[1], fastcells.LSTM)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "start it by torchrun --nproc-per-node 2 examples/distributed.py"),
        (["--read", "nowhere.pt"], "there is no file nowhere.pt"),
        (["--accumulate", "0"], "--accumulate must be at least 1"),
    ],
)
def test_a_wrong_start_is_refused(capsys, arguments, text):
    with pytest.raises(SystemExit):
        distributed.parse_arguments(arguments)
    assert text in capsys.readouterr().err


def test_more_processes_than_rows_are_refused(capsys, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "31")
    with pytest.raises(SystemExit):
        distributed.parse_arguments([])
    assert "a batch has 30 rows" in capsys.readouterr().err


def made_up(way, theirs, ours):
    runs = []
    for name, losses in (("torch.nn", theirs), ("fastcells", ours)):
        run = speakers.Run(name, nn.Linear(1, 1), epochs=1)
        run.losses, run.accuracies = losses, [0.96]
        runs.append(run)
    return speakers.Comparison(way, *runs)


def test_a_loss_that_parts_is_named():
    good = made_up("DDP", [1.0, 0.5], [1.0, 0.5005])
    assert distributed.failed_claims([good]) == []
    bad = made_up("fully_shard", [1.0, 0.5], [1.0, float("nan")])
    [sentence] = distributed.failed_claims([good, bad])
    assert "losses of fastcells under fully_shard differ by nan" in sentence
