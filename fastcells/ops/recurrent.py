"""The recurrent ops: fakes for the tracer, and typed calls of `torch.ops.fastcells`.

Shapes, dtypes and ownership: csrc/ops.h. Fakes are in Python because sizes may be symbolic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .._extension import _C, is_compiled
from .devices import arithmetic_dtype, check_device, check_dtype, has_kernels
from .exporting import call

__all__ = [
    "ModuleLayers",
    "check_layer",
    "freeze_weights",
    "has_kernels",
    "is_frozen",
    "packed_stack_at_once",
    "recurrent_backward",
    "recurrent_forward",
    "recurrent_step",
    "stack_at_once",
    "step_at_once",
    "trust_weights",
]

#: What tensors are stored in.
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

#: What matrices may be stored in beside float32 tensors, for inference.
NARROW_DTYPES = (torch.int8, torch.bfloat16)

#: {cell: {"gates", "states", "saved", "is_elementwise"}} as the kernels describe them.
CELL_FACTS: dict[str, dict[str, int]] = {} if _C is None else _C.cells()


def recurrent_forward(
    cell: str,
    directions: int,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    names: str,  # of the weights of one direction: "weight_ih weight_hh", ...
    lengths: Tensor | None,
    resets: Tensor | None,
    keep: str,  # "nothing", "cells", "states" or "everything"
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """output, h_n, c_n, cells, saved; what is absent has shape `(0,)`."""
    return call(
        "recurrent_forward", cell, directions, input, h_0, c_0, weights, names, lengths, resets,
        keep,
    )  # fmt: skip


def recurrent_backward(
    cell: str,
    directions: int,
    grads: Sequence[Tensor | None],  # of output, h_n, c_n, cells
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    names: str,  # of the weights of one direction: "weight_ih weight_hh", ...
    lengths: Tensor | None,
    resets: Tensor | None,
    kept: Sequence[Tensor],  # output, cells, saved; saved absent: it is computed again
    needs: Sequence[bool],  # input, h_0, c_0, each weight
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """grad_input, grad_h_0, grad_c_0, grad_weights; what is not needed has shape `(0,)`."""
    return torch.ops.fastcells.recurrent_backward(
        cell, directions, *grads, input, h_0, c_0, weights, names, lengths, resets, *kept, needs
    )


def recurrent_step(
    cell: str,
    input: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    weights: Sequence[Tensor],
    names: str,
) -> tuple[Tensor, Tensor]:
    """h', c' of one step without gradients; c' of shape `(0,)` for a cell without c."""
    return call("recurrent_step", cell, input, h, c, weights, names)


def step_at_once(
    cell: str,
    input: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    parameters: dict[str, Tensor | None],
) -> Tensor | tuple[Tensor, Tensor] | None:
    """h' (and c') of a cell module, past torch's dispatcher, which costs more than a small step;
    where a derivative may be asked for, recorded by a node of C++. None where only the way through
    Python can tell: something watches (a mode, a tracer, a transform, autocast, a profiler), a
    tensor is not plain memory of a CPU, or tensors do not fit together."""
    return None if _C is None else _C.step_at_once(cell, input, h, c, parameters)


def freeze_weights(cell: str, weight: Tensor, bias: Tensor | None, is_frozen: bool) -> None:
    """The user's word on the memory of a weight of gates and of its bias: :func:`fastcells.freeze`.
    Packs them, or takes the word back."""
    if _C is not None:
        _C.freeze(weight, bias, cell if cell in CELL_FACTS else "", is_frozen)


def trust_weights(weights: Sequence[Tensor]) -> None:
    """As `freeze_weights`, of weights that no one but their module writes to; packed at a call."""
    if _C is not None:
        for weight in weights:
            if weight.device.type == "cpu":
                _C.freeze(weight, None, "", True)


def is_frozen(weight: Tensor) -> bool:
    """Whether the user gave the word on this weight."""
    return _C is not None and _C.is_frozen(weight)


class ModuleLayers(NamedTuple):
    """What a module brings to a call of all its layers."""

    cell: str
    directions: int
    parameters: dict[str, Tensor | None]
    names: list[list[str]]  # of each layer and direction
    flat_weights: list[Tensor]
    dropout: float
    recompute: bool


