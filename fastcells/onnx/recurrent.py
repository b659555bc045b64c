"""Recurrent layers as ONNX's RNN, LSTM and GRU, and as a Scan what these cannot say.

ONNX's gates are i o f c and z r h; torch's i f g o and r z n. Letters: fastcells.reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.onnx.ops import symbolic_multi_out

from ..functional.routing import takes_whole_rows
from ..reference import recurrent as reference
from .scan import Tensors, arithmetic, run_scan, steps_that_exist

__all__ = ["recurrent_forward", "recurrent_step"]

#: The opset that last changed RNN, LSTM and GRU, but for a dtype.
OPSET = 14


class Operator(NamedTuple):
    """An operator of ONNX that computes a cell."""

    name: str
    blocks: tuple[int, ...]  # of torch's gates, in ONNX's order
    activation: str | None = None  # of each direction, where it is not the default
    attributes: dict[str, Any] = {}  # noqa: RUF012


OPERATORS = {
    "rnn_tanh": Operator("RNN", (0,)),
    "rnn_relu": Operator("RNN", (0,), activation="Relu"),
    "lstm": Operator("LSTM", (0, 3, 1, 2)),
    "gru": Operator("GRU", (1, 0, 2), attributes={"linear_before_reset": 1}),
    "gru_reset_before": Operator("GRU", (1, 0, 2), attributes={"linear_before_reset": 0}),
}


class Results(NamedTuple):
    """Of a layer: output `[T, B, D*P]`, h_n `[D, B, P]`, c_n `[D, B, H]`, cells `[T, B, D*H]`."""

    output: Tensor
    h_n: Tensor
    c_n: Tensor | None = None
    cells: Tensor | None = None


def recurrent_forward(
    cell: str,
    directions: int,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    names: str,
    lengths: Tensor | None,
    resets: Tensor | None,
    keep: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As the op of this name; nothing is kept for a way back but the cell states."""
    _refuse_noise(names)
    _refuse_narrow_weights(input, weights, names)
    compute = arithmetic(input.dtype)
    x, (h, c) = input.to(compute), (s if s is None else s.to(compute) for s in (h_0, c_0))
    split = reference.split_weights([w.to(compute) for w in weights], names)
    has_c = reference.find_cell(cell).states == 2
    done = cells = None
    # ONNX Runtime has the operators in float32 alone, and none of them gives all cell states.
    is_operator = cell in OPERATORS and "weight_hr" not in names and resets is None
    is_operator = is_operator and not takes_whole_rows(names)
    if is_operator and compute == torch.float32 and not (has_c and keep == "cells"):
        done = _run_operator(cell, directions, x, h, c, split, lengths)
    if done is None or (has_c and keep != "nothing"):
        scanned = _run_scan(cell, x, h, c, split, lengths, resets)
        done, cells = done or scanned, scanned.cells
    absent = input.new_empty(0)
    output, h_n, c_n = (absent if t is None else t.to(input.dtype) for t in done[:3])
    return output, h_n, c_n, absent if cells is None or keep == "nothing" else cells, absent


def recurrent_step(
    cell: str, input: Tensor, h: Tensor, c: Tensor | None, weights: Sequence[Tensor], names: str
) -> tuple[Tensor, Tensor]:
    """As the op of this name: a layer of one step."""
    h_0, c_0 = h.unsqueeze(0), None if c is None else c.unsqueeze(0)
    _, h_n, c_n, _, _ = recurrent_forward(
        cell, 1, input.unsqueeze(0), h_0, c_0, weights, names, None, None, "nothing"
    )
    return h_n.squeeze(0), c_n if c is None else c_n.squeeze(0)


def _refuse_noise(names: str) -> None:
    if "noise" in names.split():
        raise NotImplementedError(
            "fastcells.onnx: zoneout and recurrent_dropout are not exported. Call model.eval(), "
            "and set zoneout and zoneout_c of the layer to 0"
        )


