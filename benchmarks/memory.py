"""How much memory training holds between forward and backward, counted in two ways.

`held_bytes` adds up what autograd was given to keep. `memory_of_child` measures a process of its
own, in which what autograd does not know of counts too.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

import fastcells
from attention_calls import ADDITIVE_FUNCTIONS, make_output_grad, make_tensors
from attention_cases import AdditiveCase
from cases import Case
from layers import make_grad, make_input, make_layer

LAYERS = {
    "torch": {"library": torch.nn},
    "fastcells": {"library": fastcells},
    "fastcells, recompute": {"library": fastcells, "recompute": True},
}


def held_bytes(layer, x):
    """Return the bytes of all storages kept for the backward pass, but parameters and input."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = x.detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = layer(x)[0]  # alive until all is counted: an address is used once
    for tensor in (x, *layer.parameters()):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    del output
    return sum(kept.values())


def status_bytes(key):
    """Return VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {key}")


def reset_peak():
    """Let VmHWM begin again."""
    Path("/proc/self/clear_refs").write_text("5")


def layer_training(case, name):
    """Return the arguments of measure_process for a recurrent layer, warmed up by one step."""
    layer = make_layer(case, **LAYERS[name])
    x, grad = make_input(case).requires_grad_(), make_grad(case)
    wanted = [x, *layer.parameters()]
    return (lambda: layer(x[:1])[0], wanted, grad[:1]), (lambda: layer(x)[0], wanted, grad)


def additive_training(case, name):
    """Return the arguments of measure_process for additive attention, warmed up by one query of a
    row a thread."""

    def training(case):
        tensors = make_tensors(case)
        return lambda: ADDITIVE_FUNCTIONS[name](*tensors), tensors, make_output_grad(case)

    return training(replace(case, B=torch.get_num_threads(), Tq=1)), training(case)


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


def memory_of_child(case, name, threads):
    """Return what measure_process finds in a new process, nothing where that fails."""
    script = str(Path(__file__).resolve())
    command = [sys.executable, script, json.dumps(asdict(case)), name, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"memory of {name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return {}
    return json.loads(done.stdout)


def main():
    """Print the memory of one training call as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("case", type=json.loads, help="a Case or an AdditiveCase, as JSON")
    parser.add_argument("name", choices=LAYERS)
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if "cell" in options.case:
        training = layer_training(Case(**options.case), options.name)
    else:
        training = additive_training(AdditiveCase(**options.case), options.name)
    print(json.dumps(measure_process(*training)))


if __name__ == "__main__":
    main()
