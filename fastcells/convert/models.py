"""convert, to_torch: a model on fastcells' layers, and back on torch.nn's."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from ..checks.tensors import check_flag
from .kinds import (
    BOTH,
    OURS,
    change_class,
    class_of,
    full_name,
    is_ours,
    layers_of,
    why_not_ours,
    why_not_torch,
)

__all__ = ["convert", "to_torch"]


def convert(module: nn.Module, inplace: bool = False, *, as_subclass: bool = False) -> nn.Module:
    """Turns every RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell and MultiheadAttention of torch.nn in
    `module` into fastcells', with the same parameters.

    A layer is changed where it stands: it stays the object that it was, and gets another class. So
    parameters, tied weights, optimizers, hooks of modules and tensors, parametrizations, pruning,
    weight and spectral norm, training mode, device, dtype, attributes, and one layer in several
    places are what they were. What cannot be converted is left as it is, with one warning that says
    why: subclasses, TorchScript, layers of torch.ao, a layer whose `forward` was replaced.

    Args:
        module: a layer, or any module that holds some. Layers of fastcells are left as they are.
        inplace: change `module` itself. Otherwise a deep copy, which has parameters of its own:
            optimizers and hooks of tensors stay with the original.
        as_subclass: the recurrent layers stay instances of torch.nn's classes, for code that asks
            `isinstance(m, nn.LSTM)`. torch.compile then breaks its graph at each, as at torch.nn's,
            unless `torch._dynamo.config.allow_rnn` is set. Cells and MultiheadAttention are
            instances of torch.nn's classes always. Layers that were converted before change, too.

    Returns:
        The module, or the copy. Where the root is such a layer, it is converted itself.

    Raises:
        TypeError: `module` is no module, or holds no such layer, or none that can be converted; a
            flag is no bool.
        RuntimeError: `module` cannot be copied, see `copy.deepcopy`.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.LSTM(8, 16, batch_first=True))
        >>> model = fastcells.convert(model, inplace=True)
        >>> report = str(fastcells.conversion_report(model, torch.randn(4, 25, 8)))
    """
    check_flag("convert", "inplace", inplace)
    check_flag("convert", "as_subclass", as_subclass)
    found = _find("convert", module)
    left = {name: why_not_ours(layer) for name, layer in found.items() if not is_ours(layer)}
    left = {name: reason for name, reason in left.items() if reason}
    if len(left) == len(found):
        raise TypeError(
            f"convert: {type(module).__name__} holds no layer that can be converted:\n"
            + _lines(found, left)
        )
    if left:
        warnings.warn(
            f"fastcells.convert left these layers of {type(module).__name__} as they are:\n"
            + _lines(found, left),
            stacklevel=2,
        )
    module = module if inplace else _copy("convert", module)
    for _, layer in layers_of(module):
        if is_ours(layer) or not why_not_ours(layer):
            change_class(layer, BOTH if as_subclass else OURS)
    return module


def to_torch(module: nn.Module, inplace: bool = False) -> nn.Module:
    """Turns every layer of fastcells in `module` into torch.nn's: the way back of :func:`convert`.

    Everything that `convert` keeps is kept. `recompute` and `unit_forget_bias` change no result of
    a layer that exists, and are dropped. A call with `lengths=`, `resets=`, `return_cell_states=`
    or `key_lengths=` is not for torch.nn's layers, which say so.

    Args:
        module: a layer, or any module that holds some. Layers of torch.nn are left as they are.
        inplace: as for :func:`convert`.

    Returns:
        The module, or the copy.

    Raises:
        TypeError: `module` is no module, or holds no recurrent layer and none of attention.
        ValueError: it holds layers that torch.nn cannot express, all of which are named: cells
            without a recurrent matrix, quantized layers, AdditiveAttention, SelfAttention, a GRU of
            another variant, subclasses. Nothing was changed.
        RuntimeError: `module` cannot be copied, see `copy.deepcopy`.

    Example:
        >>> model = torch.nn.Sequential(fastcells.GRU(8, 16))
        >>> scripted = torch.jit.script(fastcells.to_torch(model))
    """
    check_flag("to_torch", "inplace", inplace)
    found = _find("to_torch", module)
    left = {name: why_not_torch(layer) for name, layer in found.items() if is_ours(layer)}
    left = {name: reason for name, reason in left.items() if reason}
    if left:
        raise ValueError(
            f"to_torch: {type(module).__name__} holds layers that torch.nn cannot express:\n"
            + _lines(found, left)
        )
    module = module if inplace else _copy("to_torch", module)
    for _, layer in layers_of(module):
        if is_ours(layer):
            change_class(layer, None)
            if isinstance(layer, nn.RNNBase):
                layer.flatten_parameters()  # which cuDNN wants, and fastcells does not do
    return module


def _find(name: str, module: nn.Module) -> dict[str, nn.Module]:
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name}: module must be a torch.nn.Module, got {type(module).__name__}")
    found = dict(layers_of(module))
    if not found:
        raise TypeError(
            f"{name}: {type(module).__name__} holds no recurrent layer or cell and no "
            "MultiheadAttention, of torch.nn or fastcells"
        )
    return found


def _lines(found: dict[str, nn.Module], reasons: dict[str, str]) -> str:
    return "\n".join(
        f"  {name or 'the module itself'}: {full_name(class_of(found[name]))} {reason}"
        for name, reason in reasons.items()
    )


def _copy(name: str, module: nn.Module) -> nn.Module:
    # Weights that were computed (by a parametrization, by old weight norm) and that autograd knows,
    # which deepcopy refuses: their values, until they are computed again.
    computed = {
        id(tensor): tensor.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        for tensor in (value if isinstance(value, list) else [value])
        if isinstance(tensor, torch.Tensor) and not tensor.is_leaf
    }
    try:
        return copy.deepcopy(module, computed)
    except Exception as error:
        raise RuntimeError(
            f"{name}: {type(module).__name__} cannot be copied ({error}). Change it in place: "
            f"{name}(module, inplace=True)"
        ) from error
