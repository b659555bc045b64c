"""Which implementation runs a call, and why: no fallback is silent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .functional.autocast import autocast_dtypes
from .functional.recurrent import choose_route

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """The answer of :func:`explain`; `str()` gives it in a few lines."""

    kernel: str  # "cpu stepwise", "cuda stepwise" or "reference"
    cell: str
    dtype: torch.dtype  # storage of the tensors, after autocast
    reason: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.cell}, {self.dtype}: {self.kernel}", f"  why: {self.reason}"]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


_STEPWISE = (
    "input product for all steps at once, then a matrix product and a fused step kernel per step"
)


def explain(
    layer: nn.Module,
    input: Tensor | PackedSequence,
    hx: Tensor | tuple[Tensor, Tensor] | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> Explanation:
    """Says which kernel `layer(input, hx, lengths=lengths, resets=resets)` runs, and why.

    Args:
        layer: a layer or cell of fastcells.
        input, hx, lengths, resets: as for the call. Nothing is computed.

    Raises:
        TypeError: layer is not one of fastcells'.
    """
    if not isinstance(getattr(layer, "cell", None), str):
        raise TypeError(
            f"explain: layer must be a layer or cell of fastcells, got {type(layer).__name__}"
        )
    data = input.data if isinstance(input, PackedSequence) else input
    states = () if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
    route = choose_route((data, *states, *layer.parameters()))
    is_packed = isinstance(input, PackedSequence) or isinstance(layer, nn.RNNCellBase)
    is_projected = bool(getattr(layer, "proj_size", 0))
    state = states[0] if states else None
    dtypes = autocast_dtypes(layer.cell, data, state, is_projected, is_packed)
    device, dtype = data.device.type, data.dtype if dtypes is None else dtypes.storage
    if not route.is_kernel:
        notes = ("plain torch operations, step by step",)
        return Explanation("reference", layer.cell, dtype, route.reason, notes)
    notes = [_STEPWISE]
    if dtype in (torch.float16, torch.bfloat16):
        notes.append("arithmetic and cell state in float32")
    if isinstance(input, PackedSequence):
        notes.append("the PackedSequence is padded first; lengths= saves both copies")
    return Explanation(f"{device} stepwise", layer.cell, dtype, route.reason, tuple(notes))
