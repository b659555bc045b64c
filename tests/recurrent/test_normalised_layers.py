"""LayerNormRNN, LayerNormLSTM, LayerNormGRU and their cells, and zoneout and the dropouts of every
layer: as modules."""

import copy
import pickle

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastcells
from fastcells.testing import LayerProblem
from row_equations import run_equations

LAYERS = {
    "rnn": (fastcells.LayerNormRNN, fastcells.LayerNormRNNCell, {}),
    "rnn_relu": (fastcells.LayerNormRNN, fastcells.LayerNormRNNCell, {"nonlinearity": "relu"}),
    "rnn_per_gate": (fastcells.LayerNormRNN, fastcells.LayerNormRNNCell, {"per_gate": True}),
    "lstm": (fastcells.LayerNormLSTM, fastcells.LayerNormLSTMCell, {}),
    "lstm_per_gate": (fastcells.LayerNormLSTM, fastcells.LayerNormLSTMCell, {"per_gate": True}),
    "lstm_carried": (
        fastcells.LayerNormLSTM, fastcells.LayerNormLSTMCell, {"carry_normalised_c": True},
    ),
    "gru": (fastcells.LayerNormGRU, fastcells.LayerNormGRUCell, {}),
}  # fmt: skip
each_layer = pytest.mark.parametrize("kind", LAYERS)
REGULARISED = {
    "rnn": lambda **o: fastcells.RNN(3, 5, **o),
    "lstm": lambda **o: fastcells.LSTM(3, 5, **o),
    "gru": lambda **o: fastcells.GRU(3, 5, **o),
    "gru_reset_before": lambda **o: fastcells.GRU(3, 5, variant="reset_before", **o),
    "lstm_projected": lambda **o: fastcells.LSTM(3, 5, proj_size=2, **o),
    "norm_lstm": lambda **o: fastcells.LayerNormLSTM(3, 5, **o),
    "peephole": lambda **o: fastcells.PeepholeLSTM(3, 5, **o),
    "norm_gru": lambda **o: fastcells.LayerNormGRU(3, 5, **o),
}
each_regularised = pytest.mark.parametrize("kind", REGULARISED)


def make(kind, *sizes, **options):
    make_layer, _, own = LAYERS[kind]
    layer = make_layer(*sizes, **own, **options, dtype=torch.float64)
    with torch.no_grad():  # gains that are not all 1
        for name, weight in layer.named_parameters():
            if name.startswith("norm"):
                weight.add_(torch.randn_like(weight) / 3)
    return layer


def first_of(states):
    return states[0] if isinstance(states, tuple) else states


@each_layer
def test_a_layer_is_the_equations_on_its_parameters(kind):
    layer = make(kind, 3, 6, bidirectional=True)
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    lengths = torch.tensor([5, 0, 3, 4])
    weights = [getattr(layer, name) for names in layer._all_weights for name in names]
    zeros = torch.zeros(2, 4, 6, dtype=torch.float64)
    problem = LayerProblem(
        layer.cell, 2, x, zeros, zeros, weights,
        " ".join(name.removesuffix("_l0") for name in layer._all_weights[0]), lengths,
    )  # fmt: skip
    output, h_n, _, _ = run_equations(problem)
    found, states = layer(x, lengths=lengths)
    torch.testing.assert_close(found, output, rtol=0, atol=1e-12)
    torch.testing.assert_close(first_of(states), h_n, rtol=0, atol=1e-12)


@each_layer
def test_a_cell_is_one_step_of_the_layer(kind):
    layer = make(kind, 3, 6)
    cell = LAYERS[kind][1](3, 6, **LAYERS[kind][2], dtype=torch.float64)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    expected, states = layer(x[None])
    found = cell(x)
    torch.testing.assert_close(first_of(found), expected[0], rtol=0, atol=1e-12)
    again = cell(x, found)
    after, _ = layer(x[None], states)
    torch.testing.assert_close(first_of(again), after[0], rtol=0, atol=1e-12)
    assert first_of(cell(x[0], None)).shape == (6,)
    grads = torch.autograd.grad(first_of(again).sum(), [x, *cell.parameters()])
    assert all(grad.abs().sum() > 0 for grad in grads)


