"""What the layers of elementwise cells share: parameters of their own shapes, and one step."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from ..checks.tensors import check_flag
from .recurrent_base import RecurrentLayer, WithCellStates

__all__ = ["ElementwiseLayer", "ElementwiseLayerWithCell"]


class ElementwiseLayer(RecurrentLayer):
    """A layer without W_hh: `weight_ih_l{k}` `[G*H, I]`, `weight_hh_l{k}` `[V*H]` (V vectors of one
    value a unit; absent where V is 0), and with bias `bias_ih_l{k}` `[G*H]`; `_reverse` behind the
    names of the second direction's. Above the first layer I is D*H."""

    _instead_of_scripting = ""  # torch.nn has no such layer
    gates: int  # G
    unit_weights: int  # V

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        recompute: bool = False,
    ) -> None:
        check_flag(type(self).__name__, "recompute", recompute)
        nn.Module.__init__(self)  # torch.nn.RNNBase's own makes parameters of other shapes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # repeated below, for the caller's line
            like = nn.RNN(
                input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first,
                dropout=dropout, bidirectional=bidirectional, device="meta",
            )  # fmt: skip
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero "
                f"dropout expects num_layers greater than 1, but got dropout={dropout} and "
                f"num_layers={num_layers}",
                stacklevel=3,
            )
        for name in nn.RNNBase.__constants__:
            setattr(self, name, getattr(like, name))
        self.mode = type(self).__name__
        self.recompute = recompute
        self._flat_weights, self._flat_weights_names, self._all_weights = [], [], []
        self._make_weights({"device": device, "dtype": dtype})
        self._init_flat_weights()
        self.reset_parameters()

    def _make_weights(self, options: dict) -> None:
        for layer in range(self.num_layers):
            for suffix in ("", "_reverse")[: 1 + self.bidirectional]:
                names = []
                for name, shape in self._shapes(layer).items():
                    names.append(f"{name}_l{layer}{suffix}")
                    weight = torch.empty(shape, **options)
                    if name == "skip_scale":
                        self.register_buffer(names[-1], weight)
                    else:
                        self.register_parameter(names[-1], nn.Parameter(weight))
                self._flat_weights_names.extend(names)
                self._all_weights.append(names)

    def _input_width(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.hidden_size * (1 + self.bidirectional)

    def _gates_of(self, layer: int) -> int:
        return self.gates

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Of the weights of one direction of a layer, by name."""
        rows = self._gates_of(layer) * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, self._input_width(layer))}
        if self.unit_weights:
            shapes["weight_hh"] = (self.unit_weights * self.hidden_size,)
        if self.bias:
            shapes["bias_ih"] = (rows,)
        return shapes

    def reset_parameters(self) -> None:
        """W_ih and biases uniform in +-1/sqrt(I), as of torch.nn.Linear; see the class for the
        rest."""
        for layer in range(self.num_layers):
            for suffix in ("", "_reverse")[: 1 + self.bidirectional]:
                found = {
                    name: getattr(self, f"{name}_l{layer}{suffix}") for name in self._shapes(layer)
                }
                with torch.no_grad():
                    self._fill(layer, **found)

    def _fill(self, layer: int, weight_ih: Tensor, **others: Tensor) -> None:
        """Initial values of one direction of a layer."""
        bound = 1 / math.sqrt(self._input_width(layer))
        weight_ih.uniform_(-bound, bound)
        if "bias_ih" in others:
            others["bias_ih"].uniform_(-bound, bound)


class ElementwiseLayerWithCell(WithCellStates, ElementwiseLayer):
    """The same of a cell that has c besides h."""
