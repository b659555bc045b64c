"""ONNX's Scan: a step of any cell over time, with lengths and resets, and the linear scan.

Letters: T steps, B batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Tensors", "arithmetic", "linear_scan", "run_scan", "steps_that_exist"]

Tensors = dict[str, Tensor]


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """What 16-bit tensors are computed in, and others."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def steps_that_exist(input: Tensor, lengths: Tensor | None) -> Tensor | None:
    """`[T, B, 1]` bool, or None where every row has all steps."""
    if lengths is None:
        return None
    steps = torch.arange(input.shape[0], device=input.device)
    return (steps[:, None] < lengths)[:, :, None]


def run_scan(
    step: Callable[[Tensors, Tensors, Tensors], Tensors],
    initial: Tensors,  # [B, ...] each
    sequences: Tensors,  # [T, B, ...] each
    weights: Tensors,
    exists: Tensor | None,  # [T, B, 1]
    resets: Tensor | None,  # [T, B]
    reverse: bool,
) -> tuple[Tensors, Tensors]:
    """The last states of each row, and those of all steps, 0 past its end. `step` takes the states,
    what the sequences hold at a step, and the weights, and gives the next states."""
    sequences = dict(sequences)
    if exists is not None:
        sequences["exists"] = exists
    if resets is not None:
        cuts = resets[:, :, None] if exists is None else resets[:, :, None] & exists
        if reverse:  # a reset at t + 1 parts it from t
            cuts = torch.cat([cuts[1:], torch.zeros_like(cuts[:1])])
        sequences["cut"] = cuts

    def body(*tensors: Tensor) -> list[Tensor]:
        given = iter(tensors)
        states, now, constants = (
            {n: next(given) for n in of} for of in (initial, sequences, weights)
        )
        before = states
        if resets is not None:
            before = {n: torch.where(now["cut"], 0.0, s) for n, s in states.items()}
        after = step(before, now, constants)
        if exists is None:  # the operator wants no tensor twice
            return [s.clone() for s in (*after.values(), *after.values())]
        kept = [torch.where(now["exists"], s, states[n]) for n, s in after.items()]
        return kept + [torch.where(now["exists"], s, 0.0) for s in after.values()]

    # torch's scan() would compile the body first, again for each that is another; and the operator
    # would trace a way back, but for what is detached.
    turned = [s.flip(0) if reverse else s for s in sequences.values()]
    done = torch.ops.higher_order.scan(
        body,
        [s.detach() for s in initial.values()],
        [s.detach() for s in turned],
        tuple(w.detach() for w in weights.values()),
    )
    finals, outputs = done[: len(initial)], done[len(initial) :]
    outputs = [s.flip(0) if reverse else s for s in outputs]
    return dict(zip(initial, finals, strict=True)), dict(zip(initial, outputs, strict=True))


def linear_scan(
    a: Tensor,
    b: Tensor,
    h_0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    batch_first: bool,
    reverse: bool,
    adjoint: bool,
) -> Tensor:
    """As the op of this name."""
    if b.is_complex():
        raise NotImplementedError(
            f"fastcells.onnx: linear_scan of {b.dtype} has no translation: ONNX's operators are "
            "real"
        )
    if adjoint:
        raise NotImplementedError("fastcells.onnx: a scan of the way back has no translation")
    a, x = (t.expand(b.shape).to(arithmetic(b.dtype)) for t in (a, b))
    if batch_first:
        a, x = a.transpose(0, 1), x.transpose(0, 1)
        resets = None if resets is None else resets.t()
    exists = steps_that_exist(x, lengths)
    if exists is not None:  # NaN past a row's end must reach no product
        a, x = torch.where(exists, a, 0.0), torch.where(exists, x, 0.0)
    h = torch.zeros_like(x[0]) if h_0 is None else h_0.to(x.dtype)

    def step(states: Tensors, now: Tensors, _: Tensors) -> Tensors:
        return {"h": now["a"] * states["h"] + now["b"]}

    _, states = run_scan(step, {"h": h}, {"a": a, "b": x}, {}, exists, resets, reverse)
    h = states["h"].transpose(0, 1) if batch_first else states["h"]
    return h.to(b.dtype)
