"""Time cells from equations on a CPU: beside the built-in kernels, and beside loops of plain torch.

Three questions. What does it cost that the kernels were printed from Python and not written by
hand? LSTM, GRU and DiagonalGRU as equations beside the built-in layers. What is won over writing
the cell as a loop? The LLTM of PyTorch's tutorial and the sLSTM beside torch.jit.script's loop and
a loop of steps that torch.compile made. How long does the first call take, compiled and from the
cache? All take turns in one process, T is 60.

Run it with `python -m benchmarks.own_cells`; it prints the tables of docs/own_cells.md and writes
benchmarks/results/<cpu>/<date>-own-cells.json (a --quick run: build/benchmarks/results).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import elu, linear, logsigmoid

import fastcells
from benchmarks.command import describe_run, write_results
from fastcells.timing import OtherLoad, measure

T = 60
SHAPES = ((1, 64), (16, 256), (64, 512))  # B, H = I
QUICK_SHAPES = ((2, 16),)


@fastcells.cell(gates="i f g o", states="c")
def lstm(x, h, state, p):
    """torch.nn.LSTM."""
    i, f, g = torch.sigmoid(x.i + h.i), torch.sigmoid(x.f + h.f), torch.tanh(x.g + h.g)
    o = torch.sigmoid(x.o + h.o)
    c = f * state.c + i * g
    return o * torch.tanh(c), c


@fastcells.cell(gates="r z n")
def gru(x, h, state, p):
    """torch.nn.GRU."""
    r, z = torch.sigmoid(x.r + h.r), torch.sigmoid(x.z + h.z)
    n = torch.tanh(x.n + r * h.n)
    return n + z * (h.prev - n)


@fastcells.cell(gates="r z n", recurrent="vector")
def diagonal_gru(x, h, state, p):
    """fastcells.DiagonalGRU, but for the order of a product: r (u h) in the place of u (r h)."""
    r, z = torch.sigmoid(x.r + h.r), torch.sigmoid(x.z + h.z)
    n = torch.tanh(x.n + r * h.n)
    return n + z * (h.prev - n)


BUILT_IN = {
    "LSTM": (lstm, fastcells.LSTM),
    "GRU": (gru, fastcells.GRU),
    "DiagonalGRU": (diagonal_gru, fastcells.DiagonalGRU),
}


def lltm_step(gates, h, c, weight_hh, bias_hh):
    """One step of the LLTM in plain torch: new h and c."""
    i, o, g = (gates + linear(h, weight_hh, bias_hh)).chunk(3, dim=-1)
    c = c + torch.sigmoid(i) * elu(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def lltm_loop(x, weight_ih, weight_hh, bias_ih, bias_hh):
    """All h of the LLTM, as torch.jit.script takes it."""
    h = torch.zeros(x.shape[1], weight_hh.shape[1])
    c = torch.zeros_like(h)
    outputs = []
    for gates in torch.nn.functional.linear(x, weight_ih, bias_ih):
        h, c = lltm_step(gates, h, c, weight_hh, bias_hh)
        outputs.append(h)
    return torch.stack(outputs)


def slstm_step(gates, h, c, n, m, weight_hh, bias_hh):
    """One step of the sLSTM in plain torch: new h, c, n and m."""
    z, i, f, o = (gates + linear(h, weight_hh, bias_hh)).chunk(4, dim=-1)
    kept = logsigmoid(f) + m
    m = torch.maximum(kept, i)
    i, f = torch.exp(i - m), torch.exp(kept - m)
    c, n = f * c + i * torch.tanh(z), f * n + i
    return torch.sigmoid(o) * c / n, c, n, m


def slstm_loop(x, weight_ih, weight_hh, bias_ih, bias_hh):
    """All h of the sLSTM, as torch.jit.script takes it."""
    h = torch.zeros(x.shape[1], weight_hh.shape[1])
    c, n, m = torch.zeros_like(h), torch.zeros_like(h), torch.zeros_like(h)
    outputs = []
    for gates in torch.nn.functional.linear(x, weight_ih, bias_ih):
        h, c, n, m = slstm_step(gates, h, c, n, m, weight_hh, bias_hh)
        outputs.append(h)
    return torch.stack(outputs)


LOOPS = {
    "LLTM": (fastcells.cells.lltm, lltm_loop, lltm_step, SHAPES),
    "sLSTM": (fastcells.cells.slstm, slstm_loop, slstm_step, ((16, 128),)),
}


def compiled_loop(plain_step, states):
    """The same loop of a step that torch.compile made; `states` with h."""
    torch.compiler.reset()  # of another shape's, which count towards the limit of recompilations
    step = torch.compile(plain_step, fullgraph=True, dynamic=False)

    def loop(x, weight_ih, weight_hh, bias_ih, bias_hh):
        state = (x.new_zeros(x.shape[1], weight_hh.shape[1]),) * states
        outputs = []
        for gates in linear(x, weight_ih, bias_ih):
            state = step(gates, *state, weight_hh, bias_hh)
            outputs.append(state[0])
        return torch.stack(outputs)

    return loop


def trained(run, x, parameters):
    """A call that computes all gradients of run(x)'s sum."""

    def call():
        total = run(x).sum()
        torch.autograd.grad(total, [x, *parameters])

    return call


def without_gradients(run, x):
    """A call for inference."""

    def call():
        with torch.no_grad():
            run(x)

    return call


def median(calls, rounds):
    """{name: median seconds}."""
    return {name: timing.median for name, timing in measure(calls, rounds).items()}


