"""Draws the pictures of the site's page on performance from the newest results.

    python -m benchmarks.plots build/plots

Each is drawn twice, for a light and for a dark page, and says below what was measured, where and
when. Every number comes from benchmarks/results.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.paths import RESULTS
from benchmarks.summary import TITLES, VS_BEST, VS_TORCH, geometric_mean, ratio_of

WIDTH = 5.2  # inches: its letters are still read at the width of a phone
THEMES = {"light": ("#1f2328", "#1f5fa8", "#d2762b"), "dark": ("#e0e3e8", "#8fb4ea", "#f0a860")}
STYLE = {"font.size": 10, "svg.fonttype": "path", "axes.spines.top": False,
         "axes.spines.right": False, "figure.facecolor": "none", "axes.facecolor": "none",
         "svg.hashsalt": "fastcells"}  # fmt: skip
WIDTHS = {"bf16": "bfloat16", "int8": "int8"}

Rows = dict[str, list[list[float]]]  # by title, the values of every series


@dataclass(frozen=True)
class Plot:
    """A picture: whose results, what its rows and series are, how it is drawn."""

    name: str
    results: str  # pattern below benchmarks/results
    rows: Callable[[dict], Rows]
    series: tuple[str, ...]
    label: str
    draw: Callable[[Axes, Rows, tuple[str, ...], list[str]], None]


def strip(axis: Axes, rows: Rows, series: tuple[str, ...], colors: list[str]) -> None:
    """A dot a shape; a bar and a number for the geometric mean of a row."""
    axis.set_xscale("log")
    axis.axvline(1, color=colors[0], lw=1)
    for place, values in enumerate(rows.values()):
        for index, found in enumerate(values):
            y = place + 0.28 * (index - (len(series) - 1) / 2)
            color = colors[1 + index]
            axis.plot(found, [y] * len(found), "o", color=color, ms=4, alpha=0.45, mec="none")
            if found:
                mean = geometric_mean(found)
                axis.plot([mean], [y], "|", color=color, ms=11, mew=2.5)
                axis.annotate(f"{mean:.2f}", (1.01, y), xycoords=("axes fraction", "data"),
                              va="center", color=color, fontsize=9)  # fmt: skip


def ranges(axis: Axes, rows: Rows, series: tuple[str, ...], colors: list[str]) -> None:
    """A line from the median to the 99th percentile, a dot at the median."""
    axis.set_xscale("log")
    for place, values in enumerate(rows.values()):
        for index, (middle, late) in enumerate(values):
            y = place + 0.28 * (index - (len(series) - 1) / 2)
            axis.plot([middle, late], [y, y], "-", color=colors[1 + index], lw=2, alpha=0.6)
            axis.plot([middle], [y], "o", color=colors[1 + index], ms=5)


def grouped(pairs: Iterable[tuple[str, tuple[float | None, ...]]]) -> Rows:
    """Rows of (title, a value or None for each series)."""
    rows: Rows = {}
    for title, values in pairs:
        row = rows.setdefault(title, [[] for _ in values])
        for found, value in zip(row, values, strict=True):
            if value is not None:
                found.append(value)
    return rows


def recurrent_rows(results: dict) -> Rows:
    return grouped(
        (f"{TITLES[r['case']['cell']]}\n{r['mode']}", (ratio_of(r, VS_TORCH), ratio_of(r, VS_BEST)))
        for r in results["records"]
        if r["mode"] in ("inference", "training")
    )


def attention_rows(results: dict) -> Rows:
    return grouped(
        (f"{r['mode']}\n{r['case']['mode']}", (ratio_of(r, VS_BEST),)) for r in results["records"]
    )


def small_rows(results: dict) -> Rows:
    def kind(case: str) -> str:
        if "Cell loop" in case:
            return "loops of cells"
        found = re.match(r"\w*Cell|RNN|LSTM|GRU", case)
        return "attention" if not found else "cells" if "Cell" in found.group() else "few steps"

    return grouped(
        (f"{kind(r['case'])}\n{r['pass']}", (r["torch_us"] / r["fastcells_us"],))
        for r in results["records"]
    )


def narrow_rows(results: dict) -> Rows:
    def pairs():
        for record in results["records"]:
            seconds = record["seconds"]
            for width, title in WIDTHS.items():
                ours = seconds.get(f"ours {width}")
                if ours:
                    of = [seconds.get(f"torch {width}"), seconds.get("ours f32")]
                    ratios = tuple(None if other is None else other / ours for other in of)
                    yield f"{record['cell']} {title}\n{record['mode']}", ratios

    return grouped(sorted(pairs(), key=lambda pair: pair[0].split("\n")[::-1]))


def own_cell_rows(results: dict) -> Rows:
    others = ("scripted", "compiled")
    return grouped(
        (
            f"{r['cell']} B {r['B']} H {r['H']}\n{r['pass']}",
            tuple(r["seconds"][other] / r["seconds"]["own"] for other in others),
        )
        for r in results["records"]
    )


def latency_rows(results: dict) -> Rows:
    rows: Rows = defaultdict(list)
    for record in results["records"]:  # torch, then fastcells, of each
        title = f"{record['case']}\n{record['situation']}"
        rows[title].append([record["p50"], record["p99"]])
    return dict(rows)


def gpu_rows(title: Callable[[dict], str]) -> Callable[[dict], Rows]:
    """Of layers or of attention on a GPU."""

    def rows(stage: dict) -> Rows:
        cases = stage["results"]["cases"]
        return grouped(
            (title(c["case"]), (c["ms"]["torch"] / c["ms"]["fastcells"],))
            for c in sorted(cases, key=lambda c: title(c["case"]))
        )

    return rows


PLOTS = (
    Plot("recurrent", "*/*-recurrent.json", recurrent_rows, ("torch.nn", "the best peer"),
         "time of the other / time of fastcells", strip),
    Plot("attention", "*/*-attention.json", attention_rows, ("the best of torch",),
         "time of torch / time of fastcells", strip),
    Plot("small-calls", "*/*-small-calls.json", small_rows, ("torch",),
         "time of torch / time of fastcells", strip),
    Plot("narrow", "*/*-narrow.json", narrow_rows, ("torch, the same width", "fastcells, float32"),
         "time of the other / time of fastcells", strip),
    Plot("own-cells", "*/*-own-cells.json", own_cell_rows,
         ("scripted loop", "torch.compile'd steps"), "time of the loop / time of fastcells", strip),
    Plot("latency", "*/*-latency.json", latency_rows, ("torch", "fastcells"),
         "milliseconds: median (dot) to 99th percentile", ranges),
    Plot("gpu-recurrent", "*/*/recurrent.json",
         gpu_rows(lambda case: f"{case['dtype']}\n{case['pass']}"), ("torch.nn (cuDNN)",),
         "time of torch / time of fastcells", strip),
    Plot("gpu-attention", "*/*/attention.json",
         gpu_rows(lambda case: f"{case['dtype']}\n{case['mode']}"), ("torch",),
         "time of torch / time of fastcells", strip),
)  # fmt: skip


def newest(pattern: str, folder: Path = RESULTS) -> tuple[Path, dict]:
    """The newest results of a pattern, by the date in their path."""
    dated = [(re.search(r"\d{4}-\d\d-\d\d", str(path)), path) for path in folder.glob(pattern)]
    found = sorted((date.group(), path) for date, path in dated if date)
    if not found:
        raise SystemExit(f"plots: there is no {pattern} below {folder}")
    return found[-1][1], json.loads(found[-1][1].read_text(encoding="utf-8"))


def footer(results: dict) -> str:
    """Where and when, in a line."""
    if "results" in results:  # a stage of the GPU kit
        results = results["results"]
        return f"{results['device']}, torch {results['versions']['torch']}, {results['date']}"
    machine, versions = results["machine"], results.get("packages") or results["versions"]
    zen = f" ({machine['zen'].replace('zen', 'Zen ')})" if machine["zen"] else ""
    threads = results.get("settings", results).get("threads", machine["cores"])
    return f"{machine['cpu']}{zen}, {threads} threads, torch {versions['torch']}, {results['date']}"


def themed(ink: str) -> AbstractContextManager[None]:
    """Within it matplotlib draws for the site, in this colour."""
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return matplotlib.rc_context({**STYLE, **dict.fromkeys(inked, ink)})


def draw(plot: Plot, folder: Path) -> None:
    _, results = newest(plot.results)
    rows = plot.rows(results)
    for theme, colors in THEMES.items():
        order = colors[1:] if plot.draw is strip else colors[:0:-1]  # ours is blue
        with themed(colors[0]):
            height = 1.3 + 0.42 * len(rows)
            figure = Figure(figsize=(WIDTH, height), layout="constrained")
            axis = figure.subplots()
            plot.draw(axis, rows, plot.series, [colors[0], *order])
            axis.set_yticks(range(len(rows)), list(rows), fontsize=8.5)
            axis.set_ylim(len(rows) - 0.4, -0.6)
            axis.grid(axis="x", alpha=0.25)
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
            figure.supxlabel(f"{plot.label}\n{footer(results)}", fontsize=8.5)
            handles = [axis.plot([], [], "o", color=c)[0] for c in order[: len(plot.series)]]
            figure.legend(handles, plot.series, loc="outside upper left", ncols=2, frameon=False,
                          fontsize=9)  # fmt: skip
            figure.savefig(folder / f"{plot.name}-{theme}.svg", metadata={"Date": None})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for plot in PLOTS:
        draw(plot, folder)
    print(f"plots: {len(PLOTS)} pictures in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
