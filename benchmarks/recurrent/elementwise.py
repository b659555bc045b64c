"""Time the layers of elementwise cells on a CPU beside what is written in plain torch today.

Peers: a loop over steps, its input product for all steps at once; for MinGRU the parallel scan in
logarithms of the package minGRU-pytorch (its equations written out here: cumsum and logcumsumexp);
and our own GRU of the same size. Inference and training, all taking turns in one process. Beside
each stands its floor: the input product's flops at the rate of this processor's own products.
Writes benchmarks/results/<cpu>/<date>-elementwise.json (a --quick run: build/benchmarks/results).

Run it with `python -m benchmarks.recurrent.elementwise`.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import linear, softplus

import fastcells
from benchmarks.ceilings import measure_ceilings
from benchmarks.command import describe_run, write_results
from fastcells.timing import OtherLoad, measure

SHAPES = ((8, 256, 1024), (1, 64, 4096), (32, 128, 256))  # B, H = I, T
QUICK_SHAPES = ((4, 64, 128),)
KINDS = ("IndRNN", "SRU", "QRNN", "MinGRU", "MinLSTM", "RGLRU", "DiagonalGRU", "DiagonalLSTM")


def diagonal_gru_loop(layer, x):
    """Return all h of a DiagonalGRU: a loop over the steps, in plain torch."""
    gates = linear(x, layer.weight_ih_l0, layer.bias_ih_l0)
    u_r, u_z, u_n = layer.weight_hh_l0.chunk(3)
    h, outputs = x.new_zeros(x.shape[1], layer.hidden_size), []
    for step in gates:
        x_r, x_z, x_n = step.chunk(3, dim=-1)
        r, z = torch.sigmoid(x_r + u_r * h), torch.sigmoid(x_z + u_z * h)
        n = torch.tanh(x_n + u_n * (r * h))
        h = n + z * (h - n)
        outputs.append(h)
    return torch.stack(outputs)


def min_gru_loop(layer, x):
    """Return all h of a MinGRU, likewise."""
    z, candidate = linear(x, layer.weight_ih_l0, layer.bias_ih_l0).chunk(2, dim=-1)
    z = torch.sigmoid(z)
    candidate = torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))
    h, outputs = x.new_zeros(x.shape[1], layer.hidden_size), []
    for share, new in zip(z, candidate, strict=True):
        h = torch.lerp(h, new, share)
        outputs.append(h)
    return torch.stack(outputs)


def min_gru_scan(layer, x):
    """Return all h of a MinGRU: the scan of logarithms."""
    z, candidate = linear(x, layer.weight_ih_l0, layer.bias_ih_l0).chunk(2, dim=-1)
    log_g = torch.where(candidate >= 0, (torch.relu(candidate) + 0.5).log(), -softplus(-candidate))
    sums = (-softplus(z)).cumsum(0)
    return (sums + (log_g - softplus(-z) - sums).logcumsumexp(0)).exp()


PEERS = {
    "DiagonalGRU": {"loop": diagonal_gru_loop},
    "MinGRU": {"loop": min_gru_loop, "log scan": min_gru_scan},
}


def calls_of(kind, layer, gru, x, is_training):
    """Return {column: call}: ours, our GRU, and the plain forms, checked against ours."""
    forms = {"ours": lambda x: layer(x)[0], "our GRU": lambda x: gru(x)[0]}
    for name, form in PEERS.get(kind, {}).items():
        forms[name] = lambda x, form=form: form(layer, x)
        with torch.no_grad():
            error = (forms[name](x) - forms["ours"](x)).abs().max().item()
        if not error < 1e-3:
            raise SystemExit(f"{kind}, {name}: off by {error:.2g}")
    if is_training:
        x = x.requires_grad_()
        return {n: lambda form=form: form(x).sum().backward() for n, form in forms.items()}
    return {n: lambda form=form: form(x) for n, form in forms.items()}


def record(kind, shape, is_training, rounds):
    """Return the record of one layer and shape."""
    rows, width, steps = shape
    layer, gru = getattr(fastcells, kind)(width, width), fastcells.GRU(width, width)
    calls = calls_of(kind, layer, gru, torch.randn(steps, rows, width), is_training)
    with torch.set_grad_enabled(is_training):
        timings = measure(calls, rounds)
    flops = 2 * layer.weight_ih_l0.numel() * rows * steps * (3 if is_training else 1)
    return {"mode": "training" if is_training else "inference", "cell": kind, "B": rows,
            "H": width, "T": steps, "flops": flops,
            "seconds": {name: timing.median for name, timing in timings.items()}}  # fmt: skip


def show(console, records, rate):
    """Print a table a mode."""
    columns = ("ours", "our GRU", "loop", "log scan")
    for mode in ("inference", "training"):
        table = Table(caption=f"ms; floor: the input product at {rate:.0f} gigaflops")
        for column in (mode, *columns, "floor"):
            table.add_column(column, no_wrap=True)
        for r in (r for r in records if r["mode"] == mode):
            times = (r["seconds"].get(c) for c in columns)
            shown = ("" if t is None else f"{t * 1e3:.2f}" for t in times)
            label = f"{r['cell']} B{r['B']} H{r['H']} T{r['T']}"
            table.add_row(label, *shown, f"{r['flops'] / rate / 1e6:.2f}")
        console.print(table)


def main(arguments=None):
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small shape, few rounds")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--cells", nargs="*", default=KINDS, help="default: all")
    parser.add_argument("--output", type=Path, help="folder for the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rate = measure_ceilings(options.threads).fma_gflops[options.threads]
    shapes, rounds = (QUICK_SHAPES, 3) if options.quick else (SHAPES, 7)
    load = OtherLoad()
    records = [record(kind, shape, is_training, rounds)
               for is_training in (False, True) for shape in shapes
               for kind in options.cells]  # fmt: skip
    console = Console(width=120)
    show(console, records, rate)
    results = {
        **describe_run(load, is_complete=not options.quick),
        "threads": options.threads,
        "gigaops": rate,
        "records": records,
    }
    console.print(f"written: {write_results(results, 'elementwise', options.output)}")


if __name__ == "__main__":
    sys.exit(main())
