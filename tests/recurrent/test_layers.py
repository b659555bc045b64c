"""fastcells' layers and cells stand in the place of torch.nn's: construction, states, results.

Everything here is compared with torch.nn's module of the same arguments and parameters.
"""

import copy
import inspect
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastcells
from pairs import (
    CELLS,
    LAYERS,
    B,
    H,
    I,
    T,
    assert_pair_agrees,
    assert_same_bits,
    each_batch_first,
    each_cell,
    each_kind,
    each_layer,
    evaluate,
    float64,
    layer_cases,
    make_hx,
    make_pair,
    one_thread,  # noqa: F401 (an autouse fixture)
    quiet_projections,
    tensors_of,
)

pytestmark = quiet_projections

OPTIONS = {
    "plain": {},
    "no_bias": {"bias": False},
    "two_layers": {"num_layers": 2},
    "both_ways": {"bidirectional": True},
    "three_layers_both_ways": {"num_layers": 3, "bidirectional": True},
}
# (kind, options) of every layer that is compared below.
CASES = layer_cases(OPTIONS)
CASES += [
    pytest.param("LSTM", {**options, "proj_size": 2}, id=f"LSTM-{name}-projected")
    for name, options in OPTIONS.items()
]
CASES += [pytest.param("RNN", {"nonlinearity": "relu", "num_layers": 2}, id="RNN-relu")]
each_case = pytest.mark.parametrize(("kind", "options"), CASES)
CELL_CASES = [
    pytest.param(kind, {"bias": bias}, id=f"{kind}-{'bias' if bias else 'no_bias'}")
    for kind in CELLS
    for bias in (True, False)
]
CELL_CASES += [pytest.param("RNNCell", {"nonlinearity": "relu"}, id="RNNCell-relu")]
each_cell_case = pytest.mark.parametrize(("kind", "options"), CELL_CASES)
each_module_case = pytest.mark.parametrize(("kind", "options"), CASES + CELL_CASES)
each_hx = pytest.mark.parametrize("has_hx", [False, True], ids=["zeros", "hx"])


# ---- construction ----


@each_module_case
def test_the_same_seed_gives_the_initial_values_of_torch(kind, options):
    torch.manual_seed(3)
    theirs = getattr(nn, kind)(I, H, **options)
    their_next = torch.rand(1)
    torch.manual_seed(3)
    ours = getattr(fastcells, kind)(I, H, **options)
    assert torch.rand(1) == their_next
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert_same_bits(list(ours.parameters()), list(theirs.parameters()))


@each_module_case
def test_a_module_has_the_attributes_and_the_repr_of_torch(kind, options):
    ours, theirs = make_pair(kind, **options)
    assert repr(ours) == repr(theirs)
    public = [name for name in vars(theirs) if not name.startswith("_")]
    assert {name: getattr(ours, name) for name in public} == {
        name: getattr(theirs, name) for name in public
    }


@each_kind
def test_the_constructor_takes_the_positions_that_torch_documents(kind):
    """torch.nn's layers take *args and document their first overload."""
    overloads = {
        "RNN": "input_size hidden_size num_layers nonlinearity bias batch_first dropout "
        "bidirectional device dtype",
        "LSTM": "input_size hidden_size num_layers bias batch_first dropout bidirectional "
        "proj_size device dtype",
        "GRU": "input_size hidden_size num_layers bias batch_first dropout bidirectional device "
        "dtype",
    }
    their_names = list(inspect.signature(getattr(nn, kind).__init__).parameters)[1:]
    if kind in overloads:
        their_names = overloads[kind].split()
    parameters = list(inspect.signature(getattr(fastcells, kind)).parameters.values())
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == their_names
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[len(positional) :])


@each_kind
def test_a_layer_is_one_of_torch_s_base_class_and_a_cell_is_one_of_its_cells(kind):
    """torch.compile refuses the layers of torch.nn by their class, and not its cells."""
    module = getattr(fastcells, kind)(I, H)
    assert isinstance(module, nn.RNNCellBase if kind in CELLS else nn.RNNBase)
    assert isinstance(module, getattr(nn, kind)) == (kind in CELLS)


@each_case
def test_states_go_to_torch_and_back_strictly(kind, options):
    ours, theirs = make_pair(kind, **options)
    ours.reset_parameters()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_same_bits(list(ours.parameters()), list(theirs.parameters()))
    ours.reset_parameters()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_same_bits(list(ours.parameters()), list(theirs.parameters()))


