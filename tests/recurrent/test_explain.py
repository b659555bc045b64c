"""explain() says which implementation a call runs, and the call does run it."""

import re

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import pack_padded_sequence

import fastcells
from fastcells import _extension
from fastcells.functional import recurrent_calls as recurrent
from fastcells.functional import routing
from pairs import (
    CELLS,
    LAYERS,
    B,
    H,
    I,
    T,
    each_kind,
    float64,
    make_hx,
    make_input,
    one_thread,  # noqa: F401 (an autouse fixture)
)
from ways import through_python

SEQUENCE = "all steps in one team of threads, on packed weights"
#: Of the kernels of float32: the sets above it have none of their own.
INSTRUCTION_SET = re.sub(
    r"_(vnni|bf16)$", "", _extension._C.instruction_set().replace("amx", "avx512")
)
STEP = "a step at a time, the weights read where they lie"
ROWWISE = "all steps in one team of threads, a row's gates together, on packed weights"
STEPWISE = (
    "input product for all steps at once, then a matrix product and a fused step kernel per step"
)
packed_bytes = _extension._C.packed_bytes
PACKED = "the PackedSequence is padded first; lengths= saves both copies"
FORWARD_MODE = (
    "forward-mode derivatives (jvp), and any torch.func transform inside a compiled graph, run on "
    "the reference"
)


@pytest.fixture
def ran(monkeypatch):
    """What implementations ran, and with which dtype of the weights. Of the engines on a CPU the
    sequence engine and that of whole rows pack weights, which then takes bytes; what tells the
    others apart is in test_the_engine_that_is_named_runs."""
    calls = []

    def watch(owner, name, is_kernel, weight_of):
        original = getattr(owner, name)

        def watching(*args, **kwargs):
            before = packed_bytes()
            result = original(*args, **kwargs)
            if result is not None:  # these may leave it to the op
                packs = packed_bytes() > before
                kind = ("cpu packed" if packs else "cpu") if is_kernel else "reference"
                calls.append((kind, weight_of(args).dtype))
            return result

        monkeypatch.setattr(owner, name, watching)

    watch(recurrent.ops, "recurrent_forward", True, lambda args: args[5][0])
    watch(recurrent.ops, "recurrent_step", True, lambda args: args[4][0])
    watch(recurrent.ops, "step_at_once", True, lambda args: args[4]["weight_ih"])
    watch(recurrent.ops, "stack_at_once", True, lambda args: args[0].parameters["weight_ih_l0"])
    watch(recurrent.ops, "packed_stack_at_once", True,
          lambda args: args[0].parameters["weight_ih_l0"])  # fmt: skip
    watch(recurrent.reference, "recurrent", False, lambda args: args[5][0])
    watch(recurrent.reference, "recurrent_step", False, lambda args: args[4][0])
    return calls


def assert_explained(ran, module, *args, **kwargs):
    """The explanation holds: its kernel and dtype are what the call then uses."""
    explanation = fastcells.explain(module, *args, **kwargs)
    assert not ran  # nothing is computed
    module(*args, **kwargs)
    seen = {"cpu sequence": "cpu packed", "cpu rowwise": "cpu packed"}
    seen |= {"cpu step": "cpu", "cpu stepwise": "cpu"}
    kind = seen.get(explanation.kernel, explanation.kernel)
    assert set(ran) == {(kind, explanation.dtype)}
    planned = ("cpu sequence", "cpu step", "cpu rowwise")
    assert bool(explanation.plan) == (explanation.kernel in planned)
    return explanation


@pytest.mark.parametrize("has_grad", [False, True], ids=["no_grad", "grad"])
@each_kind
def test_an_eager_call_runs_the_kernels(kind, has_grad, monkeypatch):
    module = getattr(fastcells, kind)(I, H)
    input = make_input(kind, torch.float32)
    cell = {"RNN": "rnn_tanh"}.get(kind.removesuffix("Cell"), kind.removesuffix("Cell").lower())
    rows = B if kind in CELLS else T * B
    gradients = f"; weight gradients over {rows}" if has_grad else ""

    def refuse(*args):
        raise AssertionError("the reference ran")

    monkeypatch.setattr(recurrent.reference, "recurrent", refuse)
    monkeypatch.setattr(recurrent.reference, "recurrent_step", refuse)
    with torch.set_grad_enabled(has_grad):
        explanation = fastcells.explain(module, input, make_hx(module, B, torch.float32))
        module(input)
    engine, note = ("step", STEP) if kind in CELLS else ("sequence", SEQUENCE)
    assert str(explanation) == (
        f"{cell}, torch.float32: cpu {engine}\n  why: compiled kernels\n"
        f"  plan: {INSTRUCTION_SET}, one thread; "
        f"input product over {rows} rows at once{gradients}\n  {note}"
    )
    assert explanation.notes == (note,)