def stack_at_once(
    module: ModuleLayers,
    is_batch_first: bool,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """output, h_n and c_n of all layers of a module, as :func:`step_at_once`; None, too, where
    `flat_weights` are not the named parameters."""
    if _C is None:
        return None
    return _C.stack_at_once(*module, is_batch_first, input, h_0, c_0, lengths, resets)


def packed_stack_at_once(
    module: ModuleLayers, packed: PackedSequence, h_0: Tensor | None, c_0: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """The same of a PackedSequence: its new data, h_n and c_n."""
    return None if _C is None else _C.packed_stack_at_once(*module, *packed, h_0, c_0)


def check_layer(
    op: str,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    names: str,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> None:
    """Devices and dtypes as the op's kernels want them, for what takes a kernel's place."""
    named = names.split()
    of_device = [w for i, w in enumerate(weights) if named[i % len(named)] != "noise"]
    check_device(op, input, h_0=h_0, c_0=c_0, weight=of_device, lengths=lengths, resets=resets)
    if input.dtype not in DTYPES:
        raise TypeError(
            f"fastcells::{op}: dtype {input.dtype} is not supported (float32, float64, float16, "
            "bfloat16)"
        )
    check_dtype(op, input.dtype, h_0=h_0, c_0=c_0)
    for index, weight in enumerate(weights):
        name = named[index % len(named)]
        if name == "noise":
            check_dtype(op, torch.float64, noise=weight)
            continue
        is_matrix = name.startswith("weight") and input.dtype == torch.float32
        if not (is_matrix and weight.dtype in NARROW_DTYPES):
            check_dtype(op, input.dtype, **{name: weight})
    check_dtype(op, torch.int64, lengths=lengths)
    check_dtype(op, torch.bool, resets=resets)


#: Weights of what is normalised of W x and W h.
_NORMS = {"norm_ih", "norm_hh", "norm_gates"}


def _states_beside_h(cell: str) -> int:
    """N: those that stand side by side in c."""
    return CELL_FACTS[cell]["states"] - 1


def _widths(cell: str, weights: Sequence[Tensor], names: str) -> tuple[int, int, int]:
    """H, P and the saved values a unit."""
    facts, named = CELL_FACTS[cell], dict(zip(names.split(), weights, strict=False))
    hidden = named["weight_ih"].shape[0] // facts["gates"]
    width = hidden if facts["is_elementwise"] else named["weight_hh"].shape[1]
    if not _NORMS.isdisjoint(named):  # the products as they come
        return hidden, width, facts["gates"] * (1 if "norm_gates" in named else 2)
    return hidden, width, facts["saved"] + int("weight_hr" in named)


def _fake_forward(cell, directions, input, h_0, c_0, weights, names, lengths, resets, keep):
    check_layer("recurrent_forward", input, h_0, c_0, weights, names, lengths, resets)
    steps, batch, _ = input.shape
    hidden, width, saved = _widths(cell, weights, names)
    count = _states_beside_h(cell)
    is_normalised = not _NORMS.isdisjoint(names.split())
    kept = arithmetic_dtype(input.dtype) if is_normalised else input.dtype
    cells = input.new_empty(0)
    if count and keep != "nothing":
        shape = (steps, batch, directions * count * hidden)
        cells = input.new_empty(shape, dtype=arithmetic_dtype(input.dtype))
    return (
        input.new_empty(steps, batch, directions * width),
        input.new_empty(directions, batch, width),
        input.new_empty(directions, batch, count * hidden) if count else input.new_empty(0),
        cells,
        input.new_empty((directions, steps, batch, saved * hidden), dtype=kept)
        if keep == "everything"
        else input.new_empty(0),
    )


def _fake_backward(
    cell,
    directions,
    grad_output,
    grad_h_n,
    grad_c_n,
    grad_cells,
    input,
    h_0,
    c_0,
    weights,
    names,
    lengths,
    resets,
    output,
    cells,
    saved,
    needs,
):
    check_device(
        "recurrent_backward", input, h_0=h_0, c_0=c_0, weight=weights, lengths=lengths,
        resets=resets, output=output, cells=cells, saved=saved,
    )  # fmt: skip
    batch = input.shape[1]
    hidden, width, _ = _widths(cell, weights, names)
    count = _states_beside_h(cell)

    def grad(needed, *shape):
        return input.new_empty(shape if needed else (0,))

    return (
        grad(needs[0], *input.shape),
        grad(needs[1], directions, batch, width),
        grad(count and needs[2], directions, batch, count * hidden),
        [grad(needed, *w.shape) for needed, w in zip(needs[3:], weights, strict=True)],
    )


def _fake_step(cell, input, h, c, weights, names):
    check_layer("recurrent_step", input, h, c, weights, names)
    batch = input.shape[0]
    hidden, width, _ = _widths(cell, weights, names)
    count = _states_beside_h(cell)
    return input.new_empty(batch, width), (
        input.new_empty(batch, count * hidden) if count else input.new_empty(0)
    )


if is_compiled():
    torch.library.register_fake("fastcells::recurrent_forward", _fake_forward)
    torch.library.register_fake("fastcells::recurrent_backward", _fake_backward)
    torch.library.register_fake("fastcells::recurrent_step", _fake_step)
