"""Random calls outside autocast with one tensor of another dtype: refused, or right.

What is computed is near the same call in float64 of the same (rounded) values, and of the dtypes
that torch's results have, where torch computes it, too. A complex tensor, which no layer has a use
for, is always refused: what is real in it is not the answer.
"""

import copy

import cells
import functional
import multihead
import torch
from comparing import FLOORS
from hypothesis import assume
from hypothesis import strategies as st
from shapes import as_pair
from torch import nn
from torch.nn import functional as F

import attention
import fastcells
import recurrent

OTHERS = [*FLOORS, torch.complex64, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn]
REFUSALS = (TypeError, ValueError, RuntimeError, AssertionError)


def set_parameter(module, path, value):
    owner, _, name = path.rpartition(".")
    has_grad = value.is_floating_point() or value.is_complex()
    setattr(module.get_submodule(owner), name, nn.Parameter(value, has_grad))


def with_parameters(module, tensors):
    """A copy with the tensors that have the names of its parameters."""
    module = copy.deepcopy(module)
    for name, _ in [*module.named_parameters()]:
        set_parameter(module, name, tensors[name])
    return module


def of_modules(ours, theirs, tensors, call):
    """A call as the topics below have it: tensors by name, and two ways to compute with them."""
    named = {name: p.detach() for name, p in ours.named_parameters()} | tensors
    return (
        named,
        lambda tensors: call(with_parameters(ours, tensors), tensors),
        lambda tensors: call(with_parameters(theirs, tensors), tensors),
    )


def layer_problem(case):
    input, hx = recurrent.inputs(case)
    states = {} if hx is None else dict(zip("hc", hx if isinstance(hx, tuple) else [hx],
                                            strict=False))  # fmt: skip

    def call(module, tensors):
        return module(tensors["input"], as_pair([tensors[name] for name in states]))

    return of_modules(*recurrent.make(case)[:2], {"input": input, **states}, call)


def cell_problem(case):
    steps, given = cells.inputs(case)
    states = dict(zip("hc", given, strict=False))

    def call(module, tensors):
        return module(tensors["input"], as_pair([tensors[name] for name in states]))

    return of_modules(*cells.make(case)[:2], {"input": steps[0], **states}, call)


def multihead_problem(case):
    tensors, padding, mask = multihead.make(case)
    named = dict(zip(["query", "key", "value"], tensors, strict=False))
    if mask is not None and mask.is_floating_point():
        named["attn_mask"], padding = mask, None  # torch asks for two masks of one dtype

    def call(module, tensors):
        given = [tensors[name] for name in named if name != "attn_mask"]
        return module(
            *(given * 3)[:3], padding, attn_mask=tensors.get("attn_mask", mask),
            need_weights=case["weights"], average_attn_weights=case["average"],
        )  # fmt: skip

    modules = (multihead.make_module(case, ns) for ns in (fastcells, nn))
    return of_modules(*modules, named, call)


def function_problem(case):
    """Beside the reference, which is called as it is in float64 alone."""
    given, weights, names, lengths, resets = functional.make(case)
    named = {f"given {i}": t for i, t in enumerate(given)}
    named |= {f"weight {i}": w for i, w in enumerate(weights)}

    def split(tensors):
        tensors = list(tensors.values())
        return tensors[: len(given)], tensors[len(given) :]

    def ours(tensors):
        return functional.ours(case, *split(tensors), lengths, resets, case["recompute"])

    return named, ours, lambda t: functional.plain(case, *split(t), names, lengths, resets)


def attention_problem(case):
    tensors, mask, lengths, window, units, seen = attention.make(case)
    named = dict(zip(["query", "key", "value"], tensors, strict=True))
    named |= {} if units is None else {"units": units}
    if mask is not None and mask.is_floating_point():
        named["mask"] = mask

    def ours(t):
        given = [t[name] for name in ("query", "key", "value")]
        return attention.ours(case, given, t.get("mask", mask), lengths, window, t.get("units"))

    def plain(t):
        given = [t[name] for name in ("query", "key", "value")]
        return attention.plain(case, given, t.get("mask", mask), t.get("units"), seen)

    return named, ours, plain


