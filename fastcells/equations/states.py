"""The states of a cell from equations: a tuple to the caller, side by side in c to the ops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks.tensors import check_kind

__all__ = ["check_states", "join", "side_by_side"]


def check_states(name: str, hx: Any, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """hx as a tuple of states: of a cell with states beside h a tuple, else a tensor."""
    if len(names) == 1:
        check_kind(name, "hx", hx)
        return (hx,)
    if not isinstance(hx, tuple | list) or len(hx) != len(names):
        came = type(hx).__name__
        if isinstance(hx, tuple | list):
            came += f" of {len(hx)}"
        raise TypeError(
            f"{name}: hx must be a tuple ({', '.join(names)}) of {len(names)} tensors, got {came}"
        )
    for what, state in zip(names, hx, strict=True):
        check_kind(name, f"hx: {what}", state)
    return tuple(hx)


def join(hx: object, count: int) -> Tensor | tuple[Tensor, Tensor] | None:
    """hx of `count` states with those beside h side by side; None where it is not plainly that."""
    if count == 1:
        return hx if isinstance(hx, Tensor) else None
    if not isinstance(hx, tuple) or len(hx) != count:
        return None
    first = hx[0]
    if not all(isinstance(state, Tensor) and state.shape == first.shape for state in hx):
        return None
    return first, hx[1] if count == 2 else torch.cat(hx[1:], dim=-1)


def side_by_side(states: list[Tensor]) -> Tensor | None:
    if len(states) < 2:
        return states[0] if states else None
    return torch.cat(states, dim=-1)
