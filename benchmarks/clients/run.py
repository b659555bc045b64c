"""Run other packages' models on torch.nn and on fastcells: the same numbers, and how fast.

Each package runs in a process of its own. A client is built twice from one seed, once as the
package has it and once converted, compared, and timed by turns. Writes docs/clients.md and
benchmarks/results/<cpu>/<date>-clients.json (a run with --only: build/benchmarks, no document).

Run it with `make clients`, which installs the packages into build/clients-venv.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import fastcells
from benchmarks.clients.cases import CLIENTS
from benchmarks.clients.document import make_table, write_document
from benchmarks.command import describe_run, write_results
from benchmarks.machine import package_versions
from benchmarks.paths import ROOT
from fastcells.timing import MIN_ROUNDS, OtherLoad, measure

ROUNDS, BUDGET_S = 12, 10.0
TIMEOUT_S = 1200  # of a package, with its imports, on a busy machine


def flat(results):
    """Yield every array of nested results, in float64."""
    if isinstance(results, torch.Tensor):
        results = results.detach().cpu().numpy()
    if isinstance(results, np.ndarray | np.number):
        yield np.asarray(results, dtype=np.float64)
    elif isinstance(results, dict):
        yield from flat(list(results.values()))
    elif isinstance(results, list | tuple):
        for part in results:
            yield from flat(part)


def largest_error(found, expected):
    """Return the largest difference, relative to the largest element of its array.

    An array that is zero but for rounding, as the gradient of what a softmax takes away again, has
    no size of its own: it is measured by a thousandth of the largest of all.
    """
    scales = [float(np.abs(theirs).max(initial=0)) for theirs in expected]
    least = max(1e-3 * max(scales), np.finfo(np.float32).tiny)
    return max(
        float(np.abs(mine - theirs).max(initial=0)) / max(scale, least)
        for mine, theirs, scale in zip(found, expected, scales, strict=True)
    )


def first_run(client, is_ours):
    """Build from the one seed, and run once; return the work and its results."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    work = client.build()
    if is_ours and client.way == "convert":
        fastcells.convert(work.model(), inplace=True, as_subclass=True)
    return work, list(flat(work.run()))


def run_client(client, rounds=ROUNDS, budget_s=BUDGET_S):
    """Return the record of one client."""
    is_patched = client.way == "patched_torch"
    context = fastcells.patched_torch if is_patched else contextlib.nullcontext
    stock, expected = first_run(client, is_ours=False)
    with context():
        ours, found = first_run(client, is_ours=True)
    layers = fastcells.conversion_report(ours.model()).layers

    def run_ours():
        with context():
            ours.run()

    error = largest_error(found, expected)
    record = {
        "layers": len(layers), "converted": sum(line.is_fastcells for line in layers),
        "left": sorted({f"{x.kind}: {x.runs_on}" for x in layers if not x.is_fastcells}),
        "error": error, "tolerance": client.tolerance, "is_right": error <= client.tolerance,
    }  # fmt: skip
    timings = measure({"torch": stock.run, "fastcells": run_ours}, rounds, budget_s=budget_s)
    return record | {
        "torch_s": timings["torch"].median,
        "fastcells_s": timings["fastcells"].median,
        "rounds": timings["torch"].rounds,
    }


def run_clients(numbers, path):
    """In the child process: a record of each, written as soon as it is there."""
    records = {}
    for number in numbers:
        try:
            records[number] = run_client(CLIENTS[number])
        except Exception as error:  # of a foreign package; named in the table
            records[number] = {"reason": f"{type(error).__name__}: {error}".splitlines()[0]}
        path.write_text(json.dumps(records), encoding="utf-8")


def run_package(package, numbers, threads):
    """Return the records of the clients `numbers`, all of one package, from a child process."""
    version = package_versions([package])[package]
    found, reason = {}, "not installed"
    if version is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "records.json"
            command = [sys.executable, "-m", "benchmarks.clients.run", "--threads", str(threads),
                       "--output", str(path), "--clients", *map(str, numbers)]  # fmt: skip
            try:
                done = subprocess.run(
                    command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S
                )
                reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            except subprocess.TimeoutExpired:
                reason = f"took more than {TIMEOUT_S} s"
            if path.exists():
                found = json.loads(path.read_text(encoding="utf-8"))
    return [
        {"package": package, "version": version, "client": CLIENTS[number].name,
         "pass": CLIENTS[number].passes, "way": CLIENTS[number].way}
        | found.get(str(number), {"reason": reason})
        for number in numbers
    ]  # fmt: skip


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="clients whose package or name holds this")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--clients", type=int, nargs="+", help=argparse.SUPPRESS)  # of a child
    parser.add_argument("--output", type=Path, help="folder for the results")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run, compare, print, write; return the exit code."""
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    if options.clients:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign packages, about their own insides
            run_clients(options.clients, options.output)
        return 0
    if not fastcells.is_compiled():
        raise SystemExit("clients/run.py: fastcells is not compiled here: run `make build`")
    console = Console(width=None if sys.stdout.isatty() else 160)
    started, load, records = time.perf_counter(), OtherLoad(), []
    chosen = defaultdict(list)
    for number, client in enumerate(CLIENTS):
        if not options.only or options.only in f"{client.package} {client.name}":
            chosen[client.package].append(number)
    for package, numbers in chosen.items():
        console.print(f"{package}: {', '.join(CLIENTS[n].name for n in numbers)}")
        records += run_package(package, numbers, options.threads)
    results = {
        **describe_run(load, is_complete=not options.only),
        "seconds": round(time.perf_counter() - started),
        "threads": options.threads,
        "minimum_rounds": MIN_ROUNDS,
        "records": records,
    }
    console.print(make_table(records), markup=False)
    path = write_results(results, "clients", options.output)
    if results["complete"]:
        write_document(results)
    console.print(f"{results['seconds']} s. Results: {os.path.relpath(path)}")
    return int(any(not record.get("is_right", True) for record in records))


if __name__ == "__main__":
    sys.exit(main())
