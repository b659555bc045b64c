"""ONNX: what `torch.onnx.export` writes in the place of fastcells' ops.

RNN, LSTM and GRU become the operators of these names, other cells and the linear scan a Scan,
attention products and a softmax: docs/onnx.md. Nothing has to be called for that. While
torch.onnx.export traces a module, the ops' translations stand in their place; they are torch
operations and `torch.onnx.ops.symbolic_multi_out`. Needs the packages onnx and onnxscript, which
torch.onnx.export asks for.

Example:
    >>> model = fastcells.LSTM(8, 16).eval()
    >>> program = torch.onnx.export(model, (torch.randn(5, 2, 8),), verbose=False)
    >>> [node.op_type for node in program.model.graph if node.op_type == "LSTM"]
    ['LSTM']
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._extension import is_compiled
from ..ops.exporting import TRANSLATIONS
from . import attention, recurrent, scan

__all__ = ["decompositions"]

TRANSLATIONS.update(
    recurrent_forward=recurrent.recurrent_forward,
    recurrent_step=recurrent.recurrent_step,
    attention_forward=attention.attention_forward,
    additive_attention_forward=attention.additive_attention_forward,
    linear_scan=scan.linear_scan,
)


def decompositions() -> dict[torch._ops.OpOverload, Callable[..., Any]]:
    """The translations as `torch.export.ExportedProgram.run_decompositions` takes them.

    For a program that torch.export made, in which fastcells' ops stand as they are:
    `torch.onnx.export(program.run_decompositions(fastcells.onnx.decompositions()))`. Empty where
    fastcells is not compiled: no program has its ops there.

    Example:
        >>> program = torch.export.export(fastcells.GRU(8, 16).eval(), (torch.randn(5, 2, 8),))
        >>> program = program.run_decompositions(fastcells.onnx.decompositions())
    """
    if not is_compiled():
        return {}
    return {getattr(torch.ops.fastcells, op).default: do for op, do in TRANSLATIONS.items()}
