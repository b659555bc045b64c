"""The two ways of an eager call: at once in C++ (csrc/*/at_once.cpp), or through Python."""

import torch
from torch.nn.utils.rnn import PackedSequence

from fastcells.functional import attention, scan
from fastcells.functional import recurrent_calls as recurrent
from fastcells.layers import attention as attention_layers
from fastcells.layers import multihead

#: Where the calls in C++ are called from.
AT_ONCE = (
    (recurrent.ops, "step_at_once"),
    (recurrent.ops, "stack_at_once"),
    (recurrent.ops, "packed_stack_at_once"),
    (attention.ops, "dot_at_once"),
    (scan.ops, "scan_at_once"),
    (attention.ops, "additive_at_once"),
    (multihead, "multihead_at_once"),
    (attention_layers, "self_attention_at_once"),
)


def through_python(monkeypatch):
    """Every call from now on takes the way through Python."""
    for owner, name in AT_ONCE:
        monkeypatch.setattr(owner, name, lambda *args: None)


def watch_at_once(monkeypatch, seen):
    """seen(name, arguments) of every call that C++ did to its end."""

    def watch(owner, name):
        original = getattr(owner, name)

        def watching(*args):
            done = original(*args)
            if done is not None:
                seen(name, args)
            return done

        monkeypatch.setattr(owner, name, watching)

    for owner, name in AT_ONCE:
        watch(owner, name)


def flat(result):
    """Every tensor of nested tuples; of a PackedSequence its data."""
    if isinstance(result, PackedSequence):
        result = result.data
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in result if part is not None for tensor in flat(part)]
