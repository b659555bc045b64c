"""Random calls of every layer and function without values: shapes and dtypes of those with them."""

import copy

import cells
import functional
import multihead
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import attention
import recurrent
from without_values import FAKES, Call, described, mapped


def as_pair(states):
    return (tuple(states) if len(states) == 2 else states[0]) if states else None


def layer_call(case):
    """With lengths, with resets, with both, or of a PackedSequence."""
    module, input, hx = recurrent.make(case)[0], *recurrent.inputs(case)
    generator = torch.Generator().manual_seed(case["seed"])
    lengths = torch.randint(1, case["T"] + 1, (case["B"],), generator=generator)
    resets = torch.rand(input.shape[:2], generator=generator) < 0.3
    module.dropout = 0.5 * (case["seed"] % 2)
    if case["how"] == "packed":
        first = case["options"]["batch_first"]
        input = pack_padded_sequence(input, lengths, first, enforce_sorted=False)
    options = {"lengths": lengths, "resets": resets}
    return Call(module, (input, hx), {k: v for k, v in options.items() if k in case["how"]})


def cell_call(case):
    steps, states = cells.inputs(case)
    return Call(cells.make(case)[0], (steps[0], as_pair(states)))


def function_call(case):
    given, weights, _, lengths, resets = functional.make(case)

    def run(given, weights, lengths, resets):
        return functional.ours(case, given, weights, lengths, resets, case["recompute"])

    return Call(run, (given, weights, lengths, resets))


def attention_call(case):
    tensors, mask, lengths, window, units, _ = attention.make(case)

    def run(tensors, mask, lengths, units):
        return attention.ours(case, tensors, mask, lengths, window, units)

    return Call(run, (tensors, mask, lengths, units))


def attention_layer_call(case):
    module, _ = multihead.make_hiding(case)
    tensors, padding, mask = multihead.make(case)
    generator = torch.Generator().manual_seed(case["seed"])
    lengths = torch.randint(0, case["S"] + 1, (case["B"],), generator=generator)
    module.dropout = 0.5 * (case["seed"] % 2)
    if case["layer"] == "self":
        return Call(module, (tensors[1], lengths), {"need_weights": case["weights"]})
    options = {"attn_mask": mask, "key_lengths": lengths, "need_weights": case["weights"]}
    if case["layer"] == "additive":
        fits = mask is None or (mask.dim() == 2 and mask.dtype in (torch.bool, case["dtype"]))
        return Call(module, tuple(tensors), options | ({} if fits else {"attn_mask": None}))
    hint = case["hint"] and mask is not None
    return Call(
        module, tuple(tensors),
        options | {"key_padding_mask": padding, "is_causal": hint,
                   "average_attn_weights": case["average"]},
    )  # fmt: skip


@st.composite
def layers(draw):
    how = st.sampled_from(["", "lengths", "resets", "lengths resets", "packed"])
    return draw(recurrent.layers()) | {"how": draw(how)}


CALLS = {
    "layer": (layers(), layer_call),
    "cell": (cells.cells(), cell_call),
    "function": (functional.calls(), function_call),
    "attention": (attention.calls(), attention_call),
    "attention layer": (multihead.hiding_calls(), attention_layer_call),
}


@st.composite
def calls(draw):
    topic = draw(st.sampled_from([*CALLS]))
    return {"topic": topic, "case": draw(CALLS[topic][0]), "way": draw(st.sampled_from([*FAKES]))}


def gradients_described(call, device):
    """Shapes and dtypes of the results, and of the gradients of all that has one."""
    is_layer = isinstance(call.run, nn.Module)
    run = copy.deepcopy(call.run).to(device) if is_layer else call.run
    leaves = []

    def moved(tensor):
        tensor = tensor.detach().to(device)
        if tensor.is_floating_point():
            leaves.append(tensor.requires_grad_())
        return tensor

    arguments, options = mapped((call.arguments, call.options), moved)
    results, found = run(*arguments, **options), []
    mapped(results, lambda t: found.append(t) or t)
    leaves += run.parameters() if is_layer else []
    loss = sum(t.double().sum() for t in found if t.requires_grad)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return described(results), [None if g is None else described(g) for g in grads]


def calls_without_values_have_the_same_shapes(given):
    torch.set_num_threads(given["case"]["threads"])
    call = CALLS[given["topic"]][1](given["case"])
    expected, grads = gradients_described(call, "cpu")
    assert gradients_described(call, "meta") == (expected, grads)
    with torch.no_grad():
        assert described(call.run(*call.arguments, **call.options)) == expected
        is_packed = isinstance(call.arguments[0], PackedSequence)
        way = "meta" if is_packed else given["way"]  # the sizes of a pack are values
        assert described(FAKES[way](call)) == expected


TARGETS = {"without values": (calls(), calls_without_values_have_the_same_shapes)}
