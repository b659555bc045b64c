"""Time fastcells' recurrent layers on a CPU beside torch and other libraries.

Prints tables, and writes all numbers to benchmarks/results/<cpu>/<date>-recurrent.json with a
picture beside it. A quick or partial run writes to build/benchmarks/results, because README is made
from benchmarks/results. Everything else on the machine should be quiet.

Run it with `python benchmarks/recurrent_cpu.py`, or `make bench`.
"""

import argparse
import datetime
import json
import os
import sys
import time
import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from tqdm import tqdm

import fastcells
from cases import CASES, GATES
from ceilings import BUILD, measure_ceilings
from curves import draw
from experiments import Settings, run_experiment
from harness import PAUSE_S
from machine import OtherLoad, describe_machine, describe_revision, package_versions
from peer_keras import Keras
from peers import Fastcells, OnnxRuntime, OpenVino, Torch, TorchCompile
from report import make_ceiling_table, make_error_table, make_summary, make_table

HERE = Path(__file__).resolve().parent
FORMAT = 1  # of the results file
PEERS = {p.name: p for p in (Torch, TorchCompile, OnnxRuntime, OpenVino, Keras, Fastcells)}
# Keras and torch.compile compile anew for each case, for minutes in all: on request.
DEFAULT_PEERS = ("torch", "onnxruntime", "openvino", "fastcells")
ALWAYS = ("torch", "fastcells")  # what all are judged by, and what this is about
ROUNDS, QUICK_ROUNDS = 12, 7
QUIET = 0.03  # more of the cores in other hands, and the numbers are not worth publishing
BUDGET_S, QUICK_BUDGET_S = 2.0, 1.0


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few shapes and rounds: a minute")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="MODE", help=", ".join(CASES))
    parser.add_argument("--cells", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, metavar="PEER", default=list(DEFAULT_PEERS),
        help=f"of {', '.join(PEERS)} (default: {', '.join(DEFAULT_PEERS)})",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, quick: {QUICK_ROUNDS}")
    parser.add_argument(
        "--budget", type=float, metavar="S",
        help="seconds for the rounds of one case, after which slow cases get fewer rounds, 7 at "
        f"least (default: {BUDGET_S:g}, quick: {QUICK_BUDGET_S:g})",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="folder for the results")
    options = parser.parse_args(arguments)
    options.modes = options.only or list(CASES)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    options.budget = options.budget or (QUICK_BUDGET_S if options.quick else BUDGET_S)
    for name in ("threads", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def is_complete(options):
    """Whether every case is asked for, of the default peers at least."""
    everything = set(CASES) | set(GATES) | set(DEFAULT_PEERS)
    asked = {*options.modes, *options.cells, *options.peers, *ALWAYS}
    return not options.quick and everything <= asked


def restrict_threads(threads):
    """Keep this process to `threads` cores: a library that has no option for it follows this."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


def run_all(options, ceilings):
    """Run every experiment that was asked for; return the records."""
    names = [name for name in PEERS if name in (*options.peers, *ALWAYS)]
    peers = tuple(PEERS[name](options.threads) for name in names)
    settings = Settings(peers, options.threads, options.rounds, options.budget)
    cases = [(m, c) for m in options.modes for c in CASES[m](options.cells, options.quick)]
    records = []
    progress = tqdm(cases, unit="case", disable=None)
    for mode, case in progress:
        progress.set_description(f"{mode} {case.cell} {case.label}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign libraries, about their own insides
            records.append(run_experiment(mode, case, settings, ceilings))
    return records


def assemble(options, ceilings, records, seconds, others):
    """Return the content of the results file."""
    return {
        "format": FORMAT,
        "date": datetime.date.today().isoformat(),
        "complete": is_complete(options),
        "seconds": round(seconds),
        "others_share_of_cores": others,
        "machine": describe_machine(),
        "packages": package_versions(),
        "revision": describe_revision(),
        "settings": {
            "threads": options.threads,
            "rounds": options.rounds,
            "budget_s": options.budget,
            "pause_s": PAUSE_S,
        },
        "ceilings": {"fma_gflops": ceilings.fma_gflops, "read_gb_s": ceilings.read_gb_s},
        "records": records,
    }


def write(results, folder):
    """Write the results file into the folder of this processor; return its path."""
    path = folder / results["machine"]["slug"] / f"{results['date']}-recurrent.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def failures_of(records):
    """Return a sentence for each case that fastcells got wrong or failed at."""
    return [
        f"{record['mode']} {record['case']['cell']} {record['label']}: {name} {reason}"
        for record in records
        for name, reason in record["skipped"].items()
        if name.startswith("fastcells") and reason.startswith(("wrong", "failed"))
    ]


def main(arguments=None):
    """Measure, print, write; return the exit code: 1 if fastcells is wrong somewhere."""
    options = parse_arguments(arguments)
    if not fastcells.is_compiled():
        raise SystemExit("recurrent_cpu: fastcells is not compiled here: run `make build`")
    started, load = time.perf_counter(), OtherLoad()
    restrict_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else 160)
    ceilings = measure_ceilings(options.threads)
    console.print(make_ceiling_table(ceilings))
    records = run_all(options, ceilings)
    for mode in options.modes:
        console.print(make_table(mode, [r for r in records if r["mode"] == mode]))
    console.print(make_error_table(records), make_summary(records))
    seconds = time.perf_counter() - started
    results = assemble(options, ceilings, records, seconds, load.share())
    folder = HERE if results["complete"] else BUILD
    path = write(results, options.output or folder / "results")
    if "inference" in options.modes and not options.quick:
        machine = results["machine"]
        title = f"{machine['cpu']} ({machine['zen'] or 'CPU'}), {options.threads} threads, T=60"
        draw(records, title, path.with_suffix(".png"))
    console.print(f"{results['seconds']} s. Results: {os.path.relpath(path)}")
    if (results["others_share_of_cores"] or 0) > QUIET:
        share = f"{results['others_share_of_cores']:.0%}"
        console.print(f"[bold red]Not quiet:[/] others used {share} of the cores meanwhile.")
    failures = failures_of(records)
    for sentence in failures:
        console.print(f"[bold red]Wrong:[/] {escape(sentence)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
