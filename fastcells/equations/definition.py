"""A cell from its declaration to what the rest of the project knows of it.

The function, run on tensors, is the definition: the reference, whose derivatives autograd makes.
Traced once it is a graph, whose printed form names the cell: two cells of one name and different
equations do not meet, and the same equations are compiled once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..ops import compiled_cells
from ..reference import recurrent as reference
from .compiling import load
from .derivative import differentiate
from .picture import draw_graph
from .saving import choose_kept
from .source import print_cell, struct_name
from .specification import Specification
from .tracing import trace

__all__ = ["Definition"]


class Definition:
    """What a decorated function is, once: its graph, its name in the ops, its kernels.

    A layer with zoneout or dropout has kernels of its own, `with_noise`: those of whole rows, whose
    way back is not given the new states, which zoneout has mixed with the old ones.
    """

    def __init__(self, specification: Specification, has_noise: bool = False) -> None:
        self.specification = specification
        self.equations = trace(specification)
        gradients = differentiate(self.equations)
        kept = choose_kept(self.equations, gradients, has_new_states=not has_noise)
        self.name, self.source = print_cell(
            specification, self.equations, gradients, kept, has_noise or specification.whole_rows
        )
        self.picture = draw_graph(specification, self.equations, kept)
        self.struct = struct_name(specification.name)
        self._why_not: dict[tuple[torch.dtype, str], str] = {}
        s = specification
        described = reference.CellReference(
            self.step,
            gates=len(s.gates),
            states=2 if s.states else 1,
            unit_weights=len(s.unit_values) if s.is_elementwise else None,
            carried=max(1, len(s.states)),
        )
        reference.declare(self.name, described)
        compiled_cells.declare(self.name, lambda dtype, device: self.load(dtype, device))

    @cached_property
    def with_noise(self) -> Definition:
        """The same cell for layers with zoneout or recurrent dropout."""
        return Definition(self.specification, has_noise=True)

    # While torch.compile traces, too, which cannot look into it.
    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch's own
    def name_of(self, has_noise: bool) -> str:
        """The cell's name in the ops."""
        return self.with_noise.name if has_noise else self.name

    # ---- kernels ----

    def load(self, dtype: torch.dtype, device: str) -> str:
        """Compiles and loads the kernels of a dtype and a type of device; "" or why there are none.
        Asked once."""
        if (dtype, device) not in self._why_not:
            self._why_not[dtype, device] = load(self, dtype, device)
        return self._why_not[dtype, device]

    @property
    def body(self) -> str:
        """The printed struct in its namespace, without what stands in front of it in a header."""
        return self.source.partition('#pragma once\n#include "math/elementary.h"\n')[2]

    @cached_property
    def constants(self) -> dict[str, int]:
        """Those of the printed struct, by name: kGates, kStates, ..."""
        found = re.findall(r"static constexpr (?:int|bool) (k\w+) = (\w+);", self.body)
        return {name: int({"true": 1, "false": 0}.get(value, value)) for name, value in found}

    @property
    def facts(self) -> dict[str, int]:
        """As csrc/bindings.cpp gives them of a built-in cell."""
        constants = self.constants
        return {
            "gates": constants["kGates"],
            "states": constants["kStates"],
            "saved": constants["kSaved"],
            "is_elementwise": "kReadsInput" in constants,
        }

    # ---- weights: as a layer names them, and as the ops do ----

    def shapes(self, width: int, hidden: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """Of the weights of one direction, by name; `width` is that of the input."""
        s = self.specification
        rows, recurrent = len(s.gates) * hidden, len(s.recurrent_gates) * hidden
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width)}
        if s.recurrent == "dense":
            shapes["weight_hh"] = (recurrent, hidden)
        elif s.recurrent == "vector":
            shapes["weight_hh"] = (recurrent,)
        if bias:
            shapes["bias_ih"] = (rows,)
            if s.recurrent == "dense":
                shapes["bias_hh"] = (recurrent,)
        gains = {name: (rows,) for name in s.gains}
        return shapes | gains | {name: (hidden,) for name in s.parameters}

    @property
    def packs_weights(self) -> bool:
        """Whether the ops take the weights otherwise than the layer has them."""
        s = self.specification
        return bool(s.parameters) or (
            s.recurrent == "dense" and len(s.recurrent_gates) < len(s.gates)
        )

    def packed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of one direction as the ops take them: the values of a unit in one vector,
        rows of zeros for the gates without a recurrent part."""
        s = self.specification
        values = [weights.pop(name) for name in s.parameters]
        if s.is_elementwise and values:
            vector = [weights["weight_hh"]] if "weight_hh" in weights else []
            weights["weight_hh"] = torch.cat(vector + values)
        elif values:
            weights["unit_weights"] = torch.cat(values)
        if s.recurrent == "dense":
            for name in ("weight_hh", "bias_hh"):
                if name in weights:
                    weights[name] = self._with_all_gates(weights[name])
        return weights

    def _with_all_gates(self, rows: Tensor) -> Tensor:
        s = self.specification
        parts, own = [], rows.unflatten(0, (len(s.recurrent_gates), -1))
        if len(own) == len(s.gates):
            return rows
        listed = iter(own)
        for gate in s.gates:
            parts.append(next(listed) if gate in s.recurrent_gates else torch.zeros_like(own[0]))
        return torch.cat(parts)

    # ---- the reference ----

    def step(
        self, x: Tensor, h: Tensor, c: Tensor | None, w: reference.Weights
    ) -> tuple[Tensor, Tensor | None]:
        """One step as `fastcells.reference` has it; states beside h side by side in c."""
        s = self.specification
        recurrent: Sequence[Tensor] = ()
        values: Sequence[Tensor] = ()
        if s.recurrent == "dense":
            x_part, h_part = reference.parts(x, h, w)
            all_gates = h_part.chunk(len(s.gates), dim=-1)
            recurrent = [all_gates[s.gates.index(gate)] for gate in s.recurrent_gates]
            if w.unit_weights is not None:
                values = w.unit_weights.chunk(len(s.parameters))
        else:
            x_part = linear(x, w.weight_ih, w.bias_ih)
            if s.unit_values:
                values = w.weight_hh.chunk(len(s.unit_values))
            count = len(s.unit_values) - len(s.parameters)
            recurrent, values = [u * h for u in values[:count]], values[count:]
        gates = x_part.chunk(len(s.gates), dim=-1)
        states = () if c is None else c.chunk(len(s.states), dim=-1)
        returned = s.function(
            s.types["x"](*gates),
            s.types["h"](*recurrent, h),
            s.types["state"](*states),
            s.types["p"](*values),
        )
        if not s.states:
            return (returned if isinstance(returned, Tensor) else returned[0]), None
        new_h, *new = returned
        return new_h, new[0] if len(new) == 1 else torch.cat(new, dim=-1)
