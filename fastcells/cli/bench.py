"""`fastcells bench`: layers of fastcells beside torch.nn's on this machine, in turns."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from .._version import __version__
from ..timing import OtherLoad, measure
from .info import processor_name
from .layers import DTYPES, RECURRENT, TORCH

__all__ = ["Case", "Record", "describe_run", "draw", "make_table", "run_case", "spread"]

#: How far a result may be from torch's, which has errors of its own, relative to the largest value:
#: a hundred rounding units and more, over which two right results do not come apart.
TOLERANCE = {"float64": 1e-9, "float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Case:
    """A layer and its call; inputs are as wide as the layer."""

    cell: str
    batch: int
    hidden: int
    steps: int
    layers: int
    dtype: str
    is_training: bool

    @property
    def label(self) -> str:
        depth = f" L={self.layers}" if self.layers > 1 else ""
        return f"{self.cell} B={self.batch} H={self.hidden} T={self.steps}{depth} {self.dtype}"


@dataclass(frozen=True)
class Record:
    """Milliseconds of one call, by the library, and how far the two results are apart."""

    case: Case
    timings: dict[str, dict[str, float]]  # {"fastcells": {"median", "fastest", ...}, "torch": ...}
    error: float | None  # None: torch failed
    failure: str | None

    @property
    def ratio(self) -> float | None:
        """torch's median over fastcells'."""
        if "torch" not in self.timings:
            return None
        return self.timings["torch"]["median"] / self.timings["fastcells"]["median"]

    @property
    def is_wrong(self) -> bool:
        return self.error is not None and not self.error <= TOLERANCE[self.case.dtype]


def spread(
    cells: Sequence[str],
    batches: Sequence[int],
    hiddens: Sequence[int],
    steps: Sequence[int],
    layers: Sequence[int],
    dtypes: Sequence[str],
    is_training: bool,
) -> list[Case]:
    """Every combination."""
    sizes = product(cells, batches, hiddens, steps, layers, dtypes)
    return [Case(*values, is_training) for values in sizes]


def _call(layer: nn.Module, x: Tensor, is_training: bool) -> Callable[[], list[Tensor]]:
    """Inference, or forward and backward with the gradients of input and parameters."""
    if not is_training:

        def infer() -> list[Tensor]:
            with torch.no_grad():
                return [layer(x)[0]]

        return infer

    x = x.clone().requires_grad_()
    variables = [x, *layer.parameters()]

    def train() -> list[Tensor]:
        output = layer(x)[0]
        return [output.detach(), *torch.autograd.grad(output.sum(), variables)]

    return train


def _largest_error(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Over all results, relative to the largest value of each, NaN where one is NaN."""
    errors = []
    for a, b in zip(ours, theirs, strict=True):
        scale = b.double().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        errors.append(float((a.double() - b.double()).abs().max() / scale))
    return max(errors, key=lambda error: (error != error, error))


def run_case(case: Case, rounds: int, budget_s: float) -> Record:
    """Compares the results, then times both."""
    torch.manual_seed(0)
    dtype = DTYPES[case.dtype]
    sizes = (case.hidden, case.hidden, case.layers)
    theirs = TORCH[case.cell](*sizes).to(dtype)
    ours = RECURRENT[case.cell](*sizes).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(case.steps, case.batch, case.hidden).to(dtype)
    calls = {name: _call(layer, x, case.is_training)
             for name, layer in (("fastcells", ours), ("torch", theirs))}  # fmt: skip
    error = failure = None
    try:
        error = _largest_error(calls["fastcells"](), calls["torch"]())
    except (RuntimeError, NotImplementedError) as raised:  # a dtype that torch does not take
        failure = str(raised).strip().partition("\n")[0]
        calls["fastcells"]()  # where it was ours, it is raised again
        del calls["torch"]
    timings = measure(calls, rounds, budget_s=budget_s)
    return Record(case, {n: _milliseconds(asdict(t)) for n, t in timings.items()}, error, failure)


def _milliseconds(timing: Mapping[str, float]) -> dict[str, float]:
    times = ("median", "fastest", "slowest")
    return {key: value * 1e3 if key in times else value for key, value in timing.items()}


def describe_run(load: OtherLoad, rounds: int) -> dict[str, Any]:
    """On what it was measured."""
    return {
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "fastcells": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "rounds": rounds,
        "others_share_of_cores": load.share(),
    }


def _machine(run: Mapping[str, Any]) -> str:
    threads = "1 thread" if run["threads"] == 1 else f"{run['threads']} threads"
    return f"{run['processor']}, {threads}, torch {run['torch']}"


def _rows(records: Sequence[Record]) -> Iterator[tuple[Record, list[str]]]:
    for record in records:
        shown = [f"{record.timings[name]['median']:.3g}" if name in record.timings else "failed"
                 for name in ("fastcells", "torch")]  # fmt: skip
        ratio = "" if record.ratio is None else f"{record.ratio:.2f}"
        error = "" if record.error is None else f"{record.error:.0e}"
        yield record, [*shown, ratio, f"[bold red]{error}[/]" if record.is_wrong else error]


def make_table(records: Sequence[Record], run: Mapping[str, Any]) -> Table:
    """A row for each case."""
    mode = "forward and backward" if records[0].case.is_training else "inference"
    table = Table(
        title=f"Milliseconds a call, {mode}: medians of up to {run['rounds']} rounds in turns",
        caption=f"{_machine(run)}; fastcells {run['fastcells']}. Above 1: fastcells is faster.",
    )
    for title in ("cell", "B", "H", "T", "layers", "dtype"):
        table.add_column(title, justify="left" if title in ("cell", "dtype") else "right")
    for title in ("fastcells", "torch", "torch / fastcells", "apart"):
        table.add_column(title, justify="right", style="bold" if " / " in title else "")
    for record, texts in _rows(records):
        c = record.case
        sizes = (str(size) for size in (c.batch, c.hidden, c.steps, c.layers))
        table.add_row(c.cell, *sizes, c.dtype, *texts)
    return table


def draw(records: Sequence[Record], run: Mapping[str, Any], path: Path) -> None:
    """Two bars a case, with the ratio beside them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.4 + 0.5 * len(records)), layout="constrained")
    axes = figure.add_subplot()
    for offset, name, colour in ((-0.2, "fastcells", "#1f77b4"), (0.2, "torch", "#b0b0b0")):
        shown = [(y, r.timings[name]) for y, r in enumerate(records) if name in r.timings]
        places, medians = [y + offset for y, _ in shown], [t["median"] for _, t in shown]
        spans = [[t["median"] - t["fastest"] for _, t in shown],
                 [t["slowest"] - t["median"] for _, t in shown]]  # fmt: skip
        axes.barh(places, medians, 0.38, color=colour, label=name)
        axes.errorbar(medians, places, xerr=spans, fmt="none", ecolor="black", elinewidth=0.6)
    for y, record in enumerate(records):
        if record.ratio is not None:
            axes.annotate(f" {record.ratio:.2f}x", (record.timings["torch"]["slowest"], y + 0.2),
                          va="center", fontsize=8)  # fmt: skip
    axes.set_yticks(range(len(records)), [record.case.label for record in records])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("ms a call: medians, lines from the fastest to the slowest round")
    axes.set_title(_machine(run), fontsize=9)
    axes.legend(loc="best", fontsize=8)
    figure.savefig(path, dpi=150)
