"""Time fastcells.linear_scan on a CPU beside what else computes h = a h + b.

An eager loop of torch, the form in logarithms (Heinsen 2023, https://arxiv.org/abs/2311.06281, with
complex ones of b, which may be negative; a must be positive), and torch's associative_scan. All
take turns in one process with a triad of the same size (torch.add of two arrays into a third),
whose rate is the floor: the bytes that must be read and written, once each. Forward without
gradients, and forward with backward. Writes benchmarks/results/<cpu>/<date>-scan.json (a --quick
run: build/benchmarks/results).

Run it with `python -m benchmarks.scan.cpu`.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch._higher_order_ops import associative_scan

import fastcells
from benchmarks.command import describe_run, write_results
from fastcells.timing import OtherLoad, measure

SHAPES = ((4096, 8, 1024), (1024, 64, 512), (2048, 16, 256), (1024, 8, 256), (4096, 1, 64),
          (100_000, 1, 16), (512, 256, 1), (128, 4, 64), (16, 4, 16), (1, 32, 256))  # fmt: skip
QUICK_SHAPES = ((256, 8, 128), (128, 4, 64), (16, 4, 16))
#: Arrays of [T, B, H] that are read or written: a, b, h; and grad, a, h, the gradients of b and a.
ARRAYS = {"forward": 3, "training": 3 + 5}
#: Most elements, and most steps, that a peer is timed at: more take seconds a call.
MOST_ELEMENTS = {"loop": 2**22, "logarithms": 2**21, "associative": 2**18}
MOST_STEPS = {"loop": 10_000}
#: Largest error, over the largest value, beside float64; that of the peers is told, not judged.
LIMIT = 1e-5


@dataclass(frozen=True)
class Case:
    """A shape and what is done with it."""

    T: int
    B: int
    H: int
    mode: str  # "forward" or "training"

    @property
    def elements(self):
        return self.T * self.B * self.H

    @property
    def bytes(self):
        """Return those of float32 that must pass."""
        return 4 * self.elements * ARRAYS[self.mode]


def loop(a, b):
    """Return h of an eager loop."""
    h, all_h = torch.zeros_like(b[0]), []
    for t in range(b.shape[0]):
        h = torch.addcmul(b[t], a[t], h)
        all_h.append(h)
    return torch.stack(all_h)


def logarithms(a, b):
    """Return h by cumulative sums of logarithms."""
    steps = a.log().cumsum(0)
    terms = b.to(torch.complex64 if b.dtype == torch.float32 else torch.complex128).log()
    return torch.exp(steps + torch.logcumsumexp(terms - steps, 0)).real


def associative(a, b):
    """Return h by torch's scan in a logarithmic number of steps."""

    def combine(x, y):
        return x[0] * y[0], y[0] * x[1] + y[1]

    return associative_scan(combine, (a, b), 0, combine_mode="generic")[1]


PEERS = {
    "fastcells": fastcells.linear_scan,
    "loop": loop,
    "logarithms": logarithms,
    "associative": associative,
}


def make_arguments(case):
    """Return a between 0.8 and 1, and b."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.T, case.B, case.H)
    a = 0.8 + 0.199 * torch.rand(shape, generator=generator)
    return a, torch.randn(shape, generator=generator)


def call_of(scan, case, a, b):
    """Return the call that is timed."""
    if case.mode == "forward":

        def forward():
            with torch.no_grad():
                return scan(a, b)

        return forward
    a, b, along = a.clone().requires_grad_(), b.clone().requires_grad_(), torch.ones_like(b)
    return lambda: torch.autograd.grad(scan(a, b), (a, b), along)


def exact_result(case, a, b):
    """Return h, or of training the gradient of a: loops of NumPy in float64."""
    a, b = a.double().numpy(), b.double().numpy()
    h = np.empty_like(b)
    state = np.zeros_like(b[0])
    for t in range(case.T):
        state = h[t] = a[t] * state + b[t]
    if case.mode == "forward":
        return torch.from_numpy(h)
    d_a = np.zeros_like(a)
    d_h = np.ones_like(b[0])
    for t in range(case.T - 1, 0, -1):
        d_a[t] = d_h * h[t - 1]
        d_h = 1 + a[t] * d_h
    return torch.from_numpy(d_a)


def error_of(result, exact):
    """Return the largest error, over the largest value; of gradients the first's."""
    found = result[0] if isinstance(result, tuple) else result
    largest = exact.abs().max().item() or 1.0  # of one step the gradient of a is 0
    return (found.double() - exact).abs().max().item() / largest


