"""Tools that know layers by class or by torch's own ops: torch.fx, the flop counter, functionalize,
torch.jit.script."""

import copy

import pytest
import torch
from torch import fx, nn
from torch.func import functionalize, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import fastcells

# ---- torch.fx ----


class EveryLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = fastcells.RNN(3, 4)
        self.gru = fastcells.GRU(4, 4)
        self.lstm = fastcells.LSTM(4, 4, batch_first=True)
        self.rnn_cell = fastcells.RNNCell(4, 4)
        self.gru_cell = fastcells.GRUCell(4, 4)
        self.lstm_cell = fastcells.LSTMCell(4, 4)
        self.multihead = fastcells.MultiheadAttention(4, 2, batch_first=True)
        self.self_attention = fastcells.SelfAttention(4, 8)
        self.additive = fastcells.AdditiveAttention(8, 8, 3)

    def forward(self, x, lengths):
        y, h = self.rnn(x)
        y, _ = self.gru(y, h, lengths=lengths)
        z, (h, c) = self.lstm(y.transpose(0, 1))
        step, _ = self.lstm_cell(z[:, 0], (h[0], c[0]))
        step = self.gru_cell(self.rnn_cell(step), z[:, 1])
        z, _ = self.multihead(z, z, z, need_weights=False)
        z = self.self_attention(z, lengths)
        z = self.additive(z, z)
        z = fastcells.scaled_dot_product_attention(z, z, z, is_causal=True)
        return fastcells.additive_attention(z, z, z, z[0, 0]) + step[:, None, :1]


def test_every_layer_is_a_leaf_of_a_trace():
    model = EveryLayer()
    traced = fx.symbolic_trace(model)
    modules = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert modules == {name for name, _ in model.named_children()}
    functions = {node.target for node in traced.graph.nodes if node.op == "call_function"}
    assert fastcells.scaled_dot_product_attention in functions
    assert fastcells.additive_attention in functions
    arguments = (torch.randn(5, 2, 3), torch.tensor([5, 2]))
    expected = model(*arguments)
    for module in (traced, copy.deepcopy(traced)):
        torch.testing.assert_close(module(*arguments), expected)
    traced.recompile()
    torch.testing.assert_close(fx.Interpreter(traced).run(*arguments), expected)
    ShapeProp(traced).propagate(*arguments)
    assert all("tensor_meta" in n.meta for n in traced.graph.nodes if n.op == "call_module")
    traced(*arguments).sum().backward()
    assert model.gru.weight_hh_l0.grad is not None


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.held = fastcells.GRU(3, 4)

    def forward(self, x, h):
        weights = list(self.held.parameters())
        y, _ = fastcells.functional.gru(x, None, weights, lengths=None)
        return fastcells.functional.gru_cell(y[0, :, :3], h, weights)


def test_functions_of_layers_are_one_node_each():
    model = Calls()
    traced = fx.symbolic_trace(model)
    targets = [n.target for n in traced.graph.nodes if n.op == "call_function"]
    assert fastcells.functional.gru in targets
    assert fastcells.functional.gru_cell in targets
    arguments = (torch.randn(5, 2, 3), torch.randn(2, 4))
    torch.testing.assert_close(traced(*arguments), model(*arguments))


class Doubling(fastcells.GRU):
    def forward(self, x):
        return super().forward(x * 2)


class Holder(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[0]


class Unchanged(fastcells.GRU):
    """A subclass without a forward of its own."""


def test_a_subclass_is_a_leaf_or_is_refused_with_what_to_do():
    input = torch.randn(5, 2, 3)
    model = Holder(Unchanged(3, 4))
    torch.testing.assert_close(fx.symbolic_trace(model)(input), model(input))
    with pytest.raises(fx.proxy.TraceError, match=r"Trace with a torch\.fx\.Tracer whose is_leaf"):
        fx.symbolic_trace(Holder(Doubling(3, 4)))

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, Doubling) or super().is_leaf_module(module, name)

    model = Holder(Doubling(3, 4))
    traced = fx.GraphModule(model, Tracer().trace(model))
    torch.testing.assert_close(traced(input), model(input))


# ---- flops ----


def flops_of(call, *arguments, trains=False):
    with FlopCounterMode(display=False) as counter:
        result = call(*arguments)
        forward = counter.get_total_flops()
        if trains:
            result = result if isinstance(result, torch.Tensor) else result[0]
            result.sum().backward()
            return forward, counter.get_total_flops() - forward
    return forward


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_layers_count_what_torchs_do(kind, options):
    input = torch.randn(10, 4, 8)
    peer, layer = (getattr(ns, kind)(8, 16, **options) for ns in (nn, fastcells))
    assert flops_of(layer, input) == flops_of(peer, input) > 0
    with torch.no_grad():
        assert flops_of(layer, input) == flops_of(peer, input)


@pytest.mark.parametrize("proj", [0, 5])
def test_an_lstm_counts_its_products(proj):
    layer = fastcells.LSTM(8, 16, proj_size=proj, bidirectional=True)
    width = proj or 16
    frame = 2 * 4 * 16 * (8 + width) + 2 * 16 * proj
    input = torch.randn(10, 4, 8)
    assert flops_of(layer, input) == 2 * 40 * frame
    forward, backward = flops_of(layer, input.requires_grad_(), trains=True)
    assert backward == 2 * forward
    input = torch.randn(10, 4, 8)
    _, without_input = flops_of(layer, input, trains=True)
    assert without_input == backward - 2 * 40 * 2 * 4 * 16 * 8
    again = fastcells.LSTM(8, 16, proj_size=proj, bidirectional=True, recompute=True)
    assert flops_of(again, input, trains=True) == (forward, without_input + forward)


