"""What the ops of every topic share: which devices have kernels, dtypes, and two checks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._extension import _C

__all__ = ["KERNEL_DEVICES", "arithmetic_dtype", "check_device", "check_dtype", "has_kernels"]

#: Device types that have kernels in this build; a fake stands in for them on "meta".
KERNEL_DEVICES: tuple[str, ...] = (
    ()
    if _C is None
    else ("cpu", "meta")
    if _C.build_info()["cuda"] is None
    else ("cpu", "meta", "cuda")
)


def has_kernels(device: torch.device) -> bool:
    """Whether this build brings kernels for `device`."""
    return device.type in KERNEL_DEVICES


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_device(op: str, input: Tensor, **others: Tensor | Sequence[Tensor] | None) -> None:
    """A mix with "meta" meets the fake in the place of a kernel: refuse it as a kernel would."""
    for name, given in others.items():
        for tensor in given if isinstance(given, list | tuple) else (given,):
            if tensor is not None and tensor.device != input.device:
                raise RuntimeError(
                    f"fastcells::{op}: {name} must be on {input.device}, where the input is, got "
                    f"{tensor.device}"
                )


def check_dtype(op: str, dtype: torch.dtype, **tensors: Tensor | None) -> None:
    """As a kernel would: a fake has no values to be wrong, and fastcells.reference would cast them,
    which takes the imaginary part from a complex one."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype != dtype:
            raise TypeError(
                f"fastcells::{op}: {name} must have dtype {dtype}, got {tensor.dtype}. Convert it "
                f"with .to({dtype})"
            )
