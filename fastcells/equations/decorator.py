"""fastcells.cell: the decorator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .definition import Definition
from .layer import EquationCell, EquationLayer
from .specification import specify

__all__ = ["cell"]


def cell(
    *,
    gates: str | Sequence[str],
    recurrent: str = "dense",
    recurrent_gates: str | Sequence[str] | None = None,
    states: str | Sequence[str] = (),
    parameters: Mapping[str, float] | None = None,
    biases: Mapping[str, float] | None = None,
    norm: str | Sequence[str] = (),
) -> Callable[[Callable[..., Any]], type[EquationLayer]]:
    """Makes a layer class of a function that computes one step of a cell.

    The function is called with four arguments, whose values are tensors `[B, H]`:

    * x: `x.i` is gate i of the input, W_ih x + b_ih;
    * h: `h.i` is gate i of the recurrent part, W_hh h + b_hh of a dense one, u_i h of a vector;
      `h.prev` is h itself;
    * state: `state.c` is the state c as it entered;
    * p: `p.bend` is the parameter bend, a value a unit.

    It returns the new h, and behind it the new states in their order. It is traced once, and
    differentiated and compiled for this machine at the first call; without a compiler, and for what
    kernels cannot take, it runs as it is: `fastcells.explain` says which. What it may say:
    docs/own_cells.md.

    Args:
        gates: names of the gates, with spaces between, in the order of the weights' rows.
        recurrent: "dense" (`weight_hh` `[R*H, H]`, `bias_hh`), "vector" (`weight_hh` `[R*H]`, no
            exchange between units) or "none".
        recurrent_gates: the R gates that have a recurrent part; None: all.
        states: names of the states beside h.
        parameters: values a unit, `{name}_l{k}` `[H]`, with their initial values.
        biases: initial values of gates' `bias_ih`, such as a forget gate's of 1.
        norm: "input", "recurrent" or "input recurrent": W_ih x, or W_hh h, of a dense cell is
            normalised over all its gates before the bias is added, with a gain `norm_ih_l{k}`, or
            `norm_hh_l{k}`, `[G*H]` that begins as 1 (docs/normalised.md).

    Returns:
        A decorator. What it makes of the function is a class of :class:`torch.nn.RNNBase`'s
        interface, `cls(input_size, hidden_size, ...)`; `cls.Cell` is one step, `cls.source` the
        cell as the kernels have it, `cls.picture` its graph in Mermaid's language.

    Raises:
        CellError: what is declared does not fit together, or the function says what a cell cannot
            say; with its line.

    Example:
        >>> @fastcells.cell(gates="i o g", states="c", biases={"i": -1.0})
        ... def lltm(x, h, state, p):
        ...     c = state.c + torch.sigmoid(x.i + h.i) * torch.nn.functional.elu(x.g + h.g)
        ...     return torch.sigmoid(x.o + h.o) * torch.tanh(c), c
        >>> output, (h_n, c_n) = lltm(3, 5, num_layers=2)(torch.randn(7, 2, 3))
    """

    def make(function: Callable[..., Any]) -> type[EquationLayer]:
        specification = specify(
            function,
            gates,
            recurrent,
            recurrent_gates,
            states,
            parameters or {},
            biases or {},
            norm,
        )
        return _classes(Definition(specification), function)

    return make


def _classes(definition: Definition, function: Callable[..., Any]) -> type[EquationLayer]:
    """The layer's class, and in it the step's, in the place of the function: so they are found by
    pickle."""
    name, place = function.__name__, function.__qualname__
    told = {"__module__": function.__module__, "definition": definition}
    step = type(f"{name}.Cell", (EquationCell,), told | {"__qualname__": f"{place}.Cell"})
    documented = function.__doc__ or EquationLayer.__doc__
    told |= {"__qualname__": place, "__doc__": documented, "Cell": step}
    return type(name, (EquationLayer,), told)