def test_cells_count_what_torchs_do():
    for kind in ("RNNCell", "LSTMCell", "GRUCell"):
        peer, cell = (getattr(ns, kind)(8, 16) for ns in (nn, fastcells))
        with torch.no_grad():
            assert flops_of(cell, torch.randn(4, 8)) == flops_of(peer, torch.randn(4, 8)) > 0
        assert flops_of(cell, torch.randn(4, 8)) == flops_of(peer, torch.randn(4, 8))


def test_attention_counts_what_torchs_does():
    input = torch.randn(10, 4, 16)
    peer, layer = (ns.MultiheadAttention(16, 2) for ns in (nn, fastcells))
    expected = flops_of(peer, input, input, input)
    assert flops_of(layer, input, input, input) == expected == 107520
    query, key = torch.randn(2, 4, 9, 8), torch.randn(2, 4, 13, 8)
    forward, backward = flops_of(
        fastcells.scaled_dot_product_attention, query.requires_grad_(), key, key, trains=True
    )
    with sdpa_kernel(SDPBackend.MATH):
        assert forward == flops_of(nn.functional.scaled_dot_product_attention, query, key, key)
    assert forward == 2 * 2 * 4 * 9 * 13 * (8 + 8)
    assert backward == 5 * forward // 2  # four products, and the scores again
    grouped = torch.randn(2, 2, 13, 8)
    assert (
        flops_of(
            lambda *a: fastcells.scaled_dot_product_attention(*a, enable_gqa=True),
            query, grouped, grouped,
        )
        == forward
    )  # fmt: skip


def test_additive_attention_counts_scores_and_products():
    query, key, value = torch.randn(2, 9, 6), torch.randn(2, 13, 6), torch.randn(2, 13, 5)
    scale = torch.randn(6, requires_grad=True)
    scores, product = 2 * 2 * 9 * 13 * 6, 2 * 2 * 9 * 13 * 5
    assert flops_of(fastcells.additive_attention, query, key, value, scale, trains=True) == (
        scores + product,
        4 * scores + 2 * product,
    )


def test_every_op_has_a_formula():
    counter = FlopCounterMode(display=False)
    ops = [name for name in dir(torch.ops.fastcells) if "forward" in name or "backward" in name]
    assert len(ops) == 7
    for name in [*ops, "recurrent_step", "linear_scan"]:
        assert getattr(torch.ops.fastcells, name) in counter.flop_registry


# ---- functionalize ----

CALLS = {
    "lstm": lambda: (fastcells.LSTM(3, 5), lambda m, x: m(x)[0]),
    "gru": lambda: (fastcells.GRU(3, 5, bidirectional=True), lambda m, x: m(x)[0]),
    "rnn": lambda: (fastcells.RNN(3, 5, num_layers=2), lambda m, x: m(x)[0]),
    "cell": lambda: (fastcells.LSTMCell(3, 5), lambda m, x: m(x[0])[0]),
    "multihead": lambda: (fastcells.MultiheadAttention(3, 1), lambda m, x: m(x, x, x)[0]),
    "additive": lambda: (fastcells.AdditiveAttention(3, 3, 4), lambda m, x: m(x, x)),
    "self": lambda: (fastcells.SelfAttention(3, 4), lambda m, x: m(x)),
}


@pytest.mark.parametrize("case", CALLS)
def test_functionalize_takes_every_layer_alone_and_with_other_transforms(case):
    module, call = CALLS[case]()
    input = torch.randn(5, 2, 3)

    def f(x):
        return call(module, x)

    def loss(x):
        return f(x).square().sum()

    torch.testing.assert_close(functionalize(f)(input), f(input))
    slope = grad(loss)(input)
    for transformed in (functionalize(grad(loss)), grad(functionalize(loss))):
        torch.testing.assert_close(transformed(input), slope)
    batch = torch.stack([input, 2 * input])
    torch.testing.assert_close(vmap(functionalize(f))(batch), vmap(f)(batch))
    traced = make_fx(functionalize(f))(input)
    torch.testing.assert_close(traced(input), f(input))
    functionalize(loss)(input).backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    loss(input).backward()
    for found, parameter in zip(gradients, module.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)


# ---- torch.jit.script ----


# How torch says that torch.jit is deprecated is its own affair: versions differ in the category.
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", [name for name, _ in EveryLayer().named_children()])
def test_scripting_says_in_its_first_line_what_it_cannot_take_and_what_to_use(name):
    layer = getattr(EveryLayer(), name)
    for module in (layer, nn.Sequential(layer), Holder(layer)):
        with pytest.raises(NotImplementedError) as raised:
            torch.jit.script(module)
        first = str(raised.value).splitlines()[0]
        assert first.startswith(f"torch.jit.script cannot compile {type(layer).__name__}, a layer")
        assert "Use torch.compile, torch.export.export or torch.jit.trace" in first
