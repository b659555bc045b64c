"""explain() says which implementation an attention runs, and the call does run it."""

import pytest
import torch
from torch.autograd import forward_ad

import fastcells
from fastcells.functional import attention, routing
from ways import through_python, watch_at_once

X = torch.zeros(2, 5, 8)
LENGTHS = torch.tensor([5, 2])


@pytest.fixture
def ran(monkeypatch):
    """What implementations ran, and with which dtype of the query."""
    calls = []

    def watched(kind, name, f):
        def watching(*args):
            calls.append((f"{kind}{name}", args[0].dtype))
            return f(*args)

        return watching

    for name, score in list(attention.SCORES.items()):
        watching = score._replace(
            forward=watched("cpu ", f"{name} attention", score.forward),
            reference=watched("reference", "", score.reference),
        )
        monkeypatch.setitem(attention.SCORES, name, watching)

    def seen(name, arguments):
        is_additive = name == "additive_at_once" or "additive" in arguments
        score = "additive" if is_additive else "dot"
        calls.append((f"cpu {score} attention", arguments[0].dtype))

    watch_at_once(monkeypatch, seen)
    return calls


def assert_explained(ran, target, *arguments, **options):
    explanation = fastcells.explain(target, *arguments, **options)
    assert not ran  # nothing is computed
    target(*arguments, **options)
    assert ran == [(explanation.kernel, explanation.dtype)]
    return explanation


SDPA, ADDITIVE = fastcells.scaled_dot_product_attention, fastcells.additive_attention
CALLS = {
    "function": (lambda: SDPA, (X, X, X), {"is_causal": True}),
    "additive function": (lambda: ADDITIVE, (X, X, X, X[0, 0]), {"key_lengths": LENGTHS}),
    "layer": (lambda: fastcells.MultiheadAttention(8, 2, batch_first=True), (X, X, X), {}),
    "additive layer": (lambda: fastcells.AdditiveAttention(8, 8, 4), (X, X), {}),
    "self": (lambda: fastcells.SelfAttention(8, 4), (X,), {"lengths": LENGTHS}),
    "additive self": (lambda: fastcells.SelfAttention(8, 4, score="additive"), (X,), {}),
}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    ("name", "make", "arguments", "options"),
    [(name, *call) for name, call in CALLS.items()],
    ids=CALLS.keys(),
)
def test_an_eager_call_runs_what_is_explained(name, make, arguments, options, requires_grad, ran):
    with torch.set_grad_enabled(requires_grad):
        explanation = assert_explained(ran, make(), *arguments, **options)
    score = "additive" if "additive" in name else "dot"
    assert (explanation.kernel, explanation.cell) == (
        f"cpu {score} attention",
        f"{score} attention",
    )


def test_the_text_of_an_explanation():
    mask = torch.ones(5, 5, dtype=torch.bool)
    layer = fastcells.MultiheadAttention(8, 2, dtype=torch.bfloat16)
    x = X.bfloat16()
    assert str(fastcells.explain(layer, x, x, x, attn_mask=mask, is_causal=True)) == (
        "dot attention, torch.bfloat16: cpu dot attention\n"
        "  why: compiled kernels\n"
        "  scores in tiles; their matrix is never held\n"
        "  arithmetic in float32\n"
        "  tiles outside the causal mask or the window are skipped\n"
        "  the mask is read tile by tile, not expanded\n"
        "  need_weights: the same kernel writes the weights [B, N, Tq, Tk]"
    )


def test_float16_and_other_devices_run_the_reference(ran, monkeypatch):
    half = X.half()
    explanation = assert_explained(ran, SDPA, half, half, half)
    assert explanation.kernel == "reference"
    assert (
        explanation.reason == "this build of fastcells has no attention kernels for torch.float16"
    )
    monkeypatch.setattr(routing.attention, "KERNEL_DEVICES", ())
    reason = fastcells.explain(SDPA, X, X, X).reason
    assert reason == "this build of fastcells has no attention kernels for cpu"


def test_autocast_names_its_dtype(ran):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        explanation = assert_explained(ran, fastcells.SelfAttention(8, 4), X)
    assert explanation.dtype == torch.bfloat16


def test_a_tangent_runs_the_reference(ran):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, X)
        assert assert_explained(ran, SDPA, dual, X, X).kernel == "reference"


def test_without_the_extension_the_reference_runs(ran, monkeypatch):
    monkeypatch.setattr(routing, "is_compiled", lambda: False)
    monkeypatch.setattr(routing, "why_not_compiled", lambda: "no compiler was there")
    through_python(monkeypatch)
    assert assert_explained(ran, SDPA, X, X, X).reason == "no compiler was there"


def test_without_tensors_there_is_nothing_to_explain():
    with pytest.raises(TypeError, match="a call of attention needs its tensors"):
        fastcells.explain(SDPA)
