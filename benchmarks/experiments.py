"""What a comparison is made of, and the record of one.

An experiment is a set of variants, each a call, timed in turns by fastcells.timing. A variant names
the one that it must agree with; whoever does not is reported and not timed. Which variants a case
has is a topic's own affair: modes.py in its folder.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np

from benchmarks.dtypes import TOLERANCE
from fastcells.timing import measure

SEED = 0  # of weights and inputs: whoever asks for those of a case gets the same numbers
MIB = 2**20


def to_arrays(tensors):
    """Return the tensors of a call as float32 numpy arrays."""
    return [t.detach().float().numpy() for t in tensors]


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    peers: tuple  # who is measured besides: a topic's own affair
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

    def add_memory(self, name, found):
        """Add what is known of a variant's memory, {"held": bytes, ...}, to the facts, in MiB."""
        self.facts |= {f"{what} MiB, {name}": size / MIB for what, size in found.items()}


@dataclass(frozen=True)
class Mode:
    """One kind of comparison: how its cases are prepared, and what its table shows."""

    prepare: Callable  # (case, settings) -> Experiment
    ratios: tuple  # of summary.Ratio: those of the summary, too
    shares: tuple = ()  # of summary.Ratio: quotients that are not to be above 1
    facts: dict = field(default_factory=dict)  # {name: title of its column}
    shows_efficiency: bool = True  # not where the table is wide enough without


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
        except Exception as error:  # whatever a foreign library throws concerns it alone
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


def run_experiment(mode, case, experiment, settings, efficiency):
    """Check and time the variants of an experiment; return its record for the results file.

    `efficiency(seconds)` says how much of the machine a call of so many seconds uses.
    """
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
        "efficiency": {name: efficiency(timing.median) for name, timing in timings.items()},
    }
