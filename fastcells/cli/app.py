"""The commands and their options; what they do is in the module of each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from rich.console import Console
from rich.progress import track

from .. import _extension
from ..explain import explain as explain_call
from ..timing import MIN_ROUNDS, QUIET, OtherLoad
from . import bench as benching
from . import check as checking
from . import info as facts_of
from .layers import DTYPES, RECURRENT, TORCH
from .processes import instruction_sets
from .selftest import SUBJECTS

__all__ = ["app"]

T = TypeVar("T")
WIDTH = 110  # of what goes to a file or a pipe
MOST_THREADS = 1024
#: What bench measures unless told otherwise.
DEFAULTS = {
    "cell": ["lstm,gru,rnn"],
    "batch": ["1,16"],
    "hidden": ["256"],
    "steps": ["60"],
    "layers": ["1"],
    "dtype": ["float32"],
}

app = typer.Typer(
    help="fastcells: recurrent and attention layers for PyTorch on compiled kernels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _console(to_stderr: bool = False) -> Console:
    """A terminal's own width, or a fixed one."""
    console = Console(stderr=to_stderr)
    return console if console.is_terminal else Console(stderr=to_stderr, width=WIDTH)


def _list_option(what: str) -> Any:
    return typer.Option(help=f"{what}; several: repeat it, or write commas")


def _several(option: str, words: Iterable[str], parse: Callable[[str], T]) -> list[T]:
    """The values of an option that may be repeated and may hold commas, each once."""
    found = []
    for word in (part.strip() for text in words for part in text.split(",")):
        try:
            found.append(parse(word))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=f"'{option}'") from None
    return list(dict.fromkeys(found))


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise ValueError(f"{word!r} is not a whole number above 0")
    return int(word)


def _one_of(names: Collection[str]) -> Callable[[str], str]:
    def parse(word: str) -> str:
        if word not in names:
            raise ValueError(f"{word!r} is not one of {', '.join(names)}")
        return word

    return parse


def _one(option: str, word: str, names: Collection[str]) -> str:
    return _several(option, [word], _one_of(names))[0]


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise typer.BadParameter(
            "matplotlib is not installed: pip install 'fastcells[plot]'", param_hint="'--plot'"
        ) from None


def _check_plot(path: Path | None) -> None:
    """Before anything is computed."""
    if path is None:
        return
    _need_matplotlib()
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter(
            f"{str(path)!r} does not end in .png, .svg or .pdf", param_hint="'--plot'"
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise typer.BadParameter(
            f"{str(path.parent)!r} is not a folder that can be written to", param_hint="'--plot'"
        )


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, not tables")] = False,
) -> None:
    """Versions, how it was compiled, instruction sets, threads, devices, and what is missing."""
    facts = facts_of.collect()
    if as_json:
        _print_json(facts)
        return
    for table in facts_of.make_tables(facts):
        _console().print(table)


@app.command()
def check(
    layer: Annotated[list[str] | None, _list_option("default: all")] = None,
    instruction_set: Annotated[
        list[str] | None, _list_option("default: all of this processor")
    ] = None,
) -> None:
    """Compares every layer, in every dtype and on every instruction set, with float64: results and
    gradients. Exit code 1 where something differs."""
    layers = _several("--layer", layer or SUBJECTS, _one_of(SUBJECTS))
    if not _extension.is_compiled():
        typer.echo(f"Nothing to check: {_extension.why_not_compiled()}.", err=True)
        raise typer.Exit(1)
    found = instruction_sets()
    sets = _several("--instruction-set", instruction_set or found, _one_of(found))

    def progress(choices: Sequence[str]) -> Iterable[str]:
        return track(choices, "computing", console=_console(to_stderr=True), transient=True)

    verdicts = checking.run_all(layers, sets, progress)
    console = _console()
    console.print(checking.make_table(verdicts))
    faults = [verdict for verdict in verdicts if verdict.fault]
    for fault in faults:
        text = f"{fault.instruction_set}, {fault.layer}, {fault.dtype}: {fault.fault}"
        console.print(text, style="red", markup=False, soft_wrap=True)
    if faults:
        raise typer.Exit(1)
    console.print(f"{len(verdicts)} of {len(verdicts)} are right.")


