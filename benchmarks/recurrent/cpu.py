"""Time fastcells' recurrent layers on a CPU beside torch and other libraries.

Prints tables, and writes all numbers to benchmarks/results/<cpu>/<date>-recurrent.json with a
picture beside it. A quick or partial run writes to build/benchmarks/results, because README is made
from benchmarks/results. Everything else on the machine should be quiet.

Run it with `python -m benchmarks.recurrent.cpu`, or `make bench`.
"""

import argparse
import sys

from benchmarks.command import Run, add_arguments, parse
from benchmarks.experiments import Settings
from benchmarks.recurrent.cases import CASES, GATES
from benchmarks.recurrent.curves import draw
from benchmarks.recurrent.modes import MODES, run_case
from benchmarks.recurrent.peer_keras import Keras
from benchmarks.recurrent.peers import Fastcells, OnnxRuntime, OpenVino, Torch, TorchCompile

PEERS = {p.name: p for p in (Torch, TorchCompile, OnnxRuntime, OpenVino, Keras, Fastcells)}
# Keras and torch.compile compile anew for each case, for minutes in all: on request.
DEFAULT_PEERS = ("torch", "onnxruntime", "openvino", "fastcells")
ALWAYS = ("torch", "fastcells")  # what all are judged by, and what this is about


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, CASES)
    parser.add_argument("--cells", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, metavar="PEER", default=list(DEFAULT_PEERS),
        help=f"of {', '.join(PEERS)} (default: {', '.join(DEFAULT_PEERS)})",
    )  # fmt: skip
    return parse(parser, CASES, arguments)


def is_complete(options):
    """Whether every case is asked for, of the default peers at least."""
    everything = set(CASES) | set(GATES) | set(DEFAULT_PEERS)
    asked = {*options.modes, *options.cells, *options.peers, *ALWAYS}
    return not options.quick and everything <= asked


def main(arguments=None):
    """Measure, print, write; return the exit code: 1 if fastcells is wrong somewhere."""
    options = parse_arguments(arguments)
    run = Run("recurrent", options)
    names = [name for name in PEERS if name in (*options.peers, *ALWAYS)]
    peers = tuple(PEERS[name](options.threads) for name in names)
    settings = Settings(peers, options.threads, options.rounds, options.budget)
    cases = [(m, c) for m in options.modes for c in CASES[m](options.cells, options.quick)]
    records = run.run_all(cases, lambda m, c: run_case(m, c, settings, run.ceilings))
    run.print_tables(records, MODES)
    results = run.assemble(records, is_complete(options))
    path = run.write(results)
    if "inference" in options.modes and not options.quick:
        machine = results["machine"]
        title = f"{machine['cpu']} ({machine['zen'] or 'CPU'}), {options.threads} threads, T=60"
        draw(records, title, path.with_suffix(".png"))
    return run.close(results, path)


if __name__ == "__main__":
    sys.exit(main())
