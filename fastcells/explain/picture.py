"""Draws an :class:`Explanation` of a recurrent layer: who computes which rows and units in a step,
and how time is cut."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .recurrent import CallSizes, Explanation

__all__ = ["draw"]

COLUMNS = 118  # of the text below the picture
MOST_LABELS = 16  # parts of one direction that are labelled one by one
MOST_TICKS = 120  # steps that are drawn one by one


@dataclass(frozen=True)
class Layout:
    """The numbers of a plan's line; 1 and 0 where it does not have them."""

    worker: str  # "thread" or "block"
    workers: int  # 0: the plan does not say
    direction_teams: int
    row_groups: int
    unit_parts: int  # of a group of rows, each a worker's
    input_frames: int  # rows of an input product; 0: all
    weight_frames: int  # rows of a product for the gradients of the weights
    chunk_steps: int  # of an elementwise kernel
    barriers: str = ""  # of a step, where threads share the units: "a barrier", "2 barriers"

    @property
    def has_parts(self) -> bool:
        """Whether the line says who has which rows and units."""
        return self.direction_teams * self.row_groups * self.unit_parts == self.workers


def read_plan(plan: str) -> Layout:
    """What the line of :attr:`Explanation.plan` says in numbers; of two ways, the first."""
    forward = plan.partition("; back:")[0]

    def number(pattern: str, otherwise: int) -> int:
        found = re.search(pattern, forward)
        return int(found.group(1)) if found else otherwise

    blocks = number(r"(?:clusters|grid) of (\d+) blocks", 1)
    slices = number(r"(\d+) slices? of \d+ rows", 0)
    if slices:
        return Layout("block", slices * blocks, 1, slices, blocks, 0, 0, 0)
    barriers = re.search(r"share the units, (\w+ barriers?) a step", forward)
    return Layout(
        worker="thread",
        workers=number(r"(\d+) threads?\b", 1 if "one thread" in forward else 0),
        direction_teams=number(r"(\d+) directions at once", 1),
        row_groups=number(r"(\d+) groups of rows", 1),
        unit_parts=number(r"(\d+) threads that share the units", 1),
        input_frames=number(r"input product over (\d+) rows", 0),
        weight_frames=number(r"weight gradients over (\d+)", 0),
        chunk_steps=number(r"chunks of (\d+) steps", 0),
        barriers=barriers.group(1) if barriers else "",
    )


