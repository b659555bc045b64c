"""AdditiveAttention and SelfAttention: the dense maps before an attention, and the attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..checks import attention as checks
from ..functional.attention import (
    additive_attention,
    scaled_dot_product_attention,
    self_attention_at_once,
)
from ..functional.graphs import Proxy, Unscriptable, module_node
from ..functional.processes import settle_in_forked_child
from ..functional.routing import is_traced

__all__ = ["AdditiveAttention", "SelfAttention"]


class AdditiveAttention(Unscriptable, nn.Module):
    r"""Attention with additive scores over projected queries and keys, after Bahdanau.

    .. math::
        s_{ij} = u^\top \tanh(W_q q_i + W_k k_j + b) \qquad
        o_i = \sum_j \mathrm{softmax}_j(s_{ij})\, v_j

    Args:
        query_size, key_size: widths of query and key.
        units: D, width of the score's inside.
        bias: whether b is there.
        dropout: probability of a weight to be zeroed in training.

    Args of a call:
        query: `[B, Tq, query_size]`, or `[Tq, query_size]` unbatched.
        key: `[B, Tk, key_size]`. value: `[B, Tk, E]`; None means the keys.
        attn_mask, key_lengths: as for :func:`fastcells.additive_attention`.
        need_weights: also return the weights `[B, Tq, Tk]`.

    Parameters: query_weight W_q `[D, query_size]`, key_weight W_k `[D, key_size]`, scale u `[D]`,
    bias b `[D]`; uniform in +-1/sqrt(fan-in) at first, b zero.

    Returns:
        output `[B, Tq, E]`, or (output, weights).

    Raises:
        RuntimeError, ValueError, TypeError: as :func:`fastcells.additive_attention`.

    Source: Bahdanau et al. (2014), https://arxiv.org/abs/1409.0473.

    Example:
        >>> layer = fastcells.AdditiveAttention(query_size=8, key_size=6, units=16)
        >>> context = layer(torch.randn(2, 1, 8), torch.randn(2, 5, 6))
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        units: int,
        bias: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        checks.check_sizes(
            "AdditiveAttention", query_size=query_size, key_size=key_size, units=units
        )
        self.query_size, self.key_size, self.units = query_size, key_size, units
        self.dropout = dropout
        self.query_weight = nn.Parameter(torch.empty(units, query_size, device=device, dtype=dtype))
        self.key_weight = nn.Parameter(torch.empty(units, key_size, device=device, dtype=dtype))
        self.scale = nn.Parameter(torch.empty(units, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(units, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan-in); the bias 0."""
        for parameter in (self.query_weight, self.key_weight, self.scale):
            bound = 1 / math.sqrt(parameter.shape[-1])
            nn.init.uniform_(parameter, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        key_lengths: Tensor | None = None,
        need_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """See the class."""
        if isinstance(query, Proxy):
            return module_node(self, locals())
        settle_in_forked_child()
        name = type(self).__name__
        checks.check_layer_input(name, "query", query, self.query_size)
        checks.check_layer_input(name, "key", key, self.key_size)
        value = key if value is None else value
        checks.check_layer_input(name, "value", value, None)
        is_batched = query.dim() == 3
        batch = (query.shape[0],) if is_batched else ()
        checks.check_key_lengths(name, key_lengths, batch, query)
        checks.check_ranks(name, query=query, key=key, value=value)
        if not is_batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
            key_lengths = None if key_lengths is None else key_lengths.unsqueeze(0)
        if key_lengths is not None:  # what stands past a length must reach no product
            exists = torch.arange(key.shape[1], device=key.device) < key_lengths[:, None]
            key = torch.where(exists[:, :, None], key, 0.0)
        result: Any = additive_attention(
            nn.functional.linear(query, self.query_weight, self.bias),
            nn.functional.linear(key, self.key_weight),
            value,
            self.scale,
            attn_mask=attn_mask,
            key_lengths=key_lengths,
            dropout_p=self.dropout if self.training else 0.0,
            return_weights=need_weights,
        )
        output, weights = result if need_weights else (result, None)
        if not is_batched:
            output = output.squeeze(0)
            weights = None if weights is None else weights.squeeze(0)
        return output if weights is None else (output, weights)

    def extra_repr(self) -> str:
        bias = "" if self.bias is None else ", bias=True"
        dropout = f", dropout={self.dropout}" if self.dropout else ""
        return f"{self.query_size}, {self.key_size}, units={self.units}{bias}{dropout}"


#: Activations of the dense maps, by name.
ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}
SCORES = ("dot", "scaled_dot", "additive")


class SelfAttention(Unscriptable, nn.Module):
    r"""Three dense maps of one input, and one attention among its steps.

    .. math::
        q = f(W_q x + b_q) \quad k = f(W_k x + b_k) \quad v = f(W_v x + b_v) \qquad
        o_i = \sum_j \mathrm{softmax}_j(a(q_i, k_j))\, v_j

    with a by `score`: "dot" :math:`q \cdot k`, "scaled_dot" :math:`q \cdot k / \sqrt{U}`, both
    capped to :math:`c \tanh(\cdot / c)` where a softcap c is given, and "additive"
    :math:`u^\top \tanh(q + k)`.

    Args:
        input_size: I.
        attention_units: U, width of q and k.
        output_size: O, width of v and of the output; None means U.
        activation: f, "tanh", "relu", "sigmoid" or "identity".
        score: "dot", "scaled_dot" or "additive".
        softcap: c, a positive number; not with score="additive".
        causal: step i sees the steps up to itself.
        dropout: probability of a weight to be zeroed in training.

    Args of a call:
        input: `[B, T, I]`, or `[T, I]` unbatched.
        lengths: int64 `[B]`, on the input's device, each in 0..T: the steps of each row. Outputs
            past a row's end are 0, and what stands there in the input has no effect.
        need_weights: also return the weights `[B, T, T]`.

    Parameters: query_map, key_map, value_map (torch.nn.Linear), and scale u `[U]` with
    score="additive".

    Returns:
        output `[B, T, O]`, or (output, weights).

    Raises:
        ValueError: unknown activation or score, softcap with score="additive", lengths out of
            range.
        RuntimeError, TypeError: input or lengths of another kind, shape, dtype or device.

    Example:
        >>> layer = fastcells.SelfAttention(12, 64, softcap=10.0)
        >>> output = layer(torch.randn(3, 20, 12), lengths=torch.tensor([20, 7, 0]))
    """

    def __init__(
        self,
        input_size: int,
        attention_units: int,
        output_size: int | None = None,
        activation: str = "tanh",
        score: str = "dot",
        softcap: float | None = None,
        causal: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        output_size = attention_units if output_size is None else output_size
        checks.check_self_attention(activation, tuple(ACTIVATIONS), score, SCORES, softcap, causal)
        checks.check_sizes(
            "SelfAttention", input_size=input_size, attention_units=attention_units,
            output_size=output_size,
        )  # fmt: skip
        self.input_size, self.attention_units = input_size, attention_units
        self.output_size, self.activation, self.score = output_size, activation, score
        self.softcap, self.causal, self.dropout = softcap, causal, dropout
        self.query_map = nn.Linear(input_size, attention_units, device=device, dtype=dtype)
        self.key_map = nn.Linear(input_size, attention_units, device=device, dtype=dtype)
        self.value_map = nn.Linear(input_size, output_size, device=device, dtype=dtype)
        self.scale = None
        if score == "additive":
            self.scale = nn.Parameter(torch.empty(attention_units, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """torch.nn.Linear's, and u uniform in +-1/sqrt(U)."""
        for dense in (self.query_map, self.key_map, self.value_map):
            dense.reset_parameters()
        if self.scale is not None:
            bound = 1 / math.sqrt(self.attention_units)
            nn.init.uniform_(self.scale, -bound, bound)

    def forward(
        self, input: Tensor, lengths: Tensor | None = None, *, need_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """See the class."""
        if isinstance(input, Proxy):
            return module_node(self, locals())
        settle_in_forked_child()
        if not is_traced() and self._has_plain_maps():
            maps = (self.query_map, self.key_map, self.value_map)
            done = self_attention_at_once(
                input, lengths, *(dense._parameters for dense in maps), self.scale, self.activation,
                self.score, self.softcap, self.causal, self.dropout if self.training else 0.0,
                need_weights,
            )  # fmt: skip
            if done is not None:
                return done
        name = type(self).__name__
        checks.check_layer_input(name, "input", input, self.input_size)
        is_batched = input.dim() == 3
        batch = (input.shape[0],) if is_batched else ()
        checks.check_key_lengths(name, lengths, batch, input, what="lengths")
        if not is_batched:
            input = input.unsqueeze(0)
            lengths = None if lengths is None else lengths.unsqueeze(0)
        exists = None
        if lengths is not None:  # what stands past a length must reach no product
            steps = torch.arange(input.shape[1], device=input.device)
            exists = (steps < lengths[:, None])[:, :, None]
            input = torch.where(exists, input, 0.0)
        output, weights = self._attend(input, lengths, need_weights)
        if exists is not None:
            output = torch.where(exists, output, 0.0)
            weights = None if weights is None else torch.where(exists, weights, 0.0)
        if not is_batched:
            output = output.squeeze(0)
            weights = None if weights is None else weights.squeeze(0)
        return output if weights is None else (output, weights)

    def _has_plain_maps(self) -> bool:
        """Whether the three maps are what they were made as, and nothing listens to them."""
        for dense in (self.query_map, self.key_map, self.value_map):
            if (
                type(dense) is not nn.Linear
                or dense.bias is None
                or dense._forward_hooks
                or dense._forward_pre_hooks
                or dense._backward_hooks
                or dense._backward_pre_hooks
            ):
                return False
        return not _has_any_global_hook()

    def _attend(
        self, input: Tensor, lengths: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        activation = ACTIVATIONS[self.activation]
        result: Any
        maps = (self.query_map, self.key_map, self.value_map)
        if self._has_plain_maps():  # one product for the three
            weight = torch.cat([dense.weight for dense in maps])
            bias = torch.cat([dense.bias for dense in maps])
            joined = activation(nn.functional.linear(input, weight, bias))
            query, key, value = joined.split([dense.weight.shape[0] for dense in maps], dim=-1)
        else:
            query, key, value = (activation(dense(input)) for dense in maps)
        dropout = self.dropout if self.training else 0.0
        if self.score == "additive":
            scale: Any = self.scale  # not None where scores are additive
            mask = None
            if self.causal:
                steps = input.shape[1]
                mask = torch.ones(steps, steps, dtype=torch.bool, device=input.device).tril()
            result = additive_attention(
                query, key, value, scale, attn_mask=mask, key_lengths=lengths,
                dropout_p=dropout, return_weights=need_weights,
            )  # fmt: skip
        else:
            result = scaled_dot_product_attention(
                query, key, value, dropout_p=dropout, is_causal=self.causal,
                scale=1.0 if self.score == "dot" else None, softcap=self.softcap,
                key_lengths=lengths, return_weights=need_weights,
            )  # fmt: skip
        return result if need_weights else (result, None)

    def extra_repr(self) -> str:
        shown = f"{self.input_size}, {self.attention_units}, output_size={self.output_size}"
        shown += f", activation={self.activation!r}, score={self.score!r}"
        shown += "" if self.softcap is None else f", softcap={self.softcap}"
        shown += ", causal=True" if self.causal else ""
        return shown + (f", dropout={self.dropout}" if self.dropout else "")
