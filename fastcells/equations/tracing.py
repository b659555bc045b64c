"""From the function of a cell to its graph, by torch.fx; what cannot be said is refused here.

Every refusal names the line of the function. The function is called with proxies, twice: what
differs between the two calls does not follow from its arguments.
"""

from __future__ import annotations

import dis
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node as FxNode
from torch.fx import Proxy, Tracer
from torch.fx.node import Argument, Target
from torch.fx.proxy import TraceError

from .errors import CellError
from .expression import Graph, Node, evaluate
from .operations import SAME, Condition, Operations
from .specification import Specification

__all__ = ["Equations", "trace"]


@dataclass(frozen=True)
class Equations:
    """A cell as a graph: its new states, h first, and the user's names of nodes."""

    graph: Graph
    results: tuple[Node, ...]
    names: dict[Node, str]


def trace(specification: Specification) -> Equations:
    """Calls the function with proxies. Raises :class:`CellError` with the line and the reason."""
    if not inspect.isfunction(specification.function):
        came = type(specification.function).__name__
        raise CellError(f"cell: decorates a function of (x, h, state, p), got a {came}")
    _refuse_side_effects(specification)
    first, second = (_Trace(specification).run() for _ in range(2))
    if _written(first) != _written(second):
        raise CellError(
            f"{specification.name}: two calls of the function gave different equations. A cell may "
            "depend on its arguments and on constants alone: nothing random, nothing counted"
        )
    _refuse_unused(specification, first)
    _refuse_what_tensors_do_not_give(specification, first)
    return first


def _refuse_what_tensors_do_not_give(s: Specification, equations: Equations) -> None:
    """The function on a few tensors against its equations: without kernels it gives the same."""
    generator = torch.Generator().manual_seed(0)
    leaves: dict[tuple[str, int], Tensor] = {}

    def draw(kind: str, count: int) -> list[Tensor]:
        drawn = [torch.rand(2, 3, generator=generator, dtype=torch.float64, device="cpu") + 0.1
                 for _ in range(count)]  # fmt: skip
        leaves.update({(kind, k): value for k, value in enumerate(drawn)})
        return drawn

    gates, prev = draw("x", len(s.gates)), draw("state", 1 + len(s.states))
    values = draw("u", len(s.unit_values))
    first = len(values) - len(s.parameters)
    if s.recurrent == "vector":
        recurrent = [u * prev[0] for u in values[:first]]
    else:
        every = draw("h", len(s.gates) if s.recurrent == "dense" else 0)
        recurrent = [every[s.gates.index(gate)] for gate in s.recurrent_gates]
    made = s.types
    arguments = (made["x"](*gates), made["h"](*recurrent, prev[0]), made["state"](*prev[1:]),
                 made["p"](*values[first:]))  # fmt: skip
    try:
        found = s.function(*arguments)
    except Exception as error:
        told = f"on tensors it fails, {type(error).__name__}: {error}"
        raise _error(s, told, _line_in(error, s.function.__code__)) from error
    listed = found if isinstance(found, tuple | list) else (found,)
    expected = evaluate(list(equations.results), leaves)
    for name, value, node in zip(("h", *s.states), listed, expected, strict=True):
        if not torch.allclose(value.to(node.dtype), node, rtol=1e-9, equal_nan=True):
            raise CellError(
                f"{s.name}: the new {name} on tensors is not what the traced equations give: the "
                "function does something that is not seen by torch.fx"
            )


def _written(equations: Equations) -> list[tuple[object, ...]]:
    nodes = equations.graph.reachable(list(equations.results))
    return [(n.operation, n.index, repr(n.value), [i.number for i in n.inputs]) for n in nodes]


def _refuse_side_effects(specification: Specification) -> None:
    line = None
    for instruction in dis.get_instructions(specification.function):
        # From Python 3.13 on starts_line is a truth value, and the line has a name of its own.
        line = getattr(instruction, "line_number", instruction.starts_line) or line
        if instruction.opname.startswith("INPLACE_") or instruction.argrepr in _IN_PLACE_SIGNS:
            raise _error(
                specification,
                "an assignment like += changes a tensor in place, and whoever else holds it. Write "
                "y = y + z",
                line,
            )
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") or (
            instruction.opname == "STORE_DEREF"
            and instruction.argval in specification.function.__code__.co_freevars
        ):
            raise _error(
                specification,
                f"the function changes {instruction.argval}, which lives outside it. A cell "
                "computes its new states and does nothing else",
                line,
            )


def _error(specification: Specification, why: str, line: int | None) -> CellError:
    path, where = specification.function.__code__.co_filename, specification.name
    if line is not None:
        text = linecache.getline(path, line).strip()
        where += f", line {line} of {path}" + (f": `{text}`" if text else "")
    return CellError(f"{where}: {why}")


