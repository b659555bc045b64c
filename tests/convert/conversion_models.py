"""Layers of torch.nn to convert, with an input for each, and one model that holds all kinds."""

import torch
from torch import nn

from pairs import CELLS, LAYERS, B, H, I, T

KINDS = (*LAYERS, *CELLS, "MultiheadAttention")


def make_layer(kind, **options):
    """A float64 layer of torch.nn, and the arguments of a call."""
    options = {"dtype": torch.float64, **options}
    if kind == "MultiheadAttention":
        x = torch.randn(T, B, H, dtype=torch.float64)
        return nn.MultiheadAttention(H, 2, **options), (x, x, x)
    shape = (B, I) if kind in CELLS else (T, B, I)
    return getattr(nn, kind)(I, H, **options), (torch.randn(shape, dtype=torch.float64),)


class Model(nn.Module):
    """Every kind once, and an LSTM in two places."""

    def __init__(self):
        super().__init__()
        double = {"dtype": torch.float64}
        self.lstm = nn.LSTM(I, H, num_layers=2, bidirectional=True, **double)
        self.layers = nn.ModuleList(
            [nn.GRU(2 * H, H, **double), nn.RNN(H, H, nonlinearity="relu", **double)]
        )
        self.again = nn.ModuleDict({"lstm": self.lstm})
        self.attention = nn.MultiheadAttention(H, 2, **double)
        self.cells = nn.ModuleList(
            [nn.RNNCell(H, H, **double), nn.GRUCell(H, H, **double), nn.LSTMCell(H, H, **double)]
        )

    def forward(self, x):
        x = self.lstm(x)[0] + self.again["lstm"](x)[0]
        x = self.layers[1](self.layers[0](x)[0])[0]
        h = self.attention(x, x, x)[0].mean(0)
        for cell in self.cells[:2]:
            h = cell(h)
        return self.cells[2](h)[0]
