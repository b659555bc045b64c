"""Compiled cells in the engines: they equal the reference, and are layers in every way."""

import copy
import pickle
import shutil

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import fastcells
from fastcells.equations import compiling
from fastcells.reference import recurrent as reference
from fastcells.testing import assert_as_accurate_as_torch
from routes import no_kernels

I, H, T, B = 5, 19, 7, 5

pytestmark = pytest.mark.skipif(
    not fastcells.is_compiled() or shutil.which("c++") is None or compiling.headers() is None,
    reason="needs the compiled kernels, their headers and a C++ compiler",
)


@fastcells.cell(gates="i o g", recurrent_gates="i g", states="c")
def dense(x, h, state, p):
    """Gates with and without a recurrent part; a kink; the new h of the old one."""
    c = state.c + torch.sigmoid(x.i + h.i) * torch.nn.functional.elu(x.g - h.g)
    return torch.sigmoid(x.o) * torch.tanh(c) + 0.1 * h.prev, c


@fastcells.cell(gates="r n", recurrent="vector", parameters={"bend": 1.5}, states="c d e")
def vector(x, h, state, p):
    """A vector and a parameter; three states, of which the new ones are read again."""
    r = torch.sigmoid(x.r + h.r)
    c = r * state.c + (1 - r) * torch.sin(p.bend * (x.n + h.n))
    d = torch.exp(-c * c) - 0.5 * state.d
    return torch.nn.functional.softplus(c) - 0.5 * d * state.e, c, d, torch.maximum(c, state.d)


@fastcells.cell(
    gates="i o g", recurrent_gates="i g", states="c m", parameters={"bend": 1.5, "see": 0.5}
)
def bent(x, h, state, p):
    """A dense cell with parameters, of which one sees an old and a new state, and two states."""
    c = state.c + torch.sigmoid(x.i + h.i + p.see * state.m) * torch.tanh(p.bend * (x.g + h.g))
    m = torch.maximum(0.9 * state.m, torch.tanh(c) + 0.1 * state.c)
    return torch.sigmoid(x.o + p.see * c) * m, c, m


