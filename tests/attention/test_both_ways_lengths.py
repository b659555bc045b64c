"""SelfAttention with lengths on both ways: the same bits and errors, no trace of what is hidden."""

import pytest
import torch

import fastcells
from attention_problems import assert_same, random, results_and_gradients
from ways import through_python

B, TQ = 2, 5


@pytest.mark.parametrize("score", ["dot", "additive"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_self_attention_with_lengths(need_weights, score, took, monkeypatch):
    module = fastcells.SelfAttention(7, 8, score=score, causal=need_weights)
    x = random(B, TQ, 7)
    lengths = torch.arange(B) % (TQ + 1)
    hidden = torch.arange(TQ) >= lengths[:, None]
    x[hidden] = float("nan")
    x.requires_grad_()
    leaves = [x, *module.parameters()]

    def call():
        return module(x, lengths=lengths, need_weights=need_weights)

    found = results_and_gradients(call, leaves)
    assert took == ["self_attention_at_once"]
    output = call()[0] if need_weights else call()
    assert (output[hidden] == 0).all() and not output.isnan().any()
    through_python(monkeypatch)
    assert_same(found, results_and_gradients(call, leaves))


@pytest.mark.parametrize(
    "lengths",
    [torch.tensor([-1] + [1] * (B - 1)), torch.full((B,), TQ + 1), torch.ones(B, dtype=torch.int32),
     torch.ones(B + 1, dtype=torch.long), torch.ones(B, 1, dtype=torch.long), [1] * B],
    ids=["negative", "too long", "int32", "rows", "rank", "list"],
)  # fmt: skip
def test_errors_of_self_attentions_lengths(lengths, took, monkeypatch):
    module, x = fastcells.SelfAttention(7, 8), random(B, TQ, 7)
    with pytest.raises(Exception, match="lengths") as found:
        module(x, lengths=lengths)
    through_python(monkeypatch)
    with pytest.raises(type(found.value)) as expected:
        module(x, lengths=lengths)
    assert str(found.value) == str(expected.value)
