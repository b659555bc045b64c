"""Which class takes the place of which, why a layer is left alone, and the change itself.

A layer is converted by giving it another class. It stays the object that it was, so that
parameters, hooks, buffers, attributes and whoever refers to it have nothing to notice: fastcells'
layers keep the same things in the same attributes as torch.nn's.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..checks.tensors import FLOATING
from ..functional.regularisation import Regularisation
from ..layers import (
    GRU,
    LSTM,
    RNN,
    AdditiveAttention,
    GRUCell,
    LSTMCell,
    MultiheadAttention,
    RNNCell,
    SelfAttention,
)
from ..layers.recurrent_base import RecurrentLayer
from ..layers.torch_instances import TorchGRU, TorchLSTM, TorchRNN

__all__ = [
    "BOTH",
    "OURS",
    "change_class",
    "class_of",
    "full_name",
    "is_ours",
    "layers_of",
    "why_not_ours",
    "why_not_torch",
]


#: What takes the place of a class of torch.nn.
OURS: dict[type, type] = {
    nn.RNN: RNN,
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.RNNCell: RNNCell,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
    nn.MultiheadAttention: MultiheadAttention,
}
#: The same where an instance of torch.nn's class is to stay one; cells and attention always do.
BOTH: dict[type, type] = OURS | {nn.RNN: TorchRNN, nn.LSTM: TorchLSTM, nn.GRU: TorchGRU}
_TORCHS = {ours: torchs for table in (OURS, BOTH) for torchs, ours in table.items()}
_NAMES = {kind.__name__ for kind in OURS}
#: What fastcells' layers alone have, on an instance.
_OPTIONS = ("variant", "recompute", "unit_forget_bias", *Regularisation._fields)
_OWN_FORWARD = "has a forward of its own on the instance. Convert it before that is set"


def class_of(layer: nn.Module) -> type:
    """The class of a layer, under the one that a parametrization has put over it."""
    kind = type(layer)
    return kind.__bases__[0] if parametrize.is_parametrized(layer) else kind


def full_name(kind: type) -> str:
    """As a user writes it: "torch.nn.LSTM"."""
    if kind in OURS:
        return f"torch.nn.{kind.__name__}"
    package = kind.__module__.partition(".")[0]
    return f"{package if package == 'fastcells' else kind.__module__}.{kind.__qualname__}"


def is_ours(layer: nn.Module) -> bool:
    return any(kind.__module__.startswith("fastcells.") for kind in type(layer).__mro__)


def _is_of_torch_ao(layer: nn.Module) -> bool:
    """Whether a quantized layer, or one prepared for it, which is none of torch.nn's classes."""
    kind = class_of(layer)
    return kind.__module__.startswith("torch.ao.nn.") and kind.__name__ in _NAMES


def _is_script(layer: nn.Module) -> bool:
    return isinstance(layer, torch.jit.ScriptModule) and layer.original_name in _NAMES


def layers_of(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, layer) of every recurrent layer, cell and layer of attention, each once."""
    kinds = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, AdditiveAttention, SelfAttention)
    for name, layer in module.named_modules():
        if isinstance(layer, kinds) or _is_script(layer) or _is_of_torch_ao(layer):
            yield name, layer


def why_not_ours(layer: nn.Module) -> str:
    """Why a layer that is not fastcells' cannot become so; "" if it can."""
    kind = class_of(layer)
    if _is_script(layer):
        return "is TorchScript. Convert the module that it was made of"
    if _is_of_torch_ao(layer):
        return "is a layer of torch.ao. Convert the one that it was made of; see fastcells.quantize"
    if kind not in OURS:
        return _subclass_of(kind, OURS)
    if "forward" in vars(layer):
        return _OWN_FORWARD
    for name in (*vars(layer), *layer._modules, *layer._buffers):
        if hasattr(OURS[kind], name) and not hasattr(kind, name):
            return f"has an attribute {name!r} of its own, which fastcells' layer means otherwise"
    for name, parameter in layer.named_parameters():
        if parameter.dtype not in FLOATING:
            return f"has {name} in {parameter.dtype}, for which fastcells has no kernel"
    return ""


def why_not_torch(layer: nn.Module) -> str:
    """Why a layer of fastcells cannot become torch.nn's; "" if it can."""
    kind = class_of(layer)
    if kind not in _TORCHS:
        if kind.__module__.startswith("fastcells."):
            return "is a layer that torch.nn has not"
        return _subclass_of(kind, _TORCHS)
    if getattr(layer, "variant", "reset_after") != "reset_after":
        return f"has variant={layer.variant!r}, which torch.nn has not"
    rates = layer.regularisation._asdict() if isinstance(layer, RecurrentLayer) else {}
    for name, rate in rates.items():
        if rate:
            return f"has {name}={rate}, which torch.nn has not"
    return _OWN_FORWARD if "forward" in vars(layer) else ""


def _subclass_of(kind: type, table: dict[type, type]) -> str:
    known = next((base for base in kind.__mro__ if base in table), None)
    if known is None:
        return "is none of torch.nn's layers"
    return (
        f"is a subclass of {full_name(known)}, whose own ways would be lost. Convert the layer "
        "before it is wrapped, or derive its class from the other one"
    )


def change_class(layer: nn.Module, table: dict[type, type] | None) -> None:
    """To the class that `table` has in the place of the layer's, if any; None: to torch.nn's."""
    before = class_of(layer)
    kind = _TORCHS.get(before, before)
    kind = kind if table is None else table.get(kind, before)
    if kind is before:
        return
    if parametrize.is_parametrized(layer):
        # Its class holds a property for each parametrized tensor, and refers to no base.
        own = {k: v for k, v in vars(type(layer)).items() if k not in ("__dict__", "__weakref__")}
        kind = type(f"Parametrized{kind.__name__}", (kind,), own)
    layer.__class__ = kind
    if table is None:
        for name in _OPTIONS:
            vars(layer).pop(name, None)
