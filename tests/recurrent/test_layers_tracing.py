"""Layers and cells inside torch.compile, torch.export and torch.jit.trace: one graph, as in eager.

Autograd formulas and fakes of the ops: test_tracing.py.
"""

import io

import pytest
import torch
from torch import nn

import fastcells
from pairs import (
    B,
    H,
    I,
    assert_near,
    each_kind,
    each_layer,
    evaluate,
    float64,
    make_hx,
    make_input,
    one_thread,  # noqa: F401 (an autouse fixture)
    tensors_of,
)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(module):
    """Fails at a graph break, and at a recompilation."""
    return torch.compile(module, backend="aot_eager", fullgraph=True)


def evaluate_compiled(module, input, hx=None, **options):
    """As evaluate(), under the names of the module that is compiled."""
    found = evaluate(compiled(module), input, hx, **options)
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in found.items()}


CALLS = {
    "plain": ({}, {}),
    "two_layers_both_ways": ({"num_layers": 2, "bidirectional": True}, {}),
    "lengths": ({"bidirectional": True}, {"lengths": torch.tensor([5, 0, 3, 1])}),
    "resets": (
        {"batch_first": True},
        {"resets": torch.tensor([[True, False, False, True, False]] * B)},
    ),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("options", "given"), CALLS.values(), ids=CALLS.keys())
@each_layer
def test_a_compiled_layer_is_one_graph_with_the_results_of_eager(kind, options, given):
    layer = getattr(fastcells, kind)(I, H, **options, **float64)
    input = make_input(kind)
    if options.get("batch_first"):
        input = input.transpose(0, 1)
    hx = make_hx(layer, B)
    assert_near(evaluate_compiled(layer, input, hx, **given), evaluate(layer, input, hx, **given))


@each_kind
def test_a_compiled_module_needs_no_state(kind):
    module = getattr(fastcells, kind)(I, H, **float64)
    input = make_input(kind)
    assert_near(evaluate_compiled(module, input), evaluate(module, input))


@each_kind
def test_a_compiled_module_gives_the_same_results_without_gradients(kind):
    module = getattr(fastcells, kind)(I, H, **float64).eval()
    input, hx = make_input(kind), make_hx(module, B)
    with torch.no_grad():
        found = tensors_of(compiled(module)(input, hx))
        assert_near(dict(enumerate(found)), dict(enumerate(tensors_of(module(input, hx)))))


VARIANTS = {
    "reset_before": ("GRU", {"variant": "reset_before"}, {}),
    "article": ("GRU", {"variant": "article"}, {}),
    "relu": ("RNN", {"nonlinearity": "relu"}, {}),
    "projected": ("LSTM", {"proj_size": 2}, {}),
    "cell_states": ("LSTM", {"num_layers": 2}, {"return_cell_states": True}),
}


@pytest.mark.parametrize(("kind", "options", "given"), VARIANTS.values(), ids=VARIANTS.keys())
def test_what_one_layer_alone_has_is_compiled_too(kind, options, given):
    layer = getattr(fastcells, kind)(I, H, **options, **float64)
    input, hx = make_input(kind), make_hx(layer, B)
    assert_near(evaluate_compiled(layer, input, hx, **given), evaluate(layer, input, hx, **given))


@each_layer
def test_a_compiled_network_keeps_the_layer_as_one_node(kind):
    """The op, not its steps: the graph does not grow with the sequence."""
    layer = getattr(fastcells, kind)(I, H, num_layers=2, bidirectional=True)
    graphs = []

    def keep_graph(graph, inputs):
        graphs.append(graph)
        return graph

    with torch.no_grad():
        torch.compile(layer, backend=keep_graph, fullgraph=True)(make_input(kind, torch.float32))
    assert len(graphs) == 1
    ops = [node.target for node in graphs[0].graph.nodes if "fastcells" in str(node.target)]
    assert [str(op) for op in ops] == ["fastcells.recurrent_forward"] * 2


