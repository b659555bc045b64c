"""Draws the plans of typical calls for the site's page on them: which engine runs a call, who
computes which rows and units, and how time is cut.

    python -m benchmarks.plans build/plots

Nothing is computed: `fastcells.explain` is asked on the machine that builds the site, with THREADS
threads. What is written is plans.md, which docs/site/plans.md includes, and the pictures, for a
light and for a dark page.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

import fastcells
from benchmarks.machine import describe_machine
from benchmarks.plots import THEMES, WIDTH, themed
from fastcells.explain import Explanation
from fastcells.explain.picture import draw

THREADS = 8  # enough that the ways to share a call differ
FOLDER = "/build/plots"  # as the site's pages name it


class Call(NamedTuple):
    """A call: the name of its picture, a title, what there is to see, how it is explained."""

    name: str
    title: str
    about: str
    layer: str  # an expression
    size: tuple[int, ...]  # of the input, time first
    is_training: bool = True
    dtype: str = ""

    def code(self) -> str:
        """As a reader would ask."""
        options = f", dtype=torch.{self.dtype}" if self.dtype else ""
        shape = ", ".join(map(str, self.size))
        told = f"told = fastcells.explain(layer, torch.empty({shape}{options}))"
        if not self.is_training:
            told = f"with torch.no_grad():\n    {told}"
        return f"layer = {self.layer}\n{told}"

    def explain(self) -> Explanation:
        names = {"fastcells": fastcells, "torch": torch}
        exec(self.code(), names)
        return names["told"]


CALLS = (
    Call("step", "One step", "A step of a cell reads the weights once, where they lie: there is "
         "nothing to pack, and all threads share the rows of the matrices.",
         "fastcells.LSTMCell(256, 1024)", (1, 256), False),
    Call("small", "A small layer", "Waking a second thread, and waiting for it at every step, "
         "would cost more than it saves.",
         "fastcells.GRU(16, 32)", (100, 1, 16), False),
    Call("directions", "Two directions", "Each direction has a team of threads of its own; the "
         "teams meet at the end alone.",
         "fastcells.LSTM(12, 128, bidirectional=True)", (29, 4, 12)),
    Call("one-row", "One long row", "A row cannot be divided. Each thread keeps the weights of its "
         "own units in its cache, and all meet once a step, for the next one needs all of h.",
         "fastcells.LSTM(80, 512)", (1000, 1, 80), False),
    Call("many-rows", "Many rows of a narrow layer", "Rows do not wait for one another, and the "
         "weights are small enough that every thread reads all of them.",
         "fastcells.LSTM(8, 64)", (100, 256, 8)),
    Call("wide", "A wide layer in training", "The weights are larger than the cache of a core: "
         "each thread has its units' part of them for all rows.",
         "fastcells.GRU(512, 1024)", (50, 64, 512)),
    Call("bfloat16", "bfloat16", "Storage and packed weights have 16 bits, arithmetic and the cell "
         "state 32.",
         "fastcells.LSTM(128, 512, dtype=torch.bfloat16)", (100, 16, 128), False, "bfloat16"),
    Call("int8", "int8 weights", "Weights of 8 bits are packed when the layer is made.",
         "fastcells.quantize(fastcells.LSTM(128, 512))", (100, 1, 128), False),
    Call("layer-norm", "Layer normalisation", "A normalisation reads a whole row, so that those "
         "who share the units of a row wait for each other several times a step.",
         "fastcells.LayerNormLSTM(128, 512)", (100, 8, 128)),
    Call("zoneout", "Zoneout", "What is drawn for a unit takes the row-wise engine, too.",
         "fastcells.GRU(128, 256, zoneout=0.1)", (100, 64, 128)),
    Call("elementwise", "No recurrent matrix", "Units see themselves alone: each lane walks "
         "through a chunk of time by itself, after the chunk's input product.",
         "fastcells.SRU(256, 256)", (1000, 4, 256)),
    Call("two-products", "Two products a step", "The gate that takes `r * h` waits for all r: "
         "one more product and one more meeting in each step, on the engine of whole rows.",
         'fastcells.GRU(128, 256, variant="reset_before")', (100, 32, 128)),
    Call("reference", "No kernels", "A projection beside zoneout runs on plain torch operations. "
         "There is no plan to draw.",
         "fastcells.LSTM(64, 64, proj_size=16, zoneout=0.1)", (100, 1, 64)),
)  # fmt: skip


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def section(call: Call, told: Explanation) -> str:
    """A call in the page's language."""
    parts = [f"## {call.title}", call.about, f"```python\n{call.code()}\n```"]
    if told.kernel != "reference":
        alt = f"{call.title}: who computes which rows and units, and how time is cut"
        parts += [
            f"```{{image}} {FOLDER}/plan-{call.name}-{theme}.svg\n:class: only-{theme}\n"
            f":alt: {alt}\n```"
            for theme in THEMES
        ]
    return "\n\n".join([*parts, f"```{{code-block}} text\n:class: wrapped\n\n{told}\n```"])


def write_page(folder: Path, calls: tuple[Call, ...] = CALLS) -> None:
    """plans.md and its pictures."""
    machine = describe_machine()
    sizes = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    sections = [f"Asked on {machine['cpu']} ({sizes}) with {THREADS} threads."]
    with threads(THREADS):
        for call in calls:
            told = call.explain()
            sections.append(section(call, told))
            if told.kernel == "reference":
                continue
            for theme, colors in THEMES.items():
                with themed(colors[0]):
                    figure = draw(told, WIDTH, with_text=False)
                    path = folder / f"plan-{call.name}-{theme}.svg"
                    figure.savefig(path, metadata={"Date": None})
    (folder / "plans.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the page and the pictures go")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    write_page(folder)
    print(f"plans: {len(CALLS)} calls in {folder / 'plans.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