def triads(case):
    """Return two triads of the case's size: into memory that is there, and into fresh memory."""
    x, y, z = (torch.ones(case.elements) for _ in range(3))
    return {
        "triad": lambda: torch.add(x, y, alpha=0.5, out=z),
        "triad, fresh": lambda: torch.add(x, y, alpha=0.5),
    }


def run_case(case, rounds, budget):
    """Return the record of one case: seconds, errors, and what failed."""
    a, b = make_arguments(case)
    exact = exact_result(case, a, b)
    calls, errors, skipped = {}, {}, {}
    for name, scan in PEERS.items():
        is_too_large = case.elements > MOST_ELEMENTS.get(name, case.elements)
        if is_too_large or case.T > MOST_STEPS.get(name, case.T):
            skipped[name] = "not timed at this size"
            continue
        call = call_of(scan, case, a, b)
        try:
            errors[name] = error_of(call(), exact)
        except Exception as error:
            skipped[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        if name == "fastcells" and not errors[name] <= LIMIT:
            raise SystemExit(f"{case}: fastcells is off by {errors[name]:.2g}")
        calls[name] = call
    del exact
    timings = measure(calls | triads(case), rounds, budget_s=budget)
    seconds = {name: timing.median for name, timing in timings.items()}
    rate = 12 * case.elements / seconds["triad"]  # the triad reads two arrays and writes one
    return {
        "T": case.T, "B": case.B, "H": case.H, "mode": case.mode,
        "rounds": timings["fastcells"].rounds, "seconds": seconds, "errors": errors,
        "skipped": skipped, "triad_gb_s": rate / 1e9, "floor_s": case.bytes / rate,
    }  # fmt: skip


def show(console, records):
    """Print a table a mode: milliseconds, and how many times the floor fastcells takes."""
    for mode in ARRAYS:
        table = Table(caption="ms; largest error in brackets where it exceeds 1e-5")
        columns = (*PEERS, "triad", "triad, fresh", "floor", "times the floor", "GB/s")
        for column in (mode, *columns):
            table.add_column(column)
        for r in (r for r in records if r["mode"] == mode):
            times = []
            for name in PEERS:
                error = r["errors"].get(name, 0.0)
                note = "" if error <= LIMIT else f" ({error:.0e})"
                found = r["seconds"].get(name)
                times.append("" if found is None else f"{found * 1e3:.3f}{note}")
            times += [f"{r['seconds'][name] * 1e3:.3f}" for name in ("triad", "triad, fresh")]
            ours = r["seconds"]["fastcells"] / r["floor_s"]
            times += [f"{r['floor_s'] * 1e3:.3f}", f"{ours:.2f}", f"{r['triad_gb_s']:.1f}"]
            table.add_row(f"T{r['T']} B{r['B']} H{r['H']}", *times)
        console.print(table)


def main(arguments=None):
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few shapes and rounds: a minute")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds a case, about")
    parser.add_argument("--output", type=Path, help="folder for the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    load, rounds = OtherLoad(), 7 if options.quick else 11
    cases = [Case(*shape, mode) for mode in ARRAYS
             for shape in (QUICK_SHAPES if options.quick else SHAPES)]  # fmt: skip
    records = [run_case(case, rounds, options.budget) for case in cases]
    console = Console(width=160)
    show(console, records)
    results = {
        **describe_run(load, is_complete=not options.quick),
        "threads": options.threads,
        "records": records,
    }
    console.print(f"load of others: {results['others_share_of_cores']}")
    console.print(f"written: {write_results(results, 'scan', options.output)}")


if __name__ == "__main__":
    sys.exit(main())
