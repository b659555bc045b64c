"""Under autocast a layer returns torch's dtypes, and values near those of float32."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import fastcells
from pairs import (
    B,
    H,
    I,
    T,
    assert_near,
    each_cell,
    each_kind,
    each_layer,
    evaluate,
    make_hx,
    make_input,
    make_pair,
    one_thread,  # noqa: F401 (an autouse fixture)
    quiet_projections,
    tensors_of,
)

pytestmark = quiet_projections
low, high = torch.bfloat16, torch.float32
each_input = pytest.mark.parametrize("input_dtype", [high, low], ids=["x_f32", "x_bf16"])
each_hx = pytest.mark.parametrize("hx_dtype", [None, high, low], ids=["hx_0", "hx_f32", "hx_bf16"])
each_packing = pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])
CASES = {
    "RNN": ("RNN", {}),
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {}),
    "RNN-2_layers": ("RNN", {"num_layers": 2, "nonlinearity": "relu"}),
    "LSTM-2_layers": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "GRU-2_layers": ("GRU", {"num_layers": 2, "bidirectional": True}),
    "LSTM-projected": ("LSTM", {"proj_size": 2}),
    "LSTM-projected-2_layers": ("LSTM", {"proj_size": 2, "num_layers": 2}),
    "LSTM-no_bias": ("LSTM", {"bias": False}),
    "GRU-no_bias": ("GRU", {"bias": False}),
}
each_case = pytest.mark.parametrize(("kind", "options"), CASES.values(), ids=CASES.keys())
# A product of up to 2H + H = 18 terms below 1, two factors rounded to 8 bits (2^-9 each), adds
# 18 * 2^-8 = 0.07 at most to what enters a gate, whose slope is at most 1; the mean is far below.
NEAR_FLOAT32 = 0.07


def autocast(dtype=low, enabled=True):
    return torch.autocast("cpu", dtype, enabled=enabled)


def hx_of(module, dtype):
    return None if dtype is None else make_hx(module, B, dtype)


def pack(input):
    return pack_padded_sequence(input, torch.tensor([2, 5, 1, 5]), enforce_sorted=False)


def skip_without_onednn(kind, options, is_packed):
    """Only where oneDNN runs an LSTM in bfloat16 has torch one dtype to compare with."""
    uses_onednn = kind == "LSTM" and not options.get("proj_size") and not is_packed
    if uses_onednn and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor runs torch's LSTM in bfloat16 by another path")


def assert_dtypes_of_torch_and_values_of_float32(ours, theirs, input, hx):
    with autocast():
        found, expected = evaluate(ours, input, hx), evaluate(theirs, input, hx)
    assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in expected.items()}

    def widened(value):
        return evaluate_in(high, value)

    exact = evaluate(ours, widened(input), widened(hx))
    assert_near({n: t.float() for n, t in found.items()}, exact, NEAR_FLOAT32)


def evaluate_in(dtype, value):
    """The nested argument in another dtype."""
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(evaluate_in(dtype, item) for item in value)
    return None if value is None else value.to(dtype)


@each_packing
@each_hx
@each_input
@each_case
def test_a_layer_returns_the_dtypes_of_torch(kind, options, input_dtype, hx_dtype, is_packed):
    """Also of the gradients."""
    skip_without_onednn(kind, options, is_packed)
    ours, theirs = make_pair(kind, **options)
    input = make_input(kind, input_dtype)
    hx = hx_of(ours, hx_dtype)
    assert_dtypes_of_torch_and_values_of_float32(
        ours, theirs, pack(input) if is_packed else input, hx
    )


@each_hx
@each_input
@each_cell
def test_a_cell_returns_the_dtypes_of_torch(kind, input_dtype, hx_dtype):
    ours, theirs = make_pair(kind)
    input, hx = make_input(kind, input_dtype), hx_of(ours, hx_dtype)
    assert_dtypes_of_torch_and_values_of_float32(ours, theirs, input, hx)


@each_packing
@each_hx
@each_input
@each_layer
def test_parameters_of_bfloat16_need_no_other_input(kind, input_dtype, hx_dtype, is_packed):
    skip_without_onednn(kind, {}, is_packed)
    ours, theirs = (module.to(low) for module in make_pair(kind))
    input, hx = make_input(kind, input_dtype), hx_of(ours, hx_dtype)
    input = pack(input) if is_packed else input
    with autocast():
        found, expected = tensors_of(ours(input, hx)), tensors_of(theirs(input, hx))
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    wide = ours.to(high)
    exact = tensors_of(wide(evaluate_in(high, input), evaluate_in(high, hx)))
    assert_near({i: t.float() for i, t in enumerate(found)}, dict(enumerate(exact)), NEAR_FLOAT32)


@each_kind
def test_autocast_that_is_off_changes_nothing(kind):
    ours = getattr(fastcells, kind)(I, H)
    input, hx = make_input(kind, high), make_hx(ours, B, high)
    expected = evaluate(ours, input, hx)
    with autocast(), autocast(enabled=False):
        found = evaluate(ours, input, hx)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@each_packing
@each_layer
def test_float64_is_never_cast(kind, is_packed):
    ours, theirs = make_pair(kind, num_layers=2, dtype=torch.float64)
    input, hx = make_input(kind), make_hx(ours, B)
    input = pack(input) if is_packed else input
    expected = evaluate(theirs, input, hx)
    with autocast():
        assert_near(evaluate(ours, input, hx), expected)


@each_cell
def test_a_cell_s_float64_is_never_cast(kind):
    ours, theirs = make_pair(kind, dtype=torch.float64)
    input, hx = make_input(kind), make_hx(ours, B)
    expected = evaluate(theirs, input, hx)
    with autocast():
        assert_near(evaluate(ours, input, hx), expected)


@pytest.mark.parametrize("input_dtype", [low, torch.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("cast_to", [low, torch.float16], ids=["to_bf16", "to_f16"])
@each_layer
def test_a_packed_input_of_either_16_bit_dtype_is_taken(kind, cast_to, input_dtype):
    """As torch does, also where it is not autocast's own."""
    ours, theirs = make_pair(kind)
    packed = pack(make_input(kind, input_dtype))
    with autocast(cast_to):
        found, expected = tensors_of(ours(packed)), tensors_of(theirs(packed))
    assert_near(
        {i: t.float() for i, t in enumerate(found)},
        {i: t.float() for i, t in enumerate(expected)},
        NEAR_FLOAT32,
    )


