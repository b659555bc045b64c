"""What is wrong with the definition of a cell, or with compiling it."""

from pathlib import Path

__all__ = ["CannotCompileError", "CellError", "failure"]


class CannotCompileError(Exception):
    """Why a cell has no kernels, in a sentence: its layers run on the reference."""


def failure(compiler: str, source: Path, said: str) -> CannotCompileError:
    """Of a compiler that did not take its file, with the head of what it said."""
    head = "\n".join(said.strip().splitlines()[:10])
    return CannotCompileError(f"{compiler} failed on {source}, which is kept:\n{head}\n")


class CellError(ValueError):
    """A definition that :func:`fastcells.cell` refuses: the line of the function, and why.

    Example:
        >>> try:
        ...     fastcells.cell(gates="a")(lambda x, h, state, p: x.b)
        ... except fastcells.CellError as error:
        ...     why = str(error)
    """
