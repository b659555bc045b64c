"""What is compared in each mode, and what the ratios are to reach.

A floor is the longer of two times: the operations of cases.py at the FMA rate of ceilings.cpp, and
the bytes at the rate at which it reads as many.
"""

from functools import partial

from torch import nn

import fastcells
from benchmarks.attention.calls import (
    ADDITIVE_FUNCTIONS,
    case_call,
    compiled_by_hand,
    dot_by_hand,
    dot_function,
    dropout_of,
    multihead_call,
    seeded,
)
from benchmarks.attention.cases import MEMORY_CASE
from benchmarks.attention.memory import memory_of_child
from benchmarks.experiments import Experiment, Mode, Variant, run_experiment
from benchmarks.summary import OURS, VS_BEST, VS_TORCH, Ratio, Target

COMPILED = "torch.compile"
PEAK_VS_TORCH = Ratio("peak MiB\ntorch /\nfastcells", "torch", OURS, "peak MiB")
TARGETS = (
    Target("dot product", ("dot",), VS_TORCH, mean=2.2, worst=1.0),
    Target("bias and dropout", ("bias", "dropout"), VS_TORCH, mean=3.0),
    Target("additive", ("additive",), VS_BEST, mean=4.0),
    Target("additive, memory of training", ("additive",), PEAK_VS_TORCH, mean=20.0),
)


# ---- how a case is prepared


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
            experiment.add_memory(name, memory_of_child(case, name, settings.threads))
    return experiment


def prepare_multihead(case, settings):
    """MultiheadAttention of both, with need_weights=True."""
    libraries = {"torch": nn, "fastcells": fastcells}
    return Experiment({n: Variant(multihead_call(case, lib)) for n, lib in libraries.items()})


# ---- the modes

DOT_PRODUCT = Mode(prepare_dot, (VS_TORCH,))
MODES = {
    "dot": DOT_PRODUCT,
    "bias": DOT_PRODUCT,
    "dropout": DOT_PRODUCT,
    "additive": Mode(
        prepare_additive,
        (VS_TORCH, VS_BEST, PEAK_VS_TORCH),
        facts={f"peak MiB, {name}": f"peak MiB\n{name}" for name in ADDITIVE_FUNCTIONS},
    ),
    "multihead": Mode(prepare_multihead, (VS_TORCH,)),
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
    experiment = MODES[mode].prepare(case, settings)
    share = partial(efficiency, case, ceilings=ceilings, threads=settings.threads)
    return run_experiment(mode, case, experiment, settings, share) | {"bytes": case.bytes}