def dot_problem(case):
    """torch's function, with what it has."""
    tensors, mask, *_ = attention.make(case | {"score": "dot"})
    named = dict(zip(["query", "key", "value"], tensors, strict=True))
    mask = mask if mask is None or mask.is_floating_point() else None
    named |= {} if mask is None else {"mask": mask.masked_fill(mask == -torch.inf, -3.0)}

    def call(function):
        return lambda t: function(*[*t.values(), None][:4], enable_gqa=True)

    return named, *map(call, (fastcells.scaled_dot_product_attention,
                              F.scaled_dot_product_attention))  # fmt: skip


#: Strategy, problem, and whether its second way is torch's own, of torch's dtypes.
PROBLEMS = {
    "layer": (recurrent.layers(), layer_problem, True),
    "cell": (cells.cells(), cell_problem, True),
    "multihead": (multihead.calls(), multihead_problem, True),
    "dot": (attention.calls().filter(lambda c: c["mask"] != "low"), dot_problem, True),
    "function": (functional.calls(), function_problem, False),
    "attention": (attention.calls().filter(lambda c: c["mask"] != "low"), attention_problem, False),
}


@st.composite
def calls(draw):
    topic = draw(st.sampled_from([*PROBLEMS]))
    return {
        "topic": topic, "case": draw(PROBLEMS[topic][0]), "place": draw(st.integers(0, 2**10)),
        "other": draw(st.sampled_from(OTHERS)), "grad": draw(st.booleans()),
    }  # fmt: skip


def flat(results):
    if isinstance(results, torch.Tensor):
        return [results.detach()]
    return [t for result in results or () for t in flat(result)]


def outcome(call, tensors):
    """Results, or the error that took their place."""
    try:
        return flat(call(tensors))
    except REFUSALS as error:
        return error


def converted(tensor, dtype):
    """Of the size of 1 to 3, so that integers are not all 0; complex ones have both parts."""
    if dtype.is_complex:
        return torch.complex(tensor.float(), torch.ones_like(tensor, dtype=torch.float32))
    is_integer = not dtype.is_floating_point and dtype != torch.bool
    return (3 * tensor.abs()).to(dtype) if is_integer else tensor.to(dtype)


def another_dtype_is_refused_or_right(given):
    case, other = given["case"], given["other"]
    torch.set_num_threads(case["threads"])
    _, make, is_torchs = PROBLEMS[given["topic"]]
    tensors, ours, theirs = make(case)
    name = [*tensors][given["place"] % len(tensors)]
    assume(other != torch.bool or "mask" not in name)  # which has another meaning
    tensors[name] = converted(tensors[name], other)
    with torch.set_grad_enabled(given["grad"]):
        found = outcome(ours, tensors)
        peers = outcome(theirs, tensors) if is_torchs else None
    if isinstance(found, Exception):
        assert str(found), f"{type(found).__name__} of {name} in {other} says nothing"
        assert other != case["dtype"] or isinstance(peers, Exception), f"{name}: {found}"
        return
    assert not other.is_complex, f"the imaginary part of {name} is gone"
    with torch.no_grad():
        exact = flat(theirs({n: t.double() for n, t in tensors.items()}))
    floor = 4 * max(FLOORS[d] for d in (case["dtype"], other) if d in FLOORS)
    for a, right in zip(found, exact, strict=True):
        size = max(1.0, right.nan_to_num().abs().max().item()) if right.numel() else 1.0
        close = (a.double() - right).abs() <= floor * size
        assert (close | right.isnan()).all(), f"{name} in {other} gives another result"
    if is_torchs and not isinstance(peers, Exception):
        assert [t.dtype for t in found] == [t.dtype for t in peers], f"{name} in {other}"


TARGETS = {"mixed dtypes": (calls(), another_dtype_is_refused_or_right)}
