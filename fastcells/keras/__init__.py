"""Weights of Keras' layers for fastcells' and torch's: docs/keras.md.

From layers and models of Keras 3, from arrays, and from files (`.keras`, `.weights.h5`, `.h5`), for
which neither Keras nor TensorFlow is needed, but h5py.
"""

from .files import KerasLayer, read
from .loading import load_model, load_weights

__all__ = ["KerasLayer", "load_model", "load_weights", "read"]
