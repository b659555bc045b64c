"""Calls of modules that go through C++ and are recorded there give the bits and the errors of the
way through Python (csrc/recurrent/at_once.cpp, way_back.cpp)."""

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import fastcells
from ways import flat, through_python

T, B, I, H = 5, 3, 7, 10

CELLS = {
    "RNNCell": lambda **o: fastcells.RNNCell(I, H, **o),
    "RNNCell relu": lambda **o: fastcells.RNNCell(I, H, nonlinearity="relu", **o),
    "LSTMCell": lambda **o: fastcells.LSTMCell(I, H, **o),
    "GRUCell": lambda **o: fastcells.GRUCell(I, H, **o),
    "GRUCell without bias": lambda **o: fastcells.GRUCell(I, H, bias=False, **o),
    "GRUCell article": lambda **o: fastcells.GRUCell(I, H, variant="article", **o),
    "GRUCell reset_before": lambda **o: fastcells.GRUCell(I, H, variant="reset_before", **o),
}
LAYERS = {
    "RNN": lambda **o: fastcells.RNN(I, H, **o),
    "LSTM": lambda **o: fastcells.LSTM(I, H, **o),
    "GRU": lambda **o: fastcells.GRU(I, H, **o),
    "LSTM projected": lambda **o: fastcells.LSTM(I, H, proj_size=4, **o),
    "LSTM stacked": lambda **o: fastcells.LSTM(
        I, H, num_layers=3, bidirectional=True, batch_first=True, dropout=0.4, **o
    ),
    "GRU without bias, two ways": lambda **o: fastcells.GRU(
        I, H, num_layers=2, bias=False, bidirectional=True, **o
    ),
    "LSTM recompute": lambda **o: fastcells.LSTM(I, H, recompute=True, **o),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def results_and_gradients(module, arguments, leaves):
    """Results, and gradients of the leaves and the parameters through a random projection."""
    torch.manual_seed(1)  # of the dropout between layers
    results = flat(module(*arguments))
    generator = torch.Generator().manual_seed(2)
    projections = [torch.randn(r.shape, generator=generator).to(r.dtype) for r in results]
    wanted = [*leaves, *module.parameters()]
    gradients = torch.autograd.grad(results, wanted, projections)
    return [r.detach() for r in results], gradients


def assert_same(first, second):
    for ours, theirs in zip(first, second, strict=True):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
            assert torch.equal(a, b)


def cell_arguments(module, dtype, rows, has_state):
    generator = torch.Generator().manual_seed(0)

    def leaf(width):
        shape = (width,) if rows is None else (rows, width)
        return torch.randn(shape, generator=generator).to(dtype).requires_grad_()

    x = leaf(I)
    if not has_state:
        return (x,), [x]
    states = [leaf(H) for _ in range(2 if isinstance(module, fastcells.LSTMCell) else 1)]
    return (x, tuple(states) if len(states) == 2 else states[0]), [x, *states]


@pytest.mark.parametrize("has_state", [False, True], ids=["zeros", "states"])
@pytest.mark.parametrize("rows", [None, 1, 2, 6, 33])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_a_cell(kind, dtype, rows, has_state, took, monkeypatch):
    module = CELLS[kind](dtype=dtype)
    arguments, leaves = cell_arguments(module, dtype, rows, has_state)
    found = results_and_gradients(module, arguments, leaves)
    with torch.no_grad():
        inferred = flat(module(*arguments))
    assert took == ["step_at_once"] * 2
    through_python(monkeypatch)
    assert_same(found, results_and_gradients(module, arguments, leaves))
    with torch.no_grad():
        assert_same([inferred], [flat(module(*arguments))])


def layer_arguments(module, dtype, steps, rows, options):
    generator = torch.Generator().manual_seed(0)
    shape = [rows, steps] if module.batch_first else [steps, rows]
    x = torch.randn(*shape, I, generator=generator).to(dtype).requires_grad_()
    leaves, hx, lengths, resets = [x], None, None, None
    if "states" in options:
        count = module.num_layers * (2 if module.bidirectional else 1)
        widths = [module.proj_size or H] + ([H] if isinstance(module, fastcells.LSTM) else [])
        states = [
            torch.randn(count, rows, w, generator=generator).to(dtype).requires_grad_()
            for w in widths
        ]
        leaves += states
        hx = tuple(states) if len(states) == 2 else states[0]
    if "lengths" in options:
        lengths = torch.randint(0, steps + 1, (rows,), generator=generator)
    if "resets" in options:
        resets = torch.rand(shape, generator=generator) < 0.3
    return (x, hx, lengths, resets), leaves


@pytest.mark.parametrize("options", ["", "states", "states lengths resets"])
@pytest.mark.parametrize(("steps", "rows"), [(T, B), (1, 1), (1, 9), (2, 2)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer(kind, dtype, steps, rows, options, took, monkeypatch):
    module = LAYERS[kind](dtype=dtype)
    arguments, leaves = layer_arguments(module, dtype, steps, rows, options)
    found = results_and_gradients(module, arguments, leaves)
    assert took == ["stack_at_once"]
    through_python(monkeypatch)
    assert_same(found, results_and_gradients(module, arguments, leaves))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_an_unbatched_layer(kind, took, monkeypatch):
    module = LAYERS[kind]()
    x = torch.randn(T, I, requires_grad=True)
    found = results_and_gradients(module, (x,), [x])
    assert len(took) == 1
    through_python(monkeypatch)
    assert_same(found, results_and_gradients(module, (x,), [x]))


@pytest.mark.parametrize("lengths", [[3, 5, 1, 5], [5, 4, 4, 2], [4, 4, 4, 4]], ids=str)
@pytest.mark.parametrize("options", ["", "states"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_packed_sequence(kind, dtype, options, lengths, took, monkeypatch):
    module = LAYERS[kind](dtype=dtype)
    (x, hx, _, _), leaves = layer_arguments(module, dtype, max(lengths), len(lengths), options)
    is_sorted = lengths == sorted(lengths, reverse=True)
    packed = pack_padded_sequence(x.detach(), lengths, module.batch_first, enforce_sorted=is_sorted)
    leaves[0] = packed.data.requires_grad_()
    assert (packed.sorted_indices is None) == is_sorted
    found = results_and_gradients(module, (packed, hx), leaves)
    assert took == ["packed_stack_at_once"]
    result = module(packed, hx)[0]
    for part in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert getattr(result, part) is getattr(packed, part)
    through_python(monkeypatch)
    assert_same(found, results_and_gradients(module, (packed, hx), leaves))


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNN", "LSTM stacked"])
def test_second_derivatives(kind, took, monkeypatch):
    is_cell = kind.endswith("Cell")
    module = (CELLS if is_cell else LAYERS)[kind](dtype=torch.float64).eval()
    if is_cell:
        arguments, leaves = cell_arguments(module, torch.float64, 3, True)
    else:
        arguments, leaves = layer_arguments(module, torch.float64, T, B, "states")

    def second():
        results = flat(module(*arguments))
        wanted = [*leaves, *module.parameters()]
        first = torch.autograd.grad(sum(r.pow(2).sum() for r in results), wanted, create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), wanted)

    found = second()
    assert len(took) == 1
    through_python(monkeypatch)
    assert_same([found], [second()])


def test_batched_gradients(monkeypatch):
    module = fastcells.GRUCell(I, H, dtype=torch.float64)
    x = torch.randn(2, I, dtype=torch.float64, requires_grad=True)
    ones = torch.eye(2 * H, dtype=torch.float64).view(2 * H, 2, H)
    found = torch.autograd.grad(module(x), x, ones, is_grads_batched=True)
    through_python(monkeypatch)
    expected = torch.autograd.grad(module(x), x, ones, is_grads_batched=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("kind", ["LSTMCell", "LSTM"])
def test_what_autograd_promises(kind):
    """In-place writes are noticed, buffers are freed, hooks and anomaly mode see the node."""
    module = getattr(fastcells, kind)(I, H)
    x = torch.randn(2, I) if kind == "LSTMCell" else torch.randn(T, 2, I)
    x.requires_grad_()
    module(x)[0].sum().backward()
    loss = module(x)[0].sum()
    with torch.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    output = module(x)[0]
    output.detach().mul_(2)  # of the graph's own tensor, which a step's way back does not read
    if kind == "LSTM":
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()
    loss = module(x)[0].sum()
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    packed = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda t: packed.append(t.shape) or t.clone(), lambda t: t
    )
    with hooks:
        result = module(x)[0].sum()
    assert x.shape in packed and module.bias_ih.shape in packed if kind == "LSTMCell" else packed
    result.backward()
    with torch.autograd.detect_anomaly(check_nan=True):
        module(x)[0].sum().backward()


@pytest.mark.parametrize("kind", ["LSTMCell", "LSTM"])
def test_checkpointing(kind):
    module = getattr(fastcells, kind)(I, H)
    x = torch.randn(2, I) if kind == "LSTMCell" else torch.randn(T, 2, I)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(module(x)[0].sum(), x)
    (found,) = torch.autograd.grad(
        checkpoint(lambda t: module(t)[0], x, use_reentrant=False).sum(), x
    )
    assert torch.equal(found, expected)


def test_an_error_in_a_hook_passes_through():
    module, x = fastcells.LSTMCell(I, H), torch.randn(2, I, requires_grad=True)

    def refuse(tensor):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        with torch.autograd.graph.saved_tensors_hooks(refuse, lambda t: t):
            module(x)


BROKEN = {
    "width": lambda m: (torch.randn(2, I + 1),),
    "rank": lambda m: (torch.randn(1, 1, 1, I),),
    "dtype": lambda m: (torch.randn(2, I, dtype=torch.float64),),
    "not a tensor": lambda m: ([1.0],),
    "a state's width": lambda m: (torch.randn(2, I), (torch.randn(2, H + 1),) * 2),
    "a state's rank": lambda m: (torch.randn(2, I), (torch.randn(H),) * 2),
    "one state": lambda m: (torch.randn(2, I), (torch.randn(2, H),)),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("kind", ["LSTMCell", "LSTM"])
def test_errors(kind, what, monkeypatch):
    module = getattr(fastcells, kind)(I, H)
    arguments = BROKEN[what](module)
    with pytest.raises(Exception) as found:
        module(*arguments)
    through_python(monkeypatch)
    with pytest.raises(type(found.value)) as expected:
        module(*arguments)
    assert str(found.value) == str(expected.value)


def packed_rows(data=(6, I), sizes=(3, 2, 1), order=None, back=None):
    indices = [None if x is None else torch.tensor(x) for x in (order, back)]
    return PackedSequence(torch.randn(*data), torch.tensor(sizes), *indices)


BROKEN_PACKS = {
    "rising": lambda: (packed_rows(sizes=(1, 2, 3)),),
    "sum": lambda: (packed_rows(data=(7, I)),),
    "none": lambda: (packed_rows(sizes=(3, 3, 0)),),
    "a huge sum": lambda: (packed_rows(sizes=(2**62, 2**62, 2**62)),),
    "rank": lambda: (packed_rows(data=(6, I, 1)),),
    "width": lambda: (packed_rows(data=(6, I + 1)),),
    "indices out of range": lambda: (packed_rows(order=(0, 1, 3), back=(0, 1, 2)),),
    "indices twice": lambda: (packed_rows(order=(0, 1, 1), back=(0, 1, 2)),),
    "too many indices": lambda: (packed_rows(order=(0, 1, 2, 3), back=(0, 1, 2, 3)),),
    "not undone": lambda: (packed_rows(order=(1, 2, 0), back=(1, 2, 0)),),
    "a state's rows": lambda: (packed_rows(order=(1, 2, 0), back=(2, 0, 1)), torch.randn(1, 4, H)),
    "a state's rank": lambda: (packed_rows(), torch.randn(3, H)),
    "lengths": lambda: (packed_rows(), None, torch.tensor([3, 2, 1])),
    "resets": lambda: (packed_rows(), None, None, torch.zeros(3, 3, dtype=torch.bool)),
}


@pytest.mark.parametrize("what", BROKEN_PACKS)
def test_errors_of_a_packed_sequence(what, took, monkeypatch):
    module = fastcells.GRU(I, H)
    torch.manual_seed(0)
    arguments = BROKEN_PACKS[what]()
    with pytest.raises(Exception) as found:
        module(*arguments)
    assert not took
    through_python(monkeypatch)
    with pytest.raises(type(found.value)) as expected:
        module(*arguments)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "LSTMCell", "RNNCell"])
def test_gradients_inside_inference_mode(kind):
    module = getattr(fastcells, kind)(I, H)
    x = torch.randn(2, I) if kind.endswith("Cell") else torch.randn(T, 2, I)
    expected = flat(module(x))
    with torch.inference_mode(), torch.enable_grad():
        found = flat(module(x))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b) and not a.requires_grad


def test_batched_gradients_of_one_tensor_in_two_places():
    module = fastcells.GRU(H, H, dtype=torch.float64)
    x = torch.randn(1, 2, H, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(3, 1, 2, H, dtype=torch.float64)
    (found,) = torch.autograd.grad(module(x, x)[0], x, rows, is_grads_batched=True)
    expected = [torch.autograd.grad(module(x, x)[0], x, row)[0] for row in rows]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_what_is_no_flag_or_number_is_left_to_python():
    module, x = fastcells.GRU(I, H), torch.randn(T, 2, I)
    expected = module(x)[0]
    module._flat_weights = tuple(module._flat_weights)
    assert torch.equal(module(x)[0], expected)
