"""What is asked of any argument, whatever the layer: see :mod:`fastcells.checks`."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FLOATING", "can_be_looked_at", "check_flag", "check_kind", "check_mask", "check_rates"]

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

#: Modes of torch's dispatcher under which a tensor stands for its shape, or for a place in a graph.
_MODES_WITHOUT_VALUES = (
    torch._C._TorchDispatchModeKey.FAKE,
    torch._C._TorchDispatchModeKey.PROXY,
    torch._C._TorchDispatchModeKey.FUNCTIONAL,
)


def can_be_looked_at(tensor: Tensor) -> bool:
    """Whether a check may read this tensor's values: those of a plain tensor in the CPU's memory,
    outside every tracer and transform. A GPU would have to be waited for; "meta", fakes and other
    subclasses may hold none; and what a trace reads would become a constant of its graph."""
    if torch.compiler.is_compiling():
        return False
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.is_cpu
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and all(torch._C._get_dispatch_mode(key) is None for key in _MODES_WITHOUT_VALUES)
    )


def check_kind(name: str, what: str, value: object) -> None:
    """A dense tensor, and nothing else."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: {what} must be a Tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_nested:
        kind = "a nested tensor" if value.layout == torch.strided else f"layout {value.layout}"
        raise TypeError(
            f"{name}: {what} must be a dense tensor (layout torch.strided), got {kind}. Convert "
            "it with .to_dense() or to a padded tensor"
        )


def check_flag(name: str, what: str, value: object) -> None:
    """True or False, and nothing that only counts as one of them."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: {what} must be a bool, got {type(value).__name__}")


def check_rates(name: str, rates: Mapping[str, Any]) -> None:
    """Probabilities, by the names of the arguments."""
    for what, rate in rates.items():
        if not isinstance(rate, Real) or isinstance(rate, bool):
            raise TypeError(f"{name}: {what} must be a number, got {type(rate).__name__}")
        if not 0 <= float(rate) <= 1:
            raise ValueError(f"{name}: {what} must lie in 0 .. 1, got {rate}")


def check_mask(
    name: str,
    what: str,
    mask: Any,
    dtype: torch.dtype,
    names: str,
    shape: tuple[int, ...],
    device: torch.device,
) -> None:
    """Kind, dtype, exact shape and device of an argument that goes with the input."""
    check_kind(name, what, mask)
    if mask.dtype != dtype:
        if mask.dtype == torch.bool:
            advice = (
                "Of a mask that is True where a step exists they are mask.sum(-1), of one that is "
                "True at padding (~mask).sum(-1)"
            )
        else:
            advice = f"Convert it with .to({dtype})"
        raise TypeError(f"{name}: {what} must have dtype {dtype}, got {mask.dtype}. {advice}")
    if tuple(mask.shape) != shape:
        raise ValueError(
            f"{name}: {what} must have shape {names} = {shape}, got {tuple(mask.shape)}"
        )
    if mask.device != device:
        raise ValueError(
            f"{name}: {what} must be on {device}, where the input is, got {mask.device}"
        )