def _refuse_unused(specification: Specification, equations: Equations) -> None:
    used = {(n.operation, n.index) for n in equations.graph.reachable(list(equations.results))}
    vector = specification.recurrent == "vector"
    count = len(specification.recurrent_gates) if vector else 0
    declared = {f"gate x.{name}": ("x", k) for k, name in enumerate(specification.gates)}
    for k, name in enumerate(specification.recurrent_gates):
        key = ("u", k) if vector else ("h", specification.gates.index(name))
        declared[f"gate h.{name}"] = key
    for k, name in enumerate(specification.parameters):
        declared[f"parameter p.{name}"] = ("u", count + k)
    for what, key in declared.items():
        if key not in used:
            hint = "; recurrent_gates= names those that are" if what.startswith("gate h.") else ""
            raise CellError(f"{specification.name}: {what} is declared and not used{hint}")


class _Names:
    """x, h, state or p while the function is traced: its values by name, and nothing else."""

    _what: str
    _values: dict[str, Proxy]

    def __init__(self, what: str, values: dict[str, Proxy]) -> None:
        self.__dict__.update(_what=what, _values=values)

    def __getattr__(self, name: str) -> Proxy:
        if name in self._values:
            return self._values[name]
        known = ", ".join(self._values) or "nothing"
        raise _Refused(f"{self._what} has no {name!r}; it has {known}")

    def __setattr__(self, name: str, value: object) -> None:
        raise _Refused(
            f"{self._what}.{name} cannot be set: the new states are returned, h first, in their "
            "order"
        )

    def __iter__(self) -> Iterator[Proxy]:
        return iter(self._values.values())


class _Refused(Exception):
    """Why, until the line is known."""


