"""The small calls that benchmarks/small_calls.py times: what is built, and how it is called."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

import fastcells


class Call:
    """A module (or none) of torch.nn or of fastcells, and a call of it with given tensors."""

    def __init__(self, module, call, *tensors):
        self.module, self.call, self.tensors = module, call, tensors

    def take_weights(self, other):
        """Compute the same as `other`."""
        if isinstance(self.module, nn.Module):
            self.module.load_state_dict(other.module.state_dict())
        for own, given in zip(self.tensors, other.tensors, strict=True):
            own.data.copy_(given)

    def leaves(self, is_training):
        """Return the leaves whose gradients are asked for in training."""
        for tensor in self.tensors:
            tensor.requires_grad_(is_training)
        parameters = self.module.parameters() if self.module is not None else ()
        return [*self.tensors, *parameters]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    label: str
    build: Callable[[object], Call]  # of torch.nn or fastcells


def cell(name, I, H, B):
    """One step of a cell."""

    def build(library):
        module = getattr(library, f"{name}Cell")(I, H)
        x, h, c = torch.randn(B, I), torch.randn(B, H), torch.randn(B, H)
        if name == "LSTM":
            return Call(module, lambda: module(x, (h, c)), x, h, c)
        return Call(module, lambda: module(x, h), x, h)

    return Case(f"{name}Cell I {I} H {H} B {B}", build)


def loop(name, steps, H, B):
    """A cell in a loop."""

    def build(library):
        module = getattr(library, f"{name}Cell")(H, H)
        x, h, c = torch.randn(steps, B, H), torch.randn(B, H), torch.randn(B, H)

        def run():
            state = (h, c) if name == "LSTM" else h
            for t in range(steps):
                state = module(x[t], state)
            return state

        return Call(module, run, x, h, *((c,) if name == "LSTM" else ()))

    return Case(f"{name}Cell loop of {steps} H {H} B {B}", build)


def layer(name, T, B, H, **options):
    """A layer of few steps."""

    def build(library):
        module = getattr(library, name)(H, H, **options)
        x = torch.randn(T, B, H)
        return Call(module, lambda: module(x), x)

    shown = "".join(f" {key} {value}" for key, value in options.items())
    return Case(f"{name} T {T} B {B} H {H}{shown}", build)


def packed(name, T, B, H):
    """A layer on a PackedSequence of falling lengths."""

    def build(library):
        module = getattr(library, name)(H, H)
        sizes = torch.tensor([max(1, B - t * B // T) for t in range(T)])
        data = torch.randn(int(sizes.sum()), H)

        def run():
            output, state = module(nn.utils.rnn.PackedSequence(data, sizes))
            return output.data, state

        return Call(module, run, data)

    return Case(f"{name} packed T {T} B {B} H {H}", build)


def dot(B, N, T, E):
    """scaled_dot_product_attention."""

    def build(library):
        function = (
            nn.functional.scaled_dot_product_attention
            if library is nn
            else fastcells.scaled_dot_product_attention
        )
        q, k, v = (torch.randn(B, N, T, E) for _ in range(3))
        return Call(None, lambda: function(q, k, v), q, k, v)

    return Case(f"scaled_dot_product_attention B {B} N {N} T {T} E {E}", build)


def multihead(B, T, D, heads):
    """MultiheadAttention, weights not asked for."""

    def build(library):
        module = library.MultiheadAttention(D, heads, batch_first=True)
        x = torch.randn(B, T, D)
        return Call(module, lambda: module(x, x, x, need_weights=False)[0], x)

    return Case(f"MultiheadAttention B {B} T {T} D {D} heads {heads}", build)


def masked_multihead(T, B, D, heads, **options):
    """MultiheadAttention with a mask of each row's keys, and what an encoder layer may pass."""

    def build(library):
        module = library.MultiheadAttention(D, heads, **options)
        x = torch.randn(T, B, D)
        causal = nn.Transformer.generate_square_subsequent_mask(T)
        hidden = torch.zeros(B, T).masked_fill(torch.arange(T) >= T - 1, -torch.inf)
        if options:
            return Call(module, lambda: module(x, x, x)[0], x)
        return Call(module, lambda: module(x, x, x, hidden, False, causal, is_causal=True)[0], x)

    shown = "".join(f" {key}" for key in options) or " causal and padding masks"
    return Case(f"MultiheadAttention T {T} B {B} D {D} heads {heads}{shown}", build)


class TorchSelfAttention(nn.Module):
    """fastcells.SelfAttention's equations in torch operations, as one would write them."""

    def __init__(self, input_size, units):
        super().__init__()
        self.query_map, self.key_map, self.value_map = (nn.Linear(input_size, units) for _ in "qkv")

    def forward(self, x):
        """Return the attention's output."""
        maps = self.query_map, self.key_map, self.value_map
        q, k, v = (torch.tanh(m(x)) for m in maps)
        return nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)


def self_attention(B, T, U):
    """SelfAttention against the same in torch operations."""

    def build(library):
        module = (TorchSelfAttention if library is nn else fastcells.SelfAttention)(U, U)
        x = torch.randn(B, T, U)
        return Call(module, lambda: module(x), x)

    return Case(f"SelfAttention B {B} T {T} U {U}", build)


CASES = (
    *(cell(name, 5, 11, 1) for name in ("RNN", "LSTM", "GRU")),
    *(cell(name, 48, 96, 9) for name in ("RNN", "LSTM", "GRU")),
    *(cell(name, 256, 256, 64) for name in ("RNN", "LSTM", "GRU")),
    *(cell(name, 512, 512, 1) for name in ("RNN", "LSTM", "GRU")),
    loop("RNN", 50, 32, 4), loop("RNN", 50, 256, 64), loop("LSTM", 20, 256, 64),
    loop("GRU", 20, 128, 16), loop("LSTM", 20, 512, 8),
    *(layer("GRU", 1, 1, H) for H in (64, 384, 768, 1536)),
    *(layer("RNN", 1, 1, H) for H in (768, 1536)),
    *(layer("LSTM", 1, B, H) for B, H in ((1, 128), (4, 512), (32, 256))),
    layer("LSTM", 2, 1, 512), layer("LSTM", 4, 2, 384), layer("GRU", 8, 1, 64),
    layer("LSTM", 10, 3, 24), layer("LSTM", 1, 1, 256, num_layers=2, bidirectional=True),
    *(layer("LSTM", T, B, 512, proj_size=128) for T, B in ((1, 1), (10, 1), (20, 16), (20, 64))),
    dot(1, 1, 5, 16), dot(2, 4, 16, 32),
    *(packed(name, 5, 3, 10) for name in ("RNN", "LSTM", "GRU")), packed("GRU", 20, 8, 64),
    multihead(1, 5, 12, 3), multihead(4, 20, 64, 4), masked_multihead(9, 4, 32, 4),
    masked_multihead(9, 4, 32, 4, kdim=32, vdim=32),
    masked_multihead(9, 4, 32, 4, add_bias_kv=True, add_zero_attn=True),
    self_attention(2, 9, 16), self_attention(16, 50, 64),
)  # fmt: skip