def _refuse_narrow_weights(input: Tensor, weights: Sequence[Tensor], names: str) -> None:
    for weight in weights:
        if weight.dtype != input.dtype:
            raise NotImplementedError(
                f"fastcells.onnx: weights must have the input's dtype, {input.dtype}, got "
                f"{weight.dtype}. Export the layer that was given to fastcells.quantize, and "
                "quantize the ONNX model"
            )


def _run_operator(
    cell: str,
    directions: int,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[reference.Weights],
    lengths: Tensor | None,
) -> Results:
    """One node of the cell's operator."""
    operator = OPERATORS[cell]
    steps, batch, _ = input.shape
    hidden = weights[0].weight_hh.shape[1]

    def stacked(parts: Sequence[Sequence[Tensor]]) -> Tensor:
        """`[D, ...]` of each direction's parts, the gates of each in ONNX's order."""
        return torch.stack(
            [
                torch.cat([p[k * hidden : (k + 1) * hidden] for p in own for k in operator.blocks])
                for own in parts
            ]
        )

    biases = [(w.bias_ih, w.bias_hh) for w in weights
              if w.bias_ih is not None and w.bias_hh is not None]  # fmt: skip
    attributes = {"hidden_size": hidden, **operator.attributes}
    attributes["direction"] = "bidirectional" if directions == 2 else "forward"
    if operator.activation is not None:
        attributes["activations"] = [operator.activation] * directions
    has_c = reference.find_cell(cell).states == 2
    state = (directions, batch, hidden)
    shapes = [(steps, directions, batch, hidden), state, *([state] if has_c else [])]
    output, *finals = symbolic_multi_out(
        operator.name,
        (
            input,
            stacked([(w.weight_ih,) for w in weights]),
            stacked([(w.weight_hh,) for w in weights]),
            stacked(biases) if biases else None,
            None if lengths is None else lengths.to(torch.int32),
            h_0,
            *([c_0] if has_c else []),
        ),
        attributes,
        dtypes=[input.dtype] * len(shapes),
        shapes=shapes,
        version=OPSET,
    )
    if lengths is not None:  # of an empty row ONNX does not say what its final states are
        finals = [
            final if first is None else torch.where((lengths == 0)[:, None], first, final)
            for final, first in zip(finals, (h_0, c_0), strict=False)
        ]
    return Results(output.transpose(1, 2).flatten(2), *finals)


def _run_scan(
    cell: str,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[reference.Weights],
    lengths: Tensor | None,
    resets: Tensor | None,
) -> Results:
    """One Scan a direction, whose body is the reference's step."""
    described = reference.find_cell(cell)
    batch = input.shape[1]
    exists = steps_that_exist(input, lengths)
    if exists is not None:
        input = torch.where(exists, input, 0.0)

    def step(states: Tensors, now: Tensors, weights: Tensors) -> Tensors:
        also = (now["s"],) if described.reads_input else ()
        w = reference.Weights(**weights)
        h, c = described.step(now["x"], states["h"], states.get("c"), w, *also)
        return {"h": h} if c is None else {"h": h, "c": c}

    results = []
    for d, w in enumerate(weights):
        hidden = w.weight_ih.shape[0] // described.gates
        width = reference.width_of_h(cell, w)
        initial = {"h": input.new_zeros(batch, width) if h_0 is None else h_0[d]}
        if described.states == 2:
            initial["c"] = input.new_zeros(batch, hidden) if c_0 is None else c_0[d]
        sequences = {"x": input}
        if described.reads_input:  # of D*H columns each direction reads its own
            is_whole = input.shape[2] == hidden
            sequences["s"] = input if is_whole else input.narrow(2, d * hidden, hidden)
        given = {name: weight for name, weight in w._asdict().items() if weight is not None}
        results.append(run_scan(step, initial, sequences, given, exists, resets, d == 1))
    finals, outputs = zip(*results, strict=True)
    h_n, output = torch.stack([f["h"] for f in finals]), torch.cat([o["h"] for o in outputs], -1)
    if described.states == 1:
        return Results(output, h_n)
    c_n = torch.stack([f["c"] for f in finals])
    return Results(output, h_n, c_n, torch.cat([o["c"] for o in outputs], -1))
