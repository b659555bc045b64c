"""Stateless attention: the functions behind the layers.

Letters: B batch, N heads of the query, Nk heads of key and value, Tq queries, Tk keys, E width of
query and key, Ev width of value; D units of an additive score. Which implementation takes a call:
:mod:`fastcells.functional.routing`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.bias import CausalBias, CausalVariant

from ..checks import attention as checks
from ..ops import attention as ops
from .attention_autograd import (
    SCORES,
    AdditiveOptions,
    Attention,
    DotOptions,
    forward_without_graph,
)
from .autocast import cast, low_dtype, wide_mask, without_autocast
from .graphs import Proxy, function_node
from .processes import settle_in_forked_child
from .routing import (
    choose_attention_route,
    is_functionalized,
    is_traced,
    needs_grad,
    torch_is_faster,
)

__all__ = [
    "additive_attention",
    "multihead_at_once",
    "scaled_dot_product_attention",
    "self_attention_at_once",
]

#: Whole layers in one call of C++, or None: fastcells.ops.attention.
multihead_at_once, self_attention_at_once = ops.multihead_at_once, ops.self_attention_at_once


#: The functions as they speak in an error.
SDPA, ADDITIVE = "scaled_dot_product_attention", "additive_attention"
NAMES = {"dot": SDPA, "additive": ADDITIVE}


def draw_seed(device: torch.device) -> Tensor:
    """`[1]` int64 of torch's default generator, which torch.manual_seed repeats."""
    return torch.randint(0, 2**62, (1,), dtype=torch.int64, device=device)


