"""What torch.utils.flop_counter counts of the ops: a multiply-add is two, as there.

Of a recurrent layer, a frame (a step of a batch row) and direction: `2 G H (I + P)`, and `2 H P` of
a projection; padded frames count. Of attention torch's own figures, whatever a mask hides, and of
additive scores `2 B Tq Tk D` in the place of a dot product's. On the way back each product is
there once for either operand, as torch counts it; attention computes its scores again. Activations,
softmax, sums and biases do not count.

Of a scan a multiply-add an element, real or complex; on the way back one again, and a
multiplication for the gradient of its factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import (
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from .._extension import is_compiled

__all__ = ["register_formulas"]

Shape = Sequence[int]


def _products(directions: int, input: Shape, weights: Sequence[Shape]) -> list[int]:
    """Twice the multiply-adds of each weight of one direction at all frames; 0 of a bias."""
    frames = input[0] * input[1]
    of_one = weights[: len(weights) // directions]
    return [2 * frames * w[0] * w[1] if len(w) == 2 else 0 for w in of_one]


def _recurrent_forward(cell, directions, input, h_0, c_0, weights, *_, out_shape=None, **__) -> int:
    return directions * sum(_products(directions, input, weights))


def _recurrent_backward(
    cell, directions, grad_output, grad_h_n, grad_c_n, grad_cells, input, h_0, c_0, weights,
    names, lengths, resets, output, cells, saved, needs, *, out_shape=None, **__,
) -> int:  # fmt: skip
    of_one = _products(directions, input, weights)
    total = directions * sum(of_one) if tuple(saved) == (0,) else 0  # the gates once more
    for index, needed in enumerate(needs[3:]):
        place = index % len(of_one)
        total += of_one[place] if needed else 0  # of the weight
        is_input = names.split()[place] == "weight_ih"
        total += of_one[place] if not is_input or needs[0] else 0  # of the input, or through time
    return total


def _recurrent_step(cell, input, h, c, weights, names, *, out_shape=None, **__) -> int:
    return sum(_products(1, (1, *input), weights))


def _heads(query: Shape, key: Shape, value: Shape) -> tuple[Shape, Shape, Shape]:
    """As torch's formulas want them: every query head with keys of its own."""
    key, value = ((*x[:1], query[1], *x[2:]) for x in (key, value))
    return query, key, value


def _attention_forward(query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(*_heads(query, key, value))


def _attention_backward(
    grad_output, grad_weights, query, key, value, *_, out_shape=None, **__
) -> int:
    return sdpa_backward_flop_count(grad_output, *_heads(query, key, value))


def _additive_sizes(query: Shape, key: Shape, value: Shape) -> tuple[int, int]:
    """Of the scores, and of the product of the weights with the values."""
    pairs = query[0] * query[1] * key[1]
    return 2 * pairs * query[2], 2 * pairs * value[2]


def _additive_forward(query, key, value, *_, out_shape=None, **__) -> int:
    return sum(_additive_sizes(query, key, value))


def _additive_backward(
    grad_output, grad_weights, query, key, value, *_, out_shape=None, **__
) -> int:
    scores, product = _additive_sizes(query, key, value)
    return 4 * scores + 2 * product  # again, and of query, key and scale; of weights and values


def _scan(a, b, *_, out_shape=None, **__) -> int:
    return 2 * prod(b)


def _scan_backward(
    grad_h, a, h, h_0, lengths, resets, batch_first, reverse, needs, *, out_shape=None, **__
) -> int:
    return (3 if needs[0] else 2) * prod(grad_h)


def register_formulas() -> None:
    """Tells torch the formulas; a counter that is made afterwards knows them."""
    formulas: dict[str, Any] = {
        "recurrent_forward": _recurrent_forward,
        "recurrent_backward": _recurrent_backward,
        "recurrent_step": _recurrent_step,
        "attention_forward": _attention_forward,
        "attention_backward": _attention_backward,
        "additive_attention_forward": _additive_forward,
        "additive_attention_backward": _additive_backward,
        "linear_scan": _scan,
        "linear_scan_backward": _scan_backward,
    }
    for op, formula in formulas.items():
        register_flop_formula(getattr(torch.ops.fastcells, op))(formula)


if is_compiled():
    register_formulas()