@app.command()
def bench(
    cell: Annotated[list[str], _list_option(", ".join(TORCH))] = DEFAULTS["cell"],
    batch: Annotated[list[str], _list_option("rows")] = DEFAULTS["batch"],
    hidden: Annotated[list[str], _list_option("units")] = DEFAULTS["hidden"],
    steps: Annotated[list[str], _list_option("of time")] = DEFAULTS["steps"],
    layers: Annotated[list[str], _list_option("stacked")] = DEFAULTS["layers"],
    dtype: Annotated[list[str], _list_option(", ".join(DTYPES))] = DEFAULTS["dtype"],
    train: Annotated[bool, typer.Option("--train", help="forward and backward")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_THREADS, help="default: torch's")
    ] = None,
    rounds: Annotated[int, typer.Option(min=MIN_ROUNDS, help="samples of each")] = 12,
    budget: Annotated[float, typer.Option(min=0, help="seconds a case may take; at least "
                                          f"{MIN_ROUNDS} rounds are run")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, not a table")] = False,
    plot: Annotated[Path | None, typer.Option(help="a picture: .png, .svg or .pdf")] = None,
) -> None:  # fmt: skip
    """Times layers beside torch.nn's on this machine, in turns. Exit code 1 where they differ."""
    cases = benching.spread(
        _several("--cell", cell, _one_of(TORCH)),
        _several("--batch", batch, _count),
        _several("--hidden", hidden, _count),
        _several("--steps", steps, _count),
        _several("--layers", layers, _count),
        _several("--dtype", dtype, _one_of(DTYPES)),
        train,
    )
    _check_plot(plot)
    if threads is not None:
        torch.set_num_threads(threads)
    load = OtherLoad()
    notes = _console(to_stderr=True)
    shown = track(cases, "timing", console=notes, transient=True)
    records = [benching.run_case(case, rounds, budget) for case in shown]
    run = benching.describe_run(load, rounds)
    if as_json:
        _print_json({**run, "unit": "ms", "cases": [
            {**asdict(record), "ratio": record.ratio} for record in records
        ]})  # fmt: skip
    else:
        _console().print(benching.make_table(records, run))
    _comment(notes, records, run["others_share_of_cores"] or 0.0)
    if plot is not None:
        benching.draw(records, run, plot)
        notes.print(f"Picture: {plot}")
    if any(record.is_wrong for record in records):
        raise typer.Exit(1)


def _comment(notes: Console, records: Sequence[benching.Record], others: float) -> None:
    """What must be known of these numbers."""
    if not _extension.is_compiled():
        notes.print(f"Not the kernels: {_extension.why_not_compiled()}", style="bold red")
    if others > QUIET:
        notes.print(
            f"Not quiet: others used {others:.0%} of the cores meanwhile, so that these numbers "
            "say little.",
            style="bold red",
        )
    for record in records:
        if record.failure:
            notes.print(f"{record.case.label}: torch failed: {record.failure}", markup=False)
        if record.is_wrong:
            notes.print(f"{record.case.label}: the results differ", style="bold red")


@app.command()
def explain(
    cell: Annotated[str, typer.Option(help=", ".join(RECURRENT))] = "lstm",
    batch: Annotated[int, typer.Option(min=1, help="rows")] = 8,
    hidden: Annotated[int, typer.Option(min=1, help="units")] = 256,
    steps: Annotated[int, typer.Option(min=1)] = 60,
    input_size: Annotated[
        int | None, typer.Option("--input", min=1, help="width of the input; default: hidden")
    ] = None,
    layers: Annotated[int, typer.Option(min=1, help="stacked; the plan is the first one's")] = 1,
    bidirectional: Annotated[bool, typer.Option("--bidirectional")] = False,
    dtype: Annotated[str, typer.Option(help=", ".join(DTYPES))] = "float32",
    train: Annotated[bool, typer.Option("--train", help="with a way back")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_THREADS, help="default: torch's")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    plot: Annotated[Path | None, typer.Option(help="a picture: .png, .svg or .pdf")] = None,
) -> None:
    """Which kernel runs a layer of these sizes, by which plan, and why. Nothing is computed."""
    make = RECURRENT[_one("--cell", cell, RECURRENT)]
    storage = DTYPES[_one("--dtype", dtype, DTYPES)]
    _one("--device", device, ("cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("torch sees no GPU here", param_hint="'--device'")
    _check_plot(plot)
    if threads is not None:
        torch.set_num_threads(threads)
    width = input_size or hidden
    options: dict[str, Any] = {"bidirectional": bidirectional, "device": "meta", "dtype": storage}
    try:  # no value is written: what is only asked about may be larger than the memory
        layer = make(width, hidden, layers, **options).to_empty(device=device)
        x = torch.zeros((), device=device, dtype=storage).expand(steps, batch, width)
        with torch.set_grad_enabled(train):
            told = explain_call(layer, x)
        if plot is not None:
            told.plot().savefig(plot, dpi=150)
    except (ValueError, RuntimeError) as error:  # of the layer, of too much memory
        typer.echo(str(error).partition("\n")[0], err=True)
        raise typer.Exit(1) from None
    typer.echo(str(told))
