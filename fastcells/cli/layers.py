"""The layers that the command line knows by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import fastcells

__all__ = ["DTYPES", "RECURRENT", "TORCH"]

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
}
RECURRENT: dict[str, Callable[..., Any]] = {
    "lstm": fastcells.LSTM,
    "gru": fastcells.GRU,
    "rnn": fastcells.RNN,
    "rnn_relu": partial(fastcells.RNN, nonlinearity="relu"),
    "gru_reset_before": partial(fastcells.GRU, variant="reset_before"),
    "gru_article": partial(fastcells.GRU, variant="article"),
    "layer_norm_lstm": fastcells.LayerNormLSTM,
    "layer_norm_gru": fastcells.LayerNormGRU,
    "layer_norm_rnn": fastcells.LayerNormRNN,
    "peephole_lstm": fastcells.PeepholeLSTM,
    "indrnn": fastcells.IndRNN,
    "sru": fastcells.SRU,
    "qrnn": fastcells.QRNN,
    "min_gru": fastcells.MinGRU,
    "min_lstm": fastcells.MinLSTM,
    "rg_lru": fastcells.RGLRU,
    "diagonal_gru": fastcells.DiagonalGRU,
    "diagonal_lstm": fastcells.DiagonalLSTM,
}
#: Those that torch.nn has, as torch.nn has them.
TORCH: dict[str, Callable[..., Any]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
    "rnn_relu": partial(nn.RNN, nonlinearity="relu"),
}
