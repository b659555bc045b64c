"""What a mask, a window or a length hides from every query changes no result and no gradient by a
bit, whatever it holds: compared with zeros in its place. And what a query sees alone."""

import itertools

import pytest
import torch

import fastcells

INF, NAN = float("inf"), float("nan")
N, TK, E = 2, 40, 5
HIDDEN = [0, 3, 17, 39]  # keys that nobody sees: in groups of four beside keys that are seen
DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,  # on a CPU the reference
}
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
each_score = pytest.mark.parametrize("score", ["dot", "additive"])


def hiding_mask(kind, rows, dtype):
    """A mask that hides the keys of HIDDEN from every query, and some others from some."""
    seen = torch.rand(rows, TK) < 0.8
    if kind.endswith("row"):
        seen = seen[:1]
    seen[:, HIDDEN] = False
    seen[:, 5] = True  # everyone sees something
    if kind.startswith("bool"):
        return seen
    bias = torch.randn(seen.shape).masked_fill(~seen, -INF)
    return bias.to(torch.float32 if kind.startswith("wide") else dtype)


def run(score, tensors, mask, **options):
    """Output, weights and all gradients of a call through a random projection."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    is_bias = mask is not None and mask.is_floating_point()
    bias = mask.clone().requires_grad_() if is_bias else mask
    torch.manual_seed(7)
    if score == "dot":
        results = fastcells.scaled_dot_product_attention(
            *leaves, bias, return_weights=True, **options
        )
    else:
        results = fastcells.additive_attention(
            *leaves, attn_mask=bias, return_weights=True, **options
        )
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (r.double() * torch.randn(r.shape, generator=generator, dtype=torch.float64)).sum()
        for r in results
    )
    loss.backward()
    leaves += [bias] if is_bias else []
    return [r.detach() for r in results] + [leaf.grad for leaf in leaves]


def make_tensors(score, rows, dtype):
    if score == "dot":
        shapes = [(1, N, rows, E), (1, N, TK, E), (1, N, TK, E)]
    else:
        shapes = [(1, rows, E), (1, TK, E), (1, TK, E), (E,)]
    return [torch.randn(shape).to(dtype) for shape in shapes]


def assert_no_trace(score, tensors, mask, hidden=HIDDEN, **options):
    """What the hidden keys and values hold is nowhere to be seen."""

    def with_hidden(key, value):
        query, keys, values, *rest = (t.clone() for t in tensors)
        keys[..., hidden, :], values[..., hidden, :] = key, value
        return run(score, [query, keys, values, *rest], mask, **options)

    clean = with_hidden(0.0, 0.0)
    assert all(torch.isfinite(t).all() for t in clean[:-1])
    for filling in ((NAN, NAN), (INF, -INF), (-INF, 7.0), (30.0, NAN)):
        for found, expected in zip(with_hidden(*filling), clean, strict=True):
            assert torch.equal(torch.nan_to_num(found, 12345.0), torch.nan_to_num(expected, 0.5))
    for gradient in clean[3:5]:
        assert (gradient[..., hidden, :] == 0).all()


@pytest.mark.parametrize("rows", range(1, 71))
@each_score
def test_a_hidden_key_leaves_no_trace_at_any_number_of_queries(score, rows):
    tensors = make_tensors(score, rows, torch.float32)
    for kind in ("bool", "bool row", "added"):
        assert_no_trace(score, tensors, hiding_mask(kind, rows, torch.float32))


@each_dtype
@each_score
@pytest.mark.parametrize("kind", ["bool", "bool row", "added", "added row", "wide"])
@pytest.mark.parametrize("rows", [3, 6, 33, 61])
def test_a_hidden_key_leaves_no_trace_behind_any_mask(kind, score, dtype, rows):
    if kind == "wide" and dtype == torch.float32:
        pytest.skip("a float32 mask is as wide as float32 tensors")
    tensors = make_tensors(score, rows, dtype)
    assert_no_trace(score, tensors, hiding_mask(kind, rows, dtype))


@each_dtype
@pytest.mark.parametrize("rows", [2, 7, 30, 37])
@pytest.mark.parametrize("alignment", ["top_left", "bottom_right"])
def test_a_key_outside_every_window_leaves_no_trace(alignment, rows, dtype):
    """Of a causal call, or of a window; together with a mask, too."""
    tensors = make_tensors("dot", rows, dtype)
    last = rows if alignment == "top_left" else TK
    first = 0 if alignment == "top_left" else TK - rows
    after, before = list(range(last, TK)), list(range(max(0, first - 2)))
    mask = hiding_mask("bool", rows, dtype)
    mask[:, max(0, first - 2) : last] = True
    options = {"causal_alignment": alignment}
    if after:
        assert_no_trace("dot", tensors, None, after, is_causal=True, **options)
    if after + before:
        assert_no_trace("dot", tensors, None, after + before, window=(2, 0), **options)
        assert_no_trace("dot", tensors, mask, after + before, window=(2, 0), **options)


@each_dtype
@each_score
def test_a_key_past_its_length_leaves_no_trace(score, dtype):
    tensors = make_tensors(score, 37, dtype)
    lengths = torch.tensor([23])
    hidden = list(range(23, TK))
    assert_no_trace(score, tensors, None, hidden, key_lengths=lengths)
    mask = hiding_mask("bool row", 37, dtype)
    assert_no_trace(score, tensors, mask, hidden + HIDDEN[:3], key_lengths=lengths)


@each_dtype
def test_softcap_and_dropout_leave_no_trace(dtype):
    tensors = make_tensors("dot", 37, dtype)
    mask = hiding_mask("added", 37, dtype)
    assert_no_trace("dot", tensors, mask, softcap=3.0, dropout_p=0.3)
    assert_no_trace("additive", make_tensors("additive", 37, dtype), mask, dropout_p=0.3)


@each_dtype
@each_score
@pytest.mark.parametrize("rows", [3, 6, 33])
def test_a_query_that_sees_nothing_leaves_no_trace(score, dtype, rows):
    """What it holds, and what its output's gradient is, reaches no other gradient."""
    if dtype == torch.float16:
        pytest.skip("the reference multiplies by its zeros, as torch does")
    tensors = make_tensors(score, rows, dtype)
    mask = torch.ones(rows, TK, dtype=torch.bool)
    mask[1] = False
    clean = run(score, tensors, mask)
    tensors[0][..., 1, :] = NAN
    poisoned = run(score, tensors, mask)
    # The poisoned query changes how its neighbours are computed, not what comes out.
    for found, expected in zip(poisoned, clean, strict=True):
        torch.testing.assert_close(found, expected)


@each_dtype
@each_score
@pytest.mark.parametrize(("rows", "width"), list(itertools.product([1, 4, 6, 33], [5, 16, 37])))
def test_a_query_with_one_visible_key_has_a_gradient_of_exactly_zero(score, dtype, rows, width):
    shapes = [(2, rows, width), (2, TK, width), (2, TK, width)] + [(width,)] * (score != "dot")
    tensors = [torch.randn(shape).to(dtype) for shape in shapes]
    seen = torch.zeros(rows, TK, dtype=torch.bool)
    seen[torch.arange(rows), torch.randint(TK, (rows,))] = True
    bias = torch.randn(rows, TK).masked_fill(~seen, -INF).to(dtype)
    for mask, options in ((seen, {}), (bias, {}), (seen, {"dropout_p": 0.3})):
        found = run(score, tensors, mask, **options)
        scores_side = [found[2], found[3], *found[5:]]  # query, key, and scale or bias
        assert all((gradient == 0).all() for gradient in scores_side)
        assert found[4].isfinite().all()
        assert found[4].any() or options
