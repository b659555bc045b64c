"""What autograd promises of a weight holds of steps in a loop, which share a node for theirs."""

import gc
import os
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._dynamo import compiled_autograd
from torch.utils.checkpoint import checkpoint

import fastcells
from loops import T, assert_close, each_cell, gradients, h_of, inputs_of, loop, loss_of, pair_of


@each_cell
def test_hooks_of_a_weight_see_one_gradient(kind):
    ours, theirs = pair_of(kind)
    seen = []
    for cell in (ours, theirs):
        calls = []
        cell.weight_hh.register_hook(lambda grad, calls=calls: calls.append(grad) or 2 * grad)
        seen.append((calls, gradients(cell, inputs_of())))
    assert [len(calls) for calls, _ in seen] == [1, 1]
    assert_close(seen[0][1], seen[1][1])


@each_cell
def test_the_same_graph_twice_and_gradients_that_add_up(kind):
    found = []
    for cell in pair_of(kind):
        total = loss_of(loop(cell, inputs_of()))
        total.backward(retain_graph=True)
        total.backward()
        loss_of(loop(cell, inputs_of())).backward()
        found.append([p.grad for p in cell.parameters()])
    assert_close(*found)


@each_cell
def test_two_losses_of_one_loop_each_with_its_own_way_back(kind):
    found = []
    for cell in pair_of(kind):
        outputs = loop(cell, inputs_of())
        other = loop(cell, inputs_of().flip(0))  # of the same weights, beside it
        found.append([])
        for loss in (other[-1].sum(), outputs[2].sum()):
            found[-1] += torch.autograd.grad(loss, list(cell.parameters()))
        with pytest.raises(RuntimeError, match="second time"):
            outputs.sum().backward()
    assert_close(*found)


@each_cell
def test_who_asks_for_the_input_alone_gets_it(kind):
    found = []
    for cell in pair_of(kind):
        x = inputs_of().requires_grad_()
        total = loss_of(loop(cell, x))
        found.append(
            [
                *torch.autograd.grad(total, x, retain_graph=True),
                *torch.autograd.grad(total, [cell.weight_hh], retain_graph=True),
                *torch.autograd.grad(total, [cell.bias_ih, x]),
            ]
        )
    assert_close(*found)


@each_cell
def test_second_derivatives(kind):
    found = []
    for cell in pair_of(kind):
        total = loss_of(loop(cell, inputs_of()))
        first = torch.autograd.grad(total, list(cell.parameters()), create_graph=True)
        found.append(
            torch.autograd.grad(sum(g.sin().sum() for g in first), list(cell.parameters()))
        )
    assert_close(*found)


@each_cell
def test_batched_gradients(kind):
    found = []
    for cell in pair_of(kind):
        outputs = loop(cell, inputs_of())
        directions = torch.stack([torch.ones_like(outputs), outputs.detach()])
        weights = list(cell.parameters())
        found.append(torch.autograd.grad(outputs, weights, directions, is_grads_batched=True))
    assert_close(*found)


@pytest.mark.parametrize("use_reentrant", [False, True])
@each_cell
def test_under_checkpoint(kind, use_reentrant):
    found = []
    for cell in pair_of(kind):
        x = inputs_of().requires_grad_()
        half = len(x) // 2

        def part(x, *state, cell=cell):
            state = state if len(state) == 2 else state[0] if state else None
            for step in x:
                state = cell(step, state)
            return state

        state = checkpoint(part, x[:half], use_reentrant=use_reentrant)
        states = state if isinstance(state, tuple) else (state,)
        last = checkpoint(part, x[half:], *states, use_reentrant=use_reentrant)
        h_of(last).sum().backward()
        found.append([x.grad, *(p.grad for p in cell.parameters())])
    assert_close(*found)


@each_cell
def test_a_run_that_fails_leaves_nothing_to_the_next(kind):
    ours, theirs = pair_of(kind)
    x = inputs_of()

    def fail(grad):
        raise RuntimeError("no further")

    outputs, state = [], None
    for step in x:
        state = ours(step, state)
        outputs.append(h_of(state))
    handle = outputs[1].register_hook(fail)
    total = loss_of(torch.stack(outputs))
    with pytest.raises(RuntimeError, match="no further"):
        total.backward(retain_graph=True)
    handle.remove()
    ours.zero_grad()
    total.backward()
    assert_close([p.grad for p in ours.parameters()], gradients(theirs, x)[1:])


@each_cell
def test_a_weight_that_was_written_to_is_noticed(kind):
    ours, _ = pair_of(kind)
    outputs = loop(ours, inputs_of())
    with torch.no_grad():
        ours.weight_hh.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


@each_cell
def test_weights_of_another_dtype_in_the_middle_of_a_loop(kind):
    """`module.double()` puts other data behind the same parameters."""
    ours, theirs = pair_of(kind, torch.float32)
    found = []
    for cell in (ours, theirs):
        early = loop(cell, inputs_of(torch.float32))
        cell.double()
        late = loop(cell, inputs_of())
        found.append(torch.autograd.grad(late.sum(), list(cell.parameters())))
        del early
    assert found[0][0].dtype == torch.float64
    assert_close(*found)