@each_layer
def test_all_weights_are_the_parameters_in_the_order_of_torch(kind):
    ours, theirs = make_pair(kind, num_layers=2, bidirectional=True)
    found, expected = (
        [[names[id(p)] for p in weights] for weights in module.all_weights]
        for module in (ours, theirs)
        for names in [{id(p): name for name, p in module.named_parameters()}]
    )
    assert found == expected
    assert [len(weights) for weights in found] == [4] * 4


@each_layer
def test_flatten_parameters_does_nothing(kind):
    layer = getattr(fastcells, kind)(I, H, num_layers=2)
    before = [(p, p.data_ptr(), p.clone()) for p in layer.parameters()]
    assert layer.flatten_parameters() is None
    for parameter, (same, pointer, value) in zip(layer.parameters(), before, strict=True):
        assert parameter is same
        assert parameter.data_ptr() == pointer
        assert torch.equal(parameter, value)


@each_layer
def test_a_dropout_that_has_no_effect_is_told_as_by_torch(kind):
    texts = []
    for module in (nn, fastcells):
        with pytest.warns(UserWarning, match="^dropout option adds dropout") as caught:
            getattr(module, kind)(I, H, dropout=0.5)
        texts.append([str(warning.message) for warning in caught])
    assert texts[0] == texts[1]
    assert len(texts[1]) == 1


@each_kind
def test_a_module_built_on_meta_computes_once_it_has_memory(kind):
    theirs = getattr(nn, kind)(I, H, **float64)
    on_meta = getattr(fastcells, kind)(I, H, device="meta", **float64)
    shape = (B, I) if kind in CELLS else (T, B, I)
    shapes = [t.shape for t in tensors_of(theirs(torch.zeros(shape, **float64)))]
    found = tensors_of(on_meta(torch.empty(shape, device="meta", **float64)))
    assert [(t.shape, t.device.type, t.dtype) for t in found] == [
        (shape, "meta", torch.float64) for shape in shapes
    ]
    on_meta.to_empty(device="cpu")
    on_meta.load_state_dict(theirs.state_dict())
    assert_pair_agrees(on_meta, theirs, torch.randn(shape, **float64))


# ---- copies ----


def copy_by_torch(module, path):
    torch.save(module, path)
    return torch.load(path, weights_only=False)


