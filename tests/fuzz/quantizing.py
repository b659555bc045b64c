"""fastcells.quantize on random layers: near float64 on the weights that are left, and no trace of
what lengths hide."""

import torch
from comparing import NAN, assert_same_bits
from hypothesis import strategies as st
from torch import nn

import fastcells
import recurrent

#: What an element of the results may be off by: a row of inputs and states is rounded to 8 bits at
#: every step, that is by up to 1/254 of its largest element (3 to 4 of a normal one), or to the 8
#: bits of a bfloat16, and the steps of two layers pass it on. The worst of 3,000 cases: 0.015 and
#: 0.0083.
FLOORS = {torch.int8: 0.04, torch.bfloat16: 0.025}


@st.composite
def layers(draw):
    case = draw(recurrent.layers())
    case["options"].pop("proj_size", None)  # is refused
    case["options"].pop("nonlinearity", None)  # relu grows without bound
    case["dtype"] = torch.float32
    case["narrow"] = draw(st.sampled_from(list(FLOORS)))
    case["has_lengths"] = draw(st.booleans())
    return case


def left(narrow):
    """{name: value in float64} of the weights of a copy."""
    stored, found = narrow.state_dict(), {}
    for name, tensor in stored.items():
        if not name.startswith("scale"):
            scale = stored[name.replace("weight", "scale")] if tensor.dtype == torch.int8 else None
            found[name] = tensor.double() * (1.0 if scale is None else scale.double()[:, None])
    return found


def results_of(module, input, hx, **options):
    with torch.no_grad():
        output, states = module(input, hx, **options)
    return [output, *(states if isinstance(states, tuple) else (states,))]


def quantized_layers_are_near(case):
    torch.set_num_threads(case["threads"])
    module = recurrent.make(case)[0].eval()
    narrow = fastcells.quantize(module, case["narrow"])
    exact = getattr(nn, case["kind"])(case["I"], case["H"], **case["options"]).double()
    exact.load_state_dict(left(narrow))
    input, hx = recurrent.inputs(case)
    wide = None if hx is None else hx.double() if torch.is_tensor(hx) else tuple(
        h.double() for h in hx
    )  # fmt: skip
    found = results_of(narrow, input, hx)
    for number, (a, b) in enumerate(
        zip(found, results_of(exact, input.double(), wide), strict=True)
    ):
        error = (a.double() - b).abs().max().item()
        assert error <= FLOORS[case["narrow"]], f"result {number}: off by {error:.3g}"
    assert_same_bits(results_of(narrow, input, hx), found, "a repeat")
    if case["has_lengths"]:
        hidden_steps_leave_no_trace(case, narrow, input, hx)


def hidden_steps_leave_no_trace(case, narrow, input, hx):
    generator = torch.Generator().manual_seed(case["seed"] + 1)
    lengths = torch.randint(0, case["T"] + 1, (case["B"],), generator=generator)
    filled = []
    for value in (0.0, NAN):
        filled.append(input.clone())
        for b, length in enumerate(lengths.tolist()):
            first = case["options"]["batch_first"]
            (filled[-1][b, length:] if first else filled[-1][length:, b]).fill_(value)
    clean, poisoned = (results_of(narrow, x, hx, lengths=lengths) for x in filled)
    assert_same_bits(poisoned, clean, "NaN past the lengths")


TARGETS = {"quantized": (layers(), quantized_layers_are_near)}
