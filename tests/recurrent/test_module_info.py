"""torch's own sample inputs and error inputs for its recurrent modules, run on fastcells'.

The samples are those of torch.testing._internal.common_modules, and what is done with them is what
torch's test_modules.py does on a CPU. Not here: memory formats and in-place modules, which these
modules have not, and transfers to other devices.
"""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal import common_modules as cm

import fastcells
from pairs import (
    assert_near,
    evaluate,
    one_thread,  # noqa: F401 (an autouse fixture)
    quiet_projections,
    tensors_of,
    with_leaves,
)

pytestmark = quiet_projections

RNN_INPUTS = partial(cm.module_inputs_torch_nn_RNN_GRU, with_packed_sequence=True)


def lstm_inputs(*args, **kwargs):
    """torch's samples, and the packed ones of GRU, which torch does not give to LSTM."""
    packed = [
        sample
        for sample in RNN_INPUTS(*args, is_rnn=False, **kwargs)
        if isinstance(sample.forward_input.args[0], PackedSequence)
    ]
    return cm.module_inputs_torch_nn_LSTM(*args, **kwargs) + packed


CELL_INPUTS, CELL_ERRORS = (
    cm.module_inputs_torch_nn_RNN_GRU_Cell,
    cm.module_error_inputs_torch_nn_RNN_GRU_Cell,
)
LAYER_ERRORS = cm.module_error_inputs_torch_nn_RNN_GRU
# name: samples, how many, error inputs, how many. RNN has 2 nonlinearities, and all layers bias or
# not, batch_first or not, one direction or two; LSTM projection or not; 4 calls each (LSTM 2 + 2).
TABLE = {
    "RNN": (partial(RNN_INPUTS, is_rnn=True), 16 * 4, LAYER_ERRORS, 14),
    "LSTM": (lstm_inputs, 16 * 2 + 8 * 2, LAYER_ERRORS, 14),
    "GRU": (partial(RNN_INPUTS, is_rnn=False), 8 * 4, LAYER_ERRORS, 14),
    "RNNCell": (partial(CELL_INPUTS, is_rnn=True), 3, CELL_ERRORS, 6),
    "LSTMCell": (
        cm.module_inputs_torch_nn_LSTMCell,
        2,
        cm.module_error_inputs_torch_nn_LSTMCell,
        4,
    ),
    "GRUCell": (CELL_INPUTS, 2, CELL_ERRORS, 6),
}


def make_info(name):
    module_cls = getattr(fastcells, name)
    inputs, _, errors, _ = TABLE[name]
    cm.MODULE_CLASS_NAMES[module_cls] = f"fastcells.{name}"
    return cm.ModuleInfo(module_cls, module_inputs_func=inputs, module_error_inputs_func=errors)


INFOS = [make_info(name) for name in TABLE]
each_module = pytest.mark.parametrize("info", INFOS, ids=[info.name for info in INFOS])
each_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
# 80 units in the last place: some twenty roundings in each of five steps and two layers.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def samples_of(info, dtype=torch.float64, training=True, requires_grad=False):
    samples = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=training
    )
    assert len(samples) == TABLE[info.module_cls.__name__][1]
    return samples


def build(info, sample, dtype=torch.float64, training=True):
    constructor = sample.constructor_input
    module = info.module_cls(*constructor.args, **constructor.kwargs)
    return module.to(dtype).train(training)


def build_theirs(ours, sample):
    """torch.nn's module with the same parameters."""
    constructor = sample.constructor_input
    theirs = getattr(nn, type(ours).__name__)(*constructor.args, **constructor.kwargs)
    theirs.to(ours.weight_hh.dtype if hasattr(ours, "weight_hh") else ours.weight_hh_l0.dtype)
    theirs.load_state_dict(ours.state_dict())
    return theirs.train(ours.training)


def run(module, sample):
    """Results of the sample's call."""
    return tensors_of(module(*sample.forward_input.args, **sample.forward_input.kwargs))


def assert_same_results(module, other, sample):
    with torch.no_grad():
        first, second = run(module, sample), run(other, sample)
    assert first
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_torch_itself_describes_the_six_modules_by_these_functions():
    """The table above cannot fall behind torch's own list."""
    theirs = {info.module_cls: info for info in cm.module_db}
    for name, (inputs, _, errors, _) in TABLE.items():
        info = theirs[getattr(nn, name)]
        their_inputs = getattr(info.module_inputs_func, "func", info.module_inputs_func)
        if name == "LSTM":
            assert their_inputs is cm.module_inputs_torch_nn_LSTM
        else:
            assert their_inputs is getattr(inputs, "func", inputs)
        assert getattr(info.module_error_inputs_func, "func", info.module_error_inputs_func) is (
            errors
        )


