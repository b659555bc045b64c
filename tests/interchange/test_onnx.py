"""torch.onnx.export of fastcells' layers, run by ONNX Runtime on other sizes than the example's.

One model holds every case, and is exported once.
"""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import fastcells
from fastcells.functional import gru, lstm, lstm_cell, rnn
from fastcells.testing import make_layer_problem
from problems import each_cell

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
make_tensor_value_info = onnx.helper.make_tensor_value_info

I, H = 3, 4
LAYERS = {
    "rnn_tanh": lambda: fastcells.RNN(I, H, bias=False),
    "rnn_relu": lambda: fastcells.RNN(I, H, nonlinearity="relu", bidirectional=True),
    "lstm": lambda: fastcells.LSTM(I, H, 2, bidirectional=True),
    "gru": lambda: fastcells.GRU(I, H, bidirectional=True, batch_first=True),
    "gru_reset_before": lambda: fastcells.GRU(I, H, variant="reset_before"),
    "gru_article": lambda: fastcells.GRU(I, H, variant="article"),
    "rnn_cell": lambda: fastcells.RNNCell(I, H, nonlinearity="relu"),
    "lstm_cell": lambda: fastcells.LSTMCell(I, H, bias=False),
    "gru_cell": lambda: fastcells.GRUCell(I, H),
    "min_lstm": lambda: fastcells.MinLSTM(I, H, bidirectional=True),
    "several_states": lambda: fastcells.cells.slstm(I, H, bidirectional=True),
    "heads": lambda: fastcells.MultiheadAttention(H, 2, batch_first=True),
    "self": lambda: fastcells.SelfAttention(I, H, causal=True),
    "additive": lambda: fastcells.AdditiveAttention(I, I, 5),
}
#: (layers, x [T, B, I], lengths [B], resets [T, B], h [2, B, H]) -> results. What a case has in
#: common with another is not repeated: an export costs its time by the operation.
CASES = {
    "rnn without bias": lambda m, x, n, r, h: m["rnn_tanh"](x, h[:1]),
    "rnn of relu, both ways": lambda m, x, n, r, h: m["rnn_relu"](x, h, lengths=n),
    "lstm, stacked, both ways": lambda m, x, n, r, h: m["lstm"](x, (h.repeat(2, 1, 1),) * 2, n),
    "lstm, all cell states": lambda m, x, n, r, h: m["lstm"](x, None, n, return_cell_states=True),
    "lstm, unbatched": lambda m, x, n, r, h: m["lstm"](x[:, 0]),
    "gru, batch first": lambda m, x, n, r, h: m["gru"](x.transpose(0, 1), h, lengths=n),
    "gru, reset before": lambda m, x, n, r, h: m["gru_reset_before"](x, lengths=n),
    "gru of the article": lambda m, x, n, r, h: m["gru_article"](x, h[:1]),
    "rnn cell": lambda m, x, n, r, h: m["rnn_cell"](x[0], h[0]),
    "lstm cell": lambda m, x, n, r, h: m["lstm_cell"](x[0], (h[0], h[1])),
    "gru cell, unbatched": lambda m, x, n, r, h: m["gru_cell"](x[0, 0]),
    "functions": lambda m, x, n, r, h: (
        rnn(x, None, list(m["rnn_cell"].parameters()), nonlinearity="relu"),
        lstm(x, None, list(m["lstm_cell"].parameters()), lengths=n),
        gru(x, h[:1], list(m["gru_cell"].parameters())),
        lstm_cell(x[0], (h[0], h[1]), list(m["lstm_cell"].parameters())),
    ),
    "elementwise, lengths and resets": lambda m, x, n, r, h: m["min_lstm"](x, None, n, r),
    "own cell of several states": lambda m, x, n, r, h: m["several_states"](x, None, n, r),
    "linear scan": lambda m, x, n, r, h: fastcells.linear_scan(
        torch.sigmoid(x[0, 0]), x, h[0, :, :I], lengths=n, reverse=True
    ),
    "heads": lambda m, x, n, r, h: m["heads"](h, h, h, need_weights=False)[0],
    "heads, lengths": lambda m, x, n, r, h: m["heads"](h, h, h, key_lengths=n[:2] % 2),
    "self attention": lambda m, x, n, r, h: m["self"](x.transpose(0, 1), n),
    "additive attention": lambda m, x, n, r, h: m["additive"](
        x, x, attn_mask=r[:, None], need_weights=True
    ),
    "dot product, a query without keys": lambda m, x, n, r, h: (
        fastcells.scaled_dot_product_attention(
            *(x, x[:, 1:], x[:, 1:]),
            is_causal=True,
            causal_alignment="bottom_right",
            softcap=2.0,
            return_weights=True,
        )
    ),
}


