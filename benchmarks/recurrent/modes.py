"""What is compared in each mode, and how much of the machine the layer of a case uses."""

from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastcells
from benchmarks.experiments import (
    SEED,
    Experiment,
    Mode,
    Variant,
    failure,
    run_experiment,
    to_arrays,
)
from benchmarks.recurrent.cases import RECOMPUTE_SHAPES
from benchmarks.recurrent.layers import (
    case_in_float32,
    layer_call,
    make_grad,
    make_input,
    make_layer,
    make_lengths,
)
from benchmarks.recurrent.memory import held_bytes, memory_of_child
from benchmarks.recurrent.peers import Fastcells, Torch
from benchmarks.summary import OURS, TITLES, VS_BEST, VS_TORCH, Ratio

NO_RECOMPUTE = "this fastcells has no recompute="


# ---- how a case is prepared


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
        experiment.add_memory(name, {"held": held_bytes(layer, x)})
        # A process takes seconds, and a small layer is lost in its noise.
        if (case.B, case.H) == RECOMPUTE_SHAPES[-1]:
            experiment.add_memory(name, memory_of_child(case, name, settings.threads))
    return experiment


def prepare_bfloat16(case, settings):
    """The same layer in float32 and, rounded, in bfloat16."""
    ours = Fastcells(settings.threads)
    variants = {
        "fastcells": Variant(ours.prepare(case_in_float32(case)), reference="fastcells"),
        "fastcells, bfloat16": Variant(ours.prepare(case), reference="fastcells"),
    }
    return Experiment(variants)


# ---- the modes

AGAINST_PEERS = Mode(prepare_peers, (VS_TORCH, VS_BEST))
MODES = {
    "inference": AGAINST_PEERS,
    "training": AGAINST_PEERS,
    "bidirectional": Mode(
        prepare_bidirectional,
        (VS_TORCH, Ratio("two calls /\none call", f"{OURS}, two calls", OURS)),
    ),
    "lengths": Mode(
        prepare_lengths,
        (
            Ratio("torch packed /\nlengths", "torch, packed", f"{OURS}, lengths"),
            Ratio("torch packed /\npacked", "torch, packed", f"{OURS}, packed"),
            Ratio("none /\nall T", OURS, f"{OURS}, all T"),
        ),
        # Time of rows of random length over that of full ones, to be read beside the share of the
        # frames that are there.
        shares=(Ratio("time\nspent", f"{OURS}, lengths", OURS),),
        facts={"frames": "frames\nthere"},
        shows_efficiency=False,
    ),
    "streaming": Mode(prepare_streaming, (VS_TORCH,)),
    "recompute": Mode(
        prepare_recompute,
        (VS_TORCH, Ratio("kept /\nrecompute", OURS, f"{OURS}, recompute")),
        facts={
            f"{what} MiB, {name}": f"{what} MiB\n{name.removeprefix('fastcells, ')}"
            for what in ("held", "peak")
            for name in ("torch", "fastcells", "fastcells, recompute")
        },
        shows_efficiency=False,
    ),
    "bfloat16": Mode(prepare_bfloat16, (Ratio("float32 /\nbfloat16", OURS, f"{OURS}, bfloat16"),)),
}


# ---- running one


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


def run_case(mode, case, settings, ceilings):
    """Prepare, check and time one case; return its record for the results file."""
    experiment = MODES[mode].prepare(case, settings)
    share = partial(efficiency, case, ceilings=ceilings, threads=settings.threads)
    record = run_experiment(mode, case, experiment, settings, share)
    return record | {"weight_bytes": case.weight_bytes}