@each_layer
def test_names_shapes_and_initial_values(kind):
    layer = LAYERS[kind][0](3, 6, 2, bidirectional=True, **LAYERS[kind][2])
    G = layer.gates
    shapes = {name: tuple(weight.shape) for name, weight in layer.named_parameters()}
    for suffix, width in (("l0", 3), ("l0_reverse", 3), ("l1", 12), ("l1_reverse", 12)):
        assert shapes[f"weight_ih_{suffix}"] == (G * 6, width)
        assert shapes[f"weight_hh_{suffix}"] == (G * 6, 6)
        assert shapes[f"bias_ih_{suffix}"] == shapes[f"bias_hh_{suffix}"] == (G * 6,)
    gains = [weight for name, weight in layer.named_parameters() if name.startswith("norm")]
    assert sum(w.ne(1).sum() for w in gains) == (4 * 6 if G == 4 else 0)  # norm_c_bias
    assert layer.weight_hh_l1.abs().max() <= 6**-0.5
    bare = LAYERS[kind][0](3, 6, bias=False, **LAYERS[kind][2])
    assert not any(name.startswith("bias") for name, _ in bare.named_parameters())
    assert bare(torch.randn(2, 1, 3))[0].shape == (2, 1, 6)


@each_layer
def test_packed_stacked_saved_and_copied(kind):
    layer = make(kind, 3, 6, 2, bidirectional=True)
    x, lengths = torch.randn(5, 3, 3, dtype=torch.float64), torch.tensor([5, 4, 2])
    expected, _ = layer(x, lengths=lengths)
    packed, _ = layer(pack_padded_sequence(x, lengths))
    torch.testing.assert_close(pad_packed_sequence(packed)[0], expected, rtol=0, atol=1e-12)
    other = make(kind, 3, 6, 2, bidirectional=True)
    other.load_state_dict(layer.state_dict())
    for same in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(same(x, lengths=lengths)[0], expected)


