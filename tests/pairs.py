"""A layer or cell of fastcells beside torch.nn's, with the same parameters and the same call."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import fastcells

LAYERS = ("RNN", "LSTM", "GRU")
CELLS = ("RNNCell", "LSTMCell", "GRUCell")
each_layer = pytest.mark.parametrize("kind", LAYERS)
each_cell = pytest.mark.parametrize("kind", CELLS)
each_kind = pytest.mark.parametrize("kind", LAYERS + CELLS)
each_batch_first = pytest.mark.parametrize("batch_first", [False, True], ids=["TBI", "BTI"])
#: torch tells which of its implementations runs; both are right.
quiet_projections = pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN:UserWarning"
)


@pytest.fixture(autouse=True)
def one_thread():
    """Imported by files whose layers are small: on a busy machine the threads of a product this
    small wait for each other ten times as long as it takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


T, B, I, H = 5, 4, 3, 6  # every index wrong by one is seen
#: What the error of a float64 result may be, relative to the largest expected element.
EXACT = 1e-12
float64 = {"dtype": torch.float64}


def layer_cases(options):
    """A parameter (kind, options) for every layer and each of the named options."""
    return [
        pytest.param(kind, chosen, id=f"{kind}-{name}")
        for kind in LAYERS
        for name, chosen in options.items()
    ]


PROJECTED = pytest.param(
    "LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True}, id="LSTM-proj"
)


def make_pair(kind, *args, **kwargs):
    """(fastcells', torch.nn's) module of the same arguments, with the same parameters."""
    args = args or (I, H)
    theirs = getattr(nn, kind)(*args, **kwargs)
    ours = getattr(fastcells, kind)(*args, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def make_input(kind, dtype=torch.float64):
    """A random batch for a layer, `[T, B, I]`, or for a cell, `[B, I]`."""
    return torch.randn(*((B, I) if kind in CELLS else (T, B, I)), dtype=dtype)


def make_hx(module, batch=None, dtype=torch.float64):
    """Random initial states of a layer or cell; unbatched without `batch`."""
    rows = []
    if isinstance(module, nn.RNNBase):
        rows = [module.num_layers * (2 if module.bidirectional else 1)]
    width = getattr(module, "proj_size", 0) or module.hidden_size
    batch = [] if batch is None else [batch]
    h = torch.randn(*rows, *batch, width, dtype=dtype)
    if "LSTM" not in type(module).__name__:
        return h
    return h, torch.randn(*rows, *batch, module.hidden_size, dtype=dtype)


def tensors_of(value):
    """The tensors of a nested result or argument, in order; the data of a PackedSequence."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_of(item)]
    return [] if value is None else [value]


def with_leaves(value):
    """The same nested argument on fresh leaves that require gradients."""
    if isinstance(value, PackedSequence):
        return PackedSequence(with_leaves(value.data), *value[1:])
    if isinstance(value, tuple | list):
        return type(value)(with_leaves(item) for item in value)
    return None if value is None else value.detach().requires_grad_()


def gradients_of_projection(results, leaves):
    """The gradients of a random projection of all results, the same for all of the same shapes."""
    generator = torch.Generator().manual_seed(1)
    cotangents = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t)
        for t in results.values()
    ]
    grads = torch.autograd.grad(list(results.values()), list(leaves.values()), cotangents)
    return {f"grad of {name}": grad for name, grad in zip(leaves, grads, strict=True)}


def evaluate(module, input, hx=None, **options):
    """Results and gradients of one call, by name: the gradients of a random projection of all
    results, the same for every module whose results have the same shapes."""
    input, hx = with_leaves(input), with_leaves(hx)
    results = module(input, hx, **options)
    found = {f"result {i}": tensor for i, tensor in enumerate(tensors_of(results))}
    leaves = {f"argument {i}": t for i, t in enumerate(tensors_of((input, hx)))}
    leaves |= dict(module.named_parameters())
    return found | gradients_of_projection(found, leaves)


def assert_same_bits(actual, expected):
    """The same tensors, whatever they are nested in."""
    actual, expected = tensors_of(actual), tensors_of(expected)
    assert expected
    assert len(actual) == len(expected)
    different = [i for i, want in enumerate(expected) if not torch.equal(actual[i], want)]
    assert not different


def assert_near(actual, expected, tolerance=EXACT, what=""):
    """Equal names, shapes and dtypes, and values up to `tolerance` of the largest expected one."""
    assert actual.keys() == expected.keys()
    assert expected
    for name, want in expected.items():
        scale = max(1.0, want.abs().max().item()) if want.numel() else 1.0
        torch.testing.assert_close(
            actual[name],
            want,
            rtol=0,
            atol=tolerance * scale,
            msg=lambda text, name=name: f"{what} {name}: {text}",
        )


def assert_pair_agrees(ours, theirs, input, hx=None, tolerance=EXACT):
    """Both modules give the same results and gradients."""
    assert_near(evaluate(ours, input, hx), evaluate(theirs, input, hx), tolerance, str(theirs))
