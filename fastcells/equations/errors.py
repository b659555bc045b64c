"""What is wrong with the definition of a cell."""

__all__ = ["CellError"]


class CellError(ValueError):
    """A definition that :func:`fastcells.cell` refuses: the line of the function, and why.

    Example:
        >>> try:
        ...     fastcells.cell(gates="a")(lambda x, h, state, p: x.b)
        ... except fastcells.CellError as error:
        ...     why = str(error)
    """
