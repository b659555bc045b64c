"""The kernels of linear_scan against plain loops: results and all gradients, for every dtype,
layout, factor, mask and edge of a tile; what must leave no trace leaves none."""

import itertools

import pytest
import torch

import fastcells
from scan_problems import (
    DTYPES,
    EXACT,
    FACTORS,
    evaluate,
    make_problem,
    normal,
    plain_loop,
    run,
    run_reference,
)

MASKS = list(itertools.product((False, True), repeat=2))


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"threads{n}")
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def assert_close(found, expected, bound=1e-12):
    assert len(found) == len(expected)
    for number, (x, y) in enumerate(zip(found, expected, strict=True)):
        assert x.shape == y.shape and x.dtype == y.dtype
        if x.numel():
            scale = max(1.0, y.abs().max().item())
            assert (x - y).abs().max().item() <= bound * scale, f"result {number}"


def each_mask_and_direction(**options):
    for lengths, resets in MASKS:
        for batch_first, reverse, h_0 in itertools.product((False, True), repeat=3):
            yield dict(options, lengths=lengths, resets=resets, batch_first=batch_first,
                       reverse=reverse, h_0=h_0)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_the_reference_is_the_equation(dtype):
    for options in each_mask_and_direction(dtype=dtype):
        problem = make_problem(7, 4, 3, **options)
        assert_close([run_reference(problem)], [plain_loop(problem)], 1e-14)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_results_and_gradients_equal_the_reference(dtype, factor):
    for options in each_mask_and_direction(dtype=dtype, factor=factor):
        for T, B, H in ((9, 4, 3), (6, 3, 19)):
            problem = make_problem(T, B, H, **options)
            assert_close(evaluate(run, problem), evaluate(run_reference, problem))


@pytest.mark.parametrize("factor", ["full", "unit", "row"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_every_size_around_a_tiles_edge(factor, batch_first):
    options = dict(factor=factor, batch_first=batch_first)
    for H in range(1, 71):
        problem = make_problem(3 + H % 11, 1 + H % 3, H, **options)
        assert_close(evaluate(run, problem), evaluate(run_reference, problem))
    for T in range(1, 71):
        problem = make_problem(T, 2, 1 + T % 5, **options)
        assert_close(evaluate(run, problem), evaluate(run_reference, problem))


def test_wide_rows_are_cut_into_tiles(threads):
    for T, B, H in ((12, 3, 2900), (5, 1, 9001), (9, 130, 40)):
        for reverse in (False, True):
            problem = make_problem(T, B, H, reverse=reverse)
            assert_close(evaluate(run, problem), evaluate(run_reference, problem))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("lengths", "resets"), MASKS)
def test_chunks_of_time_equal_the_sequence(lengths, resets, reverse, threads):
    """Few lanes and many steps: with two threads and more, time is cut into chunks."""
    for H, factor in ((1, "full"), (3, "unit")):
        problem = make_problem(9000, 1, H, factor=factor, lengths=lengths, resets=False,
                               reverse=reverse)  # fmt: skip
        if resets:
            boundaries = torch.zeros(9000, 1, dtype=torch.bool)
            boundaries[[0, 700, 4000, 4001, 8999]] = True
            problem = problem.__class__(**{**problem.__dict__, "resets": boundaries})
        if lengths:
            problem = problem.__class__(**{**problem.__dict__, "lengths": torch.tensor([6100])})
        assert_close([run(problem)], [plain_loop(problem)])
        found, expected = evaluate(run, problem), []
        torch.set_num_threads(1)
        expected = evaluate(run, problem)
        torch.set_num_threads(threads)
        assert_close(found, expected, 1e-12)
        again = evaluate(run, problem)
        assert all(torch.equal(x, y) for x, y in zip(found, again, strict=True))


def test_an_infinite_state_does_not_pass_a_reset_between_chunks():
    torch.set_num_threads(2)
    problem = make_problem(9000, 1, 1, resets=False)
    a = torch.full((9000, 1, 1), 2.0, dtype=torch.float64)  # overflows in front of the reset
    boundaries = torch.zeros(9000, 1, dtype=torch.bool)
    boundaries[4500:] = True
    problem = problem.__class__(a, problem.b.abs(), problem.h_0, resets=boundaries)
    h = run(problem)
    assert torch.equal(h[4500:], problem.b.abs()[4500:]) and h[4400].isinf().all()


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d not in (torch.float64, torch.complex128)],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("masked", [False, True])
def test_other_dtypes_are_as_accurate_as_torch(dtype, masked, assert_accurate):
    for T, B, H, factor in ((40, 3, 17, "full"), (300, 2, 5, "unit"), (33, 2, 40, "row")):
        problem = make_problem(T, B, H, dtype=dtype, factor=factor, lengths=masked, resets=masked)
        exact = evaluate(run_reference, problem.to(EXACT.get(dtype, torch.float64)))
        found, theirs = evaluate(run, problem), evaluate(run_reference, problem)
        for x, y, z in zip(found, exact, theirs, strict=True):
            parts = [torch.view_as_real(t) if t.is_complex() else t for t in (x, y, z)]
            assert_accurate(*parts, what=f"{dtype} {factor}")