def divide_up(a: int, b: int) -> int:
    return -(-a // b)


def draw(told: Explanation, width: float = 10, with_text: bool = True) -> Figure:
    """See :meth:`Explanation.plot`: so many inches wide, `str(told)` below it or not."""
    if told.sizes is None or told.kernel == "reference":
        raise ValueError(
            "explain: a picture shows the kernels of recurrent layers; this call is "
            f"{told.cell} on {told.kernel!r}"
        )
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ImportError(
            "explain: a picture needs matplotlib: pip install 'fastcells[plot]'"
        ) from None
    sizes, layout = told.sizes, read_plan(told.plan)
    lanes = _time_lanes(told, layout)
    heights = [2.4, 0.9 + 0.5 * len(lanes)]
    lines = [
        textwrap.fill(line, COLUMNS, subsequent_indent="      ")
        for line in str(told).splitlines()[1:]
    ]
    text = "\n".join(lines)
    if with_text:
        heights.append(0.19 * (text.count("\n") + 2))
    figure: Any = Figure(figsize=(width, sum(heights)), layout="constrained")
    figure.suptitle(f"{told.cell}, {told.dtype}: {told.kernel}", fontsize=13)
    above, middle, *below = figure.subfigures(len(heights), 1, height_ratios=heights)
    _draw_parts(above, sizes, layout)
    _draw_time(middle.subplots(), sizes, lanes)
    for part in below:
        part.text(0.01, 0.95, text, va="top", family="monospace", fontsize=7.5)
    return figure


def _draw_parts(figure: Any, sizes: CallSizes, layout: Layout) -> None:
    """For each direction a field of rows by units, in the colours of those who compute them."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colours = colormaps["tab20"]
    all_axes = figure.subplots(1, sizes.directions, squeeze=False)[0]
    rows, columns = layout.row_groups, layout.unit_parts
    height, width = sizes.batch / rows, sizes.hidden / columns
    for direction, axes in enumerate(all_axes):
        team = direction % layout.direction_teams
        for group in range(rows):
            top = group * height
            for part in range(columns):
                worker = (team * rows + group) * columns + part
                left = part * width
                axes.add_patch(
                    Rectangle(
                        (left, top), width, height,
                        facecolor=colours(worker % 20) if layout.has_parts else "#d0d0d0",
                        edgecolor="white", alpha=0.85,
                    )
                )  # fmt: skip
                label = f"{layout.worker} {worker}"
                if not layout.has_parts:
                    label = f"{_who(layout)} share rows and units"
                if rows * columns <= MOST_LABELS:
                    axes.text(left + width / 2, top + height / 2, label,
                              ha="center", va="center", fontsize=8, color="black")  # fmt: skip
        name = ("first direction", "reverse direction")[direction]
        name = name if sizes.directions > 1 else "a step"
        axes.set_title(f"{name}: {_who(layout)}", fontsize=9)
        axes.set(
            xlim=(0, sizes.hidden), ylim=(max(1, sizes.batch), 0), xlabel=f"{sizes.hidden} units"
        )
        axes.set_ylabel(f"{sizes.batch} row" + "s" * (sizes.batch != 1))
        axes.set_yticks([])


def _who(layout: Layout) -> str:
    if layout.workers == 0:
        return "torch's threads"
    count = layout.workers // layout.direction_teams
    return f"one {layout.worker}" if count == 1 else f"{count} {layout.worker}s"


def _time_lanes(told: Explanation, layout: Layout) -> list[tuple[str, int]]:
    """(what, steps at once) of each part of the work, from the first to the last."""
    sizes = told.sizes
    assert sizes is not None
    if told.kernel.endswith("elementwise"):
        steps = layout.chunk_steps or sizes.steps
        return [(f"input product and steps, {steps} at once", min(steps, sizes.steps))]
    if told.kernel.endswith(" step"):
        return [("steps, one by one, each with its input product", 1)]
    group_rows = max(1, divide_up(sizes.batch, layout.row_groups))
    chunk = max(1, layout.input_frames // group_rows) if layout.input_frames else sizes.steps
    chunk = min(chunk, sizes.steps)
    lanes = [
        (f"input product, {chunk} steps at once", chunk),
        ("steps, one by one" + (f", {layout.barriers} each" if layout.barriers else ""), 1),
    ]
    if layout.weight_frames:
        chunk = min(max(1, layout.weight_frames // max(1, sizes.batch)), sizes.steps)
        lanes.append((f"way back: weight gradients, {chunk} steps at once", chunk))
    return lanes


def _draw_time(axes: Any, sizes: CallSizes, lanes: list[tuple[str, int]]) -> None:
    """A bar for each part of the work over time, cut where it is cut."""
    from matplotlib.ticker import MaxNLocator

    for y, (label, chunk) in enumerate(lanes):
        cuts = range(0, sizes.steps, chunk)
        edge = "white" if len(cuts) <= MOST_TICKS else "none"
        spans = [(start, min(chunk, sizes.steps - start)) for start in cuts]
        axes.broken_barh(spans, (y - 0.3, 0.6), facecolor="#7aa6c2", edgecolor=edge)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
        axes.text(sizes.steps / 2, y, label, ha="center", va="center", fontsize=8, color="black",
                  bbox=box)  # fmt: skip
    axes.set(xlim=(0, sizes.steps), ylim=(len(lanes) - 0.5, -0.5), yticks=[])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"{sizes.steps} step" + "s" * (sizes.steps > 1) + " of time")
