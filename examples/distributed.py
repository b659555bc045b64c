"""Train on the speakers in several processes: DistributedDataParallel and fully_shard.

A stack of layers tells the nine speakers of examples/speakers.py apart. It is trained four times,
from the same initial weights on the same batches: with torch.nn and with fastcells, once as
DistributedDataParallel (every process holds all weights) and once by FSDP2's `fully_shard` (every
process holds its share of every weight). Each process takes its rows of every batch. Gradients of
some batches are added up before they are exchanged (`no_sync`; under fully_shard
`set_requires_gradient_sync`) and the weights change.

All four must learn the same: over the first epoch their losses agree to 1e-3. The weights are
written as one state_dict, which a single process reads, with fastcells or with torch.nn.

    torchrun --nproc-per-node 2 examples/distributed.py
    python examples/distributed.py --read examples/output/distributed.pt

On GPUs the processes speak nccl, one GPU each; on CPUs gloo. It ends with exit code 1 if a claim
does not hold.
"""

import argparse
import os
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_padded_sequence
from tqdm import tqdm

import fastcells
import speakers
from speakers import BATCH, DENSE, FEATURES, HIDDEN, LOSS_CLAIM, SPEAKERS

WAYS = ("DDP", "fully_shard")
ACCURACY_CLAIM = 0.95


class Stack(nn.Module):
    """Layers one on another; the last one's final state, dense 64 with relu, dense 9.

    The layers are not batch_first: what they return were a view then, of which fully_shard warns.
    """

    def __init__(self, library, cell, count):
        """`library` is torch.nn or fastcells, `cell` "RNN", "LSTM" or "GRU", `count` of layers."""
        super().__init__()
        self.packs = library is nn
        sizes = (FEATURES, *[HIDDEN] * (count - 1))
        layers = (getattr(library, cell)(size, HIDDEN) for size in sizes)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Sequential(nn.Linear(HIDDEN, DENSE), nn.ReLU(), nn.Linear(DENSE, SPEAKERS))

    def forward(self, frames, lengths):
        """Return a score for each speaker, [N, 9], from frames [N, T, 12] and lengths [N]."""
        options, x = {"lengths": lengths}, frames.transpose(0, 1)
        if self.packs:
            options, x = {}, pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
        for layer in self.layers:
            x, state = layer(x, **options)
        h = state[0] if isinstance(state, tuple) else state  # an LSTM returns (h, c)
        return self.head(h[-1])


# ---- Several processes