def test_sixteen_bits_are_added_up_in_float32():
    """A sum of 4096 ones: bfloat16 would stay at 256."""
    one = torch.ones(4096, 1, 1, dtype=torch.bfloat16)
    assert fastcells.linear_scan(one, one)[-1].item() == 4096


def strided(x, how):
    """The same values: 0 transposed in memory, 1 with gaps between units, 2 between rows."""
    if how == 0:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    shape = (*x.shape, 2) if how == 1 else (*x.shape[:-1], x.shape[-1] + 3)
    gaps = torch.full(shape, float("nan"), dtype=x.dtype)
    return (gaps[..., 0] if how == 1 else gaps[..., 1:-2]).copy_(x)


@pytest.mark.parametrize("how", range(3))
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.bfloat16], ids=str)
def test_any_strides_give_the_same_bits(dtype, how):
    for lengths in (False, True):
        problem = make_problem(11, 3, 21, dtype=dtype, lengths=lengths)
        other = problem.with_variables([strided(x, how) for x in problem.variables()])
        assert torch.equal(run(problem), run(other))
        grad = normal(torch.Generator().manual_seed(1), 11, 3, 21, dtype=torch.float64)
        grad = grad.to(dtype)

        def gradients(problem, grad):
            leaves = [x.detach().requires_grad_() for x in problem.variables()]
            return torch.autograd.grad(run(problem.with_variables(leaves)), leaves, grad)

        expected, found = gradients(problem, grad), gradients(other, strided(grad, how))
        assert all(torch.equal(x, y) for x, y in zip(expected, found, strict=True))


