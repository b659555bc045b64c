"""A cell from equations is a layer like the others: on the reference, and compiled."""

import copy
import pickle

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastcells

I, H, T, B = 3, 5, 6, 4


@fastcells.cell(gates="f n", recurrent="vector", recurrent_gates="f", states="c d",
                parameters={"w": 0.5, "v": -0.5})  # fmt: skip
def two_states(x, h, state, p):
    """A vector, parameters, two states beside h."""
    f = torch.sigmoid(x.f + h.f + p.w * state.d)
    c = f * state.c + (1 - f) * torch.tanh(x.n)
    d = torch.cos(p.v * state.d) + 0.1 * h.prev
    return c * torch.tanh(d), c, d


@fastcells.cell(gates="f n o", recurrent_gates="f n", states="c", parameters={"w": 0.5})
def some_gates(x, h, state, p):
    """A dense part of some gates, and a parameter."""
    f = torch.sigmoid(x.f + h.f + p.w * state.c)
    c = f * state.c + (1 - f) * torch.tanh(x.n + h.n)
    return torch.sigmoid(x.o) * c, c


each_cell = pytest.mark.parametrize("cell", [two_states, some_gates], ids=lambda c: c.__name__)


def make(cell, **options):
    return cell(I, H, dtype=torch.float64, **options)


def states_of(layer):
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    return tuple(torch.randn(rows, B, H, dtype=torch.float64) for _ in layer._names)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@each_cell
def test_lengths_resets_and_directions_are_calls_of_the_pieces(on_reference, cell):
    layer = make(cell, bidirectional=True)
    input, lengths = torch.randn(T, B, I, dtype=torch.float64), torch.tensor([6, 4, 1, 0])
    hx = states_of(layer)
    output, final = layer(input, hx, lengths)
    for b, length in enumerate(lengths.tolist()):
        own = tuple(state[:, b : b + 1] for state in hx)
        assert (output[length:, b] == 0).all()
        if length == 0:
            assert_same(tuple(state[:, b : b + 1] for state in final), own)
            continue
        alone, last = layer(input[:length, b : b + 1], own)
        assert_same(output[:length, b : b + 1], alone)
        assert_same(tuple(state[:, b : b + 1] for state in final), last)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2] = True
    cut, _ = layer(input, resets=resets)
    assert_same(cut, torch.cat([layer(input[:2])[0], layer(input[2:])[0]]))


@each_cell
def test_packed_sequences_batch_first_and_stacks(on_reference, cell):
    layer = make(cell, num_layers=2, bidirectional=True)
    input, lengths = torch.randn(T, B, I, dtype=torch.float64), torch.tensor([6, 4, 1, 3])
    output, final, cells = layer(input, lengths=lengths, return_cell_states=True)
    packed = pack_padded_sequence(input, lengths, enforce_sorted=False)
    data, last, packed_cells = layer(packed, return_cell_states=True)
    assert_same((pad_packed_sequence(data)[0], last), (output, final))
    several = len(layer._names) > 2
    for one, other in zip(
        cells if several else (cells,), packed_cells if several else (packed_cells,), strict=True
    ):
        assert_same(pad_packed_sequence(other)[0], one)
        assert one.shape == (T, B, 2 * H)
    first = make(cell, num_layers=2, bidirectional=True, batch_first=True)
    first.load_state_dict(layer.state_dict())
    turned, again = first(input.transpose(0, 1), lengths=lengths)
    assert_same((turned.transpose(0, 1), again), (output, final))
    alone, _ = layer(input[:, 0])
    assert_same(alone, layer(input[:, :1])[0].squeeze(1))


@each_cell
def test_all_states_end_in_the_final_ones(on_reference, cell):
    layer = make(cell, bidirectional=True)
    _, final, cells = layer(torch.randn(T, B, I, dtype=torch.float64), return_cell_states=True)
    for state, every in zip(
        final[1:], cells if isinstance(cells, tuple) else (cells,), strict=True
    ):
        assert_same(torch.cat([every[-1, :, :H], every[0, :, H:]]), torch.cat(list(state)))


