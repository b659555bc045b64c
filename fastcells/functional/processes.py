"""Children of a fork.

The threads of torch's operations (OpenMP's) stay behind in the parent, and an operation that wants
more than one would wait for them for ever. The kernels know that by themselves. For the operations
of torch around them, the first call of ours in a child sets torch to one thread there, as the
workers of torch.utils.data.DataLoader do when they start. It stays so: the way back has operations
of torch, too.
"""

from __future__ import annotations

import os

import torch

__all__ = ["settle_in_forked_child"]

_is_fresh_child = False


def _note_fork() -> None:
    global _is_fresh_child
    _is_fresh_child = True


os.register_at_fork(after_in_child=_note_fork)


def settle_in_forked_child() -> None:
    """To be called before torch's operations, by what a user calls and by every backward."""
    global _is_fresh_child
    if _is_fresh_child and not torch.compiler.is_compiling():
        torch.set_num_threads(1)
        _is_fresh_child = False
