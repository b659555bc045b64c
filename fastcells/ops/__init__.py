"""The compiled ops: what the tracer has to know of them, and typed calls. No logic."""

from .._extension import is_compiled, why_not_compiled
from . import flops

__all__ = ["flops", "is_compiled", "why_not_compiled"]
