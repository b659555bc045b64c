"""Time the small calls, where what surrounds a kernel costs more than the kernel, beside torch.

One cell, a loop of cells, a layer of one step, attention of a few positions; inference, and forward
and backward. Both take turns in one process; the number is the minimum over many rounds, which
neither a neighbour nor a sleeping thread makes smaller. Prints a table and writes
benchmarks/results/<cpu>/<date>-small-calls.json (a --quick or partial run: build/benchmarks).

Run it with `python -m benchmarks.small_calls`, or `make bench`.
"""

import argparse
import contextlib
import math
import os
import sys
import time
import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fastcells
from benchmarks.command import describe_run, write_results
from benchmarks.small_cases import CASES
from benchmarks.summary import geometric_mean
from fastcells.timing import OtherLoad, timed

ROUNDS, QUICK_ROUNDS = 40, 12
SAMPLE_S = 1.5e-3


def backward_of(results, inputs):
    """Run the way back of the sum of all results; leave the gradients where they are."""
    total = sum(r.sum() for r in flat(results))
    total.backward()
    for tensor in inputs:
        tensor.grad = None


def flat(results):
    """Yield every tensor of nested tuples."""
    if isinstance(results, torch.Tensor):
        yield results
    else:
        for part in results:
            if part is not None:
                yield from flat(part)


def passes(call, leaves, is_training):
    """Return the call without arguments that is timed."""
    if not is_training:
        return call

    def run():
        backward_of(call(), leaves)

    return run


def compare(case, is_training, rounds):
    """Return the record of one case: seconds of torch and of fastcells."""
    torch.manual_seed(0)
    theirs, ours = case.build(nn), case.build(fastcells)
    ours.take_weights(theirs)
    leaves = [theirs.leaves(is_training), ours.leaves(is_training)]
    mode = contextlib.nullcontext() if is_training else torch.no_grad()
    with mode:
        expected, found = list(flat(theirs.call())), list(flat(ours.call()))
        pairs = zip(expected, found, strict=True)
        error = max(float((a - b).detach().abs().max()) for a, b in pairs)
        scale = max(1.0, *(float(a.detach().abs().max()) for a in expected))
        if not error <= 1e-4 * scale:
            raise SystemExit(f"{case.label}: off by {error:.2g}")
        calls = [
            passes(side.call, own, is_training)
            for side, own in zip((theirs, ours), leaves, strict=True)
        ]
        best, repetitions = [math.inf, math.inf], [1, 1]
        for i, call in enumerate(calls):
            for _ in range(3):
                call()
            seconds = timed(call, 3)
            repetitions[i] = max(1, min(300, math.ceil(SAMPLE_S / seconds)))
        for number in range(rounds):
            for i in (0, 1) if number % 2 == 0 else (1, 0):
                best[i] = min(best[i], timed(calls[i], repetitions[i]))
    return {
        "case": case.label,
        "pass": "training" if is_training else "inference",
        "torch_us": best[0] * 1e6,
        "fastcells_us": best[1] * 1e6,
        "rounds": rounds,
    }


def ratio(record):
    """Return how many times as fast as torch."""
    return record["torch_us"] / record["fastcells_us"]


def show(console, records):
    """Print the table and the means."""
    table = Table("call", "pass", "torch us", "fastcells us", "ratio", caption="minimum of rounds")
    for r in records:
        style = "bold red" if ratio(r) < 1 else ""
        values = (f"{r['torch_us']:.1f}", f"{r['fastcells_us']:.1f}", f"{ratio(r):.2f}")
        table.add_row(r["case"], r["pass"], *values, style=style)
    console.print(table)
    for kind in ("inference", "training"):
        ratios = [ratio(r) for r in records if r["pass"] == kind]
        if ratios:
            slow = sum(x < 1 for x in ratios)
            console.print(
                f"{kind}: geometric mean {geometric_mean(ratios):.2f}, smallest "
                f"{min(ratios):.2f}, {slow} of {len(ratios)} under 1"
            )


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--only", help="cases whose label holds this")
    parser.add_argument("--passes", nargs="+", default=["inference", "training"],
                        choices=["inference", "training"])  # fmt: skip
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, quick {QUICK_ROUNDS}")
    parser.add_argument("--output", type=Path, help="folder for the results")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Measure, print, write."""
    options = parse_arguments(arguments)
    if not fastcells.is_compiled():
        raise SystemExit("small_calls.py: fastcells is not compiled here: run `make build`")
    torch.set_num_threads(options.threads)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    started, load, records = time.perf_counter(), OtherLoad(), []
    chosen = [case for case in CASES if not options.only or options.only in case.label]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in chosen:
            for kind in options.passes:
                records.append(compare(case, kind == "training", rounds))
    console = Console(width=None if sys.stdout.isatty() else 120)
    show(console, records)
    is_complete = not (options.quick or options.only) and len(options.passes) == 2
    results = {
        **describe_run(load, is_complete),
        "seconds": round(time.perf_counter() - started),
        "threads": options.threads,
        "records": records,
    }
    path = write_results(results, "small-calls", options.output)
    console.print(f"{results['seconds']} s. Results: {os.path.relpath(path)}")


if __name__ == "__main__":
    sys.exit(main())