@each_kind
def test_a_call_without_gradients_runs_what_is_explained(kind, ran):
    module = getattr(fastcells, kind)(I, H)
    with torch.no_grad():
        assert_explained(ran, module, make_input(kind, torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_computed_in_float32(dtype, ran):
    layer = fastcells.GRU(I, H, variant="article", dtype=dtype)
    explanation = assert_explained(ran, layer, make_input("GRU", dtype))
    assert explanation.cell == "gru_article"
    assert explanation.notes == (SEQUENCE, "arithmetic and cell state in float32")


def test_a_packed_input_is_told_to_be_padded(ran):
    layer = fastcells.LSTM(I, H)
    packed = pack_padded_sequence(make_input("LSTM", torch.float32), torch.tensor([5, 4, 2, 1]))
    assert assert_explained(ran, layer, packed).notes == (SEQUENCE, PACKED)


@pytest.mark.parametrize(
    ("kind", "is_packed"),
    [*((kind, False) for kind in LAYERS + CELLS), *((kind, True) for kind in LAYERS)],
)
@pytest.mark.parametrize(
    "hx_dtype", [None, torch.float32, torch.bfloat16], ids=["hx_0", "hx_f32", "hx_bf16"]
)
def test_the_dtype_under_autocast_is_the_one_that_is_used(kind, is_packed, hx_dtype, ran):
    """Which on a CPU is autocast's for some layers, and the state's for others, as in torch."""
    module = getattr(fastcells, kind)(I, H)
    input = make_input(kind, torch.float32)
    hx = None if hx_dtype is None else make_hx(module, B, hx_dtype)
    if is_packed:
        input = pack_padded_sequence(input, torch.tensor([5, 4, 2, 1]))
    with torch.autocast("cpu", torch.bfloat16):
        assert_explained(ran, module, input, hx)


@each_kind
def test_forward_mode_runs_the_reference(kind, ran):
    module = getattr(fastcells, kind)(I, H, **float64)
    input = make_input(kind)
    kernel = "cpu step" if kind in CELLS else "cpu sequence"
    assert fastcells.explain(module, input).kernel == kernel
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(input, torch.ones_like(input))
        explanation = assert_explained(ran, module, dual)
    assert explanation.reason == FORWARD_MODE
    assert explanation.notes == ("plain torch operations, step by step",)


def test_a_tangent_of_the_state_counts_too(ran):
    layer = fastcells.LSTM(I, H, **float64)
    h_0, c_0 = make_hx(layer, B)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(c_0, torch.ones_like(c_0))
        assert assert_explained(ran, layer, make_input("LSTM"), (h_0, dual)).kernel == "reference"


def test_without_the_extension_the_reference_runs(ran, monkeypatch):
    monkeypatch.setattr(routing, "is_compiled", lambda: False)
    monkeypatch.setattr(routing, "why_not_compiled", lambda: "no compiler was there")
    through_python(monkeypatch)
    explanation = assert_explained(ran, fastcells.GRU(I, H), make_input("GRU", torch.float32))
    assert str(explanation) == (
        "gru, torch.float32: reference\n  why: no compiler was there\n"
        "  plain torch operations, step by step"
    )


def test_a_device_without_kernels_is_named(monkeypatch):
    monkeypatch.setattr(recurrent.ops, "has_kernels", lambda device: False)
    explanation = fastcells.explain(fastcells.RNN(I, H), make_input("RNN", torch.float32))
    assert explanation.kernel == "reference"
    assert explanation.reason == "this build of fastcells has no kernels for cpu"


def test_lengths_and_resets_are_taken(ran):
    layer = fastcells.GRU(I, H)
    masks = {"lengths": torch.tensor([5, 0, 2, 3]), "resets": torch.rand(T, B) < 0.5}
    assert_explained(ran, layer, make_input("GRU", torch.float32), **masks)


# ---- the engines of a CPU ----


def operations_of(module, *args, **kwargs):
    """Names of the operators that a call runs, those inside the compiled ones too."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        module(*args, **kwargs)
    return {event.name for event in profile.events()}


@pytest.mark.parametrize(
    ("kind", "rows", "options", "kernel", "why_not"),
    [
        ("LSTM", 4, {}, "cpu sequence", None),
        ("GRUCell", 3, {}, "cpu step", None),
        ("GRUCell", 2, {}, "cpu step", None),
        ("LSTMCell", 1, {}, "cpu step", None),
        ("RNNCell", 2, {"dtype": torch.bfloat16}, "cpu step", None),
        ("LSTM", 4, {"proj_size": 2}, "cpu rowwise", None),
        ("GRU", 4, {"variant": "reset_before"}, "cpu rowwise", None),
        ("GRUCell", 4, {"variant": "reset_before"}, "cpu rowwise", None),
        ("GRUCell", 1, {"dtype": torch.float16}, "cpu step", None),
        ("LSTM", 0, {}, "cpu stepwise", "there is nothing to compute"),
    ],
)  # fmt: skip
def test_the_engine_that_is_named_runs(kind, rows, options, kernel, why_not, ran):
    """The stepwise engine alone has matrix products of torch's."""
    module = getattr(fastcells, kind)(I, H, **options)
    shape = (rows, I) if kind in CELLS else (T, rows, I)
    input = torch.randn(shape, dtype=options.get("dtype", torch.float32))
    with torch.no_grad():
        explanation = assert_explained(ran, module, input)
        operations = operations_of(module, input)
    assert explanation.kernel == kernel
    notes = {"cpu sequence": SEQUENCE, "cpu step": STEP, "cpu stepwise": STEPWISE}
    assert explanation.notes[0] == notes.get(kernel, ROWWISE)
    told = [note for note in explanation.notes if note.startswith("not the sequence engine")]
    assert told == ([f"not the sequence engine: {why_not}"] if why_not else [])
    assert ("aten::mm" in operations) == (kernel == "cpu stepwise")


@pytest.mark.parametrize("rows", [1, 7])
def test_a_step_with_a_way_back_is_a_step(rows, ran):
    cell = fastcells.LSTMCell(I, H)
    assert assert_explained(ran, cell, torch.randn(rows, I)).kernel == "cpu step"


@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (1, 40), (2, 1), (4, 2), (5, 1), (4, 3)])
def test_few_steps_read_the_weights_where_they_lie(steps, rows, ran):
    layer = fastcells.GRU(I, H)
    is_few = steps == 1 or (steps <= 4 and rows <= 2)
    with torch.no_grad():
        explanation = assert_explained(ran, layer, torch.randn(steps, rows, I))
    assert explanation.kernel == ("cpu step" if is_few else "cpu sequence")


