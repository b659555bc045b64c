"""Time against the number of hidden units as a picture: a column a cell, a row a batch size."""

from matplotlib.figure import Figure

from benchmarks.recurrent.cases import CURVE_BATCHES, CURVE_UNITS
from benchmarks.report import names_of
from benchmarks.summary import TITLES

COLORS = {
    "torch": "#f0a860",
    "torch.compile": "#c05a2a",
    "onnxruntime": "#6aa56a",
    "openvino": "#8a6ab0",
    "keras": "#999999",
    "fastcells": "#1f3f77",
}


def points_of(records, cell, batch, name):
    """Return (H, median ms) of a peer, by H."""
    return sorted(
        (r["case"]["H"], r["timings"][name]["median"] * 1e3)
        for r in records
        if (r["case"]["cell"], r["case"]["B"]) == (cell, batch)
        and r["case"]["H"] in CURVE_UNITS
        and name in r["timings"]
    )


def draw(records, title, path):
    """Draw inference at B of CURVE_BATCHES over CURVE_UNITS."""
    records = [r for r in records if r["mode"] == "inference"]
    cells = list(dict.fromkeys(r["case"]["cell"] for r in records))
    size = (4 * len(cells), 3.2 * len(CURVE_BATCHES))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(CURVE_BATCHES), len(cells), sharex=True, squeeze=False)
    for row, batch in zip(axes, CURVE_BATCHES, strict=True):
        for axis, cell in zip(row, cells, strict=True):
            for name in names_of(records):
                points = points_of(records, cell, batch, name)
                if points:
                    width = 2.5 if name == "fastcells" else 1.2
                    color = COLORS.get(name)
                    units, times = zip(*points, strict=True)
                    axis.plot(units, times, "o-", label=name, color=color, lw=width, ms=3)
            axis.set(title=f"{TITLES[cell]}, B={batch}", xscale="log", yscale="log")
            axis.set_xticks(CURVE_UNITS, [str(H) for H in CURVE_UNITS], minor=False)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        row[0].set_ylabel("ms a call")
    for axis in axes[-1]:
        axis.set_xlabel("H = I")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
