"""RNN, LSTM and GRU layers in the place of torch.nn's, on compiled kernels."""

from . import functional, reference
from ._extension import FastcellsBuildWarning, is_compiled
from ._version import __version__
from .explain import explain
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
    "explain",
    "functional",
    "is_compiled",
    "reference",
]
