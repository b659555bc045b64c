"""`fastcells check`: every layer, in every dtype and on every instruction set, against float64."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.table import Table

from ..testing import assert_as_accurate_as_torch
from .layers import DTYPES
from .processes import ISA_VARIABLE, run_python
from .selftest import EXACT, Results

__all__ = ["Verdict", "compare", "make_table", "run_all"]

#: What an error may be beside twice torch's own, relative to the largest element. float64 is
#: compared with float64: sums of a few hundred terms in another order differ by less. In 16 bits
#: plain torch operations compute in float32 from end to end, while the kernels' way back begins
#: from the output as it is stored: a few rounding units. A wrong formula is off by much more.
FLOORS = {
    "float64": 1e-12,
    "float32": torch.finfo(torch.float32).eps,
    "bfloat16": 4 * torch.finfo(torch.bfloat16).eps,
    "float16": 4 * torch.finfo(torch.float16).eps,
}


class Verdict(NamedTuple):
    """One layer in one dtype on one instruction set."""

    instruction_set: str
    layer: str
    dtype: str
    ratio: float  # the largest error over torch's own, at least one rounding unit
    fault: str | None  # None: right


def evaluate_in_child(layers: Sequence[str], **environment: str) -> Results:
    """The results of a process with this choice of kernels.

    Raises:
        RuntimeError: it failed, with its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "results.pt")
        arguments = ("-m", "fastcells.cli.selftest", str(path), *layers)
        try:
            done = run_python(*arguments, **environment)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"did not end within {error.timeout:g} s") from None
        if done.returncode < 0:
            raise RuntimeError(f"was ended by {signal.Signals(-done.returncode).name}")
        if done.returncode > 0:
            raise RuntimeError(f"failed: {(done.stderr.strip().splitlines() or [''])[-1]}")
        results: Results = torch.load(path)
        return results


def compare(instruction_set: str, actual: Results, expected: Results) -> list[Verdict]:
    """Each result against float64, by the error of plain torch operations in the same dtype."""
    verdicts = []
    for (layer, dtype), results in actual.items():
        exact, by_torch = expected[layer, dtype + EXACT], expected[layer, dtype]
        ratio, fault = 0.0, None
        for what, value in results.items():
            try:
                found = assert_as_accurate_as_torch(
                    value, exact[what], by_torch[what], floor=FLOORS[dtype], what=what
                )
                ratio = max(ratio, found)
            except AssertionError as error:
                fault = fault or str(error)
        verdicts.append(Verdict(instruction_set, layer, dtype, ratio, fault))
    return verdicts


def run_all(
    layers: Sequence[str],
    sets: Sequence[str],
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> list[Verdict]:
    """The verdicts on every layer, for every instruction set; `track` shows the progress over the
    choices of kernels, the first of which is none."""
    expected: Results = {}
    verdicts = []
    for choice in track(["reference", *sets]):
        try:
            if choice == "reference":  # one thread: two would wait for each other at every step
                disabled = {"FASTCELLS_DISABLE_EXTENSION": "1", "OMP_NUM_THREADS": "1"}
                expected = evaluate_in_child(layers, **disabled)
            else:
                actual = evaluate_in_child(layers, **{ISA_VARIABLE: choice})
                verdicts += compare(choice, actual, expected)
        except RuntimeError as error:
            verdicts.append(Verdict(choice, "all", "all", 0.0, f"the process {error}"))
            if choice == "reference":
                break
    return verdicts


def make_table(verdicts: Sequence[Verdict]) -> Table:
    """A row for each layer, a column for each dtype: the worst of all instruction sets."""
    sets = ", ".join(dict.fromkeys(v.instruction_set for v in verdicts))
    table = Table(
        title=f"Forward and gradients: {sets}",
        caption="The largest error against float64 over that of plain torch operations in the same "
        "dtype (float64: over one rounding unit).",
    )
    table.add_column("layer")
    for dtype in DTYPES:
        table.add_column(dtype, justify="right")
    cells: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        cells.setdefault((verdict.layer, verdict.dtype), []).append(verdict)
    for layer in dict.fromkeys(v.layer for v in verdicts if v.layer != "all"):
        table.add_row(layer, *(_cell(cells.get((layer, dtype), [])) for dtype in DTYPES))
    return table


def _cell(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return ""
    if any(v.fault for v in verdicts):
        return "[bold red]differs[/]"
    return f"{max(v.ratio for v in verdicts):.2g}"
