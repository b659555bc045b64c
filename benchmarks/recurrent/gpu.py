"""Time fastcells' recurrent layers on a GPU beside torch.nn with cuDNN.

How: benchmarks/gpu_timing.py. A floor is the operations of the products over the peak of a large
product in the same dtype. Writes benchmarks/results/<gpu>/<date>-recurrent.json after every case,
the most telling first. Stops at a time limit and says what is missing.

Run it with `python -m benchmarks.recurrent.gpu`, or `make gpu`; `--device cpu` rehearses it.
"""

import argparse
import itertools
import sys
from functools import partial

import torch

import fastcells
from benchmarks.experiments import SEED
from benchmarks.gpu_timing import DTYPES, Run, add_arguments, measure_calls, parse
from benchmarks.recurrent.layers import layer_call

STEPS = 512
BATCHES, UNITS = (1, 16, 64, 128), (64, 128, 256, 512, 768, 1024, 2048)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
PASSES = ("forward", "forward+backward")
# (B, H): those of a quick run, and those that come before the rest.
FIRST_SHAPES = ((16, 512), (1, 256), (64, 1024))
MAIN_SHAPES = (
    *FIRST_SHAPES, (1, 1024), (64, 256), (16, 256), (16, 1024), (1, 512), (64, 512),
)  # fmt: skip
MAIN_CELLS = ("LSTM", "GRU")
TINY = 16  # sizes of a rehearsal are so many times smaller


def make_layer(library, case, device):
    """Return a layer, whose parameters are those of torch.nn's.

    They are drawn on the CPU: a failed capture leaves torch's generator on the GPU unusable.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        theirs = getattr(torch.nn, case["cell"])(case["H"], case["H"])
        layer = getattr(library, case["cell"])(case["H"], case["H"])
    layer.load_state_dict(theirs.state_dict())
    return layer.to(device, DTYPES[case["dtype"]])


def make_call(library, case, device):
    """Return a call of forward, or forward and backward, and for fastcells what explain says."""
    is_training = case["pass"] != "forward"
    layer = make_layer(library, case, device)
    generator = torch.Generator(device).manual_seed(SEED)
    shape = (case["T"], case["B"], case["H"])
    options = {"device": device, "generator": generator}
    input, grad = (torch.randn(shape, **options).to(DTYPES[case["dtype"]]) for _ in range(2))
    explanation = ""
    if library is fastcells:
        with torch.set_grad_enabled(is_training):
            explanation = str(fastcells.explain(layer, input))
    return layer_call(layer, input, grad if is_training else None), explanation


def operations_of(case):
    """Return those of the matrix products; the way back has twice as many."""
    passes = 1 if case["pass"] == "forward" else 3
    return passes * 4 * GATES[case["cell"]] * case["H"] ** 2 * case["B"] * case["T"]


def run_case(case, run, peaks):
    """Time both libraries in turns; return the record of the case."""
    theirs, _ = make_call(torch.nn, case, run.device)
    ours, plan = make_call(fastcells, case, run.device)
    facts = {
        "peer": "torch.nn",
        "plan": plan,
        "floor_ms": operations_of(case) / peaks[case["dtype"]] * 1e3,
    }
    return facts | measure_calls({"torch": theirs, "fastcells": ours}, run.device, run.rounds)


def tiers_of(options):
    """Return (shapes, cells) after (shapes, cells), the most telling first."""
    shapes = list(itertools.product(options.batches, options.units))
    first, main = ([s for s in known if s in shapes] for known in (FIRST_SHAPES, MAIN_SHAPES))
    rest = [shape for shape in shapes if shape not in main]
    cells = [cell for cell in MAIN_CELLS if cell in options.cells]
    others = [cell for cell in options.cells if cell not in cells]
    if options.quick:
        return [(first or shapes[:1], cells or others)]
    later = [shape for shape in main if shape not in first]
    return [(first, cells), (later, cells), (main, others), (rest, options.cells)]


def make_cases(options):
    """Return all cases; of a shape forward comes first, then forward+backward."""
    found, is_tiny = [], options.device == "cpu"
    for shapes, cells in tiers_of(options):
        for (B, H), a_pass, cell, dtype in itertools.product(shapes, PASSES, cells, options.dtypes):
            sizes = {"B": B, "H": H, "T": STEPS}
            if is_tiny:
                sizes = {name: size // TINY + 1 for name, size in sizes.items()}
            names = {"cell": cell, "dtype": dtype, "direction": 1, "pass": a_pass}
            found.append(names | sizes)
    return found


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--units", nargs="+", type=int, default=list(UNITS))
    add_arguments(parser)
    return parse(parser, arguments)


def column(name):
    """Return what a table shows of a case under this name."""
    return lambda case: str(case[name])


def main(arguments=None):
    """Measure, write, print."""
    options = parse_arguments(arguments)
    run = Run("recurrent", options)
    peaks = run.measure_peaks(options.dtypes)
    columns = {name: column(name) for name in ("cell", "dtype", "B", "H", "pass")}
    measure_case = partial(run_case, run=run, peaks=peaks)
    return run.run_all(make_cases(options), dict, columns, measure_case)


if __name__ == "__main__":
    sys.exit(main())
