"""Norms and noise of cells from equations: kernels and reference, options and what is refused."""

import shutil

import pytest
import torch

import fastcells
from fastcells.equations import compiling
from routes import no_kernels

I, H, T, B = 4, 13, 6, 5

needs_kernels = pytest.mark.skipif(
    not fastcells.is_compiled() or shutil.which("c++") is None or compiling.headers() is None,
    reason="needs the compiled kernels, their headers and a C++ compiler",
)


def rows(x, h, state, p):
    """Gates that do not add, a parameter, two states of which the new ones are read again."""
    a = torch.sigmoid(x.a + p.bend * h.a)
    c = a * state.c + (1 - a) * torch.tanh(x.n * h.n + h.n)
    d = torch.exp(-c) + 0.5 * state.d
    return torch.sigmoid(x.o + h.o) * torch.tanh(c) / (1 + d * d), c, d


def decorated(norm):
    """All of them are one library: a norm is an affair of the layer."""
    return fastcells.cell(gates="a n o", states="c d", parameters={"bend": 0.7}, norm=norm)(rows)


PLAIN = decorated("")
RATES = {"zoneout": 0.3, "zoneout_c": 0.2, "recurrent_dropout": 0.4}
OPTIONS = {
    "both norms": ("input recurrent", {}),
    "of the input": ("input", {}),
    "of the state": (["recurrent"], {}),
    "noise": ("", RATES),
    "zoneout of the states": ("", {"zoneout_c": 0.5}),
    "norms and noise": ("input recurrent", RATES | {"weight_dropout": 0.25}),
}
each_option = pytest.mark.parametrize("option", list(OPTIONS))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Less optimised: several times as fast to compile, and the same equations."""
    monkeypatch.setattr(compiling, "FLAGS", tuple(compiling.FLAGS) + ("-O0",))


def make(option, **more):
    norm, rates = OPTIONS[option]
    torch.manual_seed(5)
    layer = decorated(norm)(I, H, dtype=torch.float64, **rates, **more)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("norm"):
                weight.uniform_(0.5, 1.5)
    return layer


def run(layer, lengths=None, resets=None):
    torch.manual_seed(11)  # the masks
    leaves = [torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)]
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    leaves += [torch.randn(count, B, H, dtype=torch.float64, requires_grad=True) for _ in "hcd"]
    output, final, cells = layer(leaves[0], tuple(leaves[1:]), lengths, resets, True)
    found = [output, *final, *cells]
    total = sum((x * torch.randn_like(x)).sum() for x in found)
    return [*found, *torch.autograd.grad(total, [*leaves, *layer.parameters()])]


def on_reference(monkeypatch, layer, **rows):
    with no_kernels(monkeypatch):
        return run(layer, **rows)


@needs_kernels
@each_option
@pytest.mark.parametrize(("is_training", "recompute"), [(True, False), (False, True)])
def test_kernels_are_the_reference(option, is_training, recompute, monkeypatch):
    layer = make(option, num_layers=2, bidirectional=True, recompute=recompute).train(is_training)
    given = {"lengths": torch.tensor([6, 0, 4, 6, 1]), "resets": torch.rand(T, B) < 0.2}
    told = fastcells.explain(layer, torch.randn(T, B, I, dtype=torch.float64))
    assert told.kernel == "cpu rowwise"
    found, expected = run(layer, **given), on_reference(monkeypatch, layer, **given)
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11, msg=lambda m, k=k: f"{k}: {m}")


@needs_kernels
def test_second_derivatives_and_graphs_of_normalised_and_drawn_cells():
    layer, input = make("norms and noise"), torch.randn(3, 2, I, dtype=torch.float64)

    def run(x):
        torch.manual_seed(2)
        return layer(x)[0]

    assert torch.autograd.gradcheck(run, input.requires_grad_(), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, input, fast_mode=True)
    layer = make("both norms")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(input), layer(input))


def test_normalised_parts_are_layer_norms(on_reference):
    cell = fastcells.cell(gates="n", norm="input recurrent")(
        lambda x, h, state, p: torch.tanh(x.n + h.n)
    )
    layer = cell(I, H, dtype=torch.float64)
    other = fastcells.LayerNormRNN(I, H, dtype=torch.float64)
    assert layer.state_dict().keys() == other.state_dict().keys()
    assert (layer.norm_ih_l0 == 1).all() and (layer.norm_hh_l0 == 1).all()
    other.load_state_dict(layer.state_dict())
    input = torch.randn(T, B, I, dtype=torch.float64)
    torch.testing.assert_close(layer(input), other(input), rtol=1e-12, atol=1e-12)
    step = cell.Cell(I, H, dtype=torch.float64)
    step.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    torch.testing.assert_close(step(input[0]), other(input[:1])[0][0], rtol=1e-12, atol=1e-12)


@needs_kernels
def test_a_step_on_kernels_is_a_layer_of_one_step():
    for option in ("noise", "both norms"):
        layer = make(option).eval()
        layer.zoneout = layer.zoneout_c = 0.0
        step = type(layer).Cell(I, H, dtype=torch.float64)
        step.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
        input, hx = torch.randn(1, B, I, dtype=torch.float64), torch.randn(3, 1, B, H).double()
        with torch.no_grad():
            _, final = layer(input, tuple(hx))
            found = step(input[0], tuple(hx[:, 0]))
        torch.testing.assert_close(found, tuple(s[0] for s in final), rtol=1e-12, atol=1e-12)


def test_zoneout_keeps_all_states_of_a_unit_or_none(on_reference):
    layer = PLAIN(I, H, zoneout_c=0.5)
    hx = tuple(torch.randn(1, B, H) for _ in range(3))
    _, (_, c, d) = layer(torch.randn(1, B, I), hx)
    kept = c == hx[1]
    assert kept.any() and not kept.all()
    assert torch.equal(kept, d == hx[2])


@pytest.mark.parametrize(
    ("norm", "more", "text"),
    [
        ("rows", {}, "cell: norm must be 'input', 'recurrent' or 'input recurrent', got 'rows'"),
        (3, {}, "cell: norm must be names with spaces between, got 3"),
        ("input", {"recurrent": "vector"},
         "cell: norm is of recurrent='dense', got recurrent='vector'"),
        ("recurrent", {"recurrent_gates": "a"},
         "cell: norm='recurrent' is over all gates, but recurrent_gates are not all of them"),
        ("input", {"parameters": {"norm_ih": 1.0}},
         "cell: a parameter may not be named norm_ih, as the layer's weights are"),
    ],
)  # fmt: skip
def test_what_cannot_be_normalised_is_refused(norm, more, text):
    with pytest.raises(fastcells.CellError) as caught:
        fastcells.cell(gates="a b", norm=norm, **more)(lambda x, h, state, p: x.a + h.a + x.b)
    assert str(caught.value) == text


def test_rates_that_a_cell_cannot_have_are_refused():
    vector = fastcells.cell(gates="a", recurrent="vector")(lambda x, h, state, p: x.a + h.a)
    with pytest.raises(
        ValueError, match="zoneout is of cells with recurrent='dense', <lambda> has"
    ):
        vector(I, H, zoneout=0.1)
    with pytest.raises(ValueError, match="zoneout_c is of states beside h, and janet has none"):
        fastcells.cells.janet(I, H, zoneout_c=0.1)
    with pytest.raises(ValueError, match=r"lltm: recurrent_dropout must lie in 0 \.\. 1, got 2"):
        fastcells.cells.lltm(I, H, recurrent_dropout=2)


def test_a_graph_is_traced_of_a_layer_that_was_never_called(on_reference):
    layer, input = make("noise"), torch.randn(3, B, I, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    results = []
    for run in (compiled, layer):
        torch.manual_seed(1)
        results.append(run(input)[0])
    torch.testing.assert_close(*results)


def test_rates_are_shown_and_travel(on_reference):
    layer = fastcells.cells.lltm(I, H, zoneout=0.25, zoneout_c=0.5)
    assert "zoneout=0.25, zoneout_c=0.5" in repr(layer)
    assert layer.cell != fastcells.cells.lltm(I, H).cell
