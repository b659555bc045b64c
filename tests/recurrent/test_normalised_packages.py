"""Weights of haste's and of torch's custom_lstms' normalised layers give their outputs."""

import pytest
import torch
from torch.nn.functional import layer_norm

import fastcells


def test_hastes_weights_give_hastes_outputs():
    """haste's forms: kernels [I, G*H], one order of gates, LN without a shift."""
    I, H, T, B = 3, 5, 6, 2
    x = torch.randn(T, B, I)
    state = {
        "kernel": torch.randn(I, 4 * H), "recurrent_kernel": torch.randn(H, 4 * H),
        "bias": torch.randn(4 * H), "gamma": torch.randn(2, 4 * H), "gamma_h": torch.randn(H),
        "beta_h": torch.randn(H),
    }  # fmt: skip
    h = c = torch.zeros(B, H)
    expected = []
    for t in range(T):
        v = layer_norm(x[t] @ state["kernel"], (4 * H,), state["gamma"][0]) + state["bias"]
        v = v + layer_norm(h @ state["recurrent_kernel"], (4 * H,), state["gamma"][1])
        i, g, f, o = v.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(layer_norm(c, (H,), state["gamma_h"], state["beta_h"]))
        expected.append(h)
    found, _ = fastcells.LayerNormLSTM.from_haste(state)(x)
    torch.testing.assert_close(found, torch.stack(expected))
    with pytest.raises(ValueError, match="must hold kernel, recurrent_kernel, bias, gamma"):
        fastcells.LayerNormLSTM.from_haste({"kernel": state["kernel"]})


def test_hastes_gru():
    I, H, T, B = 3, 5, 6, 2
    x = torch.randn(T, B, I)
    state = {
        "kernel": torch.randn(I, 3 * H), "recurrent_kernel": torch.randn(H, 3 * H),
        "bias": torch.randn(3 * H), "recurrent_bias": torch.randn(3 * H),
        "gamma": torch.randn(2, 3 * H),
    }  # fmt: skip
    h, expected = torch.zeros(B, H), []
    for t in range(T):
        vx = layer_norm(x[t] @ state["kernel"], (3 * H,), state["gamma"][0]) + state["bias"]
        vh = layer_norm(h @ state["recurrent_kernel"], (3 * H,), state["gamma"][1])
        (zx, rx, gx), (zh, rh, gh) = vx.chunk(3, 1), (vh + state["recurrent_bias"]).chunk(3, 1)
        z = torch.sigmoid(zx + zh)
        h = z * h + (1 - z) * torch.tanh(gx + torch.sigmoid(rx + rh) * gh)
        expected.append(h)
    found, _ = fastcells.LayerNormGRU.from_haste(state)(x)
    torch.testing.assert_close(found, torch.stack(expected))


def custom_state(I, H):
    state = {"weight_ih": torch.randn(4 * H, I), "weight_hh": torch.randn(4 * H, H)}
    for which, width in (("i", 4 * H), ("h", 4 * H), ("c", H)):
        state |= {f"layernorm_{which}.{part}": torch.randn(width) for part in ("weight", "bias")}
    return state


def run_custom(state, x):
    """A layer of torch's benchmarks/fastrnns/custom_lstms.py: c itself is normalised."""
    H = state["weight_hh"].shape[1]
    h = c = torch.zeros(x.shape[1], H)
    outputs = []

    def norm(v, which):
        shift = state[f"layernorm_{which}.bias"]
        return layer_norm(v, v.shape[-1:], state[f"layernorm_{which}.weight"], shift)

    for step in x:
        v = norm(step @ state["weight_ih"].t(), "i") + norm(h @ state["weight_hh"].t(), "h")
        i, f, g, o = v.chunk(4, 1)
        c = norm(torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g), "c")
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs), c


def test_custom_lstms_weights_give_its_outputs():
    cells = [custom_state(3, 4), custom_state(4, 4)]
    x = torch.randn(6, 2, 3)
    middle, c_first = run_custom(cells[0], x)
    expected, c_last = run_custom(cells[1], middle)
    stack = {f"layers.{k}.cell.{n}": w for k, cell in enumerate(cells) for n, w in cell.items()}
    found, (_, c_n) = fastcells.LayerNormLSTM.from_custom_lstms(stack)(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(c_n, torch.stack([c_first, c_last]))
    one, _ = fastcells.LayerNormLSTM.from_custom_lstms(cells[0])(x)
    torch.testing.assert_close(one, middle)
    both = {f"layers.0.directions.{d}.cell.{n}": w for d in (0, 1) for n, w in cells[0].items()}
    two, _ = fastcells.LayerNormLSTM.from_custom_lstms(both)(x)
    backward = run_custom(cells[0], x.flip(0))[0].flip(0)
    torch.testing.assert_close(two, torch.cat([middle, backward], -1))
    with pytest.raises(ValueError, match=r"got layers\.0\.cell\.bias"):
        fastcells.LayerNormLSTM.from_custom_lstms({"layers.0.cell.bias": x})
