"""Steps of one cell in a loop, whose weights' gradients are added to one sum.

torch.nn's cell with the same weights in float64 says what is right. csrc/recurrent/loop.h says how
it is done; that a loop goes this way at all shows in the graph.
"""

import pytest
import torch
from torch import nn

import fastcells
from loops import (
    H,
    I,
    T,
    assert_close,
    each_cell,
    gradients,
    h_of,
    inputs_of,
    loop,
    loss_of,
    masked,
    nodes_of,
    pair_of,
)

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


@each_cell
def test_a_result_that_is_kept_makes_no_loop_of_later_single_steps(kind):
    ours, _ = pair_of(kind)
    kept = ours(inputs_of()[0])  # whose way back nobody asks for
    shared = []
    for step in inputs_of():
        state = ours(step)
        shared.append(any("SharedWeights" in name for name in nodes_of(h_of(state))))
        h_of(state).sum().backward()
    assert shared == [True] + [False] * (T - 1)
    del kept


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


def test_what_has_more_than_products_and_biases_shares_nothing():
    layers = [nn.LSTM(I, H, proj_size=2), fastcells.LSTM(I, H, proj_size=2)]
    layers[1].load_state_dict(layers[0].state_dict())
    found = []
    for layer in layers:
        layer.double()
        state, outputs = None, []
        for step in inputs_of():
            output, state = layer(step[None], state)
            outputs.append(output)
        assert not any("SharedWeights" in name for name in nodes_of(torch.cat(outputs)))
        found.append(torch.autograd.grad(torch.cat(outputs).sum(), list(layer.parameters())))
    assert_close(*found)
