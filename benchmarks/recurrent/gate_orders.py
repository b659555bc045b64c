"""The order of the gate blocks in other libraries, as indices into torch's.

torch has i f g o and r z n. ONNX has i o f c and z r h, Keras i f c o and z r h; both have torch's
GRU, which multiplies by r after the matrix product, as an option.
"""

import numpy as np

ONNX_BLOCKS = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,)}
KERAS_BLOCKS = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "rnn_tanh": (0,)}


def reorder(array, blocks):
    """Return `array` [G*H, ...] with its G gate blocks in the order `blocks`."""
    parts = np.split(array, len(blocks))
    return np.concatenate([parts[k] for k in blocks])
