"""What the function of a cell may say: torch's functions, each as operations of the graph.

A function here has the name and the parameters of torch's. Values are nodes, or numbers; a
condition is a :class:`Condition`, which `where` takes apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .expression import Graph, Node

__all__ = ["Condition", "Operations"]

Value = Node | float
_MOST_MULTIPLICATIONS = 8  # of an integer power; libm takes larger ones


@dataclass(frozen=True)
class Condition:
    """Where `select` has its first or its second value: a comparison, or made of such."""

    select: Callable[[Node, Node], Node]


class Operations:
    """The operations on one graph, by the names that torch, its functional and its tensors give."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def node(self, value: object) -> Node:
        """A value as a node; a condition is 1 where it holds, as in torch's arithmetic."""
        if isinstance(value, Condition):
            return value.select(self.graph.constant(1), self.graph.constant(0))
        if isinstance(value, Node):
            return value
        if isinstance(value, bool | int | float):
            return self.graph.constant(value)
        raise TypeError(f"got a {type(value).__name__} where a value or a number is expected")

    def _make(self, operation: str, *inputs: Value) -> Node:
        return self.graph.make(operation, *map(self.node, inputs))

    # ---- arithmetic ----

    def add(self, input: Value, other: Value, *, alpha: float = 1) -> Node:
        return self._make("add", input, self.mul(other, alpha))

    def sub(self, input: Value, other: Value, *, alpha: float = 1) -> Node:
        return self._make("subtract", input, self.mul(other, alpha))

    def rsub(self, input: Value, other: Value, *, alpha: float = 1) -> Node:
        return self.sub(other, input, alpha=alpha)

    def mul(self, input: Value, other: Value) -> Node:
        return self._make("multiply", input, other)

    def div(self, input: Value, other: Value) -> Node:
        return self._make("divide", input, other)

    def neg(self, input: Value) -> Node:
        return self._make("negative", input)

    def pos(self, input: Value) -> Node:
        return self.node(input)

    def square(self, input: Value) -> Node:
        return self.mul(input, input)

    def reciprocal(self, input: Value) -> Node:
        return self.div(1.0, input)

    def lerp(self, input: Value, end: Value, weight: Value) -> Node:
        return self.add(input, self.mul(weight, self.sub(end, input)))

    def addcmul(self, input: Value, tensor1: Value, tensor2: Value, *, value: float = 1) -> Node:
        return self.add(input, self.mul(value, self.mul(tensor1, tensor2)))

    def pow(self, input: Value, exponent: Value) -> Node:
        exponent = self.node(exponent)
        n = exponent.value if exponent.operation == "constant" else None
        if n in (0.5, -0.5):
            root = self.sqrt(input)
            return root if n > 0 else self.reciprocal(root)
        if n is not None and n == int(n) and 0 < abs(n) <= _MOST_MULTIPLICATIONS:
            power = base = self.node(input)
            for _ in range(int(abs(n)) - 1):
                power = self.mul(power, base)
            return power if n > 0 else self.reciprocal(power)
        return self._make("power", input, exponent)

    def sqrt(self, input: Value) -> Node:
        return self._make("square_root", input)

    def rsqrt(self, input: Value) -> Node:
        return self.reciprocal(self.sqrt(input))

    # ---- functions ----

    def sigmoid(self, input: Value) -> Node:
        return self._make("sigmoid", input)

    def tanh(self, input: Value) -> Node:
        return self._make("tanh", input)

    def exp(self, input: Value) -> Node:
        return self._make("exponential", input)

    def log(self, input: Value) -> Node:
        return self._make("logarithm", input)

    def sin(self, input: Value) -> Node:
        return self._make("sine", input)

    def cos(self, input: Value) -> Node:
        return self._make("cosine", input)

    def erf(self, input: Value) -> Node:
        return self._make("error_function", input)

    def abs(self, input: Value) -> Node:
        return self._make("absolute", input)

    # ---- activations of torch.nn.functional; `inplace` changes a value that nobody else sees ----

    def relu(self, input: Value, inplace: bool = False) -> Node:
        return self.where(self.le(input, 0.0), 0.0, input)

    def relu6(self, input: Value, inplace: bool = False) -> Node:
        return self.hardtanh(input, 0.0, 6.0)

    def hardtanh(
        self, input: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
    ) -> Node:
        return self.clamp(input, min_val, max_val)

    def leaky_relu(self, input: Value, negative_slope: float = 0.01, inplace: bool = False) -> Node:
        return self.where(self.gt(input, 0.0), input, self.mul(input, negative_slope))

    def elu(self, input: Value, alpha: float = 1.0, inplace: bool = False) -> Node:
        if alpha == 1:
            return self._make("elu", input)
        below = self.mul(alpha, self._make("expm1_below", input))
        return self.where(self.gt(input, 0.0), input, below)

    def gelu(self, input: Value, approximate: str = "none") -> Node:
        if approximate == "tanh":
            cubic = self.mul(0.044715, self.mul(self.square(input), input))
            inner = self.tanh(self.mul(math.sqrt(2 / math.pi), self.add(input, cubic)))
        elif approximate == "none":
            inner = self.erf(self.mul(input, math.sqrt(0.5)))
        else:
            raise TypeError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
        return self.mul(self.mul(0.5, input), self.add(1.0, inner))

    def silu(self, input: Value, inplace: bool = False) -> Node:
        return self.mul(input, self.sigmoid(input))

    def softplus(self, input: Value, beta: float = 1.0, threshold: float = 20.0) -> Node:
        scaled = self.mul(input, beta)
        soft = self.div(self._make("softplus", scaled), beta)
        return self.where(self.gt(scaled, threshold), input, soft)

    def logsigmoid(self, input: Value) -> Node:
        return self.neg(self._make("softplus", self.neg(input)))

    def softsign(self, input: Value) -> Node:
        return self.div(input, self.add(1.0, self.abs(input)))

    # ---- choices ----

    def minimum(self, input: Value, other: Value) -> Node:
        return self._make("minimum", input, other)

    def maximum(self, input: Value, other: Value) -> Node:
        return self._make("maximum", input, other)

    def clamp(self, input: Value, min: float | None = None, max: float | None = None) -> Node:
        for bound in (min, max):
            if bound is not None and not isinstance(bound, int | float):
                raise TypeError("the bounds must be numbers; minimum and maximum take values")
        result = self.node(input)
        if min is not None:
            result = self.where(self.lt(result, min), min, result)
        return result if max is None else self.where(self.gt(result, max), max, result)

    def where(self, condition: Condition, input: Value, other: Value) -> Node:
        if not isinstance(condition, Condition):
            raise TypeError("the condition must be a comparison")
        return condition.select(self.node(input), self.node(other))

    def _compare(self, operation: str, a: Value, b: Value) -> Condition:
        mask = self._make(operation, a, b)
        return Condition(lambda yes, no: self.graph.where(mask, yes, no))

    def lt(self, input: Value, other: Value) -> Condition:
        return self._compare("less", input, other)

    def le(self, input: Value, other: Value) -> Condition:
        return self._compare("less_equal", input, other)

    def gt(self, input: Value, other: Value) -> Condition:
        return self.lt(other, input)

    def ge(self, input: Value, other: Value) -> Condition:
        return self.le(other, input)

    def eq(self, input: Value, other: Value) -> Condition:
        return self.and_(self.le(input, other), self.le(other, input))

    def ne(self, input: Value, other: Value) -> Condition:
        return self.invert(self.eq(input, other))

    def and_(self, input: Condition, other: Condition) -> Condition:
        a, b = self._conditions(input, other)
        return Condition(lambda yes, no: a.select(b.select(yes, no), no))

    def or_(self, input: Condition, other: Condition) -> Condition:
        a, b = self._conditions(input, other)
        return Condition(lambda yes, no: a.select(yes, b.select(yes, no)))

    def invert(self, input: Condition) -> Condition:
        (a,) = self._conditions(input)
        return Condition(lambda yes, no: a.select(no, yes))

    def _conditions(self, *values: object) -> tuple[Condition, ...]:
        conditions = tuple(value for value in values if isinstance(value, Condition))
        if len(conditions) < len(values):
            raise TypeError("logic takes comparisons, not values")
        return conditions


#: Other names of the same in torch, in its tensors and in Python's operators.
SAME = {
    "truediv": "div", "true_divide": "div", "divide": "div", "multiply": "mul", "subtract": "sub",
    "negative": "neg", "positive": "pos", "absolute": "abs", "expit": "sigmoid", "clip": "clamp",
    "log_sigmoid": "logsigmoid", "less": "lt", "less_equal": "le", "greater": "gt",
    "greater_equal": "ge", "not_equal": "ne",
    "logical_and": "and_", "logical_or": "or_", "logical_not": "invert", "bitwise_and": "and_",
    "bitwise_or": "or_", "bitwise_not": "invert", "max": "maximum", "min": "minimum",
}  # fmt: skip
