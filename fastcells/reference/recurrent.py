"""Every recurrent op again in plain torch, written for reading.

Three uses: the oracle of the tests, the path of every transform that the kernels cannot take
(forward mode, second derivatives), and the documentation of what the kernels compute. It shares
no code with them. Letters: T steps, B batch, I input, H hidden units, P width of h (H, or
`proj_size`), G gates, D directions. Each step function reads

    step(x [B, I], h [B, P], c [B, H] or None, weights) -> (h', c' or None)

and everything is differentiable to any order and can be vmapped: no value steers the control flow.
Cells whose units see themselves alone are in `elementwise`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from . import elementwise as own
from .noise import Noise

__all__ = [
    "CELLS",
    "CellReference",
    "Weights",
    "declare",
    "find_cell",
    "parts",
    "recurrent",
    "recurrent_step",
    "split_weights",
    "width_of_h",
]


class Weights(NamedTuple):
    """Parameters of one direction of one layer, with torch.nn's row order of the gates."""

    weight_ih: Tensor  # [G*H, I]
    # [G*H, P]; of an elementwise cell [V*H]. None where V is 0, of cells that do not read it.
    weight_hh: Tensor = None  # type: ignore[assignment]
    bias_ih: Tensor | None = None  # [G*H]
    bias_hh: Tensor | None = None  # [G*H]
    weight_hr: Tensor | None = None  # [P, H]: the projection of an LSTM with proj_size
    skip_scale: Tensor | None = None  # [H], of a cell that reads the input as it is; None: 1
    norm_ih: Tensor | None = None  # [G*H]: gain of the normalised W_ih x; None: as it is
    norm_hh: Tensor | None = None  # [G*H]: gain of the normalised W_hh h; None: as it is
    norm_gates: Tensor | None = None  # [G*H], in the place of both: of their sum, gate by gate
    norm_c: Tensor | None = None  # [H]: gain of c', normalised on its way to h'
    norm_carried_c: Tensor | None = None  # [H], in its place: what is carried on is normalised, too
    norm_c_bias: Tensor | None = None  # [H], added to that
    unit_weights: Tensor = None  # type: ignore[assignment]  # [V*H], of a cell that has vectors
    noise: Tensor | None = None  # float64 [5]: see `noise`
    dropped: Tensor | None = None  # [B, H]: factors of h in front of W_hh, drawn from noise


#: Added to a variance, as in torch.nn.LayerNorm.
NORM_EPSILON = 1e-5


def parts(x: Tensor, h: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
    """What a cell takes of x and of h: W_ih x + b_ih and W_hh h + b_hh; with norms
    LN(W_ih x) norm_ih + b_ih and LN(W_hh h) norm_hh + b_hh (Ba et al. 2016,
    https://arxiv.org/abs/1607.06450), or with norm_gates b_ih and LN(W_ih x + W_hh h) norm_gates +
    b_hh, each gate by itself."""
    if w.dropped is not None:
        h = h * w.dropped
    if w.norm_gates is not None:
        total = linear(x, w.weight_ih) + linear(h, w.weight_hh)
        hidden = h.shape[-1]
        gates = layer_norm(total.unflatten(-1, (-1, hidden)), (hidden,), eps=NORM_EPSILON)
        gates = gates.flatten(-2) * w.norm_gates
        zeros = torch.zeros_like(total)
        if w.bias_ih is None or w.bias_hh is None:
            return zeros, gates
        return zeros + w.bias_ih, gates + w.bias_hh
    return (
        _part(x, w.weight_ih, w.bias_ih, w.norm_ih),
        _part(h, w.weight_hh, w.bias_hh, w.norm_hh),
    )


def _part(x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None) -> Tensor:
    if gain is None:
        return linear(x, weight, bias)
    return layer_norm(linear(x, weight), weight.shape[:1], gain, bias, NORM_EPSILON)


def rnn_tanh_step(x: Tensor, h: Tensor, c: None, w: Weights) -> tuple[Tensor, None]:
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), torch.nn.RNN."""
    return torch.tanh(torch.add(*parts(x, h, w))), None


def rnn_relu_step(x: Tensor, h: Tensor, c: None, w: Weights) -> tuple[Tensor, None]:
    """h' = relu(W_ih x + b_ih + W_hh h + b_hh), torch.nn.RNN(nonlinearity="relu")."""
    return torch.relu(torch.add(*parts(x, h, w))), None


