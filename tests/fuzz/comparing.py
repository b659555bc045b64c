"""What the fuzz targets share: sizes, tensors, and the comparison with torch in float64."""

import torch
from hypothesis import strategies as st

from fastcells.testing import assert_as_accurate_as_torch

#: Small sizes, and those at the edges of tiles.
EDGES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65]
sizes = st.sampled_from(EDGES[:11])
wide_sizes = st.sampled_from(EDGES)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
NAN = float("nan")
#: Absolute, at values of the size of 1: some results are sums of hundreds of rounded terms, and the
#: peers that are plain torch compute in float32.
FLOORS = {torch.float32: 2e-5, torch.float64: 1e-11, torch.bfloat16: 8e-2, torch.float16: 1e-2}


def normal(generator, *shape, dtype=torch.float64, scale=1.0):
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    return values.to(dtype)


def strided(tensor, how):
    """The same values in other strides: 0 as they are, 1 transposed in memory, 2 with gaps between
    elements, 3 with gaps between rows."""
    if how == 0 or tensor.dim() < min(how, 2):
        return tensor.clone()
    if how == 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    shape = (*tensor.shape, 2) if how == 2 else (*tensor.shape[:-1], tensor.shape[-1] + 3)
    gaps = torch.full(shape, NAN, dtype=tensor.dtype)
    view = gaps[..., 0] if how == 2 else gaps[..., 1:-2]
    return view.copy_(tensor)


strides = st.integers(0, 3)


def leaf(tensor, dtype=None):
    """A variable of the same values in the same strides."""
    return tensor.detach().to(dtype or tensor.dtype).requires_grad_()


def gradients(results, leaves, generator_seed):
    """Gradients of a random projection of all results."""
    generator = torch.Generator().manual_seed(generator_seed)
    loss = sum(
        (r.double() * normal(generator, *r.shape)).sum() for r in results if r is not None
    )  # fmt: skip
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


def assert_near(found, exact, peers, what, storage):
    """Each at most twice as far from float64 as torch in the same dtype, plus a floor of what the
    call's tensors are stored in."""
    assert len(found) == len(exact) == len(peers)
    for number, (ours, right, theirs) in enumerate(zip(found, exact, peers, strict=True)):
        if ours.numel() == 0:
            assert ours.shape == right.shape
            continue
        # Of sums that cancel the terms are what is rounded, and they have the size of 1.
        floor = FLOORS[storage] / min(1.0, max(right.abs().max().item(), 1e-30))
        assert_as_accurate_as_torch(
            ours, right, theirs.to(ours.dtype), floor=floor, what=f"{what} {number}"
        )


def assert_same_bits(found, expected, what):
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        same = torch.equal(torch.nan_to_num(a, 1234.5), torch.nan_to_num(b, 1234.5))
        assert same and torch.equal(a.isnan(), b.isnan()), f"{what}: result {number} differs"
