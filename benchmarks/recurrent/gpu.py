"""Time fastcells' recurrent layers on a GPU beside torch.nn with cuDNN.

Every case is timed by CUDA events over replays of a CUDA graph, the two libraries in turns,
medians. A floor is the operations of the products over the peak of a large product in the same
dtype. Writes benchmarks/results/<gpu>/<date>-recurrent.json. Stops at a time limit and says what is
missing.

Run it with `python -m benchmarks.recurrent.gpu`, or `make gpu`.
"""

import argparse
import datetime
import itertools
import json
import re
import statistics
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import fastcells
from benchmarks.machine import describe_revision
from benchmarks.paths import RESULTS

STEPS = 512
BATCHES, UNITS = (1, 16, 64, 128), (64, 128, 256, 512, 768, 1024, 2048)
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
ROUNDS = 9
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def make_call(library, case):
    """Return a call without arguments: a forward pass, or forward and backward."""
    torch.manual_seed(0)
    options = {"device": "cuda", "dtype": DTYPES[case["dtype"]]}
    layer = getattr(library, case["cell"])(case["H"], case["H"], **options)
    input = torch.randn(case["T"], case["B"], case["H"], requires_grad=True, **options)
    grad = torch.randn(case["T"], case["B"], case["H"], **options)

    def forward():
        with torch.no_grad():
            layer(input)

    def train():
        output, _ = layer(input)
        torch.autograd.grad(output, [input, *layer.parameters()], grad)

    explanation = ""
    if library is fastcells:
        explanation = str(fastcells.explain(layer, input))
    return (forward if case["pass"] == "forward" else train), explanation


def capture(call):
    """Return a call that replays a graph of `call`, or `call` where it cannot be captured."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:
        return call
    return graph.replay


def milliseconds(call):
    """Return the time of one call by CUDA events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def measure_peak(dtype):
    """Return the operations a second of a large product: what a floor is reckoned with."""
    n = 8192
    a = torch.randn(n, n, device="cuda", dtype=dtype)
    seconds = min(milliseconds(lambda: a @ a) for _ in range(ROUNDS)) * 1e-3
    return 2 * n**3 / seconds


def operations_of(case):
    """Return those of the matrix products; the way back has twice as many."""
    passes = 1 if case["pass"] == "forward" else 3
    return passes * 4 * GATES[case["cell"]] * case["H"] ** 2 * case["B"] * case["T"]


def run_case(case, peak):
    """Time both libraries in turns; return the record of the case."""
    prepared = {"torch": make_call(torch.nn, case), "fastcells": make_call(fastcells, case)}
    eager = {name: call for name, (call, _) in prepared.items()}
    graphs = {name: capture(call) for name, call in eager.items()}
    samples = {(kind, name): [] for kind in ("graph", "eager") for name in eager}
    for round_number in range(ROUNDS):
        for kind, calls in (("graph", graphs), ("eager", eager)):
            names = list(calls) if round_number % 2 == 0 else list(reversed(calls))
            for name in names:
                samples[kind, name].append(milliseconds(calls[name]))
    medians = {key: statistics.median(values) for key, values in samples.items()}
    return {
        "case": case,
        "ms": {name: medians["graph", name] for name in eager},
        "ms_eager": {name: medians["eager", name] for name in eager},
        "plan": prepared["fastcells"][1],
        "floor_ms": operations_of(case) / peak * 1e3,
    }


def cases(cells, dtypes, batches, units):
    """Return all cases, the passes of a shape one after the other."""
    names = itertools.product(cells, dtypes, units, batches, ("forward", "forward+backward"))
    return [
        {"cell": c, "dtype": d, "B": B, "H": H, "T": STEPS, "direction": 1, "pass": p}
        for c, d, H, B, p in names
    ]


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--units", nargs="+", type=int, default=list(UNITS))
    parser.add_argument("--seconds", type=float, default=540, help="stop after so many")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def print_table(records):
    """Print milliseconds and ratios."""
    table = Table("cell", "dtype", "B", "H", "pass", "torch ms", "fastcells ms", "ratio")
    for record in records:
        case, ms = record["case"], record["ms"]
        row = [case["cell"], case["dtype"], case["B"], case["H"], case["pass"]]
        numbers = [f"{ms['torch']:.3f}", f"{ms['fastcells']:.3f}"]
        table.add_row(*map(str, row), *numbers, f"{ms['torch'] / ms['fastcells']:.2f}")
    Console(width=120).print(table)


def main(arguments=None):
    """Measure, print, write."""
    options = parse_arguments(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("recurrent/gpu.py: there is no CUDA GPU here")
    end = time.monotonic() + options.seconds
    todo = cases(options.cells, options.dtypes, options.batches, options.units)
    peaks = {name: measure_peak(DTYPES[name]) for name in options.dtypes}
    records = []
    for case in todo:
        if time.monotonic() > end:
            break
        records.append(run_case(case, peaks[case["dtype"]]))
    print_table(records)
    name = torch.cuda.get_device_name()
    results = {
        "revision": describe_revision(),
        "versions": {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "fastcells": fastcells.__version__,
        },
        "device": name,
        "date": datetime.date.today().isoformat(),
        "left_out": len(todo) - len(records),
        "cases": records,
    }
    folder = options.output / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{results['date']}-recurrent.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"{len(records)} cases, {results['left_out']} left out. Results: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
