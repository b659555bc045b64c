"""Tell nine speakers apart by their vowels, with torch.nn and with fastcells.

Every utterance is a series of 7 to 29 frames of 12 numbers. A layer of 128 units reads it: RNN,
LSTM, GRU, or self-attention (three dense maps and one attention). A small dense network names the
speaker from the layer's final state, or from the mean of what attention gives. Each is trained
twice, from the same initial weights, on the same batches in the same order:

* torch.nn needs the padded batch packed into a `PackedSequence`, and a mask for its attention;
* fastcells takes the padded batch as it is, and `lengths=`.

The two must learn the same: over the first epoch their losses agree to 1e-3. Later they may part a
little: they round differently, and training can make a small difference grow.

Three questions are asked of each: how long does an epoch take, how many speakers are told apart,
and with how many parameters? A fourth, who holds what it saw long ago, is asked by the adding
problem (examples/adding.py) at 50, 200 and 800 steps.

The script prints a table and draws examples/output/speakers.png; it ends with exit code 1 if a
claim does not hold. Run it with `python examples/speakers.py`.
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from tqdm import tqdm

import adding
import fastcells
from curves import draw, percent

HERE = Path(__file__).resolve().parent
DATA = HERE / "data" / "japanese_vowels.npz"
CELLS = ("RNN", "LSTM", "GRU", "SelfAttention")

FEATURES, HIDDEN, DENSE, SPEAKERS = 12, 128, 64, 9

# Settled with torch.nn alone, by test accuracy over ten seeds. The noise keeps the networks from
# learning the 270 training utterances by heart.
BATCH = 30
LEARNING_RATE = 2e-3
NOISE = 0.5

ACCURACY_CLAIM = {"LSTM": 0.95, "GRU": 0.95, "SelfAttention": 0.93}
LOSS_CLAIM = 1e-3


# ---- Data


class Utterances(NamedTuple):
    """Some utterances, padded to the longest of them."""

    frames: Tensor  # [N, T, 12]
    lengths: Tensor  # [N], int64: how many of the T frames are real
    speakers: Tensor  # [N], int64: 0..8


def load_data(path=DATA):
    """Return the training and the test utterances, both scaled by the training set alone."""
    arrays = np.load(path)
    mean, std = arrays["train_frames"].mean(axis=0), arrays["train_frames"].std(axis=0)

    def part(name):
        frames = torch.from_numpy((arrays[f"{name}_frames"] - mean) / std)
        lengths = torch.from_numpy(arrays[f"{name}_lengths"])
        padded = pad_sequence(frames.split(lengths.tolist()), batch_first=True)
        return Utterances(padded, lengths, torch.from_numpy(arrays[f"{name}_labels"]))

    return part("train"), part("test")


def make_batches(data, generator):
    """Return one epoch of batches: shuffled, cut to their longest utterance, a little noise."""
    batches = []
    for rows in torch.randperm(len(data.lengths), generator=generator).split(BATCH):
        lengths = data.lengths[rows]
        frames = data.frames[rows, : int(lengths.max())]
        noise = NOISE * torch.randn(frames.shape, generator=generator)
        batches.append(Utterances(frames + noise, lengths, data.speakers[rows]))
    return batches


# ---- Model


class TorchSelfAttention(nn.Module):
    """fastcells.SelfAttention by torch's own means, with the same parameters."""

    def __init__(self, input_size, units):
        super().__init__()
        self.query_map = nn.Linear(input_size, units)
        self.key_map = nn.Linear(input_size, units)
        self.value_map = nn.Linear(input_size, units)

    def forward(self, frames, lengths):
        """Return [N, T, units]; past a length is what the frames there ask for."""
        maps = (self.query_map, self.key_map, self.value_map)
        query, key, value = (torch.tanh(dense(frames)) for dense in maps)
        exists = torch.arange(frames.shape[1]) < lengths[:, None]
        return scaled_dot_product_attention(query, key, value, exists[:, None], scale=1.0)


