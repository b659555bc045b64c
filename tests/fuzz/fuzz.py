"""Random configurations of every layer and function against torch in float64.

    python tests/fuzz/fuzz.py [--seconds 60] [--seed 0] [--target NAME]

The same seed gives the same configurations. A failure is shrunk to a small case, which is printed;
a target of which nothing was run is a failure, too.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, note, seed, settings

sys.path.insert(0, str(Path(__file__).resolve().parent))

import attention
import recurrent

TARGETS = {**recurrent.TARGETS, **attention.TARGETS}
EXAMPLES = 40  # of a run, which has a seed of its own: a run is not ended before


def run_target(strategy, check, number):
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
        count += 1
        note(f"case = {case!r}")
        check(case)

    one_case()
    return count


def main():
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
            counts[name] += run_target(strategy, check, options.seed + turn)
        turn += 1
    for name, count in counts.items():
        print(f"fuzz: {name}: {count} cases")
    if not all(counts.values()):
        raise SystemExit("fuzz: some targets had no case")


if __name__ == "__main__":
    main()
