"""Layers that look at whole rows, row by row from the papers' equations: no code of fastcells.

Layer normalisation, zoneout and dropout of h in front of its product, in numbers of float64 that
autograd differentiates; masks from Philox in Python's integers.
"""

import math

import torch

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "lstm_peephole": 4, "gru": 3, "gru_article": 3}


def sigma(x):
    return 1 / (1 + torch.exp(-x))


def normalised(v):
    mean = v.sum() / v.numel()
    variance = ((v - mean) ** 2).sum() / v.numel()
    return (v - mean) / torch.sqrt(variance + 1e-5)


# ---- masks ----


def philox(counter, key):
    c, (k0, k1), low = list(counter), key, 2**32 - 1
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [second >> 32 ^ c[1] ^ k0, second & low, first >> 32 ^ c[3] ^ k1, first & low]
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return c


def drawn(noise, kind, t, b, units):
    """Which units of row b are drawn at step t: bool [H]."""
    seed, rate = int(noise[0]), float(noise[1 + kind])
    key = seed & (2**32 - 1), seed >> 32
    words = [philox((t, u // 4, 4 * b + kind, 0), key)[u % 4] for u in range(units)]
    return torch.tensor([word < math.ceil(rate * 2**32) for word in words], dtype=torch.bool)


def entering(noise, b, h):
    """h as it meets W_hh."""
    rate, is_training = float(noise[1]), bool(noise[4])
    if not is_training:
        return h
    factor = 1 / (1 - rate) if rate < 1 else 0.0
    return torch.where(drawn(noise, 0, 0, b, h.numel()), torch.zeros_like(h), h * factor)


def after(noise, kind, t, b, old, new):
    if not noise[4]:
        return noise[1 + kind] * old + (1 - noise[1 + kind]) * new
    return torch.where(drawn(noise, kind, t, b, old.numel()), old, new)


# ---- cells: a = what comes from x, g = what comes from h, each [G][H] ----


def step(cell, a, g, h, c, p, on_the_way):
    s = [x + y for x, y in zip(a, g, strict=True)]
    if cell.startswith("rnn"):
        return (torch.tanh if cell == "rnn_tanh" else torch.relu)(s[0]), c
    if cell == "lstm":
        new = sigma(s[1]) * c + sigma(s[0]) * torch.tanh(s[2])
        return sigma(s[3]) * torch.tanh(on_the_way(new)), new
    if cell == "lstm_peephole":
        new = sigma(s[1] + p[1] * c) * c + sigma(s[0] + p[0] * c) * torch.tanh(s[2])
        return sigma(s[3] + p[2] * new) * torch.tanh(new), new
    r, z = sigma(s[0]), sigma(s[1])
    if cell == "gru":
        n = torch.tanh(a[2] + r * g[2])
    else:
        n = r * torch.tanh(a[2] + (1 - z) * g[2])
    return (1 - z) * n + z * h, c


def parts_of(cell, w, x, h):
    """The two parts of the gates of a row."""
    a, g = w["weight_ih"] @ x, w["weight_hh"] @ h
    if "norm_ih" in w:
        a, g = normalised(a) * w["norm_ih"], normalised(g) * w["norm_hh"]
    if "norm_gates" in w:
        gates = (a + g).chunk(GATES[cell])
        a, g = torch.zeros_like(a), torch.cat([normalised(k) for k in gates]) * w["norm_gates"]
    if "bias_ih" in w:
        a, g = a + w["bias_ih"], g + w["bias_hh"]
    return a.chunk(GATES[cell]), g.chunk(GATES[cell])


def run_row(cell, reverse, b, input, h, c, w, length, resets):
    """All h and c of a row, zeros past its end, and the last ones."""
    T, H = input.shape[0], h.numel()
    outputs, cells = [[torch.zeros_like(h)] * T for _ in range(2)]

    peepholes = w["unit_weights"].chunk(3) if "unit_weights" in w else None

    def on_the_way(new):
        gain = w.get("norm_c", w.get("norm_carried_c"))
        return new if gain is None else normalised(new) * gain + w["norm_c_bias"]

    for t in reversed(range(length)) if reverse else range(length):
        boundary = t + 1 if reverse else t
        if resets is not None and boundary < length and resets[boundary, b]:
            h, c = torch.zeros_like(h), torch.zeros_like(c)
        noise = w.get("noise")
        inner = h if noise is None else entering(noise, b, h)
        a, g = parts_of(cell, w, input[t, b], inner)
        new_h, new_c = step(cell, a, g, h, c, peepholes, on_the_way)
        if "norm_carried_c" in w:
            new_c = on_the_way(new_c)
        if noise is not None:
            new_h, new_c = after(noise, 1, t, b, h, new_h), after(noise, 2, t, b, c, new_c)
        h, c = outputs[t], cells[t] = new_h, new_c
    assert h.numel() == H
    return torch.stack(outputs), torch.stack(cells), h, c


def run_equations(problem):
    """A LayerProblem: output, h_n, c_n, all c; the last two None without c."""
    names, has_c = problem.names.split(), "lstm" in problem.cell
    T, B = problem.input.shape[:2]
    results = []
    for d in range(problem.directions):
        own = problem.weights[d * len(names) : (d + 1) * len(names)]
        w = dict(zip(names, own, strict=True))
        rows = [
            run_row(
                problem.cell, d == 1, b, problem.input, problem.h_0[d, b],
                problem.c_0[d, b] if has_c else torch.zeros_like(problem.h_0[d, b]), w,
                T if problem.lengths is None else int(problem.lengths[b]), problem.resets,
            )
            for b in range(B)
        ]  # fmt: skip
        results.append([torch.stack(part, dim=-2) for part in zip(*rows, strict=True)])
    output, cells = (torch.cat([r[k] for r in results], dim=-1) for k in (0, 1))
    h_n, c_n = (torch.stack([r[k] for r in results]) for k in (2, 3))
    return (output, h_n, c_n, cells) if has_c else (output, h_n, None, None)
