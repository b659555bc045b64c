"""Stateless RNN, LSTM and GRU: the functions behind the layers.

Letters: T steps, B batch, I input, H hidden units, P width of h (H, or `proj_size`), G gates,
D directions (1, or 2 when bidirectional), L layers. Equations and gate order are torch.nn's.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..checks import recurrent as checks
from ..checks.tensors import check_flag
from .graphs import Proxy, function_node
from .recurrent_calls import run_stack, run_step

__all__ = ["gru", "gru_cell", "lstm", "lstm_cell", "rnn", "rnn_cell"]

#: GRU variants and the cells that compute them.
GRU_VARIANTS = {
    "reset_after": "gru",
    "reset_before": "gru_reset_before",
    "article": "gru_article",
}


def rnn(
    input: Tensor,
    h_0: Tensor | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    nonlinearity: str = "tanh",
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Elman network over a sequence.

    .. math:: h_t = f(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    Args:
        input: `[T, B, I]`, float32, float64, bfloat16 or float16.
        h_0: `[L*D, B, H]`, or None for zeros.
        weights: for each layer and direction w_ih `[H, I or D*H]`, w_hh `[H, H]`, and b_ih, b_hh
            `[H]` or neither, in the order of `torch.nn.RNN`'s parameters.
        dropout: probability of an element between layers to be zeroed, in [0, 1].
        nonlinearity: f, "tanh" or "relu".
        lengths: `[B]` int64 in 0..T, steps of each row: outputs past them are 0, the final states
            are those at each row's end, the reverse direction starts there. None: T.
        resets: `[T, B]` bool: the state is zero before a step where it is set, in both directions.
        recompute: keep the states alone for the way back, which computes the gates again: less
            memory, more time, the same gradients. See :class:`fastcells.RNN`.

    Returns:
        output `[T, B, D*H]` and h_n `[L*D, B, H]`.

    Raises:
        ValueError: unknown nonlinearity, lengths out of range.
        RuntimeError, TypeError: shapes, dtypes or devices that do not fit together.

    Source: Elman (1990), "Finding structure in time"; :class:`torch.nn.RNN`.

    Example:
        >>> weights = [torch.randn(20, 10), torch.randn(20, 20)]
        >>> output, h_n = fastcells.functional.rnn(torch.randn(5, 3, 10), None, weights)
    """
    if isinstance(input, Proxy):
        return function_node(rnn, locals())
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"rnn: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    check_flag("rnn", "recompute", recompute)
    checks.check_function("rnn", input=input, h_0=h_0)
    layers, names = checks.split_weights("rnn", weights, num_layers, 1 + bidirectional)
    output, h_n, _, _ = run_stack(
        f"rnn_{nonlinearity}", 1 + bidirectional, input, h_0, None, layers, names, lengths, resets,
        dropout, recompute=recompute,
    )  # fmt: skip
    return output, h_n


def lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    return_cell_states: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor]] | tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    r"""Long short-term memory over a sequence.

    .. math::
        i, f, o = \sigma(W_{i\cdot} x_t + b_{i\cdot} + W_{h\cdot} h_{t-1} + b_{h\cdot}) \quad
        g = \tanh(W_{ig} x_t + b_{ig} + W_{hg} h_{t-1} + b_{hg}) \\
        c_t = f \odot c_{t-1} + i \odot g \qquad h_t = W_{hr} (o \odot \tanh(c_t))

    W_hr only with projections. Rows of the weights: i, f, g, o. For 16-bit input c is carried in
    float32.

    Args:
        input: `[T, B, I]`, float32, float64, bfloat16 or float16.
        hx: h_0 `[L*D, B, P]` and c_0 `[L*D, B, H]`, or None for zeros.
        weights: for each layer and direction w_ih `[4H, I or D*P]`, w_hh `[4H, P]`, b_ih and b_hh
            `[4H]` or neither, w_hr `[P, H]` with projections; `torch.nn.LSTM`'s order.
        dropout, lengths, resets, recompute: as for :func:`rnn`.
        return_cell_states: also return c_t of every step of the last layer, `[T, B, D*H]`.

    Returns:
        output `[T, B, D*P]`, (h_n `[L*D, B, P]`, c_n `[L*D, B, H]`), and all c_t when asked for.

    Raises:
        ValueError: lengths out of range.
        RuntimeError, TypeError: shapes, dtypes or devices that do not fit together.

    Source: Hochreiter, Schmidhuber (1997); Sak et al. (2014), https://arxiv.org/abs/1402.1128 for
    projections; :class:`torch.nn.LSTM`.

    Example:
        >>> weights = [torch.randn(80, 10), torch.randn(80, 20), torch.randn(80), torch.randn(80)]
        >>> output, (h_n, c_n) = fastcells.functional.lstm(torch.randn(5, 3, 10), None, weights)
    """
    if isinstance(input, Proxy):
        return function_node(lstm, locals())
    check_flag("lstm", "recompute", recompute)
    if hx is not None:
        checks.check_pair("lstm", hx)
    h_0, c_0 = hx or (None, None)
    checks.check_function("lstm", input=input)
    layers, names = checks.split_weights("lstm", weights, num_layers, 1 + bidirectional)
    output, h_n, c_n, cells = run_stack(
        "lstm", 1 + bidirectional, input, h_0, c_0, layers, names, lengths, resets, dropout,
        return_cell_states, recompute=recompute,
    )  # fmt: skip
    if return_cell_states:
        return output, (h_n, c_n), cells
    return output, (h_n, c_n)


