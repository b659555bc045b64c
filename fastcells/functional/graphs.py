"""What torch.fx and torch.jit meet in the place of a call.

torch.fx traces into every module that is not torch's own, and calls it with proxies. A layer of
fastcells is a leaf all the same, as torch.nn's is: it puts one node for itself into the graph. So
does a function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.fx import Proxy
from torch.fx.proxy import TraceError

__all__ = ["Proxy", "Unscriptable", "function_node", "module_node"]


def _arguments_of(call: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Those of `given` (a function's locals() before its first statement) that are no defaults."""
    parameters = inspect.signature(call).parameters
    return {name: given[name] for name, p in parameters.items() if given[name] is not p.default}


def _node(
    tracer: Any, kind: str, target: Any, call: Callable[..., Any], given: dict[str, Any]
) -> Any:
    named = _arguments_of(call, given)
    first = next(iter(inspect.signature(call).parameters))  # as torch.fx has it of nn's layers
    return tracer.create_proxy(kind, target, (named.pop(first),), named)


def function_node(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """One node for a call of `function` whose first argument is a proxy."""
    tracer = next(value.tracer for value in given.values() if isinstance(value, Proxy))
    return _node(tracer, "call_function", function, function, given)


def module_node(module: nn.Module, given: dict[str, Any]) -> Any:
    """One node for a call of a layer's forward with proxies; `given` are its locals()."""
    forward = type(module).forward
    if not forward.__module__.startswith(__name__.partition(".")[0] + "."):
        raise TraceError(
            f"torch.fx cannot trace into {type(module).__name__}, a subclass of a fastcells layer "
            "with a forward of its own: its layer's call stands in the graph as one node, which "
            "would call this forward again. Trace with a torch.fx.Tracer whose is_leaf_module is "
            "True for it"
        )
    tracer: Any = next(value.tracer for value in given.values() if isinstance(value, Proxy))
    path = tracer.path_of_module(module)
    if not path:
        raise TraceError(
            f"torch.fx cannot trace into {type(module).__name__}: a layer of fastcells is one node "
            "of the graph. Trace the module that holds it, or torch.nn.Sequential(layer)"
        )
    return _node(tracer, "call_module", path, module.forward, given)


class Unscriptable:
    """A layer that torch.jit.script refuses in its first line."""

    _instead_of_scripting = (
        ", or script the model with torch.nn's layer, which has the same state_dict"
    )

    def __prepare_scriptable__(self) -> nn.Module:
        raise NotImplementedError(
            f"torch.jit.script cannot compile {type(self).__name__}, a layer of fastcells, whose "
            "kernels are chosen in Python at each call. Use torch.compile, torch.export.export or "
            f"torch.jit.trace{self._instead_of_scripting}"
        )
