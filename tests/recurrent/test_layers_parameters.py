"""A layer reads its parameters by name at every call: whatever stands there takes effect."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations, prune

import fastcells
from pairs import (
    CELLS,
    B,
    H,
    I,
    assert_near,
    assert_pair_agrees,
    each_cell,
    each_kind,
    each_layer,
    evaluate,
    float64,
    make_hx,
    make_input,
    make_pair,
    one_thread,  # noqa: F401 (an autouse fixture)
    tensors_of,
)


def hidden_weight(kind):
    return "weight_hh" if kind in CELLS else "weight_hh_l0"


def change_in_place(module, name):
    with torch.no_grad():
        getattr(module, name).mul_(0.5)


def change_data(module, name):
    getattr(module, name).data = getattr(module, name).data * 0.5


def put_a_parameter(module, name):
    setattr(module, name, nn.Parameter(getattr(module, name).detach() * 0.5))


def put_a_tensor(module, name):
    """Not a parameter: as one made by another network."""
    value = getattr(module, name).detach() * 0.5
    delattr(module, name)
    setattr(module, name, value)


def load_state(module, name):
    state = module.state_dict()
    module.load_state_dict(state | {name: state[name] * 0.5})


def step_of_an_optimizer(module, name):
    weight = getattr(module, name)
    weight.grad = torch.full_like(weight, 0.25)
    torch.optim.SGD([weight], lr=1.0).step()
    weight.grad = None


CHANGES = [
    change_in_place,
    change_data,
    put_a_parameter,
    put_a_tensor,
    load_state,
    step_of_an_optimizer,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@each_kind
def test_a_changed_parameter_takes_effect_at_the_next_call(kind, change):
    ours, theirs = make_pair(kind, **float64)
    input, hx = make_input(kind), make_hx(ours, B)
    before = ours(input, hx)
    for module in (ours, theirs):
        change(module, hidden_weight(kind))
    assert not torch.equal(tensors_of(ours(input, hx))[0], tensors_of(before)[0])
    assert_pair_agrees(ours, theirs, input, hx)


@each_kind
def test_functional_call_uses_the_parameters_it_is_given(kind):
    ours, theirs = make_pair(kind, **float64)
    input, hx = make_input(kind), make_hx(ours, B)
    before = [p.clone() for p in ours.parameters()]
    given = {name: torch.randn_like(p) for name, p in ours.named_parameters()}
    found = []
    for module in (ours, theirs):
        state = {name: value.clone().requires_grad_() for name, value in given.items()}
        results = tensors_of(functional_call(module, state, (input, hx)))
        grads = torch.autograd.grad(sum(r.pow(2).sum() for r in results), state.values())
        found.append(dict(enumerate([*results, *grads])))
    assert_near(*found)
    assert all(torch.equal(p, b) for p, b in zip(ours.parameters(), before, strict=True))


@each_kind
def test_weight_norm_takes_effect_and_learns(kind):
    """Also after a deep copy, which torch.nn's layers refuse once they have computed."""
    ours, theirs = make_pair(kind, **float64)
    input, hx = make_input(kind), make_hx(ours, B)
    for module in (ours, theirs):
        parametrizations.weight_norm(module, hidden_weight(kind))
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name.endswith("original0"):  # the length of each row
                    parameter.mul_(1.5)
    assert sum("parametrizations" in name for name, _ in ours.named_parameters()) == 2
    assert_pair_agrees(ours, theirs, input, hx)
    assert_pair_agrees(copy.deepcopy(ours), theirs, input, hx)


@each_kind
def test_pruned_weights_stay_pruned(kind):
    ours, theirs = make_pair(kind, **float64)
    input, hx = make_input(kind), make_hx(ours, B)
    name = hidden_weight(kind)
    for module in (ours, theirs):
        prune.l1_unstructured(module, name, amount=0.5)
    assert_pair_agrees(ours, theirs, input, hx)
    grad = evaluate(ours, input, hx)[f"grad of {name}_orig"]
    mask = getattr(ours, f"{name}_mask") == 0
    assert mask.any() and not grad[mask].any() and grad[~mask].any()
    for module in (ours, theirs):
        prune.remove(module, name)
    assert_pair_agrees(ours, theirs, input, hx)


@each_kind
def test_frozen_parameters_get_no_gradient_and_change_no_other(kind):
    ours, theirs = make_pair(kind, **float64)
    for module in (ours, theirs):
        getattr(module, hidden_weight(kind)).requires_grad_(False)
        sum(t.pow(2).sum() for t in tensors_of(module(make_input_once(kind)))).backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if name == hidden_weight(kind):
            assert a.grad is None
        else:
            torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-12, msg=name)


def make_input_once(kind):
    torch.manual_seed(1)
    return make_input(kind)


def shared_in_two_layers(module):
    """One network, its layers with the same weights."""
    for name in ("weight_hh", "bias_ih", "bias_hh"):
        setattr(module, f"{name}_l1", getattr(module, f"{name}_l0"))
    return module


@each_layer
def test_a_parameter_that_stands_in_two_places_gets_both_gradients(kind):
    ours, theirs = make_pair(kind, num_layers=2, **float64)
    assert_pair_agrees(
        shared_in_two_layers(ours), shared_in_two_layers(theirs), make_input(kind), make_hx(ours, B)
    )


@each_kind
def test_an_ensemble_under_vmap_is_each_member_alone(kind):
    """Other inputs for each member, and one input for all; values and gradients of the weights."""
    members = [getattr(fastcells, kind)(I, H, **float64) for _ in range(3)]
    parameters, buffers = stack_module_state(members)
    base = copy.deepcopy(members[0]).to("meta")
    inputs = torch.stack([make_input(kind) for _ in members])

    def call(parameters, buffers, input):
        return tuple(tensors_of(functional_call(base, (parameters, buffers), (input,))))

    for given, dim in ((inputs, 0), (inputs[0], None)):
        found = vmap(call, in_dims=(0, 0, dim))(parameters, buffers, given)
        each = [given[i] if dim == 0 else given for i in range(len(members))]
        alone = [tensors_of(member(input)) for member, input in zip(members, each, strict=True)]
        expected = [torch.stack(results) for results in zip(*alone, strict=True)]
        assert_near(dict(enumerate(found)), dict(enumerate(expected)))
        grads = torch.autograd.grad(sum(f.pow(2).sum() for f in found), parameters.values())
        loss = sum(e.pow(2).sum() for e in expected)
        wanted = torch.autograd.grad(loss, [p for m in members for p in m.parameters()])
        count = len(parameters)
        stacked = [torch.stack(wanted[i::count]) for i in range(count)]
        assert_near(dict(enumerate(grads)), dict(enumerate(stacked)))


@pytest.mark.parametrize("name", ["bias_ih", "bias_hh"])
@each_cell
def test_a_cell_may_have_one_bias_alone(kind, name):
    """torch's cells add each bias that is there."""
    ours, theirs = make_pair(kind, **float64)
    for module in (ours, theirs):
        setattr(module, name, None)
    assert_pair_agrees(ours, theirs, make_input(kind), make_hx(ours, B))