@each_mode
@each_dtype
@each_module
def test_results_and_gradients_are_those_of_torch(info, dtype, training):
    for sample in samples_of(info, dtype, training):
        ours = build(info, sample, dtype, training)
        theirs = build_theirs(ours, sample)
        args = sample.forward_input.args
        assert_near(evaluate(ours, *args), evaluate(theirs, *args), TOLERANCE[dtype], str(theirs))


@each_dtype
@each_module
def test_an_unbatched_call_is_a_batch_of_one(info, dtype):
    """torch's reference_fn, which knows no packed input."""
    compared = 0
    for sample in samples_of(info, dtype):
        args = sample.forward_input.args
        if isinstance(args[0], PackedSequence):
            continue
        ours = build(info, sample, dtype)
        with torch.no_grad():
            expected = sample.reference_fn(ours, *args)
            actual = ours(*args)
        torch.testing.assert_close(actual, expected)
        compared += 1
    assert compared >= 2


@each_module
def test_a_pickled_and_a_copied_module_gives_the_same_results(info):
    for sample in samples_of(info):
        module = build(info, sample)
        for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
            assert type(other) is type(module)
            assert repr(other) == repr(module)
            assert_same_results(other, module, sample)
            originals = {p.data_ptr() for p in module.parameters()}
            assert originals.isdisjoint(p.data_ptr() for p in other.parameters())


@each_module
def test_a_saved_module_and_a_saved_state_give_the_same_results(info, tmp_path):
    for sample in samples_of(info):
        module = build(info, sample)
        torch.save(module, tmp_path / "module.pt")
        assert_same_results(torch.load(tmp_path / "module.pt", weights_only=False), module, sample)
        torch.save(module.state_dict(), tmp_path / "state.pt")
        other = build(info, sample)
        other.load_state_dict(torch.load(tmp_path / "state.pt"))
        assert_same_results(other, module, sample)


@each_module
def test_states_go_from_torch_and_back(info):
    for sample in samples_of(info):
        ours = build(info, sample)
        theirs = build_theirs(ours, sample)  # loads the state of ours, strictly
        assert list(theirs.state_dict()) == list(ours.state_dict())
        other = build(info, sample)
        other.load_state_dict(theirs.state_dict())
        assert_same_results(other, ours, sample)


@each_module
def test_a_module_prints_as_that_of_torch(info):
    for sample in samples_of(info):
        ours = build(info, sample)
        assert repr(ours) == repr(build_theirs(ours, sample))


@each_dtype
@each_module
def test_device_and_dtype_reach_every_parameter(info, dtype):
    """As arguments, and device also from the context."""
    for sample in samples_of(info, dtype):
        constructor = sample.constructor_input
        made = partial(info.module_cls, *constructor.args, **constructor.kwargs)
        with torch.device("meta"):
            in_context = made(dtype=dtype)
        for module, device in (
            (made(device="cpu", dtype=dtype), "cpu"),
            (made(device="meta", dtype=dtype), "meta"),
            (in_context, "meta"),
        ):
            found = {(p.device.type, p.dtype) for p in module.parameters()}
            assert found == {(device, dtype)}


