"""linear_scan with every factor, dtype, mask, direction and stride against fastcells.reference."""

import torch
from comparing import (
    NAN,
    assert_same_bits,
    dtypes,
    sizes,
    strided,
    strides,
    wide_sizes,
)
from hypothesis import strategies as st

import fastcells
from fastcells.reference.scan import linear_scan as reference_scan
from fastcells.testing import assert_as_accurate_as_torch

COMPLEX = {torch.complex64: torch.complex128, torch.complex128: torch.complex128}


@st.composite
def scans(draw):
    few = draw(st.booleans())
    return {
        "dtype": draw(st.one_of(dtypes, st.sampled_from([*COMPLEX]))),
        "T": draw(st.sampled_from([1, 2, 3, 9, 33, 128, 700])) if few else draw(wide_sizes),
        "B": draw(st.integers(0, 2)) if few else draw(sizes), "H": draw(wide_sizes),
        "factor": draw(st.sampled_from(["full", "step", "row", "unit", "one"])),
        "has_h_0": draw(st.booleans()), "lengths": draw(st.booleans()),
        "resets": draw(st.booleans()), "batch_first": draw(st.booleans()),
        "reverse": draw(st.booleans()), "strides": draw(st.tuples(strides, strides, strides)),
        "seed": draw(st.integers(0, 2**20)), "threads": draw(st.integers(1, 3)),
    }  # fmt: skip


def make(case):
    """a, b, h_0 and the gradient of h in the strides asked for, and the options."""
    generator = torch.Generator().manual_seed(case["seed"])
    dtype, (T, B, H) = case["dtype"], (case["T"], case["B"], case["H"])
    exact = COMPLEX.get(dtype, torch.float64)

    def random(*shape, scale=1.0):
        return torch.randn(shape, generator=generator, dtype=exact).mul(scale).to(dtype)

    def layout(t, b, h):
        return (b, t, h) if case["batch_first"] else (t, b, h)

    shape = {"full": layout(T, B, H), "step": layout(T, 1, H), "row": layout(T, B, 1),
             "unit": (H,), "one": ()}[case["factor"]]  # fmt: skip
    a = random(*shape).to(exact)
    a = (a / (1 + a.abs())).to(dtype)
    lengths = torch.randint(0, T + 1, (B,), generator=generator) if case["lengths"] else None
    resets = torch.rand(layout(T, B, 1)[:2], generator=generator) < 0.2
    of_a, of_b, of_grad = case["strides"]
    tensors = [strided(a, of_a) if a.dim() else a, strided(random(*layout(T, B, H)), of_b)]
    tensors += [random(B, H)] if case["has_h_0"] else []
    grad = strided(random(*layout(T, B, H)), of_grad)
    options = {"lengths": lengths, "resets": resets if case["resets"] else None,
               "batch_first": case["batch_first"], "reverse": case["reverse"]}  # fmt: skip
    return tensors, grad, options


def evaluate(scan, tensors, grad, options, dtype=None):
    leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in tensors]
    h = scan(*leaves, **options)
    found = torch.autograd.grad(h, leaves, grad.to(h.dtype), allow_unused=True)
    return [h.detach(), *(torch.zeros_like(x) if g is None else g
                          for g, x in zip(found, leaves, strict=True))]  # fmt: skip


def poisoned(tensors, options):
    """NaN in b, and in a full factor, where no step exists."""
    if options["lengths"] is None:
        return tensors
    time = 1 if options["batch_first"] else 0
    a, b, *rest = tensors
    absent = torch.arange(b.shape[time])[:, None] >= options["lengths"]
    absent = (absent.T if time else absent)[..., None].expand(b.shape)
    changed = [x.masked_fill(absent, NAN) if x.shape == b.shape else x for x in (a, b)]
    return [*changed, *rest]


def scans_equal_the_reference(case):
    torch.set_num_threads(case["threads"])
    tensors, grad, options = make(case)
    exact = evaluate(
        reference_scan, tensors, grad, options, COMPLEX.get(case["dtype"], torch.float64)
    )
    theirs = evaluate(reference_scan, tensors, grad, options)
    found = evaluate(fastcells.linear_scan, tensors, grad, options)
    eps = torch.finfo(case["dtype"]).eps
    for number, results in enumerate(zip(found, exact, theirs, strict=True)):
        if results[0].numel() == 0:
            continue
        parts = [torch.view_as_real(x) if x.is_complex() else x for x in results]
        size = min(1.0, max(parts[1].abs().max().item(), 1e-30))
        assert_as_accurate_as_torch(*parts, floor=32 * eps / size, what=f"result {number}")
    again = evaluate(fastcells.linear_scan, poisoned(tensors, options), grad, options)
    assert_same_bits(again, found, "poisoned")
    with torch.no_grad():
        assert_same_bits(
            [fastcells.linear_scan(*tensors, **options)], found[:1], "without gradients"
        )


TARGETS = {"linear scan": (scans(), scans_equal_the_reference)}