def poisoned(problem):
    """NaN in a and b at steps that do not exist."""
    dim = 1 if problem.batch_first else 0
    steps = torch.arange(problem.b.shape[dim])
    absent = steps[:, None] >= problem.lengths
    absent = (absent.T if problem.batch_first else absent)[..., None]
    nan = torch.full_like(problem.b, float("nan"))
    return problem.with_variables(
        [torch.where(absent, nan, x.expand(problem.b.shape)) if i < 2 else x
         for i, x in enumerate(problem.variables())]
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch_first", [False, True])
def test_nan_past_a_rows_end_has_no_effect(dtype, batch_first):
    for H, reverse, resets in itertools.product((1, 5, 40), (False, True), (False, True)):
        problem = make_problem(13, 5, H, dtype=dtype, lengths=True, resets=resets,
                               reverse=reverse, batch_first=batch_first)  # fmt: skip
        expected, found = evaluate(run, problem), evaluate(run, poisoned(problem))
        assert all(torch.equal(x, y) for x, y in zip(expected, found, strict=True))
        assert not expected[0].isnan().any()


def test_a_gradient_of_nan_past_a_rows_end_has_no_effect():
    problem = make_problem(9, 4, 6, lengths=True)
    leaves = [x.detach().requires_grad_() for x in problem.variables()]
    h = run(problem.with_variables(leaves))
    absent = (torch.arange(9)[:, None] >= problem.lengths)[..., None].expand(h.shape)
    along = torch.ones_like(h)
    expected = torch.autograd.grad(h, leaves, along, retain_graph=True)
    found = torch.autograd.grad(h, leaves, along.masked_fill(absent, float("nan")))
    assert all(torch.equal(x, y) for x, y in zip(expected, found, strict=True))


def test_a_reset_lets_no_infinite_state_pass():
    a, b = torch.ones(4, 2, 3), torch.ones(4, 2, 3)
    b[1] = float("inf")
    resets = torch.zeros(4, 2, dtype=torch.bool)
    resets[2] = True
    h = fastcells.linear_scan(a, b, resets=resets)
    assert torch.equal(h[2:], torch.tensor([1.0, 2.0])[:, None, None].expand(2, 2, 3))


@pytest.mark.parametrize("shape", [(0, 2, 3), (3, 0, 2), (2, 3, 0), (0, 0, 0)])
def test_empty_dimensions(shape):
    for options in each_mask_and_direction():
        problem = make_problem(*shape, **options)
        assert_close(evaluate(run, problem), evaluate(run_reference, problem))


def test_what_comes_in_is_not_written_and_what_comes_out_aliases_nothing():
    problem = make_problem(6, 2, 5)
    copies = [x.clone() for x in problem.variables()]
    h = run(problem)
    h.zero_()
    assert all(torch.equal(x, y) for x, y in zip(problem.variables(), copies, strict=True))


def test_the_bits_do_not_depend_on_threads_without_chunks(threads):
    problem = make_problem(50, 4, 3000, dtype=torch.float32, factor="unit")
    found = evaluate(run, problem)
    torch.set_num_threads(1)
    expected = evaluate(run, problem)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_pieces_with_their_final_states_are_the_whole():
    problem = make_problem(20, 2, 5)
    first = fastcells.linear_scan(problem.a[:7], problem.b[:7], problem.h_0)
    second = fastcells.linear_scan(problem.a[7:], problem.b[7:], first[-1])
    assert torch.equal(torch.cat([first, second]), run(problem))


def row_alone(problem, row):
    """One row of a time-major problem with factors of its own."""
    pick = slice(row, row + 1)
    a, b, *h_0 = problem.variables()
    lengths = None if problem.lengths is None else problem.lengths[pick]
    resets = None if problem.resets is None else problem.resets[:, pick]
    return problem.__class__(a[:, pick], b[:, pick], *(x[pick] for x in h_0),
                             reverse=problem.reverse, lengths=lengths, resets=resets)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("lengths", "resets"), MASKS[1:])
def test_rows_side_by_side_have_the_bits_of_each_alone(dtype, lengths, resets):
    """Few units a row: with lengths and resets, too, rows share vectors."""
    for H, reverse, h_0 in itertools.product((1, 3), (False, True), (False, True)):
        problem = make_problem(150, 9, H, dtype=dtype, lengths=lengths, resets=resets,
                               reverse=reverse, h_0=h_0)  # fmt: skip
        problem = poisoned(problem) if lengths else problem
        along = normal(torch.Generator().manual_seed(3), 150, 9, H).to(dtype)

        def results(problem, along):
            leaves = [x.detach().requires_grad_() for x in problem.variables()]
            h = run(problem.with_variables(leaves))
            return [h.detach(), *torch.autograd.grad(h, leaves, along)]

        together = results(problem, along)
        rows = [results(row_alone(problem, i), along[:, i : i + 1]) for i in range(9)]
        for number, (found, *alone) in enumerate(zip(together, *rows, strict=True)):
            assert torch.equal(found, torch.cat(alone, 0 if number == 3 else 1)), number


@pytest.mark.parametrize("factor", ["unit", "step", "row"])
def test_rows_side_by_side_have_the_same_bits_on_any_threads(factor, threads):
    problem = make_problem(200, 300, 2, dtype=torch.float32, factor=factor, lengths=True,
                           resets=True)  # fmt: skip
    found = evaluate(run, problem)
    torch.set_num_threads(1)
    assert all(torch.equal(x, y) for x, y in zip(found, evaluate(run, problem), strict=True))
    exact = evaluate(run_reference, problem.to(torch.float64))
    assert_close([x.double() for x in found], exact, 1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_product_of_factors_that_overflows_in_a_chunk_does_no_harm_to_states_of_zero(reverse):
    torch.set_num_threads(2)
    b = torch.zeros(9000, 1, 1, dtype=torch.float64)
    a = torch.full_like(b, 2.0)
    b[0 if reverse else -1] = 3
    h = fastcells.linear_scan(a, b, reverse=reverse)
    assert torch.equal(h, b)