@pytest.fixture(params=[False, True], ids=["in_place", "swapping"])
def swap(request):
    """Whether module.to() puts new parameters in the place of the old ones."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(request.param)
    yield request.param
    torch.__future__.set_swap_module_params_on_conversion(before)


@each_module
def test_a_converted_module_computes_in_its_new_dtype(info, swap):
    changed = []
    for sample in samples_of(info, torch.float64):
        module = build(info, sample, torch.float64)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 1e-9  # no longer a float32
            identities = [id(p) for p in module.parameters()]
            before = run(module, sample)
            module.to(torch.float32).to(torch.float64)
            after = run(module, sample)
        assert [id(p) for p in module.parameters()] == identities
        assert {t.dtype for t in after} == {torch.float64}
        differences = [(a - b).abs().max().item() for a, b in zip(after, before, strict=True)]
        scale = max(t.abs().max().item() for t in before)
        assert max(differences) < 1e-5 * max(scale, 1)
        changed.append(max(differences) > 0)
    # The rounded parameters are in use; not where every unit of a relu network is at rest.
    assert sum(changed) > len(changed) / 2


@each_module
def test_to_empty_makes_memory_for_a_module_on_meta(info, swap):
    for sample in samples_of(info):
        module = build(info, sample)
        on_meta = copy.deepcopy(module).to("meta")
        on_meta.to_empty(device="cpu")
        assert {p.device.type for p in on_meta.parameters()} == {"cpu"}
        with torch.no_grad():  # load_state_dict() cannot swap what torch's RNNBase refers to
            for empty, parameter in zip(on_meta.parameters(), module.parameters(), strict=True):
                empty.copy_(parameter)
        assert_same_results(on_meta, module, sample)


def non_contiguous(value):
    """The same values, no two neighbours in memory."""
    if isinstance(value, PackedSequence):
        return PackedSequence(non_contiguous(value.data), *value[1:])
    if isinstance(value, tuple):
        return tuple(non_contiguous(item) for item in value)
    wide = torch.full((*value.shape, 2), torch.nan, dtype=value.dtype)
    wide[..., 0] = value.detach()
    strided = wide[..., 0].requires_grad_(value.requires_grad)
    assert value.numel() == 0 or not strided.is_contiguous()
    return strided


@each_module
def test_non_contiguous_arguments_and_parameters_change_nothing(info):
    """Results and gradients; the gradients that come in are not contiguous either."""
    for sample in samples_of(info):
        module = build(info, sample)
        args = sample.forward_input.args
        strided = copy.deepcopy(module)
        for name, parameter in module.named_parameters():
            setattr(strided, name, nn.Parameter(non_contiguous(parameter)))
        for one, call in ((module, args), (strided, tuple(map(non_contiguous, args)))):
            call = tuple(map(with_leaves, call))
            results = tensors_of(one(*call))
            leaves = [*tensors_of(call), *one.parameters()]
            torch.manual_seed(0)
            cotangents = [torch.randn_like(r) for r in results]
            if one is module:
                expected = results, torch.autograd.grad(results, leaves, cotangents)
            else:
                cotangents = list(map(non_contiguous, cotangents))
                actual = results, torch.autograd.grad(results, leaves, cotangents)
        torch.testing.assert_close(actual, expected)


def gradient_problem(info, sample):
    """A function of the tensors of the sample's call and of the parameters, and these tensors."""
    module = build(info, sample)
    names = [name for name, _ in module.named_parameters()]
    parameters = [p.detach().requires_grad_() for p in module.parameters()]
    args = sample.forward_input.args

    def function(*flat):
        flat, given = list(flat), []
        for arg in args:
            if isinstance(arg, tuple) and not isinstance(arg, PackedSequence):
                given.append(tuple(flat.pop(0) for _ in arg))
            elif isinstance(arg, PackedSequence):
                given.append(PackedSequence(flat.pop(0), *arg[1:]))
            else:
                given.append(flat.pop(0))
        state = dict(zip(names, flat, strict=True))
        return tuple(tensors_of(torch.func.functional_call(module, state, tuple(given))))

    return function, [*tensors_of(with_leaves(args)), *parameters]


@pytest.mark.sampled(5)
@each_module
def test_gradients_are_the_slopes_of_the_results(info):
    for sample in samples_of(info):
        function, variables = gradient_problem(info, sample)
        assert torch.autograd.gradcheck(function, variables, fast_mode=True)


@pytest.mark.sampled(5)
@each_module
def test_second_derivatives_are_the_slopes_of_the_gradients(info):
    """torch's gradgradcheck on one projection of all gradients: it would run backward for each."""
    for sample in samples_of(info):
        function, variables = gradient_problem(info, sample)
        cotangents = tuple(torch.randn_like(r, requires_grad=True) for r in function(*variables))
        directions = [torch.randn_like(v) for v in variables]

        def slope(*flat, function=function, directions=directions):
            given, incoming = flat[: len(directions)], flat[len(directions) :]
            grads = torch.autograd.grad(function(*given), given, incoming, create_graph=True)
            return sum((g * d).sum() for g, d in zip(grads, directions, strict=True))

        assert torch.autograd.gradcheck(slope, (*variables, *cotangents), fast_mode=True)


@each_mode
@each_dtype
@each_module
def test_what_torch_refuses_is_refused_in_the_same_words(info, dtype, training):
    errors = info.module_error_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=False, training=training
    )
    assert len(errors) == TABLE[info.module_cls.__name__][3]
    for error in errors:
        sample = error.module_error_input

        def construct(sample=sample):
            constructor = sample.constructor_input
            return info.module_cls(*constructor.args, **constructor.kwargs).train(training)

        if error.error_on == cm.ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex) as refused:
                construct()
        else:
            module = construct().to(dtype)
            with pytest.raises(error.error_type, match=error.error_regex) as refused:
                module(*sample.forward_input.args)
        assert refused.type is error.error_type
