"""Layers whose parameters have shapes of their own, with torch.nn.RNNBase's interface."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..checks.tensors import check_flag
from .recurrent_base import RecurrentLayer

__all__ = ["ShapedLayer"]


class ShapedLayer(RecurrentLayer):
    """A layer that says itself which parameters a direction of layer k has, by `_shapes`, and how
    they begin, by `_fill`. Their names get `_l{k}`, and `_reverse` behind the second direction's.
    """

    _instead_of_scripting = ""  # torch.nn has no such layer
    buffers_among_weights: tuple[str, ...] = ()

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

    def _make_weights(self, options: dict[str, Any]) -> None:
        for layer in range(self.num_layers):
            for suffix in ("", "_reverse")[: 1 + self.bidirectional]:
                names = []
                for name, shape in self._shapes(layer).items():
                    names.append(f"{name}_l{layer}{suffix}")
                    weight = torch.empty(shape, **options)
                    if name in self.buffers_among_weights:
                        self.register_buffer(names[-1], weight)
                    else:
                        self.register_parameter(names[-1], nn.Parameter(weight))
                self._flat_weights_names.extend(names)
                self._all_weights.append(names)

    def _input_width(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.hidden_size * (1 + self.bidirectional)

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Of the weights of one direction of a layer, by name."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Initial values: see the class."""
        for layer in range(self.num_layers):
            for suffix in ("", "_reverse")[: 1 + self.bidirectional]:
                found = {
                    name: getattr(self, f"{name}_l{layer}{suffix}") for name in self._shapes(layer)
                }
                with torch.no_grad():
                    self._fill(layer, **found)

    def _fill(self, layer: int, weight_ih: Tensor, **others: Tensor) -> None:
        """Initial values of one direction of a layer."""
        raise NotImplementedError