def share_out(model, way, device):
    """Return `model` for several processes, in one of WAYS."""
    if way == "DDP":
        return DistributedDataParallel(model, device_ids=[device] if device.index else None)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in model.layers:  # each is gathered in front of its own steps alone
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def exchanges(model, wanted):
    """Return the context in which the way back exchanges gradients, or keeps them for later."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)
        return nullcontext()
    return nullcontext() if wanted else model.no_sync()


class SharedRun(speakers.Run):
    """A Run of which every process takes its rows of every batch."""

    accumulate = 1  # batches whose gradients are added up for one step

    def train_epoch(self, batches):
        """Learn from each batch once. Only this is timed."""
        rank, processes = dist.get_rank(), dist.get_world_size()
        device = next(self.model.parameters()).device
        losses = []
        start = time.perf_counter()
        for first in range(0, len(batches), self.accumulate):
            group = batches[first : first + self.accumulate]
            for number, batch in enumerate(group, 1):
                mine = speakers.Utterances(*(x[rank::processes].to(device) for x in batch))
                with exchanges(self.model, number == len(group)):
                    scores = self.model(mine.frames, mine.lengths)
                    total = cross_entropy(scores, mine.speakers, reduction="sum")
                    loss = total / len(batch.lengths)  # this process's part of the mean
                    (loss * processes / len(group)).backward()  # the exchange takes a mean, too
                losses.append(loss.detach())
            self.optimizer.step()
            self.optimizer.zero_grad()
        losses = torch.stack(losses)
        dist.all_reduce(losses)
        self.losses += losses.tolist()
        self.seconds.append(time.perf_counter() - start)
        self.schedule.step()


def compare(options, device):
    """Train the stack in all WAYS with torch.nn and fastcells; return a Comparison a way."""
    train, test = speakers.load_data()
    test = speakers.Utterances(*(x.to(device) for x in test))
    torch.manual_seed(options.seed)
    weights = Stack(nn, options.cell, options.layers).state_dict()

    def start(library, name, way):
        model = Stack(library, options.cell, options.layers).to(device)
        model.load_state_dict(weights)
        run = SharedRun(name, share_out(model, way, device), options.epochs)
        run.accumulate = options.accumulate
        return run

    comparisons = [
        speakers.Comparison(way, start(nn, "torch.nn", way), start(fastcells, "fastcells", way))
        for way in WAYS
    ]
    generator = torch.Generator().manual_seed(options.seed)
    is_quiet = None if dist.get_rank() == 0 else True  # None: quiet where no one watches
    for _ in tqdm(range(options.epochs), desc=options.cell, unit="epoch", disable=is_quiet):
        batches = speakers.make_batches(train, generator)
        for run in (run for c in comparisons for run in (c.theirs, c.ours)):
            run.train_epoch(batches)
            run.test(test)
    return comparisons


# ---- Checkpoint


def save(model, options, path):
    """Write the whole weights of a shared-out model; every process must call it."""
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=whole)
    if dist.get_rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"cell": options.cell, "layers": options.layers, "weights": weights}, path)


def read(path, library):
    """Return the Stack of `library` with the weights in `path`, in a single process."""
    saved = torch.load(path, weights_only=True, map_location="cpu")
    model = Stack(library, saved["cell"], saved["layers"])
    model.load_state_dict(saved["weights"])
    return model


def accuracy_of(path, library):
    """Return which share of the test utterances the saved weights give to the right speaker."""
    run = speakers.Run("", read(path, library), epochs=1)
    run.test(speakers.load_data()[1])
    return run.accuracies[-1]


# ---- Report


def make_table(comparisons, options):
    """Return the table of all runs."""
    table = Table(
        title=f"{dist.get_world_size()} processes, {dist.get_backend()}: {options.layers} "
        f"{options.cell} layers, gradients of {options.accumulate} batches a step",
        caption="Seconds: median over the epochs of training alone. Loss apart: the largest "
        "difference from the first row's, over the first epoch.",
    )
    for column in ("way", "implementation"):
        table.add_column(column, no_wrap=True)
    for column in ("test accuracy", "seconds per epoch", "speed", "loss apart"):
        table.add_column(column, justify="right")
    for c in comparisons:
        for run, speed in ((c.theirs, 1.0), (c.ours, c.speed())):
            apart = loss_apart(comparisons[0].theirs, run)
            seconds = f"{statistics.median(run.seconds):.3f}"
            cells = speakers.percent(run), seconds, f"{speed:.2f}", f"{apart:.1e}"
            table.add_row(c.cell, run.name, *cells)
    return table


def loss_apart(first, run):
    """Return the largest difference of the losses of two runs in the first epoch."""
    return speakers.Comparison("", first, run).loss_difference(1)


def failed_claims(comparisons):
    """Return a sentence for each claim that does not hold."""
    failures, first = [], comparisons[0].theirs
    for c in comparisons:
        if c.ours.accuracies[-1] < ACCURACY_CLAIM:
            failures.append(
                f"fastcells under {c.cell} reached {c.ours.accuracies[-1]:.1%} test accuracy; at "
                f"least {ACCURACY_CLAIM:.0%} was claimed."
            )
        for run in (c.theirs, c.ours):
            apart = loss_apart(first, run)
            if not apart <= LOSS_CLAIM:  # a loss that is not a number fails too
                failures.append(
                    f"The losses of {run.name} under {c.cell} differ by {apart:.1e} from those of "
                    f"torch.nn under {WAYS[0]}; at most {LOSS_CLAIM:.0e} was claimed."
                )
    return failures


# ---- Command line


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cell", choices=("RNN", "LSTM", "GRU"), default="LSTM", help="default: %(default)s")
    add("--layers", type=int, default=2, help="of the stack; default: %(default)s")
    add("--epochs", type=int, default=40, help="default: %(default)s")
    add("--accumulate", type=int, default=3, help="batches a step; default: %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--output", type=Path, default=speakers.HERE / "output" / "distributed.pt")
    add("--read", type=Path, metavar="PATH", help="only test these weights, in this one process")
    options = parser.parse_args(arguments)
    for name in ("layers", "epochs", "accumulate"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if options.read is not None and not options.read.is_file():
        parser.error(f"--read: there is no file {options.read}")
    if options.read is None and not dist.is_torchelastic_launched():
        parser.error("start it by torchrun --nproc-per-node 2 examples/distributed.py")
    if options.read is None and int(os.environ["WORLD_SIZE"]) > BATCH:
        parser.error(f"a batch has {BATCH} rows, and so many processes can share it at most")
    return options


def main(arguments=None):
    """Train, report, check; return the exit code."""
    options = parse_arguments(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if options.read is not None:
        for name, library in (("torch.nn", nn), ("fastcells", fastcells)):
            console.print(f"{name}, one process: {accuracy_of(options.read, library):.1%}")
        return 0
    local, processes = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    has_gpus = torch.cuda.device_count() >= processes
    device = torch.device("cuda", local) if has_gpus else torch.device("cpu")
    if has_gpus:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if has_gpus else "gloo")
    try:
        comparisons = compare(options, device)
        save(comparisons[-1].ours.model, options, options.output)
        if dist.get_rank() > 0:
            return 0
        console.print(make_table(comparisons, options))
    finally:
        dist.destroy_process_group()
    console.print(f"Weights: {os.path.relpath(options.output)}")
    failures = failed_claims(comparisons)
    for sentence in failures:
        console.print(f"[bold red]Claim not met:[/] {sentence}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
