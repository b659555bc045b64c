"""Invent a recurrent cell in six lines, and train it beside LSTM to tell nine speakers apart.

Each unit of `tempo` forgets at a pace of its own, which is learned: a parameter a unit, moved by
what it hears. The units do not see one another, so that the layer has a fraction of an LSTM's
parameters; fastcells compiles it for this machine at its first call. Data, batches and the dense
network behind the layer are those of examples/speakers.py.

Run it with `python examples/own_cell.py`.
"""

import argparse
import statistics
import sys

import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import fastcells
from curves import percent
from speakers import FEATURES, HIDDEN, Classifier, Run, load_data, make_batches


@fastcells.cell(gates="f n o", recurrent="vector", states="c", parameters={"pace": 1.0})
def tempo(x, h, state, p):
    """Every unit forgets at its own pace."""
    f = torch.sigmoid(p.pace + x.f + h.f)
    c = f * state.c + (1 - f) * torch.tanh(x.n + h.n)
    return torch.sigmoid(x.o + h.o) * c, c


def make_runs(epochs, seed):
    """Return the runs of LSTM and of tempo."""
    runs = []
    for name in ("LSTM", "tempo"):
        torch.manual_seed(seed)
        model = Classifier(fastcells, "LSTM")
        if name == "tempo":
            model.layer = tempo(FEATURES, HIDDEN, batch_first=True)
        runs.append(Run(name, model, epochs))
    return runs


def train(epochs, seed, data=None):
    """Train both on the same batches, in turns, and return their runs."""
    learn, test = data or load_data()
    runs = make_runs(epochs, seed)
    generator = torch.Generator().manual_seed(seed)
    frames, lengths, _ = make_batches(learn, generator)[0]
    for run in runs:  # compiles, outside the clock
        run.model(frames, lengths)
    for _ in tqdm(range(epochs), unit="epoch", disable=None):
        batches = make_batches(learn, generator)
        for run in runs:
            run.train_epoch(batches)
            run.test(test)
    return runs


def make_table(runs):
    """Return what each reached, and what it took."""
    table = Table(title="Nine speakers, an LSTM and a cell of six lines")
    for column in ("layer", "parameters", "test accuracy", "seconds an epoch", "kernel"):
        table.add_column(column, justify="left" if column in ("layer", "kernel") else "right")
    for run in runs:
        layer = run.model.layer
        count = sum(p.numel() for p in layer.parameters())
        kernel = fastcells.explain(layer, torch.zeros(1, 7, FEATURES)).kernel
        seconds = f"{statistics.median(run.seconds):.3f}"
        table.add_row(run.name, f"{count:,}", percent(run), seconds, kernel)
    return table


def main(arguments=None):
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(make_table(train(options.epochs, options.seed)))


if __name__ == "__main__":
    main()
