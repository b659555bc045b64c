"""Keras' layers and files as plain arrays, with what their configuration says.

Three formats: `.keras`, a zip of config.json and model.weights.h5; `.weights.h5`, the latter alone;
and the older `.h5`, of the attributes layer_names and weight_names.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["KerasLayer", "layers_of", "of_layer", "read"]

#: The order of `get_weights()` among the parts of a layer; in a file it is that of the alphabet.
PARTS = (
    "vars", "cell", "layer", "forward_layer", "backward_layer", "query_dense", "key_dense",
    "value_dense", "output_dense",
)  # fmt: skip


class KerasLayer(NamedTuple):
    """A layer of Keras.

    Attributes:
        name: the layer's name, behind those of the models it is nested in: "encoder/lstm".
        kind: its class, "LSTM"; empty where a file does not tell.
        config: what `get_config()` gives; empty where a file does not tell.
        weights: arrays in the order of `get_weights()`.
    """

    name: str
    kind: str
    config: dict[str, Any]
    weights: list[Any]


def read(path: str | os.PathLike[str]) -> dict[str, KerasLayer]:
    """The layers with weights in a file that Keras saved, by name.

    Args:
        path: a `.keras` file, a `.weights.h5` of `save_weights`, or an `.h5`, of Keras 2 too. A
            `.weights.h5` does not say what the layers are: that activations and variants fit
            cannot be checked. Files of Keras before 3.6 or so do not name the layers either: they
            are then called by class and number, "lstm", "lstm_1".

    Raises:
        ImportError: h5py is not installed.
        ValueError: a file of another kind.

    Example:
        >>> layers = fastcells.keras.read("classifier.keras")  # doctest: +SKIP
        >>> layers["lstm"].weights[0].shape  # doctest: +SKIP
        (12, 512)
    """
    path = Path(path)
    config: dict[str, Any] = {}
    source: Any = path
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            missing = {"config.json", "model.weights.h5"} - set(archive.namelist())
            if missing:
                raise ValueError(
                    f"fastcells.keras: {path} is no model that Keras saved in one file: it has no "
                    f"{' and no '.join(sorted(missing))}"
                )
            config = json.loads(archive.read("config.json"))
            source = io.BytesIO(archive.read("model.weights.h5"))
    with _open(source, path) as file:
        if "layer_names" in file.attrs or "model_weights" in file:
            return _read_older(file)
        described = list(_described(config))
        names = {one.key: one.name for one in described}
        found = dict(_walk(file, names))
    order = {one.name: place for place, one in enumerate(described)}
    layers = {}
    for name in sorted(found, key=lambda n: order.get(n, len(order))):
        known = described[order[name]] if name in order else Described()
        layers[name] = KerasLayer(name, known.kind, known.config, found[name])
    return layers


def _open(source: Any, path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"fastcells.keras: reading {path} needs h5py. Install it with pip install h5py"
        ) from error
    if isinstance(source, Path) and not (source.is_file() and h5py.is_hdf5(source)):
        if not source.exists():
            raise FileNotFoundError(f"fastcells.keras: there is no file {path}")
        raise ValueError(
            f"fastcells.keras: {path} must be a file that Keras saved, .keras or .h5; it is "
            "neither a zip nor HDF5"
        )
    return h5py.File(source, "r")


def _walk(
    group: Any, names: dict[str, str], prefix: str = "", keys: str = ""
) -> Iterator[tuple[str, list[Any]]]:
    """Names and arrays of the layers below a group of a model: those of its lists of layers, and of
    models in it. `names` are those of a file that does not tell them, by the keys it has."""
    for key, child in group.items():
        if key == "vars" or not hasattr(child, "items"):
            continue
        if "vars" not in child:
            yield from _walk(child, names, prefix, keys)
            continue
        own = child["vars"].attrs.get("name")
        name = names.get(keys + key, prefix + key) if own is None else prefix + str(own)
        if "layers" in child:
            yield from _walk(child, names, f"{name}/", f"{keys}{key}/")
        elif weights := _arrays(child):
            yield name, weights


def _arrays(group: Any) -> list[Any]:
    """The arrays of a layer's group, but for the states of its random numbers."""
    arrays = []
    parts = {key.lstrip("_"): key for key in group if key != "seed_generator"}
    for part in sorted(parts, key=lambda p: PARTS.index(p) if p in PARTS else len(PARTS)):
        child = group[parts[part]]
        if part == "vars":
            arrays += [child[number][()] for number in sorted(child, key=int)]
        elif hasattr(child, "items"):
            arrays += _arrays(child)
    return arrays


class Described(NamedTuple):
    """A layer as a model's configuration has it; its key in files that do not name the layers."""

    name: str = ""
    key: str = ""
    kind: str = ""
    config: dict[str, Any] = {}  # noqa: RUF012


def _described(model: dict[str, Any], prefix: str = "", keys: str = "") -> Iterator[Described]:
    """The layers and models of a model's configuration."""
    seen: Counter[str] = Counter()
    for layer in model.get("config", {}).get("layers", ()):
        kind, config = layer["class_name"], layer["config"]
        key = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind).lower()
        seen[key] += 1
        key = keys + (key if seen[key] == 1 else f"{key}_{seen[key] - 1}")
        name = prefix + config.get("name", "")
        yield Described(name, key, kind, config)
        yield from _described(layer, f"{name}/", f"{key}/")


def _read_older(file: Any) -> dict[str, KerasLayer]:
    def text(value: Any) -> str:
        return value.decode() if isinstance(value, bytes) else str(value)

    config = json.loads(text(file.attrs.get("model_config", "{}")))
    described = {one.name: one for one in _described(config)}
    group = file["model_weights"] if "model_weights" in file else file
    layers = {}
    for name in map(text, group.attrs["layer_names"]):
        weights = [group[name][text(path)][()] for path in group[name].attrs["weight_names"]]
        if weights:
            known = described.get(name, Described())
            layers[name] = KerasLayer(name, known.kind, known.config, weights)
    return layers


def of_layer(layer: Any, prefix: str = "") -> KerasLayer:
    """A layer of Keras itself."""
    name = f"{prefix}{layer.name}"
    return KerasLayer(name, type(layer).__name__, layer.get_config(), layer.get_weights())


def layers_of(model: Any, prefix: str = "") -> Iterator[KerasLayer]:
    """The layers with weights of a model of Keras."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from layers_of(layer, f"{prefix}{layer.name}/")
        elif layer.get_weights():
            yield of_layer(layer, prefix)
