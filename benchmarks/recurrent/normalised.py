"""Time the layers that look at whole rows on a CPU: normalisation, zoneout, recurrent dropout.

Peers: a scripted loop of torch over the steps, its input product and the normalisation of that for
all steps at once, as one writes it today; and our own plain layer of the same size. Inference and
training, all taking turns in one process.
Writes benchmarks/results/<cpu>/<date>-normalised.json (a --quick run: build/benchmarks/results).

Run it with `python -m benchmarks.recurrent.normalised`.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import layer_norm, linear

import fastcells
from benchmarks.command import describe_run, write_results
from fastcells.timing import OtherLoad, measure

SHAPES = ((16, 128, 60), (64, 512, 60), (1, 256, 60), (32, 256, 60))  # B, H = I, T
QUICK_SHAPES = ((4, 64, 20),)


def lstm_loop(
    x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, g_ih: Tensor, g_hh: Tensor,
    g_c: Tensor, b_c: Tensor,
) -> Tensor:  # fmt: skip
    """Return all h of a LayerNormLSTM."""
    rows, hidden = w_hh.shape
    gates_x = layer_norm(linear(x, w_ih), [rows], g_ih, b_ih)
    h = torch.zeros(x.shape[1], hidden)
    c = torch.zeros(x.shape[1], hidden)
    outputs = []
    for t in range(x.shape[0]):
        gates = gates_x[t] + layer_norm(linear(h, w_hh), [rows], g_hh, b_hh)
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(layer_norm(c, [hidden], g_c, b_c))
        outputs.append(h)
    return torch.stack(outputs)


def gru_loop(
    x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, g_ih: Tensor, g_hh: Tensor
) -> Tensor:
    """Return all h of a LayerNormGRU."""
    rows, hidden = w_hh.shape
    gates_x = layer_norm(linear(x, w_ih), [rows], g_ih, b_ih)
    h = torch.zeros(x.shape[1], hidden)
    outputs = []
    for t in range(x.shape[0]):
        x_r, x_z, x_n = gates_x[t].chunk(3, 1)
        h_r, h_z, h_n = layer_norm(linear(h, w_hh), [rows], g_hh, b_hh).chunk(3, 1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        h = n + z * (h - n)
        outputs.append(h)
    return torch.stack(outputs)


def scripted(loop):
    """Return the loop as TorchScript, of which torch 2.13 says that it is deprecated."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(loop)


#: Of each kind the layer, the plain one beside it, and the loop.
KINDS = {
    "LayerNormLSTM": (fastcells.LayerNormLSTM, {}, fastcells.LSTM, lstm_loop),
    "LayerNormGRU": (fastcells.LayerNormGRU, {}, fastcells.GRU, gru_loop),
    "LSTM zoneout": (fastcells.LSTM, {"zoneout": 0.1, "zoneout_c": 0.1}, fastcells.LSTM, None),
    "LSTM dropout": (fastcells.LSTM, {"recurrent_dropout": 0.2}, fastcells.LSTM, None),
}


def record(name, shape, is_training, rounds, loops):
    """Return the record of one layer and shape."""
    make, options, plain, _ = KINDS[name]
    rows, width, steps = shape
    layer, like = make(width, width, **options), plain(width, width)
    for module in (layer, like):
        module.train(is_training)
    x = torch.randn(steps, rows, width)
    forms = {"ours": lambda: layer(x)[0], "our plain layer": lambda: like(x)[0]}
    if loops[name] is not None:
        weights = list(layer.parameters())
        forms["scripted loop"] = lambda: loops[name](x, *weights)
        with torch.no_grad():
            error = (forms["scripted loop"]() - forms["ours"]()).abs().max().item()
        if not error < 1e-3:
            raise SystemExit(f"{name}: the loop is off by {error:.2g}")
    calls = forms
    if is_training:
        calls = {n: lambda form=form: form().sum().backward() for n, form in forms.items()}
    with torch.set_grad_enabled(is_training):
        timings = measure(calls, rounds)
    return {"mode": "training" if is_training else "inference", "cell": name, "B": rows,
            "H": width, "T": steps,
            "seconds": {n: timing.median for n, timing in timings.items()}}  # fmt: skip


def show(console, records):
    """Print a table a mode."""
    for mode in ("inference", "training"):
        table = Table(caption="ms; the last two columns as multiples of ours")
        for column in (mode, "ours", "scripted loop", "our plain layer"):
            table.add_column(column, no_wrap=True)
        for r in (r for r in records if r["mode"] == mode):
            ours = r["seconds"]["ours"]
            loop, plain = (r["seconds"].get(c) for c in ("scripted loop", "our plain layer"))
            table.add_row(
                f"{r['cell']} B{r['B']} H{r['H']} T{r['T']}", f"{ours * 1e3:.2f}",
                "" if loop is None else f"{loop * 1e3:.2f} ({loop / ours:.2f})",
                f"{plain * 1e3:.2f} ({plain / ours:.2f})",
            )  # fmt: skip
        console.print(table)


def main(arguments=None):
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small shape, few rounds")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--cells", nargs="*", default=list(KINDS), help="default: all")
    parser.add_argument("--output", type=Path, help="folder for the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shapes, rounds = (QUICK_SHAPES, 3) if options.quick else (SHAPES, 9)
    loops = {name: kind[3] and scripted(kind[3]) for name, kind in KINDS.items()}
    load = OtherLoad()
    records = [record(name, shape, is_training, rounds, loops)
               for is_training in (False, True) for shape in shapes
               for name in options.cells]  # fmt: skip
    console = Console(width=120)
    show(console, records)
    results = {
        **describe_run(load, is_complete=not options.quick),
        "threads": options.threads,
        "records": records,
    }
    console.print(f"written: {write_results(results, 'normalised', options.output)}")


if __name__ == "__main__":
    sys.exit(main())
