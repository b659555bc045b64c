"""Cells from equations: a function on tensors becomes a layer with kernels of its own.

decorator -> specification -> tracing (torch.fx) -> expression -> derivative -> saving -> source
layer -> definition -> compiling -> cache
"""

from .decorator import cell
from .errors import CellError
from .specification import Values

__all__ = ["CellError", "Values", "cell"]
