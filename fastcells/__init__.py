"""Recurrent and attention layers in the place of torch.nn's, on compiled kernels."""

from . import functional, reference
from ._extension import FastcellsBuildWarning, is_compiled
from ._version import __version__
from .convert import ConversionReport, conversion_report, convert, patched_torch, to_torch
from .explain import explain
from .functional import additive_attention, linear_scan, scaled_dot_product_attention
from .layers import (
    GRU,
    LSTM,
    QRNN,
    RGLRU,
    RNN,
    SRU,
    AdditiveAttention,
    DiagonalGRU,
    DiagonalLSTM,
    GRUCell,
    IndRNN,
    LSTMCell,
    MinGRU,
    MinLSTM,
    MultiheadAttention,
    RNNCell,
    SelfAttention,
    freeze,
    frozen,
    quantize,
    unfreeze,
)

__all__ = [
    "GRU",
    "LSTM",
    "QRNN",
    "RGLRU",
    "RNN",
    "SRU",
    "AdditiveAttention",
    "ConversionReport",
    "DiagonalGRU",
    "DiagonalLSTM",
    "FastcellsBuildWarning",
    "GRUCell",
    "IndRNN",
    "LSTMCell",
    "MinGRU",
    "MinLSTM",
    "MultiheadAttention",
    "RNNCell",
    "SelfAttention",
    "__version__",
    "additive_attention",
    "conversion_report",
    "convert",
    "explain",
    "freeze",
    "frozen",
    "functional",
    "is_compiled",
    "linear_scan",
    "patched_torch",
    "quantize",
    "reference",
    "scaled_dot_product_attention",
    "to_torch",
    "unfreeze",
]