COPIES = {
    "pickle": lambda module, path: pickle.loads(pickle.dumps(module)),
    "deepcopy": lambda module, path: copy.deepcopy(module),
    "torch_save": copy_by_torch,
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
@each_kind
def test_a_copy_is_complete_and_independent(kind, duplicate, tmp_path):
    """Also one made after the module has computed and has gradients."""
    extra = {"LSTM": {"unit_forget_bias": True}, "GRU": {"variant": "article"}}
    module = getattr(fastcells, kind)(I, H, **extra.get(kind, {}), **float64)
    input = torch.randn(*([T] if kind in LAYERS else []), B, I, **float64)
    sum(t.sum() for t in tensors_of(module(input))).backward()
    other = duplicate(module, tmp_path / "module.pt")
    assert repr(other) == repr(module)
    expected = [t.detach() for t in tensors_of(module(input))]
    assert_same_bits(other(input), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert all(not t.any() for t in tensors_of(other(input)))
    assert_same_bits(module(input), expected)


def test_a_copy_of_weights_that_are_not_leaves_is_refused_as_by_torch():
    for module in make_pair("LSTM"):
        weight = module.weight_hh_l0
        del module.weight_hh_l0
        module.weight_hh_l0 = 2 * weight
        with pytest.raises(RuntimeError, match="Only Tensors created explicitly by the user"):
            copy.deepcopy(module)


# ---- results and gradients ----


@each_hx
@each_batch_first
@each_case
def test_a_batch_gives_the_results_and_gradients_of_torch(kind, options, batch_first, has_hx):
    ours, theirs = make_pair(kind, batch_first=batch_first, **options, **float64)
    input = torch.randn(*((B, T) if batch_first else (T, B)), I, **float64)
    assert_pair_agrees(ours, theirs, input, make_hx(ours, B) if has_hx else None)


@each_hx
@each_batch_first
@each_case
def test_one_sequence_gives_the_results_and_gradients_of_torch(kind, options, batch_first, has_hx):
    ours, theirs = make_pair(kind, batch_first=batch_first, **options, **float64)
    input = torch.randn(T, I, **float64)
    assert_pair_agrees(ours, theirs, input, make_hx(ours) if has_hx else None)


LENGTHS = {
    "falling": ([5, 3, 3, 1], True),
    "unsorted": ([1, 5, 3, 3], False),
    "all_full": ([5, 5, 5, 5], True),
    "full_unsorted": ([5, 5, 5, 5], False),
    "one_step": ([1, 1, 1, 1], True),
}


@each_hx
@pytest.mark.parametrize(("lengths", "is_sorted"), LENGTHS.values(), ids=LENGTHS.keys())
@each_case
def test_a_packed_batch_gives_the_results_and_gradients_of_torch(
    kind, options, lengths, is_sorted, has_hx
):
    ours, theirs = make_pair(kind, **options, **float64)
    padded = torch.randn(T, B, I, **float64)
    packed = pack_padded_sequence(padded, torch.tensor(lengths), enforce_sorted=is_sorted)
    hx = make_hx(ours, B) if has_hx else None
    assert_pair_agrees(ours, theirs, packed, hx)
    output, expected = ours(packed, hx)[0], theirs(packed, hx)[0]
    assert type(output) is PackedSequence
    for a, b in zip(output[1:], expected[1:], strict=True):  # batch_sizes and both orders
        assert a is b


@each_layer
def test_a_packed_batch_is_laid_out_alike_with_and_without_batch_first(kind):
    """The input is packed; hx and the final states have the batch in the middle."""
    ours, theirs = make_pair(kind, batch_first=True, **float64)
    packed = pack_padded_sequence(torch.randn(T, B, I, **float64), torch.tensor([5, 4, 2, 1]))
    assert_pair_agrees(ours, theirs, packed, make_hx(ours, B))


@each_hx
@pytest.mark.parametrize("batch", [B, 1, None], ids=["batch", "batch_of_one", "unbatched"])
@each_cell_case
def test_a_cell_gives_the_results_and_gradients_of_torch(kind, options, batch, has_hx):
    ours, theirs = make_pair(kind, **options, **float64)
    input = torch.randn(*([] if batch is None else [batch]), I, **float64)
    assert_pair_agrees(ours, theirs, input, make_hx(ours, batch) if has_hx else None)


@each_kind
def test_every_result_has_the_layout_of_torch(kind):
    """A caller may rely on contiguous() being free, or on view()."""
    ours, theirs = make_pair(kind, **({} if kind in CELLS else {"batch_first": True}))
    input = torch.randn(*((B, I) if kind in CELLS else (B, T, I)))
    for a, b in zip(tensors_of(ours(input)), tensors_of(theirs(input)), strict=True):
        assert a.shape == b.shape
        assert a.stride() == b.stride()


@each_layer
@pytest.mark.parametrize("length", [1, 2, 70], ids=lambda length: f"T{length}")
def test_short_and_long_sequences_give_the_results_of_torch(kind, length):
    ours, theirs = make_pair(kind, num_layers=2, bidirectional=True, **float64)
    assert_pair_agrees(ours, theirs, torch.randn(length, 2, I, **float64), make_hx(ours, 2))


@each_layer
@each_batch_first
def test_a_batch_without_rows_goes_forward_and_backward(kind, batch_first):
    ours, theirs = make_pair(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    input = torch.randn(*((0, T) if batch_first else (T, 0)), I)
    for hx in (None, make_hx(ours, 0, torch.float32)):
        assert_pair_agrees(ours, theirs, input, hx)
        found = evaluate(ours, input, hx)
        assert all(not grad.any() for name, grad in found.items() if name.startswith("grad"))


@each_cell
def test_a_cell_s_batch_without_rows_goes_forward_and_backward(kind):
    ours, theirs = make_pair(kind)
    for hx in (None, make_hx(ours, 0, torch.float32)):
        assert_pair_agrees(ours, theirs, torch.randn(0, I), hx)


@pytest.mark.parametrize("sizes", [(I, 0), (0, H)], ids=["H0", "I0"])
@each_cell
def test_a_cell_of_size_zero_computes_as_that_of_torch(kind, sizes):
    """torch.nn refuses such layers, and takes such cells."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors is a no-op")
        ours, theirs = make_pair(kind, *sizes, **float64)
    assert_pair_agrees(ours, theirs, torch.randn(B, sizes[0], **float64), make_hx(ours, B))
