"""A cell from equations as a layer with nn.RNNBase's interface, and as one step.

Letters: T steps, B batch, I input, H hidden units, D directions, L layers, N states beside h.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..checks import recurrent as checks
from ..checks.tensors import check_rates
from ..functional.graphs import Proxy, module_node
from ..functional.processes import settle_in_forked_child
from ..functional.recurrent_calls import run_module_step, run_step
from ..layers.cells import RecurrentCell
from ..layers.elementwise_base import ElementwiseLayer
from ..layers.recurrent_base import rates_of
from ..ops import compiled_cells
from .definition import Definition
from .states import check_states, join, side_by_side

__all__ = ["EquationCell", "EquationLayer"]


class _OfDefinition:
    """What a definition has under this name, of a class and of its instances."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type[_Defined]) -> str:
        return getattr(owner.definition, self.name)


class _Defined:
    """What a layer and a cell of one definition share."""

    definition: Definition
    hidden_size: int
    source = _OfDefinition()
    picture = _OfDefinition()
    _instead_of_scripting = ""  # torch.nn has no such layer
    has_narrow_form = False  # fastcells.quantize passes it by

    @property
    def cell(self) -> str:
        """The cell's name in the ops."""
        return self.definition.name

    @property
    def _names(self) -> tuple[str, ...]:
        return ("h", *self.definition.specification.states)

    def _fill_weights(self, weights: dict[str, Tensor]) -> None:
        """Uniform in +-1/sqrt(H), as torch.nn's, but for what the definition gives a value."""
        specification = self.definition.specification
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0.0
        with torch.no_grad():
            for name, weight in weights.items():
                if name in specification.parameters:
                    weight.fill_(specification.parameters[name])
                elif name in specification.gains:
                    weight.fill_(1.0)
                else:
                    weight.uniform_(-bound, bound)
            for gate, value in specification.biases.items():
                if "bias_ih" in weights:
                    start = specification.gates.index(gate) * self.hidden_size
                    weights["bias_ih"][start : start + self.hidden_size] = value
                    self._zero_recurrent_bias(weights, gate)

    def _zero_recurrent_bias(self, weights: dict[str, Tensor], gate: str) -> None:
        gates = self.definition.specification.recurrent_gates
        if "bias_hh" in weights and gate in gates:
            start = gates.index(gate) * self.hidden_size
            weights["bias_hh"][start : start + self.hidden_size] = 0

    def _may_run_at_once(self, input: object) -> bool:
        return (
            isinstance(input, Tensor)
            and not torch.compiler.is_compiling()
            and compiled_cells.is_loaded(self.cell, input.dtype, "cuda" if input.is_cuda else "cpu")
        )


