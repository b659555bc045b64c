"""What is compared in each mode, and the record of one comparison.

An experiment is a set of variants, each a call, timed in turns by harness.py. A variant names the
one that it must agree with; whoever does not is reported and not timed.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastcells
from cases import RECOMPUTE_SHAPES, TITLES
from harness import measure
from layers import (
    SEED,
    case_in_float32,
    layer_call,
    make_grad,
    make_input,
    make_layer,
    make_lengths,
    to_arrays,
)
from memory import held_bytes, memory_of_child
from peers import Fastcells, Torch

TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
MIB = 2**20
NO_RECOMPUTE = "this fastcells has no recompute="


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    peers: tuple  # of Peer
    threads: int
    rounds: int
    budget_s: float  # of one experiment's rounds


@dataclass
class Variant:
    """One implementation: a call, how its result becomes arrays, and which variant it repeats."""

    call: Callable
    arrays: Callable = to_arrays
    reference: str | None = "torch"
    checked: Callable | None = None  # compared in place of `call`, whose results are random


@dataclass
class Experiment:
    """The variants of one case, why others are missing, and what else is known."""

    variants: dict = field(default_factory=dict)
    skipped: dict = field(default_factory=dict)  # {name: reason}
    facts: dict = field(default_factory=dict)  # {name: number or text}


# ---- the modes


def prepare_peers(case, settings):
    """Every peer that can run the case."""
    experiment = Experiment()
    for peer in settings.peers:
        if peer.version is None:
            experiment.skipped[peer.name] = "not installed"
        elif peer.supports(case):
            try:
                experiment.variants[peer.name] = Variant(peer.prepare(case), peer.arrays)
            except Exception as error:  # whatever a foreign library throws concerns it alone
                experiment.skipped[peer.name] = failure(error)
    plan = fastcells.explain(make_layer(case, fastcells), make_input(case))
    experiment.facts["kernel"] = plan.kernel
    return experiment


def prepare_bidirectional(case, settings):
    """Two directions in one call, and in two calls of one direction each: the same FLOPs."""
    one_direction = Fastcells(settings.threads).prepare(replace(case, directions=1))
    variants = {
        "torch": Variant(Torch(settings.threads).prepare(case)),
        "fastcells": Variant(Fastcells(settings.threads).prepare(case)),
        "fastcells, two calls": Variant(
            lambda: [*one_direction(), *one_direction()], reference=None
        ),
    }
    return Experiment(variants)


def prepare_lengths(case, settings):
    """Full rows with and without lengths; rows of random length, padded and packed.

    Packing is no part of the call: a PackedSequence is there before the clock starts.
    """
    theirs, ours = make_layer(case), make_layer(case, fastcells)
    x, lengths = make_input(case), make_lengths(case)
    grad = make_grad(case) if case.mode == "training" else None
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    packed_grad = None
    if grad is not None:
        packed_grad = pack_padded_sequence(grad, lengths, enforce_sorted=False).data

    def padded_arrays(tensors):
        """Output and gradient of the input, padded; the parameters' gradients as they are."""
        pad = (pad_packed_sequence(packed._replace(data=t.detach())) for t in tensors[:2])
        return to_arrays([*(pair[0] for pair in pad), *tensors[2:]])

    def cut_arrays(tensors):
        """As many steps as the longest row has, to which a PackedSequence is padded."""
        steps = int(lengths.max())
        return to_arrays([*(t[:steps] for t in tensors[:2]), *tensors[2:]])

    full = torch.full((case.B,), case.T)
    given, equal = layer_call(ours, x, grad, lengths=lengths), "torch, packed"
    variants = {
        "torch": Variant(layer_call(theirs, x, grad)),
        "fastcells": Variant(layer_call(ours, x, grad)),
        "fastcells, all T": Variant(layer_call(ours, x, grad, lengths=full)),
        equal: Variant(layer_call(theirs, packed, packed_grad), padded_arrays, equal),
        "fastcells, lengths": Variant(given, cut_arrays, equal),
        "fastcells, packed": Variant(layer_call(ours, packed, packed_grad), padded_arrays, equal),
    }
    return Experiment(variants, facts={"frames": float(lengths.sum()) / (case.B * case.T)})


def prepare_streaming(case, settings):
    """One step of LSTMCell, GRUCell or RNNCell from a given state, without gradients."""
    x = make_input(case)[0]

    def make_variant(library):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            cell = getattr(library, f"{TITLES[case.cell]}Cell")(case.I, case.H)
            state = torch.randn(case.B, case.H)
        hx = (state, state.flip(1)) if case.cell == "lstm" else state

        def step():
            with torch.no_grad():
                return cell(x, hx)

        if case.cell == "lstm":
            return Variant(step)
        return Variant(step, lambda h: to_arrays([h]))

    return Experiment({"torch": make_variant(nn), "fastcells": make_variant(fastcells)})


