"""The same call where no value can be read: on "meta", of fakes, of a subclass, under tracers."""

import copy
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree


class Call(NamedTuple):
    """A layer or a function, and what it is called with."""

    run: Any
    arguments: tuple
    options: dict = {}  # noqa: RUF012 (nobody writes to it)


def mapped(value, change):
    """A nested argument or result with its tensors changed; batch_sizes stay on the CPU."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, PackedSequence):
        data, sizes, *orders = value
        return PackedSequence(change(data), sizes, *(mapped(order, change) for order in orders))
    if isinstance(value, tuple | list):
        return type(value)(mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    return value


def described(value):
    """Shape and dtype of every tensor of a result."""
    found = []
    mapped(value, lambda tensor: found.append((tuple(tensor.shape), tensor.dtype)) or tensor)
    return found


def with_changed_tensors(call, change, within=None):
    """The call with every tensor changed, those of a layer, too."""
    arguments, options = mapped((call.arguments, call.options), change)
    is_layer = isinstance(call.run, nn.Module)
    named = {n: change(p.detach()) for n, p in call.run.named_parameters()} if is_layer else {}
    with within or nullcontext():
        if is_layer:
            return functional_call(call.run, named, arguments, options)
        return call.run(*arguments, **options)


def on_meta(call):
    is_layer = isinstance(call.run, nn.Module)
    run = copy.deepcopy(call.run).to("meta") if is_layer else call.run
    arguments, options = mapped((call.arguments, call.options), lambda t: t.to("meta"))
    results = run(*arguments, **options)
    mapped(results, lambda t: pytest.fail("a result has values") if not t.is_meta else t)
    return results


def of_fakes(call):
    """Outside their mode, which enters itself."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    return with_changed_tensors(call, mode.from_tensor)


def in_fake_mode(call):
    mode = FakeTensorMode()
    return with_changed_tensors(call, mode.from_tensor, within=mode)


class Wrapped(Tensor):
    """A tensor that is kept elsewhere: its own memory has none."""

    @staticmethod
    def __new__(cls, tensor):
        return Tensor._make_wrapper_subclass(
            cls, tensor.shape, strides=tensor.stride(), dtype=tensor.dtype
        )

    def __init__(self, tensor):
        self.kept = tensor

    @classmethod
    def __torch_dispatch__(cls, op, types, arguments=(), options=None):
        def unwrapped(tensor):
            return tensor.kept if isinstance(tensor, Wrapped) else tensor

        if op in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
            raise AssertionError("a value was read")
        found = op(*mapped(arguments, unwrapped), **mapped(options or {}, unwrapped))
        return mapped(found, Wrapped)


def of_a_subclass(call):
    return with_changed_tensors(call, Wrapped)


def traced(call, how):
    """make_fx of all that is given."""
    leaves, spec = pytree.tree_flatten((call.arguments, call.options))

    def run(*leaves):
        arguments, options = pytree.tree_unflatten(list(leaves), spec)
        return call.run(*arguments, **options)

    return make_fx(run, tracing_mode=how, _allow_non_fake_inputs=True)(*leaves)(*leaves)


def compiled(call):
    torch._dynamo.reset()
    run = torch.compile(lambda *a, **k: call.run(*a, **k), backend="aot_eager", fullgraph=True)
    return run(*call.arguments, **call.options)


class Module(nn.Module):
    """A call as torch.export wants it."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, *arguments, **options):
        return self.run(*arguments, **options)


def exported(call):
    program = torch.export.export(Module(call.run), call.arguments, call.options, strict=False)
    return program.module()(*call.arguments, **call.options)


FAKES = {
    "meta": on_meta,
    "fakes": of_fakes,
    "fake_mode": in_fake_mode,
    "subclass": of_a_subclass,
}
TRACERS = {
    "make_fx": lambda call: traced(call, "real"),
    "make_fx_symbolic": lambda call: traced(call, "symbolic"),
    "compile": compiled,
    "export": exported,
}


def parametrize(ways):
    return pytest.mark.parametrize("way", ways.values(), ids=ways.keys())
