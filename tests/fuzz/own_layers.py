"""Layers that torch.nn does not have, elementwise and row-wise ones, against fastcells.reference:
every cell, norm, rate, dtype, mask and stride; what lies past a row's end poisoned."""

from dataclasses import replace

import torch
from comparing import (
    FLOORS,
    NAN,
    assert_near,
    assert_same_bits,
    dtypes,
    sizes,
    strided,
    strides,
    wide_sizes,
)
from hypothesis import strategies as st

from fastcells.functional.recurrent_calls import run_layer
from fastcells.reference import recurrent as reference
from fastcells.testing import make_layer_problem

ELEMENTWISE = [name for name, cell in reference.CELLS.items() if cell.unit_weights is not None]
ROWWISE = ["rnn_tanh", "lstm", "lstm_peephole", "gru", "gru_article"]
rates = st.sampled_from([0.0, 0.0, 0.2, 0.7, 1.0])


@st.composite
def layers(draw, cells):
    cell = draw(st.sampled_from(cells))
    norms = [""] if cell in ELEMENTWISE else ["", "parts"]
    norms += ["gates"] if cell in ROWWISE and "gru" not in cell else []
    norms += ["parts carried"] if cell == "lstm" else []
    noise = tuple(draw(rates) for _ in range(3)) + (draw(st.sampled_from([0.0, 1.0])),)
    return {
        "cell": cell, "directions": draw(st.integers(1, 2)), "T": draw(sizes), "B": draw(sizes),
        "I": draw(sizes), "H": draw(wide_sizes), "bias": draw(st.booleans()),
        "dtype": draw(dtypes), "lengths": draw(st.booleans()), "resets": draw(st.booleans()),
        "norm": draw(st.sampled_from(norms)),
        "rates": noise if cell in ROWWISE and draw(st.booleans()) else None,
        "seed": draw(st.integers(0, 2**20)), "threads": draw(st.integers(1, 3)),
        "recompute": draw(st.booleans()), "strides": draw(strides),
    }  # fmt: skip


def make(case):
    names = ("cell", "directions", "T", "B", "I", "H")
    options = ("bias", "dtype", "lengths", "resets", "norm", "rates", "seed")
    problem = make_layer_problem(*(case[n] for n in names), **{n: case[n] for n in options})
    return replace(problem, input=strided(problem.input, case["strides"]))


def run_reference(problem):
    return reference.recurrent(*problem.arguments())


def run_plainly(problem):
    """The reference in the tensors' own dtype, as a loop of torch would run."""
    compute = reference._compute_dtype
    reference._compute_dtype = lambda dtype: dtype
    try:
        return run_reference(problem)
    finally:
        reference._compute_dtype = compute


def evaluate(run, problem, dtype, past_ends=None):
    """Results and gradients by name, of a projection that is the same for all."""
    leaves = {n: v.detach().to(dtype).requires_grad_() for n, v in problem.variables().items()}
    results = [r for r in run(problem.with_variables(leaves.values())) if r is not None]
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(r.shape, generator=generator).to(r.dtype) for r in results]
    if past_ends is not None and problem.lengths is not None:
        absent = torch.arange(problem.input.shape[0])[:, None] >= problem.lengths
        for k in (0, 3):  # output and all c
            if k < len(grads):
                grads[k] = grads[k].masked_fill(absent[:, :, None], past_ends)
    found = torch.autograd.grad(results, leaves.values(), grads, allow_unused=True)
    named = {f"result {k}": r.detach() for k, r in enumerate(results)}
    for (name, leaf), grad in zip(leaves.items(), found, strict=True):
        named[f"grad of {name}"] = torch.zeros_like(leaf) if grad is None else grad
    return named


def layers_equal_the_reference(case):
    torch.set_num_threads(case["threads"])
    problem, dtype = make(case), case["dtype"]

    def run_kernels(problem):
        return run_layer(*problem.arguments(), True, recompute=case["recompute"])

    ours = evaluate(run_kernels, problem, dtype)
    exact = evaluate(run_reference, problem, torch.float64)
    plain = evaluate(run_plainly, problem, dtype)
    # Of a norm of one value the gradient is exactly 0, and a difference of roundings here.
    some = [name for name in ours if exact[name].abs().amax() > 1e-9]
    assert_near(*([each[n] for n in some] for each in (ours, exact, plain)), some, dtype)
    none = [name for name in ours if name not in some]
    assert all(ours[name].abs().amax() < 1e3 * FLOORS[dtype] for name in none), none
    if problem.lengths is None:
        return
    absent = torch.arange(problem.input.shape[0])[:, None] >= problem.lengths
    hidden = replace(problem, input=problem.input.masked_fill(absent[:, :, None], NAN))
    again = evaluate(run_kernels, hidden, dtype, NAN)
    assert_same_bits(again.values(), ours.values(), "poisoned")


TARGETS = {
    "elementwise": (layers(ELEMENTWISE), layers_equal_the_reference),
    "rowwise": (layers(ROWWISE), layers_equal_the_reference),
}