def run_attention(
    score: str,
    variables: Sequence[Tensor],
    mask: Tensor | None,
    key_lengths: Tensor | None,
    options: DotOptions | AdditiveOptions,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """One attention, on the kernels or on the reference, of arguments as the op takes them: output
    and weights, None where they are not asked for."""
    query, key = variables[:2]
    seed = draw_seed(query.device) if options.dropout_p > 0 else None
    tensors = (*variables, mask)
    width = max(query.shape[-1], variables[2].shape[-1]) if score == "dot" else 0
    if not choose_attention_route(tensors, width).is_kernel:
        if key_lengths is not None:
            checks.check_range_of_key_lengths(NAMES[score], key_lengths, key.shape[-2])
        with without_autocast(query):
            output, weights = SCORES[score].reference(*variables, mask, key_lengths, seed, *options)
    elif torch.compiler.is_compiling() or torch.jit.is_tracing() or is_functionalized():
        output, _, weights = SCORES[score].forward(
            *variables, mask, key_lengths, seed, *options, return_weights
        )
    else:
        run = Attention.apply if needs_grad(tensors) else forward_without_graph
        output, _, weights = run(
            score, options, return_weights, mask, key_lengths, seed, *variables
        )
    return output, weights if return_weights else None


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | CausalBias | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    softcap: float | None = None,
    window: tuple[int | None, int | None] | None = None,
    key_lengths: Tensor | None = None,
    causal_alignment: str = "top_left",
    return_weights: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Attention with dot-product scores, in the place of torch's function of this name.

    .. math::
        s_{ij} = c \tanh(\tfrac{\alpha}{c}\, q_i \cdot k_j) + m_{ij} \qquad
        w_{i\cdot} = \mathrm{softmax}_j(s_{ij}) \qquad o_i = \sum_j w_{ij} v_j

    with :math:`\alpha` the scale, c the softcap (without it the score is
    :math:`\alpha\, q_i \cdot k_j`) and the softmax over the keys that query i sees. A query that
    sees none gives 0, forward and backward.

    Args:
        query, key, value: `[..., Tq, E]`, `[..., Tk, E]`, `[..., Tk, Ev]`, of one dtype: float32,
            float64, bfloat16 or float16; the last of the leading dimensions are the heads. Leading
            dimensions broadcast.
        attn_mask: broadcastable to `[..., Tq, Tk]`: bool (True: attend), float32 or the query's
            dtype (added to the score in float32 at least, with a gradient of its own shape and
            dtype), or a CausalBias of torch.nn.attention.bias. Only False and -inf hide a key:
            any other number, finfo.min too, is added.
        dropout_p: probability of a weight to be zeroed, applied whenever it is above 0. Which ones
            depends on a seed from torch's generator and on the position alone.
        is_causal: query i sees the keys up to i; with causal_alignment="bottom_right" those up to
            i + Tk - Tq. Not together with attn_mask.
        scale: None means 1 / sqrt(E).
        enable_gqa: key and value may have fewer heads than the query: head n of the query reads
            head n // (N // Nk).
        softcap: c, a positive number.
        window: (left, right): query i sees the keys i - left .. i + right, shifted as is_causal
            by causal_alignment; None or -1 is no limit on that side.
        key_lengths: int64, of the shape of the leading dimensions without the heads: `[B]` beside
            `[B, N, Tk, E]` and beside `[B, Tk, E]`; keys from there on do not exist, whatever they
            hold.
        return_weights: also return w after dropout, `[..., Tq, Tk]`, differentiable.

    Returns:
        output `[..., Tq, Ev]`, or (output, weights), in the query's dtype.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit together, attn_mask with is_causal,
            dropout_p outside 0..1.
        ValueError: softcap, window, causal_alignment or key_lengths out of range.
        TypeError: arguments of another kind.

    Source: Vaswani et al. (2017), https://arxiv.org/abs/1706.03762; the softcap: Bello et al.
    (2016), https://arxiv.org/abs/1611.09940.

    Example:
        >>> query, key, value = torch.randn(3, 2, 8, 5, 16)  # [B, N, T, E] each
        >>> output = fastcells.scaled_dot_product_attention(
        ...     query, key, value, key_lengths=torch.tensor([5, 3]), window=(3, 0)
        ... )
    """
    if isinstance(query, Proxy):
        return function_node(scaled_dot_product_attention, locals())
    settle_in_forked_child()
    if not (enable_gqa or window or is_traced()) and causal_alignment == "top_left":
        done = ops.dot_at_once(
            query, key, value, attn_mask, key_lengths, return_weights, is_causal, dropout_p, scale,
            softcap,
        )  # fmt: skip
        if done is not None:
            return done
    if isinstance(attn_mask, CausalBias):
        checks.check_causal_bias(SDPA, attn_mask, query, key, is_causal)
        causal_alignment, attn_mask, is_causal = _alignment_of(attn_mask), None, True
    checks.check_attention_kinds(SDPA, attn_mask, dropout_p, query=query, key=key, value=value)
    checks.check_score_options(SDPA, scale, softcap, window, causal_alignment)
    if is_causal and attn_mask is not None:
        raise RuntimeError(
            "_scaled_dot_product_attention: Explicit attn_mask should not be set when "
            "is_causal=True"
        )
    low = low_dtype(query)
    if low is not None:
        query, key, value = cast((query, key, value), low)
        attn_mask = wide_mask(attn_mask, low)
    checks.check_attention(SDPA, query, key, value, attn_mask, dropout_p)
    rows, columns, width = query.shape[-2], key.shape[-2], query.shape[-1]
    leading, variables, mask, lengths = _as_batch_of_heads(
        query, key, value, attn_mask, key_lengths, enable_gqa
    )
    left, right = limits(window, is_causal)
    is_limited = left >= 0 or right >= 0
    options = DotOptions(
        scale=default_scale(width) if scale is None else scale,
        softcap=0.0 if softcap is None else float(softcap),
        left=left, right=right, dropout_p=float(dropout_p),
        offset=columns - rows if is_limited and causal_alignment == "bottom_right" else 0,
    )  # fmt: skip
    is_plain = attn_mask is None and key_lengths is None and not return_weights
    if is_plain and options in _of_torch(options.scale) and torch_is_faster(*variables):
        query, key, value = variables
        return _with_leading(_run_torch(query, key, value, options), leading)
    output, weights = run_attention("dot", variables, mask, lengths, options, return_weights)
    output = _with_leading(output, leading)
    return output if weights is None else (output, _with_leading(weights, leading))


def _alignment_of(bias: CausalBias) -> str:
    return "bottom_right" if bias.variant == CausalVariant.LOWER_RIGHT else "top_left"


def _of_torch(scale: float) -> tuple[DotOptions, DotOptions]:
    """The options that torch's function has."""
    return DotOptions(scale), DotOptions(scale, right=0)


def _run_torch(query: Tensor, key: Tensor, value: Tensor, options: DotOptions) -> Tensor:
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=options.right == 0,
        scale=options.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def default_scale(width: int) -> float:
    """1 / sqrt(E); without a width all scores are 0, whatever the scale."""
    return width**-0.5 if width else 1.0


def limits(window: tuple[int | None, int | None] | None, is_causal: bool) -> tuple[int, int]:
    """How far to the left and to the right of itself a query sees; -1: no limit there."""
    left, right = (-1 if w is None else int(w) for w in window or (None, None))
    return left, 0 if is_causal else right


def _as_batch_of_heads(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    key_lengths: Tensor | None,
    enable_gqa: bool,
) -> tuple[tuple[int, ...], tuple[Tensor, ...], Tensor | None, Tensor | None]:
    """Leading dimensions of the result, and the arguments as the op takes them: `[B, N, T, X]`,
    the mask 4-D, the lengths 1-D."""
    shapes = [tuple(t.shape[:-2]) for t in (query, key, value)]
    is_plain = len(shapes[0]) == 2 and shapes[0] == shapes[1] == shapes[2]
    if is_plain and mask is None and key_lengths is None:
        return shapes[0], (query, key, value), None, None
    if shapes[0] == shapes[1] == shapes[2]:
        leading = shapes[0]
    elif enable_gqa:
        checks.check_grouped_heads(SDPA, *shapes)
        leading = (*checks.broadcast(SDPA, [s[:-1] for s in shapes]), shapes[0][-1])
    else:
        leading = checks.broadcast(SDPA, shapes)
    has_heads = len(leading) > 1 or (enable_gqa and len(leading) == 1)
    batch = leading[:-1] if has_heads else leading
    checks.check_key_lengths(SDPA, key_lengths, batch, query)
    if mask is not None:
        checks.check_broadcastable(SDPA, mask, (*leading, query.shape[-2], key.shape[-2]))
        mask = _mask_as_batch_of_heads(mask, batch, has_heads)
    variables = [query, key, value]
    if any(t.dim() != 4 or t.shape[0] != leading[0] for t in variables):
        variables = [_expanded(t, leading, batch, has_heads, enable_gqa) for t in variables]
    elif not enable_gqa and not shapes[0] == shapes[1] == shapes[2]:
        variables = [t.expand(*leading, *t.shape[-2:]) for t in variables]
    query, key, value = variables
    if key.shape[1] != value.shape[1]:  # torch lets either have the fewer heads
        key, value = (t.repeat_interleave(leading[-1] // t.shape[1], dim=1) for t in (key, value))
    if key_lengths is not None and key_lengths.dim() != 1:
        key_lengths = key_lengths.reshape(-1)
    return leading, (query, key, value), mask, key_lengths


def _expanded(
    tensor: Tensor,
    leading: tuple[int, ...],
    batch: tuple[int, ...],
    has_heads: bool,
    is_grouped: bool,
) -> Tensor:
    """`[..., T, X]` as `[B, N, T, X]`, or, grouped, `[B, Nk, T, X]`."""
    heads: tuple[int, ...] = ()
    if has_heads:
        heads = (tensor.shape[-3] if is_grouped else leading[-1],)
    rest = tensor.shape[-2:]
    return tensor.expand(*batch, *heads, *rest).reshape(_product(batch), *(heads or (1,)), *rest)


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product = product * size
    return product


def _mask_as_batch_of_heads(mask: Tensor, batch: tuple[int, ...], has_heads: bool) -> Tensor:
    """A mask of up to all dimensions as `[1|B, 1|N, 1|Tq, 1|Tk]`."""
    missing = len(batch) + has_heads + 2 - mask.dim()
    mask = mask.reshape(*(1,) * missing, *mask.shape)
    if not has_heads:
        mask = mask.unsqueeze(-3)
    own = mask.shape[: len(batch)]
    if len(batch) == 1:
        return mask
    if all(size == 1 for size in own):
        return mask.reshape(1, *mask.shape[-3:])
    return mask.expand(*batch, *mask.shape[-3:]).reshape(_product(batch), *mask.shape[-3:])


def _with_leading(result: Tensor, leading: tuple[int, ...]) -> Tensor:
    """`[B, N, Tq, X]` with the caller's leading dimensions."""
    if len(leading) == 2:
        return result
    return result.reshape(*leading, *result.shape[-2:])


def additive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: Tensor,
    *,
    attn_mask: Tensor | None = None,
    key_lengths: Tensor | None = None,
    dropout_p: float = 0.0,
    return_weights: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Attention with additive scores, after Bahdanau.

    .. math::
        s_{ij} = \sum_d u_d \tanh(q_{id} + k_{jd}) + m_{ij} \qquad
        w_{i\cdot} = \mathrm{softmax}_j(s_{ij}) \qquad o_i = \sum_j w_{ij} v_j

    with u the scale. The `[B, Tq, Tk, D]` tensor of the tanh is never held by the kernels, forward
    or backward. Query and key are projected before, as :class:`fastcells.AdditiveAttention` does.

    Args:
        query, key, value: `[B, Tq, D]`, `[B, Tk, D]`, `[B, Tk, E]`, of one dtype: float32,
            float64, bfloat16 or float16.
        scale: `[D]`.
        attn_mask: broadcastable to `[B, Tq, Tk]`: bool (True: attend), or float32 or the query's
            dtype (added), as for :func:`scaled_dot_product_attention`.
        key_lengths: int64 `[B]`; keys from there on do not exist, whatever they hold.
        dropout_p, return_weights: as for :func:`scaled_dot_product_attention`.

    Returns:
        output `[B, Tq, E]`, or (output, weights `[B, Tq, Tk]`), in the query's dtype. A query that
        sees no key gives 0.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit together, dropout_p outside 0..1.
        ValueError: key_lengths out of range.
        TypeError: arguments of another kind.

    Source: Bahdanau et al. (2014), https://arxiv.org/abs/1409.0473; Keras' AdditiveAttention.

    Example:
        >>> query, key = torch.randn(2, 1, 16), torch.randn(2, 9, 16)
        >>> context = fastcells.additive_attention(query, key, key, torch.randn(16))
    """
    if isinstance(query, Proxy):
        return function_node(additive_attention, locals())
    settle_in_forked_child()
    if not is_traced():
        done = ops.additive_at_once(
            query, key, value, scale, attn_mask, key_lengths, return_weights, dropout_p
        )
        if done is not None:
            return done
    checks.check_attention_kinds(
        ADDITIVE, attn_mask, dropout_p, query=query, key=key, value=value, scale=scale
    )
    low = low_dtype(query)
    if low is not None:
        query, key, value, scale = cast((query, key, value, scale), low)
        attn_mask = wide_mask(attn_mask, low)
    checks.check_attention(ADDITIVE, query, key, value, attn_mask, dropout_p)
    checks.check_additive(ADDITIVE, query, key, value, scale)
    batch, rows, _ = query.shape
    checks.check_key_lengths(ADDITIVE, key_lengths, (batch,), query)
    if attn_mask is not None:
        checks.check_broadcastable(ADDITIVE, attn_mask, (batch, rows, key.shape[1]))
        attn_mask = attn_mask.reshape(*(1,) * (3 - attn_mask.dim()), *attn_mask.shape)
    output, weights = run_attention(
        "additive",
        (query, key, value, scale),
        attn_mask,
        key_lengths,
        AdditiveOptions(float(dropout_p)),
        return_weights,
    )
    return output if weights is None else (output, weights)
