"""Keras' layers by their equations, in numpy, and files as Keras writes them: no Keras, no code of
fastcells. Kernels are `[I, G*H]`, gates i f c o and z r h; inputs `[B, T, I]`."""

import io
import json
import zipfile

import numpy as np


def sigma(x):
    return 1 / (1 + np.exp(-x))


def simple_rnn(x, h, c, kernel, recurrent, bias, f=np.tanh):
    return f(x @ kernel + h @ recurrent + bias), c


def lstm(x, h, c, kernel, recurrent, bias):
    i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
    c = sigma(f) * c + sigma(i) * np.tanh(g)
    return sigma(o) * np.tanh(c), c


def gru(x, h, c, kernel, recurrent, bias):
    """reset_after=True: two biases."""
    input_bias, recurrent_bias = bias if np.ndim(bias) == 2 else (bias, bias)
    x_z, x_r, x_h = np.split(x @ kernel + input_bias, 3, axis=-1)
    h_z, h_r, h_h = np.split(h @ recurrent + recurrent_bias, 3, axis=-1)
    z, r = sigma(x_z + h_z), sigma(x_r + h_r)
    return z * h + (1 - z) * np.tanh(x_h + r * h_h), c


def gru_reset_before(x, h, c, kernel, recurrent, bias):
    x_z, x_r, x_h = np.split(x @ kernel + bias, 3, axis=-1)
    u_z, u_r, u_h = np.split(recurrent, 3, axis=-1)
    z, r = sigma(x_z + h @ u_z), sigma(x_r + h @ u_r)
    return z * h + (1 - z) * np.tanh(x_h + (r * h) @ u_h), c


def run(step, x, weights, go_backwards=False):
    """All outputs `[B, T, H]`, in the order of time."""
    kernel, recurrent, *bias = weights
    h = c = np.zeros((len(x), len(recurrent)))
    order = range(x.shape[1])
    outputs = {}
    for t in reversed(order) if go_backwards else order:
        h, c = step(x[:, t], h, c, kernel, recurrent, bias[0] if bias else 0.0)
        outputs[t] = h
    return np.stack([outputs[t] for t in order], axis=1)


def bidirectional(step, x, weights):
    half = len(weights) // 2
    both = run(step, x, weights[:half]), run(step, x, weights[half:], go_backwards=True)
    return np.concatenate(both, axis=-1)


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def multi_head_attention(x, weights):
    query, b_q, key, b_k, value, b_v, output, b_o = weights
    q, k, v = (
        np.einsum("bte,end->bntd", x, w) + b[:, None]
        for w, b in ((query, b_q), (key, b_k), (value, b_v))
    )
    scores = np.einsum("bnid,bnjd->bnij", q, k) / np.sqrt(query.shape[-1])
    return np.einsum("bnij,bnjd,nde->bie", softmax(scores), v, output) + b_o


def dense_attention(x, weights):
    """Three Dense of tanh, and an Attention, or with a seventh weight an AdditiveAttention."""
    q, k, v = (np.tanh(x @ w + b) for w, b in zip(weights[0:6:2], weights[1:6:2], strict=True))
    if len(weights) == 7:
        scores = np.tanh(q[:, :, None] + k[:, None]) @ weights[6]
    else:
        scores = q @ k.swapaxes(1, 2)
    return softmax(scores) @ v


def config(kind, name, **options):
    return {"class_name": kind, "config": {"name": name, **options}}


def write_h5(target, layers, is_named=True):
    """The weights of `layers`, {group path: (name, arrays)}, as save_weights does."""
    import h5py

    with h5py.File(target, "w") as file:
        for path, (name, arrays) in layers.items():
            variables = file.create_group(f"layers/{path}/vars")
            if is_named:
                variables.attrs["name"] = name
            for number, array in enumerate(arrays):
                variables[str(number)] = array


def write_keras(path, model, layers, is_named=True):
    weights = io.BytesIO()
    write_h5(weights, layers, is_named)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(model))
        archive.writestr("model.weights.h5", weights.getvalue())


def write_older_h5(path, model, layers):
    """As Keras 2 does: names in attributes."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(model)
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name, _ in layers.values()]
        for name, arrays in layers.values():
            own = group.create_group(name)
            names = [f"{name}/weight_{k}:0" for k in range(len(arrays))]
            own.attrs["weight_names"] = [n.encode() for n in names]
            for n, array in zip(names, arrays, strict=True):
                own[n] = array
