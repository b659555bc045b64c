"""Random scans, and what they are compared with: a loop in numpy, or fastcells.reference."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

import fastcells
from fastcells.reference.scan import linear_scan as reference_scan

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64,
          torch.complex128]  # fmt: skip
EXACT = {torch.complex64: torch.complex128, torch.complex128: torch.complex128}


@dataclass(frozen=True)
class Problem:
    """Arguments of one scan; options are those by keyword."""

    a: Tensor
    b: Tensor
    h_0: Tensor | None = None
    batch_first: bool = False
    reverse: bool = False
    lengths: Tensor | None = None
    resets: Tensor | None = None

    def variables(self):
        return [x for x in (self.a, self.b, self.h_0) if x is not None]

    def with_variables(self, tensors):
        a, b, *h_0 = tensors
        return replace(self, a=a, b=b, h_0=h_0[0] if h_0 else None)

    def to(self, dtype):
        return self.with_variables([x.to(dtype) for x in self.variables()])

    def options(self):
        return {name: getattr(self, name)
                for name in ("batch_first", "reverse", "lengths", "resets")}  # fmt: skip


def normal(generator, *shape, dtype=torch.float64):
    wide = EXACT.get(dtype, torch.float64)
    return torch.randn(shape, generator=generator, dtype=wide).to(dtype)


def factor_shape(kind, T, B, H, batch_first=False):
    """full, [H], [T, 1, H], [T, B, 1] or []."""
    time_major = {"full": (T, B, H), "step": (T, 1, H), "row": (T, B, 1)}
    if kind not in time_major:
        return {"unit": (H,), "one": ()}[kind]
    t, b, h = time_major[kind]
    return (b, t, h) if batch_first else (t, b, h)


FACTORS = ["full", "unit", "step", "row", "one"]


def make_problem(T, B, H, *, dtype=torch.float64, factor="full", h_0=True, lengths=False,
                 resets=False, batch_first=False, reverse=False, seed=0):  # fmt: skip
    """Factors mostly inside the unit circle; lengths begin with T, 0, about T/2; the first row is
    reset at its beginning."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, T + 1, (B,), generator=generator)
    rows[:3] = torch.tensor([T, 0, (T + 1) // 2])[:B]
    boundaries = torch.rand(T, B, generator=generator) < 0.2
    boundaries[:1, :1] = True
    a = normal(generator, *factor_shape(factor, T, B, H, batch_first), dtype=dtype)
    a = torch.tanh(a) if dtype in EXACT else torch.tanh(a.double()).to(dtype)
    shape = (B, T, H) if batch_first else (T, B, H)
    return Problem(
        0.95 * a if dtype in EXACT else (0.95 * a.double()).to(dtype),
        normal(generator, *shape, dtype=dtype),
        normal(generator, B, H, dtype=dtype) if h_0 else None,
        batch_first,
        reverse,
        rows if lengths else None,
        (boundaries.T.contiguous() if batch_first else boundaries) if resets else None,
    )


def run(problem):
    return fastcells.linear_scan(problem.a, problem.b, problem.h_0, **problem.options())


def run_reference(problem):
    return reference_scan(problem.a, problem.b, problem.h_0, **problem.options())


def evaluate(run, problem, seed=5):
    """h, and the gradients of a random projection of it."""
    leaves = [x.detach().clone().requires_grad_() for x in problem.variables()]
    h = run(problem.with_variables(leaves))
    generator = torch.Generator().manual_seed(seed)
    along = normal(generator, *h.shape, dtype=EXACT.get(h.dtype, torch.float64)).to(h.dtype)
    return [h.detach(), *torch.autograd.grad(h, leaves, along)]


def plain_loop(problem):
    """The equations, element by element."""
    a, b = (x.numpy() for x in torch.broadcast_tensors(problem.a, problem.b))
    if problem.batch_first:
        a, b = a.swapaxes(0, 1), b.swapaxes(0, 1)
    T, B, H = b.shape
    h = np.zeros_like(b)
    for row in range(B):
        length = T if problem.lengths is None else int(problem.lengths[row])
        state = np.zeros(H, b.dtype) if problem.h_0 is None else problem.h_0[row].numpy()
        steps = range(length - 1, -1, -1) if problem.reverse else range(length)
        for t in steps:
            boundary = t + 1 if problem.reverse else t
            if problem.resets is not None and boundary < length:
                resets = problem.resets.T if problem.batch_first else problem.resets
                state = state * 0 if resets[boundary, row] else state
            state = a[t, row] * state + b[t, row]
            h[t, row] = state
    return torch.from_numpy(h.swapaxes(0, 1).copy() if problem.batch_first else h)
