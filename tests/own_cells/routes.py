"""Which way calls of cells from equations go."""

from contextlib import contextmanager

from fastcells.equations.definition import Definition
from fastcells.ops import compiled_cells


def hide_kernels(monkeypatch, why_not="the reference is asked"):
    """No cell is compiled, and what is loaded is not used; "": its ops are called all the same."""
    monkeypatch.setattr(Definition, "load", lambda *_: why_not)
    monkeypatch.setattr(compiled_cells, "is_loaded", lambda *_: False)


@contextmanager
def no_kernels(monkeypatch):
    """Calls run on the reference."""
    with monkeypatch.context() as patch:
        hide_kernels(patch)
        yield
