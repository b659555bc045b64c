"""Layers of elementwise cells unit by unit, from the papers' equations: no code of fastcells.

Every unit of every row is a sum over its inputs and a loop over its own steps, in numbers of
float64 that autograd differentiates.
"""

import torch


def sigma(x):
    return 1 / (1 + torch.exp(-x))


def softplus(x):
    return torch.log(1 + torch.exp(x))


def g(x):
    return torch.where(x >= 0, x + 0.5, sigma(x))


def itself(x):
    return x


def indrnn(act):
    return lambda a, u, s, h, c: (act(a[0] + u[0] * h), c)


def sru(a, u, s, h, c):
    forget, reset = sigma(a[1] + u[0] * c), sigma(a[2] + u[1] * c)
    new = forget * c + (1 - forget) * a[0]
    return reset * new + (1 - reset) * s, new


def sru_skip(a, u, s, h, c):
    return sru(a, u, a[3], h, c)


def qrnn(a, u, s, h, c):
    forget = sigma(a[1])
    new = forget * c + (1 - forget) * torch.tanh(a[0])
    return sigma(a[2]) * new, new


def min_gru(act):
    return lambda a, u, s, h, c: ((1 - sigma(a[0])) * h + sigma(a[0]) * act(a[1]), c)


def min_lstm(act):
    def step(a, u, s, h, c):
        forget, enter = sigma(a[0]), sigma(a[1])
        new = (forget * c + enter * act(a[2])) / (forget + enter)
        return new, new

    return step


def rg_lru(a, u, s, h, c):
    decay = torch.exp(-8 * softplus(u[0]) * sigma(a[0]))
    return decay * h + torch.sqrt(1 - decay**2) * (sigma(a[1]) * s), c


def diagonal_gru(a, u, s, h, c):
    reset, keep = sigma(a[0] + u[0] * h), sigma(a[1] + u[1] * h)
    return (1 - keep) * torch.tanh(a[2] + u[2] * (reset * h)) + keep * h, c


def diagonal_lstm(a, u, s, h, c):
    forget = sigma(a[0] + u[0] * h)
    new = forget * c + (1 - forget) * torch.tanh(a[1] + u[1] * h)
    return sigma(a[2] + u[2] * h) * torch.tanh(new), new


#: Of each cell its step, gates, vectors of unit weights, whether it has c, whether it reads x.
CELLS = {
    "indrnn_tanh": (indrnn(torch.tanh), 1, 1, False, False),
    "indrnn_relu": (indrnn(torch.relu), 1, 1, False, False),
    "sru": (sru, 3, 2, True, True),
    "sru_skip": (sru_skip, 4, 2, True, False),
    "qrnn": (qrnn, 3, 0, True, False),
    "min_gru": (min_gru(g), 2, 0, False, False),
    "min_gru_identity": (min_gru(itself), 2, 0, False, False),
    "min_lstm": (min_lstm(g), 3, 0, True, False),
    "min_lstm_identity": (min_lstm(itself), 3, 0, True, False),
    "rg_lru": (rg_lru, 2, 1, False, True),
    "diagonal_gru": (diagonal_gru, 3, 3, False, False),
    "diagonal_lstm": (diagonal_lstm, 3, 3, True, False),
}


def run_direction(cell, reverse, input, h, c, w, lengths, resets):
    """All h and c of one direction [T][B], the last ones [B] each of H units; w by name."""
    step, gates, vectors, _, reads_input = CELLS[cell]
    T, B, width = input.shape
    H = w["weight_ih"].shape[0] // gates
    zero = torch.zeros(H, dtype=input.dtype)
    outputs, cells = [[zero] * B for _ in range(T)], [[zero] * B for _ in range(T)]
    last_h, last_c = list(h), list(c)
    units = [w["weight_hh"][k * H : (k + 1) * H] for k in range(vectors)]
    first_column = H if reverse and width == 2 * H else 0
    for b in range(B):
        steps = range(T if lengths is None else int(lengths[b]))
        for t in reversed(steps) if reverse else steps:
            boundary = t + 1 if reverse else t
            if resets is not None and boundary in steps and resets[boundary, b]:
                last_h[b], last_c[b] = zero, zero
            x = input[t, b]
            a = [
                torch.stack([(w["weight_ih"][k * H + unit] * x).sum() for unit in range(H)])
                + (w["bias_ih"][k * H : (k + 1) * H] if "bias_ih" in w else 0)
                for k in range(gates)
            ]
            s = x[first_column : first_column + H] * w.get("skip_scale", 1) if reads_input else None
            last_h[b], last_c[b] = step(a, units, s, last_h[b], last_c[b])
            outputs[t][b], cells[t][b] = last_h[b], last_c[b]
    return outputs, cells, last_h, last_c


def run_equations(problem):
    """A LayerProblem: output, h_n, c_n, all c; the last two None without c."""
    *_, has_c, _ = CELLS[problem.cell]
    names = problem.names.split()
    rows = problem.h_0.shape[1]
    results = []
    for d in range(problem.directions):
        own = problem.weights[d * len(names) : (d + 1) * len(names)]
        c_0 = problem.c_0[d] if has_c else [torch.zeros(())] * rows
        results.append(
            run_direction(
                problem.cell, d == 1, problem.input, problem.h_0[d], c_0,
                dict(zip(names, own, strict=True)), problem.lengths, problem.resets,
            )
        )  # fmt: skip

    def joined(k):
        each = [torch.stack([torch.stack(row) for row in result[k]]) for result in results]
        return torch.cat(each, dim=-1)

    h_n = torch.stack([torch.stack(result[2]) for result in results])
    if not has_c:
        return joined(0), h_n, None, None
    return joined(0), h_n, torch.stack([torch.stack(r[3]) for r in results]), joined(1)
