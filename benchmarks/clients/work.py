"""What a client is: a package's own model, and one piece of work on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Work:
    """A model that was built, and a call that may be repeated.

    `run` returns tensors or arrays, nested: all that two builds of one seed are compared by.
    `model` is asked after the first run, by when packages that build late have built.
    """

    run: Callable[[], Any]
    model: Callable[[], nn.Module]


@dataclass(frozen=True)
class Client:
    """A model of a package; `build` imports it."""

    package: str  # as pip knows it
    name: str
    passes: str  # "inference" or "training"
    way: str  # "convert", or "patched_torch": around build and first run
    build: Callable[[], Work]
    tolerance: float  # of the results, relative to the largest of each tensor


def training(model: nn.Module, *inputs: Any) -> Work:
    """Forward and backward of the mean square of the results; the gradients are compared, too."""

    def run() -> Any:
        output = model(*inputs)
        output.square().mean().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        model.zero_grad(set_to_none=True)
        return [output.detach(), *gradients]

    return Work(run, lambda: model)
