"""Time recurrent layers whose weights are narrow (bfloat16, int8) on a CPU, beside torch.

torch and fastcells in float32 and bfloat16, torch's dynamic quantization and fastcells.quantize in
int8, ONNX Runtime's dynamic int8 (LSTM alone) and OpenVINO in bfloat16 where they are installed;
inference, and training in bfloat16. All take turns in one process. Prints tables, with the
distance from the rate of the processor's own products of that width, and writes
benchmarks/results/<cpu>/<date>-narrow.json (a --quick run: build/benchmarks/results).

Run it with `python -m benchmarks.recurrent.narrow`, or `make bench`.
"""

import argparse
import os
import sys
import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fastcells
from benchmarks.ceilings import measure_ceilings
from benchmarks.command import describe_run, write_results
from benchmarks.recurrent import narrow_peers
from benchmarks.recurrent.cases import square
from benchmarks.recurrent.layers import make_input
from benchmarks.summary import geometric_mean
from fastcells.timing import OtherLoad, measure

STEPS = 60
GATES = {"LSTM": 4, "GRU": 3}
SHAPES = ((1, 192), (1, 320), (1, 1024), (5, 512), (16, 256), (24, 192), (40, 448), (64, 512),
          (112, 640))  # fmt: skip
QUICK_SHAPES = ((1, 320), (24, 192), (40, 448))
OWN_COLUMNS = ("torch f32", "ours f32", "torch bf16", "ours bf16", "torch int8", "ours int8")
COLUMNS = (*OWN_COLUMNS, *narrow_peers.PEERS)
#: What is divided by what: by torch's of that width, by our own float32.
RATIOS = (
    ("bf16 / torch's", "torch bf16", "ours bf16"),
    ("int8 / torch's", "torch int8", "ours int8"),
    ("bf16 / OpenVINO's", "OpenVINO bf16", "ours bf16"),
    ("int8 / ONNX Runtime's", "ONNX Runtime int8", "ours int8"),
    ("bf16 / f32", "ours f32", "ours bf16"),
    ("int8 / f32", "ours f32", "ours int8"),
)
#: Relative errors of the output that are a sign of something wrong, by the width's name.
LIMITS = {"f32": 1e-5, "bf16": 0.02, "int8": 0.05}


def layers_of(kind, width):
    """Return {column: (layer, dtype of its input)}, all with the same weights."""
    theirs, ours = getattr(nn, kind)(width, width).eval(), getattr(fastcells, kind)(width, width)
    ours.load_state_dict(theirs.state_dict())
    half = [getattr(peer, kind)(width, width).bfloat16().eval() for peer in (nn, fastcells)]
    for layer in half:
        layer.load_state_dict(theirs.state_dict())
    with warnings.catch_warnings(action="ignore"):  # torch's is deprecated
        dynamic = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(theirs), {type(theirs)}, dtype=torch.qint8
        )
    layers = (theirs, ours.eval(), *half, dynamic, fastcells.quantize(ours))
    dtypes = (torch.float32, torch.float32, torch.bfloat16, torch.bfloat16) + (torch.float32,) * 2
    return dict(zip(OWN_COLUMNS, zip(layers, dtypes, strict=True), strict=True))


def inference(kind, rows, width, rounds):
    """Return the record of one shape: seconds and relative errors by column."""
    layers, case = layers_of(kind, width), square(kind.lower(), rows, width, T=STEPS)
    input = make_input(case)
    exact = getattr(nn, kind)(width, width).double()
    exact.load_state_dict(layers["torch f32"][0].state_dict())
    calls, errors = {}, {}
    with torch.inference_mode():
        wanted = exact(input.double())[0]
        for name, (layer, dtype) in layers.items():
            given = input.to(dtype)
            calls[name] = lambda layer=layer, given=given: layer(given)[0]
        for name, prepare in narrow_peers.PEERS.items():
            call = prepare(case, layers["torch f32"][0], torch.get_num_threads())
            if call is not None:
                calls[name] = call
        for name, call in calls.items():
            error = (call().double() - wanted).norm() / wanted.norm()
            errors[name] = float(error)
            if not error <= LIMITS[name.split()[-1]]:
                raise SystemExit(f"{kind} B{rows} H{width}, {name}: off by {error:.2g}")
        timings = measure(calls, rounds)
    return record_of("inference", kind, rows, width, timings, errors)