each_cell = pytest.mark.parametrize("cell", [dense, vector, bent], ids=lambda c: c.__name__)
each_dtype = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16], ids=lambda d: str(d)[6:]
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Less optimised: several times as fast to compile, and the same equations."""
    monkeypatch.setattr(compiling, "FLAGS", tuple(compiling.FLAGS) + ("-O0",))


def make(cell, **options):
    torch.manual_seed(3)
    return cell(I, H, **options)


def in_double(layer):
    other = type(layer)(I, H, layer.num_layers, bidirectional=layer.bidirectional).double()
    other.load_state_dict(layer.state_dict())
    return other


def run(layer, input, hx, projections, **options):
    input = input.detach().requires_grad_()
    output, final = layer(input, hx, **options)
    tensors = (output, *final)
    total = sum((t * p.to(t.dtype)).sum() for t, p in zip(tensors, projections, strict=True))
    grads = torch.autograd.grad(total, [input, *hx, *layer.parameters()])
    return [*tensors, *grads]


@each_cell
@pytest.mark.parametrize("recompute", [False, True])
def test_kernels_are_as_accurate_as_torch(cell, recompute, monkeypatch):
    layer = make(cell, num_layers=2, bidirectional=True, recompute=recompute)
    input = torch.randn(T, B, I)
    hx = tuple(torch.randn(4, B, H, requires_grad=True) for _ in layer._names)
    projections = [torch.randn(T, B, 2 * H), *(torch.randn(4, B, H) for _ in hx)]
    rows = {
        "lengths": torch.tensor([7, 0, 3, 7, 1]),
        "resets": torch.rand(T, B) < 0.2,
    }
    assert fastcells.explain(layer, input).kernel.startswith("cpu ")
    found = run(layer, input, hx, projections, **rows)
    wide = [h.detach().double().requires_grad_() for h in hx]
    with no_kernels(monkeypatch):
        torchs = run(layer, input, hx, projections, **rows)
        exact = run(in_double(layer), input.double(), tuple(wide), projections, **rows)
    assert len(found) == len(exact)
    for k, (a, b, c) in enumerate(zip(found, exact, torchs, strict=True)):
        assert_as_accurate_as_torch(a, b, c, floor=4 * torch.finfo(torch.float32).eps, what=str(k))


@each_dtype
@pytest.mark.parametrize("recompute", [False, True])
def test_a_cell_with_parameters_and_several_states_in_every_dtype(dtype, recompute, monkeypatch):
    layer = make(bent, bidirectional=True, recompute=recompute, dtype=dtype)
    input = torch.randn(T, B, I).to(dtype)
    hx = tuple(torch.randn(2, B, H).to(dtype).requires_grad_() for _ in layer._names)
    projections = [torch.randn(T, B, 2 * H), *(torch.randn(2, B, H) for _ in hx)]
    lengths = torch.tensor([7, 0, 3, 7, 1])
    assert fastcells.explain(layer, input).kernel == "cpu rowwise"
    found = run(layer, input, hx, projections, lengths=lengths)
    wide = tuple(h.detach().double().requires_grad_() for h in hx)
    with no_kernels(monkeypatch):
        torchs = run(layer, input, hx, projections, lengths=lengths)
        exact = run(in_double(layer), input.double(), wide, projections, lengths=lengths)
    floor = {torch.float64: 1e-14}.get(dtype, torch.finfo(dtype).eps)
    for k, (a, b, c) in enumerate(zip(found, exact, torchs, strict=True)):
        assert a.dtype == dtype
        assert_as_accurate_as_torch(a, b, c, floor=floor, what=str(k))


def test_threads_change_nothing_but_last_bits():
    """As of the built-in cells: rows in other tiles add up in another order. On as many threads the
    bits are the same each time."""
    layer = make(bent, bidirectional=True)
    input, before = torch.randn(T, B, I, requires_grad=True), torch.get_num_threads()

    def results():
        output, final = layer(input)
        total = output.sin().sum() + sum(state.cos().sum() for state in final)
        grads = torch.autograd.grad(total, [input, *layer.parameters()])
        return [output, *final, *grads]

    expected = None
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = results()
            assert all(map(torch.equal, found, results()))
            expected = expected or found
            for a, b in zip(found, expected, strict=True):
                bound = 64 * torch.finfo(a.dtype).eps * max(1.0, b.abs().max().item())
                assert (a - b).abs().max().item() <= bound
    finally:
        torch.set_num_threads(before)


@each_cell
def test_compiled_layers_do_what_layers_do(cell):
    layer = make(cell)
    input = torch.randn(T, B, I)
    with torch.no_grad():
        output, final = layer(input)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)),
                      torch.compile(layer, fullgraph=True, backend="aot_eager")):  # fmt: skip
            torch.testing.assert_close(other(input)[0], output)
        lengths = torch.tensor([T] * B)
        packed, _ = layer(pack_padded_sequence(input, lengths))
        torch.testing.assert_close(packed.data.view(T, B, H), output)
        torch.testing.assert_close(layer(input, lengths=lengths)[0], output)
        program = torch.export.export(layer, (input,))
        torch.testing.assert_close(program.module()(input)[0], output)
        with fastcells.frozen(layer):
            torch.testing.assert_close(layer(input)[0], output)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(input)[0].dtype == torch.float32
        batches = torch.stack([input, -input])
        torch.testing.assert_close(torch.func.vmap(lambda x: layer(x)[0])(batches)[0], output)
        step = cell.Cell(I, H)
        step.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
        states = None
        for t in range(T):
            states = step(input[t], states)
        torch.testing.assert_close(states[0], final[0][0], rtol=1e-5, atol=1e-6)


@each_cell
def test_second_derivatives_of_compiled_cells_are_the_references(cell):
    layer = make(cell)
    input = torch.randn(3, 2, I, requires_grad=True)

    def second(run):
        (first,) = torch.autograd.grad(run().sin().sum(), input, create_graph=True)
        return torch.autograd.grad(first.square().sum(), input)[0]

    own = {name.removesuffix("_l0"): w for name, w in layer.named_parameters()}
    weights = layer.definition.packed(own)
    plain = lambda: reference.recurrent(  # noqa: E731
        layer.cell, 1, input, None, None, list(weights.values()), " ".join(weights)
    )[0]
    torch.testing.assert_close(second(lambda: layer(input)[0]), second(plain), rtol=1e-4, atol=1e-5)


def test_a_storage_that_is_not_loaded_is_refused_by_the_op():
    layer = make(dense)
    layer(torch.randn(T, B, I))
    weights = layer.definition.packed(
        {name.removesuffix("_l0"): w.detach().half() for name, w in layer.named_parameters()}
    )
    with pytest.raises(NotImplementedError, match="has no kernels for Half on cpu"):
        torch.ops.fastcells.recurrent_forward(
            layer.cell, 1, torch.randn(T, B, I).half(), None, None, list(weights.values()),
            " ".join(weights), None, None, "nothing",
        )  # fmt: skip


def test_norms_of_a_cell_that_was_compiled_without_them_are_refused():
    layer = make(dense)
    layer(torch.randn(T, B, I))
    weights = layer.definition.packed(
        {name.removesuffix("_l0"): w.detach() for name, w in layer.named_parameters()}
    )
    weights["norm_ih"] = torch.ones(3 * H)
    with pytest.raises(ValueError) as caught:
        torch.ops.fastcells.recurrent_forward(
            layer.cell, 1, torch.randn(T, B, I), None, None, list(weights.values()),
            " ".join(weights), None, None, "nothing",
        )  # fmt: skip
    assert str(caught.value).splitlines()[0] == (
        f"fastcells::recurrent_forward: {layer.cell} was compiled without the kernels of norms and "
        "noise"
    )
