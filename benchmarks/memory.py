"""How much memory a layer holds between forward and backward, counted in two ways.

`held_bytes` adds up what autograd was given to keep. `memory_of_child` measures a process of its
own, in which what autograd does not know of counts too.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

import fastcells
from cases import square
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


def measure_process(case, name):
    """Return how much this process grew by a forward pass, and at most until after a backward."""
    layer = make_layer(case, **LAYERS[name])
    x, grad = make_input(case).requires_grad_(), make_grad(case)
    wanted = [x, *layer.parameters()]
    output = layer(x[:1])[0]  # starts the threads, loads the code
    torch.autograd.grad(output, wanted, grad[:1])
    reset_peak()
    before = status_bytes("VmRSS")
    output = layer(x)[0]
    after = status_bytes("VmRSS")
    torch.autograd.grad(output, wanted, grad)
    return {"growth": after - before, "peak": status_bytes("VmHWM") - before}


def memory_of_child(case, name, threads):
    """Return what measure_process finds in a new process, nothing where that fails."""
    command = [sys.executable, str(Path(__file__).resolve()), case.cell, name]
    command += [str(number) for number in (case.B, case.H, case.T, threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"memory of {name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return {}
    return json.loads(done.stdout)


def main():
    """Print the memory of one training call as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("cell")
    parser.add_argument("name", choices=LAYERS)
    parser.add_argument("sizes", type=int, nargs=4, metavar="N", help="B H T threads")
    options = parser.parse_args()
    B, H, T, threads = options.sizes
    torch.set_num_threads(threads)
    print(json.dumps(measure_process(square(options.cell, B, H, T=T), options.name)))


if __name__ == "__main__":
    main()
