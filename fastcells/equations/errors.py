"""What is wrong with the definition of a cell, or with compiling it."""

__all__ = ["CannotCompileError", "CellError"]


class CannotCompileError(Exception):
    """Why a cell has no kernels, in a sentence: its layers run on the reference."""


class CellError(ValueError):
    """A definition that :func:`fastcells.cell` refuses: the line of the function, and why.

    Example:
        >>> try:
        ...     fastcells.cell(gates="a")(lambda x, h, state, p: x.b)
        ... except fastcells.CellError as error:
        ...     why = str(error)
    """
