"""freeze, unfreeze, frozen: the user's word that weights do not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..functional.recurrent_calls import freeze_weights
from .cells import RecurrentCell
from .recurrent_base import RecurrentLayer

__all__ = ["freeze", "frozen", "unfreeze"]


def freeze(module: nn.Module) -> nn.Module:
    """Takes the user's word that the weights of every recurrent layer and cell in `module` change
    by nothing but writes that torch counts.

    The kernels of a CPU read weights that they have packed. Before each call they hash all bytes of
    the weights, to see whether they are what was packed. Those of a frozen layer are packed now,
    and a later call looks at torch's count of writes alone: the hash, which reads as many bytes as
    a step, falls away. An optimizer's step, `load_state_dict`, `copy_` and the like are counted,
    and seen. What is written through `.data`, through numpy or another view of the memory that
    torch does not know of, or by another process, is *not* counted: such a write is missed, and
    results are those of the weights before it. Freeze again after it, which packs anew, or do not
    freeze such a module.

    Weights are frozen where they lie: tensors that take their place later (`module.to`, a
    parametrization, functional_call) are not. A module on another device, or none of whose layers
    pack weights, is left as it is.

    Args:
        module: a layer or cell of fastcells, or any module that holds some.

    Returns:
        The module.

    Raises:
        TypeError: `module` is no module, or holds no recurrent layer or cell of fastcells.

    Example:
        >>> layer = fastcells.freeze(fastcells.GRU(16, 32).eval())
    """
    _set(module, "freeze", True)
    return module


def unfreeze(module: nn.Module) -> nn.Module:
    """Takes :func:`freeze` back: every call makes sure of the weights again. Returns the module.

    Errors: as :func:`freeze`.

    Example:
        >>> layer = fastcells.unfreeze(fastcells.freeze(fastcells.GRU(16, 32)))
    """
    _set(module, "unfreeze", False)
    return module


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Within it `module` is frozen, see :func:`freeze`, errors included; after it, it is not.

    Example:
        >>> layer = fastcells.GRU(16, 32)
        >>> with fastcells.frozen(layer), torch.no_grad():
        ...     output, h_n = layer(torch.randn(8, 1, 16))
    """
    freeze(module)
    try:
        yield module
    finally:
        unfreeze(module)


def _set(module: nn.Module, name: str, is_frozen: bool) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name}: module must be a torch.nn.Module, got {type(module).__name__}")
    layers = [m for m in module.modules() if isinstance(m, RecurrentLayer | RecurrentCell)]
    if not layers:
        raise TypeError(
            f"{name}: {type(module).__name__} holds no recurrent layer or cell of fastcells"
        )
    for layer in layers:
        for weight, bias in _weights_of(layer):
            if weight.is_cpu:
                freeze_weights(layer.cell, weight.detach(), bias, is_frozen)


def _weights_of(layer: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Each weight that is packed, with its bias."""
    for name, weight in layer.named_parameters(recurse=False):
        if name.startswith(("weight_ih", "weight_hh")):
            bias = getattr(layer, name.replace("weight", "bias"), None)
            yield weight, None if bias is None else bias.detach()
