"""The cells of fastcells.cells against their papers' equations, written out unit by unit."""

import math

import pytest
import torch

import fastcells

I, H, T, B = 3, 4, 5, 3


def sigma(v):
    return 1 / (1 + math.exp(-v))


# step(a, r, h, s, p): a[k] gate k of the input and r[k] of the recurrent part, of unit u; h, and s
# the other states, of the unit; p its parameters -> h', other states'.


def peephole_lstm(a, r, h, s, p):
    (c,) = s
    i, f = sigma(a[0] + r[0] + p[0] * c), sigma(a[1] + r[1] + p[1] * c)
    new = f * c + i * math.tanh(a[2] + r[2])
    return sigma(a[3] + r[3] + p[2] * new) * math.tanh(new), [new]


def coupled_lstm(a, r, h, s, p):
    f = sigma(a[0] + r[0])
    new = f * s[0] + (1 - f) * math.tanh(a[1] + r[1])
    return sigma(a[2] + r[2]) * math.tanh(new), [new]


def minimal_gated_unit(a, r, h, s, p):
    f = sigma(a[0] + r[0])
    return (1 - f) * h + f * math.tanh(a[1] + f * r[1]), []


def article_gru(a, r, h, s, p):
    merge, update = sigma(a[0] + r[0]), sigma(a[1] + r[1])
    new = merge * math.tanh(a[2] + (1 - update) * r[2])
    return (1 - update) * new + update * h, []


def slstm(a, r, h, s, p):
    c, n, m = s
    z, i, f, o = (x + y for x, y in zip(a, r, strict=True))
    log_f = math.log(sigma(f))
    new_m = max(log_f + m, i)
    new_c = math.exp(log_f + m - new_m) * c + math.exp(i - new_m) * math.tanh(z)
    new_n = math.exp(log_f + m - new_m) * n + math.exp(i - new_m)
    return sigma(o) * new_c / new_n, [new_c, new_n, new_m]


def lltm(a, r, h, s, p):
    candidate = a[2] + r[2]
    candidate = candidate if candidate > 0 else math.exp(candidate) - 1
    new = s[0] + sigma(a[0] + r[0]) * candidate
    return sigma(a[1] + r[1]) * math.tanh(new), [new]


def janet(a, r, h, s, p):
    f = a[0] + r[0]
    return sigma(f) * h + (1 - sigma(f - 1)) * math.tanh(a[1] + r[1]), []


def update_gate_rnn(a, r, h, s, p):
    g = sigma(a[0] + r[0])
    return g * h + (1 - g) * math.tanh(a[1] + r[1]), []


EQUATIONS = {
    step.__name__: step
    for step in (peephole_lstm, coupled_lstm, minimal_gated_unit, article_gru, slstm, lltm, janet,
                 update_gate_rnn)
}  # fmt: skip


def run_equations(layer, step, input, hx):
    """output and final states, number by number."""
    specification = layer.definition.specification
    w = {name.removesuffix("_l0"): value.tolist() for name, value in layer.named_parameters()}
    gates = len(specification.gates)
    output = torch.empty(T, B, H, dtype=torch.float64)
    final = [torch.empty(1, B, H, dtype=torch.float64) for _ in hx]
    for b in range(B):
        states = [state[0, b].tolist() for state in hx]
        for t in range(T):
            x, h = input[t, b].tolist(), states[0]
            new = []
            for u in range(H):
                rows = [k * H + u for k in range(gates)]
                a = [w["bias_ih"][n] + sum(map(lambda p, q: p * q, w["weight_ih"][n], x))
                     for n in rows]  # fmt: skip
                r = [w["bias_hh"][n] + sum(map(lambda p, q: p * q, w["weight_hh"][n], h))
                     for n in rows]  # fmt: skip
                parameters = [w[name][u] for name in specification.parameters]
                own, others = step(a, r, h[u], [s[u] for s in states[1:]], parameters)
                new.append([own, *others])
            states = [list(values) for values in zip(*new, strict=True)]
            output[t, b] = torch.tensor(states[0], dtype=torch.float64)
        for k, state in enumerate(states):
            final[k][0, b] = torch.tensor(state, dtype=torch.float64)
    return output, final


def test_every_cell_has_its_equations():
    assert sorted(EQUATIONS) == sorted(fastcells.cells.__all__)


@pytest.mark.parametrize("name", EQUATIONS)
def test_a_cell_is_its_papers_equations(on_reference, name):
    layer = getattr(fastcells.cells, name)(I, H, dtype=torch.float64)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    input = torch.randn(T, B, I, dtype=torch.float64)
    hx = [torch.randn(1, B, H, dtype=torch.float64) for _ in layer._names]
    if name == "slstm":
        hx[2] = hx[2].exp()  # n counts
    output, final = layer(input, tuple(hx) if len(hx) > 1 else hx[0])
    expected, states = run_equations(layer, EQUATIONS[name], input, hx)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    for found, state in zip(final if len(hx) > 1 else (final,), states, strict=True):
        torch.testing.assert_close(found, state, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", EQUATIONS)
def test_one_step_is_a_layer_of_one_step(on_reference, name):
    made = getattr(fastcells.cells, name)
    layer, step = made(I, H, dtype=torch.float64), made.Cell(I, H, dtype=torch.float64)
    step.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    input = torch.randn(1, B, I, dtype=torch.float64)
    _, final = layer(input)
    found = step(input[0])
    several = isinstance(final, tuple)
    for a, b in zip(found if several else (found,), final if several else (final,), strict=True):
        torch.testing.assert_close(a, b[0], rtol=0, atol=0)


def test_the_article_gru_is_the_built_in_one(on_reference):
    own, built_in = fastcells.cells.article_gru(I, H), fastcells.GRU(I, H, variant="article")
    built_in.load_state_dict(own.state_dict())
    input = torch.randn(T, B, I)
    torch.testing.assert_close(own(input)[0], built_in(input)[0])


def test_parameters_and_biases_begin_as_declared(on_reference):
    layer = fastcells.cells.coupled_lstm(I, H)
    assert torch.equal(layer.bias_ih_l0[:H], torch.ones(H))  # f
    assert torch.equal(layer.bias_hh_l0[:H], torch.zeros(H))
    assert not (layer.bias_ih_l0[H:] == 0).any()
    assert torch.equal(fastcells.cells.peephole_lstm(I, H).p_o_l0, torch.zeros(H))
