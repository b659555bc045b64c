"""Time single calls as a server makes them: after a pause, beside a busy neighbour, and with more
threads than cores.

Every call is timed by itself, torch's and fastcells' by turns, each after a pause in which its
threads fall asleep; the table has the median, the 90th and the 99th percentile. Prints a table and
writes benchmarks/results/<cpu>/<date>-latency.json (a --quick run: build/benchmarks).

Run it with `python -m benchmarks.latency`.
"""

import argparse
import multiprocessing
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fastcells
from benchmarks.command import describe_run, write_results
from fastcells.timing import OtherLoad

STEPS = 60
CASES = (("LSTM", 7, 96), ("RNN", 24, 160), ("GRU", 3, 333))
CALLS, QUICK_CALLS = 200, 30
PAUSE_S = 0.05


def spin(stop):
    """Keep a core busy."""
    while not stop.is_set():
        sum(range(10000))


@contextmanager
def busy_neighbour():
    """Another process that keeps one core busy."""
    stop = multiprocessing.Event()
    process = multiprocessing.Process(target=spin, args=(stop,), daemon=True)
    process.start()
    try:
        yield
    finally:
        stop.set()
        process.join()


@contextmanager
def alone():
    """Nothing besides."""
    yield


def situations(cores):
    """Return {name: (pause, threads, what runs beside)}."""
    return {
        "hot": (0.0, cores, alone),
        "after 50 ms": (PAUSE_S, cores, alone),
        "after 50 ms, one thread": (PAUSE_S, 1, alone),
        "hot, busy neighbour": (0.0, cores, busy_neighbour),
        "after 50 ms, busy neighbour": (PAUSE_S, cores, busy_neighbour),
        **{f"hot, {cores * n} threads": (0.0, cores * n, alone) for n in (2, 4)},
    }


def measure(calls, pause_s, count):
    """Return {name: sorted seconds} of each call, by turns."""
    samples = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    for _ in range(count):
        for name, call in calls.items():
            if pause_s:
                time.sleep(pause_s)
            else:
                call()  # so that its own threads are the last that ran
            start = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - start)
    return {name: sorted(seconds) for name, seconds in samples.items()}


def percentile(ordered, share):
    """Return the sample below which `share` of all lie."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run_case(kind, batch, hidden, count):
    """Return the records of one layer in every situation."""
    torch.manual_seed(0)
    theirs = getattr(nn, kind)(hidden, hidden).eval()
    ours = getattr(fastcells, kind)(hidden, hidden).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(STEPS, batch, hidden)
    calls = {"torch": lambda: theirs(x), "fastcells": lambda: ours(x)}
    records = []
    for name, (pause_s, threads, beside) in situations(os.cpu_count()).items():
        torch.set_num_threads(threads)
        with torch.no_grad(), beside():
            for who, ordered in measure(calls, pause_s, count).items():
                shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
                records.append(
                    {"case": f"{kind} B {batch} H {hidden}", "situation": name, "who": who}
                    | {key: percentile(ordered, share) * 1e3 for key, share in shares.items()}
                )
    return records


def shares_of(record):
    """Return the three percentiles as text."""
    return " / ".join(f"{record[key]:.2f}" for key in ("p50", "p90", "p99"))


def show(console, records):
    """Print the table, milliseconds."""
    table = Table("layer", "situation", "torch p50 / p90 / p99 ms", "fastcells", "p50 ratio")
    for theirs, ours in zip(records[::2], records[1::2], strict=True):
        ratio = f"{theirs['p50'] / ours['p50']:.2f}"
        table.add_row(ours["case"], ours["situation"], shares_of(theirs), shares_of(ours), ratio)
    console.print(table)


def main(arguments=None):
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few calls")
    parser.add_argument("--output", type=Path, help="folder for the results")
    options = parser.parse_args(arguments)
    if not fastcells.is_compiled():
        raise SystemExit("latency.py: fastcells is not compiled here: run `make build`")
    started, load = time.perf_counter(), OtherLoad()
    count = QUICK_CALLS if options.quick else CALLS
    records = [record for case in CASES for record in run_case(*case, count)]
    console = Console(width=None if sys.stdout.isatty() else 130)
    show(console, records)
    results = {
        **describe_run(load, is_complete=not options.quick),
        "seconds": round(time.perf_counter() - started),
        "calls": count,
        "records": records,
    }
    path = write_results(results, "latency", options.output)
    console.print(f"{results['seconds']} s. Results: {os.path.relpath(path)}")


if __name__ == "__main__":
    sys.exit(main())
