"""A cell's graph as a flowchart in Mermaid's language, which GitHub and most viewers of Markdown
draw: values that the way back keeps are in bold frames."""

from __future__ import annotations

from .expression import Node
from .saving import Kept
from .specification import Specification
from .tracing import Equations

__all__ = ["draw_graph"]

_SHOWN = {"add": "+", "subtract": "−", "multiply": "×", "divide": "÷", "negative": "−",
          "less": "<", "less_equal": "≤"}  # fmt: skip


def draw_graph(specification: Specification, equations: Equations, kept: Kept) -> str:
    lines = ["flowchart LR"]
    states = ("h", *specification.states)
    for node in equations.graph.reachable(list(equations.results)):
        name = f"n{node.number}"
        told = _told(specification, states, node)
        if node in equations.names and not node.is_leaf:
            told += f" = {equations.names[node]}"
        lines.append(f'  {name}(["{told}"])' if node.is_leaf else f'  {name}["{told}"]')
        lines += [f"  n{inner.number} --> {name}" for inner in node.inputs]
        if node in kept.nodes:
            lines.append(f"  style {name} stroke-width:4px")
    for state, node in zip(states, equations.results, strict=True):
        lines += [f'  new_{state}(["new {state}"])', f"  n{node.number} --> new_{state}"]
    return "\n".join(lines) + "\n"


def _told(specification: Specification, states: tuple[str, ...], node: Node) -> str:
    if node.operation == "constant":
        return f"{node.value:g}"
    if node.operation in ("x", "h"):
        return f"{node.operation}.{specification.gates[node.index]}"
    if node.operation == "state":
        return "h.prev" if node.index == 0 else f"state.{states[node.index]}"
    if node.operation == "u":
        kind, name = specification.unit_values[node.index].split()
        return f"u_{name}" if kind == "weight" else f"p.{name}"
    return _SHOWN.get(node.operation, node.operation)
