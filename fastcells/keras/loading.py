"""load_weights and load_model: nothing is written before everything is known to fit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .files import KerasLayer, layers_of, of_layer, read
from .fitting import described, weights_of

__all__ = ["load_model", "load_weights"]

Assignments = list[tuple[Tensor, Tensor]]


def load_weights(layer: nn.Module, source: Any) -> None:
    r"""Copies the weights of Keras into one layer.

    Kernels are transposed and gates put into torch's order: Keras' LSTM has i f c o, torch i f g o,
    its GRU z r h, torch r z n. A layer of Keras with one bias becomes bias_ih, and bias_hh zero.

    Args:
        layer: which layer of Keras it takes:

            * RNN, LSTM, GRU, of fastcells or torch.nn: SimpleRNN, LSTM, GRU; bidirectional ones a
              Bidirectional with merge_mode "concat"; with `num_layers` above 1 a list of as many.
              A GRU takes `reset_after=True` as it is and `reset_after=False` with
              variant="reset_before".
            * RNNCell, LSTMCell, GRUCell: the same.
            * MultiheadAttention: MultiHeadAttention of key_dim and value_dim E / N.
            * SelfAttention: a list of the three Dense of query, key and value, and with
              score="additive" of an AdditiveAttention.
            * torch.nn.Linear, Embedding, LayerNorm: Dense, Embedding, LayerNormalization; inside a
              TimeDistributed too.
        source: a layer of Keras; a :class:`KerasLayer` of :func:`read`; a list of arrays, in the
            order of `get_weights()`, of which only the shapes can be checked; or a list of these.

    Raises:
        ValueError: what does not fit, by name on both sides: class, activation, variant, shape,
            bias, directions, go_backwards. The layer is left as it was.
        TypeError: a layer or a source of another kind.

    Example:
        >>> layer = fastcells.LSTM(2, 3, batch_first=True)
        >>> kernel, recurrent, bias = torch.zeros(2, 12), torch.zeros(3, 12), torch.ones(12)
        >>> fastcells.keras.load_weights(layer, [kernel, recurrent, bias])
    """
    if not isinstance(layer, nn.Module):
        raise TypeError(
            f"fastcells.keras: layer must be a torch.nn.Module, got {type(layer).__name__}"
        )
    _write(_assignments(layer, type(layer).__name__, _as_layers(source)))


def load_model(
    model: nn.Module,
    source: Any,
    names: Mapping[str, str | Sequence[str]] | None = None,
    *,
    strict: bool = True,
) -> None:
    """Copies the weights of a model of Keras into a model of torch, layer by layer.

    Args:
        model: a torch.nn.Module. Its layers of the kinds of :func:`load_weights` take the layer of
            Keras of the same name.
        source: a path of :func:`read`, or a model of Keras.
        names: for layers whose names differ, {name in `model`: name in Keras, or a list of names},
            {"0": "embedding", "rnn": ["lstm", "lstm_1"]}. Of a model of Keras within another the
            names are "outer/inner".
        strict: whether it is an error that a layer of Keras, or a parameter of `model`, is left
            over.

    Raises:
        ValueError: what does not fit, or is left over, by name on both sides; `model` is left as
            it was.

    Example:
        >>> model = nn.Sequential(nn.Embedding(1000, 16), fastcells.LSTM(16, 8))  # doctest: +SKIP
        >>> names = {"0": "embedding", "1": "lstm"}  # doctest: +SKIP
        >>> fastcells.keras.load_model(model, "classifier.keras", names)  # doctest: +SKIP
    """
    if isinstance(source, str | os.PathLike):
        layers = read(source)
    elif hasattr(source, "layers"):
        layers = {layer.name: layer for layer in layers_of(source)}
    else:
        raise TypeError(
            "fastcells.keras: source must be a path or a model of Keras, got "
            f"{type(source).__name__}"
        )
    modules, names = dict(model.named_modules()), dict(names or {})
    taken = {k for given in names.values() for k in ([given] if isinstance(given, str) else given)}
    for name in layers:
        own = name.replace("/", ".")
        if own in modules and own not in names and name not in taken:
            names[own] = name
    assignments, used = [], set()
    for name, given in names.items():
        chosen = [given] if isinstance(given, str) else list(given)
        _check_names(name, modules, "model", "module")
        for keras_name in chosen:
            _check_names(keras_name, layers, "Keras", "layer with weights")
        used.update(chosen)
        assignments += _assignments(modules[name], name, [layers[n] for n in chosen])
    if strict:
        _check_left_over(model, layers, assignments, used)
    _write(assignments)


def _check_names(name: str, known: Iterable[str], side: str, what: str) -> None:
    if name not in known:
        listed = ", ".join(repr(n) for n in known if n) or "none"
        raise ValueError(f"fastcells.keras: {side} has no {what} {name!r}, but {listed}")


def _check_left_over(
    model: nn.Module, layers: Iterable[str], assignments: Assignments, used: set[str]
) -> None:
    written = {id(parameter) for parameter, _ in assignments}
    unused = [name for name in layers if name not in used]
    unset = [name for name, p in model.named_parameters() if id(p) not in written]
    if unused or unset:
        raise ValueError(
            f"fastcells.keras: layers of Keras left over: {', '.join(unused) or 'none'}; "
            f"parameters of the model without weights: {', '.join(unset) or 'none'}. Pair them "
            "with names, or leave them with strict=False"
        )


def _as_layers(source: Any) -> list[KerasLayer]:
    """A source as layers; arrays become one without a name."""
    if isinstance(source, KerasLayer):
        return [source]
    if hasattr(source, "get_weights") and hasattr(source, "get_config"):
        return [of_layer(source)]
    if isinstance(source, list | tuple) and source:
        if all(hasattr(array, "shape") for array in source):
            return [KerasLayer("", "", {}, list(source))]
        return [layer for one in source for layer in _as_layers(one)]
    raise TypeError(
        "fastcells.keras: source must be a layer of Keras, one of fastcells.keras.read(path), a "
        f"list of arrays, or a list of these, got {type(source).__name__}"
    )


def _assignments(layer: nn.Module, name: str, sources: list[KerasLayer]) -> Assignments:
    """(parameter, its new values), of the same shape."""
    parameters = dict(layer.named_parameters())
    found = weights_of(layer, sources)
    pairs: Assignments = []
    for own, (value, told) in found.items():
        parameter = parameters.get(own)
        if parameter is None:
            raise ValueError(
                f"fastcells.keras: {name} has no parameter {own} for {told}. Its parameters are "
                f"{', '.join(parameters)}"
            )
        if parameter.shape != value.shape:
            raise ValueError(
                f"fastcells.keras: {own} of {name} has shape {tuple(parameter.shape)}, and "
                f"{told} makes {tuple(value.shape)}"
            )
        pairs.append((parameter, value))
    missing = parameters.keys() - found.keys()
    if missing:
        raise ValueError(
            f"fastcells.keras: {described(sources[0])} has no weights for "
            f"{', '.join(sorted(missing))} of {name}"
        )
    return pairs


@torch.no_grad()
def _write(assignments: Assignments) -> None:
    for parameter, value in assignments:
        parameter.copy_(value)
