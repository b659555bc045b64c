"""Arguments of the recurrent functions whose dtypes differ, outside autocast: refused by name,
whichever implementation takes the call.

The reference casts what it is given to the dtype that it computes in, and would leave the real
part of a complex weight; the fakes see no values. Both refuse what the kernels do.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import jvp

from fastcells import functional
from fastcells.functional import recurrent_calls as recurrent
from pairs import one_thread  # noqa: F401 (an autouse fixture)
from tracing import quiet_tracing

pytestmark = quiet_tracing

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
NAMES = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "h_0", "c_0", "lengths", "resets"]
OTHERS = [torch.float64, torch.float16, torch.complex64, torch.int32, torch.float8_e4m3fn]


def make(kind, name, dtype):
    """Input and the others by name, one of them of another dtype."""
    rows = GATES[kind] * 4
    named = {
        "weight_ih": torch.ones(rows, 3), "weight_hh": torch.ones(rows, 4),
        "bias_ih": torch.ones(rows), "bias_hh": torch.ones(rows), "h_0": torch.ones(1, 2, 4),
        "c_0": torch.ones(1, 2, 4), "lengths": torch.tensor([2, 1]),
        "resets": torch.zeros(2, 2, dtype=torch.bool),
    }  # fmt: skip
    named[name] = named[name].to(dtype)
    return torch.ones(2, 2, 3), named


def run(kind, input, named):
    hx = (named["h_0"], named["c_0"]) if kind == "lstm" else named["h_0"]
    weights = [named[name] for name in NAMES[:4]]
    masks = {name: named[name] for name in ("lengths", "resets")}
    return getattr(functional, kind)(input, hx, weights, **masks)


def run_step(kind, input, named):
    hx = (named["h_0"][0], named["c_0"][0]) if kind == "lstm" else named["h_0"][0]
    weights = [named[name] for name in NAMES[:4]]
    return getattr(functional, f"{kind}_cell")(input[0], hx, weights)


def on_meta(kind, input, named):
    return run(kind, input.to("meta"), {name: t.to("meta") for name, t in named.items()})


def of_fakes(kind, input, named):
    with FakeTensorMode() as mode:
        named = {name: mode.from_tensor(t) for name, t in named.items()}
        return run(kind, mode.from_tensor(input), named)


def with_tangents(kind, input, named):
    return jvp(lambda x: run(kind, x, named)[0], (input,), (input,))


WAYS = {"eager": run, "meta": on_meta, "fakes": of_fakes, "jvp": with_tangents}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


@each_way
@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("kind", GATES)
def test_another_dtype_is_refused_by_name(kind, dtype, way):
    for name in NAMES if kind == "lstm" else [n for n in NAMES if n != "c_0"]:
        with torch.no_grad(), pytest.raises(TypeError, match=f": {name} must have dtype .*, got "):
            way(kind, *make(kind, name, dtype))


@pytest.mark.parametrize("is_kernel", [True, False], ids=["kernels", "reference"])
@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("kind", GATES)
def test_another_dtype_is_refused_by_name_of_a_step(kind, dtype, is_kernel, monkeypatch):
    if not is_kernel:
        monkeypatch.setattr(recurrent.ops, "has_kernels", lambda device: False)
    for name in NAMES[:4]:
        with torch.no_grad(), pytest.raises(TypeError, match=f": {name} must have dtype .*, got "):
            run_step(kind, *make(kind, name, dtype))


@pytest.mark.parametrize("way", [run, on_meta, of_fakes])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.float8_e4m3fn])
def test_an_input_that_is_no_real_float_is_refused(dtype, way):
    input, named = make("gru", "h_0", torch.float32)
    with pytest.raises((TypeError, RuntimeError), match=r"dtype .* is not supported"):
        way("gru", input.to(dtype), named)