class EquationLayer(_Defined, ElementwiseLayer):
    """A layer of a cell that :func:`fastcells.cell` made of a function.

    Parameters of layer k: `weight_ih_l{k}` `[G*H, I]`, the recurrent `weight_hh_l{k}` `[R*H, H]`
    (dense) or `[R*H]` (a vector) of R gates, with bias `bias_ih_l{k}` `[G*H]` and of a dense cell
    `bias_hh_l{k}` `[R*H]`, with norms their gains `norm_ih_l{k}` and `norm_hh_l{k}` `[G*H]`, and
    each of the definition's parameters as `{name}_l{k}` `[H]`; `_reverse` behind the names of the
    second direction's.

    Args: those of :class:`torch.nn.RNN`, without nonlinearity and proj_size; `recompute` as
    :class:`fastcells.LSTM` has it, and, of a dense cell, `zoneout`, `recurrent_dropout`,
    `weight_dropout` and, where it has states beside h, `zoneout_c`: a unit keeps all of its states
    beside h, or none.

    Called with input, hx, lengths, resets as :class:`fastcells.LSTM`. hx and the final states are
    h, or (h, and each state) of a cell that has states beside it. With return_cell_states also all
    steps' states of the last layer, `[T, B, D*H]` each: one tensor, or a tuple of several.
    """

    _takes_own_weights: bool
    #: See `_packing_of`; of each direction, once it was asked.
    _packing: list[tuple[list[str], list[str]]] | None = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        recompute: bool = False,
        zoneout: float = 0.0,
        zoneout_c: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
    ) -> None:
        rates = rates_of(zoneout, recurrent_dropout, weight_dropout, zoneout_c=zoneout_c)
        self._check_rates(rates)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype, recompute=recompute,
        )  # fmt: skip
        self._set_rates(rates)

    def _check_rates(self, rates: dict[str, float]) -> None:
        name, specification = type(self).__name__, self.definition.specification
        check_rates(name, rates)
        given = [what for what, rate in rates.items() if rate]
        if given and specification.is_elementwise:
            raise ValueError(
                f"{name}: {given[0]} is of cells with recurrent='dense', {name} has "
                f"recurrent={specification.recurrent!r}"
            )
        if "zoneout_c" in given and not specification.states:
            raise ValueError(f"{name}: zoneout_c is of states beside h, and {name} has none")

    @property
    def cell(self) -> str:  # type: ignore[override]  # as the rates say
        """The cell's name in the ops: with zoneout or dropout it has kernels of its own."""
        if self.zoneout or self.zoneout_c or self.recurrent_dropout:
            return self.definition.name_of(has_noise=True)
        return self.definition.name

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Asked at every call: what the definition says, as the class's own.
        cls.has_cell_state = bool(cls.definition.specification.states)
        cls._takes_own_weights = not cls.definition.packs_weights

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        return self.definition.shapes(self._input_width(layer), self.hidden_size, self.bias)

    def _fill(self, layer: int, weight_ih: Tensor, **others: Tensor) -> None:
        self._fill_weights({"weight_ih": weight_ih, **others})

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | tuple[Tensor, ...] | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_cell_states: bool = False,
    ) -> Any:
        """See the class."""
        if return_cell_states and not self.has_cell_state:
            raise ValueError(
                f"{type(self).__name__}: return_cell_states=True, but the cell has no state "
                "beside h"
            )
        done = self._run(input, hx, lengths, resets, return_cell_states)
        if done is None:
            return module_node(self, locals())
        output, h_n, packed, cells = done
        if not self.has_cell_state:
            return output, h_n
        final = (h_n, *self._apart(packed, 1))
        if not return_cell_states:
            return output, final
        return output, final, self._all_states(cells)

    def _apart(self, packed: Tensor, directions: int) -> tuple[Tensor, ...]:
        """The states that stand side by side for each direction, `[..., D*N*H]`."""
        count = len(self._names) - 1
        if count == 1:
            return (packed,)
        parts = packed.unflatten(-1, (directions, count, self.hidden_size))
        return tuple(part.flatten(-2) for part in parts.unbind(-2))

    def _all_states(
        self, cells: Tensor | PackedSequence
    ) -> Tensor | PackedSequence | tuple[Tensor | PackedSequence, ...]:
        directions = 2 if self.bidirectional else 1
        data = cells.data if isinstance(cells, PackedSequence) else cells
        apart = self._apart(data, directions)
        parts: tuple[Tensor | PackedSequence, ...] = apart
        if isinstance(cells, PackedSequence):
            parts = tuple(PackedSequence(part, *cells[1:]) for part in apart)
        return parts if len(parts) > 1 else parts[0]

    def _run_at_once(
        self,
        input: Any,
        hx: Any,
        lengths: Tensor | None,
        resets: Tensor | None,
        want_cells: bool,
    ) -> tuple[Any, Any, Any, Any] | None:
        data = input.data if isinstance(input, PackedSequence) else input
        if not self._may_run_at_once(data):
            return None
        if hx is not None and (hx := join(hx, len(self._names))) is None:
            return None
        return super()._run_at_once(input, hx, lengths, resets, want_cells)

    def _at_once(self) -> nn.RNNBase:
        """Where the ops take other weights than the layer has, a stand-in with those of a call."""
        if self._takes_own_weights:
            return self
        weights = self._current_weights()
        if self._packing is None:
            self._packing = [self._packing_of(names) for names in self._all_weights]
        stored: dict[str, Tensor] = {}
        start = 0
        for plain, names in self._packing:
            end = start + len(plain)
            own = self.definition.packed(dict(zip(plain, weights[start:end], strict=True)))
            stored.update(zip(names, own.values(), strict=True))
            start = end
        stand_in: Any = SimpleNamespace(
            bidirectional=self.bidirectional,
            batch_first=self.batch_first,
            dropout=self.dropout,
            training=self.training,
            recompute=self.recompute,
            _all_weights=[names for _, names in self._packing],
            _flat_weights=list(stored.values()),
            _stored_weights=lambda: stored,
        )
        return stand_in

    def _packing_of(self, listed: list[str]) -> tuple[list[str], list[str]]:
        """Of one direction the names of its weights without `_l{k}`, and those the ops take."""
        plain = [name[: name.rindex("_l")] for name in listed]
        suffix = listed[0][listed[0].rindex("_l") :]
        own = self.definition.packed({name: getattr(self, name + suffix) for name in plain})
        return plain, [name + suffix for name in own]

    def _initial_states(
        self, name: str, input: Tensor, hx: Any, batch: int | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Checked h_0 `[L*D, B, H]` and the other states side by side, `[L*D, B, N*H]`."""
        if hx is None:
            return None, None
        states = check_states(name, hx, self._names)
        rank = 3 if batch is not None else 2
        rows = self.num_layers * (2 if self.bidirectional else 1)
        expected = (rows, self.hidden_size) if batch is None else (rows, batch, self.hidden_size)
        for index, state in enumerate(states):
            if state.dim() != rank:
                kind = "batched 3-D" if rank == 3 else "unbatched 2-D"
                raise RuntimeError(
                    f"For {kind} input, hx should also be {rank}-D but got {state.dim()}-D tensor"
                )
            checks.check_state(state, expected, input, f"[{index}]" if len(states) > 1 else "")
        if batch is None:
            states = tuple(state.unsqueeze(1) for state in states)
        h_0, *others = states
        return h_0, side_by_side(others)

    def _as_ops_take(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.definition.packed(weights) if self.definition.packs_weights else weights


class EquationCell(_Defined, RecurrentCell):  # type: ignore[override]  # likewise
    """One step of a cell that :func:`fastcells.cell` made of a function.

    Parameters as of the layer, without `_l{k}`. Called with input `[B, I]` or `[I]` and hx, h or
    (h, and each state), `[B, H]` or `[H]`, or None for zeros; gives the same back.
    """

    _weight_names: tuple[str, ...] | None = None  # in the order of the ops, once it was asked

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)  # torch.nn.RNNCellBase's own makes parameters of other shapes
        nn.RNNCell(input_size, hidden_size, bias, device="meta")  # refuses what torch.nn refuses
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        for name, shape in self.definition.shapes(input_size, hidden_size, bias).items():
            weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, weight)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self._fill_weights(dict(self.named_parameters(recurse=False)))

    def forward(self, input: Tensor, hx: Tensor | tuple[Tensor, ...] | None = None) -> Any:
        """input `[B, I]`, hx h or (h, and each state) `[B, H]`, None for zeros -> the new ones."""
        names = self._names
        done = self._at_once(input, hx)
        if done is not None:
            return done
        if isinstance(input, Proxy):
            return module_node(self, {"input": input, "hx": hx})
        settle_in_forked_child()
        name = type(self).__name__
        checks.check_cell_input(name, input, self.weight_ih, self.input_size)
        if hx is None:
            zeros = input.new_zeros((*input.shape[:-1], self.hidden_size))
            states = (zeros,) * len(names)
        else:
            states = check_states(name, hx, names)
        for index, state in enumerate(states):
            what = f"hx[{index}]" if len(states) > 1 else "hidden"
            checks.check_cell_hidden(name, state, input, self.hidden_size, index, what)
        is_batched = input.dim() == 2
        if not is_batched:
            input, states = input.unsqueeze(0), tuple(state.unsqueeze(0) for state in states)
        weights = self._weights_of_ops()
        h, c = run_step(
            self.cell, input, states[0], side_by_side(list(states[1:])),
            tuple(weights.values()), " ".join(weights),
        )  # fmt: skip
        if len(names) == 1:
            return h if is_batched else h.squeeze(0)
        new = (h, *c.chunk(len(names) - 1, dim=-1)) if len(names) > 2 else (h, c)
        return new if is_batched else tuple(state.squeeze(0) for state in new)

    def _at_once(self, input: Tensor, hx: Any) -> Any:
        specification, count = self.definition.specification, len(self._names)
        if specification.gains or not self._may_run_at_once(input):
            return None
        joined = join(hx, count)
        if joined is None and hx is not None:
            return None
        h, c = joined if isinstance(joined, tuple) else (joined, None)
        is_packed = self.definition.packs_weights
        weights: Any = self._weights_of_ops() if is_packed else self._stored_weights()
        done = run_module_step(self.cell, input, h, c, weights)
        if done is None or count < 3:
            return done
        return done[0], *done[1].chunk(count - 1, dim=-1)

    def _weights_of_ops(self) -> dict[str, Tensor]:
        """The weights as the ops take them, parametrized ones among them."""
        if self._weight_names is None:
            shapes = self.definition.shapes(self.input_size, self.hidden_size, self.bias)
            self._weight_names = tuple(shapes)
        weights = {name: getattr(self, name) for name in self._weight_names}
        return self.definition.packed(weights) if self.definition.packs_weights else weights

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")
