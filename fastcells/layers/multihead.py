"""MultiheadAttention: torch.nn's layer on fastcells' kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..checks.attention import check_key_lengths
from ..checks.multihead import check_multihead
from ..checks.tensors import can_be_looked_at
from ..functional.attention import multihead_at_once, scaled_dot_product_attention
from ..functional.graphs import Proxy, Unscriptable, module_node
from ..functional.processes import settle_in_forked_child
from ..functional.routing import is_traced

__all__ = ["MultiheadAttention"]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """torch's, and a bias of another dtype is added to the product, which keeps its own."""
    if bias is None or bias.dtype == weight.dtype or torch._C._is_any_autocast_enabled():
        return nn.functional.linear(input, weight, bias)
    product = nn.functional.linear(input, weight)
    return (product + bias).to(product.dtype)


class MultiheadAttention(Unscriptable, nn.MultiheadAttention):
    r"""Attention of several heads, in the place of :class:`torch.nn.MultiheadAttention`.

    .. math::
        o = W_o\, [h_1, \dots, h_N] + b_o, \quad
        h_n = \mathrm{attention}(W^q_n x_q + b^q_n,\; W^k_n x_k + b^k_n,\; W^v_n x_v + b^v_n)

    Constructor, parameters, state_dict, results and errors are torch's. Beyond it: the weights
    come from the fused call (`need_weights=True` is the default, and no slower path); a query all
    of whose keys are masked gives the output bias, weights 0 and gradients 0, where torch has NaN;
    masks stay as they come, bool ones as bool, and none is expanded over the heads; a causal mask
    that is_causal announces skips what it hides. The hint changes no result: torch lets it take the
    place of a mask that is another.

    Args of a call:
        key_lengths: int64 `[B]`, on the input's device, each in 0..S: the keys of each row; what
            stands past them has no effect. `[]` beside unbatched input. Together with any mask.

    All others are torch's. In an encoder layer, put it in the place of `self_attn`; in inference,
    `torch.nn.TransformerEncoderLayer` may take its own fast path over the same parameters.

    Shapes: L queries, S keys, B batch, E `embed_dim`, N `num_heads`. query `[L, B, E]`
    (`[B, L, E]` with batch_first, `[L, E]` unbatched), key `[S, B, kdim]`, value `[S, B, vdim]`;
    output as the query; weights `[B, L, S]`, or `[B, N, L, S]` with average_attn_weights=False.

    Raises:
        AssertionError, RuntimeError: as torch.nn.MultiheadAttention.
        TypeError, ValueError: key_lengths of another kind, shape, device or out of range.

    Source: Vaswani et al. (2017), https://arxiv.org/abs/1706.03762;
    :class:`torch.nn.MultiheadAttention`.

    Example:
        >>> layer = fastcells.MultiheadAttention(16, 4, batch_first=True)
        >>> x = torch.randn(2, 5, 16)
        >>> output, weights = layer(x, x, x, key_lengths=torch.tensor([5, 3]))
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        key_lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """See the class, and torch.nn.MultiheadAttention."""
        if isinstance(query, Proxy):
            return module_node(self, locals())
        settle_in_forked_child()
        masks = (key_padding_mask, attn_mask)
        need_weights, average_attn_weights = bool(need_weights), bool(average_attn_weights)
        done = self._at_once(
            query, key, value, masks, need_weights, average_attn_weights, is_causal, key_lengths
        )
        if done is not None:
            return done
        given = {"query": query, "key": key, "value": value, "attn_mask": attn_mask,
                 "key_padding_mask": key_padding_mask}  # fmt: skip
        for name, tensor in given.items():
            if not (isinstance(tensor, Tensor) or (tensor is None and name.endswith("mask"))):
                raise TypeError(
                    f"MultiheadAttention: {name} must be a Tensor, got {type(tensor).__name__}"
                )
        if query.is_nested or key.is_nested or value.is_nested:
            return self._run_nested(
                query, key, value, key_padding_mask, need_weights, attn_mask,
                average_attn_weights, is_causal, key_lengths,
            )  # fmt: skip
        return self._run(
            query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights,
            is_causal, key_lengths,
        )  # fmt: skip

    def _run(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        need_weights: bool,
        attn_mask: Tensor | None,
        average_attn_weights: bool,
        is_causal: bool,
        key_lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """forward, of dense tensors and through Python."""
        check_multihead(self, query, key, value, key_padding_mask, attn_mask, is_causal)
        is_batched = query.dim() == 3
        batch_dim = 0 if self.batch_first and is_batched else 1
        batch = (query.shape[batch_dim],) if is_batched else ()
        check_key_lengths("MultiheadAttention", key_lengths, batch, query)
        if not is_batched:
            batched = {id(t): t.unsqueeze(1) for t in (query, key, value)}
            query, key, value = (batched[id(t)] for t in (query, key, value))
            key_padding_mask, key_lengths = (
                None if t is None else t.unsqueeze(0) for t in (key_padding_mask, key_lengths)
            )
        if key_lengths is not None:
            key, value = _without_hidden_steps(key, value, key_lengths, 1 - batch_dim)
        heads: Any = self._project(query, key, value, batch_dim)
        heads, added = self._with_added_keys(*heads)
        takes_hint = is_causal and self._takes_hint(heads, attn_mask, added)
        mask = self._merge(heads, key_padding_mask, None if takes_hint else attn_mask, added)
        if key_lengths is not None and added:
            mask, key_lengths = _lengths_as_mask(mask, key_lengths, heads[1].shape[2], added), None
        query, key, value = heads
        output: Any = scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            self.dropout if self.training else 0.0,
            window=(None, 0) if takes_hint else None,
            key_lengths=key_lengths,
            return_weights=need_weights,
        )
        output, weights = output if need_weights else (output, None)
        output = output.permute((2, 0, 1, 3) if batch_dim == 1 else (0, 2, 1, 3)).flatten(2)
        output = linear(output, self.out_proj.weight, self.out_proj.bias)
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if is_batched:
            return output, weights
        return output.squeeze(1), None if weights is None else weights.squeeze(0)

    def _at_once(
        self,
        query: Any,
        key: Any,
        value: Any,
        masks: tuple[Any, Any],
        need_weights: bool,
        average: bool,
        is_causal: bool,
        key_lengths: Any,
    ) -> tuple[Tensor, Tensor | None] | None:
        """The layer in one call of C++, None where only the way through Python can tell."""
        if key_lengths is not None or is_traced():
            return None
        return multihead_at_once(
            query, key, value, *masks, self._parameters, self.out_proj._parameters, self.bias_k,
            self.bias_v, self.embed_dim, self.num_heads, self.batch_first, self.add_zero_attn,
            is_causal, self.dropout if self.training else 0.0, need_weights, average,
        )  # fmt: skip

    def _run_nested(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        need_weights: bool,
        attn_mask: Tensor | None,
        average_attn_weights: bool,
        is_causal: bool,
        key_lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Nested tensors are torch's fast path alone, which it takes or refuses."""
        if key_lengths is not None:
            raise ValueError(
                "MultiheadAttention: key_lengths cannot be combined with nested tensors, which "
                "bring their own lengths. Pass padded tensors instead"
            )
        return super().forward(
            query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights,
            is_causal,
        )  # fmt: skip

    def _project(self, query: Tensor, key: Tensor, value: Tensor, batch_dim: int) -> list[Tensor]:
        """Query, key and value `[B, N, T, E / N]`, in one product where they are one tensor."""
        sources, bias = (query, key, value), self.in_proj_bias
        projected: Sequence[Tensor]
        if self._qkv_same_embed_dim and query is key and key is value:
            projected = linear(query, self.in_proj_weight, bias).chunk(3, dim=-1)
        elif self._qkv_same_embed_dim and key is value:
            sizes = (self.embed_dim, 2 * self.embed_dim)
            weights = self.in_proj_weight.split(sizes)
            biases = (None, None) if bias is None else bias.split(sizes)
            both = linear(key, weights[1], biases[1]).chunk(2, dim=-1)
            projected = [linear(query, weights[0], biases[0]), *both]
        else:
            biases = (None,) * 3 if bias is None else bias.chunk(3)
            if self._qkv_same_embed_dim:
                weights = self.in_proj_weight.chunk(3)
            else:
                weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            projected = [linear(*args) for args in zip(sources, weights, biases, strict=True)]
        order = (1, 2, 0, 3) if batch_dim == 1 else (0, 2, 1, 3)
        heads = (
            self.num_heads,
            self.embed_dim // self.num_heads,
        )  # read at the call, as torch does
        return [p.unflatten(-1, heads).permute(order) for p in projected]

    def _with_added_keys(
        self, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], int]:
        """Appends bias_k and bias_v, and a key and value of 0, where asked for; how many."""
        before = key.shape[2]
        if self.bias_k is not None and self.bias_v is not None:
            shape = (key.shape[0], -1, -1, -1)
            biases = (
                b.view(1, self.num_heads, 1, -1).expand(shape).to(key.dtype)
                for b in (self.bias_k, self.bias_v)
            )
            key, value = (torch.cat(pair, 2) for pair in zip((key, value), biases, strict=True))
        if self.add_zero_attn:
            key, value = (nn.functional.pad(t, (0, 0, 0, 1)) for t in (key, value))
        return (query, key, value), key.shape[2] - before

    @staticmethod
    def _takes_hint(heads: tuple[Tensor, Tensor, Tensor], attn_mask: Any, added: int) -> bool:
        """Whether attn_mask may be left out, as is_causal says: where it is looked at and is the
        causal mask. The hint saves work, and changes no result."""
        if added or attn_mask.requires_grad or attn_mask.dim() != 2:
            return False
        if heads[0].shape[2] != heads[1].shape[2] or not can_be_looked_at(attn_mask):
            return False
        hidden = torch.ones_like(attn_mask, dtype=torch.bool).triu_(1)
        if attn_mask.dtype != torch.bool:
            hidden = torch.zeros_like(attn_mask).masked_fill_(hidden, -torch.inf)
        return torch.equal(attn_mask, hidden)

    def _merge(
        self,
        heads: tuple[Tensor, Tensor, Tensor],
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        added: int,
    ) -> Tensor | None:
        """Both masks as scaled_dot_product_attention takes one."""
        if attn_mask is not None:
            attn_mask = _to_attend(attn_mask)
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.unflatten(0, (-1, self.num_heads))
            attn_mask = _with_columns(attn_mask, added)
        if key_padding_mask is not None:
            key_padding_mask = _with_columns(_to_attend(key_padding_mask), added)
            key_padding_mask = key_padding_mask[:, None, None, :]
        return _both(attn_mask, key_padding_mask, heads[0].dtype)


