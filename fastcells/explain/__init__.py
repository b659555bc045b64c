"""Which implementation runs a call, and why: no fallback is silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .attention import describe_attention, is_attention
from .recurrent import Explanation, explain_recurrent
from .scan import describe_scan, is_scan

__all__ = ["Explanation", "explain"]


def explain(layer: nn.Module | Callable[..., Any], *arguments: Any, **options: Any) -> Explanation:
    """Says which kernel `layer(*arguments, **options)` runs, and why.

    Args:
        layer: a layer or cell of fastcells, one of its functions of attention, or linear_scan.
        arguments, options: as for the call; of a recurrent layer input, hx, lengths and resets.
            Nothing is computed.

    Returns:
        What has the attributes `kernel`, `cell`, `dtype`, `reason`, `notes` and `plan`; print it.

    Raises:
        TypeError: layer is not one of fastcells'.

    Example:
        >>> told = fastcells.explain(fastcells.LSTM(16, 32), torch.randn(5, 3, 16))
        >>> told.cell
        'lstm'
    """
    if is_attention(layer):
        kernel, name, dtype, reason, notes = describe_attention(layer, arguments, options)
        return Explanation(kernel, name, dtype, reason, notes)
    if is_scan(layer):
        kernel, name, dtype, reason, notes = describe_scan(arguments, options)
        return Explanation(kernel, name, dtype, reason, notes)
    return explain_recurrent(layer, *arguments, **options)