@each_layer
def test_a_compiled_layer_takes_sequences_of_any_size_in_two_graphs(kind):
    """One for the first size, one for all others."""
    layer = getattr(fastcells, kind)(I, H, **float64)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    fast = torch.compile(layer, backend=counter, fullgraph=True)
    for steps, batch in ((5, 4), (7, 3), (9, 6), (2, 8)):
        input = torch.randn(steps, batch, I, **float64)
        found, expected = tensors_of(fast(input)), tensors_of(layer(input))
        assert_near(dict(enumerate(found)), dict(enumerate(expected)))
    assert counter.frame_count == 2


def test_a_compiled_training_step_learns_as_in_eager():
    """Layer, dropout, head, loss and optimizer; the graph sees the changed parameters."""
    losses = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        layer = fastcells.LSTM(I, H, num_layers=2, bidirectional=True, **float64)
        head = nn.Linear(2 * H, 1, **float64)
        optimizer = torch.optim.SGD([*layer.parameters(), *head.parameters()], lr=0.1)
        inputs, lengths = make_input("LSTM"), torch.tensor([5, 2, 3, 1])

        def loss_of(input, lengths, layer=layer, head=head):
            output, _ = layer(input, lengths=lengths)
            return (head(output) - 1).pow(2).mean()

        step = torch.compile(loss_of, backend="aot_eager", fullgraph=True)
        step = step if is_compiled else loss_of
        losses.append([])
        for _ in range(3):
            optimizer.zero_grad()
            loss = step(inputs, lengths)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)
    assert losses[0][2] < losses[0][0]


@pytest.mark.parametrize("has_lengths", [False, True], ids=["all_steps", "lengths"])
@each_layer
def test_an_exported_layer_takes_any_number_of_steps_and_rows(kind, has_lengths):
    layer = getattr(fastcells, kind)(I, H, num_layers=2, bidirectional=True, **float64).eval()
    steps, rows = torch.export.Dim("T", min=2), torch.export.Dim("B", min=2)
    options = {"lengths": torch.tensor([5, 0, 3, 1])} if has_lengths else {}
    shapes = {"input": {0: steps, 1: rows}} | ({"lengths": {0: rows}} if has_lengths else {})
    program = torch.export.export(layer, (make_input(kind),), options, dynamic_shapes=shapes)
    ops = [str(n.target) for n in program.graph.nodes if "fastcells" in str(n.target)]
    assert ops == ["fastcells.recurrent_forward.default"] * 2
    for t, b in ((2, 2), (9, 5), (30, 3)):
        input = torch.randn(t, b, I, **float64)
        given = {"lengths": torch.arange(b) % (t + 1)} if has_lengths else {}
        found, expected = program.module()(input, **given), layer(input, **given)
        assert_near(dict(enumerate(tensors_of(found))), dict(enumerate(tensors_of(expected))))


# torch 2.11 says so of its own buffer while it loads.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_an_exported_layer_is_saved_and_loaded(tmp_path):
    layer = fastcells.LSTM(I, H, **float64).eval()
    input = make_input("LSTM")
    torch.export.save(torch.export.export(layer, (input,)), tmp_path / "layer.pt2")
    found = torch.export.load(tmp_path / "layer.pt2").module()(input)
    assert_near(dict(enumerate(tensors_of(found))), dict(enumerate(tensors_of(layer(input)))))


# torch.jit is deprecated, and tells of every comparison of a size.
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit")
@pytest.mark.parametrize("has_grad", [False, True], ids=["no_grad", "grad"])
@each_kind
def test_torch_jit_trace_takes_a_module(kind, has_grad):
    """As it takes torch.nn's; other sizes too, and after saving."""
    module = getattr(fastcells, kind)(I, H, **float64).eval()
    input = make_input(kind)
    with torch.set_grad_enabled(has_grad):
        traced = torch.jit.trace(module, (input,))
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        other = torch.randn(*(n + 2 for n in input.shape[:-1]), I, **float64)
        expected = dict(enumerate(tensors_of(module(other))))
        for one in (traced, torch.jit.load(file)):
            assert_near(dict(enumerate(tensors_of(one(other)))), expected)
    if has_grad:
        grads = (
            torch.autograd.grad(tensors_of(one(other))[0].sum(), list(one.parameters()))
            for one in (traced, module)
        )
        assert_near(*(dict(enumerate(of_one)) for of_one in grads))
