"""The adding problem over 800 steps: cells without a recurrent matrix beside LSTM and GRU.

The task is that of examples/adding.py: two marked numbers of a long series are to be added at its
end. Who always answers 1 is wrong by 1/6 in the mean square. Every kind of layer has the same place
in the same model and learns from the same series. Three questions are asked of each: how wrong is
it at the end, after how many steps of training was it right, and what does a step cost?

What a layer holds at first over so many steps is a matter of its initial values. With
`--memory long` the gates that keep the state start so that a unit holds it for 1 to `--length`
steps (Tallec, Ollivier 2018, https://arxiv.org/abs/1804.11188); else every layer starts as it is
made.

The script prints a table and draws examples/output/long_adding.png. Run it with
`python examples/long_adding.py`.
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import mse_loss
from tqdm import tqdm

import fastcells
from adding import GUESS, make_series

HERE = Path(__file__).resolve().parent
KINDS = ("RGLRU", "DiagonalGRU", "DiagonalLSTM", "MinGRU", "LSTM", "GRU")
BY_TORCH = ("LSTM", "GRU")  # those that torch.nn has, and is timed with
UNITS, BATCH = 64, 32
LEARNING_RATE = 5e-3  # at most: it rises over a tenth of the training, then sinks to zero
TEST_SERIES = 512
SOLVED = GUESS / 10
SMOOTH = 25  # steps of training whose mean is taken for the curves
ROUNDS = 9  # of timing

# Rows of the bias of the gates that keep the old state, and of those that let in the new one.
KEEPING = {"DiagonalGRU": [1], "DiagonalLSTM": [0], "GRU": [1], "LSTM": [1]}
LETTING_IN = {"LSTM": [0], "MinGRU": [0]}


class LongAdder(nn.Module):
    """A linear map of each step, layers of one kind, a linear unit on the last output."""

    def __init__(self, library, kind, layers):
        """`library` is fastcells, or torch.nn for a `kind` of BY_TORCH."""
        super().__init__()
        self.kind = kind
        self.lift = nn.Linear(2, UNITS)
        self.layer = getattr(library, kind)(UNITS, UNITS, layers)
        self.head = nn.Linear(UNITS, 1)

    def forward(self, series):
        """Return the answers, [N], to series [N, T, 2]."""
        output, _ = self.layer(self.lift(series).transpose(0, 1))
        return self.head(output[-1]).squeeze(1)

    @torch.no_grad()
    def remember(self, length):
        """Start with units that hold what they have seen for 1 to `length` steps. An RGLRU starts
        so that they hold it for 10 to 1000, and is left."""
        for name, bias in self.layer.named_parameters():
            if not name.startswith("bias_ih"):
                continue
            hold = torch.empty(UNITS).uniform_(1, length - 1).log()
            blocks = bias.view(-1, UNITS)
            for signs, rows in ((1, KEEPING), (-1, LETTING_IN)):
                for row in rows.get(self.kind, []):
                    blocks[row] = signs * hold


@dataclass
class Lesson:
    """How one kind of layer learned to add, with one seed."""

    kind: str
    seed: int
    losses: list = field(default_factory=list)  # one a step
    error: float = float("nan")  # mean square, on series that were not learned from

    def solved_after(self):
        """Return the first step after which the smoothed loss stays below SOLVED, or None."""
        above = np.flatnonzero(~(smooth(self.losses) < SOLVED))
        after = int(above[-1]) + 1 if len(above) else 0
        return SMOOTH + after if after + SMOOTH <= len(self.losses) else None


def smooth(losses):
    """Return the means over SMOOTH losses in a row."""
    return np.convolve(losses, np.ones(SMOOTH) / SMOOTH, mode="valid")


def train_step(model, series, answers, optimizer=None):
    """Compute the loss and its gradients, and let the optimizer, if any, take its step."""
    loss = mse_loss(model(series), answers)
    model.zero_grad()
    loss.backward()
    if optimizer is not None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return loss.item()


def learn(kind, options, seed):
    """Train a model of `kind` on new series at each step and return its Lesson."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = LongAdder(fastcells, kind, options.layers)
    if options.memory == "long":
        model.remember(options.length)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, options.steps, pct_start=0.1
    )
    lesson = Lesson(kind, seed)
    progress = tqdm(range(options.steps), desc=f"{kind}, seed {seed}", unit="step", disable=None)
    for _ in progress:
        series, answers = make_series(BATCH, options.length, generator)
        lesson.losses.append(train_step(model, series, answers, optimizer))
        schedule.step()
        progress.set_postfix(loss=f"{lesson.losses[-1]:.4f}")
    with torch.no_grad():
        series, answers = make_series(TEST_SERIES, options.length, generator)
        lesson.error = mse_loss(model(series), answers).item()
    return lesson


