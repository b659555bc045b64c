"""torch.nn's recurrent and attention layers and cells, thin, on fastcells.functional."""

from .attention import AdditiveAttention, SelfAttention
from .cells import GRUCell, LSTMCell, RNNCell
from .elementwise import QRNN, RGLRU, DiagonalGRU, DiagonalLSTM, IndRNN, MinGRU, MinLSTM
from .freezing import freeze, frozen, unfreeze
from .multihead import MultiheadAttention
from .normalised import LayerNormGRU, LayerNormLSTM, LayerNormRNN
from .normalised_cells import LayerNormGRUCell, LayerNormLSTMCell, LayerNormRNNCell
from .peephole import PeepholeLSTM
from .quantized import quantize
from .recurrent import GRU, LSTM, RNN
from .sru import SRU

__all__ = [
    "GRU",
    "LSTM",
    "QRNN",
    "RGLRU",
    "RNN",
    "SRU",
    "AdditiveAttention",
    "DiagonalGRU",
    "DiagonalLSTM",
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
    "freeze",
    "frozen",
    "quantize",
    "unfreeze",
]
