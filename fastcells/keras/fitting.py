"""What a layer's parameters are in Keras' weights, and whether the two compute the same.

Keras' kernels are `[I, G*H]`, and multiply from the right; torch's are `[G*H, I]`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..layers import SelfAttention
from .files import KerasLayer

__all__ = ["described", "weights_of"]

#: {parameter: (its values, what they were in Keras)}.
Weights = dict[str, tuple[Tensor, str]]

#: Of torch's modes the layer of Keras, and its gate blocks in torch's order.
RECURRENT = {
    "RNN_TANH": ("SimpleRNN", (0,)),
    "RNN_RELU": ("SimpleRNN", (0,)),
    "LSTM": ("LSTM", (0, 1, 2, 3)),
    "GRU": ("GRU", (1, 0, 2)),
}

#: Simple layers: that of Keras, and the parameters in the order of its weights.
SIMPLE = {
    nn.Linear: ("Dense", ("weight", "bias")),
    nn.Embedding: ("Embedding", ("weight",)),
    nn.LayerNorm: ("LayerNormalization", ("weight", "bias")),
}

#: Names of fastcells' activations that are others in Keras.
ACTIVATIONS = {"linear": "identity"}


def described(source: KerasLayer) -> str:
    """A layer of Keras in an error."""
    if not source.name:
        return "the list of arrays"
    return f"Keras' {source.kind or 'layer'} {source.name!r}"


def weights_of(layer: nn.Module, sources: list[KerasLayer]) -> Weights:
    """The parameters of a layer of torch or fastcells."""
    sources = [_unwrapped(source) for source in sources]
    for source in sources:
        if not source.weights:
            raise ValueError(f"fastcells.keras: {described(source)} has no weights. Build it first")
    if _mode(layer) in RECURRENT:
        return _recurrent(layer, sources)
    if isinstance(layer, SelfAttention):
        return _self_attention(layer, sources)
    one = _only(layer, sources)
    if isinstance(layer, nn.MultiheadAttention):
        return _multihead(layer, one)
    for kind, (keras_kind, names) in SIMPLE.items():
        if isinstance(layer, kind):
            _check_kind(layer, one, keras_kind)
            return _named(one, names, transposed=kind is nn.Linear)
    raise TypeError(
        f"fastcells.keras: no layer of Keras is known for {type(layer).__name__}. Known are RNN, "
        "LSTM, GRU and their cells, MultiheadAttention, SelfAttention, Linear, Embedding and "
        "LayerNorm"
    )


def _mode(layer: nn.Module) -> str:
    if isinstance(layer, nn.RNNBase):
        return layer.mode
    if isinstance(layer, nn.RNNCell):
        return f"RNN_{layer.nonlinearity.upper()}"
    if isinstance(layer, nn.RNNCellBase):
        return type(layer).__name__.removesuffix("Cell")
    return ""


def _unwrapped(source: KerasLayer) -> KerasLayer:
    if source.kind != "TimeDistributed":
        return source
    inner = source.config["layer"]
    return source._replace(kind=inner["class_name"], config=inner["config"])


def _tensor(array: Any) -> Tensor:
    """In float64 where it was that, else in float32, which every other dtype of Keras fits into."""
    if isinstance(array, Tensor):
        return array.detach()
    return torch.as_tensor(array.astype("float64" if array.dtype == "float64" else "float32"))


def _only(layer: nn.Module, sources: list[KerasLayer]) -> KerasLayer:
    if len(sources) != 1:
        raise ValueError(
            f"fastcells.keras: {type(layer).__name__} takes one layer of Keras, got {len(sources)}"
        )
    return sources[0]


def _check_kind(layer: nn.Module, source: KerasLayer, kind: str) -> None:
    if source.kind and source.kind != kind:
        raise ValueError(
            f"fastcells.keras: {type(layer).__name__} takes the weights of Keras' {kind}, got "
            f"{described(source)}"
        )


def _check_config(layer: nn.Module, source: KerasLayer, **expected: Any) -> None:
    """What a configuration must say, where there is one."""
    for name, value in expected.items():
        given = source.config.get(name, value)
        if given != value:
            raise ValueError(
                f"fastcells.keras: {described(source)} has {name}={given!r}, where "
                f"{type(layer).__name__} computes as with {name}={value!r}"
            )


def _named(source: KerasLayer, names: tuple[str, ...], transposed: bool) -> Weights:
    if len(source.weights) > len(names):
        raise ValueError(
            f"fastcells.keras: {described(source)} has {len(source.weights)} weights, expected "
            f"{' and '.join(names)} at most"
        )
    tensors = [_tensor(array) for array in source.weights]
    if transposed:
        tensors[0] = tensors[0].t()
    told = f"a weight of {described(source)}"
    return {name: (tensor, told) for name, tensor in zip(names, tensors, strict=False)}


# ---- RNN, LSTM, GRU ----


def _recurrent(layer: nn.Module, sources: list[KerasLayer]) -> Weights:
    is_cell = isinstance(layer, nn.RNNCellBase)
    count = 1 if is_cell else layer.num_layers
    directions = 2 if getattr(layer, "bidirectional", False) else 1
    if len(sources) != count:
        flat = len(sources) == 1 and not sources[0].name
        raise ValueError(
            f"fastcells.keras: {type(layer).__name__} has num_layers={count}, and takes as many "
            f"layers of Keras, got {len(sources)}"
            + (f" list of {len(sources[0].weights)} arrays: give a list for each" if flat else "")
        )
    found: Weights = {}
    for k, source in enumerate(sources):
        suffix = "" if is_cell else f"_l{k}"
        halves = _directions(layer, source, directions)
        for half, own in zip(halves, (suffix, f"{suffix}_reverse"), strict=False):
            for name, value in _direction(layer, half).items():
                found[f"{name}{own}"] = value
    return found


def _directions(layer: nn.Module, source: KerasLayer, directions: int) -> list[KerasLayer]:
    """The layers inside a Bidirectional, or the layer itself."""
    kind, _ = RECURRENT[_mode(layer)]
    is_pair = source.kind == "Bidirectional" or (not source.kind and len(source.weights) > 3)
    if source.kind not in ("", "Bidirectional"):
        _check_kind(layer, source, kind)
    if is_pair != (directions == 2):
        raise ValueError(
            f"fastcells.keras: {described(source)} has {'both directions' if is_pair else 'one'}, "
            f"{type(layer).__name__} has bidirectional={directions == 2}"
        )
    if not is_pair:
        _check_config(layer, source, go_backwards=False)
        return [source]
    half = len(source.weights) // 2
    parts = (source.weights[:half], source.weights[half:])
    if not source.kind:
        return [source._replace(weights=part) for part in parts]
    _check_config(layer, source, merge_mode="concat")
    forward = source.config["layer"]
    inner = (forward, source.config.get("backward_layer") or forward)
    both = [
        KerasLayer(source.name, one["class_name"], one["config"], part)
        for one, part in zip(inner, parts, strict=True)
    ]
    for one in both:
        _check_kind(layer, one, kind)
    _check_config(layer, both[0], go_backwards=False)
    return both


def _direction(layer: nn.Module, source: KerasLayer) -> Weights:
    """weight_ih, weight_hh, bias_ih and bias_hh of one layer of Keras."""
    mode = _mode(layer)
    _, blocks = RECURRENT[mode]
    _check_config(layer, source, activation="relu" if mode == "RNN_RELU" else "tanh")
    if len(blocks) > 1:
        _check_config(layer, source, recurrent_activation="sigmoid")
    if len(source.weights) not in (2, 3):
        raise ValueError(
            f"fastcells.keras: {described(source)} has {len(source.weights)} weights a direction, "
            "expected kernel, recurrent kernel and, where it has one, bias"
        )
    if mode == "GRU":
        _check_variant(layer, source)
    kernel, recurrent, *bias = (_tensor(array) for array in source.weights)
    told = described(source)
    found = {
        "weight_ih": (_in_order(kernel.t(), blocks), f"the kernel of {told}"),
        "weight_hh": (_in_order(recurrent.t(), blocks), f"the recurrent kernel of {told}"),
    }
    if bias:
        is_pair = bias[0].dim() == 2 and len(bias[0]) == 2
        both = bias[0] if is_pair else (bias[0], torch.zeros_like(bias[0]))
        for name, part in zip(("bias_ih", "bias_hh"), both, strict=True):
            found[name] = (_in_order(part, blocks), f"the bias of {told}")
    return found


def _check_variant(layer: nn.Module, source: KerasLayer) -> None:
    """A GRU without bias, in a list of arrays, does not say which it is."""
    variant = getattr(layer, "variant", "reset_after")
    is_after = source.config.get("reset_after")
    if is_after is None and len(source.weights) == 3:
        is_after = len(source.weights[2].shape) == 2
    if is_after is None:
        is_after = variant == "reset_after"
    wanted = "reset_after" if is_after else "reset_before"
    if variant != wanted:
        raise ValueError(
            f"fastcells.keras: {described(source)} has reset_after={is_after}, which is "
            f"variant={wanted!r} of fastcells.GRU; this {type(layer).__name__} has {variant!r}"
        )


def _in_order(rows: Tensor, blocks: tuple[int, ...]) -> Tensor:
    parts = rows.chunk(len(blocks))
    return torch.cat([parts[k] for k in blocks]) if len(parts) == len(blocks) else rows


# ---- attention ----


def _multihead(layer: nn.MultiheadAttention, source: KerasLayer) -> Weights:
    """Kernels `[E, N, E/N]` and biases `[N, E/N]` of query, key, value; of the output `[N, E/N, E]`
    and `[E]`."""
    _check_kind(layer, source, "MultiHeadAttention")
    head = layer.embed_dim // layer.num_heads
    _check_config(
        layer, source, num_heads=layer.num_heads, key_dim=head, value_dim=head, use_gate=False,
        sliding_window=None,
    )  # fmt: skip
    told = described(source)
    arrays = [_tensor(array) for array in source.weights]
    if len(arrays) not in (4, 8):
        raise ValueError(
            f"fastcells.keras: {told} has {len(arrays)} weights, expected the kernels of query, "
            "key, value and output, with or without their biases"
        )
    step = len(arrays) // 4
    for kernel in arrays[: 3 * step : step]:
        if tuple(kernel.shape[1:]) != (layer.num_heads, head):
            raise ValueError(
                f"fastcells.keras: {told} has heads of {tuple(kernel.shape[1:])}, "
                f"MultiheadAttention of (N, E / N) = {(layer.num_heads, head)}"
            )
    maps = [kernel.flatten(1).t() for kernel in arrays[: 3 * step : step]]
    names: tuple[str, ...] = ("in_proj_weight",)
    if not layer._qkv_same_embed_dim:
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    joined = [torch.cat(maps)] if layer._qkv_same_embed_dim else maps
    found = {n: (m, f"a kernel of {told}") for n, m in zip(names, joined, strict=True)}
    found["out_proj.weight"] = (arrays[3 * step].flatten(0, -2).t(), f"the output kernel of {told}")
    if step == 2:
        biases = torch.cat([bias.flatten() for bias in arrays[1:6:2]])
        found["in_proj_bias"] = (biases, f"the biases of {told}")
        found["out_proj.bias"] = (arrays[7], f"the output bias of {told}")
    return found


def _self_attention(layer: SelfAttention, sources: list[KerasLayer]) -> Weights:
    """Three Dense, and the attention between them where it has a weight."""
    if len(sources) == 1 and len(sources[0].weights) in (6, 7):
        arrays = sources[0].weights
        parts = [arrays[0:2], arrays[2:4], arrays[4:6], *([arrays[6:]] if arrays[6:] else [])]
        sources = [sources[0]._replace(weights=part) for part in parts]
    is_additive = layer.score == "additive"
    wanted = ["Dense"] * 3 + (["AdditiveAttention"] if is_additive else [])
    if len(sources) != len(wanted):
        raise ValueError(
            f"fastcells.keras: SelfAttention with score={layer.score!r} takes {len(wanted)} layers "
            f"of Keras, {', '.join(wanted)}, got {len(sources)}"
        )
    found: Weights = {}
    for name, source in zip(("query_map", "key_map", "value_map"), sources, strict=False):
        _check_kind(layer, source, "Dense")
        given = source.config.get("activation", layer.activation)
        if ACTIVATIONS.get(given, given) != layer.activation:
            raise ValueError(
                f"fastcells.keras: {described(source)} has activation={given!r}, SelfAttention has "
                f"activation={layer.activation!r}"
            )
        for own, value in _named(source, ("weight", "bias"), transposed=True).items():
            found[f"{name}.{own}"] = value
    if is_additive:
        _check_kind(layer, sources[3], "AdditiveAttention")
        found |= _named(sources[3], ("scale",), transposed=False)
    return found