@each_cell
def test_derivatives_of_any_order_and_transforms(on_reference, cell):
    layer = make(cell)
    input = torch.randn(3, 2, I, dtype=torch.float64, requires_grad=True)

    def run(input):
        output, final = layer(input)
        return output, *final

    assert torch.autograd.gradcheck(run, (input,))
    assert torch.autograd.gradgradcheck(lambda x: run(x)[0], (input,))
    tangent = torch.randn_like(input)
    _, forward = torch.func.jvp(lambda x: layer(x)[0], (input,), (tangent,))
    _, pullback = torch.func.vjp(lambda x: layer(x)[0], input)
    given = torch.randn_like(forward)
    assert_same((forward * given).sum(), (pullback(given)[0] * tangent).sum())
    several = torch.randn(2, 3, 2, I, dtype=torch.float64)
    assert_same(
        torch.func.vmap(lambda x: layer(x)[0])(several),
        torch.stack([layer(x)[0] for x in several]),
    )
    (gradient,) = torch.autograd.grad(layer(input)[0].sum(), layer.w_l0)
    assert gradient.shape == (H,) and (gradient != 0).any()


@each_cell
def test_copies_pickles_and_state_dicts(on_reference, cell):
    layer = make(cell, num_layers=2)
    input = torch.randn(T, B, I, dtype=torch.float64)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is cell
        assert_same(other(input)[0], layer(input)[0])
    step = pickle.loads(pickle.dumps(cell.Cell(I, H)))
    assert type(step) is cell.Cell
    assert {"w_l0", "w_l1", "weight_hh_l1"} <= layer.state_dict().keys()


def test_a_cell_without_kernels_says_why():
    told = fastcells.explain(make(two_states), torch.randn(T, B, I, dtype=torch.float64))
    assert told.kernel == "reference"
    assert told.reason == (
        "the kernels of recurrent='vector' carry one state beside h, two_states has c, d: it runs "
        "on the reference"
    )


@each_cell
def test_a_graph_is_traced_without_a_break(on_reference, cell):
    layer = make(cell)
    input = torch.randn(3, 2, I, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert_same(compiled(input)[0], layer(input)[0])


def test_wrong_states_are_refused(on_reference):
    layer, input = make(two_states), torch.randn(T, B, I, dtype=torch.float64)
    h, c, d = states_of(layer)
    with pytest.raises(TypeError) as caught:
        layer(input, h)
    assert str(caught.value) == (
        "two_states: hx must be a tuple (h, c, d) of 3 tensors, got Tensor"
    )
    with pytest.raises(TypeError) as caught:
        layer(input, (h, c))
    assert str(caught.value) == (
        "two_states: hx must be a tuple (h, c, d) of 3 tensors, got tuple of 2"
    )
    with pytest.raises(RuntimeError) as caught:
        layer(input, (h, c, d[:, :2]))
    assert str(caught.value) == "Expected hidden[2] size (1, 4, 5), got [1, 2, 5]"
    with pytest.raises(ValueError, match="has no state beside h"):
        fastcells.cells.janet(I, H)(torch.randn(T, B, I), return_cell_states=True)


def test_quantize_passes_them_by(on_reference):
    model = torch.nn.ModuleList([fastcells.LSTM(I, H), two_states(I, H), two_states.Cell(I, H)])
    small = fastcells.quantize(model)
    assert type(small[1]) is two_states and type(small[2]) is two_states.Cell


def test_a_parametrized_step_reads_its_weights(on_reference):
    step, input = some_gates.Cell(I, H), torch.randn(B, I)
    before = step(input)[0]
    torch.nn.utils.parametrizations.weight_norm(step, "weight_hh")
    torch.testing.assert_close(step(input)[0], before)


def test_a_step_takes_rows_and_no_batch(on_reference):
    step = two_states.Cell(I, H)
    assert [s.shape for s in step(torch.randn(B, I))] == [(B, H)] * 3
    one = step(torch.randn(I), tuple(torch.randn(H) for _ in range(3)))
    assert [s.shape for s in one] == [(H,)] * 3