class Classifier(nn.Module):
    """A layer, its final state (of self-attention its mean), dense 64 with relu, dense 9."""

    def __init__(self, library, cell):
        """`library` is torch.nn or fastcells, `cell` is one of CELLS."""
        super().__init__()
        self.has_state = cell != "SelfAttention"
        self.packs = library is nn and self.has_state
        if self.has_state:
            self.layer = getattr(library, cell)(FEATURES, HIDDEN, batch_first=True)
        elif library is nn:
            self.layer = TorchSelfAttention(FEATURES, HIDDEN)
        else:
            self.layer = fastcells.SelfAttention(FEATURES, HIDDEN)
        self.head = nn.Sequential(nn.Linear(HIDDEN, DENSE), nn.ReLU(), nn.Linear(DENSE, SPEAKERS))

    def forward(self, frames, lengths):
        """Return a score for each speaker, [N, 9], from frames [N, T, 12] and lengths [N]."""
        if not self.has_state:
            exists = torch.arange(frames.shape[1]) < lengths[:, None]
            attended = self.layer(frames, lengths=lengths) * exists[:, :, None]
            return self.head(attended.sum(dim=1) / lengths[:, None])
        if self.packs:
            packed = pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
            _, state = self.layer(packed)
        else:
            _, state = self.layer(frames, lengths=lengths)
        h = state[0] if isinstance(state, tuple) else state  # an LSTM returns (h, c)
        return self.head(h[-1])


# ---- Training


@dataclass
class Run:
    """One model, what trains it, and what was measured on the way."""

    name: str
    model: nn.Module
    epochs: int
    losses: list = field(default_factory=list)  # one a batch
    seconds: list = field(default_factory=list)  # one an epoch
    accuracies: list = field(default_factory=list)  # on the test set, one an epoch

    def __post_init__(self):
        """Adam, and a learning rate that sinks to zero along half a cosine."""
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, self.epochs)

    def train_epoch(self, batches):
        """Learn from each batch once. Only this is timed."""
        losses = []
        start = time.perf_counter()
        for batch in batches:
            loss = cross_entropy(self.model(batch.frames, batch.lengths), batch.speakers)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        self.seconds.append(time.perf_counter() - start)
        self.schedule.step()
        self.losses += torch.stack(losses).tolist()

    @torch.no_grad()
    def test(self, data):
        """Note which share of the utterances is given to the right speaker."""
        guesses = self.model(data.frames, data.lengths).argmax(dim=1)
        self.accuracies.append((guesses == data.speakers).double().mean().item())


@dataclass
class Comparison:
    """The two runs of one kind of layer, and what it answers to the adding problem."""

    cell: str
    theirs: Run  # torch.nn
    ours: Run  # fastcells
    kernel: str = ""  # which kernel of fastcells ran
    answers: list = field(default_factory=list)  # one Answer a length

    def loss_difference(self, epochs=None):
        """Return the largest difference of the two losses in the first `epochs` (all if None)."""
        batches = len(self.theirs.losses)
        if epochs is not None:
            batches = epochs * batches // self.theirs.epochs
        theirs, ours = (
            torch.tensor(run.losses[:batches], dtype=torch.float64)
            for run in (self.theirs, self.ours)
        )
        return (theirs - ours).abs().max().item()  # torch's max is NaN where one of them is

    def parameters(self):
        """Return how many numbers are learned, without the dense network at the end."""
        return sum(p.numel() for p in self.ours.model.layer.parameters())

    def speed(self):
        """Return how many times as fast as torch.nn fastcells trained an epoch."""
        return statistics.median(self.theirs.seconds) / statistics.median(self.ours.seconds)


