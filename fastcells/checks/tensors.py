"""What is asked of any argument, whatever the layer: see :mod:`fastcells.checks`."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FLOATING", "check_flag", "check_kind", "check_mask"]

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


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


def check_mask(
    name: str,
    what: str,
    mask: object,
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
