"""A cell printed as a struct like those of csrc/recurrent/cells, with the user's names.

What is used once and has no name of its own stands where it is used; everything else is a constant
of the function, in the order in which it is computed.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import textwrap

from .derivative import Gradients
from .expression import Node
from .saving import Kept
from .specification import Specification
from .tracing import Equations

__all__ = ["print_cell", "struct_name"]

COLUMNS = 100
_PLACEHOLDER = "@name@"
_FUNCTION_NAMES = (
    "sigmoid tanh elu exponential exp_below logarithm square_root sine cosine error_function "
    "softplus absolute sign sigmoid_grad tanh_grad elu_grad power minimum maximum one_minus_exp "
    "select forward backward"
).split()
_CPP_KEYWORDS = (
    "alignas alignof and asm auto bitand bitor bool break case catch char class compl concept "
    "const continue decltype default delete do double else enum explicit export extern false "
    "float for friend goto if inline int long mutable namespace new noexcept not nullptr "
    "operator or private protected public register requires return short signed sizeof static "
    "struct switch template this throw true try typedef typeid typename union unsigned using "
    "virtual void volatile while xor A x g u raw state saved prev next d_state dx dg du d_raw "
).split()


def print_cell(
    specification: Specification,
    equations: Equations,
    gradients: Gradients,
    kept: Kept,
    whole_rows: bool = False,
) -> tuple[str, str]:
    """The name under which the kernels know the cell, which follows from its equations, and the
    text of its header."""
    struct = _Struct(specification, equations, gradients, kept, whole_rows).text()
    digest = hashlib.sha256(struct.encode()).hexdigest()[:12]
    name = f"{_ascii(specification.name)}_{digest}"
    head = ["// " + _title(specification), "//"]
    head += [f"//   {line}".rstrip(" \\") for line in _lines_of(specification)]
    head += ["#pragma once", '#include "math/elementary.h"', ""]
    return name, "\n".join(head) + "\n" + struct.replace(_PLACEHOLDER, name)


def _title(specification: Specification) -> str:
    kinds = {"dense": "W_hh h", "vector": "u h", "none": "no recurrent part"}
    return f"{specification.name}, printed from its equations; {kinds[specification.recurrent]}."


def _lines_of(specification: Specification) -> list[str]:
    try:
        lines = textwrap.dedent(inspect.getsource(specification.function)).splitlines()
    except (OSError, TypeError, SyntaxError):
        return ["(defined where there is no file)"]
    return [line.encode("ascii", "replace").decode() for line in lines]


def _ascii(name: str) -> str:
    """A name of C++."""
    return re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "cell"


def struct_name(name: str) -> str:
    return "".join(part.capitalize() for part in _ascii(name).split("_") if part)


def _unique(name: str, taken: set[str]) -> str:
    name = _ascii(name)
    candidate, count = name, 1
    while candidate in taken or candidate[0].isdigit():
        count += 1
        candidate = f"{name}_{count}" if not name[0].isdigit() else f"v{name}_{count}"
    taken.add(candidate)
    return candidate


class _Function:
    """The statements of forward or backward."""

    def __init__(self, names: dict[Node, str], known: dict[Node, str], taken: set[str]) -> None:
        self.names = names
        self.texts = dict(known)  # of a node: how it is written where it is used
        self.taken = taken
        self.lines: list[str] = []

    def compute(self, results: list[Node], order: list[Node]) -> None:
        """Makes every node of `order`; `results` are used once more."""
        uses: dict[Node, int] = dict.fromkeys(order, 0)
        for node in order:
            for inner in node.inputs:
                uses[inner] = uses.get(inner, 0) + 1
        for node in results:
            uses[node] = uses.get(node, 0) + 1
        for node in order:
            if node in self.texts:
                continue
            text = self._written(node)
            is_mask = node.operation in ("less", "less_equal")
            if (
                node.operation != "constant"
                and not is_mask
                and (uses[node] > 1 or node in self.names)
            ):
                name = _unique(self.names.get(node, f"v{node.number}"), self.taken)
                self.lines.append(f"const A {name} = {text};")
                text = name
            self.texts[node] = text

    def alias(self, what: list[tuple[str, str, Node]]) -> None:
        """const A name = text, ...; of leaves."""
        made = []
        for wanted, text, node in what:
            name = _unique(wanted, self.taken)
            made.append(f"{name} = {text}")
            self.texts[node] = name
        if made:
            self.lines.append(f"const A {', '.join(made)};")

    def _written(self, node: Node) -> str:
        if node.operation == "constant":
            return f"A({node.value!r})".replace(".0)", ")").replace("inf", "INFINITY")
        inputs = node.inputs
        if node.operation in _SIGNS:
            sign, level = _SIGNS[node.operation]
            left = self._operand(inputs[0], level)
            right = self._operand(inputs[1], level + 1)  # (a b) c and a (b c) round differently
            return f"{left} {sign} {right}"
        if node.operation == "negative":
            return f"A(0) - {self._operand(inputs[0], 2)}"
        if node.operation == "expm1_below":
            return f"A(0) - one_minus_exp({self.texts[inputs[0]]})"
        return f"{node.operation}({', '.join(self.texts[n] for n in inputs)})"

    def _operand(self, node: Node, level: int) -> str:
        text = self.texts[node]
        is_name = re.fullmatch(r"[\w\[\]]+", text) is not None
        own = 3 if is_name else _LEVELS.get(node.operation, 3)
        return text if own >= level else f"({text})"


_SIGNS = {"less": ("<", 1), "less_equal": ("<=", 1), "add": ("+", 1), "subtract": ("-", 1),
          "multiply": ("*", 2), "divide": ("/", 2)}  # fmt: skip
_LEVELS = {"less": 0, "less_equal": 0, "add": 1, "subtract": 1, "negative": 1, "expm1_below": 1,
           "multiply": 2, "divide": 2}  # fmt: skip


class _Struct:
    def __init__(
        self,
        specification: Specification,
        equations: Equations,
        gradients: Gradients,
        kept: Kept,
        whole_rows: bool,
    ) -> None:
        self.s, self.equations, self.whole_rows = specification, equations, whole_rows
        self.gradients, self.kept = gradients, kept
        self.order = equations.graph.nodes
        self.units = specification.unit_values
        self.states = ("h", *specification.states)
        self.saves_new_h = bool(kept.nodes) and kept.nodes[0] is equations.results[0]

    def _gradient(self, kind: str, index: int) -> Node | None:
        return self.gradients.get((kind, index))

    def text(self) -> str:
        s, kept = self.s, self.kept.nodes
        gates, units = len(s.gates), len(self.units)
        lines = [
            "namespace fastcells::equations {", "",
            f"struct {struct_name(self.s.name)} {{",
            f'  static constexpr const char* kName = "{_PLACEHOLDER}";',
            f"  static constexpr int kGates = {gates};  // {', '.join(s.gates)}",
            f"  static constexpr int kStates = {len(self.states)};  // {', '.join(self.states)}",
            f"  static constexpr int kSaved = {max(1, len(kept))};"
            f"  // {', '.join(map(self._told, kept)) or 'nothing'}",
        ]  # fmt: skip
        if s.is_elementwise or units:
            told = ", ".join(self._unit_name(k) for k in range(units)) or "none"
            lines.append(f"  static constexpr int kUnitWeights = {units};  // {told}")
        if s.is_elementwise:
            saves = str(self.saves_new_h).lower()
            lines += ["  static constexpr bool kReadsInput = false;",
                      f"  static constexpr bool kSavesNewH = {saves};"]  # fmt: skip
        else:
            additive = all(self._gradient("x", k) is self._gradient("h", k) for k in range(gates))
            lines += [f"  static constexpr bool kAdditive = {str(additive).lower()};",
                      "  static constexpr bool kTwoProducts = false;"]  # fmt: skip
            if self.whole_rows:
                lines.append("  static constexpr bool kWholeRows = true;")
        lines += ["", *self._function("forward", self._forward()),
                  "", *self._function("backward", self._backward()), "};", "",
                  "}  // namespace fastcells::equations"]  # fmt: skip
        wrapped = (part for line in lines for part in _wrapped(line))
        return "\n".join(wrapped) + "\n"

    def _unit_name(self, k: int) -> str:
        kind, name = self.units[k].split()
        return f"u_{name}" if kind == "weight" else name

    def _told(self, node: Node) -> str:
        """A kept value, for a comment and as a name."""
        if node.is_leaf:
            return f"{node.operation}_{self.s.gates[node.index]}"
        if node in self.equations.names:
            return self.equations.names[node]
        if node.operation == "add" and all(n.operation in ("x", "h") for n in node.inputs):
            return "_".join(self._told(n) for n in node.inputs)
        return f"v{node.number}"

    def _function(self, name: str, lines: list[str]) -> list[str]:
        units = f"const A (&u)[{'kUnitWeights' if self.units else 1}]"
        if name == "forward":
            arguments = ["const A (&x)[kGates]"]
            arguments += ["const A (&g)[kGates]"] * (not self.s.is_elementwise)
            arguments += [units] * (self.s.is_elementwise or bool(self.units))
            arguments += ["A"] * self.s.is_elementwise
            arguments += ["A (&state)[kStates]", "A (&saved)[kSaved]"]
        else:
            arguments = ["const A (&saved)[kSaved]"]
            arguments += [units] * (self.s.is_elementwise or bool(self.units))
            arguments += ["A"] * self.s.is_elementwise
            arguments += ["const A (&prev)[kStates]", "const A (&next)[kStates]"]
            arguments += ["A (&d_state)[kStates]", "A (&dx)[kGates]"]
            arguments += ["A (&dg)[kGates]"] * (not self.s.is_elementwise)
            du = f"A (&du)[{'kUnitWeights' if self.units else 1}]"
            arguments += [du] * (self.s.is_elementwise or bool(self.units))
            arguments += ["A&"] * self.s.is_elementwise
        head = f"  FC_HD static void {name}({', '.join(arguments)}) {{"
        return ["  template <class A>", head, *(f"    {line}" for line in lines), "  }"]

    def _leaves(self, array: str, used: list[Node], taken: set[str]) -> _Function:
        """A function that knows its arguments under their names."""
        known = {n: f"{'g' if n.operation == 'h' else 'x'}[{n.index}]"
                 for n in used if n.operation in ("x", "h")}  # fmt: skip
        function = _Function(self.equations.names, known, taken)
        function.alias([(self.states[n.index], f"{array}[{n.index}]", n)
                        for n in used if n.operation == "state"])  # fmt: skip
        function.alias([(self._unit_name(n.index), f"u[{n.index}]", n)
                        for n in used if n.operation == "u"])  # fmt: skip
        return function

    def _forward(self) -> list[str]:
        results, kept = list(self.equations.results), list(self.kept.nodes)
        order = self.equations.graph.reachable(results + kept)
        function = self._leaves("state", order, {*_CPP_KEYWORDS, *_FUNCTION_NAMES})
        function.compute(results + kept, order)
        lines = function.lines
        lines += [f"saved[{k}] = {function.texts[n]};" for k, n in enumerate(kept)]
        lines += [] if kept else ["saved[0] = A(0);"]
        return lines + [f"state[{k}] = {function.texts[n]};" for k, n in enumerate(results)]

    def _backward(self) -> list[str]:
        results, kept = self.equations.results, self.kept.nodes
        gradients = list(self.gradients.values())
        order = self._way_back(gradients)
        function = self._leaves("prev", order, {*_CPP_KEYWORDS, *_FUNCTION_NAMES})
        function.alias([(self._told(n), f"saved[{k}]", n)
                        for k, n in enumerate(kept) if n in order])  # fmt: skip
        function.alias([(f"new_{self.states[k]}", f"next[{k}]", n)
                        for k, n in enumerate(results) if n in self.kept.given and n in order
                        and n not in function.texts])  # fmt: skip
        function.alias([(f"d_{self.states[n.index]}", f"d_state[{n.index}]", n)
                        for n in order if n.operation == "d"])  # fmt: skip
        function.compute(gradients, order)

        def put(target: str, kind: str, index: int) -> str:
            node = self._gradient(kind, index)
            return f"{target}[{index}] = {'A(0)' if node is None else function.texts[node]};"

        lines = function.lines
        for k in range(len(self.s.gates)):
            if not self.s.is_elementwise and self._gradient("x", k) is self._gradient("h", k):
                lines.append(f"dx[{k}] = " + put("dg", "h", k))
            else:
                lines.append(put("dx", "x", k))
                lines += [] if self.s.is_elementwise else [put("dg", "h", k)]
        lines += [put("du", "u", k) for k in range(len(self.units))]
        return lines + [put("d_state", "state", k) for k in range(len(self.states))]

    def _way_back(self, gradients: list[Node]) -> list[Node]:
        """What the way back computes or reads: nothing behind what is kept or is there."""
        known = {*self.kept.nodes, *self.kept.given}
        found: set[Node] = set()
        waiting = list(gradients)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting.extend(() if node in known else node.inputs)
        return sorted(found, key=lambda n: n.number)


def _wrapped(line: str) -> list[str]:
    if len(line) <= COLUMNS:
        return [line]
    indent = len(line) - len(line.lstrip())
    if line.lstrip().startswith("static constexpr") and "  // " in line:
        code, comment = line.split("  // ", 1)
        return [*textwrap.wrap(comment, COLUMNS, initial_indent=" " * indent + "// ",
                               subsequent_indent=" " * indent + "// "), code]  # fmt: skip
    glued = line.replace("const A (&", "const\xa0A\xa0(&").replace("A (&", "A\xa0(&")
    parts = textwrap.wrap(
        glued,
        COLUMNS,
        subsequent_indent=" " * (indent + 4),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [part.replace("\xa0", " ") for part in parts]