@pytest.mark.parametrize(("steps", "rows"), [(5, 600), (600, 5), (600, 1)])
@pytest.mark.parametrize("form", ["TBI", "BTI", "TI", "packed"])
def test_the_plan_is_that_of_the_calls_sizes(form, steps, rows, ran):
    """How the rows of products are taken together tells T from B."""
    rows = 1 if form == "TI" else rows
    layer = fastcells.LSTM(I, H, 2, bidirectional=True, batch_first=form == "BTI")
    shapes = {"TBI": (steps, rows, I), "BTI": (rows, steps, I), "TI": (steps, I)}
    input = torch.randn(shapes.get(form, (steps, rows, I)))
    if form == "packed":
        input = pack_padded_sequence(input, torch.full((rows,), steps))
    torch.set_num_threads(2)  # which `one_thread` undoes
    engine, plan, why_not = _extension._C.explain_cpu(
        "lstm", 2, (steps, rows, I, H), torch.float32, False, True, False
    )
    assert (engine, why_not) == ("sequence", "")
    assert fastcells.explain(layer, input).plan == plan
    with torch.no_grad():
        assert assert_explained(ran, layer, input).plan == plan.rpartition(";")[0]


def test_the_plan_tells_how_many_threads_take_part(ran):
    torch.set_num_threads(2)
    layer, cell = fastcells.LSTM(I, 300), fastcells.GRUCell(I, 600)
    with torch.no_grad():
        plan = assert_explained(ran, layer, torch.randn(50, 1, I)).plan
        assert plan.startswith(f"{INSTRUCTION_SET}, 2 threads: ")
        assert fastcells.explain(cell, torch.randn(1, I)).plan == f"{INSTRUCTION_SET}, 2 threads"
        assert fastcells.explain(cell, torch.randn(3, I)).plan.startswith(f"{INSTRUCTION_SET}, ")


@pytest.mark.parametrize(
    "module", [nn.LSTM(I, H), nn.GRUCell(I, H), nn.Linear(I, H), None], ids=lambda m: repr(m)[:7]
)
def test_another_module_is_refused(module):
    with pytest.raises(TypeError) as refused:
        fastcells.explain(module, make_input("LSTM", torch.float32))
    assert str(refused.value) == (
        f"explain: layer must be a layer or cell of fastcells, got {type(module).__name__}"
    )
