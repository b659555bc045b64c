"""Fixtures of all tests, and the line at the end that says how accurate the kernels were."""

import os
import random
from collections import Counter

import numpy as np
import pytest

# Before torch loads OpenMP. Tests run in as many processes as there are cores: threads that spin
# while they wait for each other take the core of the one that they wait for, up to 200 times.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
import torch

from fastcells.testing import assert_as_accurate_as_torch
from ways import watch_at_once

#: (error over torch's own, what was compared) of every comparison of this session.
ERROR_RATIOS: list[tuple[float, str]] = []


def pytest_addoption(parser):
    parser.addoption(
        "--sampled",
        action="store_true",
        help="of a test marked sampled(n), the first case, each n-th after it, and the last",
    )


def pytest_collection_modifyitems(config, items):
    """With --sampled, leave out cases of the long grids: n has no divisor in common with the sizes
    of their inner axes, so that each value of an axis meets others. The last case is kept: lists
    end with what is special, as that of cells with the projected one."""
    if not config.getoption("sampled"):
        return
    kept, left, numbers = [], [], Counter()
    tests = [item.nodeid.partition("[")[0] for item in items]
    counts = Counter(tests)
    for item, test in zip(items, tests, strict=True):
        marker, number = item.get_closest_marker("sampled"), numbers[test]
        numbers[test] += 1
        is_last = numbers[test] == counts[test]
        (left if marker and number % marker.args[0] and not is_last else kept).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept


@pytest.fixture(autouse=True)
def seed():
    """Every test starts from the same random state, alone or with others."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture
def assert_accurate(request):
    """assert_as_accurate_as_torch, recorded for the line at the end of the session."""

    def check(actual, exact, torch_result, *, what="result", **options):
        ratio = assert_as_accurate_as_torch(actual, exact, torch_result, what=what, **options)
        ERROR_RATIOS.append((ratio, f"{what} of {request.node.name}"))
        return ratio

    return check


def pytest_terminal_summary(terminalreporter):
    if ERROR_RATIOS:
        worst, where = max(ERROR_RATIOS)
        terminalreporter.write_line(
            f"accuracy: {len(ERROR_RATIOS)} comparisons with torch in the same dtype; the worst "
            f"error is {worst:.2f} times torch's own ({where})"
        )


@pytest.fixture
def took(monkeypatch):
    """The calls that went through C++ to their end."""
    names = []
    watch_at_once(monkeypatch, lambda name, arguments: names.append(name))
    return names
