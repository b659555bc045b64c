"""Random configurations of every layer and function against torch in float64.

    python tests/fuzz/fuzz.py [--seconds 60] [--seed 0] [--target NAME]

The same seed gives the same configurations. Memory that torch hands out is filled with NaN. A
failure is shrunk to a small case, which is printed; a crash ends a child process alone, and the
case that it had is printed; a target of which nothing was run is a failure, too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, note, seed, settings

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what the tests bring

import autocasting
import cells
import functional
import mixing
import multihead
import own_layers
import quantizing
import scanning
import shapes

import attention
import recurrent

TOPICS = [recurrent, cells, functional, attention, multihead, autocasting, shapes, mixing,
          quantizing, scanning, own_layers]  # fmt: skip
TARGETS = {name: target for topic in TOPICS for name, target in topic.TARGETS.items()}
EXAMPLES = 40  # of a run, which has a seed of its own: a run is not ended before


LAST_CASE = "FASTCELLS_FUZZ_LAST_CASE"  # the file that a child writes its case to


def remember(text):
    Path(os.environ[LAST_CASE]).write_text(text, encoding="utf-8")


def run_target(name, strategy, check, number):
    """One run of a target; how many cases it had."""
    count = 0

    @seed(number)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, print_blob=False,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def one_case(case):
        nonlocal count
        note(f"case = {case!r}")
        remember(f"{name}: {case!r}")
        check(case)
        count += 1  # not of what torch refuses

    one_case()
    return count


def run_as_child():
    """Runs this program in a process of its own, and says which case it died of."""
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder, "last_case.txt")
        last.write_text("none", encoding="utf-8")
        command = [sys.executable, *sys.argv]
        status = subprocess.run(command, env={**os.environ, LAST_CASE: str(last)}).returncode
        if status < 0:
            print(f"fuzz: signal {-status} in {last.read_text('utf-8')}", file=sys.stderr)
        return status != 0


def main():
    if LAST_CASE not in os.environ:
        sys.exit(run_as_child())
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, action="append")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = {name: TARGETS[name] for name in options.target or TARGETS}
    counts = dict.fromkeys(chosen, 0)
    until = time.monotonic() + options.seconds
    turn = 0
    while time.monotonic() < until:
        for name, (strategy, check) in chosen.items():
            if time.monotonic() >= until and counts[name]:
                break
            counts[name] += run_target(name, strategy, check, options.seed + turn)
        turn += 1
    for name, count in counts.items():
        print(f"fuzz: {name}: {count} cases")
    if not all(counts.values()):
        raise SystemExit("fuzz: some targets had no case")


if __name__ == "__main__":
    main()