@pytest.fixture
def own_traces():
    """torch.compile counts what it compiled of one function, over all tests of a process."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("own_traces")
@each_layer
def test_compiled_vmapped_and_differentiated_twice(kind):
    layer = make(kind, 3, 4)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    expected, _ = layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], expected)
    (grad,) = torch.autograd.grad(compiled(x)[0].sum(), x)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), x)[0])
    many = torch.randn(3, 4, 2, 3, dtype=torch.float64)
    mapped = torch.func.vmap(lambda one: layer(one)[0])(many)
    torch.testing.assert_close(mapped, torch.stack([layer(one)[0] for one in many]))
    if kind != "rnn_relu":
        assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], x, fast_mode=True)


def test_what_runs_is_told():
    x = torch.randn(5, 2, 3)
    told = fastcells.explain(fastcells.LayerNormGRU(3, 6), x)
    assert told.kernel == "cpu rowwise" and "thread" in told.plan
    assert fastcells.explain(fastcells.LSTM(3, 6, zoneout=0.1).eval(), x).kernel == "cpu rowwise"
    plain = fastcells.LSTM(3, 6, recurrent_dropout=0.1, weight_dropout=0.1)
    assert fastcells.explain(plain, x).kernel == "cpu rowwise"
    assert fastcells.explain(plain.eval(), x).kernel == "cpu sequence"
    told = fastcells.explain(fastcells.GRU(3, 6, variant="reset_before", zoneout=0.1), x)
    assert told.kernel == "reference" and "reset in front of the product" in told.reason


def test_a_peephole_lstm_is_the_equations_on_its_parameters():
    layer = fastcells.PeepholeLSTM(3, 6, bidirectional=True, dtype=torch.float64)
    x, lengths = torch.randn(5, 3, 3, dtype=torch.float64), torch.tensor([5, 0, 3])
    weights = [getattr(layer, name) for names in layer._all_weights for name in names]
    zeros = torch.zeros(2, 3, 6, dtype=torch.float64)
    names = " ".join(name.removesuffix("_l0") for name in layer._all_weights[0])
    problem = LayerProblem("lstm_peephole", 2, x, zeros, zeros, weights, names, lengths)
    output, h_n, c_n, cells = run_equations(problem)
    found, states, found_cells = layer(x, lengths=lengths, return_cell_states=True)
    for a, b in zip((found, *states, found_cells), (output, h_n, c_n, cells), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    grads = torch.autograd.grad(found.sum(), layer.parameters())
    assert all(grad.abs().sum() > 0 for grad in grads)
    assert layer.unit_weights_l0.shape == (18,)
    assert fastcells.explain(layer, x).kernel == "cpu rowwise"


# ---- regularisation ----


@each_regularised
def test_a_seed_repeats_a_call_and_evaluation_draws_nothing(kind):
    layer = REGULARISED[kind](zoneout=0.3, recurrent_dropout=0.3, weight_dropout=0.3)
    x = torch.randn(6, 4, 3)
    torch.manual_seed(1)
    first, second = layer(x)[0], layer(x)[0]
    torch.manual_seed(1)
    assert torch.equal(layer(x)[0], first) and not torch.equal(first, second)
    layer.eval()
    outputs = [layer(x)[0] for _ in range(2)]
    assert torch.equal(*outputs)
    plain = REGULARISED[kind]()
    plain.load_state_dict(layer.state_dict())
    dropouts = REGULARISED[kind](recurrent_dropout=0.5, weight_dropout=0.5).eval()
    dropouts.load_state_dict(layer.state_dict())
    assert torch.equal(dropouts(x)[0], plain.eval()(x)[0])


@each_regularised
def test_evaluation_leaves_torchs_generator_alone_and_takes_vmap(kind):
    layer = REGULARISED[kind](zoneout=0.3, recurrent_dropout=0.3, weight_dropout=0.3).eval()
    x = torch.randn(2, 6, 4, 3)
    before = torch.get_rng_state()
    each = torch.stack([layer(part)[0] for part in x])
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(torch.vmap(lambda part: layer(part)[0])(x), each)


@each_regularised
def test_the_way_back_meets_the_same_masks(kind):
    """By differences, with the seed set again for every call."""
    for rates in (
        {"zoneout": 0.4},
        {"recurrent_dropout": 0.4},
        {"weight_dropout": 0.4},
        {"zoneout": 0.3, "recurrent_dropout": 0.3, "weight_dropout": 0.3},
    ):
        layer = REGULARISED[kind](**rates).double()

        def loss(x, layer=layer):
            torch.manual_seed(5)
            return layer(x)[0]

        x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(loss, x, fast_mode=True)
        assert torch.autograd.gradgradcheck(loss, x, fast_mode=True)


def test_recompute_draws_the_same():
    layer = fastcells.LSTM(3, 9, zoneout=0.3, zoneout_c=0.2, recurrent_dropout=0.3)
    x = torch.randn(7, 4, 3)
    grads = []
    for layer.recompute in (False, True):
        torch.manual_seed(2)
        grads.append(torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters())))
    for kept, again in zip(*grads, strict=True):
        torch.testing.assert_close(kept, again)


def test_zoneout_keeps_units_at_its_rate():
    """With W = 0 and no bias a GRU's h halves at each step, where it is not kept."""
    layer = fastcells.GRU(1, 400, bias=False, zoneout=0.3)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
    h_0 = torch.ones(1, 50, 400)
    output, _ = layer(torch.zeros(6, 50, 1), h_0)
    halvings = torch.log2(output[0] / h_0[0]).neg()
    assert set(halvings.unique().tolist()) == {0.0, 1.0}
    kept = 1 - halvings.mean().item()
    assert abs(kept - 0.3) < 4 * (0.21 / halvings.numel()) ** 0.5
    steps = torch.log2(output).neg().diff(dim=0)  # drawn anew at each step
    assert abs(1 - steps.mean().item() - 0.3) < 4 * (0.21 / steps.numel()) ** 0.5
    assert not torch.equal(steps[0], steps[1]) and not torch.equal(steps[:, 0], steps[:, 1])
    layer.eval()
    torch.testing.assert_close(layer(torch.zeros(1, 50, 1), h_0)[0][0], 0.3 * h_0[0] + 0.7 * 0.5)


def test_zoneout_of_c_is_apart_from_that_of_h():
    """f = 1/2 and g = 0: c halves where it is not kept."""
    layer = fastcells.LSTM(1, 300, bias=False, zoneout_c=0.25)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
    states = torch.zeros(1, 40, 300), torch.ones(1, 40, 300)
    output, (_, c) = layer(torch.zeros(1, 40, 1), states)
    kept = (c == 1).float().mean().item()
    assert set(c.unique().tolist()) == {0.5, 1.0}
    assert abs(kept - 0.25) < 4 * (0.19 / c.numel()) ** 0.5
    expected = 0.5 * torch.tanh(torch.tensor(0.5))  # h is that of the new c
    torch.testing.assert_close(output, expected.expand_as(output))


