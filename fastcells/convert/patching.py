"""patched_torch: layers that a package builds of torch.nn are fastcells' from the start."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from .kinds import BOTH, OURS, change_class, why_not_ours

__all__ = ["patched_torch"]

_is_patched: ContextVar[bool] = ContextVar("fastcells.patched_torch", default=False)
_lock = threading.Lock()
_originals: dict[type, Callable[..., None]] = {}
_depth = 0  # contexts that are open, of all threads


@contextmanager
def patched_torch() -> Iterator[None]:
    """Within it every RNN, LSTM, GRU, cell and MultiheadAttention that is built of torch.nn becomes
    fastcells', as by :func:`convert` with as_subclass=True.

    For a package that builds its model, and perhaps trains it, out of reach. It is torch.nn's own
    constructor that builds, whatever name it was imported under, and draws the same random numbers;
    then the layer gets its other class. It stays an instance of torch.nn's class, so that the
    package's checks see what they know. After the context, an exception too, torch.nn is as it was,
    and the layers that were built stay fastcells'.

    Subclasses are left alone. So are layers that no constructor builds: copies and what torch.load
    unpickles, which :func:`convert` takes.

    It holds for the thread, or asyncio task, that entered it; threads that are started within it
    build torch.nn's layers. Contexts may be nested.

    Example:
        >>> with fastcells.patched_torch():
        ...     model = torch.nn.TransformerEncoderLayer(16, 4)
        >>> isinstance(model.self_attn, fastcells.MultiheadAttention)
        True
    """
    _count(+1)
    token = _is_patched.set(True)
    try:
        yield
    finally:
        _is_patched.reset(token)
        _count(-1)


def _count(change: int) -> None:
    """Puts our constructors in place with the first context, and takes them away with the last."""
    global _depth
    with _lock:
        if _depth == 0:
            for kind in OURS:
                _originals[kind] = vars(kind)["__init__"]
                type.__setattr__(kind, "__init__", _constructor(_originals[kind]))
        _depth += change
        if _depth == 0:
            for kind, original in _originals.items():
                type.__setattr__(kind, "__init__", original)


def _constructor(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: nn.Module, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        if _is_patched.get() and not why_not_ours(self):
            change_class(self, BOTH)

    return __init__