def gru(
    input: Tensor,
    h_0: Tensor | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    variant: str = "reset_after",
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Gated recurrent unit over a sequence.

    .. math::
        r, z = \sigma(W_{i\cdot} x_t + b_{i\cdot} + W_{h\cdot} h_{t-1} + b_{h\cdot}) \qquad
        h_t = (1 - z) \odot n + z \odot h_{t-1}

    and, by variant,

    * "reset_after" (torch, cuDNN):
      :math:`n = \tanh(W_{in} x + b_{in} + r \odot (W_{hn} h + b_{hn}))`
    * "reset_before" (Cho et al. 2014, Keras `reset_after=False`):
      :math:`n = \tanh(W_{in} x + b_{in} + W_{hn} (r \odot h) + b_{hn})`
    * "article": :math:`n = r \odot \tanh(W_{in} x + b_{in} + (1 - z) \odot (W_{hn} h + b_{hn}))`

    Rows of the weights: r, z, n.

    Args:
        input: `[T, B, I]`, float32, float64, bfloat16 or float16.
        h_0: `[L*D, B, H]`, or None for zeros.
        weights: for each layer and direction w_ih `[3H, I or D*H]`, w_hh `[3H, H]`, and b_ih, b_hh
            `[3H]` or neither, in the order of `torch.nn.GRU`'s parameters.
        dropout, lengths, resets, recompute: as for :func:`rnn`.

    Returns:
        output `[T, B, D*H]` and h_n `[L*D, B, H]`.

    Raises:
        ValueError: unknown variant, lengths out of range.
        RuntimeError, TypeError: shapes, dtypes or devices that do not fit together.

    Source: Cho et al. (2014), https://arxiv.org/abs/1406.1078; :class:`torch.nn.GRU`.

    Example:
        >>> weights = [torch.randn(60, 10), torch.randn(60, 20), torch.randn(60), torch.randn(60)]
        >>> output, h_n = fastcells.functional.gru(torch.randn(5, 3, 10), None, weights)
    """
    if isinstance(input, Proxy):
        return function_node(gru, locals())
    check_flag("gru", "recompute", recompute)
    checks.check_function("gru", input=input, h_0=h_0)
    layers, names = checks.split_weights("gru", weights, num_layers, 1 + bidirectional)
    output, h_n, _, _ = run_stack(
        gru_cell_name(variant), 1 + bidirectional, input, h_0, None, layers, names, lengths, resets,
        dropout, recompute=recompute,
    )  # fmt: skip
    return output, h_n


def gru_cell_name(variant: str) -> str:
    """The cell of a GRU variant."""
    if variant not in GRU_VARIANTS:
        known = ", ".join(repr(name) for name in GRU_VARIANTS)
        raise ValueError(f"gru: variant must be one of {known}, got {variant!r}")
    return GRU_VARIANTS[variant]


def rnn_cell(
    input: Tensor, h: Tensor, weights: Sequence[Tensor], *, nonlinearity: str = "tanh"
) -> Tensor:
    """One step of :func:`rnn`: input `[B, I]`, h `[B, H]` -> h' `[B, H]`; weights of one layer.

    Errors: as :func:`rnn`.

    Example:
        >>> weights = [torch.randn(20, 10), torch.randn(20, 20)]
        >>> h = fastcells.functional.rnn_cell(torch.randn(3, 10), torch.zeros(3, 20), weights)
    """
    if isinstance(input, Proxy):
        return function_node(rnn_cell, locals())
    checks.check_function("rnn_cell", input=input, h=h)
    _, names = checks.split_weights("rnn_cell", weights, 1, 1)
    return run_step(f"rnn_{nonlinearity}", input, h, None, weights, names)[0]


def lstm_cell(
    input: Tensor, hx: tuple[Tensor, Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """One step of :func:`lstm`: input `[B, I]`, (h `[B, P]`, c `[B, H]`) -> (h', c').

    Errors: as :func:`lstm`.

    Example:
        >>> weights, hx = [torch.randn(80, 10), torch.randn(80, 20)], torch.zeros(2, 3, 20)
        >>> h, c = fastcells.functional.lstm_cell(torch.randn(3, 10), tuple(hx), weights)
    """
    if isinstance(input, Proxy):
        return function_node(lstm_cell, locals())
    checks.check_pair("lstm_cell", hx)
    checks.check_function("lstm_cell", input=input)
    _, names = checks.split_weights("lstm_cell", weights, 1, 1)
    return run_step("lstm", input, *hx, weights, names)


def gru_cell(
    input: Tensor, h: Tensor, weights: Sequence[Tensor], *, variant: str = "reset_after"
) -> Tensor:
    """One step of :func:`gru`: input `[B, I]`, h `[B, H]` -> h' `[B, H]`; weights of one layer.

    Errors: as :func:`gru`.

    Example:
        >>> weights = [torch.randn(60, 10), torch.randn(60, 20)]
        >>> h = fastcells.functional.gru_cell(torch.randn(3, 10), torch.zeros(3, 20), weights)
    """
    if isinstance(input, Proxy):
        return function_node(gru_cell, locals())
    checks.check_function("gru_cell", input=input, h=h)
    _, names = checks.split_weights("gru_cell", weights, 1, 1)
    return run_step(gru_cell_name(variant), input, h, None, weights, names)[0]
