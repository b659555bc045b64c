"""Attention problems by name, and running one on the kernels, the reference and plain torch."""

import math
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from fastcells import functional
from fastcells.functional import attention
from fastcells.functional.routing import Route
from fastcells.reference import attention as reference
from pairs import gradients_of_projection
from ways import flat

SEED = 5


@dataclass(frozen=True)
class AttentionProblem:
    """A call of one of the two functions: what can be differentiated, and the rest."""

    function: str
    variables: dict[str, Tensor]  # query, key, value and perhaps scale and a floating attn_mask
    options: dict = field(default_factory=dict)

    def with_variables(self, tensors):
        return replace(self, variables=dict(zip(self.variables, tensors, strict=True)))

    def to(self, dtype):
        return self.with_variables(tensor.to(dtype) for tensor in self.variables.values())

    def without_weights(self):
        options = {k: v for k, v in self.options.items() if k != "return_weights"}
        return replace(self, options=options)


@dataclass(frozen=True)
class Sizes:
    """Letters of fastcells.functional.attention."""

    B: int = 2
    N: int = 4
    Nk: int = 4
    Tq: int = 5
    Tk: int = 7
    E: int = 6
    Ev: int = 3

    def lengths(self):
        """Tk, 0, 1, and so on, as many as there are rows."""
        return torch.tensor([self.Tk, 0, 1, self.Tk // 2])[torch.arange(self.B) % 4]


TINY = Sizes(B=2, N=2, Nk=2, Tq=2, Tk=3, E=2, Ev=1)
LARGE = Sizes(B=2, N=2, Nk=2, Tq=70, Tk=131, E=40, Ev=33)  # no multiple of a tile


def normal(*shape, scale=1.0):
    return scale * torch.randn(shape, dtype=torch.float64)


def some_keys(*shape):
    """A random bool mask whose first query sees nothing."""
    mask = torch.rand(shape) < 0.6
    mask[..., 0, :] = False
    return mask


def bias(s):
    return {"attn_mask": normal(s.N, s.Tq, s.Tk)}


#: Of the dot-product function: (variables besides query, key, value; options) by the sizes.
DOT_CASES = {
    "plain": lambda s: ({}, {}),
    "causal": lambda s: ({}, {"is_causal": True}),
    "bottom_right": lambda s: ({}, {"is_causal": True, "causal_alignment": "bottom_right"}),
    "window": lambda s: ({}, {"window": (2, 1)}),
    "window_left_causal": lambda s: ({}, {"window": (1, None), "is_causal": True}),
    "bool_mask": lambda s: ({}, {"attn_mask": some_keys(s.B, 1, s.Tq, s.Tk)}),
    "padding_mask": lambda s: ({}, {"attn_mask": torch.rand(s.B, 1, 1, s.Tk) < 0.6}),
    "bias": lambda s: (bias(s), {}),
    "bias_of_rows": lambda s: ({"attn_mask": normal(s.B, 1, s.Tq, 1)}, {}),
    "bias_of_keys": lambda s: ({"attn_mask": normal(s.Tk)[None]}, {}),
    "lengths": lambda s: ({}, {"key_lengths": s.lengths()}),
    "lengths_causal": lambda s: ({}, {"key_lengths": s.lengths(), "is_causal": True}),
    "softcap": lambda s: ({}, {"softcap": 0.7, "scale": 0.9}),
    "grouped": lambda s: ({}, {"enable_gqa": True}),
    "weights": lambda s: ({}, {"return_weights": True}),
    "dropout": lambda s: ({}, {"dropout_p": 0.3}),
    "everything": lambda s: (
        bias(s),
        {
            "window": (s.Tk // 2, s.Tk // 3), "causal_alignment": "bottom_right", "softcap": 1.1,
            "key_lengths": s.lengths(), "dropout_p": 0.2, "return_weights": True,
            "enable_gqa": True,
        },
    ),
}  # fmt: skip
ADDITIVE_CASES = {
    "additive": lambda s: ({}, {}),
    "additive_bool_mask": lambda s: ({}, {"attn_mask": some_keys(s.B, s.Tq, s.Tk)}),
    "additive_bias": lambda s: ({"attn_mask": normal(s.Tq, s.Tk)}, {}),
    "additive_lengths": lambda s: ({}, {"key_lengths": s.lengths()}),
    "additive_dropout": lambda s: ({}, {"dropout_p": 0.3}),
    "additive_everything": lambda s: (
        {"attn_mask": normal(s.B, 1, s.Tk)},
        {"key_lengths": s.lengths(), "dropout_p": 0.2, "return_weights": True},
    ),
}
CASES = DOT_CASES | ADDITIVE_CASES
each_case = pytest.mark.parametrize("case", CASES)
each_dot_case = pytest.mark.parametrize("case", DOT_CASES)


def make_problem(case, sizes=None, dtype=torch.float64):
    """Random, always the same; float64 unless another dtype is named."""
    sizes = sizes or Sizes()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        more, options = CASES[case](sizes)
        s = sizes
        if case in ADDITIVE_CASES:
            function = "additive_attention"
            shapes = {
                "query": (s.B, s.Tq, s.E),
                "key": (s.B, s.Tk, s.E),
                "value": (s.B, s.Tk, s.Ev),
            }
            more = {"scale": normal(s.E, scale=max(s.E, 1) ** -0.5)} | more
        else:
            function = "scaled_dot_product_attention"
            heads = 1 if options.get("enable_gqa") and s.N % 2 else s.Nk
            heads = s.N // 2 if options.get("enable_gqa") and s.N % 2 == 0 else heads
            shapes = {
                "query": (s.B, s.N, s.Tq, s.E), "key": (s.B, heads, s.Tk, s.E),
                "value": (s.B, heads, s.Tk, s.Ev),
            }  # fmt: skip
        variables = {name: normal(*shape) for name, shape in shapes.items()} | more
    return AttentionProblem(function, variables, options).to(dtype)


# ---- ways to run a problem: a tuple of the output and perhaps the weights ----


@contextmanager
def on_the_reference():
    """Every call inside runs fastcells.reference."""
    with patch.object(attention, "choose_attention_route", lambda *_: Route(False, "asked")):
        yield


def run(problem):
    """The public function, on whatever it chooses, with one seed."""
    torch.manual_seed(SEED)
    result = getattr(functional, problem.function)(**problem.variables, **problem.options)
    return result if isinstance(result, tuple) else (result,)


def run_reference(problem):
    with on_the_reference():
        return run(problem)


def seen_by(problem):
    """Which query sees which key, of the shape of the scores, by loops over the positions."""
    named = dict(problem.variables) | problem.options
    rows, columns = named["query"].shape[-2], named["key"].shape[-2]
    seen = torch.ones(*named["query"].shape[:-1], columns, dtype=torch.bool)
    mask = named.get("attn_mask")
    if mask is not None and mask.dtype == torch.bool:
        seen &= mask
    shift = columns - rows if named.get("causal_alignment") == "bottom_right" else 0
    left, right = named.get("window", (None, None))
    right = 0 if named.get("is_causal") else right
    for i in range(rows):
        if left is not None:
            seen[..., i, : max(0, i + shift - left)] = False
        if right is not None:
            seen[..., i, max(0, i + shift + right + 1) :] = False
    for row, length in enumerate(named.get("key_lengths", ())):
        seen[row, ..., length:] = False
    return seen


def eager(problem):
    """A second opinion in plain torch, which holds the matrix of scores and its mask: what a user
    writes by hand. It shares nothing with fastcells but what dropout keeps."""
    named = dict(problem.variables) | problem.options
    query, key, value = (named[name] for name in ("query", "key", "value"))
    if problem.function == "additive_attention":
        s = (torch.tanh(query[:, :, None] + key[:, None]) * named["scale"]).sum(-1)
    else:
        group = query.shape[1] // key.shape[1]
        key, value = (torch.stack([t] * group, 2).flatten(1, 2) for t in (key, value))
        scale = named.get("scale", query.shape[-1] ** -0.5)
        s = torch.einsum("bnie,bnje->bnij", query, key) * scale
        if "softcap" in named:
            s = named["softcap"] * torch.tanh(s / named["softcap"])
    mask = named.get("attn_mask")
    if mask is not None and mask.dtype != torch.bool:
        s = s + mask
    seen = seen_by(problem)
    sees = seen.any(-1, keepdim=True)
    weights = torch.softmax(s.masked_fill(~seen & sees, -torch.inf), -1) * sees
    dropout_p = named.get("dropout_p", 0.0)
    if dropout_p:
        torch.manual_seed(SEED)
        *slices, rows, columns = weights.shape
        seed = attention.draw_seed(weights.device)
        keep = reference.keep_mask(seed, math.prod(slices), rows, columns, dropout_p)
        weights = weights * keep.view(weights.shape) / (1 - dropout_p)
    return (weights @ value, weights)


# ---- outputs and gradients ----


def outputs_of(run, problem):
    """`run` as a function of the problem's variables."""
    return lambda *variables: run(problem.with_variables(variables))


def loss_of(run, problem):
    """`run` as a scalar, of which every result has a different part."""

    def loss(*variables):
        results = outputs_of(run, problem)(*variables)
        return sum((k * out).sin().sum() for k, out in enumerate(results, 1))

    return loss


def evaluate(run, problem):
    """What `run` returns, by name, and the gradients of a random projection of all of it."""
    leaves = {name: t.detach().clone().requires_grad_() for name, t in problem.variables.items()}
    results = dict(zip(("output", "weights"), run(problem.with_variables(leaves.values())),
                       strict=False))  # fmt: skip
    return results | gradients_of_projection(results, leaves)


# ---- calls on both ways ----


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def results_and_gradients(call, leaves):
    torch.manual_seed(1)  # of dropout
    results = flat(call())
    projections = [random(*r.shape, dtype=r.dtype, seed=2) for r in results]
    gradients = torch.autograd.grad(results, leaves, projections)
    return [r.detach() for r in results], gradients


def assert_same(first, second):
    for ours, theirs in zip(first, second, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            assert torch.equal(a, b)
