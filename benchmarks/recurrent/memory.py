"""How much memory training a layer holds between forward and backward, counted in two ways.

`held_bytes` adds up what autograd was given to keep. `memory_of_child` measures a process of its
own, in which what autograd does not know of counts too.
"""

import torch

import fastcells
from benchmarks.memory import measure_in_child, print_memory
from benchmarks.recurrent.cases import Case
from benchmarks.recurrent.layers import make_grad, make_input, make_layer

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


def layer_training(case, name):
    """Return the arguments of measure_process for a layer, warmed up by one step."""
    layer = make_layer(case, **LAYERS[name])
    x, grad = make_input(case).requires_grad_(), make_grad(case)
    wanted = [x, *layer.parameters()]
    return (lambda: layer(x[:1])[0], wanted, grad[:1]), (lambda: layer(x)[0], wanted, grad)


def memory_of_child(case, name, threads):
    """Return {"growth": bytes, "peak": bytes} of a layer's training in a new process."""
    return measure_in_child(__name__, case, name, threads)


if __name__ == "__main__":
    print_memory(layer_training, Case, LAYERS)
