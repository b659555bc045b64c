"""Cells that are compiled when they are first used: which have kernels, and why others have none.

`fastcells.equations` declares a cell with what loads its kernels; the others ask here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .._extension import _C
from .recurrent import CELL_FACTS

__all__ = ["declare", "is_declared", "is_loaded", "take", "take_image", "why_no_kernels"]

#: Of each declared cell: loads its kernels of a dtype and a type of device, and returns "" or why
#: there are none.
_LOADERS: dict[str, Callable[[torch.dtype, str], str]] = {}
_LOADED: set[tuple[str, torch.dtype, str]] = set()


def declare(cell: str, load: Callable[[torch.dtype, str], str]) -> None:
    """`load` is asked at the first call of each dtype and type of device, and remembers its answers
    itself."""
    _LOADERS[cell] = load


def is_declared(cell: str) -> bool:
    return cell in _LOADERS


def is_loaded(cell: str, dtype: torch.dtype, device: str) -> bool:
    return (cell, dtype, device) in _LOADED


def take(cell: str, dtype: torch.dtype, entry: int, facts: dict[str, int]) -> None:
    """Hands a loaded library to the kernels: the address of its function, and the cell's facts.
    Raises ValueError where it was compiled against other headers."""
    assert _C is not None  # nothing is compiled for a module that is not there
    _C.take_cell(entry)
    CELL_FACTS[cell] = facts
    _LOADED.add((cell, dtype, "cpu"))


def take_image(
    cell: str,
    dtype: torch.dtype,
    compute: int,
    image: bytes,
    facts: dict[str, int],
    constants: dict[str, int],
) -> None:
    """Hands kernels for GPUs of a compute capability (90 for 9.0) to the engines: their image, the
    cell's facts and the constants of its struct. Raises ValueError where they cannot be loaded."""
    assert _C is not None
    _C.take_image(cell, constants, dtype, compute, image)
    CELL_FACTS[cell] = facts
    _LOADED.add((cell, dtype, "cuda"))


# While torch.compile traces the answer is a constant: it may run a compiler.
@torch.compiler.assume_constant_result
def why_no_kernels(cell: str, device: str, dtype: torch.dtype) -> str:
    """ "" where a declared cell has kernels, which are loaded if need be."""
    if device == "meta":
        return "" if cell in CELL_FACTS else "a cell from equations that is not compiled"
    return _LOADERS[cell](dtype, device)
