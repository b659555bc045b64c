"""Time fastcells' attention on a CPU beside torch's.

Prints tables, ends with the geometric means against the targets, and writes all numbers to
benchmarks/results/<cpu>/<date>-attention.json; a quick or partial run writes to
build/benchmarks/results. Everything else on the machine should be quiet.

Run it with `python -m benchmarks.attention.cpu`, or `make bench`.
"""

import argparse
import sys

from benchmarks.attention.cases import CASES
from benchmarks.attention.modes import COMPILED, MODES, TARGETS, run_case
from benchmarks.command import Run, add_arguments, parse
from benchmarks.experiments import Settings
from benchmarks.report import make_target_table


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, CASES)
    parser.add_argument(
        "--no-compile", action="store_true",
        help=f"leave out {COMPILED}, which compiles anew for each case of additive attention",
    )  # fmt: skip
    return parse(parser, CASES, arguments)


def is_complete(options):
    """Whether every case is asked for, of all peers."""
    return not options.quick and not options.no_compile and set(options.modes) == set(CASES)


def main(arguments=None):
    """Measure, print, write; return the exit code: 1 if fastcells is wrong somewhere."""
    options = parse_arguments(arguments)
    run = Run("attention", options)
    peers = () if options.no_compile else (COMPILED,)
    settings = Settings(peers, options.threads, options.rounds, options.budget)
    cases = [(mode, case) for mode in options.modes for case in CASES[mode](options.quick)]
    records = run.run_all(cases, lambda m, c: run_case(m, c, settings, run.ceilings))
    run.print_tables(records, MODES)
    run.console.print(make_target_table(records, TARGETS))
    results = run.assemble(records, is_complete(options))
    return run.close(results, run.write(results))


if __name__ == "__main__":
    sys.exit(main())