def _to_attend(mask: Tensor) -> Tensor:
    """torch's layer says where not to attend, its function where to; a floating mask is added."""
    return ~mask if mask.dtype == torch.bool else mask


def _with_columns(mask: Tensor, added: int) -> Tensor:
    """The mask with `added` keys at the end that every query sees."""
    if not added:
        return mask
    return nn.functional.pad(mask, (0, added), value=mask.dtype == torch.bool)


def _both(first: Tensor | None, second: Tensor | None, dtype: torch.dtype) -> Tensor | Any:
    """One mask out of two, as wide as the wider of those that are added."""
    if first is None or second is None:
        return second if first is None else first
    if first.dtype == torch.bool and second.dtype == torch.bool:
        return first & second
    for mask in (first, second):
        if mask.dtype == torch.float32:
            dtype = torch.promote_types(dtype, torch.float32)
    return _as_scores(first, dtype) + _as_scores(second, dtype)


def _as_scores(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf)


def _without_hidden_steps(
    key: Tensor, value: Tensor, key_lengths: Tensor, time_dim: int
) -> tuple[Tensor, Tensor]:
    """Zeros past the lengths: what stands there must reach no product."""
    exists = torch.arange(key.shape[time_dim], device=key.device) < key_lengths[:, None]
    exists = (exists.t() if time_dim == 0 else exists)[:, :, None]
    zeroed = torch.where(exists, key, 0.0)
    return zeroed, zeroed if value is key else torch.where(exists, value, 0.0)


def _lengths_as_mask(mask: Tensor | None, key_lengths: Tensor, columns: int, added: int) -> Tensor:
    """Lengths of the keys before the `added` ones, as part of the mask."""
    exists = torch.arange(columns - added, device=key_lengths.device) < key_lengths[:, None]
    exists = _with_columns(exists, added)[:, None, None, :]
    return exists if mask is None else _both(mask, exists, mask.dtype)
