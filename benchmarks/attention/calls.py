"""The calls of an attention case, torch's and fastcells', on the same seeded tensors.

A call returns a list of tensors: the output, the weights where they are asked for, and in training
the gradients of the inputs, then those of the parameters.
"""

import math

import torch

import fastcells
from benchmarks.experiments import SEED


def make_tensors(case):
    """Return the inputs of a case, which have gradients in training."""
    generator = torch.Generator().manual_seed(SEED)
    dtype = getattr(torch, case.dtype)
    tensors = [torch.randn(shape, generator=generator) for shape in case.input_shapes]
    if len(case.input_shapes[-1]) == 1:  # u of an additive score, a sum over its elements
        tensors[-1] /= math.sqrt(len(tensors[-1]))
    return [t.to(dtype).requires_grad_(case.is_training) for t in tensors]


def make_output_grad(case):
    """Return what the way back starts from, None for a forward pass."""
    if not case.is_training:
        return None
    generator = torch.Generator().manual_seed(SEED + 1)
    return torch.randn(case.output_shape, generator=generator).to(getattr(torch, case.dtype))


def attention_call(function, tensors, grad, parameters=()):
    """Return a call of `function` on `tensors`: a forward pass, with `grad` also the way back."""
    wanted = [*tensors, *parameters]

    def as_list(found):
        return [found] if isinstance(found, torch.Tensor) else list(found)

    def forward():
        with torch.no_grad():
            return as_list(function(*tensors))

    def train():
        outputs = as_list(function(*tensors))
        return [*outputs, *torch.autograd.grad(outputs[0], wanted, grad)]

    return forward if grad is None else train


def case_call(case, function):
    """Return attention_call on the tensors of `case`."""
    return attention_call(function, make_tensors(case), make_output_grad(case))


# ---- scaled dot product


def dot_function(case, library):
    """Return scaled_dot_product_attention of the library with the options of the case."""
    attend = library.scaled_dot_product_attention
    options = {"dropout_p": case.dropout_p, "is_causal": case.is_causal}
    return lambda query, key, value, bias=None: attend(query, key, value, bias, **options)


def seeded(call):
    """Return `call` with the same random numbers each time."""

    def repeat():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return call()

    return repeat


def dropout_of(case):
    """Return what the weights of the seeded call are multiplied with: 0 or 1 / (1 - p).

    Zeros that are too many or too few are an error.
    """
    query, key, value = (t.detach() for t in make_tensors(case))
    attend = seeded(
        lambda: fastcells.scaled_dot_product_attention(
            query, key, value, dropout_p=case.dropout_p, return_weights=True
        )
    )
    zeroed = (attend()[1] == 0).float()
    p, share = case.dropout_p, float(zeroed.mean())
    if abs(share - p) > 6 * math.sqrt(p * (1 - p) / zeroed.numel()):
        raise ValueError(f"{share:.4f} of the weights are zeroed, with dropout_p={p}")
    return (1 - zeroed) / (1 - p)


def dot_by_hand(case, factors):
    """Return attention by products and a softmax, its weights multiplied with `factors`."""

    def attend(query, key, value):
        weights = (query @ key.mT / math.sqrt(case.E)).softmax(-1)
        return (weights * factors) @ value

    return attend


# ---- additive


def additive_by_hand(query, key, value, scale):
    """Additive attention as it is written in torch."""
    scores = (query.unsqueeze(2) + key.unsqueeze(1)).tanh() @ scale
    return scores.softmax(-1) @ value


def compiled_by_hand():
    """Return additive_by_hand in torch.compile."""
    torch._dynamo.reset()  # else a new shape is compiled as a dynamic one
    return torch.compile(additive_by_hand)


ADDITIVE_FUNCTIONS = {"torch": additive_by_hand, "fastcells": fastcells.additive_attention}


# ---- layers


def multihead_call(case, library):
    """Return a call of MultiheadAttention, from torch.nn or fastcells, of the same parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        layer = library.MultiheadAttention(case.width, case.N, batch_first=True)
    layer.train(case.is_training)

    def attend(x):
        return layer(x, x, x, need_weights=True)

    return attention_call(attend, make_tensors(case), make_output_grad(case), layer.parameters())