#: Those that are exported in earnest: an export takes seconds.
EXPORTED = ("gru, reset before", "linear scan", "heads")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({name: make() for name, make in LAYERS.items()})

    def forward(self, x, lengths, resets, h):
        return {name: CASES[name](self.layers, x, lengths, resets, h) for name in EXPORTED}


def make_inputs(steps, batch):
    lengths = torch.arange(batch).flip(0).clamp(max=steps)  # the last row is empty
    lengths[0] = steps
    return (
        torch.randn(steps, batch, I),
        lengths,
        torch.rand(steps, batch) < 0.3,
        torch.randn(2, batch, H),
    )


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    model = Model().eval()
    T, B = torch.export.Dim("T"), torch.export.Dim("B")
    shapes = ({0: T, 1: B}, {0: B}, {0: T, 1: B}, {1: B})
    return model, torch.onnx.export(model, make_inputs(5, 4), dynamic_shapes=shapes, verbose=False)


def test_onnxruntime_computes_the_same_for_other_sizes(exported):
    model, program = exported
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    inputs = make_inputs(7, 3)
    names = [i.name for i in session.get_inputs()]
    theirs = session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))
    with torch.no_grad():
        ours = tree_leaves(model(*inputs))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.from_numpy(other), mine, rtol=0, atol=1e-5)


def test_cells_that_onnx_has_are_one_node_each(exported):
    counts = Counter(node.op_type for node in exported[1].model.graph)
    assert (counts["GRU"], counts["Scan"], counts["Softmax"]) == (1, 1, 1)


def run_node(operator, inputs, attributes, dtypes, shapes, version):
    """In the place of torch.onnx.ops.symbolic_multi_out: the node in ONNX Runtime, at once."""
    names = ["" if x is None else f"in{k}" for k, x in enumerate(inputs)]
    given = {n: x.detach().numpy() for n, x in zip(names, inputs, strict=True) if n}
    results = {f"out{k}": shape for k, shape in enumerate(shapes)}
    kind = onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, names, list(results), **attributes)],
        "node",
        [make_tensor_value_info(n, kind(x.dtype), x.shape) for n, x in given.items()],
        [make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in results.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=8
    )
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return [torch.from_numpy(array) for array in session.run(None, given)]


@pytest.fixture
def as_if_exported(monkeypatch):
    """Layers take the way that they take under torch.onnx.export, with values."""

    def begin():
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
        monkeypatch.setattr(fastcells.onnx.recurrent, "symbolic_multi_out", run_node)

    return begin


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", CASES)
def test_translations_compute_the_same(case, as_if_exported):
    layers, inputs = Model().layers, make_inputs(7, 3)
    with torch.no_grad():
        ours = tree_leaves(CASES[case](layers, *inputs))
        as_if_exported()
        theirs = tree_leaves(CASES[case](layers, *inputs))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(other, mine, rtol=0, atol=1e-5)


