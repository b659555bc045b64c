"""Shapes and dtypes without values: on the meta device, and of fake tensors as tracers have them."""

from contextlib import nullcontext

import cells
import functional
import multihead
import torch
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import attention
import fastcells
import recurrent


def variable(tensor):
    """A leaf where it can be one."""
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


# ---- each topic: a module or None, and a call on tensors or None, and those ----


def layer(case):
    made = getattr(fastcells, case["kind"])(case["I"], case["H"], **case["options"])
    input, hx = recurrent.inputs(case)
    states = [] if hx is None else list(hx) if isinstance(hx, tuple) else [hx]
    generator = torch.Generator().manual_seed(case["seed"])
    lengths = torch.randint(0, case["T"] + 1, (case["B"],), generator=generator)
    lengths = lengths if case["seed"] % 2 else None

    def call(lengths, input, *states):
        hx = (states if len(states) == 2 else states[0]) if states else None
        output, states = made(input, hx, lengths=lengths)
        return [output, *(states if isinstance(states, tuple) else [states])]

    return made.to(case["dtype"]), call, [lengths, input, *states]


def cell(case):
    made, (steps, states) = cells.make(case)[0], cells.inputs(case)

    def call(*tensors):
        return cells.unroll(made, tensors[: len(steps)], tensors[len(steps) :])

    return made, call, [*steps, *states]


def function(case):
    given, weights, _, lengths, resets = functional.make(case)

    def call(lengths, resets, *tensors):
        variables = tensors[: len(given)], tensors[len(given) :]
        return functional.ours(case, *variables, lengths, resets, case["recompute"])

    return None, call, [lengths, resets, *given, *weights]


def attention_of(case):
    tensors, mask, lengths, window, units, _ = attention.make(case)

    def call(mask, lengths, units, *tensors):
        return attention.ours(case, tensors, mask, lengths, window, units)

    return None, call, [mask, lengths, units, *tensors]


def layer_of_attention(case):
    tensors, padding, mask = multihead.make(case)
    generator = torch.Generator().manual_seed(case["seed"])
    lengths = torch.randint(0, case["S"] + 1, (case["B"],), generator=generator)
    made, call_of = multihead.make_hiding(case)

    def call(lengths, padding, mask, *tensors):
        return call_of(tensors, lengths, padding, mask)

    return made, call, [lengths, padding, mask, *tensors]


TOPICS = {
    "layer": (recurrent.layers(), layer), "cell": (cells.cells(), cell),
    "function": (functional.calls(), function), "attention": (attention.calls(), attention_of),
    "layer of attention": (multihead.hiding_calls(), layer_of_attention),
}  # fmt: skip


@st.composite
def calls(draw):
    topic = draw(st.sampled_from([*TOPICS]))
    return {
        "topic": topic, "how": draw(st.sampled_from(["meta", "fake"])),
        "has_grad": draw(st.booleans()), "call": draw(TOPICS[topic][0]),
    }  # fmt: skip


def described(module, call, given, has_grad, with_strides):
    """Shapes, dtypes and devices of results and gradients."""
    with torch.set_grad_enabled(has_grad):
        given = [t if t is None else variable(t) for t in given]
        results = call(*given)
    found = list(results)
    if has_grad:
        leaves = [t for t in given if t is not None and t.requires_grad]
        leaves += [] if module is None else list(module.parameters())
        loss = sum(r.double().sum() for r in results)
        found += torch.autograd.grad(loss, leaves, allow_unused=True)
    return [
        None if t is None else (t.shape, t.dtype, t.stride() if with_strides else None)
        for t in found
    ], {t.device.type for t in found if t is not None}


def without_values_as_with_them(case):
    module, call, given = TOPICS[case["topic"]][1](case["call"])
    is_fake = case["how"] == "fake"
    expected, _ = described(module, call, given, case["has_grad"], is_fake)
    mode = FakeTensorMode(allow_non_fake_inputs=False) if is_fake else nullcontext()

    def without_values(tensor):
        return mode.from_tensor(tensor) if is_fake else tensor.to("meta")

    given = [None if t is None else without_values(t) for t in given]
    if module is not None:
        for owner in module.modules():
            for name, parameter in list(owner.named_parameters(recurse=False)):
                setattr(owner, name, torch.nn.Parameter(without_values(parameter.detach())))
    with mode:
        found, devices = described(module, call, given, case["has_grad"], is_fake)
    assert found == expected, f"{found} where the CPU has {expected}"
    assert devices == {"cpu" if is_fake else "meta"}


TARGETS = {"without values": (calls(), without_values_as_with_them)}
