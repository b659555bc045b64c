"""Steps of one cell in a loop, whose weights' gradients are multiplied for many steps at once.

torch.nn's cell with the same weights in float64 says what is right. csrc/recurrent/loop.h says how
it is done; that a loop goes this way at all shows in the graph.
"""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._dynamo import compiled_autograd
from torch.utils.checkpoint import checkpoint

import fastcells

CELLS = {"RNN": {}, "RNN-relu": {"nonlinearity": "relu"}, "LSTM": {}, "GRU": {}}
each_cell = pytest.mark.parametrize("kind", CELLS)
T, B, I, H = 6, 3, 5, 7


def pair_of(kind, dtype=torch.float64, sizes=(I, H), **options):
    """Return a cell of ours and torch's with the same weights."""
    name = kind.split("-")[0]
    torch.manual_seed(0)
    ours = getattr(fastcells, f"{name}Cell")(*sizes, dtype=dtype, **CELLS[kind], **options)
    theirs = getattr(nn, f"{name}Cell")(*sizes, dtype=dtype, **CELLS[kind], **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def inputs_of(dtype=torch.float64, steps=T, rows=B, size=I):
    torch.manual_seed(1)
    return torch.randn(steps, rows, size, dtype=dtype)


def h_of(state):
    return state[0] if isinstance(state, tuple) else state


def masked(state, row):
    """The state with one row set back, as users of episodes do between steps."""
    keep = torch.ones(len(h_of(state)), 1, dtype=h_of(state).dtype)
    keep[row % len(keep)] = 0
    return tuple(s * keep for s in state) if isinstance(state, tuple) else state * keep


def loop(cell, x, state=None, between=lambda state, t: state):
    outputs = []
    for t, step in enumerate(x):
        state = cell(step, state)
        outputs.append(h_of(state))
        state = between(state, t)
    return torch.stack(outputs)


def loss_of(outputs):
    return (
        outputs * torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    ).sum()


def gradients(cell, x, **options):
    x = x.clone().requires_grad_()
    cell.zero_grad()
    loss_of(loop(cell, x, **options)).backward()
    return [x.grad, *(p.grad for p in cell.parameters())]


def assert_close(actual, expected, **tolerance):
    assert len(actual) == len(expected) > 0
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) == (e is None)
        if e is not None:
            torch.testing.assert_close(a, e, **(tolerance or {"rtol": 1e-12, "atol": 1e-12}))


def nodes_of(tensor):
    """Count the names of all nodes of a graph."""
    seen, waiting, names = set(), [tensor.grad_fn], []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        names.append(node.name())
        waiting += [following for following, _ in node.next_functions]
    return names


# ---- the gradients ----


@pytest.mark.parametrize("between", [lambda state, t: state, masked], ids=["as_is", "masked"])
@each_cell
def test_gradients_are_torchs(kind, between):
    ours, theirs = pair_of(kind)
    x = inputs_of()
    assert_close(gradients(ours, x, between=between), gradients(theirs, x, between=between))


@each_cell
def test_the_steps_after_the_first_share_one_node(kind):
    ours, _ = pair_of(kind)
    names = nodes_of(loop(ours, inputs_of()).sum())
    assert sum("SharedWeights" in name for name in names) == 1
    assert sum("LayerFunction" in name for name in names) == T
    single = nodes_of(h_of(pair_of(kind)[0](inputs_of()[0])))
    assert not any("SharedWeights" in name for name in single)


@each_cell
def test_steps_one_after_another_with_a_way_back_each_are_no_loop(kind):
    """Although the last result is still there while the next step is taken."""
    ours, _ = pair_of(kind)
    for step in inputs_of():
        state = ours(step)
        assert not any("SharedWeights" in name for name in nodes_of(h_of(state)))
        h_of(state).sum().backward()


@pytest.mark.parametrize("frozen", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"])
@each_cell
def test_frozen_weights_get_none(kind, frozen):
    cells = pair_of(kind)
    for cell in cells:
        getattr(cell, frozen).requires_grad_(False)
    ours, theirs = (gradients(cell, inputs_of()) for cell in cells)
    assert sum(g is None for g in theirs) == 1
    assert_close(ours, theirs)


@each_cell
def test_without_biases_without_a_batch_and_with_given_states(kind):
    ours, theirs = pair_of(kind, bias=False)
    x = inputs_of()[:, 0]
    h = torch.randn(H, dtype=x.dtype)
    state = (h, h.sin()) if kind == "LSTM" else h
    assert_close(gradients(ours, x, state=state), gradients(theirs, x, state=state))


@pytest.mark.parametrize("rows", [1, 3, 8], ids="B{}".format)
@each_cell
def test_few_rows_of_large_weights_are_gathered(kind, rows):
    """Weights' gradients beyond a cache are written once, for all steps."""
    ours, theirs = pair_of(kind, sizes=(300, 620))
    x = inputs_of(steps=16, rows=rows, size=300)
    assert_close(gradients(ours, x), gradients(theirs, x))


def test_what_is_gathered_is_multiplied_before_it_takes_much_memory():
    ours, theirs = pair_of("GRU", sizes=(130, 600))
    x = inputs_of(steps=45, rows=31, size=130)  # 44 MB of rows: more than is kept
    assert_close(gradients(ours, x), gradients(theirs, x), rtol=1e-11, atol=1e-11)


def test_rows_that_change_from_step_to_step():
    """Of one loop some steps add their own products, and some are gathered."""
    found = []
    for cell in pair_of("LSTM", sizes=(200, 420)):
        total = 0
        for rows in (1, 40, 3, 33, 31):
            x = inputs_of(steps=2, rows=rows, size=200)
            total = total + loss_of(loop(cell, x))
        found.append(torch.autograd.grad(total, list(cell.parameters())))
    assert_close(*found, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("threads", [1, 2])
@each_cell
def test_rows_and_units_on_every_thread(kind, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, theirs = pair_of(kind, sizes=(130, 257))
        x = inputs_of(steps=4, rows=70, size=130)
        assert_close(gradients(ours, x), gradients(theirs, x))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@each_cell
def test_narrow_dtypes_are_as_accurate_as_torch(kind, dtype):
    ours, theirs = pair_of(kind, dtype)
    exact = pair_of(kind)[1]
    exact.load_state_dict(theirs.state_dict())
    x = inputs_of(dtype)
    right = gradients(exact, x.double())
    for actual, stock, expected in zip(
        gradients(ours, x), gradients(theirs, x), right, strict=True
    ):
        assert actual.dtype == dtype
        error, allowed = ((g.double() - expected).abs().max() for g in (actual, stock))
        assert error <= 2 * allowed + torch.finfo(dtype).eps * expected.abs().max()


def test_layers_of_one_step_share_too():
    ours, theirs = fastcells.GRU(I, H, dtype=torch.float64), nn.GRU(I, H, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    found = []
    for layer in (ours, theirs):
        h, outputs = None, []
        for step in inputs_of():
            output, h = layer(step[None], h)
            outputs.append(output)
        out = torch.cat(outputs)
        found.append(torch.autograd.grad(loss_of(out), list(layer.parameters()), retain_graph=True))
        assert sum("SharedWeights" in name for name in nodes_of(out)) == (layer is ours)
    assert_close(*found)


# ---- what autograd promises ----


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


@each_cell
def test_under_compiled_autograd(kind):
    """Which keeps nodes of runs that are over: a new loop must not join them."""
    ours, theirs = pair_of(kind)
    x = inputs_of()
    with compiled_autograd._enable(torch.compile(backend="eager")):
        for _ in range(3):
            assert_close(gradients(ours, x), gradients(theirs, x))
