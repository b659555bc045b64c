"""What a cell declares beside its equations, and the names under which the equations see values."""

from __future__ import annotations

import keyword
import math
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from .errors import CellError

__all__ = ["Specification", "Values"]

RECURRENT = ("dense", "vector", "none")
#: Names of a layer's own, which a parameter's would hide.
_TAKEN = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "norm_ih", "norm_hh")
#: Parts that may be normalised, and the gain of each.
_GAINS = {"input": "norm_ih", "recurrent": "norm_hh"}


class Values(Protocol):
    """x, h, state or p of a cell's function, to whoever checks its types: `x.i` is a tensor."""

    def __getattr__(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class Specification:
    """Checked arguments of :func:`fastcells.cell`."""

    name: str
    function: Callable[..., Any]
    gates: tuple[str, ...]
    recurrent: str
    recurrent_gates: tuple[str, ...]
    states: tuple[str, ...]  # beside h
    parameters: Mapping[str, float]
    biases: Mapping[str, float]
    norm: tuple[str, ...]  # of "input" and "recurrent"

    @cached_property
    def types(self) -> dict[str, Callable[..., Any]]:
        """What the function's arguments x, h, state and p are made by."""
        fields = {
            "x": self.gates,
            "h": (*self.recurrent_gates, "prev"),
            "state": self.states,
            "p": tuple(self.parameters),
        }
        return {name: namedtuple(name, names) for name, names in fields.items()}

    @property
    def unit_values(self) -> tuple[str, ...]:
        """The values a unit has beside its gates, in the order of the kernels: "weight i" of a
        recurrent vector, "parameter bend"."""
        vector = self.recurrent_gates if self.recurrent == "vector" else ()
        return (*(f"weight {g}" for g in vector), *(f"parameter {p}" for p in self.parameters))

    @property
    def is_elementwise(self) -> bool:
        return self.recurrent != "dense"

    @property
    def whole_rows(self) -> bool:
        """Whether its layers run on the engine of whole rows."""
        has_more = bool(self.parameters) or len(self.states) > 1 or bool(self.norm)
        return not self.is_elementwise and has_more

    @property
    def gains(self) -> tuple[str, ...]:
        """The weights of what is normalised, `[G*H]` each."""
        return tuple(gain for part, gain in _GAINS.items() if part in self.norm)


def _names(what: str, given: object) -> tuple[str, ...]:
    if isinstance(given, str):
        given = given.split()
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise CellError(f"cell: {what} must be names with spaces between, got {given!r}")
    for name in given:
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise CellError(
                f"cell: {what} must be names of Python that do not begin with _, got {name!r}"
            )
    if len(set(given)) < len(given):
        raise CellError(f"cell: {what} must be different, got {' '.join(given)}")
    return tuple(given)


def _numbers(what: str, given: object) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise CellError(f"cell: {what} must be a dictionary from name to value, got {given!r}")
    _names(what, tuple(given))
    for name, value in given.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise CellError(f"cell: {what}[{name!r}] must be a finite number, got {value!r}")
    return {name: float(value) for name, value in given.items()}


def specify(
    function: Callable[..., Any],
    gates: object,
    recurrent: object,
    recurrent_gates: object,
    states: object,
    parameters: object,
    biases: object,
    norm: object = (),
) -> Specification:
    """Checks the arguments of :func:`fastcells.cell` against each other."""
    gates, states = _names("gates", gates), _names("states", states)
    parameters, biases = _numbers("parameters", parameters), _numbers("biases", biases)
    if not gates:
        raise CellError("cell: gates must name one gate at least, got none")
    if "prev" in gates:
        raise CellError("cell: no gate may be named prev: h.prev is h itself")
    if "h" in states:
        raise CellError("cell: states are those beside h, which every cell has; got h among them")
    if recurrent not in RECURRENT:
        known = ", ".join(repr(kind) for kind in RECURRENT)
        raise CellError(f"cell: recurrent must be one of {known}, got {recurrent!r}")
    if recurrent == "none":
        if recurrent_gates is not None:
            raise CellError("cell: recurrent='none' has no recurrent_gates, but they were given")
        recurrent_gates = ()
    recurrent_gates = (
        gates if recurrent_gates is None else _names("recurrent_gates", recurrent_gates)
    )
    for what, named in (("recurrent_gates", recurrent_gates), ("biases", biases)):
        unknown = [name for name in named if name not in gates]
        if unknown:
            raise CellError(
                f"cell: {what} must be among the gates {' '.join(gates)}, got {unknown[0]!r}"
            )
    if recurrent != "none" and not recurrent_gates:
        raise CellError("cell: recurrent_gates is empty; a cell without them has recurrent='none'")
    taken = [name for name in parameters if name in _TAKEN]
    if taken:
        raise CellError(
            f"cell: a parameter may not be named {taken[0]}, as the layer's weights are"
        )
    name, in_order = function.__name__, tuple(g for g in gates if g in recurrent_gates)
    parts = _parts_of_norm(norm, recurrent, has_all=len(in_order) == len(gates))
    return Specification(
        name, function, gates, recurrent, in_order, states, parameters, biases, parts
    )


def _parts_of_norm(norm: object, recurrent: object, has_all: bool) -> tuple[str, ...]:
    parts = _names("norm", norm)
    unknown = [part for part in parts if part not in _GAINS]
    if unknown:
        raise CellError(
            f"cell: norm must be 'input', 'recurrent' or 'input recurrent', got {unknown[0]!r}"
        )
    if parts and recurrent != "dense":
        raise CellError(f"cell: norm is of recurrent='dense', got recurrent={recurrent!r}")
    if "recurrent" in parts and not has_all:
        raise CellError(
            "cell: norm='recurrent' is over all gates, but recurrent_gates are not all of them"
        )
    return parts
