"""The picture of examples/speakers.py."""

import statistics

import numpy as np
from matplotlib.figure import Figure

import adding


def percent(run):
    """Return the final test accuracy as text."""
    return f"{run.accuracies[-1]:.1%}"


STYLES = {"color": "#f0a860", "linewidth": 5}, {"color": "#1f3f77", "linewidth": 1.5}


def draw(comparisons, claims, path):
    """Draw the loss and the test accuracy along the epochs, a column for each kind of layer; below
    them the seconds per epoch and the adding problem."""
    figure = Figure(figsize=(13, 9), layout="constrained")
    curves, below = figure.subfigures(2, height_ratios=(2, 1))
    axes = curves.subplots(2, len(comparisons), sharex=True, sharey="row", squeeze=False)
    for (top, bottom), c in zip(axes.T, comparisons, strict=True):
        draw_curves(top, bottom, c, claims.get(c.cell))
    axes[0, 0].set_ylabel("training loss (cross-entropy)")
    axes[1, 0].set_ylabel("test accuracy (%)")
    times, errors = below.subplots(1, 2)
    draw_times(times, comparisons)
    draw_errors(errors, comparisons)
    figure.suptitle("Nine speakers told apart: same weights, same batches, two implementations")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_curves(top, bottom, c, claim):
    """Draw the two runs of one Comparison, and the accuracy that is claimed of it, if any."""
    for run, style in zip((c.theirs, c.ours), STYLES, strict=True):
        epochs = range(1, run.epochs + 1)
        losses = np.reshape(run.losses, (run.epochs, -1)).mean(axis=1)
        label = f"{run.name}, {percent(run)} at the end"
        top.plot(epochs, losses, label=run.name, **style)
        bottom.plot(epochs, [100 * a for a in run.accuracies], label=label, **style)
    top.set(title=f"{c.cell}, {c.parameters():,} parameters", yscale="log")
    bottom.set(xlabel="epoch")
    if claim is not None:
        label = f"{claim:.0%} is claimed"
        bottom.axhline(100 * claim, color="grey", linestyle=":", label=label)
    for axis, place in ((top, "upper right"), (bottom, "lower right")):
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, loc=place)


def draw_times(axis, comparisons):
    """Draw the seconds per epoch of both implementations as bars."""
    places = np.arange(len(comparisons))
    for shift, name, style in zip((-0.2, 0.2), ("theirs", "ours"), STYLES, strict=True):
        runs = [getattr(c, name) for c in comparisons]
        seconds = [statistics.median(run.seconds) for run in runs]
        bars = axis.bar(places + shift, seconds, 0.4, color=style["color"], label=runs[0].name)
        axis.bar_label(bars, fmt="%.3f", fontsize="small")
    axis.set(title="training", ylabel="seconds per epoch", xticks=places)
    axis.set_xticklabels([c.cell for c in comparisons])
    axis.legend(frameon=False)


def draw_errors(axis, comparisons):
    """Draw the error in the adding problem over the length of the series."""
    for c in comparisons:
        lengths, errors = zip(*((a.length, a.error) for a in c.answers), strict=True)
        axis.plot(lengths, errors, marker="o", label=c.cell)
    axis.axhline(adding.GUESS, color="grey", linestyle=":", label="always guessing 1")
    axis.set(title="adding problem", xlabel="steps", ylabel="mean square error")
    axis.set(xscale="log", yscale="log", xticks=lengths)
    axis.set_xticklabels([str(length) for length in lengths])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
