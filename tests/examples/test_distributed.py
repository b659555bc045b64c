"""The example of several processes: two of them learn what one process learns with torch.nn."""

import os
import re
import socket
import time
from contextlib import redirect_stdout
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.multiprocessing import start_processes
from torch.nn.functional import cross_entropy

import distributed
import fastcells
import speakers
from forks import forks

pytestmark = [
    forks,
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
        reason="this torch has no gloo",
    ),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a forked child cannot use the GPU"),
]
SECONDS = 300


def take_part(rank, port, weights):
    """Be one of two processes that torchrun starts, in a forked child.

    Their optimizer is SGD: Adam's steps would be the same with gradients that are twice too large.
    """
    torch.set_num_threads(1)  # those of the parent stayed behind
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    arguments = ["--epochs", "1", "--accumulate", "5", "--output", str(weights)]
    printed = open(weights.with_suffix(f".{rank}.txt"), "w")
    with printed, redirect_stdout(printed), patch("torch.optim.Adam", torch.optim.SGD):
        assert distributed.main(arguments) == (1 if rank == 0 else 0)  # the accuracy is missed


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return what two processes print, and where they wrote their weights: one epoch, 5 and 4
    batches a step."""
    weights = tmp_path_factory.mktemp("distributed") / "weights.pt"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    both = start_processes(take_part, (port, weights), 2, join=False, start_method="fork")
    until = time.monotonic() + SECONDS
    while not both.join(timeout=1):  # raises what a child raises
        if time.monotonic() > until:
            for process in both.processes:
                process.kill()
            pytest.fail(f"two processes did not end within {SECONDS} seconds")
    assert weights.with_suffix(".1.txt").read_text() == ""
    return weights.with_suffix(".0.txt").read_text(), weights


def learn_alone():
    """Return the same model after the same epoch: torch.nn, one process, no wrapping."""
    train, _ = speakers.load_data()
    torch.manual_seed(0)
    model = distributed.Stack(nn, "LSTM", 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=speakers.LEARNING_RATE)
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
        torch.testing.assert_close(weight, expected[name], atol=1e-7, rtol=0, msg=name)


def test_the_losses_of_all_four_runs_agree(trained):
    printed = trained[0]
    assert "2 processes, gloo" in printed
    assert len(re.findall(r"│ (?:torch.nn|fastcells) +│", printed)) == 4
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
