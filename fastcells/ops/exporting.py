"""Calls of the ops, and what torch.onnx.export meets in their place: see :mod:`fastcells.onnx`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["TRANSLATIONS", "call", "is_onnx_export"]

#: {op: what takes its arguments and gives its results in operators that ONNX has}.
TRANSLATIONS: dict[str, Callable[..., Any]] = {}


@torch.compiler.assume_constant_result
def _is_in_onnx_export() -> bool:
    """torch's own, which torch.compile takes for False: the exporter's second attempt, by that
    tracer, would hide what was wrong with the first."""
    return torch.onnx.is_in_onnx_export()


def is_onnx_export() -> bool:
    """Whether torch.onnx.export traces."""
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return is_traced and _is_in_onnx_export()


def call(op: str, *arguments: object) -> Any:
    """`torch.ops.fastcells.<op>`, or its translation."""
    if not is_onnx_export():
        return getattr(torch.ops.fastcells, op)(*arguments)
    if torch.jit.is_tracing():
        raise NotImplementedError(
            "torch.onnx.export with dynamo=False cannot write fastcells' layers. Leave dynamo at "
            "its default, True"
        )
    return TRANSLATIONS[op](*arguments)
