"""The stateless API: the functions behind the layers."""

from .attention import additive_attention, scaled_dot_product_attention
from .recurrent import gru, gru_cell, lstm, lstm_cell, rnn, rnn_cell
from .scan import linear_scan

__all__ = [
    "additive_attention",
    "gru",
    "gru_cell",
    "linear_scan",
    "lstm",
    "lstm_cell",
    "rnn",
    "rnn_cell",
    "scaled_dot_product_attention",
]
