"""The way back through a cell: reverse mode on its graph.

The gradients of outputs are leaves `d k`; what comes out are nodes of the same graph. A derivative
is written in terms of the operation's result where it can be, which the way back then need not
compute again. At a kink it is what torch's autograd gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .expression import Graph, Node
from .tracing import Equations

__all__ = ["Gradients", "differentiate"]

#: Of each leaf that the new states depend on, its gradient.
Gradients = dict[tuple[str, int], Node]


def differentiate(equations: Equations) -> Gradients:
    """The gradients of the leaves x, h, state and u, given those of the new states."""
    graph = equations.graph
    order = graph.reachable(list(equations.results))
    gradients: dict[Node, Node] = {}
    for k, result in enumerate(equations.results):
        _add(graph, gradients, result, graph.leaf("d", k))
    for node in reversed(order):
        if node not in gradients or node.is_leaf or node.operation == "constant":
            continue
        for inner, gradient in zip(
            node.inputs, _RULES[node.operation](graph, node, gradients[node]), strict=True
        ):
            if gradient is not None and inner.operation != "constant":
                _add(graph, gradients, inner, gradient)
    for node, gradient in gradients.items():
        name = equations.names.get(node)
        if name is not None and not gradient.is_leaf and gradient.operation != "constant":
            equations.names.setdefault(gradient, f"d_{name}")
    return {(n.operation, n.index): g for n, g in gradients.items() if n.is_leaf}


def _add(graph: Graph, gradients: dict[Node, Node], node: Node, more: Node) -> None:
    gradients[node] = _sum(graph, gradients[node], more) if node in gradients else more


def _sum(graph: Graph, a: Node, b: Node) -> Node:
    """a + b; d x + d y as d (x + y)."""
    is_minus = b.operation == "negative"
    product = b.inputs[0] if is_minus else b
    if a.operation == product.operation == "multiply" and a.inputs[0] is product.inputs[0]:
        rest = graph.make("subtract" if is_minus else "add", a.inputs[1], product.inputs[1])
        return graph.make("multiply", a.inputs[0], rest)
    return graph.make("add", a, b)


Inner = tuple[Node | None, ...]  # gradients of a node's inputs, None where there is none
Rule = Callable[[Graph, Node, Node], Inner]  # of a graph, a node, and the gradient of the node
_RULES: dict[str, Rule] = {}


def _rule(operation: str) -> Callable[[Rule], Rule]:
    def take(rule: Rule) -> Rule:
        _RULES[operation] = rule
        return rule

    return take


def _by_factor(operation: str, factor: Callable[[Graph, Node, Node], Node]) -> None:
    """An operation on one value: its gradient times a factor of the value and the result."""

    @_rule(operation)
    def rule(g: Graph, node: Node, d: Node) -> Inner:
        (x,) = node.inputs
        return (g.make("multiply", d, factor(g, x, node)),)


_by_factor("sigmoid", lambda g, x, y: g.make("sigmoid_grad", y))
_by_factor("tanh", lambda g, x, y: g.make("tanh_grad", y))
_by_factor("elu", lambda g, x, y: g.make("elu_grad", y))
_by_factor("exponential", lambda g, x, y: y)
_by_factor("expm1_below", lambda g, x, y: g.make("add", y, 1.0))
_by_factor("softplus", lambda g, x, y: g.make("sigmoid", x))
_by_factor("sine", lambda g, x, y: g.make("cosine", x))
_by_factor("cosine", lambda g, x, y: g.make("negative", g.make("sine", x)))
_by_factor("absolute", lambda g, x, y: g.make("sign", x))
_by_factor(
    "error_function",
    lambda g, x, y: g.make(
        "multiply",
        2 / math.sqrt(math.pi),
        g.make("exp_below", g.make("negative", g.make("multiply", x, x))),
    ),
)


@_rule("add")
def _(g: Graph, node: Node, d: Node) -> Inner:
    return d, d


@_rule("subtract")
def _(g: Graph, node: Node, d: Node) -> Inner:
    return d, g.make("negative", d)


@_rule("negative")
def _(g: Graph, node: Node, d: Node) -> Inner:
    return (g.make("negative", d),)


@_rule("multiply")
def _(g: Graph, node: Node, d: Node) -> Inner:
    a, b = node.inputs
    return g.make("multiply", d, b), g.make("multiply", d, a)


@_rule("divide")
def _(g: Graph, node: Node, d: Node) -> Inner:
    of_a = g.make("divide", d, node.inputs[1])
    return of_a, g.make("negative", g.make("multiply", of_a, node))


@_rule("logarithm")
def _(g: Graph, node: Node, d: Node) -> Inner:
    return (g.make("divide", d, node.inputs[0]),)


@_rule("square_root")
def _(g: Graph, node: Node, d: Node) -> Inner:
    return (g.make("divide", d, g.make("add", node, node)),)


@_rule("power")
def _(g: Graph, node: Node, d: Node) -> Inner:
    x, y = node.inputs
    zero = g.constant(0)
    if y.operation == "constant":
        lower = g.make("power", x, y.value - 1)
        return g.make("multiply", d, g.make("multiply", y, lower)), None
    lower = g.make("multiply", y, g.make("power", x, g.make("subtract", y, 1.0)))
    is_flat = g.where(g.make("less_equal", zero, y), zero, g.make("logarithm", x))
    logarithm = g.where(
        g.make("less_equal", x, zero),
        g.where(g.make("less_equal", zero, x), is_flat, g.make("logarithm", x)),
        g.make("logarithm", x),
    )
    at_zero = g.where(g.make("less_equal", zero, y), zero, lower)
    lower = g.where(g.make("less_equal", y, zero), at_zero, lower)
    of_y = g.make("multiply", g.make("multiply", d, node), logarithm)
    return g.make("multiply", d, lower), of_y


@_rule("select")
def _(g: Graph, node: Node, d: Node) -> Inner:
    mask, _, _ = node.inputs
    zero = g.constant(0)
    return None, g.where(mask, d, zero), g.where(mask, zero, d)


def _of_extreme(g: Graph, d: Node, low: Node, high: Node) -> tuple[Node, Node]:
    """d to the first operand where low < high, to the second where low > high, each half of it at a
    tie."""
    half, zero = g.make("multiply", 0.5, d), g.constant(0)
    less, less_equal = g.make("less", low, high), g.make("less_equal", low, high)
    of_first = g.where(less, d, g.where(less_equal, half, zero))
    of_second = g.where(less, zero, g.where(less_equal, half, d))
    return of_first, of_second


@_rule("minimum")
def _(g: Graph, node: Node, d: Node) -> Inner:
    a, b = node.inputs
    return _of_extreme(g, d, a, b)


@_rule("maximum")
def _(g: Graph, node: Node, d: Node) -> Inner:
    a, b = node.inputs
    return _of_extreme(g, d, b, a)


@_rule("less")
@_rule("less_equal")
def _(g: Graph, node: Node, d: Node) -> Inner:
    raise AssertionError("a condition has no gradient")
