"""A call that is refused: with which error and text, and what torch.nn makes of the same call."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from torch import nn

import fastcells
from fastcells.functional import recurrent_calls as recurrent
from pairs import LAYERS, H, I

# What torch.nn does at the same call.
SAME = "refuses it with the same type and text"
TYPE = "refuses it with the same type; its text is of a part inside"
OTHER = "fails with another error, of a part inside"
TAKES = "computes something"
UNKNOWN = "has no such argument"


class Refusal(NamedTuple):
    call: Callable  # (module with I inputs and H units) -> the call that is refused
    error: type[Exception]
    text: str  # {name}, and others of text_for()
    torch: str = SAME
    options: dict = {}  # of the constructor  # noqa: RUF012 (nobody writes to it)
    kinds: tuple[str, ...] = LAYERS


def text_for(refusal, kind):
    """The text with what differs between kinds."""
    is_lstm = kind.startswith("LSTM")
    return refusal.text.format(
        name=kind,
        tensor=" tensor" if kind == "RNN" else "",
        first="[0]" if is_lstm else "",
        hx="h_0" if is_lstm else "hx",
        hidden="hx[0]" if is_lstm else "hidden",
        cell_state="h_0" if is_lstm else "hidden",
    )


def parametrize(refusals):
    """Each refusal for each kind of module that it names."""
    cases = [
        pytest.param(kind, refusal, id=f"{kind}-{name}".replace(" ", "_"))
        for name, refusal in refusals.items()
        for kind in refusal.kinds
    ]
    assert cases
    return pytest.mark.parametrize(("kind", "refusal"), cases)


def two_for_lstm(module, state):
    """`state` where a module takes one, and (state, state) for an LSTM."""
    return (state, state) if "LSTM" in type(module).__name__ else state


def assert_refused(function, error, text):
    """Exactly this type, and the whole text."""
    with pytest.raises(error) as refused:
        function()
    assert refused.type is error
    assert str(refused.value) == text


def assert_refused_by_both(kind, refusal):
    ours = getattr(fastcells, kind)(I, H, **refusal.options)
    text = text_for(refusal, kind)
    assert_refused(lambda: refusal.call(ours), refusal.error, text)
    if refusal.torch == UNKNOWN:
        return
    theirs = getattr(nn, kind)(I, H, **refusal.options)
    if refusal.torch == TAKES:
        refusal.call(theirs)
        return
    with pytest.raises(Exception) as refused:
        refusal.call(theirs)
    assert (refused.type is refusal.error) == (refusal.torch in (SAME, TYPE))
    assert (str(refused.value) == text) == (refusal.torch == SAME)


@pytest.fixture
def no_kernel(monkeypatch):
    """Whatever computes fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("a kernel ran before the refusal")

    for owner in (recurrent.ops, recurrent.reference):
        for name in ("recurrent_forward", "recurrent_backward", "recurrent_step", "recurrent"):
            if hasattr(owner, name):
                monkeypatch.setattr(owner, name, refuse)