def share_weights(own, built_in):
    """Give the built-in layer the weights of the one from equations."""
    weights = dict(own.state_dict())
    if "u_l0" in weights:  # DiagonalGRU has it as the last part of its vector
        weights["weight_hh_l0"] = torch.cat([weights["weight_hh_l0"], weights.pop("u_l0")])
    built_in.load_state_dict(weights)


def beside_built_in(shapes, rounds):
    """Yield records of equations beside the built-in kernels."""
    for name, (own, built_in) in BUILT_IN.items():
        for batch, hidden in shapes:
            mine, theirs = own(hidden, hidden), built_in(hidden, hidden)
            share_weights(mine, theirs)
            x = torch.randn(T, batch, hidden, requires_grad=True)
            with torch.no_grad():
                apart = (mine(x)[0] - theirs(x)[0]).abs().max().item()
            layers = {"own": mine, "built-in": theirs}
            runs = {what: lambda x, layer=layer: layer(x)[0] for what, layer in layers.items()}
            weights = {what: list(layer.parameters()) for what, layer in layers.items()}
            for kind, seconds in timed_both_ways(runs, x, weights, rounds):
                yield {"cell": name, "B": batch, "H": hidden, "pass": kind, "seconds": seconds,
                       "difference": apart}  # fmt: skip


def timed_both_ways(runs, x, weights, rounds):
    """Yield "inference" and "training", each with the seconds of every run."""
    yield "inference", median({n: without_gradients(run, x) for n, run in runs.items()}, rounds)
    training = {n: trained(run, x, weights[n]) for n, run in runs.items()}
    yield "training", median(training, rounds)


def beside_loops(quick, rounds, with_compile):
    """Yield records of cells beside loops."""
    for name, (cell, loop, step, shapes) in LOOPS.items():
        for batch, hidden in QUICK_SHAPES if quick else shapes:
            runs, x, weights = loop_runs(cell, loop, step if with_compile else None, batch, hidden)
            for kind, seconds in timed_both_ways(runs, x, dict.fromkeys(runs, weights), rounds):
                yield {"cell": name, "B": batch, "H": hidden, "pass": kind, "seconds": seconds}


def loop_runs(cell, loop, step, batch, hidden):
    """Return the calls of one shape, which give the same, their input and their weights."""
    layer = cell(hidden, hidden)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [getattr(layer, name) for name in names]
    x = torch.randn(T, batch, hidden, requires_grad=True)
    scripted = torch.jit.script(loop)
    runs = {"own": lambda x: layer(x)[0], "scripted": lambda x: scripted(x, *weights)}
    if step is not None:
        compiled = compiled_loop(step, len(layer(x)[1]))
        runs["compiled"] = lambda x: compiled(x, *weights)
    for name, run in runs.items():
        for _ in range(3):  # torch.jit optimises in its second call
            error = (run(x) - runs["own"](x)).abs().max().item()
        if error > 1e-3:
            raise SystemExit(f"{name} is off by {error}")
    return runs, x, weights


def table_of(title, records, others):
    """Milliseconds of the equations, and the others' times over theirs."""
    table = Table(title=title)
    for column in ("cell", "B", "H", "pass", "own (ms)", *others):
        table.add_column(column, justify="right")
    for r in records:
        own, found = r["seconds"]["own"], [r["seconds"].get(other) for other in others]
        ratios = ["" if seconds is None else f"{seconds / own:.2f}" for seconds in found]
        sizes = (str(r["B"]), str(r["H"]))
        table.add_row(r["cell"], *sizes, r["pass"], f"{own * 1e3:.3f}", *ratios)
    return table


FIRST_CALL = """
import time, torch, fastcells
layer, x = fastcells.cells.lltm(8, 8), torch.randn(4, 2, 8)
start = time.perf_counter()
layer(x)
print(time.perf_counter() - start)
"""


def first_calls():
    """Seconds of the first call in a process: with an empty cache, and with a filled one."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"FASTCELLS_CACHE": folder}
        found = []
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", FIRST_CALL], env=environment, check=True,
                capture_output=True, text=True,
            )  # fmt: skip
            found.append(float(done.stdout))
    return found


def main(arguments=None):
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small shape: does it run")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--output", type=Path, help="folder for the results")
    options = parser.parse_args(arguments)
    shapes = QUICK_SHAPES if options.quick else SHAPES
    rounds = 7 if options.quick else options.rounds
    with_compile = not (options.quick or options.no_compile)
    load = OtherLoad()
    first = {} if options.quick else dict(zip(("compiled", "cached"), first_calls(), strict=True))
    built_in = list(beside_built_in(shapes, rounds))
    loops = list(beside_loops(options.quick, rounds, with_compile))
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table_of("Beside the built-in kernels", built_in, ["built-in"]))
    apart = max(r["difference"] for r in built_in)
    console.print(f"largest difference of the outputs: {apart:.0e}")
    others = ["scripted", "compiled"] if with_compile else ["scripted"]
    console.print(table_of("Beside loops of torch", loops, others))
    for what, seconds in first.items():
        console.print(f"first call of the LLTM, {what}: {seconds:.3f} s")
    results = {
        **describe_run(load, is_complete=with_compile),
        "threads": torch.get_num_threads(),
        "first_call_s": first, "built_in": built_in, "records": loops,
    }  # fmt: skip
    console.print(f"load of others: {results['others_share_of_cores']}")
    console.print(f"written: {write_results(results, 'own-cells', options.output)}")


if __name__ == "__main__":
    main()
