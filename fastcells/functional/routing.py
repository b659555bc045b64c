"""Which implementation takes a call, and whether a gradient may be asked of it.

Only this file looks at torch's own state to choose: transforms of torch.func, dual levels, tracing,
the gradient mode. `fastcells.explain` asks the same functions as the calls themselves. Whether a
check may read values is another question: `can_be_looked_at` in :mod:`fastcells.checks.tensors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..ops import attention, compiled_cells, is_compiled, recurrent, why_not_compiled
from ..ops.exporting import is_onnx_export

__all__ = [
    "Route",
    "choose_attention_route",
    "choose_route",
    "choose_scan_route",
    "is_functionalized",
    "is_traced",
    "needs_grad",
    "takes_whole_rows",
    "torch_is_faster",
    "uses_forward_mode",
]


class Route(NamedTuple):
    """Which implementation takes a call, and why."""

    is_kernel: bool
    reason: str


def _is_transformed() -> bool:
    """Whether a torch.func transform is at work. While torch.compile traces, no transform is not
    None but a stand-in without a transform's methods, on every torch since 2.11."""
    return hasattr(torch._C._functorch.peek_interpreter_stack(), "key")


def uses_forward_mode(tensors: Sequence[Tensor | None]) -> bool:
    """Whether a tangent may travel with any of these tensors. While a graph is traced the
    transforms around it cannot be told apart, so that any of them counts."""
    if torch.compiler.is_compiling():
        return _is_transformed() or forward_ad._current_level >= 0
    stack = torch._C._functorch.get_interpreter_stack()
    if stack is not None:
        jvp = torch._C._functorch.TransformType.Jvp
        if any(level.key() == jvp for level in stack):
            return True
    if forward_ad._current_level < 0:
        return False
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def _levels() -> list[Any]:
    """The torch.func transforms at work, by kind, the outermost first; none while a graph is
    traced, where they cannot be told."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None:
        return []
    return [level.key() for level in torch._C._functorch.get_interpreter_stack()]


def _functionalize() -> Any:
    return torch._C._functorch.TransformType.Functionalize


def is_functionalized() -> bool:
    """Whether torch.func.functionalize alone is at work: it takes ops, and no autograd Function."""
    levels = _levels()
    return bool(levels) and all(level == _functionalize() for level in levels)


def _functionalizes_others() -> bool:
    """Whether it is at work together with other transforms, which torch has no rule for."""
    levels = _levels()
    return bool(levels) and _functionalize() in levels and not is_functionalized()


#: Weights of a cell that looks at a whole row, or that draws masks.
_OF_ROWS = {"norm_ih", "norm_hh", "norm_gates", "norm_c", "norm_carried_c", "unit_weights", "noise"}


def takes_whole_rows(names: str) -> bool:
    """Whether a layer with weights of these names needs more of a row than each unit by itself."""
    return not _OF_ROWS.isdisjoint(names.split())


def choose_route(tensors: Sequence[Tensor | None], cell: str = "", names: str = "") -> Route:
    """The one place that decides between the recurrent kernels and fastcells.reference; `names` are
    those of the weights of one direction."""
    first = next(t for t in tensors if t is not None)
    device = first.device
    why_not = "" if recurrent.has_kernels(device) else f"no kernels for {device.type}"
    if not why_not and takes_whole_rows(names):
        if "weight_hr" in names.split() or cell == "gru_reset_before":
            why_not = (
                "no kernels of layers with norms, peepholes, zoneout or recurrent dropout with a "
                "projection or the reset in front of the product"
            )
    route = _route(tensors, why_not)
    if not route.is_kernel or not compiled_cells.is_declared(cell):
        return route
    why_not = compiled_cells.why_no_kernels(cell, device.type, first.dtype)
    return Route(False, why_not) if why_not else route


def choose_attention_route(tensors: Sequence[Tensor | None], head_width: int = 0) -> Route:
    """The same for attention; the first of the tensors is the query. The width of a head, of keys
    or values, counts where scores are dot products."""
    query = next(t for t in tensors if t is not None)
    device = query.device.type
    widest = attention.MOST_HEAD_WIDTH.get(device)
    why_not = ""
    if not attention.has_kernels(query.device):
        why_not = f"no attention kernels for {device}"
    elif query.dtype not in attention.KERNEL_DTYPES[device]:
        why_not = f"no attention kernels for {query.dtype}" + (
            "" if device == "cpu" else f" on {device}"
        )
    elif widest is not None and head_width > widest:
        why_not = f"no attention kernels for heads wider than {widest} on {device}"
    return _route(tensors, why_not)


def choose_scan_route(tensors: Sequence[Tensor | None]) -> Route:
    """The same for linear_scan, which has a forward mode of its own, but in a traced graph."""
    device = next(t for t in tensors if t is not None).device
    why_not = "" if recurrent.has_kernels(device) else f"no kernels for {device.type}"
    return _route(tensors, why_not, has_forward_mode=not torch.compiler.is_compiling())


#: Where torch's own attention is faster than these kernels, and what it must then be asked for.
TORCH_IS_FASTER_ON = ("cuda",)
_TORCH_IS_FASTER_FOR = (torch.float16, torch.bfloat16)


def torch_is_faster(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether a plain call of dot-product attention, without a mask but the causal one, is torch's:
    16-bit on a GPU, where torch has cuDNN and FlashAttention, and no gradient asked for, whose
    second derivative torch does not have."""
    return (
        query.device.type in TORCH_IS_FASTER_ON
        and query.dtype in _TORCH_IS_FASTER_FOR
        and query.shape[-1] == value.shape[-1]
        and query.shape[-1] % 8 == 0
        and not _is_traced_or_transformed()
        and not needs_grad((query, key, value))
    )


def _route(tensors: Sequence[Tensor | None], why_not: str, has_forward_mode: bool = False) -> Route:
    if is_onnx_export():
        return Route(True, "torch.onnx.export writes operators of its own")
    if not is_compiled():
        return Route(False, why_not_compiled() or "the extension is not compiled")
    if why_not:
        return Route(False, f"this build of fastcells has {why_not}")
    if not has_forward_mode and uses_forward_mode(tensors):
        return Route(
            False,
            "forward-mode derivatives (jvp), and any torch.func transform inside a compiled "
            "graph, run on the reference",
        )
    if _functionalizes_others():
        return Route(
            False,
            "torch.func.functionalize around or inside another transform runs on the reference",
        )
    return Route(True, "compiled kernels")


def is_traced() -> bool:
    """Whether torch.compile traces: what calls past the dispatcher cannot see by themselves."""
    return torch.compiler.is_compiling()


def _is_traced_or_transformed() -> bool:
    """Whether a graph is traced here, or a torch.func transform at work."""
    return torch.compiler.is_compiling() or _is_transformed()


def needs_grad(tensors: Sequence[Tensor | None]) -> bool:
    """Whether a derivative may be asked for; always assumed inside a torch.func transform, and for
    torch.jit.trace, whose graph must not depend on the mode it was traced in; never for
    torch.onnx.export, whose model has no way back."""
    if torch.jit.is_tracing():
        return True
    if is_onnx_export():
        return False
    if not torch.compiler.is_compiling() and _is_transformed():
        return True
    if not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in tensors):
        return False
    return torch.compiler.is_compiling() or not torch.is_inference_mode_enabled()
