"""torch.nn's recurrent and attention layers and cells, thin, on fastcells.functional."""

from .attention import AdditiveAttention, SelfAttention
from .cells import GRUCell, LSTMCell, RNNCell
from .freezing import freeze, frozen, unfreeze
from .multihead import MultiheadAttention
from .quantized import quantize
from .recurrent import GRU, LSTM, RNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdditiveAttention",
    "GRUCell",
    "LSTMCell",
    "MultiheadAttention",
    "RNNCell",
    "SelfAttention",
    "freeze",
    "frozen",
    "quantize",
    "unfreeze",
]
