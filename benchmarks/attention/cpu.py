"""Time fastcells' attention on a CPU beside torch's.

Prints tables, ends with the geometric means against the targets, and writes all numbers to
benchmarks/results/<cpu>/<date>-attention.json; a quick or partial run writes to
build/benchmarks/results. Everything else on the machine should be quiet.

A floor is the longer of two times: the operations of attention_cases.py at the FMA rate of
ceilings.cpp, and the bytes at the rate at which it reads as many.

Run it with `python benchmarks/attention_cpu.py`, or `make bench`.
"""

import argparse
import sys

from torch import nn

import fastcells
from attention_calls import (
    ADDITIVE_FUNCTIONS,
    case_call,
    compiled_by_hand,
    dot_by_hand,
    dot_function,
    dropout_of,
    multihead_call,
    seeded,
)
from attention_cases import CASES, MEMORY_CASE
from command import Run, add_arguments, parse
from experiments import MIB, Experiment, Settings, Variant, run_prepared
from memory import memory_of_child
from report import make_error_table, make_summary, make_table, make_target_table
from summary import PEAK_VS_TORCH, VS_BEST, VS_TORCH, Target

COMPILED = "torch.compile"
TARGETS = (
    Target("dot product", ("dot",), VS_TORCH, mean=2.2, worst=1.0),
    Target("bias and dropout", ("bias", "dropout"), VS_TORCH, mean=3.0),
    Target("additive", ("additive",), VS_BEST, mean=4.0),
    Target("additive, memory of training", ("additive",), PEAK_VS_TORCH, mean=20.0),
)


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


# ---- the modes


def prepare_dot(case, settings):
    """scaled_dot_product_attention of both."""
    theirs, ours = (
        Variant(case_call(case, dot_function(case, library)))
        for library in (nn.functional, fastcells)
    )
    if case.dropout_p:  # what is zeroed differs: both are compared on the zeros of fastcells
        ours.checked = seeded(ours.call)
        theirs.checked = case_call(case, dot_by_hand(case, dropout_of(case)))
    return Experiment({"torch": theirs, "fastcells": ours})


def prepare_additive(case, settings):
    """Additive attention by hand, the same compiled, and additive_attention."""
    functions = dict(ADDITIVE_FUNCTIONS)
    if COMPILED in settings.peers:
        functions[COMPILED] = compiled_by_hand()
    experiment = Experiment({name: Variant(case_call(case, f)) for name, f in functions.items()})
    if case == MEMORY_CASE:
        for name in ADDITIVE_FUNCTIONS:
            found = memory_of_child(case, name, settings.threads)
            experiment.facts |= {f"{key} MiB, {name}": size / MIB for key, size in found.items()}
    return experiment


def prepare_multihead(case, settings):
    """MultiheadAttention of both, with need_weights=True."""
    libraries = {"torch": nn, "fastcells": fastcells}
    return Experiment({n: Variant(multihead_call(case, lib)) for n, lib in libraries.items()})


PREPARE = {
    "dot": prepare_dot,
    "bias": prepare_dot,
    "dropout": prepare_dot,
    "additive": prepare_additive,
    "multihead": prepare_multihead,
}


# ---- running one


def efficiency(case, seconds, ceilings, threads):
    """Return the floor, whether operations or bytes make it, and its share of the time."""
    operations_s = case.flops / (ceilings.fma_gflops[threads] * 1e9)
    bytes_s = case.bytes / (ceilings.bandwidth(threads, case.bytes / threads) * 1e9)
    floor_s = max(operations_s, bytes_s)
    return {
        "floor_ms": floor_s * 1e3,
        "floor_by": "operations" if floor_s == operations_s else "bytes",
        "floor_share": floor_s / seconds,
    }


def run_case(mode, case, settings, ceilings):
    """Prepare, check and time one case; return its record for the results file."""
    record = run_prepared(mode, case, PREPARE[mode](case, settings), settings)
    return record | {
        "bytes": case.bytes,
        "efficiency": {
            name: efficiency(case, timing["median"], ceilings, settings.threads)
            for name, timing in record["timings"].items()
        },
    }


def main(arguments=None):
    """Measure, print, write; return the exit code: 1 if fastcells is wrong somewhere."""
    options = parse_arguments(arguments)
    run = Run("attention", options)
    peers = () if options.no_compile else (COMPILED,)
    settings = Settings(peers, options.threads, options.rounds, options.budget)
    cases = [(mode, case) for mode in options.modes for case in CASES[mode](options.quick)]
    records = run.run_all(cases, lambda m, c: run_case(m, c, settings, run.ceilings))
    for mode in options.modes:
        run.console.print(make_table(mode, [r for r in records if r["mode"] == mode]))
    run.console.print(make_error_table(records), make_summary(records))
    run.console.print(make_target_table(records, TARGETS))
    results = run.assemble(records, is_complete(options))
    return run.close(results, run.write(results))


if __name__ == "__main__":
    sys.exit(main())
