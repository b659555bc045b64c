"""fastcells.freeze: packs that are not hashed, as long as nothing but what torch counts writes."""

import numpy as np
import pytest
import torch

import fastcells
from fastcells._extension import _C

T, B, I, H = 9, 4, 6, 20


@pytest.fixture
def layer():
    return fastcells.LSTM(I, H, num_layers=2, bidirectional=True).requires_grad_(False)


def run(layer):
    torch.manual_seed(0)
    return layer(torch.randn(T, B, I))[0]


def test_it_changes_no_bit(layer):
    before = run(layer)
    assert fastcells.freeze(layer) is layer
    assert torch.equal(run(layer), before)
    assert fastcells.unfreeze(layer) is layer
    assert torch.equal(run(layer), before)


def test_the_weights_are_packed_at_once(layer):
    before = _C.packed_bytes()
    fastcells.freeze(layer)
    packed = _C.packed_bytes()
    assert packed > before
    run(layer)
    assert _C.packed_bytes() == packed


WRITES = {
    "in place": lambda w: w.mul_(2),
    "copy_": lambda w: w.copy_(2 * w),
    "a view": lambda w: w.view(-1)[: w.numel()].mul_(2),
    "out=": lambda w: torch.mul(w, 2, out=w),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("name", ["weight_hh_l0", "weight_ih_l1_reverse", "bias_ih_l0"])
def test_what_torch_counts_is_seen(layer, name, write):
    fastcells.freeze(layer)
    run(layer)
    WRITES[write](getattr(layer, name))
    found = run(layer)
    fastcells.unfreeze(layer)
    assert torch.equal(found, run(layer))


def test_an_optimizers_step_and_load_state_dict_are_seen(layer):
    layer.requires_grad_(True)
    other = fastcells.LSTM(I, H, num_layers=2, bidirectional=True)
    with fastcells.frozen(layer):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
        run(layer).pow(2).sum().backward()
        optimizer.step()
        found = run(layer)
    assert torch.equal(found, run(layer))
    with fastcells.frozen(layer):
        run(layer)
        layer.load_state_dict(other.state_dict())
        assert torch.equal(run(layer), run(other))


@pytest.mark.parametrize(
    "write", [lambda w: w.data.mul_(2), lambda w: np.multiply(w.numpy(), 2, out=w.numpy())]
)
def test_what_torch_does_not_count_is_not_seen_until_it_is_unfrozen(layer, write):
    """The word that a user gives; without it such a write is seen."""
    with fastcells.frozen(layer):
        before = run(layer)
        write(layer.weight_hh_l0)
        assert torch.equal(run(layer), before)
    after = run(layer)
    assert not torch.equal(after, before)
    fastcells.freeze(layer)
    write(layer.weight_hh_l0)
    fastcells.freeze(layer)  # again: packed anew
    assert not torch.equal(run(layer), after)


def test_another_tensor_in_the_place_of_a_weight_is_taken(layer):
    fastcells.freeze(layer)
    run(layer)
    weight = torch.randn_like(layer.weight_hh_l0)
    found = torch.func.functional_call(layer, {"weight_hh_l0": weight}, torch.ones(T, B, I))[0]
    layer.weight_hh_l0 = torch.nn.Parameter(weight)
    assert torch.equal(found, layer(torch.ones(T, B, I))[0])


def test_memory_that_is_used_again_is_not_taken_for_frozen():
    for _ in range(20):
        layer = fastcells.freeze(fastcells.GRU(I, H).requires_grad_(False))
        plain = fastcells.GRU(I, H).requires_grad_(False)
        plain.load_state_dict(layer.state_dict())
        assert torch.equal(run(layer), run(plain))


def test_the_way_back_takes_frozen_weights(layer):
    layer.requires_grad_(True)

    def gradients():
        return torch.autograd.grad(run(layer).sin().sum(), list(layer.parameters()))

    expected = gradients()
    with fastcells.frozen(layer):
        found = gradients(), gradients()
    for one in found:
        assert all(torch.equal(a, b) for a, b in zip(one, expected, strict=True))


def test_explain_says_so(layer):
    input = torch.randn(T, B, I)
    note = "weights frozen: their packs are not hashed"
    assert note not in fastcells.explain(layer, input).notes
    with fastcells.frozen(layer):
        assert note in fastcells.explain(layer, input).notes
    assert note not in fastcells.explain(layer, input).notes


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (3, "freeze: module must be a torch.nn.Module, got int"),
        (torch.nn.Linear(2, 2), "freeze: Linear holds no recurrent layer or cell of fastcells"),
    ],
)
def test_what_it_refuses(module, message):
    with pytest.raises(TypeError) as error:
        fastcells.freeze(module)
    assert str(error.value) == message


def test_any_module_that_holds_layers_and_any_dtype():
    model = torch.nn.Sequential(fastcells.GRU(I, H, dtype=torch.bfloat16), torch.nn.Linear(H, 1))
    cell = fastcells.GRUCell(I, H, dtype=torch.float16)
    half = fastcells.GRU(I, H, variant="reset_before")
    meta = fastcells.LSTM(I, H, device="meta")
    for module in (model, cell, half, meta):
        fastcells.unfreeze(fastcells.freeze(module))