class _Trace(Tracer):
    """One call of the function. Every operation becomes a node of the graph when it is met."""

    def __init__(self, specification: Specification) -> None:
        super().__init__()
        self.specification = specification
        self.expressions = Graph()
        self.operations = Operations(self.expressions)
        self.values: dict[FxNode, Node | Condition] = {}
        self.line: int | None = None  # the last one of the function that did something
        self.graph = torch.fx.Graph(tracer_cls=type(self))
        self.root = torch.nn.Module()

    def run(self) -> Equations:
        locals_found: dict[str, Any] = {}
        code = self.specification.function.__code__
        try:
            with _watching(code, locals_found):
                returned = self.specification.function(*self._arguments())
            results = self._results(returned)
        except CellError:
            raise
        except _Refused as refused:
            raise _error(self.specification, str(refused), _line_in(refused, code)) from None
        except Exception as error:
            line = _line_in(error, code)
            if isinstance(error, TraceError) or any(sign in str(error) for sign in _AS_A_NUMBER):
                raise _error(self.specification, _NO_VALUE, line) from None
            told = f"{type(error).__name__}: {error}"
            raise _error(self.specification, told, line) from error
        names: dict[Node, str] = {}
        for name, value in locals_found.items():
            node = self.values.get(value.node) if isinstance(value, Proxy) else None
            if isinstance(node, Node) and not node.is_leaf and node.operation != "constant":
                is_state = name == "h" or name in self.specification.states
                names.setdefault(node, f"new_{name}" if is_state else name)
        return Equations(self.expressions, results, names)

    # ---- arguments and results ----

    def _arguments(self) -> list[_Names]:
        s, graph = self.specification, self.expressions
        vector = s.recurrent == "vector"
        first = len(s.recurrent_gates) if vector else 0
        prev = graph.leaf("state", 0)
        recurrent = {}
        for k, name in enumerate(s.recurrent_gates):
            recurrent[name] = (
                graph.make("multiply", graph.leaf("u", k), prev)
                if vector
                else graph.leaf("h", s.gates.index(name))
            )
        values = {
            "x": {name: graph.leaf("x", k) for k, name in enumerate(s.gates)},
            "h": recurrent | {"prev": prev},
            "state": {name: graph.leaf("state", k) for k, name in enumerate(s.states, 1)},
            "p": {name: graph.leaf("u", k) for k, name in enumerate(s.parameters, first)},
        }
        return [
            _Names(what, {n: self._proxy(what, n, v) for n, v in named.items()})
            for what, named in values.items()
        ]

    def _proxy(self, what: str, name: str, value: Node) -> Proxy:
        node = self.graph.create_node("placeholder", f"{what}_{name}")
        self.values[node] = value
        return Proxy(node, self)

    def _results(self, returned: object) -> tuple[Node, ...]:
        s = self.specification
        names = ("h", *s.states)
        listed = returned if isinstance(returned, tuple | list) else (returned,)
        if len(listed) != len(names):
            raise _Refused(
                f"the function must return the new {', '.join(names)}, {len(names)} values, got "
                f"{len(listed)}"
            )
        for name, value in zip(names, listed, strict=True):
            if not isinstance(value, Proxy):
                raise _Refused(
                    f"the new {name} must be a value made of the arguments, got a "
                    f"{type(value).__name__}"
                )
        return tuple(self.operations.node(self.values[value.node]) for value in listed)

    # ---- what torch.fx asks of a tracer ----

    def create_node(
        self,
        kind: str,
        target: Target,
        args: tuple[Argument, ...],
        kwargs: dict[str, Argument],
        name: str | None = None,
        type_expr: Any | None = None,
    ) -> FxNode:
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind in ("call_function", "call_method"):
            self.values[node] = self._value(kind, target, args, kwargs)
        return node

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            raise _Refused(
                "a tensor that is no argument of the cell. Numbers are constants; a value a unit "
                "is a parameter: parameters={'name': initial value}"
            )
        return super().create_arg(a)

    def to_bool(self, obj: Proxy) -> bool:
        raise TraceError("bool")

    def iter(self, obj: Proxy) -> Iterator[Proxy]:
        raise _Refused("a value cannot be taken apart: it is one number a unit")

    def _value(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Node | Condition:
        name = target if kind == "call_method" else getattr(target, "__name__", str(target))
        shown = f"Tensor.{name}" if kind == "call_method" else _shown(target, name)
        plain = SAME.get(name, name)
        is_ours = kind == "call_method" or _is_elementwise_module(target)
        operation = getattr(self.operations, plain, None) if is_ours else None
        if operation is None or plain.startswith("_") or plain in ("node", "graph"):
            raise _Refused(_why_not(shown, name))
        if kwargs.get("inplace"):
            raise _Refused(f"{shown} changes a value in place: leave inplace=True out")

        def value_of(node: FxNode) -> Any:  # no Argument of torch.fx
            return self.values[node]

        args, kwargs = torch.fx.node.map_arg((args, kwargs), value_of)
        try:
            return operation(*args, **kwargs)
        except TypeError as error:
            told = str(error).replace(f"Operations.{plain}()", f"{name}()")
            raise _Refused(f"{shown}: {told}") from None


def _shown(target: Callable[..., Any], name: str) -> str:
    module = getattr(target, "__module__", None) or ""
    if "operator" in module:
        return f"the operator {name}"
    return f"torch.nn.functional.{name}" if "functional" in module else f"torch.{name}"


def _is_elementwise_module(target: Callable[..., Any]) -> bool:
    module = getattr(target, "__module__", None) or ""
    known = ("_operator", "torch", "torch.nn.functional", "torch._C._nn", "torch.special")
    return module in known or module.startswith("torch._C") or module == ""


_NO_VALUE = (
    "a value steers the control flow, or is asked for as a number. Values are not known here: "
    "write torch.where(condition, a, b), and torch's functions in the place of math's"
)
_AS_A_NUMBER = ("Proxy", "symbolic tracing")  # what Python and torch.fx say then
_IN_PLACE_SIGNS = ("+=", "-=", "*=", "/=", "**=", "@=", "//=", "%=")  # of BINARY_OP
_RANDOM = ("rand", "bernoulli", "normal", "dropout", "multinomial", "exponential_", "uniform")
_PRODUCTS = ("matmul", "mm", "bmm", "linear", "einsum", "dot", "bilinear", "addmm", "conv")
_OVER_UNITS = ("sum", "mean", "var", "std", "softmax", "norm", "prod", "cumsum", "amax", "amin",
               "logsumexp", "sort", "argmax", "argmin")  # fmt: skip
_SHAPES = ("getattr", "size", "shape", "dim", "numel", "view", "reshape", "chunk", "split", "cat",
           "stack", "getitem", "transpose", "permute", "unsqueeze", "squeeze", "expand", "flatten",
           "roll", "flip")  # fmt: skip
_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ipow", "setitem", "iand", "ior")


def _why_not(shown: str, name: str) -> str:
    """What is wrong with an operation that a cell cannot say."""
    if (name.endswith("_") and name not in ("and_", "or_")) or name in _IN_PLACE:
        return f"{shown} changes a value in place. Give the result a name instead"
    if any(word in name for word in _RANDOM):
        return (
            f"{shown} is random. A cell follows from its arguments; dropout= stands between layers"
        )
    if name in _PRODUCTS:
        return (
            f"{shown} is a product over the units. A cell has those of its gates: x.gate is "
            "W_ih x + b_ih, h.gate is W_hh h + b_hh"
        )
    if name in _OVER_UNITS or any(word in name for word in ("softmax", "norm")):
        return (
            f"{shown} reads other units. A cell is said for one unit, as all of them are computed"
        )
    if name in _SHAPES:
        return f"{shown} asks for a shape, which is not known here, or changes it"
    return (
        f"{shown} is not among what a cell can say: + - * / and powers, sigmoid, tanh, relu, "
        "leaky_relu, elu, gelu, silu, softplus, exp, log, sqrt, rsqrt, sin, cos, erf, abs, "
        "minimum, maximum, clamp, where with comparisons"
    )


def _line_in(error: BaseException, code: CodeType) -> int | None:
    """The line of the function, or of what it calls of the same file, where an error came up."""
    line, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code is code:
            line = step.tb_lineno
        step = step.tb_next
    return line


@contextmanager
def _watching(code: CodeType, found: dict[str, Any]) -> Iterator[None]:
    """Takes the function's local names as it returns."""
    before = sys.getprofile()

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event == "return" and frame.f_code is code:
            found.update(frame.f_locals)

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)