def time_steps(options):
    """Return {(library, kind): median seconds} of a forward and backward pass, all in turn."""
    models = {("fastcells", kind): LongAdder(fastcells, kind, options.layers)
              for kind in options.kinds}  # fmt: skip
    for kind in set(BY_TORCH) & set(options.kinds):
        models["torch.nn", kind] = LongAdder(nn, kind, options.layers)
    series, answers = make_series(BATCH, options.length, torch.Generator().manual_seed(0))
    seconds = {key: [] for key in models}
    for round_ in range(ROUNDS + 1):
        for key, model in models.items():
            began = time.perf_counter()
            train_step(model, series, answers)
            if round_ > 0:  # the first warms up
                seconds[key].append(time.perf_counter() - began)
    return {key: statistics.median(times) for key, times in seconds.items()}


# ---- Report


def make_table(lessons, seconds, options):
    """Return the table of all kinds."""
    table = Table(
        title=f"Adding over {options.length} steps: {options.layers} layers of {UNITS} units",
        caption=f"Error: mean square after {options.steps} steps of training, a seed each; who "
        f"always answers 1 has {GUESS:.3f}. Solved: the step after which the loss stays below a "
        f"tenth of that. ms: forward and backward over {BATCH} series, median of {ROUNDS}, all in "
        "turn.",
    )
    for column in ("layer", *(f"error, seed {seed}" for seed in options.seeds), "solved after",
                   "ms", "torch.nn, ms"):  # fmt: skip
        table.add_column(column, justify="left" if column == "layer" else "right")
    for kind in options.kinds:
        mine = [lesson for lesson in lessons if lesson.kind == kind]
        errors = [f"{lesson.error:.4f}" for lesson in mine]
        solved = [str(lesson.solved_after() or "-") for lesson in mine]
        by_torch = seconds.get(("torch.nn", kind))
        table.add_row(
            kind, *errors, ", ".join(solved), f"{1e3 * seconds['fastcells', kind]:.1f}",
            "" if by_torch is None else f"{1e3 * by_torch:.1f}",
        )  # fmt: skip
    return table


def draw(lessons, seconds, options):
    """Draw the loss along the steps of training, and along the seconds that they take."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_step, by_time = figure.subplots(1, 2, sharey=True)
    for number, kind in enumerate(options.kinds):
        for lesson in (x for x in lessons if x.kind == kind):
            losses = smooth(lesson.losses)
            steps = np.arange(len(losses)) + SMOOTH
            style = {"color": f"C{number}", "linewidth": 1.2}
            label = kind if lesson.seed == options.seeds[0] else None
            by_step.plot(steps, losses, label=label, **style)
            by_time.plot(steps * seconds["fastcells", kind], losses, **style)
    for axis, name in ((by_step, "steps of training"), (by_time, "seconds, without the optimizer")):
        axis.axhline(GUESS, color="grey", linestyle=":")
        axis.set(xlabel=name, yscale="log")
        axis.grid(alpha=0.3)
    by_step.set_ylabel("mean square error")
    by_step.legend(frameon=False)
    figure.suptitle(f"The adding problem over {options.length} steps (dotted: always answering 1)")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=150)


# ---- Command line


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND",
        help=f"of {', '.join(KINDS)}; default: all")  # fmt: skip
    add("--length", type=int, default=800, help="of the series; default: %(default)s")
    add("--steps", type=int, default=600, help="of training; default: %(default)s")
    add("--layers", type=int, default=2, help="default: %(default)s")
    add("--memory", choices=("default", "long"), default="default", help="initial values")
    add("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    add("--output", type=Path, default=HERE / "output" / "long_adding.png")
    options = parser.parse_args(arguments)
    for name, least in (("length", 3), ("steps", SMOOTH), ("layers", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}")
    return options


def main(arguments=None):
    """Train, time, report; return the exit code."""
    options = parse_arguments(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(
        f"Adding over {options.length} steps, {options.memory} initial values; torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads."
    )
    seconds = time_steps(options)
    lessons = [learn(kind, options, seed) for kind in options.kinds for seed in options.seeds]
    console.print(make_table(lessons, seconds, options))
    draw(lessons, seconds, options)
    console.print(f"Curves: {os.path.relpath(options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
