"""What RNN, LSTM and GRU share: a call's way from torch.nn's arguments to the kernels and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..checks import recurrent as checks
from ..checks.packed import check_packed
from ..checks.tensors import check_flag, check_kind, check_rates
from ..functional.graphs import Proxy, Unscriptable, module_node
from ..functional.processes import settle_in_forked_child
from ..functional.recurrent_calls import run_module_packed, run_module_stack, run_stack
from ..functional.regularisation import Regularisation
from .packed import pack, pad

__all__ = ["RecurrentLayer", "WithCellStates", "rates_of"]


class RecurrentLayer(Unscriptable, nn.RNNBase):
    """What the three layers share: unpack, check, run, repack.

    Subclasses of nn.RNNBase and not of nn.LSTM and its kind, which torch.compile refuses.
    Parameters are read at every call, so that parametrizations, pruning, functional_call and the
    like take effect, and so does a subclass that swaps the list `_flat_weights`.
    """

    cell: str  # name of the kernels' cell
    has_cell_state = False
    # Also of a layer that was pickled before it had them.
    recompute = False
    zoneout = zoneout_c = recurrent_dropout = weight_dropout = 0.0

    def __init__(
        self, *arguments: Any, recompute: bool, rates: dict[str, float], **options: Any
    ) -> None:
        check_flag(type(self).__name__, "recompute", recompute)
        check_rates(type(self).__name__, rates)
        super().__init__(*arguments, **options)
        self.recompute = recompute
        self._set_rates(rates)

    def _set_rates(self, rates: dict[str, float]) -> None:
        """Rates of :class:`Regularisation`; those that are 0 stay class attributes."""
        for name, rate in rates.items():
            if rate != 0:
                setattr(self, name, float(rate))

    @property
    def regularisation(self) -> Regularisation:
        """The rates that hold, which may be set at any time."""
        return Regularisation(
            self.zoneout, self.zoneout_c, self.recurrent_dropout, self.weight_dropout
        )

    def flatten_parameters(self) -> None:
        """Does nothing: the kernels take parameters as they lie."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """See the class."""
        done = self._run(input, hx, lengths, resets)
        return module_node(self, locals()) if done is None else done[:2]

    def _run(
        self,
        input: Any,
        hx: Any,
        lengths: Tensor | None,
        resets: Tensor | None,
        want_cells: bool = False,
    ) -> tuple[Any, Any, Any, Any] | None:
        """output, h_n, c_n, cells, in the caller's layout, the last two None without c; or None of
        a proxy of torch.fx."""
        done = self._run_at_once(input, hx, lengths, resets, want_cells)
        if done is not None:
            return done
        if isinstance(input, PackedSequence):
            return self._run_packed(input, hx, lengths, resets, want_cells)
        if isinstance(input, Proxy):
            return None
        settle_in_forked_child()
        name = type(self).__name__
        weights, batch = self._check_call(input, lengths, resets)
        is_batched = batch is not None
        h_0, c_0 = self._initial_states(name, input, hx, batch)
        if not is_batched:
            input = input.unsqueeze(1)
            lengths = None if lengths is None else lengths.unsqueeze(0)
            resets = None if resets is None else resets.unsqueeze(1)
        elif self.batch_first:
            input = input.transpose(0, 1)
            resets = None if resets is None else resets.t()
        output, h_n, c_n, cells = self._run_stack(
            weights, input, h_0, c_0, lengths, resets, want_cells
        )
        return (
            self._to_callers_layout(output, is_batched),
            h_n if is_batched else h_n.squeeze(1),
            c_n if is_batched or c_n is None else c_n.squeeze(1),
            None if cells is None else self._to_callers_layout(cells, is_batched),
        )

    def _run_at_once(
        self,
        input: Any,
        hx: Any,
        lengths: Tensor | None,
        resets: Tensor | None,
        want_cells: bool,
    ) -> tuple[Any, Any, Any, Any] | None:
        """The same in one call of C++; None where only Python can tell."""
        states = hx if self.has_cell_state and isinstance(hx, tuple) else (hx, None)
        if want_cells or len(states) != 2 or (states[0] is None) != (hx is None):
            return None
        if self.zoneout or self.zoneout_c:
            return None
        if self.training and (self.recurrent_dropout or self.weight_dropout):
            return None
        if not isinstance(input, PackedSequence):
            done: Any = run_module_stack(
                self._at_once(), self.cell, input, *states, lengths, resets
            )
        elif lengths is None and resets is None:
            done = run_module_packed(self._at_once(), self.cell, input, *states)
        else:
            return None
        return None if done is None else (*done, None)

    def _at_once(self) -> nn.RNNBase:
        """What the way through C++ reads the weights and options of."""
        return self

    def _run_packed(
        self,
        packed: PackedSequence,
        hx: Any,
        lengths: Tensor | None,
        resets: Tensor | None,
        want_cells: bool,
    ) -> tuple[Any, Any, Any, Any]:
        settle_in_forked_child()
        name = type(self).__name__
        for what, value in (("lengths", lengths), ("resets", resets)):
            if value is not None:
                raise ValueError(
                    f"{name}: {what} cannot be combined with a PackedSequence, which brings its "
                    "own lengths. Pass a padded tensor instead"
                )
        check_packed(name, packed)
        weights = self._current_weights()
        checks.check_input(name, packed.data, self._typical(weights[0]))
        checks.check_width(packed.data, self.input_size)
        h_0, c_0 = self._initial_states(name, packed.data, hx, int(packed.batch_sizes[0]))
        if packed.sorted_indices is not None:
            h_0, c_0 = (
                s if s is None else s.index_select(1, packed.sorted_indices) for s in (h_0, c_0)
            )
        padded = pad(packed)
        output, h_n, c_n, cells = self._run_stack(
            weights, padded.data, h_0, c_0, padded.lengths, None, want_cells,
            is_packed=padded.lengths is not None,
        )  # fmt: skip
        if packed.unsorted_indices is not None:
            h_n = h_n.index_select(1, packed.unsorted_indices)
            c_n = None if c_n is None else c_n.index_select(1, packed.unsorted_indices)
        cells = None if cells is None else pack(cells, padded, packed)
        return pack(output, padded, packed), h_n, c_n, cells

    def _typical(self, weight: Tensor) -> Tensor:
        """A tensor of the device and dtype that the kernels want of an input."""
        return weight

    def _stored_weights(self) -> Any:
        """The module's own dictionary that holds the weights."""
        return self._parameters

    def _current_weights(self) -> list[Tensor]:
        """The weights in the order of `_flat_weights_names`: as torch.nn.RNNBase, the named ones
        where one of them is another tensor than the one that was registered (a parametrization,
        functional_call, a hook), else the list `_flat_weights`, which a subclass may have set."""
        listed: list[Any] = self._flat_weights
        names, own = self._flat_weights_names, self._parameters
        is_plain = len(listed) == len(names) and all(
            weight is not None and own.get(name) is weight
            for name, weight in zip(names, listed, strict=True)
        )
        if is_plain and not torch.compiler.is_compiling():  # asking each by its name takes long
            return listed
        named = [getattr(self, name) for name in names]
        if len(listed) != len(named):
            raise RuntimeError(
                f"{type(self).__name__}: _flat_weights must hold {len(named)} tensors, "
                f"{', '.join(self._flat_weights_names)}, got {len(listed)}"
            )
        for name, weight in zip(self._flat_weights_names, named, strict=True):
            if not isinstance(weight, Tensor):
                raise TypeError(
                    f"{type(self).__name__}: {name} must be a Tensor, got {type(weight).__name__}"
                )
        if torch.compiler.is_compiling():  # where weak references cannot be followed
            return [n if isinstance(x, nn.Parameter) else x
                    for n, x in zip(named, listed, strict=True)]  # fmt: skip
        for reference, weight in zip(self._flat_weight_refs, named, strict=False):
            if reference is not None and reference() is not weight:
                return named
        return listed

    def _run_stack(
        self,
        weights: list[Tensor],
        input: Tensor,
        h_0: Tensor | None,
        c_0: Tensor | None,
        lengths: Tensor | None,
        resets: Tensor | None,
        want_cells: bool,
        is_packed: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | Any, Tensor | Any]:
        directions = 2 if self.bidirectional else 1
        layers: list[list[Tensor]] = []
        names: list[str] = []
        start = 0
        for index, listed in enumerate(self._all_weights):
            plain = [name[: name.rindex("_l")] for name in listed]
            own = dict(zip(plain, weights[start : start + len(listed)], strict=True))
            start += len(listed)
            own = self._as_ops_take(own)
            if index % directions == 0:
                layers.append([])
                names.append(" ".join(own))
            layers[-1] += own.values()
        rates = self.regularisation
        if rates.is_at_work(self.training):
            for index, layer in enumerate(layers):
                layers[index], names[index] = rates.applied(
                    layer, names[index], directions, self.training
                )
        dropout = self.dropout if self.training else 0.0
        return run_stack(
            self._cells(), directions, input, h_0, c_0, layers, names, lengths, resets,
            dropout, want_cells, is_packed, self.recompute,
        )  # fmt: skip

    def _as_ops_take(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of one direction under the names of the ops."""
        return weights

    def _cells(self) -> str | list[str]:
        """The cell of every layer, or of each."""
        return self.cell

    def _to_callers_layout(self, output: Tensor, is_batched: bool) -> Tensor:
        if not is_batched:
            return output.squeeze(1)
        return output.transpose(0, 1) if self.batch_first else output

    def _check_call(
        self, input: Any, lengths: Tensor | None, resets: Tensor | None
    ) -> tuple[list[Tensor], int | None]:
        """Refuses what a call must not have of a tensor's input; the weights, and the batch or
        None."""
        name = type(self).__name__
        check_kind(name, "input", input)
        if input.dim() not in (2, 3):
            noun = " tensor" if self.cell.startswith("rnn") else ""
            raise ValueError(
                f"{name}: Expected input to be 2D or 3D, got {input.dim()}D{noun} instead"
            )
        batch = input.shape[0 if self.batch_first else 1] if input.dim() == 3 else None
        weights = self._current_weights()
        self._check_tensor(name, weights[0], input, batch, lengths, resets)
        return weights, batch

    def _check_tensor(
        self,
        name: str,
        weight: Tensor,
        input: Tensor,
        batch: int | None,
        lengths: Tensor | None,
        resets: Tensor | None,
    ) -> None:
        checks.check_input(name, input, self._typical(weight))
        checks.check_width(input, self.input_size)
        time_dim = 1 if self.batch_first and batch is not None else 0
        if input.shape[time_dim] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        if lengths is not None:
            checks.check_lengths(name, lengths, input, batch)
        if resets is not None:
            checks.check_resets(name, resets, input)

    def _initial_states(
        self, name: str, input: Tensor, hx: Any, batch: int | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Checked h_0 `[L*D, B, P]` and c_0 `[L*D, B, H]`, or None for zeros."""
        if hx is None:
            return None, None
        if self.has_cell_state:
            checks.check_pair(name, hx)
        else:
            check_kind(name, "hx", hx)
        states = tuple(hx) if self.has_cell_state else (hx,)
        checks.check_ranks(states, batch is not None)
        if batch is None:
            states = tuple(state.unsqueeze(1) for state in states)
        rows = self.num_layers * (2 if self.bidirectional else 1)
        widths = (self.proj_size or self.hidden_size, self.hidden_size)
        for index, state in enumerate(states):
            place = f"[{index}]" if self.has_cell_state else ""
            expected = (rows, 1 if batch is None else batch, widths[index])
            checks.check_state(state, expected, input, place)
        return states if self.has_cell_state else (states[0], None)

    def extra_repr(self) -> str:
        rates = self.regularisation._asdict().items()
        shown = [f", {name}={rate}" for name, rate in rates if rate]
        return (
            super().extra_repr() + (", recompute=True" if self.recompute else "") + "".join(shown)
        )


if TYPE_CHECKING:
    _InFrontOf = RecurrentLayer
else:
    _InFrontOf = object


class WithCellStates(_InFrontOf):
    """In front of a RecurrentLayer whose cell has c besides h."""

    has_cell_state = True

    def forward(  # type: ignore[override]  # states are pairs
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_cell_states: bool = False,
    ) -> Any:
        """See the class."""
        done = self._run(input, hx, lengths, resets, return_cell_states)
        if done is None:
            return module_node(self, locals())
        output, h_n, c_n, cells = done
        if return_cell_states:
            return output, (h_n, c_n), cells
        return output, (h_n, c_n)


def rates_of(
    zoneout: float, recurrent_dropout: float, weight_dropout: float, **more: float
) -> dict[str, float]:
    """The rates of a layer by the names of its arguments."""
    dropouts = {"recurrent_dropout": recurrent_dropout, "weight_dropout": weight_dropout}
    return {"zoneout": zoneout, **more, **dropouts}
