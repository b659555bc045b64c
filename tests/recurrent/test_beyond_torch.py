"""What fastcells' modules have beyond torch.nn's: all cell states, GRU variants, the forget bias,
explain(), and the same layers as functions. lengths= and resets= have files of their own."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastcells
from fastcells import functional
from pairs import (
    CELLS,
    B,
    H,
    I,
    T,
    assert_near,
    assert_same_bits,
    each_batch_first,
    each_kind,
    evaluate,
    float64,
    make_hx,
    make_input,
    make_pair,
    one_thread,  # noqa: F401 (an autouse fixture)
    quiet_projections,
)

pytestmark = quiet_projections


# ---- all cell states ----


class ByCells(nn.Module):
    """torch's LSTMCell step by step in each direction, with the parameters of a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, input, hx):
        outputs, last, cells = [], [], []
        for direction, names in enumerate(self.layer._all_weights):
            cell = nn.LSTMCell(I, H, **float64)
            given = {name[: name.index("_l0")]: getattr(self.layer, name) for name in names}
            state = tuple(s[direction] for s in hx)
            steps = range(T) if direction == 0 else reversed(range(T))
            h, c = [None] * T, [None] * T
            for t in steps:
                state = torch.func.functional_call(cell, given, (input[t], state))
                h[t], c[t] = state
            outputs.append(torch.stack(h))
            cells.append(torch.stack(c))
            last.append(state)
        finals = tuple(torch.stack(states) for states in zip(*last, strict=True))
        return torch.cat(outputs, -1), finals, torch.cat(cells, -1)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "both_ways"])
def test_all_cell_states_are_those_of_a_loop_over_torch_s_cell(bidirectional):
    """With their gradients."""
    layer = fastcells.LSTM(I, H, bidirectional=bidirectional, **float64)
    input, hx = make_input("LSTM"), make_hx(layer, B)
    found = evaluate(layer, input, hx, return_cell_states=True)
    assert found["result 3"].shape == (T, B, H * (1 + bidirectional))
    expected = evaluate(ByCells(layer), input, hx)
    assert_near(found, {name.replace("layer.", ""): t for name, t in expected.items()})


@pytest.mark.parametrize("proj_size", [0, 2], ids=["plain", "projected"])
def test_all_cell_states_are_the_last_ones_of_every_shorter_sequence(proj_size):
    """Of the upper layer; torch returns the last one."""
    options = {"num_layers": 2, "proj_size": proj_size}
    ours, theirs = make_pair("LSTM", **options, **float64)
    input, hx = make_input("LSTM"), make_hx(ours, B)
    _, _, cells = ours(input, hx, return_cell_states=True)
    expected = torch.stack([theirs(input[: t + 1], hx)[1][1][-1] for t in range(T)])
    assert_near({"cells": cells}, {"cells": expected})


