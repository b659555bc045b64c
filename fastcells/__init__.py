"""Recurrent and attention layers in the place of torch.nn's, on compiled kernels."""

import importlib

from . import functional, keras, onnx, reference
from ._extension import FastcellsBuildWarning, is_compiled
from ._version import __version__
from .convert import ConversionReport, conversion_report, convert, patched_torch, to_torch
from .equations import CellError, cell
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
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LayerNormRNN,
    LayerNormRNNCell,
    LSTMCell,
    MinGRU,
    MinLSTM,
    MultiheadAttention,
    PeepholeLSTM,
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
    "CellError",
    "ConversionReport",
    "DiagonalGRU",
    "DiagonalLSTM",
    "FastcellsBuildWarning",
    "GRUCell",
    "IndRNN",
    "LSTMCell",
    "LayerNormGRU",
    "LayerNormGRUCell",
    "LayerNormLSTM",
    "LayerNormLSTMCell",
    "LayerNormRNN",
    "LayerNormRNNCell",
    "MinGRU",
    "MinLSTM",
    "MultiheadAttention",
    "PeepholeLSTM",
    "RNNCell",
    "SelfAttention",
    "__version__",
    "additive_attention",
    "cell",
    "cells",
    "conversion_report",
    "convert",
    "explain",
    "freeze",
    "frozen",
    "functional",
    "is_compiled",
    "keras",
    "linear_scan",
    "onnx",
    "patched_torch",
    "quantize",
    "reference",
    "scaled_dot_product_attention",
    "to_torch",
    "unfreeze",
]


def __getattr__(name: str) -> object:
    """`fastcells.cells`, whose equations are traced when it is first asked for."""
    if name == "cells":
        return importlib.import_module(".cells", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
