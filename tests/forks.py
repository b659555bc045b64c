"""How a forked child ends that does one thing: what the tests of forked children share."""

import os
import signal
import time

import pytest

# From Python 3.12 on a fork beside running threads, here torch's, warns of deadlocks: that there
# is none is what these tests are for.
forks = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


def run_in_a_fork(work, seconds=10.0):
    """How a forked child ends that only does `work`, which says whether its results are right."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return {0: "right", 2: "wrong"}.get(os.waitstatus_to_exitcode(status), "died")
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"
