"""What is wrong with the definition of a cell."""

__all__ = ["CellError"]


class CellError(ValueError):
    """A definition that :func:`fastcells.cell` refuses: the line of the function, and why."""