def test_the_way_back_goes_through_the_cell_states_alone():
    layer = fastcells.LSTM(I, H, **float64)
    inputs = [make_input("LSTM"), *make_hx(layer, B)]

    def cells_of(input, h_0, c_0):
        return layer(input, (h_0, c_0), return_cell_states=True)[2]

    leaves = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(cells_of, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(cells_of, leaves, fast_mode=True)


@each_batch_first
def test_cell_states_lie_like_the_output(batch_first):
    layer = fastcells.LSTM(I, H, bidirectional=True, batch_first=batch_first, **float64)
    input = torch.randn(*((B, T) if batch_first else (T, B)), I, **float64)
    output, (_, c_n), cells = layer(input, return_cell_states=True)
    assert cells.shape == output.shape
    time_first = cells.transpose(0, 1) if batch_first else cells
    assert torch.equal(time_first[-1, :, :H], c_n[0])
    assert torch.equal(time_first[0, :, H:], c_n[1])


@each_batch_first
def test_one_sequence_has_its_own_cell_states(batch_first):
    layer = fastcells.LSTM(I, H, batch_first=batch_first, **float64)
    input = torch.randn(T, I, **float64)
    output, (_, c_n), cells = layer(input, return_cell_states=True)
    assert cells.shape == output.shape == (T, H)
    assert torch.equal(cells[-1], c_n[0])


@pytest.mark.parametrize("lengths", [[2, 5, 1, 5], [5, 5, 5, 5]], ids=["unsorted", "all_full"])
def test_cell_states_of_a_packed_input_are_packed(lengths):
    layer = fastcells.LSTM(I, H, bidirectional=True, **float64)
    input, lengths = make_input("LSTM"), torch.tensor(lengths)
    packed = pack_padded_sequence(input, lengths, enforce_sorted=False)
    output, _, cells = layer(packed, return_cell_states=True)
    assert type(cells) is PackedSequence
    assert all(a is b for a, b in zip(cells[1:], output[1:], strict=True))
    expected = layer(input, lengths=lengths, return_cell_states=True)[2]
    expected = pack_padded_sequence(expected, lengths, enforce_sorted=False)
    assert_near({"cells": cells.data}, {"cells": expected.data})


def test_cell_states_past_a_row_s_end_are_zero():
    layer = fastcells.LSTM(I, H, **float64)
    lengths = torch.tensor([5, 2, 0, 3])
    _, (_, c_n), cells = layer(make_input("LSTM"), lengths=lengths, return_cell_states=True)
    past = torch.arange(T)[:, None] >= lengths
    assert not cells[past].any()
    for row, length in enumerate(lengths.tolist()):
        if length:
            assert torch.equal(cells[length - 1, row], c_n[0, row])


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("has_grad", [False, True], ids=["no_grad", "grad"])
def test_the_other_results_do_not_depend_on_asking_for_cell_states(has_grad, training):
    layer = fastcells.LSTM(I, H, num_layers=2, **float64).train(training)
    input = make_input("LSTM")
    with torch.set_grad_enabled(has_grad):
        without = layer(input)
        with_cells = layer(input, return_cell_states=True)
    assert len(without) == 2 and len(with_cells) == 3
    assert_same_bits(with_cells[:2], without)


# ---- GRU variants ----


def step_of_a_variant(variant, cell, x, h):
    """The equations of the documentation, for one step."""
    x_r, x_z, x_n = (x @ cell.weight_ih.t() + cell.bias_ih).chunk(3, -1)
    g_r, g_z, g_n = (h @ cell.weight_hh.t() + cell.bias_hh).chunk(3, -1)
    r, z = torch.sigmoid(x_r + g_r), torch.sigmoid(x_z + g_z)
    if variant == "reset_after":
        n = torch.tanh(x_n + r * g_n)
    elif variant == "reset_before":
        w_n, b_n = cell.weight_hh.chunk(3)[2], cell.bias_hh.chunk(3)[2]
        n = torch.tanh(x_n + (r * h) @ w_n.t() + b_n)
    else:
        n = r * torch.tanh(x_n + (1 - z) * g_n)
    return (1 - z) * n + z * h


VARIANTS = ("reset_after", "reset_before", "article")
each_variant = pytest.mark.parametrize("variant", VARIANTS)


class ByEquations(nn.Module):
    def __init__(self, cell, variant):
        super().__init__()
        self.cell, self.variant = cell, variant

    def forward(self, input, hx):
        return step_of_a_variant(self.variant, self.cell, input, hx)


@each_variant
def test_a_cell_computes_the_equations_of_its_variant(variant):
    cell = fastcells.GRUCell(I, H, variant=variant, **float64)
    input, hx = make_input("GRUCell"), make_hx(cell, B)
    expected = evaluate(ByEquations(cell, variant), input, hx)
    found = evaluate(cell, input, hx)
    assert_near(found, {name.replace("cell.", ""): t for name, t in expected.items()})
    with torch.no_grad():  # another kernel: one step without gradients
        assert_near({"h": cell(input, hx)}, {"h": expected["result 0"].detach()})


class ByGruCells(nn.Module):
    """fastcells' cell step by step, forward and then in reverse."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.bias = layer, layer.bias

    def forward(self, input, hx):
        outputs, finals = [], []
        for direction, names in enumerate(self.layer._all_weights):
            cell = fastcells.GRUCell(I, H, self.bias, variant=self.layer.variant, **float64)
            given = {name[: name.index("_l0")]: getattr(self.layer, name) for name in names}
            state, steps = hx[direction], [None] * T
            for t in range(T) if direction == 0 else reversed(range(T)):
                state = torch.func.functional_call(cell, given, (input[t], state))
                steps[t] = state
            outputs.append(torch.stack(steps))
            finals.append(state)
        return torch.cat(outputs, -1), torch.stack(finals)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@each_variant
def test_a_layer_of_a_variant_is_a_loop_over_its_cell(variant, bias):
    layer = fastcells.GRU(I, H, bias=bias, bidirectional=True, variant=variant, **float64)
    input, hx = make_input("GRU"), make_hx(layer, B)
    expected = evaluate(ByGruCells(layer), input, hx)
    expected = {name.replace("layer.", ""): t for name, t in expected.items()}
    assert_near(evaluate(layer, input, hx), expected)


def test_the_variants_differ_and_the_default_is_torch_s():
    layers = [fastcells.GRU(I, H, variant=variant, **float64) for variant in VARIANTS]
    theirs = nn.GRU(I, H, **float64)
    for layer in layers:
        layer.load_state_dict(theirs.state_dict())
    input = make_input("GRU")
    after, before, article = (layer(input)[0] for layer in layers)
    assert_near({"output": after}, {"output": theirs(input)[0]})
    assert not torch.allclose(before, after, atol=1e-3)
    assert not torch.allclose(article, after, atol=1e-3)
    assert not torch.allclose(article, before, atol=1e-3)
    assert fastcells.GRU(I, H).variant == fastcells.GRUCell(I, H).variant == "reset_after"


@each_variant
@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_a_variant_is_told_where_it_is_not_torch_s(kind, variant):
    module = getattr(fastcells, kind)(I, H, variant=variant)
    shown = "" if variant == "reset_after" else f", variant='{variant}'"
    assert repr(module) == f"{kind}({I}, {H}{shown})"


# ---- the forget bias ----


@pytest.mark.parametrize("again", [False, True], ids=["new", "reset_parameters"])
@pytest.mark.parametrize("proj_size", [0, 2], ids=["plain", "projected"])
def test_unit_forget_bias_makes_that_bias_one_and_changes_nothing_else(proj_size, again):
    options = {"num_layers": 2, "bidirectional": True, "proj_size": proj_size}
    torch.manual_seed(3)
    theirs = nn.LSTM(I, H, **options)
    their_next = torch.rand(1)
    torch.manual_seed(3)
    layer = fastcells.LSTM(I, H, **options, unit_forget_bias=True)
    if again:
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.fill_(7.0)
        torch.manual_seed(3)
        layer.reset_parameters()
    assert torch.rand(1) == their_next
    is_forget = torch.arange(4 * H) // H == 1
    for ih, hh in zip(layer._all_weights, layer._all_weights, strict=True):
        total = getattr(layer, ih[2]) + getattr(layer, hh[3])
        assert torch.equal(total[is_forget], torch.ones(H))
    for name, value in theirs.named_parameters():
        mine = getattr(layer, name)
        if name.startswith("bias"):
            mine, value = mine[~is_forget], value[~is_forget]
        assert torch.equal(mine, value)


def test_unit_forget_bias_is_off_by_default_and_told_when_on():
    assert repr(fastcells.LSTM(I, H)) == f"LSTM({I}, {H})"
    layer = fastcells.LSTM(I, H, unit_forget_bias=True)
    assert repr(layer) == f"LSTM({I}, {H}, unit_forget_bias=True)"
    assert all(p.requires_grad and p.is_leaf for p in layer.parameters())
    nn.LSTM(I, H).load_state_dict(layer.state_dict())


# ---- the same layers as functions ----

MASKS = {
    "all_steps": {},
    "masked": {
        "lengths": torch.tensor([5, 2, 0, 3]),
        "resets": torch.arange(T * B).reshape(T, B) % 3 == 0,
    },
}
FUNCTIONS = {
    "rnn_tanh": ("RNN", "rnn", {}),
    "rnn_relu": ("RNN", "rnn", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", "lstm", {}),
    "gru": ("GRU", "gru", {}),
    "gru_reset_before": ("GRU", "gru", {"variant": "reset_before"}),
    "gru_article": ("GRU", "gru", {"variant": "article"}),
}
each_function = pytest.mark.parametrize(
    ("kind", "name", "options"), FUNCTIONS.values(), ids=FUNCTIONS.keys()
)


@pytest.mark.parametrize("has_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS.keys())
@each_function
def test_a_function_gives_the_results_of_its_layer(kind, name, options, masks, has_hx):
    shape = {"num_layers": 2, "bidirectional": True, "dropout": 0.5}
    layer = getattr(fastcells, kind)(I, H, **shape, **options, **float64)
    input, hx = make_input(kind), make_hx(layer, B) if has_hx else None
    if kind == "LSTM":
        masks = {**masks, "return_cell_states": True}
    torch.manual_seed(1)
    expected = layer(input, hx, **masks)
    torch.manual_seed(1)
    weights = list(layer.parameters())
    found = getattr(functional, name)(input, hx, weights, **shape, **options, **masks)
    assert_same_bits(found, expected)


@each_function
def test_a_function_of_one_step_gives_the_results_of_its_cell(kind, name, options):
    cell = getattr(fastcells, f"{kind}Cell")(I, H, **options, **float64)
    input, hx = make_input(f"{kind}Cell"), make_hx(cell, B)
    found = getattr(functional, f"{name}_cell")(input, hx, list(cell.parameters()), **options)
    assert_same_bits(found, cell(input, hx))


@each_kind
def test_a_layer_takes_positions_for_what_torch_has_and_names_for_the_rest(kind):
    """layer(input, hx, lengths, resets)."""
    module = getattr(fastcells, kind)(I, H, **float64)
    input, hx = make_input(kind), make_hx(module, B)
    assert_same_bits(module(input, hx), module(input=input, hx=hx))
    if kind not in CELLS:
        masks = MASKS["masked"]
        found = module(input, hx, masks["lengths"], masks["resets"])
        assert_same_bits(found, module(input, hx=hx, **masks))
