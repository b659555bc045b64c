"""Recurrent and attention layers in the place of torch.nn's, on compiled kernels."""

from . import functional, reference
from ._extension import FastcellsBuildWarning, is_compiled
from ._version import __version__
from .explain import explain
from .functional import additive_attention, scaled_dot_product_attention
from .layers import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "FastcellsBuildWarning",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "__version__",
    "additive_attention",
    "explain",
    "functional",
    "is_compiled",
    "reference",
    "scaled_dot_product_attention",
]
