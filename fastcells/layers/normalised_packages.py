"""Weights of normalised layers from other packages' state dicts, by the names of our parameters."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["custom_lstms_layers", "haste_gru", "haste_lstm"]


def _taken(name: str, state_dict: dict[str, Tensor], keys: tuple[str, ...]) -> list[Tensor]:
    """The tensors of these keys; nothing else may be there."""
    if set(state_dict) != set(keys):
        raise ValueError(
            f"{name}: state_dict must hold {', '.join(keys)} and nothing else, got "
            f"{', '.join(sorted(state_dict)) or 'nothing'}"
        )
    return [state_dict[key] for key in keys]


def _in_our_order(tensor: Tensor, order: tuple[int, ...], dim: int = -1) -> Tensor:
    """Blocks of gates along `dim`, block k of ours being block order[k] of theirs."""
    blocks = tensor.chunk(len(order), dim)
    return torch.cat([blocks[k] for k in order], dim)


def haste_lstm(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """haste's LayerNormLSTM: gates i, g, f, o; kernels transposed; one bias."""
    keys = ("kernel", "recurrent_kernel", "bias", "gamma", "gamma_h", "beta_h")
    kernel, recurrent, bias, gamma, gamma_h, beta_h = _taken("LayerNormLSTM", state_dict, keys)
    order = (0, 2, 1, 3)
    gains = _in_our_order(gamma, order)
    bias = _in_our_order(bias, order)
    return {
        "weight_ih": _in_our_order(kernel, order).t(),
        "weight_hh": _in_our_order(recurrent, order).t(),
        "bias_ih": bias,
        "bias_hh": torch.zeros_like(bias),
        "norm_ih": gains[0],
        "norm_hh": gains[1],
        "norm_c": gamma_h,
        "norm_c_bias": beta_h,
    }


def haste_gru(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """haste's LayerNormGRU: gates z, r, g; kernels transposed."""
    keys = ("kernel", "recurrent_kernel", "bias", "recurrent_bias", "gamma")
    kernel, recurrent, bias, recurrent_bias, gamma = _taken("LayerNormGRU", state_dict, keys)
    order = (1, 0, 2)
    gains = _in_our_order(gamma, order)
    return {
        "weight_ih": _in_our_order(kernel, order).t(),
        "weight_hh": _in_our_order(recurrent, order).t(),
        "bias_ih": _in_our_order(bias, order),
        "bias_hh": _in_our_order(recurrent_bias, order),
        "norm_ih": gains[0],
        "norm_hh": gains[1],
    }


_CUSTOM = ("weight_ih", "weight_hh") + tuple(
    f"layernorm_{which}.{part}" for which in "ihc" for part in ("weight", "bias")
)


def custom_lstms_layers(
    state_dict: dict[str, Tensor],
) -> tuple[list[dict[str, Tensor]], bool]:
    """torch's custom_lstms: the weights of each layer and direction, and whether there are two.

    A cell alone has its keys as they are, an LSTMLayer `cell.`, layers of a stack
    `layers.{k}.cell.` or `layers.{k}.directions.{d}.cell.` in front of them."""
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state_dict.items():
        own = next((own for own in _CUSTOM if key == own or key.endswith(f".{own}")), None)
        if own is None:
            raise ValueError(
                f"LayerNormLSTM: state_dict must hold {', '.join(_CUSTOM)} of each cell, got {key}"
            )
        grouped.setdefault(key[: len(key) - len(own)], {})[own] = tensor
    found = []
    for prefix in sorted(grouped, key=lambda p: [int(n) for n in p.split(".") if n.isdigit()]):
        parts = _taken("LayerNormLSTM", grouped[prefix], _CUSTOM)
        weight_ih, weight_hh, norm_ih, bias_ih, norm_hh, bias_hh, norm_c, norm_c_bias = parts
        found.append(
            {
                "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih,
                "bias_hh": bias_hh, "norm_ih": norm_ih, "norm_hh": norm_hh,
                "norm_carried_c": norm_c, "norm_c_bias": norm_c_bias,
            }
        )  # fmt: skip
    if not found:
        raise ValueError("LayerNormLSTM: state_dict is empty")
    return found, any(".directions." in f".{prefix}" for prefix in grouped)