@each_cell
def test_a_scan_is_the_cell(cell, proj_size):
    """Every cell, with lengths, resets and initial states, in both directions."""
    p = make_layer_problem(
        cell, 2, T=5, B=3, I=4, H=4, proj_size=proj_size, lengths=True, resets=True
    )
    rest = (p.weights, p.names, p.lengths, p.resets, "cells")
    ours = torch.ops.fastcells.recurrent_forward(cell, 2, p.input, p.h_0, p.c_0, *rest)
    theirs = fastcells.onnx.recurrent.recurrent_forward(cell, 2, p.input, p.h_0, p.c_0, *rest)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["parts", "gates", "parts carried"])
def test_a_normalised_layer_is_a_scan_too(norm):
    p = make_layer_problem("lstm", 2, T=5, B=3, I=4, H=4, lengths=True, norm=norm)
    rest = (p.weights, p.names, p.lengths, None, "nothing")
    ours = torch.ops.fastcells.recurrent_forward("lstm", 2, p.input, p.h_0, p.c_0, *rest)
    theirs = fastcells.onnx.recurrent.recurrent_forward("lstm", 2, p.input, p.h_0, p.c_0, *rest)
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-12, atol=1e-12)


def test_a_normalised_layer_in_float32_is_not_the_operator(as_if_exported):
    layer, input = fastcells.LayerNormLSTM(I, H).eval(), torch.randn(5, 2, I)
    with torch.no_grad():
        expected = layer(input)[0]
        as_if_exported()
        torch.testing.assert_close(layer(input)[0], expected, rtol=0, atol=1e-5)


def complex_scan():
    return fastcells.linear_scan(torch.ones(2, 1, 1) * 1j, torch.ones(2, 1, 1) * 1j)


REFUSALS = {
    "int8": (
        lambda: fastcells.quantize(fastcells.GRU(I, H))(torch.randn(5, 2, I)),
        "fastcells.onnx: weights must have the input's dtype, torch.float32, got torch.int8. "
        "Export the layer that was given to fastcells.quantize, and quantize the ONNX model",
    ),
    "dropout": (
        lambda: fastcells.SelfAttention(I, H, dropout=0.5)(torch.randn(2, 5, I)),
        "fastcells.onnx: attention with dropout_p=0.5 has no translation. Call model.eval() "
        "before the export",
    ),
    "zoneout": (
        lambda: fastcells.LSTM(I, H, zoneout=0.1).eval()(torch.randn(5, 2, I)),
        "fastcells.onnx: zoneout and recurrent_dropout are not exported. Call model.eval(), and "
        "set zoneout and zoneout_c of the layer to 0",
    ),
    "complex": (
        complex_scan,
        "fastcells.onnx: linear_scan of torch.complex64 has no translation: ONNX's operators are "
        "real",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_onnx_cannot_say_is_refused(case, as_if_exported):
    call, text = REFUSALS[case]
    as_if_exported()
    with torch.no_grad(), pytest.raises(NotImplementedError) as caught:
        call()
    assert str(caught.value) == text


def test_the_exporter_shows_a_refusal():
    """Its second attempt, by another tracer, must not succeed and hide it."""
    layer = fastcells.SelfAttention(I, H, dropout=0.5).train()
    with (
        pytest.raises(torch.onnx.OnnxExporterError, match=r"Call model\.eval\(\) before"),
        pytest.warns(UserWarning, match="training mode"),
    ):
        torch.onnx.export(layer, (torch.randn(2, 5, I),), verbose=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_the_older_exporter_is_refused():
    with pytest.raises(NotImplementedError, match="dynamo=False"):
        torch.onnx.export(fastcells.GRU(I, H).eval(), (torch.randn(5, 2, I),), dynamo=False)


def test_a_program_of_torch_export_is_decomposed():
    program = torch.export.export(fastcells.LSTM(I, H).eval(), (torch.randn(5, 2, I),))
    targets = [str(n.target) for n in program.graph.nodes]
    assert "fastcells.recurrent_forward.default" in targets
    program = program.run_decompositions(fastcells.onnx.decompositions())
    targets = [str(n.target) for n in program.graph.nodes]
    assert not any(t.startswith("fastcells") for t in targets)
    assert "onnx_symbolic._symbolic_multi_out.default" in targets