def test_recurrent_dropout_is_one_mask_a_row_for_all_steps():
    """ReLU, W_hh = 1 on the diagonal, no input: h grows by 1 / (1 - rate) or falls to 0."""
    layer = fastcells.RNN(1, 300, nonlinearity="relu", bias=False, recurrent_dropout=0.2)
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.weight_hh_l0.copy_(torch.eye(300))
    output, _ = layer(torch.zeros(3, 60, 1), torch.ones(1, 60, 300))
    kept = output[0] > 0
    assert abs(kept.float().mean().item() - 0.8) < 4 * (0.16 / kept.numel()) ** 0.5
    for t in range(3):
        torch.testing.assert_close(output[t], kept * 1.25 ** (t + 1))
    assert not torch.equal(kept[0], kept[1])


def test_weight_dropout_is_one_mask_a_call():
    layer = fastcells.RNN(1, 100, nonlinearity="relu", bias=False, weight_dropout=0.5)
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.weight_hh_l0.fill_(1.0)
    output, _ = layer(torch.zeros(1, 3, 1), torch.ones(1, 3, 100))
    assert torch.equal(output[:, 0], output[:, 1])
    assert abs(output[0, 0].mean().item() / 100 - 1) < 4 * (1.0 / 10**4) ** 0.5
    assert torch.equal(layer.weight_hh_l0, torch.ones(100, 100))


def test_layers_and_directions_draw_masks_of_their_own():
    layer = fastcells.RNN(1, 50, 2, bias=False, bidirectional=True, zoneout=0.5)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
    _, h_n = layer(torch.zeros(1, 20, 1), torch.ones(4, 20, 50))
    assert len({tuple(h.flatten().tolist()) for h in h_n}) == 4


@pytest.mark.sampled(3)
@pytest.mark.usefixtures("own_traces")
@each_regularised
def test_compiled_and_mapped_with_masks(kind):
    layer = REGULARISED[kind](zoneout=0.3, recurrent_dropout=0.3, weight_dropout=0.3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 2, 3, requires_grad=True)
    output, _ = compiled(x)
    output.sum().backward()
    assert output.isfinite().all() and x.grad.abs().sum() > 0
    many = torch.randn(2, 4, 2, 3)
    same, _ = torch.func.vmap(layer, randomness="same")(many[:1].expand(2, -1, -1, -1))
    torch.testing.assert_close(same[0], same[1])
    different, _ = torch.func.vmap(layer, randomness="different")(many[:1].expand(2, -1, -1, -1))
    assert not torch.equal(different[0], different[1])


# ---- what is refused ----


@pytest.mark.parametrize(
    ("make_layer", "error", "text"),
    [
        (lambda: fastcells.LSTM(3, 4, zoneout=1.5), ValueError,
         "LSTM: zoneout must lie in 0 .. 1, got 1.5"),
        (lambda: fastcells.GRU(3, 4, recurrent_dropout="a"), TypeError,
         "GRU: recurrent_dropout must be a number, got str"),
        (lambda: fastcells.RNN(3, 4, weight_dropout=float("nan")), ValueError,
         "RNN: weight_dropout must lie in 0 .. 1, got nan"),
        (lambda: fastcells.RNN(3, 4, zoneout_c=0.1), TypeError, "zoneout_c"),
        (lambda: fastcells.LayerNormLSTM(3, 4, per_gate=1), TypeError,
         "LayerNormLSTM: per_gate must be a bool, got int"),
        (lambda: fastcells.LayerNormGRU(3, 4, per_gate=True), TypeError, "per_gate"),
        (lambda: fastcells.LayerNormRNN(3, 4, nonlinearity="gelu"), ValueError,
         "nonlinearity must be 'tanh' or 'relu', got 'gelu'"),
        (lambda: fastcells.quantize(fastcells.LSTM(3, 4, zoneout=0.1)), ValueError,
         "zoneout, which counts in evaluation"),
        (lambda: fastcells.quantize(fastcells.LayerNormLSTM(3, 4)), TypeError,
         "for which there are no kernels"),
    ],
)  # fmt: skip
def test_what_is_refused(make_layer, error, text):
    with pytest.raises(error, match=text.replace("(", r"\(")):
        make_layer()


def test_rates_are_shown_and_may_change():
    layer = fastcells.LSTM(3, 4, zoneout=0.1, weight_dropout=0.5)
    assert repr(layer) == "LSTM(3, 4, zoneout=0.1, weight_dropout=0.5)"
    layer.zoneout = layer.weight_dropout = 0.0
    x = torch.randn(4, 2, 3)
    assert torch.equal(layer(x)[0], layer(x)[0])
