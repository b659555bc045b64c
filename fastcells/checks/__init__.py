"""What a layer refuses, before any kernel runs.

Types and texts of the errors are torch.nn's wherever torch has them; the others say who speaks,
what was expected by name and size, what came, and what to do:

    LSTM: lengths must have shape (B,) = (4,), got (3,)
"""

from . import attention, multihead, packed, recurrent, tensors

__all__ = ["attention", "multihead", "packed", "recurrent", "tensors"]