@each_cell
def test_a_graph_that_is_gone_holds_no_weights(kind):
    ours, _ = pair_of(kind)
    outputs = loop(ours, inputs_of())
    outputs.sum().backward()
    weight = weakref.ref(ours.weight_hh)
    del ours, outputs
    gc.collect()
    assert weight() is None


@each_cell
def test_threads_with_loops_of_one_cell(kind):
    """Each thread's way back is a run of its own, over one graph or several."""
    ours, theirs = pair_of(kind)
    weights = list(ours.parameters())

    inputs = [inputs_of() + k for k in range(8)]

    def work(x):
        return torch.autograd.grad(loss_of(loop(ours, x)), weights)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, inputs))
    for x, actual in zip(inputs, found, strict=True):
        outputs = loop(theirs, x)
        assert_close(actual, torch.autograd.grad(loss_of(outputs), list(theirs.parameters())))


@pytest.mark.sampled(5)
@each_cell
def test_under_compiled_autograd(kind):
    """Which keeps nodes of runs that are over: a new loop must not join them."""
    ours, theirs = pair_of(kind)
    x = inputs_of()
    with compiled_autograd._enable(torch.compile(backend="eager")):
        for _ in range(3):
            assert_close(gradients(ours, x), gradients(theirs, x))


# ---- one parameter in several places ----


def frozen_cell(library, kind, *sizes):
    return getattr(library, f"{kind}Cell")(*sizes, dtype=torch.float64).requires_grad_(False)


@pytest.mark.parametrize("size", [4, 300])
@pytest.mark.parametrize("kind", ["RNN", "GRU"])
@pytest.mark.parametrize(
    "roles", [("weight_ih", "weight_hh"), ("bias_ih", "bias_hh")], ids=["weights", "biases"]
)
def test_a_parameter_that_is_another_weight_of_another_cell(roles, kind, size):
    """The rest is frozen: a loop is known by its weights and by what they are to the cell."""
    found = []
    for library in (fastcells, nn):
        torch.manual_seed(0)
        first, second = (
            frozen_cell(library, kind, size, size),
            frozen_cell(library, kind, size, size),
        )
        shared = getattr(first, roles[0]).requires_grad_()
        setattr(second, roles[1], shared)
        a = b = torch.zeros(2, size, dtype=torch.float64)
        total = 0
        for x in inputs_of(rows=2, size=size):
            a, b = first(x, a), second(x, b)
            total = total + (a**2).sum() + (b**2).sum()
        found.append(torch.autograd.grad(total, [shared]))
    assert_close(*found, rtol=1e-10, atol=1e-10)


def test_a_parameter_of_two_kinds_of_cell():
    found = []
    for library in (fastcells, nn):
        torch.manual_seed(0)
        rnn, gru = frozen_cell(library, "RNN", 300, 900), frozen_cell(library, "GRU", 300, 300)
        gru.bias_hh = rnn.bias_hh.requires_grad_()
        a = b = None
        total = 0
        for x in inputs_of(size=300):
            b, a = gru(x, b), rnn(x, a)
            total = total + (a**2).sum() + (b**2).sum()
        found.append(torch.autograd.grad(total, [gru.bias_hh]))
    assert_close(*found, rtol=1e-10, atol=1e-10)


# ---- what is gathered ----


@pytest.mark.parametrize("size", [8, 600])
def test_an_input_may_be_written_to_when_its_step_is_over(size):
    found = []
    for cell in pair_of("RNN", sizes=(size, size)):
        inputs, h, outputs = [x.clone() for x in inputs_of(size=size)], None, []
        for t, x in enumerate(inputs):
            h = cell(x, h)
            outputs.append(h)
            if t + 1 < T:  # its gradient is there when the step after it is over
                h.register_hook(lambda grad, x=inputs[t + 1]: (x.zero_(), None)[1])
        total = (torch.stack(outputs) ** 2).sum()
        found.append(torch.autograd.grad(total, list(cell.parameters())))
    assert_close(*found, rtol=1e-10, atol=1e-10)


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_runs_that_fail_keep_no_sums():
    cell, _ = pair_of("LSTM", sizes=(600, 600))

    def fail(grad):
        raise ValueError("no further")

    outputs, state = [], None
    for x in inputs_of(size=600):
        state = cell(x, state)
        outputs.append(h_of(state))
    outputs[1].register_hook(fail)
    total = loss_of(torch.stack(outputs))
    sizes = []
    for _ in range(12):
        with pytest.raises(ValueError, match="no further"):
            total.backward(retain_graph=True)
        sizes.append(resident_bytes())
    weights = sum(p.nbytes for p in cell.parameters())
    assert sizes[-1] - sizes[2] < 4 * weights  # of nine runs