def training(kind, rows, width, rounds):
    """Return the same of a pass forward and back in float32 and bfloat16."""
    layers = {name: pair for name, pair in layers_of(kind, width).items() if "int8" not in name}
    calls = {}
    for name, (layer, dtype) in layers.items():
        layer.train()
        given = torch.randn(STEPS, rows, width).to(dtype).requires_grad_()
        calls[name] = lambda layer=layer, given=given: layer(given)[0].sum().backward()
    return record_of("training", kind, rows, width, measure(calls, rounds), {})


def record_of(mode, kind, rows, width, timings, errors):
    """Return one entry of the results file; flops are those of the matrix products."""
    flops = 2 * GATES[kind] * width * 2 * width * rows * STEPS * (3 if mode == "training" else 1)
    seconds = {name: timing.median for name, timing in timings.items()}
    return {"mode": mode, "cell": kind, "B": rows, "H": width, "flops": flops,
            "seconds": seconds, "errors": errors}  # fmt: skip


def ratio(record, slow, fast):
    """Return how many times as fast, or None where one was not measured."""
    seconds = record["seconds"]
    return seconds[slow] / seconds[fast] if slow in seconds and fast in seconds else None


def show(console, records, rates):
    """Print a table a mode, and the means of its ratios."""
    for mode in ("inference", "training"):
        mine = [r for r in records if r["mode"] == mode]
        columns = [c for c in COLUMNS if any(c in r["seconds"] for r in mine)]
        names = [name for name, slow, fast in RATIOS if slow in columns and fast in columns]
        instructions = fastcells._extension._C.instruction_set()
        table = Table(caption=f"ms; ratios; share of the processor's own rate; {instructions}")
        for column in (mode, *columns, *names, *(f"of {width}" for width in rates)):
            table.add_column(column, no_wrap=column == mode)
        for r in mine:
            ratios = [ratio(r, slow, fast) for name, slow, fast in RATIOS if name in names]
            shares = [
                f"{r['flops'] / r['seconds'][f'ours {width}'] / 1e9 / rate:.0%}"
                if rate and f"ours {width}" in r["seconds"]
                else ""
                for width, rate in rates.items()
            ]
            label = f"{r['cell']} B{r['B']} H{r['H']}"
            found = [r["seconds"].get(c) for c in columns]
            times = ["" if seconds is None else f"{seconds * 1e3:.2f}" for seconds in found]
            table.add_row(
                label, *times, *("" if x is None else f"{x:.2f}" for x in ratios), *shares
            )
        console.print(table)
        for name, slow, fast in RATIOS:
            if name in names:
                found = [x for x in (ratio(r, slow, fast) for r in mine) if x is not None]
                mean, least = geometric_mean(found), min(found)
                console.print(f"{mode}, {name}: geometric mean {mean:.2f}, smallest {least:.2f}")


def main(arguments=None):
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few shapes and rounds: a minute")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--output", type=Path, help="folder for the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    ceilings = measure_ceilings(options.threads)
    rates = {
        "f32": ceilings.fma_gflops[options.threads],
        "bf16": ceilings.bfloat16_gflops[options.threads],
        "int8": ceilings.int8_gigaops[options.threads],
    }
    shapes, rounds = (QUICK_SHAPES, 7) if options.quick else (SHAPES, 9)
    load = OtherLoad()
    records = [run(kind, rows, width, rounds)
               for run in (inference, training) for kind in GATES for rows, width in shapes
               if run is inference or rows > 1]  # fmt: skip
    console = Console(width=180)
    show(console, records, rates)
    results = {
        **describe_run(load, is_complete=not options.quick),
        "threads": options.threads,
        "steps": STEPS,
        "gigaops": rates,
        "records": records,
    }
    console.print(f"written: {write_results(results, 'narrow', options.output)}")


if __name__ == "__main__":
    sys.exit(main())
