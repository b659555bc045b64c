"""What a list of records says in a few numbers: ratios, geometric means, worst points.

A ratio above 1 says that the second of its two is the faster one. Needs no torch: readme_table.py
reads results that another machine measured.
"""

import math
from dataclasses import dataclass

BEST = "best peer"
OURS = "fastcells"
# Of the cells in tables; the classes of torch.nn and fastcells are named so, too.
TITLES = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN"}


@dataclass(frozen=True)
class Ratio:
    """Time of `slower` over time of `faster`, under a title; with a fact, that of the two."""

    title: str
    slower: str  # a variant, or BEST
    faster: str
    fact: str | None = None


@dataclass(frozen=True)
class Target:
    """What a ratio is to reach over all cases of some modes."""

    title: str
    modes: tuple[str, ...]
    ratio: Ratio
    mean: float  # geometric
    worst: float = 0.0


VS_TORCH = Ratio("torch /\nfastcells", "torch", OURS)
VS_BEST = Ratio("best peer /\nfastcells", BEST, OURS)


def median_of(record, name):
    """Return the median seconds of a variant of `record`, None where it was not timed."""
    timing = record["timings"].get(name)
    return timing["median"] if timing else None


def best_peer(record):
    """Return the name of the fastest variant that is not fastcells', None if there is none."""
    peers = [name for name in record["timings"] if not name.startswith(OURS)]
    return min(peers, key=lambda name: median_of(record, name), default=None)


def ratio_of(record, ratio):
    """Return the ratio in `record`, None where one of the two was not timed."""
    slower = best_peer(record) if ratio.slower == BEST else ratio.slower
    if ratio.fact is None:
        found = [median_of(record, name) for name in (slower, ratio.faster)]
    else:
        found = [record["facts"].get(f"{ratio.fact}, {name}") for name in (slower, ratio.faster)]
    return None if None in found else found[0] / found[1]


def geometric_mean(values):
    """Return the geometric mean of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


@dataclass(frozen=True)
class Digest:
    """One ratio over some cases: all shapes of a group, or all that a target is about."""

    mean: float  # geometric
    worst: float  # the smallest
    worst_label: str
    count: int


def group_of(record):
    """Return the title of a record's rows in a mode: its cell, or of attention the passes."""
    case = record["case"]
    return TITLES[case["cell"]] if "cell" in case else case["mode"]


def full_label(record):
    """Return the mode, the group and the shape."""
    return f"{record['mode']} {group_of(record)} {record['label']}"


def case_label(record):
    """Return the shape and, where a table has both, whether it is training."""
    is_mixed = record["mode"] == "lengths"
    return record["label"] + (f" {record['case']['mode']}" if is_mixed else "")


def digest(records, ratio, label_of=case_label):
    """Return the Digest of `ratio` over `records`, None where nothing has it."""
    found = [(ratio_of(record, ratio), record) for record in records]
    found = [(value, record) for value, record in found if value is not None]
    if not found:
        return None
    value, record = min(found, key=lambda pair: pair[0])
    label = label_of(record)
    if ratio.slower == BEST:
        label += f", {best_peer(record)}"
    return Digest(geometric_mean([v for v, _ in found]), value, label, len(found))


def by_mode_and_group(records):
    """Return {(mode, group_of): records}, in the order of the records."""
    groups = {}
    for record in records:
        groups.setdefault((record["mode"], group_of(record)), []).append(record)
    return groups
