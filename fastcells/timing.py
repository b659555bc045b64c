"""Times several implementations of one computation against each other, fairly.

Thread pools spin for a while after a call and slow whoever is timed next, so that every turn begins
with a pause. After a pause cores are slow and threads lie on the wrong ones, so that untimed calls
follow, until WARM_S has passed. The order is reversed from round to round, and a round holds one
sample of each, so that whatever else the machine does meets all alike.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["MIN_ROUNDS", "QUIET", "OtherLoad", "Timing", "measure"]

Call = Callable[[], Any]

# Spinning ends within milliseconds (ONNX Runtime's is told to): 0.02 s are enough. After 0.05 s two
# threads were seen to wake on one core, and a call of 1 ms took 10 ms.
PAUSE_S = 0.02
# fastcells does the first 8 ms or so after a pause on one thread, and then wakes the others.
WARM_S = 30e-3
SAMPLE_S = 2e-3  # far above the clock's resolution and a context switch
MAX_REPETITIONS = 200
LONG_CALL_S = 0.05  # a longer call warms itself up
MIN_ROUNDS = 7
QUIET = 0.03  # more of the cores in other hands, and the numbers are not worth publishing
_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: over the rounds, each a mean over `repetitions` calls in a row."""

    median: float
    fastest: float
    slowest: float
    rounds: int
    repetitions: int


def order_of_round(names: Sequence[str], number: int) -> list[str]:
    """Return the order of a round: forward in even rounds, reversed in odd ones."""
    return list(names) if number % 2 == 0 else list(reversed(names))


def timed(call: Call, repetitions: int) -> float:
    """Return the mean seconds of `repetitions` calls in a row."""
    start = time.perf_counter()
    for _ in range(repetitions):
        call()
    return (time.perf_counter() - start) / repetitions


def repetitions_for(seconds: float) -> int:
    """Return how many calls of so many seconds make a sample."""
    return min(MAX_REPETITIONS, max(1, math.ceil(SAMPLE_S / max(seconds, 1e-9))))


def rounds_within(budget_s: float, seconds_per_round: float, rounds: int) -> int:
    """Return `rounds`, or fewer where they would take longer than the budget."""
    affordable = int(min(rounds, budget_s / seconds_per_round))
    return max(affordable, min(rounds, MIN_ROUNDS))


def turn(call: Call, seconds: float, repetitions: int, pause_s: float) -> float:
    """Pause, warm up, and return a sample of `call`, of which one takes about `seconds`."""
    time.sleep(pause_s)
    end = time.perf_counter() + WARM_S
    while seconds < LONG_CALL_S and time.perf_counter() < end:
        call()
    return timed(call, repetitions)


def estimate(call: Call, pause_s: float) -> float:
    """Return about how many seconds a call takes."""
    time.sleep(pause_s)
    seconds = timed(call, 1)
    return seconds if seconds >= LONG_CALL_S else turn(call, seconds, 1, 0)


def turn_seconds(seconds: float, repetitions: int, pause_s: float) -> float:
    """Return how long a turn takes."""
    warm_s = max(WARM_S, seconds) if seconds < LONG_CALL_S else 0
    return pause_s + warm_s + repetitions * seconds


def summarize(samples: Sequence[float], repetitions: int) -> Timing:
    """Return the Timing of these samples."""
    median = statistics.median(samples)
    return Timing(median, min(samples), max(samples), len(samples), repetitions)


def measure(
    callables: Mapping[str, Call],
    rounds: int = 12,
    pause_s: float = PAUSE_S,
    budget_s: float = math.inf,
) -> dict[str, Timing]:
    """Times each of `callables` in turns.

    Args:
        callables: {name: call without arguments}, which returns when its work is done.
        rounds: samples of each.
        pause_s: seconds before each turn.
        budget_s: bounds the whole: slow calls get fewer rounds, MIN_ROUNDS at least.

    Returns:
        {name: Timing}, in the order of `callables`.

    Example::

        x = torch.randn(60, 8, 64)
        layers = {"fastcells": fastcells.GRU(64, 64), "torch": torch.nn.GRU(64, 64)}
        with torch.no_grad():
            found = measure({name: partial(layer, x) for name, layer in layers.items()})
        ratio = found["torch"].median / found["fastcells"].median
    """
    seconds, repetitions = {}, {}
    for name, call in callables.items():
        seconds[name] = estimate(call, pause_s)
        repetitions[name] = repetitions_for(seconds[name])
    round_s = sum(turn_seconds(seconds[name], repetitions[name], pause_s) for name in callables)
    samples: dict[str, list[float]] = {name: [] for name in callables}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds_within(budget_s, round_s, rounds)):
            for name in order_of_round(list(callables), number):
                sample = turn(callables[name], seconds[name], repetitions[name], pause_s)
                samples[name].append(sample)
    finally:
        gc.enable()
    return {name: summarize(samples[name], repetitions[name]) for name in callables}


class OtherLoad:
    """Which share of the cores others used, from now until `share()`: numbers need a quiet machine.

    On a virtual machine what the host took away counts too.
    """

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.perf_counter(), busy_seconds(), own_seconds()

    def share(self) -> float | None:
        """Return it, 0 to 1; None where there is no /proc/stat."""
        busy = busy_seconds()
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (own_seconds() - self._own)
        elapsed = time.perf_counter() - self._start
        return max(0.0, others / (elapsed * (os.cpu_count() or 1)))


def busy_seconds() -> float | None:
    """Return the seconds that all cores together have worked, None where nobody counts them."""
    if not _STAT.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, _STAT.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Return the seconds that this process and its children that ended have worked."""
    return sum(os.times()[:4])
