"""RNN, LSTM and GRU that are instances of torch.nn's classes, too, which torch.compile refuses.

:func:`fastcells.convert` makes them, of layers that torch.nn's constructors have built.
"""

from __future__ import annotations

from torch import nn

from .recurrent import GRU, LSTM, RNN

__all__ = ["TorchGRU", "TorchLSTM", "TorchRNN"]


class TorchRNN(RNN, nn.RNN):  # type: ignore[misc]  # forward takes lengths and resets, too
    """fastcells.RNN that is an instance of torch.nn.RNN; constructed as that."""

    __init__ = nn.RNN.__init__


class TorchLSTM(LSTM, nn.LSTM):
    """fastcells.LSTM that is an instance of torch.nn.LSTM; constructed as that."""

    __init__ = nn.LSTM.__init__


class TorchGRU(GRU, nn.GRU):  # type: ignore[misc]  # likewise
    """fastcells.GRU that is an instance of torch.nn.GRU; constructed as that."""

    __init__ = nn.GRU.__init__
