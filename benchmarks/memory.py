"""How much the memory of a process grows by one training call, each in a process of its own.

What the process runs is the memory.py of a topic, which knows how a case is trained.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.paths import ROOT


def status_bytes(key):
    """Return VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {key}")


def reset_peak():
    """Let VmHWM begin again."""
    Path("/proc/self/clear_refs").write_text("5")


def measure_process(small, whole):
    """Return how much this process grew by a forward pass, and at most until after a backward.

    Each argument is (forward, what to differentiate by, gradient of the output).
    """
    forward, wanted, grad = small
    torch.autograd.grad(forward(), wanted, grad)  # starts the threads, loads the code
    forward, wanted, grad = whole
    reset_peak()
    before = status_bytes("VmRSS")
    output = forward()
    after = status_bytes("VmRSS")
    torch.autograd.grad(output, wanted, grad)
    return {"growth": after - before, "peak": status_bytes("VmHWM") - before}


def measure_in_child(module, case, name, threads):
    """Return what print_memory finds in a new process that runs `module`, nothing if it fails."""
    command = [sys.executable, "-m", module, json.dumps(asdict(case)), name, str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        print(f"memory of {name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return {}
    return json.loads(done.stdout)


def print_memory(make_training, case_class, names):
    """Print the memory of one training call as JSON.

    `make_training(case, name)` returns the arguments of measure_process.
    """
    parser = argparse.ArgumentParser(description=print_memory.__doc__.splitlines()[0])
    parser.add_argument("case", type=json.loads, help=f"fields of {case_class.__name__}, as JSON")
    parser.add_argument("name", choices=names)
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    training = make_training(case_class(**options.case), options.name)
    print(json.dumps(measure_process(*training)))
