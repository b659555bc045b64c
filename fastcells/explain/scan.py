"""What :func:`fastcells.explain` says of linear_scan."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ..functional import linear_scan
from ..functional.routing import choose_scan_route

__all__ = ["describe_scan", "is_scan"]


def is_scan(target: object) -> bool:
    return target is linear_scan


def describe_scan(
    arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[str, str, torch.dtype, str, tuple[str, ...]]:
    """Kernel, name, dtype, reason and notes of `linear_scan(*arguments, **options)`."""
    given = inspect.signature(linear_scan).bind(*arguments, **options).arguments
    tensors = [x for x in (given["a"], given["b"], given.get("h_0")) if isinstance(x, Tensor)]
    if not tensors:
        raise TypeError("explain: a call of linear_scan needs its tensors")
    dtype, device = tensors[0].dtype, tensors[0].device.type
    if torch._C._is_any_autocast_enabled():
        for tensor in tensors:
            dtype = torch.promote_types(dtype, tensor.dtype)
    route = choose_scan_route(tensors)
    if not route.is_kernel:
        steps = ("plain torch operations, step by step",)
        return "reference", "linear scan", dtype, route.reason, steps
    notes = ["all steps in one pass over memory, lanes side by side; in chunks of time where lanes "
             "are fewer than threads"]  # fmt: skip
    if dtype.itemsize == 2:
        notes.append("states in float32, each rounded once")
    if given.get("lengths") is not None:
        notes.append("steps past a row's end are not read")
    if isinstance(given["a"], Tensor) and given["a"].numel() < given["b"].numel():
        notes.append("the factor is read as it is, not expanded")
    return f"{device} scan", "linear scan", dtype, route.reason, tuple(notes)
