"""Weights of other packages in the layers of elementwise cells, and how these start."""

import math
import re

import pytest
import torch
from torch import nn

import fastcells
from pairs import B, H, I, T, float64


def assert_near(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_min_layers_take_the_weights_of_mingru_pytorch():
    weight = torch.randn(2 * H, I, **float64)
    layer = fastcells.MinGRU.from_mingru_pytorch({"to_hidden_and_gate.weight": weight})
    x = torch.randn(B, T, I, **float64)
    hidden, gate = (x @ weight.T).chunk(2, dim=-1)  # the package's sequential form
    h = torch.zeros(B, H, **float64)
    for t in range(T):
        candidate = torch.where(hidden[:, t] >= 0, hidden[:, t] + 0.5, hidden[:, t].sigmoid())
        h = torch.lerp(h, candidate, gate[:, t].sigmoid())
        assert_near(layer(x)[0][:, t], h)
    weight = torch.randn(3 * H, I, **float64)
    layer = fastcells.MinLSTM.from_mingru_pytorch({"to_hidden_and_f_i_gate.weight": weight})
    hidden, f, i = (x @ weight.T).chunk(3, dim=-1)
    f, i = f.sigmoid(), i.sigmoid()
    h = torch.zeros(B, H, **float64)
    for t in range(T):
        candidate = torch.where(hidden[:, t] >= 0, hidden[:, t] + 0.5, hidden[:, t].sigmoid())
        h = h * (f / (f + i))[:, t] + candidate * (i / (f + i))[:, t]
        assert_near(layer(x)[0][:, t], h)
    with pytest.raises(ValueError, match=re.escape("to_hidden_and_gate.weight of shape (2*H, I)")):
        fastcells.MinGRU.from_mingru_pytorch({"weight": weight})


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both_ways"])
def test_sru_takes_the_weights_of_its_package(bidirectional):
    """Against the package's recurrence, on its layout: the columns of a unit side by side."""
    D, layers = 1 + bidirectional, 2
    state, x = {}, torch.randn(T, B, I, **float64)
    h = x
    for k in range(layers):
        width = h.shape[-1]
        columns = 3 if width == D * H else 4
        weight = torch.randn(width, D * H * columns, **float64)
        weight_c, bias = torch.randn(2 * D * H, **float64), torch.randn(2 * D * H, **float64)
        scale = torch.tensor([1.7], **float64)
        for name, value in {
            "weight": weight, "weight_c": weight_c, "bias": bias, "scale_x": scale
        }.items():  # fmt: skip
            state[f"rnn_lst.{k}.{name}"] = value
        u = (h.flatten(0, 1) @ weight).view(T, B, D, H, columns)
        (v_f, v_r), (b_f, b_r) = weight_c.view(2, D, H), bias.view(2, D, H)
        skip = h.view(T, B, D, H) * scale if columns == 3 else u[..., 3]
        outputs = torch.zeros(T, B, D, H, **float64)
        for d in range(D):
            c = torch.zeros(B, H, **float64)
            for t in reversed(range(T)) if d else range(T):
                f = (u[t, :, d, :, 1] + b_f[d] + c * v_f[d]).sigmoid()
                r = (u[t, :, d, :, 2] + b_r[d] + c * v_r[d]).sigmoid()
                c = u[t, :, d, :, 0] + (c - u[t, :, d, :, 0]) * f
                outputs[t, :, d] = skip[t, :, d] + (c - skip[t, :, d]) * r
        h = outputs.flatten(2)
    layer = fastcells.SRU.from_sru(state, bidirectional=bidirectional)
    assert_near(layer(x)[0], h)
    with pytest.raises(ValueError, match="SRU: state_dict must hold weight, weight_c, bias and"):
        fastcells.SRU.from_sru({"rnn_lst.0.weight": state["rnn_lst.0.weight"]})


def test_sru_starts_as_its_package_does():
    torch.manual_seed(0)
    layer = fastcells.SRU(300, 300, num_layers=1, highway_bias=-2.0)
    weight, alpha = layer.weight_ih_l0.detach(), math.sqrt(1 + 2 * math.exp(-2.0))
    assert weight[:300].var().item() == pytest.approx(1 / 300, rel=0.05)
    assert weight[300:].var().item() == pytest.approx(0.5 / 300, rel=0.05)
    assert layer.weight_hh_l0.var().item() == pytest.approx(0.5, rel=0.15)
    assert torch.equal(layer.skip_scale_l0, torch.full((300,), alpha))
    assert layer.bias_ih_l0[600:].eq(-2).all() and layer.bias_ih_l0[:600].eq(0).all()
    assert isinstance(layer, nn.RNNBase) and "skip_scale_l0" not in dict(layer.named_parameters())


def test_rg_lru_starts_with_long_memories():
    layer = fastcells.RGLRU(400, 400)
    a = torch.exp(-8 * torch.nn.functional.softplus(layer.weight_hh_l0.detach()))
    assert a.min() >= 0.9 - 1e-4 and a.max() <= 0.999 + 1e-4 and a.std() > 0.02
