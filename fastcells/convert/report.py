"""conversion_report: which layers of a model are fastcells', what they run on, and why not."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..explain import Explanation, explain
from ..layers import AdditiveAttention, SelfAttention
from .kinds import class_of, full_name, is_ours, layers_of, why_not_ours

__all__ = ["ConversionReport", "LayerLine", "conversion_report"]

#: Arguments of a recurrent layer that its kernel depends on.
_OF_A_KERNEL = ("input", "hx", "lengths", "resets")
_NOT_CALLED = "not called by this input, or passed over by torch's own fast path"


@dataclass(frozen=True)
class LayerLine:
    """What :func:`fastcells.conversion_report` says of one layer."""

    name: str  # its path in the module, "" of the module itself; the first of several
    kind: str  # "fastcells.LSTM", "torch.nn.LSTM"
    is_fastcells: bool
    runs_on: str  # a kernel; or why it is not fastcells'
    explanation: Explanation | None = None  # of its first call, where one was made


@dataclass(frozen=True)
class ConversionReport:
    """The recurrent layers, cells and layers of attention of a module; printed as a table.

    Example:
        >>> report = fastcells.conversion_report(torch.nn.Sequential(fastcells.LSTM(8, 16)))
        >>> table = str(report)
    """

    layers: tuple[LayerLine, ...]

    def __str__(self) -> str:
        rows = [("layer", "class", "runs on")]
        rows += [(line.name or "(itself)", line.kind, line.runs_on) for line in self.layers]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        count = sum(line.is_fastcells for line in self.layers)
        table = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows]
        return "\n".join([*table, f"{count} of {len(self.layers)} layers are fastcells'"])


def conversion_report(module: nn.Module, *inputs: Any, **options: Any) -> ConversionReport:
    """Says of every recurrent layer, cell and layer of attention in `module` whether it is
    fastcells', what it runs on, and of others whether :func:`convert` would take them.

    Args:
        module: any module, converted or not.
        inputs, options: of one call. With them `module(*inputs, **options)` is run as it stands
            (training mode, grad mode, random numbers), and each layer tells the kernel of its
            first call by :func:`explain`. Without, the table says what device and dtype allow.

    Raises:
        TypeError: `module` is no module.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.GRU(8, 16))
        >>> print(fastcells.conversion_report(fastcells.convert(model), torch.randn(25, 4, 8)))
        layer  class          runs on
        0      fastcells.GRU  cpu sequence: compiled kernels
        1 of 1 layers are fastcells'
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"conversion_report: module must be a torch.nn.Module, got {type(module).__name__}"
        )
    found = dict(layers_of(module))
    has_call = bool(inputs or options)
    calls = _watch(module, found.values(), inputs, options) if has_call else {}
    return ConversionReport(
        tuple(_line(name, layer, calls.get(id(layer)), has_call) for name, layer in found.items())
    )


def _line(name: str, layer: nn.Module, told: Explanation | None, has_call: bool) -> LayerLine:
    kind = full_name(class_of(layer))
    if not is_ours(layer):
        reason = why_not_ours(layer)
        return LayerLine(
            name, kind, False, f"torch: it {reason}" if reason else "torch: convert would take it"
        )
    if told is not None:
        return LayerLine(name, kind, True, f"{told.kernel}: {told.reason}", told)
    return LayerLine(name, kind, True, _NOT_CALLED if has_call else _in_general(layer))


def _in_general(layer: nn.Module) -> str:
    """What device and dtype allow, whatever the shape."""
    typical = next(layer.parameters(), None)
    if isinstance(layer, nn.MultiheadAttention):
        shape: tuple[int, ...] = (1, 1, layer.embed_dim)
    elif isinstance(layer, nn.RNNBase):
        shape = (1, 1, layer.input_size)
    elif isinstance(layer, nn.RNNCellBase):
        shape = (1, layer.input_size)
    else:
        typical = None
    if typical is None:
        return "a kernel that depends on the input: pass one"
    with torch.no_grad():
        told = explain(layer, typical.new_empty(shape))
    if told.kernel == "reference":
        return f"reference: {told.reason}"
    return f"{told.kernel.split()[0]} kernels, {told.dtype}: {told.reason}"


def _watch(
    module: nn.Module, layers: Iterable[nn.Module], inputs: tuple[Any, ...], options: dict[str, Any]
) -> dict[int, Explanation]:
    """The explanation of the first call of each layer of fastcells, by its id."""
    told: dict[int, Explanation] = {}
    # Not by hooks, with which an encoder layer does not take its fast path.
    with ExitStack() as stack:
        for layer in layers:
            if is_ours(layer):
                stack.enter_context(_watching(layer, told))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        module(*inputs, **options)
    return told


@contextmanager
def _watching(layer: nn.Module, told: dict[int, Explanation]) -> Iterator[None]:
    own, forward = vars(layer).get("forward"), layer.forward
    parameters = list(inspect.signature(type(layer).forward).parameters)[1:]
    is_attention = isinstance(layer, nn.MultiheadAttention | AdditiveAttention | SelfAttention)

    def look(*arguments: Any, **named: Any) -> Any:
        if id(layer) not in told:
            given = dict(zip(parameters, arguments, strict=False)) | named
            wanted = parameters if is_attention else _OF_A_KERNEL
            told[id(layer)] = explain(layer, **{n: given[n] for n in wanted if n in given})
        return forward(*arguments, **named)

    vars(layer)["forward"] = look
    try:
        yield
    finally:
        del vars(layer)["forward"]
        if own is not None:
            vars(layer)["forward"] = own
