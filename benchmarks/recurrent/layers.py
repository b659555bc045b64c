"""The torch layer of a case, the input it is called on, and how fastcells takes its place.

Everything is seeded: whoever asks for the layer or the input of a case gets the same numbers.
"""

from dataclasses import replace

import torch
from torch import nn

from benchmarks.experiments import SEED
from benchmarks.summary import TITLES


def make_layer(case, library=nn, **options):
    """Return the layer of `case` from torch.nn or fastcells, with the same weights from both."""
    dtype = getattr(torch, case.dtype)
    sizes = (case.I, case.H, case.layers)
    options["bidirectional"] = case.directions == 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        layer = getattr(library, TITLES[case.cell])(*sizes, **options)
        if library is not nn:
            layer.load_state_dict(make_layer(case_in_float32(case)).state_dict())
    return layer.to(dtype)


def case_in_float32(case):
    """Return `case` in float32: other dtypes are rounded from its weights and input."""
    return replace(case, dtype="float32")


def make_input(case):
    """Return input [T, B, I]."""
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(case.T, case.B, case.I, generator=generator)
    return x.to(getattr(torch, case.dtype))


def make_grad(case):
    """Return what the backward pass starts from, [T, B, D*H], as from a mean over the output."""
    generator = torch.Generator().manual_seed(SEED + 1)
    grad = torch.randn(case.T, case.B, case.directions * case.H, generator=generator)
    return (grad / (case.T * case.B) ** 0.5).to(getattr(torch, case.dtype))


def make_lengths(case):
    """Return lengths [B] uniform in 1..T."""
    generator = torch.Generator().manual_seed(SEED + 2)
    return torch.randint(1, case.T + 1, (case.B,), generator=generator)


def layer_call(layer, x, grad=None, **arguments):
    """Return a call of `layer` on `x`, which may be a PackedSequence, that returns a list of
    tensors: the output; with `grad` also the gradients of the input and of the parameters."""
    if grad is None:
        return lambda: no_grad_call(layer, x, arguments)
    data = x if isinstance(x, torch.Tensor) else x.data
    data = data.detach().requires_grad_()
    x = data if isinstance(x, torch.Tensor) else x._replace(data=data)
    wanted = [data, *layer.parameters()]

    def train():
        output = layer(x, **arguments)[0]
        output = output if isinstance(output, torch.Tensor) else output.data
        return [output, *torch.autograd.grad(output, wanted, grad)]

    return train


def no_grad_call(layer, x, arguments):
    """Return [output] of the layer, a tensor also where x is a PackedSequence."""
    with torch.no_grad():
        output = layer(x, **arguments)[0]
    return [output if isinstance(output, torch.Tensor) else output.data]