def prepare_recompute(case, settings):
    """Training that keeps the gates, and training that computes them again; what both hold."""
    x, grad = make_input(case), make_grad(case)
    layers = {"torch": make_layer(case), "fastcells": make_layer(case, fastcells)}
    experiment = Experiment()
    try:
        layers["fastcells, recompute"] = make_layer(case, fastcells, recompute=True)
    except TypeError:
        experiment.skipped["fastcells, recompute"] = NO_RECOMPUTE
    for name, layer in layers.items():
        experiment.variants[name] = Variant(layer_call(layer, x, grad))
        experiment.facts[f"held MiB, {name}"] = held_bytes(layer, x) / MIB
        if (case.B, case.H) == RECOMPUTE_SHAPES[-1]:  # a process takes seconds, and a small
            found = memory_of_child(case, name, settings.threads)  # layer is lost in its noise
            experiment.facts |= {f"{key} MiB, {name}": size / MIB for key, size in found.items()}
    return experiment


def prepare_bfloat16(case, settings):
    """The same layer in float32 and, rounded, in bfloat16."""
    ours = Fastcells(settings.threads)
    variants = {
        "fastcells": Variant(ours.prepare(case_in_float32(case)), reference="fastcells"),
        "fastcells, bfloat16": Variant(ours.prepare(case), reference="fastcells"),
    }
    return Experiment(variants)


PREPARE = {
    "inference": prepare_peers,
    "training": prepare_peers,
    "bidirectional": prepare_bidirectional,
    "lengths": prepare_lengths,
    "streaming": prepare_streaming,
    "recompute": prepare_recompute,
    "bfloat16": prepare_bfloat16,
}


# ---- running one


def max_error(expected, actual):
    """Return the largest absolute difference, over the largest value where that is above 1.

    Outputs are below 1; gradients of weights are sums over all steps and rows.
    """
    errors = [
        float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))
        for a, b in zip(expected, actual, strict=False)  # a peer may leave the last ones out
    ]
    return max(errors)


def failure(error):
    """Return a line about an exception, whose own text may be a compiler's pages."""
    text = str(error).strip().partition("\n")[0]
    return f"failed: {type(error).__name__}: {text}"


def check(experiment, tolerance):
    """Run each variant once; return {name: error}, and move who fails or errs to `skipped`."""
    arrays, errors = {}, {}
    for name, variant in list(experiment.variants.items()):
        try:
            arrays[name] = variant.arrays((variant.checked or variant.call)())
        except Exception as error:  # as in prepare_peers
            experiment.skipped[name] = failure(error)
            del experiment.variants[name]
    for name, variant in list(experiment.variants.items()):
        if variant.reference not in arrays:
            continue
        errors[name] = max_error(arrays[variant.reference], arrays[name])
        if not errors[name] <= tolerance:  # not a number is an error too
            experiment.skipped[name] = (
                f"wrong: error {errors[name]:.1e} against {variant.reference}"
            )
            del experiment.variants[name]
    return errors


def efficiency(case, seconds, ceilings, threads):
    """Return GF/s, the share of the FMA ceiling, and for one row that of the read bandwidth."""
    gflops = case.flops / seconds * 1e-9
    found = {"gflops": gflops, "fma_share": gflops / ceilings.fma_gflops[threads]}
    if case.B == 1 and case.mode == "inference":
        # A single step reads W_ih too; over many steps that product is one of matrices.
        size = case.recurrent_bytes if case.T > 1 else case.weight_bytes
        bandwidth = ceilings.bandwidth(threads, size / threads)
        found["bandwidth_share"] = size * case.T / seconds * 1e-9 / bandwidth
    return found


def run_experiment(mode, case, settings, ceilings):
    """Prepare, check and time one case; return its record for the results file."""
    record = run_prepared(mode, case, PREPARE[mode](case, settings), settings)
    return record | {
        "weight_bytes": case.weight_bytes,
        "efficiency": {
            name: efficiency(case, timing["median"], ceilings, settings.threads)
            for name, timing in record["timings"].items()
        },
    }


def run_prepared(mode, case, experiment, settings):
    """Check and time the variants of an experiment; return the record without the efficiency."""
    errors = check(experiment, TOLERANCE[case.dtype])
    calls = {name: variant.call for name, variant in experiment.variants.items()}
    timings = measure(calls, settings.rounds, budget_s=settings.budget_s)
    return {
        "mode": mode,
        "case": asdict(case),
        "label": case.label,
        "flops": case.flops,
        "timings": {name: asdict(timing) for name, timing in timings.items()},
        "errors": errors,
        "skipped": experiment.skipped,
        "facts": experiment.facts,
    }