def lstm_step(x: Tensor, h: Tensor, c: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
    """c' = f c + i g;  h' = W_hr (o tanh(c')), torch.nn.LSTM; W_hr only with proj_size. With norm_c
    h' = o tanh(LN(c') norm_c + norm_c_bias), and with norm_carried_c that is c', too."""
    i, f, g, o = torch.add(*parts(x, h, w)).chunk(4, dim=-1)
    c = inner = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    gain = w.norm_carried_c if w.norm_c is None else w.norm_c
    if gain is not None:
        inner = layer_norm(c, c.shape[-1:], gain, w.norm_c_bias, NORM_EPSILON)
        c = c if w.norm_carried_c is None else inner
    h = torch.sigmoid(o) * torch.tanh(inner)
    return (h if w.weight_hr is None else linear(h, w.weight_hr)), c


def lstm_peephole_step(x: Tensor, h: Tensor, c: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
    """i and f see p_i c and p_f c, o sees p_o c': Gers and Schmidhuber 2000; Graves 2013,
    https://arxiv.org/abs/1308.0850, equations 7 to 11. p_i, p_f, p_o are `unit_weights`."""
    i, f, g, o = torch.add(*parts(x, h, w)).chunk(4, dim=-1)
    p_i, p_f, p_o = w.unit_weights.chunk(3)
    new = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
    return torch.sigmoid(o + p_o * new) * torch.tanh(new), new


def gru_step(x: Tensor, h: Tensor, c: None, w: Weights) -> tuple[Tensor, None]:
    """n = tanh(x_n + r (W_hn h + b_hn));  h' = (1 - z) n + z h, torch.nn.GRU."""
    x_part, h_part = parts(x, h, w)
    x_r, x_z, x_n = x_part.chunk(3, dim=-1)
    h_r, h_z, h_n = h_part.chunk(3, dim=-1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    return (1 - z) * n + z * h, None


def gru_reset_before_step(x: Tensor, h: Tensor, c: None, w: Weights) -> tuple[Tensor, None]:
    """n = tanh(x_n + W_hn (r h) + b_hn), Cho et al. 2014, https://arxiv.org/abs/1406.1078v3."""
    hidden = h.shape[-1]
    x_r, x_z, x_n = linear(x, w.weight_ih, w.bias_ih).chunk(3, dim=-1)
    bias_rz = None if w.bias_hh is None else w.bias_hh[: 2 * hidden]
    bias_n = None if w.bias_hh is None else w.bias_hh[2 * hidden :]
    h_r, h_z = linear(h, w.weight_hh[: 2 * hidden], bias_rz).chunk(2, dim=-1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + linear(r * h, w.weight_hh[2 * hidden :], bias_n))
    return (1 - z) * n + z * h, None


def gru_article_step(x: Tensor, h: Tensor, c: None, w: Weights) -> tuple[Tensor, None]:
    """n = r tanh(x_n + (1 - z) (W_hn h + b_hn)): the GRU as the article prints it."""
    x_part, h_part = parts(x, h, w)
    x_r, x_z, x_n = x_part.chunk(3, dim=-1)
    h_r, h_z, h_n = h_part.chunk(3, dim=-1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = r * torch.tanh(x_n + (1 - z) * h_n)
    return (1 - z) * n + z * h, None


class CellReference(NamedTuple):
    """A cell as the reference knows it."""

    step: Callable[..., tuple[Tensor, Tensor | None]]
    gates: int
    states: int  # 1: h; 2: h and c
    unit_weights: int | None = None  # V of an elementwise cell; None: W_hh is a matrix
    vectors: int = 0  # V of a cell with W_hh and vectors of its own
    reads_input: bool = False  # the step takes H columns of the input as they are, too
    carried: int = 1  # states that stand side by side in c, [B, carried*H]


#: Every cell of the project by its name; the test lists are made from it.
CELLS: dict[str, CellReference] = {
    "rnn_tanh": CellReference(rnn_tanh_step, gates=1, states=1),
    "rnn_relu": CellReference(rnn_relu_step, gates=1, states=1),
    "lstm": CellReference(lstm_step, gates=4, states=2),
    "gru": CellReference(gru_step, gates=3, states=1),
    "gru_reset_before": CellReference(gru_reset_before_step, gates=3, states=1),
    "gru_article": CellReference(gru_article_step, gates=3, states=1),
    "indrnn_tanh": CellReference(own.indrnn_step(torch.tanh), 1, 1, 1),
    "indrnn_relu": CellReference(own.indrnn_step(torch.relu), 1, 1, 1),
    "sru": CellReference(own.sru_step, 3, 2, 2, reads_input=True),
    "sru_skip": CellReference(own.sru_skip_step, 4, 2, 2),
    "qrnn": CellReference(own.qrnn_step, 3, 2, 0),
    "min_gru": CellReference(own.min_gru_step(True), 2, 1, 0),
    "min_gru_identity": CellReference(own.min_gru_step(False), 2, 1, 0),
    "min_lstm": CellReference(own.min_lstm_step(True), 3, 2, 0),
    "min_lstm_identity": CellReference(own.min_lstm_step(False), 3, 2, 0),
    "rg_lru": CellReference(own.rg_lru_step, 2, 1, 1, reads_input=True),
    "diagonal_gru": CellReference(own.diagonal_gru_step, 3, 1, 3),
    "diagonal_lstm": CellReference(own.diagonal_lstm_step, 3, 2, 3),
    "lstm_peephole": CellReference(lstm_peephole_step, gates=4, states=2, vectors=3),
}


#: Cells from equations (fastcells.equations), by their names.
_DECLARED: dict[str, CellReference] = {}


def declare(name: str, cell: CellReference) -> None:
    """Makes a cell from equations known."""
    _DECLARED[name] = cell


def find_cell(name: str) -> CellReference:
    """A cell of the project, or one from equations. KeyError for an unknown name."""
    return CELLS[name] if name in CELLS else _DECLARED[name]


def width_of_h(cell: str, weights: Weights) -> int:
    """P: H, or the rows of the projection."""
    described = find_cell(cell)
    if described.unit_weights is None:
        return weights.weight_hh.shape[1]
    return weights.weight_ih.shape[0] // described.gates


def split_weights(weights: Sequence[Tensor], names: str) -> list[Weights]:
    """The flat list of an op, one direction after the other, by name."""
    listed = names.split()
    count = len(listed)
    return [
        Weights(**dict(zip(listed, weights[i : i + count], strict=True)))
        for i in range(0, len(weights), count)
    ]


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic and cell state of 16-bit storage are float32, as in the kernels."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _in_arithmetic(w: Weights, compute: torch.dtype) -> Weights:
    cast: list[Any] = [None if p is None else p.to(compute) for p in w]
    return Weights(*cast)._replace(noise=w.noise)


def _run_direction(
    cell: CellReference,
    input: Tensor,  # [T, B, I]
    raw: Tensor | None,  # [T, B, H]: the columns that are read as they are
    h: Tensor,  # [B, P]
    c: Tensor | None,  # [B, N*H]: the states beside h
    weights: Weights,
    lengths: Tensor | None,  # [B]
    resets: Tensor | None,  # [T, B]
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """One direction over time: all h [T, B, P], the last h, the last c and all c [T, B, H]."""
    steps = input.shape[0]
    noise = None
    if weights.noise is not None:
        noise = Noise(weights.noise, h)
        weights = weights._replace(dropped=noise.dropped(h))
    outputs: list[Tensor] = [h] * steps
    cells: list[Any] = [c] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        boundary = t + 1 if reverse else t  # a reset at `boundary` parts it from `boundary - 1`
        h_in, c_in = h, c
        if resets is not None and boundary < steps:
            cut = resets[boundary]
            if lengths is not None:
                cut = cut & (boundary < lengths)
            h_in = torch.where(cut[:, None], torch.zeros_like(h), h)
            c_in = None if c is None else torch.where(cut[:, None], torch.zeros_like(c), c)
        also = () if raw is None else (raw[t],)
        h_new, c_new = cell.step(input[t], h_in, c_in, weights, *also)
        if noise is not None:
            h_new = noise.zoned_out(t, h_in, h_new)
            if c_new is not None and c_in is not None:
                c_new = noise.zoned_out_c(t, c_in, c_new, cell.carried)
        outputs[t], cells[t] = h_new, c_new
        if lengths is not None:
            exists = (t < lengths)[:, None]
            outputs[t] = torch.where(exists, h_new, torch.zeros_like(h_new))
            h_new = torch.where(exists, h_new, h)
            if c_new is not None and c is not None:
                cells[t] = torch.where(exists, c_new, torch.zeros_like(c_new))
                c_new = torch.where(exists, c_new, c)
        h, c = h_new, c_new
    return torch.stack(outputs), h, c, None if c is None else torch.stack(cells)


def recurrent(
    cell: str,
    directions: int,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    names: str,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """One layer of `cell` in one or both directions.

    Args:
        cell: a name of :data:`CELLS`, or of a cell from equations.
        directions: D, 1 or 2; the second direction runs from each row's end to its start.
        input: `[T, B, I]`.
        h_0, c_0: `[D, B, P]`, `[D, B, H]`, or None for zeros.
        weights, names: the weights of the first direction, then those of the second; which field
            of :class:`Weights` each of a direction's is, with spaces between.
        lengths: `[B]` int64, steps of each row; None means T.
        resets: `[T, B]` bool; no state passes from step t - 1 to t, or back, where it is set.

    Returns:
        output `[T, B, D*P]`, h_n `[D, B, P]`, c_n `[D, B, H]`, cells `[T, B, D*H]`; the last two
        None for a cell without c. Dtypes are the input's, but cells of 16-bit storage are float32.
    """
    described = find_cell(cell)
    storage, compute = input.dtype, _compute_dtype(input.dtype)
    batch = input.shape[1]
    input = input.to(compute)
    if lengths is not None:  # NaN past a row's end must reach no product, forward or backward
        steps = torch.arange(input.shape[0], device=input.device)
        exists = (steps[:, None] < lengths)[:, :, None]
        input = torch.where(exists, input, torch.zeros_like(input))
    results = []
    for d, stored in enumerate(split_weights(weights, names)):
        w = _in_arithmetic(stored, compute)
        hidden = w.weight_ih.shape[0] // described.gates
        h = input.new_zeros(batch, width_of_h(cell, w)) if h_0 is None else h_0[d].to(compute)
        c = None
        if described.states == 2:
            width = described.carried * hidden
            c = input.new_zeros(batch, width) if c_0 is None else c_0[d].to(compute)
        raw: Tensor | None = None
        if described.reads_input:  # of D*H columns each direction reads its own
            raw = input if input.shape[2] == hidden else input.narrow(2, d * hidden, hidden)
        reverse = d == 1
        results.append(_run_direction(described, input, raw, h, c, w, lengths, resets, reverse))
    outputs, h_n, c_n, cells = zip(*results, strict=True)
    output, last = torch.cat(outputs, dim=-1).to(storage), torch.stack(h_n).to(storage)
    if described.states == 1:
        return output, last, None, None
    return output, last, torch.stack(c_n).to(storage), torch.cat(cells, dim=-1)


def recurrent_step(
    cell: str,
    input: Tensor,
    h: Tensor,
    c: Tensor | None,
    weights: Sequence[Tensor],
    names: str,
) -> tuple[Tensor, Tensor | None]:
    """One step of `cell`: input `[B, I]`, h `[B, P]`, c `[B, H]` -> h', c' (None without c)."""
    _, h_n, c_n, _ = recurrent(
        cell, 1, input[None], h[None], None if c is None else c[None], weights, names
    )
    return h_n[0], None if c_n is None else c_n[0]
