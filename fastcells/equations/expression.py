"""The equations of a cell as a graph: nodes that are made once, and simplified as they are made.

A node is a leaf or an operation on nodes. A number in its place in the list of a graph is larger
than those of its inputs: the list is an order in which everything can be computed. Leaves:

    x k         gate k of the input                  h k         gate k of the recurrent part
    state k     a state that enters, 0 is h          u k         a value a unit: weight, parameter
    next k      the same as it leaves                d k         the gradient of a state that leaves
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["MASKS", "Graph", "Node", "cost", "evaluate"]

LEAVES = ("x", "h", "state", "u", "next", "d")
#: Operations whose result is a condition, the first operand of `select` alone.
MASKS = ("less", "less_equal")
_COMMUTES = ("add", "multiply", "minimum", "maximum")


@dataclass(frozen=True, eq=False)
class Node:
    """One value a unit. `number` is the place in its graph, `index` that of a leaf."""

    operation: str
    inputs: tuple[Node, ...] = ()
    number: int = 0
    index: int = 0
    value: float = 0.0  # of a "constant"

    @property
    def is_leaf(self) -> bool:
        return self.operation in LEAVES


_FOLDED: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "negative": lambda a: -a,
}


@dataclass
class Graph:
    """Nodes in an order in which they can be computed."""

    nodes: list[Node] = field(default_factory=list)
    _made: dict[tuple[object, ...], Node] = field(default_factory=dict)

    def _node(
        self,
        key: tuple[object, ...],
        operation: str,
        inputs: tuple[Node, ...] = (),
        index: int = 0,
        value: float = 0.0,
    ) -> Node:
        if key not in self._made:
            self._made[key] = Node(operation, inputs, len(self.nodes), index, value)
            self.nodes.append(self._made[key])
        return self._made[key]

    def leaf(self, kind: str, index: int) -> Node:
        return self._node((kind, index), kind, index=index)

    def constant(self, value: float) -> Node:
        value = float(value)
        # 0.0 and -0.0 are equal and not the same; NaN is not equal to itself.
        return self._node(("constant", repr(value)), "constant", value=value)

    def make(self, operation: str, *inputs: Node | float) -> Node:
        """The node of an operation, or a simpler one that is the same number."""
        nodes = tuple(n if isinstance(n, Node) else self.constant(n) for n in inputs)
        simpler = self._simplified(operation, nodes)
        if simpler is not None:
            return simpler
        key = (operation, *(n.number for n in nodes))
        if operation in _COMMUTES and (operation, *key[:0:-1]) in self._made:
            key = (operation, *key[:0:-1])
        return self._node(key, operation, nodes)

    def _simplified(self, operation: str, nodes: tuple[Node, ...]) -> Node | None:
        values = [n.value if n.operation == "constant" else None for n in nodes]
        if operation in _FOLDED and None not in values:
            return self.constant(_FOLDED[operation](*values))
        simplify = {"add": self._sum, "subtract": self._difference, "multiply": self._product}
        if operation in simplify:
            (a, b), (value_a, value_b) = nodes, values
            return simplify[operation](a, b, value_a, value_b)
        if operation == "divide" and values[1] == 1:
            return nodes[0]
        if operation == "negative" and nodes[0].operation == "negative":
            return nodes[0].inputs[0]
        if operation == "select" and nodes[1] is nodes[2]:
            return nodes[1]
        return None

    def _sum(self, a: Node, b: Node, value_a: float | None, value_b: float | None) -> Node | None:
        if value_a == 0 or value_b == 0:
            return b if value_a == 0 else a
        if b.operation == "negative":
            return self.make("subtract", a, b.inputs[0])
        return self.make("subtract", b, a.inputs[0]) if a.operation == "negative" else None

    def _difference(
        self, a: Node, b: Node, value_a: float | None, value_b: float | None
    ) -> Node | None:
        if value_b == 0:
            return a
        if value_a == 0:
            return self.make("negative", b)
        return self.make("add", a, b.inputs[0]) if b.operation == "negative" else None

    def _product(
        self, a: Node, b: Node, value_a: float | None, value_b: float | None
    ) -> Node | None:
        for value, other in ((value_a, b), (value_b, a)):
            if value in (1, -1):
                return other if value == 1 else self.make("negative", other)
        if a.operation == "negative" or b.operation == "negative":
            positive = [n.inputs[0] if n.operation == "negative" else n for n in (a, b)]
            product = self.make("multiply", *positive)
            return product if a.operation == b.operation else self.make("negative", product)
        return None

    def where(self, condition: Node, a: Node, b: Node) -> Node:
        return self.make("select", condition, a, b)

    def reachable(self, results: list[Node]) -> list[Node]:
        """What results are made of, in the order of the graph."""
        found: set[Node] = set()
        waiting = list(results)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting.extend(node.inputs)
        return sorted(found, key=lambda n: n.number)


_TORCH: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "negative": torch.neg,
    "power": torch.pow,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "less": torch.lt,
    "less_equal": torch.le,
    "select": torch.where,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exponential": torch.exp,
    "exp_below": torch.exp,
    "expm1_below": torch.expm1,
    "logarithm": torch.log,
    "square_root": torch.sqrt,
    "sine": torch.sin,
    "cosine": torch.cos,
    "error_function": torch.erf,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "absolute": torch.abs,
    "sign": torch.sign,
    "elu": torch.nn.functional.elu,
    "elu_grad": lambda y: torch.where(y > 0, torch.ones_like(y), y + 1),
    "sigmoid_grad": lambda y: y * (1 - y),
    "tanh_grad": lambda y: 1 - y * y,
}


def evaluate(
    nodes: list[Node],
    leaves: dict[tuple[str, int], Tensor],
    known: dict[Node, Tensor] | None = None,
) -> list[Tensor]:
    """The values of nodes, computed by torch from those of the leaves, and of nodes that are
    `known`: for tests."""
    like = next(iter(leaves.values()))
    found: dict[Node, Tensor] = dict(known or {})
    for node in Graph().reachable(nodes):
        if node in found:
            continue
        if node.operation == "constant":
            found[node] = torch.full_like(like, node.value)
        elif node.is_leaf:
            found[node] = leaves[node.operation, node.index]
        else:
            found[node] = _TORCH[node.operation](*(found[n] for n in node.inputs))
    return [found[node] for node in nodes]


def cost(node: Node) -> int:
    """Arithmetic of an operation, in units of a sum."""
    return _COSTS.get(node.operation, 0 if node.is_leaf or node.operation == "constant" else 1)


_COSTS = dict.fromkeys(
    ("sigmoid", "tanh", "exponential", "exp_below", "expm1_below", "elu", "logarithm"), 12
)
_COSTS |= {"divide": 4, "square_root": 6, "softplus": 24}
_COSTS |= dict.fromkeys(("sine", "cosine", "error_function", "power"), 60)
