"""What the layers of elementwise cells share: parameters of their own shapes, and one step."""

from __future__ import annotations

import math

from torch import Tensor

from .recurrent_base import WithCellStates
from .shaped import ShapedLayer

__all__ = ["ElementwiseLayer", "ElementwiseLayerWithCell"]


class ElementwiseLayer(ShapedLayer):
    """A layer without W_hh: `weight_ih_l{k}` `[G*H, I]`, `weight_hh_l{k}` `[V*H]` (V vectors of one
    value a unit; absent where V is 0), and with bias `bias_ih_l{k}` `[G*H]`; `_reverse` behind the
    names of the second direction's. Above the first layer I is D*H."""

    gates: int  # G
    unit_weights: int  # V
    buffers_among_weights = ("skip_scale",)

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

    def _fill(self, layer: int, weight_ih: Tensor, **others: Tensor) -> None:
        """W_ih and biases uniform in +-1/sqrt(I), as of torch.nn.Linear; see the class for the
        rest."""
        bound = 1 / math.sqrt(self._input_width(layer))
        weight_ih.uniform_(-bound, bound)
        if "bias_ih" in others:
            others["bias_ih"].uniform_(-bound, bound)


class ElementwiseLayerWithCell(WithCellStates, ElementwiseLayer):
    """The same of a cell that has c besides h."""
