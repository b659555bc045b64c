"""Every refusal of linear_scan: its type and its whole text, before anything runs."""

import pytest
import torch

import fastcells
from fastcells.functional import scan
from refusals import assert_refused

A, B = torch.ones(4, 2, 3), torch.ones(4, 2, 3)
LENGTHS, RESETS = torch.tensor([4, 1]), torch.zeros(4, 2, dtype=torch.bool)

KINDS = "float32, float64, float16, bfloat16, complex64 or complex128"
REFUSED = {
    "a number": (dict(a=0.5), TypeError, "a must be a Tensor, got float"),
    "no b": (dict(b=None), TypeError, "b must be a Tensor, got NoneType"),
    "a number as h_0": (dict(h_0=0.0), TypeError, "h_0 must be a Tensor, got float"),
    "a sparse b": (
        dict(b=B.to_sparse()),
        TypeError,
        "b must be a dense tensor (layout torch.strided), got layout torch.sparse_coo. Convert it "
        "with .to_dense() or to a padded tensor",
    ),
    "integers": (
        dict(a=A.long(), b=B.long()),
        TypeError,
        f"a must be {KINDS}, got torch.int64. Convert it with .to(...)",
    ),
    "two dtypes": (
        dict(b=B.double()),
        TypeError,
        "b must have the dtype of a, torch.float32, got torch.float64. Convert one of them with "
        ".to(...)",
    ),
    "h_0 of another dtype": (
        dict(h_0=torch.zeros(2, 3, dtype=torch.complex64)),
        TypeError,
        "h_0 must have the dtype of a, torch.float32, got torch.complex64. Convert one of them "
        "with .to(...)",
    ),
    "another device": (
        dict(b=B.to("meta")),
        RuntimeError,
        "b must be on cpu, where a is, got meta",
    ),
    "h_0 on another device": (
        dict(h_0=torch.zeros(2, 3, device="meta")),
        RuntimeError,
        "h_0 must be on cpu, where a is, got meta",
    ),
    "shapes that do not broadcast": (
        dict(a=torch.ones(4, 3, 3)),
        ValueError,
        "a and b must broadcast to (T, B, H), got a (4, 3, 3) and b (4, 2, 3)",
    ),
    "the batch first": (
        dict(a=torch.ones(4, 3, 3), batch_first=True, resets=None),
        ValueError,
        "a and b must broadcast to (B, T, H), got a (4, 3, 3) and b (4, 2, 3)",
    ),
    "two dimensions": (
        dict(a=A[:, 0], b=B[:, 0]),
        ValueError,
        "a and b must broadcast to the three dimensions (T, B, H), got a (4, 3) and b (4, 3). A "
        "single sequence has a batch of one: unsqueeze it",
    ),
    "h_0 of another shape": (
        dict(h_0=torch.zeros(1, 2, 3)),
        ValueError,
        "h_0 must have shape (B, H) = (2, 3), got (1, 2, 3)",
    ),
    "lengths of int32": (
        dict(lengths=LENGTHS.int()),
        TypeError,
        "lengths must have dtype torch.int64, got torch.int32. Convert it with .to(torch.int64)",
    ),
    "lengths of another shape": (
        dict(lengths=torch.tensor([1, 2, 3])),
        ValueError,
        "lengths must have shape (B,) = (2,), got (3,)",
    ),
    "resets of another shape": (
        dict(resets=RESETS.T),
        ValueError,
        "resets must have shape (T, B) = (4, 2), got (2, 4)",
    ),
    "resets of int64": (
        dict(resets=RESETS.long()),
        TypeError,
        "resets must have dtype torch.bool, got torch.int64. Convert it with .to(torch.bool)",
    ),
    "resets on another device": (
        dict(resets=RESETS.to("meta")),
        ValueError,
        "resets must be on cpu, where the input is, got meta",
    ),
    "a number as reverse": (dict(reverse=1), TypeError, "reverse must be a bool, got int"),
    "a number as batch_first": (
        dict(batch_first=0),
        TypeError,
        "batch_first must be a bool, got int",
    ),
}


@pytest.fixture
def no_kernel(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a kernel ran before the refusal")

    monkeypatch.setattr(scan.ops, "linear_scan", refuse)
    monkeypatch.setattr(scan, "run_scan", refuse)


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case, no_kernel):
    changes, error, text = REFUSED[case]
    arguments = {"a": A, "b": B} | changes
    assert_refused(lambda: fastcells.linear_scan(**arguments), error, f"linear_scan: {text}")


def test_lengths_out_of_range_are_refused(no_kernel):
    for lengths in ([5, 1], [4, -1]):
        low, high = min(lengths), max(lengths)
        assert_refused(
            lambda lengths=lengths: fastcells.linear_scan(A, B, lengths=torch.tensor(lengths)),
            ValueError,
            f"lengths must lie in 0 .. T = 4, got values from {low} to {high}",
        )


def op(a=A, b=B, h_0=None, lengths=None, resets=None, adjoint=False):
    return torch.ops.fastcells.linear_scan(a, b, h_0, lengths, resets, False, False, adjoint)


OF_THE_OP = {
    "b of two dimensions": (
        dict(b=B[0]),
        RuntimeError,
        "b must have shape (T, B, H), got (2, 3)",
    ),
    "a that does not fit": (
        dict(a=A[:2]),
        RuntimeError,
        "a must have shape (1|T, 1|B, 1|H) with (T, B, H) = (4, 2, 3), got (2, 2, 3)",
    ),
    "integers": (
        dict(a=A.long(), b=B.long()),
        TypeError,
        "dtype Long is not supported (float32, float64, float16, bfloat16, complex64, complex128)",
    ),
    "two dtypes": (
        dict(a=A.double()),
        TypeError,
        "a must have dtype Float, got Double. Convert it with .to(...)",
    ),
    "h_0 of another shape": (
        dict(h_0=A),
        RuntimeError,
        "h_0 must have shape (B, H) = (2, 3), got (4, 2, 3)",
    ),
    "lengths out of range": (
        dict(lengths=torch.tensor([5, 0])),
        ValueError,
        "lengths must lie in 0 .. T = 4, got values from 0 to 5",
    ),
    "resets of another shape": (
        dict(resets=RESETS[:1]),
        RuntimeError,
        "resets must have shape (T, B) = (4, 2), got (1, 2)",
    ),
    "h_0 of an adjoint": (
        dict(h_0=torch.zeros(2, 3), adjoint=True),
        RuntimeError,
        "the adjoint scan has no h_0",
    ),
}


@pytest.mark.parametrize("case", OF_THE_OP)
def test_the_op_checks_again(case):
    changes, error, text = OF_THE_OP[case]
    with pytest.raises(error) as refused:
        op(**changes)
    assert str(refused.value).splitlines()[0] == f"fastcells::linear_scan: {text}"


def test_the_op_refuses_a_tangent():
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(A, A)
        with pytest.raises(NotImplementedError, match="forward-mode derivatives"):
            op(a=dual)
