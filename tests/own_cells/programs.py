"""Random cells: a list of operations on the values there are, run on tensors or traced."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from fastcells.equations.derivative import differentiate
from fastcells.equations.saving import choose_kept
from fastcells.equations.specification import specify
from fastcells.equations.tracing import trace

#: Of two values and a number; what is not defined everywhere is held to where it is.
OPERATIONS = {
    "add": lambda a, b, k: a + b,
    "subtract": lambda a, b, k: a - k * b,
    "multiply": lambda a, b, k: a * b,
    "divide": lambda a, b, k: a / (1.5 + b * b),
    "reversed": lambda a, b, k: k - a,
    "negative": lambda a, b, k: -a,
    "square": lambda a, b, k: a**2,
    "power": lambda a, b, k: (0.5 + a * a) ** k,
    "power_of": lambda a, b, k: torch.pow(0.5 + a * a, b.tanh()),
    "inverse": lambda a, b, k: (1 + a * a) ** -2,
    "sigmoid": lambda a, b, k: torch.sigmoid(a),
    "tanh": lambda a, b, k: torch.tanh(a + k),
    "relu": lambda a, b, k: F.relu(a),
    "leaky_relu": lambda a, b, k: F.leaky_relu(a, 0.1 * k),
    "elu": lambda a, b, k: F.elu(a),
    "elu_scaled": lambda a, b, k: F.elu(a, alpha=0.5 + k * k),
    "gelu": lambda a, b, k: F.gelu(a),
    "gelu_tanh": lambda a, b, k: F.gelu(a, approximate="tanh"),
    "silu": lambda a, b, k: F.silu(a),
    "softplus": lambda a, b, k: F.softplus(a, beta=0.5 + k * k),
    "exp": lambda a, b, k: torch.exp(torch.clamp(a, -3, 1)),
    "log": lambda a, b, k: torch.log(0.5 + a * a),
    "sqrt": lambda a, b, k: (0.5 + a * a).sqrt(),
    "rsqrt": lambda a, b, k: torch.rsqrt(0.5 + a * a),
    "sin": lambda a, b, k: torch.sin(a),
    "cos": lambda a, b, k: a.cos(),
    "erf": lambda a, b, k: torch.erf(a),
    "abs": lambda a, b, k: abs(a),
    "minimum": lambda a, b, k: torch.minimum(a, b),
    "maximum": lambda a, b, k: torch.maximum(a, b),
    "clamp": lambda a, b, k: a.clamp(min=-0.4, max=0.5),
    "where": lambda a, b, k: torch.where(a > b, a * k, b),
    "where_both": lambda a, b, k: torch.where((a < b) & ~(b >= k), a, b * b),
    "mask": lambda a, b, k: (a <= k) * b,
    "lerp": lambda a, b, k: torch.lerp(a, b, torch.sigmoid(b)),
}


@dataclass(frozen=True)
class Program:
    """Steps (operation, value, value, number); values are counted from the arguments' on."""

    recurrent: str
    steps: tuple[tuple[str, int, int, float], ...]

    def specification(self):
        def random_cell(x, h, state, p):
            arguments = [x.a, x.b, h.a, h.b, h.prev, state.c, p.w]
            values = list(arguments)
            for operation, first, second, number in self.steps:
                a, b = values[first % len(values)], values[second % len(values)]
                values.append(torch.tanh(OPERATIONS[operation](a, b, number)))
            everything = sum(0.1 * value for value in arguments)
            return values[-1] + everything, values[-2] - everything * values[-1]

        return specify(random_cell, "a b", self.recurrent, None, "c", {"w": 0.5}, {})


@dataclass(frozen=True)
class Worked:
    """A cell through all that is made of it, with numbers for its leaves."""

    specification: object
    equations: object
    gradients: dict
    kept: object
    leaves: dict  # (kind, index) -> float64 tensor, those of `d` among them
    results: list  # by the function itself, and
    expected: dict  # autograd's gradients of the leaves


def work(program, count=5):
    specification = program.specification()
    equations = trace(specification)
    gradients = differentiate(equations)
    kept = choose_kept(equations, gradients)
    vector = specification.recurrent == "vector"
    keys = [("x", 0), ("x", 1), ("state", 0), ("state", 1)]
    keys += [("u", k) for k in range(3)] if vector else [("h", 0), ("h", 1), ("u", 0)]
    leaves = {key: torch.randn(count, dtype=torch.float64).requires_grad_() for key in keys}
    x = specification.types["x"](leaves["x", 0], leaves["x", 1])
    prev = leaves["state", 0]
    if vector:
        recurrent = (leaves["u", 0] * prev, leaves["u", 1] * prev, prev)
    else:
        recurrent = (leaves["h", 0], leaves["h", 1], prev)
    parameter = leaves["u", 2 if vector else 0]
    results = specification.function(
        x, specification.types["h"](*recurrent), specification.types["state"](leaves["state", 1]),
        specification.types["p"](parameter),
    )  # fmt: skip
    incoming = [torch.randn(count, dtype=torch.float64) for _ in results]
    found = torch.autograd.grad(results, list(leaves.values()), incoming)
    expected = dict(zip(leaves, found, strict=True))
    leaves = {key: leaf.detach() for key, leaf in leaves.items()}
    leaves |= {("d", k): given for k, given in enumerate(incoming)}
    return Worked(
        specification, equations, gradients, kept, leaves, [r.detach() for r in results], expected
    )