@each_kind
def test_float64_beside_float32_is_refused_as_by_torch(kind):
    """Autocast leaves float64 alone, so that the dtypes do not fit together."""
    ours, theirs = make_pair(kind)
    calls = {
        "Input and parameter tensors are not the same dtype, found input tensor with torch.float64 "
        "and parameter tensor with torch.float32: autocast leaves torch.float64 as it is. Convert "
        "one of them with .to(...)": (make_input(kind), None),
        "Input and hidden tensors are not the same dtype, found input tensor with torch.float32 "
        "and hidden tensor with torch.float64": (make_input(kind, high), make_hx(ours, B)),
    }
    for text, given in calls.items():
        with autocast():
            with pytest.raises(RuntimeError):
                theirs(*given)
            with pytest.raises(RuntimeError) as refused:
                ours(*given)
        assert refused.type is RuntimeError
        assert str(refused.value) == text


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
@each_kind
def test_autocast_does_not_make_a_number_of_everything(kind, dtype):
    module = getattr(fastcells, kind)(I, H)
    input = make_input(kind, high)
    with autocast():
        with pytest.raises(ValueError, match="does not match weight dtype"):
            module(input.to(dtype))
        hx = make_hx(module, B, high)
        wrong = tuple(h.to(dtype) for h in hx) if isinstance(hx, tuple) else hx.to(dtype)
        with pytest.raises(RuntimeError, match="not the same dtype"):
            module(input, wrong)


# ---- what torch has not ----


@pytest.mark.parametrize("masks", ["lengths", "resets"])
@each_layer
def test_lengths_and_resets_work_under_autocast(kind, masks):
    layer = getattr(fastcells, kind)(I, H, bidirectional=True)
    input = make_input(kind, high)
    given = {"lengths": torch.tensor([5, 0, 3, 1])}
    if masks == "resets":
        given = {"resets": torch.rand(T, B) < 0.4}
    exact = evaluate(layer, input, **given)
    with autocast():
        found = evaluate(layer, input, **given)
    assert_near({n: t.float() for n, t in found.items()}, exact, NEAR_FLOAT32)


def test_all_cell_states_have_the_dtype_of_the_last():
    layer = fastcells.LSTM(I, H)
    with autocast():
        _, (_, c_n), cells = layer(make_input("LSTM", high), return_cell_states=True)
    assert cells.dtype == c_n.dtype == low
    assert torch.equal(cells[-1], c_n[0])


def test_the_cell_state_is_carried_in_float32():
    """A bfloat16 cell state that holds 256 stays there whatever is added; float32 counts on."""
    layer = fastcells.LSTM(1, 1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.bias_ih_l0.copy_(torch.tensor([50.0, 50.0, 50.0, 50.0]))  # c' = c + 1
    start = (torch.zeros(1, 1, 1), torch.full((1, 1, 1), 256.0))
    with autocast(), torch.no_grad():
        _, (_, c_n) = layer(torch.zeros(100, 1, 1), start)
    assert c_n.dtype == low
    assert c_n.item() == 356.0


@each_kind
def test_a_layer_between_others_learns_under_autocast(kind):
    """The gradients that come in are bfloat16; those of float32 parameters are float32."""
    module = getattr(fastcells, kind)(I, H)
    before, after = torch.nn.Linear(I, I), torch.nn.Linear(H, 1)
    input = make_input(kind, high)
    with autocast():
        result = tensors_of(module(before(input), make_hx(module, B, high)))[0]
        loss = after(result).float().pow(2).sum()
    loss.backward()
    for one in (module, before, after):
        for name, parameter in one.named_parameters():
            assert parameter.grad.dtype == high, name
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize("hx_dtype", [None, high, low], ids=["hx_0", "hx_f32", "hx_bf16"])
@pytest.mark.parametrize("options", [{}, {"proj_size": 2}], ids=["plain", "proj"])
@each_layer
def test_a_packed_input_of_rows_of_one_length_is_a_padded_one(kind, options, hx_dtype):
    options = options if kind == "LSTM" else {}
    skip_without_onednn(kind, options, False)
    ours, theirs = make_pair(kind, I, H, **options)
    input = pack_padded_sequence(torch.randn(T, B, I), [T] * B)
    hx = None if hx_dtype is None else make_hx(ours, B, hx_dtype)
    with torch.autocast("cpu", low):
        found, expected = (tensors_of(module(input, hx)) for module in (ours, theirs))
        told = fastcells.explain(ours, input, hx)
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    assert told.dtype == found[0].dtype
