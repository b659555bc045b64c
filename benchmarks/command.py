"""What a benchmark on a CPU has around its cases: options, ceilings, results file and exit code.

A quick or partial run writes to build/benchmarks/results, a complete one to benchmarks/results.
"""

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
from benchmarks.ceilings import measure_ceilings
from benchmarks.machine import describe_machine, describe_revision, package_versions
from benchmarks.paths import BUILD, RESULTS
from benchmarks.report import make_ceiling_table, make_error_table, make_summary, make_table
from benchmarks.summary import full_label
from fastcells.timing import PAUSE_S, QUIET, OtherLoad

FORMAT = 1  # of the results file
ROUNDS, QUICK_ROUNDS = 12, 7
BUDGET_S, QUICK_BUDGET_S = 2.0, 1.0


def add_arguments(parser, modes):
    """Give the parser the options that all have."""
    parser.add_argument("--quick", action="store_true", help="few shapes and rounds: a minute")
    parser.add_argument("--only", nargs="+", choices=modes, metavar="MODE", help=", ".join(modes))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, quick: {QUICK_ROUNDS}")
    parser.add_argument(
        "--budget", type=float, metavar="S",
        help="seconds for the rounds of one case, after which slow cases get fewer rounds, 7 at "
        f"least (default: {BUDGET_S:g}, quick: {QUICK_BUDGET_S:g})",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="folder for the results")


def parse(parser, modes, arguments):
    """Read the command line; `modes` are those that may be asked for."""
    options = parser.parse_args(arguments)
    options.modes = options.only or list(modes)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    options.budget = options.budget or (QUICK_BUDGET_S if options.quick else BUDGET_S)
    for name in ("threads", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def restrict_threads(threads):
    """Keep this process to `threads` cores: a library that has no option for it follows this."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


def describe_run(load, is_complete):
    """Return what every results file begins with: when, on what, of which revision, how quiet."""
    return {
        "date": datetime.date.today().isoformat(),
        "complete": is_complete,
        "others_share_of_cores": load.share(),
        "machine": describe_machine(),
        "packages": package_versions(),
        "revision": describe_revision(),
        "instruction_set": fastcells._extension._C.instruction_set(),
    }


def write_results(results, name, output=None):
    """Write a results file into the folder of this processor; return its path."""
    folder = output or (RESULTS if results["complete"] else BUILD / "results")
    path = folder / results["machine"]["slug"] / f"{results['date']}-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


class Run:
    """One run of a benchmark called `name`, as "recurrent": begins with the ceilings."""

    def __init__(self, name, options):
        if not fastcells.is_compiled():
            raise SystemExit(f"{name}/cpu.py: fastcells is not compiled here: run `make build`")
        self.name, self.options = name, options
        self.started, self.load = time.perf_counter(), OtherLoad()
        restrict_threads(options.threads)
        self.console = Console(width=None if sys.stdout.isatty() else 160)
        self.ceilings = measure_ceilings(options.threads)
        self.console.print(make_ceiling_table(self.ceilings))

    def run_all(self, cases, run_case):
        """Return the records run_case(mode, case) of `cases`, pairs of mode and case."""
        records = []
        progress = tqdm(cases, unit="case", disable=None)
        for mode, case in progress:
            group = getattr(case, "cell", case.mode)
            progress.set_description(f"{mode} {group} {case.label}")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of foreign libraries, about their own insides
                records.append(run_case(mode, case))
        return records

    def print_tables(self, records, modes):
        """Print a table for each mode, then the errors and a summary; `modes` is {name: Mode}."""
        for name in self.options.modes:
            shown = [record for record in records if record["mode"] == name]
            self.console.print(make_table(name, modes[name], shown))
        self.console.print(make_error_table(records), make_summary(records, modes))

    def assemble(self, records, is_complete):
        """Return the content of the results file."""
        options = self.options
        return {
            "format": FORMAT,
            **describe_run(self.load, is_complete),
            "seconds": round(time.perf_counter() - self.started),
            "settings": {
                "threads": options.threads,
                "rounds": options.rounds,
                "budget_s": options.budget,
                "pause_s": PAUSE_S,
            },
            "ceilings": {
                "fma_gflops": self.ceilings.fma_gflops,
                "read_gb_s": self.ceilings.read_gb_s,
            },
            "records": records,
        }

    def write(self, results):
        """Write the results file into the folder of this processor; return its path."""
        return write_results(results, self.name, self.options.output)

    def close(self, results, path):
        """Say where the results are and what is wrong with them; return the exit code."""
        self.console.print(f"{results['seconds']} s. Results: {os.path.relpath(path)}")
        if (results["others_share_of_cores"] or 0) > QUIET:
            share = f"{results['others_share_of_cores']:.0%}"
            self.console.print(
                f"[bold red]Not quiet:[/] others used {share} of the cores meanwhile."
            )
        failures = failures_of(results["records"])
        for sentence in failures:
            self.console.print(f"[bold red]Wrong:[/] {escape(sentence)}")
        return 1 if failures else 0


def failures_of(records):
    """Return a sentence for each case that fastcells got wrong or failed at."""
    return [
        f"{full_label(record)}: {name} {reason}"
        for record in records
        for name, reason in record["skipped"].items()
        if name.startswith("fastcells") and reason.startswith(("wrong", "failed"))
    ]
