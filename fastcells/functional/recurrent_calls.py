"""The way of a call of RNN, LSTM and GRU: at once in C++, or through Python to the kernels or to
the reference, layer after layer.

Letters: T steps, B batch, I input, H hidden units, P width of h (H, or `proj_size`), G gates,
D directions (1, or 2 when bidirectional), L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..checks import recurrent as checks
from ..ops import recurrent as ops
from ..reference import recurrent as reference
from .autocast import autocast_dtypes, cast, without_autocast
from .processes import settle_in_forked_child
from .recurrent_autograd import Recurrent
from .routing import choose_route, is_functionalized, needs_grad

__all__ = [
    "freeze_weights",
    "run_layer",
    "run_module_packed",
    "run_module_stack",
    "run_module_step",
    "run_stack",
    "run_step",
    "trust_weights",
]

#: The user's word on a weight's memory: fastcells.freeze.
freeze_weights = ops.freeze_weights
trust_weights = ops.trust_weights


def run_layer(
    cell: str,
    directions: int,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    names: str,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    want_cells: bool = False,
    is_packed: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, Tensor, Tensor | Any, Tensor | Any]:  # None without c
    """One layer, on the kernels or on the reference: output `[T, B, D*P]`, h_n `[D, B, P]`,
    c_n `[D, B, H]` and all c `[T, B, D*H]` in the input's dtype; the last two None without c.
    `weights` are those of the first direction, then those of the second; `names`, with spaces
    between, what each of a direction's is. `is_packed` matters to autocast alone, `recompute` to
    what is kept for the way back."""
    dtypes = autocast_dtypes(cell, input, h_0, "weight_hr" in names, is_packed)
    if dtypes is not None:
        input, h_0, c_0, *weights = cast((input, h_0, c_0, *weights), dtypes.storage)
    tensors = (input, h_0, c_0, *weights)
    if not choose_route(tensors, cell, names).is_kernel:
        ops.check_layer("recurrent_forward", input, h_0, c_0, weights, names, lengths, resets)
        checks.check_range_of_lengths(lengths, input.shape[0])
        weights, names = _dequantized(weights, names, input.dtype)
        with without_autocast(input):
            output, h_n, c_n, cells = reference.recurrent(
                cell, directions, input, h_0, c_0, weights, names, lengths, resets
            )
    else:
        has_way_back = needs_grad(tensors)
        if has_way_back:
            keep = "states" if recompute else "everything"
        else:
            keep = "cells" if want_cells else "nothing"
        is_op_alone = torch.compiler.is_compiling() or torch.jit.is_tracing() or is_functionalized()
        if has_way_back and not is_op_alone:
            output, h_n, c_n, cells, _ = Recurrent.apply(
                cell, directions, names, keep, input, h_0, c_0, lengths, resets, *weights
            )
        else:
            output, h_n, c_n, cells, _ = ops.recurrent_forward(
                cell, directions, input, h_0, c_0, weights, names, lengths, resets, keep
            )
    if reference.find_cell(cell).states == 1 or c_n is None or cells is None:
        return output, h_n, None, None
    if dtypes is not None:
        c_n = c_n.to(dtypes.cell_state)
    return output, h_n, c_n, cells.to(c_n.dtype) if want_cells else None


def run_step(
    cell: str,
    input: Tensor,
    h: Tensor,
    c: Tensor | None,
    weights: Sequence[Tensor],
    names: str,
) -> tuple[Tensor, Tensor | Any]:
    """One step of one direction: input `[B, I]`, h `[B, P]`, c `[B, H]` -> h', c'. Where a
    derivative may be asked for it is a layer of one step, which has them."""
    settle_in_forked_child()
    if needs_grad((input, h, c, *weights)):
        _, h_n, c_n, _ = run_layer(
            cell, 1, input.unsqueeze(0), h.unsqueeze(0),
            None if c is None else c.unsqueeze(0), weights, names, is_packed=True,
        )  # fmt: skip
        return h_n.squeeze(0), None if c_n is None else c_n.squeeze(0)
    dtypes = autocast_dtypes(cell, input, h, "weight_hr" in names, is_packed=True)
    if dtypes is not None:
        input, h, c, *weights = cast((input, h, c, *weights), dtypes.storage)
    if not choose_route((input, h, c, *weights), cell, names).is_kernel:
        ops.check_layer("recurrent_step", input, h, c, weights, names)
        weights, names = _dequantized(weights, names, input.dtype)
        with without_autocast(input):
            return reference.recurrent_step(cell, input, h, c, weights, names)
    h_new, c_new = ops.recurrent_step(cell, input, h, c, weights, names)
    return h_new, None if c is None else c_new


def run_module_step(
    cell: str,
    input: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    parameters: dict[str, Tensor | None],
) -> Any:
    """A step of a cell module in one call of C++: h', of a cell with c (h', c'); None where only
    Python can tell."""
    if torch.compiler.is_compiling():
        return None
    settle_in_forked_child()
    return ops.step_at_once(cell, input, h, c, parameters)


def run_module_stack(
    module: nn.RNNBase,
    cell: str,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """All layers of a module, likewise."""
    if torch.compiler.is_compiling():
        return None
    settle_in_forked_child()
    layers = _layers_of(module, cell)
    return ops.stack_at_once(layers, module.batch_first, input, h_0, c_0, lengths, resets)


def run_module_packed(
    module: nn.RNNBase, cell: str, packed: PackedSequence, h_0: Tensor | None, c_0: Tensor | None
) -> tuple[PackedSequence, Tensor, Tensor | None] | None:
    """The same of a PackedSequence."""
    if torch.compiler.is_compiling():
        return None
    settle_in_forked_child()
    done = ops.packed_stack_at_once(_layers_of(module, cell), packed, h_0, c_0)
    return None if done is None else (PackedSequence(done[0], *packed[1:]), *done[1:])


def _layers_of(module: Any, cell: str) -> ops.ModuleLayers:
    return ops.ModuleLayers(
        cell, 2 if module.bidirectional else 1, module._stored_weights(), module._all_weights,
        module._flat_weights, module.dropout if module.training else 0.0, module.recompute,
    )  # fmt: skip


def run_stack(
    cell: str | Sequence[str],  # of every layer, or of each
    directions: int,
    input: Tensor,  # [T, B, I]
    h_0: Tensor | None,  # [L*D, B, P]
    c_0: Tensor | None,  # [L*D, B, H]
    weights: Sequence[Sequence[Tensor]],  # of each layer: its directions' one by one
    names: str | Sequence[str],  # of the weights of one direction, of every layer, or of each
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    dropout: float = 0.0,
    want_cells: bool = False,
    is_packed: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, Tensor, Tensor | Any, Tensor | Any]:  # None without c
    """L layers, each on the output of the one before; dropout between them. All c are the last
    layer's."""
    settle_in_forked_child()
    h_n: list[Tensor] = []
    c_n: list[Tensor] = []
    cells = None
    kinds = [cell] * len(weights) if isinstance(cell, str) else cell
    names_of = [names] * len(weights) if isinstance(names, str) else names
    for index, layer in enumerate(weights):
        states = slice(index * directions, (index + 1) * directions)
        is_last = index == len(weights) - 1
        input, h, c, cells = run_layer(
            kinds[index],
            directions,
            input,
            None if h_0 is None else h_0[states],
            None if c_0 is None else c_0[states],
            layer,
            names_of[index],
            lengths,
            resets,
            want_cells and is_last,
            is_packed,
            recompute,
        )
        h_n.append(h)
        c_n.append(c)
        if dropout > 0 and not is_last:
            input = torch.nn.functional.dropout(input, dropout)
    has_c = reference.find_cell(kinds[0]).states == 2
    return input, _join(h_n), _join(c_n) if has_c else None, cells


def _dequantized(
    weights: Sequence[Tensor], names: str, dtype: torch.dtype
) -> tuple[list[Tensor], str]:
    """Weights narrower than the input in its dtype, for the reference, and the names left."""
    named = names.split()
    kept, left = [], [name for name in named if not name.startswith("scale")]
    for start in range(0, len(weights), len(named)):
        direction = dict(zip(named, weights[start : start + len(named)], strict=True))
        for name in left:
            weight, scale = direction[name], direction.get(f"scale{name.removeprefix('weight')}")
            kept.append((weight if scale is None else weight * scale[:, None]).to(dtype))
    return kept, " ".join(left)


def _join(states: list[Tensor]) -> Tensor:
    if len(states) == 1:
        return states[0]
    with without_autocast(states[0]):
        return torch.cat(states)
