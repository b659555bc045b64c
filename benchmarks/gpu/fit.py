"""Fit what a step of the sequence kernels takes: the table of csrc/recurrent/cuda/plan.cpp.

    python -m benchmarks.gpu.fit benchmarks/results/<gpu>/<date>/sequence.json

Least squares of relative errors over the medians of one wave, for each way and width of storage;
and how far from the fastest tier of each shape the fitted table chooses.
"""

import argparse
import collections
import json
import math
import sys
from pathlib import Path

import numpy as np

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1}
AT_ONCE = {1: 132, 2: 66, 4: 30, 8: 15, 16: 7}  # clusters, of an H200: micro.json
TILE_ROWS = 8
NAMES = ("base", "weights", "received", "doubling", "sixteen")


def width_of(record):
    """Return the bytes of an element."""
    return 4 if record["dtype"] == "float32" else 2


def features(record):
    """Return what the cost is linear in, in the order of NAMES; a grid has the first two."""
    gates, H, blocks = GATES[record["cell"]], record["H"], record["blocks"]
    columns = (gates if record["way"] == "backward" else 1) * H
    weights = gates * H * H * width_of(record) / blocks / 1024
    if record["tier"] == "grid":
        return [1.0, weights]
    received = TILE_ROWS * columns * width_of(record) / 1024 if blocks > 1 else 0.0
    return [1.0, weights, received, math.log2(blocks), float(blocks == 16)]


def turns(record):
    """Return how often a step's work is done one after the other."""
    if record["tier"] == "grid":
        return record["slices"]
    return -(-record["slices"] // AT_ONCE[record["blocks"]])


def kind(record):
    """Return what has coefficients of its own."""
    tier = "grid" if record["tier"] == "grid" else "cluster"
    if record.get("exchange") in ("packets", "lines"):
        tier += f" with {record['exchange']}"
    return tier, record["way"], width_of(record)


def fit(records):
    """Return {kind: coefficients}."""
    groups = collections.defaultdict(list)
    for record in records:
        if record["tier"] == "grid" or turns(record) == 1:
            groups[kind(record)].append(record)
    found = {}
    for key, group in groups.items():
        times = np.array([record["us_step"] / turns(record) for record in group])
        matrix = np.array([features(record) for record in group]) / times[:, None]
        found[key] = np.linalg.lstsq(matrix, np.ones(len(group)), rcond=None)[0]
        error = matrix @ found[key] - 1
        numbers = ", ".join(f"{n} {x:.4f}" for n, x in zip(NAMES, found[key], strict=False))
        name = f"{key[0]} {key[1]} {key[2]} bytes"
        print(f"{name}: {numbers}; {len(group)} medians, rms {np.sqrt((error**2).mean()):.1%}")
    return found


def regrets(records, table):
    """Return for each shape the time of the chosen tier over that of the fastest."""
    shapes = collections.defaultdict(list)
    for record in records:
        shapes[tuple(record[k] for k in ("cell", "dtype", "way", "H", "B"))].append(record)
    found = []
    for group in shapes.values():
        cost = {id(r): turns(r) * float(np.dot(features(r), table[kind(r)])) for r in group}
        chosen = min(group, key=lambda r: cost[id(r)])
        found.append(chosen["us_step"] / min(r["us_step"] for r in group))
    return found


def main(arguments=None):
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    options = parser.parse_args(arguments)
    record = json.loads(options.results.read_text(encoding="utf-8"))
    records = [r for r in record["records"] if "us_step" in r]
    found = regrets(records, fit(records))
    mean = math.exp(sum(map(math.log, found)) / len(found))
    print(
        f"{len(found)} shapes: chosen over fastest {mean:.3f} on average, {max(found):.2f} at most"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