def compare(cell, train, test, epochs, seed):
    """Train `cell` with torch.nn and with fastcells and return the Comparison.

    The two take turns epoch by epoch, so that whatever else the machine does slows both alike.
    """
    torch.manual_seed(seed)
    theirs = Run("torch.nn", Classifier(nn, cell), epochs)
    ours = Run("fastcells", Classifier(fastcells, cell), epochs)
    ours.model.load_state_dict(theirs.model.state_dict())

    generator = torch.Generator().manual_seed(seed)
    progress = tqdm(range(epochs), desc=f"{cell:4}", unit="epoch", disable=None)
    for _ in progress:
        batches = make_batches(train, generator)
        for run in (theirs, ours):
            run.train_epoch(batches)
            run.test(test)
        progress.set_postfix(loss=f"{ours.losses[-1]:.3f}", test=percent(ours))

    frames, lengths, _ = batches[0]
    plan = fastcells.explain(ours.model.layer, frames, lengths=lengths)
    return Comparison(cell, theirs, ours, plan.kernel)


# ---- Report


def make_table(comparisons):
    """Return the table of all runs."""
    table = Table(
        title="Nine speakers: torch.nn and fastcells, same weights, same batches",
        caption="Parameters: of the layer. Seconds: median over the epochs of training alone. "
        "Speed: torch.nn is 1. Adding problem: mean square error after training at that many "
        f"steps; who always guesses 1 has {adding.GUESS:.3f}.",
    )
    table.add_column("layer", no_wrap=True)
    table.add_column("implementation", no_wrap=True)
    lengths = [answer.length for answer in comparisons[0].answers]
    for column in (
        "param-\neters",
        "test\naccuracy",
        "seconds\nper epoch",
        "\nspeed",
        "loss apart,\nfirst epoch",
        *(f"adding\n{length}" for length in lengths),
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for c in comparisons:
        measured = f"{c.speed():.2f}", f"{c.loss_difference(1):.1e}"
        errors = [f"{answer.error:.4f}" for answer in c.answers]
        by_torch = "torch.nn" if c.cell == "SelfAttention" else "torch.nn, packed"
        for run, name, compared in (
            (c.theirs, by_torch, ("1.00", "", *[""] * len(errors))),
            (c.ours, "fastcells", (*measured, *errors)),
        ):
            seconds = f"{statistics.median(run.seconds):.3f}"
            count = f"{c.parameters():,}"
            table.add_row(c.cell, name, count, percent(run), seconds, *compared)
        table.add_section()
    return table


def failed_claims(comparisons):
    """Return a sentence for each claim that does not hold."""
    failures = []
    for c in comparisons:
        accuracy, claim = c.ours.accuracies[-1], ACCURACY_CLAIM.get(c.cell, 0)
        if accuracy < claim:
            failures.append(
                f"fastcells.{c.cell} reached {accuracy:.1%} test accuracy; at least {claim:.0%} "
                "was claimed."
            )
        difference = c.loss_difference(1)
        if not difference <= LOSS_CLAIM:  # a loss that is not a number fails too
            failures.append(
                f"The losses of torch.nn.{c.cell} and fastcells.{c.cell} differ by "
                f"{difference:.1e} in the first epoch; at most {LOSS_CLAIM:.0e} was claimed."
            )
    return failures


# ---- Command line


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40, help="default: %(default)s")
    parser.add_argument(
        "--adding", type=float, default=1.0,
        help="share of the adding problem's training to do; default: all of it",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=HERE / "output" / "speakers.png")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    if not 0 < options.adding <= 1:
        parser.error("--adding must be above 0 and at most 1")
    return options


def main(arguments=None):
    """Train, report, check; return the exit code."""
    options = parse_arguments(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    train, test = load_data()
    console.print(
        f"Learning from {len(train.lengths)} utterances, {options.epochs} epochs for each layer; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads."
    )
    comparisons = [compare(cell, train, test, options.epochs, options.seed) for cell in CELLS]
    for c in comparisons:
        c.answers = adding.ask(c.cell, options.adding, options.seed)
    console.print(make_table(comparisons))
    draw(comparisons, ACCURACY_CLAIM, options.output)
    console.print("Kernels: " + "; ".join(f"{c.cell}, {c.kernel}" for c in comparisons))
    console.print(f"Curves: {os.path.relpath(options.output)}")
    failures = failed_claims(comparisons)
    for sentence in failures:
        console.print(f"[bold red]Claim not met:[/] {sentence}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
