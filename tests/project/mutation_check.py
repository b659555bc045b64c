"""Breaks a line of each cell header in turn, and of the row-wise kernels: a C++ test must notice
every time.

    python tests/project/mutation_check.py

Works on copies of csrc/ in a temporary folder. tests/cpp/recurrent/test_cells.cpp compares
each cell's backward with finite differences of its forward: it finds whatever parts the two. What
it cannot find is a mistake in forward that backward shares, so that both describe the same wrong
cell:

* another row order of the gates, in forward and backward alike;
* a constant added to the argument of a sigmoid or a tanh: backward knows gates by value alone.

These are for tests/recurrent/test_kernels.py, which compares the kernels with fastcells.reference.
Of tests/cpp/recurrent/test_rowwise_kernels.cpp one cell is compiled, for the time it takes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COMPILERS = 2
# Each second mutation, as `make test` has it.
SAMPLED = os.environ.get("FASTCELLS_SAMPLED", "0") == "1"
TIMEOUT = 300  # seconds a compiler or a test may take before something is wrong with the machine


class Mutation(NamedTuple):
    """In csrc/recurrent/<header>, within `struct`: the one place with `old` becomes `new`."""

    header: str
    struct: str
    what: str
    old: str
    new: str

    @property
    def test(self):
        return CELLS_TEST if self.header.startswith("cells/") else ROWWISE_TEST


# A source in tests/cpp/recurrent, and the compiler's options. The cells' test runs for milliseconds
# at any level of optimisation.
CELLS_TEST = ["test_cells.cpp", "-O0"]
ROWWISE_TEST = ["test_rowwise_kernels.cpp", "-O1", "-DFASTCELLS_ONE_CELL", "-pthread", "-Wno-psabi"]


def of(header, struct, *mutations):
    return [Mutation(header, struct, *m) for m in mutations]


MUTATIONS = [
    *of(
        "cells/rnn.h", "Tanh",
        ("derivative of the argument, not the value", "tanh_grad(y)", "tanh_grad(tanh(y))"),
        ("derivative left out", "return tanh_grad(y)", "return y"),
        ("forward negated", "return tanh(x)", "return -tanh(x)"),
    ),
    *of(
        "cells/rnn.h", "ReLU",
        ("derivative upside down", "y <= A(0), A(0), A(1)", "y <= A(0), A(1), A(0)"),
        ("derivative never zero", "select(y <= A(0), A(0), A(1))", "A(1)"),
        ("leaks", "select(x < A(0), A(0), x)", "select(x < A(0), A(0.1) * x, x)"),
    ),
    *of(
        "cells/rnn.h", "RNN",
        ("forward: - for +", "x[0] + g[0]", "x[0] - g[0]"),
        ("forward: g dropped", "apply(x[0] + g[0])", "apply(x[0])"),
        ("backward: + for *", "d_state[0] * Activation", "d_state[0] + Activation"),
        ("backward: state's gradient kept", "d_state[0] = A(0)", "d_state[0] = dx[0]"),
    ),
    *of(
        "cells/lstm.h", "LSTM",
        ("forward: i reads the rows of f", "sigmoid(x[0] + g[0])", "sigmoid(x[1] + g[1])"),
        ("forward: i and f swapped", "saved[1] * c + saved[0] * saved[2]",
         "saved[0] * c + saved[1] * saved[2]"),
        ("forward: - for +", "* c + saved[0]", "* c - saved[0]"),
        ("forward: + for *", "o * tanh(c)", "o + tanh(c)"),
        ("backward: gradient of c dropped", "d_state[1] + output_backward", "output_backward"),
        ("backward: i and f swapped", "dx[0] = dc * g * sigmoid_grad(i)",
         "dx[0] = dc * g * sigmoid_grad(f)"),
        ("backward: new c for the previous", "prev[1], dc", "next[1], dc"),
        ("backward: tanh' dropped", "dc * i * tanh_grad(g)", "dc * i"),
        ("backward: tanh left out", "dh * tanh_c * sigmoid_grad", "dh * c * sigmoid_grad"),
        ("backward: sign", "d_previous = dc * f", "d_previous = -dc * f"),
        ("backward: reads the new h", "output_backward(saved[3], next[1],",
         "output_backward(saved[3], next[1] + next[0],"),
    ),
    *of(
        "cells/lstm_peephole.h", "PeepholeLSTM",
        ("forward: o sees the old c", "p[2] * state[1]);\n    state[0]",
         "p[2]);\n    state[0]"),
        ("backward: o's peephole dropped", " + dx[3] * p[2]", ""),
        ("backward: p_i of the new c", "dp[0] = dx[0] * prev[1]", "dp[0] = dx[0] * next[1]"),
        ("backward: c through i dropped", " + dx[0] * p[0]", ""),
    ),
    *of(
        "cells/gru.h", "GRU",
        ("forward: r and z swapped", "tanh(x[2] + r * g[2])", "tanh(x[2] + z * g[2])"),
        ("forward: r for z", "n + z * (state[0] - n)", "n + r * (state[0] - n)"),
        ("forward: sign", "state[0] - n)", "state[0] + n)"),
        ("forward: g_n saved wrongly", "saved[3] = g[2]", "saved[3] = x[2]"),
        ("backward: 1 - z without 1", "dh * (A(1) - z) * tanh_grad(n)", "dh * z * tanh_grad(n)"),
        ("backward: sign of n", "dh * (prev[0] - n)", "dh * (prev[0] + n)"),
        ("backward: g_n dropped", "dx[2] * g_n * sigmoid_grad(r)", "dx[2] * sigmoid_grad(r)"),
        ("backward: r dropped", "dg[2] = dx[2] * r", "dg[2] = dx[2]"),
        ("backward: + for *", "d_state[0] = dh * z", "d_state[0] = dh + z"),
    ),
    *of(
        "cells/gru.h", "GRUResetBefore",
        ("first product: r of other rows", "return sigmoid(x[0] + g[0]) * h",
         "return sigmoid(x[1] + g[1]) * h"),
        ("first product: h dropped", "sigmoid(x[0] + g[0]) * h", "sigmoid(x[0] + g[0])"),
        ("forward: sign", "n + z * (state[0] - n)", "n - z * (state[0] - n)"),
        ("backward: r and z swapped", "z = saved[1], n", "z = saved[0], n"),
        ("backward: 1 - z without 1", "dh * (A(1) - z)", "dh * (-z)"),
        ("backward: tanh' dropped", "(A(1) - z) * tanh_grad(n)", "(A(1) - z)"),
        ("second stage: product's gradient dropped", "d_state[0] + d_reset_h * saved[0]",
         "d_state[0] + d_reset_h"),
        ("second stage: sign", "return d_reset_h * h", "return -d_reset_h * h"),
    ),
    *of(
        "cells/gru.h", "GRUArticle",
        ("forward: z for 1 - z", "(A(1) - z) * g[2]", "z * g[2]"),
        ("forward: r dropped", "z * (state[0] - r * q)", "z * (state[0] - q)"),
        ("backward: - for +", "dh * (prev[0] - r * q) - dx[2]", "dh * (prev[0] - r * q) + dx[2]"),
        ("backward: g_n dropped", "- dx[2] * g_n)", "- dx[2])"),
        ("backward: q and r swapped", "dn * q * sigmoid_grad(r)", "dn * r * sigmoid_grad(r)"),
        ("backward: tanh of another", "dn * r * tanh_grad(q)", "dn * r * tanh_grad(r)"),
        ("backward: 1 - z dropped", "dg[2] = dx[2] * (A(1) - z)", "dg[2] = dx[2]"),
    ),
    *of(
        "cells/indrnn.h", "IndRNN",
        ("forward: u dropped", "x[0] + u[0] * state[0]", "x[0] + state[0]"),
        ("backward: u's gradient by the new h", "dx[0] * prev[0]", "dx[0] * saved[0]"),
        ("backward: u dropped", "d_state[0] = dx[0] * u[0]", "d_state[0] = dx[0]"),
    ),
    *of(
        "cells/rg_lru.h", "RGLRU",
        ("forward: a for a squared", "log_a + log_a)) * i * raw", "log_a)) * i * raw"),
        ("backward: sign of the input's share", "prev[0] * r - a", "prev[0] * r + a"),
        ("backward: input's own gradient", "d_raw = d_input * i", "d_raw = d_input"),
        ("softplus' left out", "A(-8) * sigmoid(weight) * d", "A(-8) * d"),
    ),
    *of(
        "cells/minimal.h", "MinGRU",
        ("forward: sign", "apply(x[1]) - state[0]", "apply(x[1]) + state[0]"),
        ("backward: 1 - z without 1", "dh * (A(1) - z)", "dh * z"),
        ("backward: activation' dropped", "dh * z * Activation::grad(saved[1])", "dh * z"),
    ),
    *of(
        "cells/minimal.h", "MinLSTM",
        ("forward: i for f", "saved[0] = I / (F + I)", "saved[0] = F / (F + I)"),
        ("backward: c's gradient dropped", "dc = d_state[0] + d_state[1]", "dc = d_state[0]"),
        ("backward: sign of i", "dx[1] = A(0) - d_log", "dx[1] = d_log"),
    ),
    *of(
        "cells/sru.h", "SRU",
        ("forward: v_r dropped", "sigmoid(x[2] + u[1] * c)", "sigmoid(x[2] + c)"),
        ("forward: gate upside down", "raw + r * (state[1] - raw)", "raw - r * (state[1] - raw)"),
        ("backward: old c for the new", "dh * (next[1] - raw)", "dh * (c - raw)"),
        ("backward: v_f's gradient", "du[0] = dx[1] * c", "du[0] = dx[2] * c"),
    ),
    *of(
        "cells/sru.h", "QRNN",
        ("backward: o dropped", "d_state[1] + dh * o", "d_state[1] + dh"),
        ("backward: sign", "dc * (prev[1] - z)", "dc * (prev[1] + z)"),
    ),
    *of(
        "cells/diagonal.h", "DiagonalGRU",
        ("forward: r dropped", "u[2] * (r * h)", "u[2] * h"),
        ("backward: through n dropped", "dh * z + d_product * r", "dh * z"),
        ("backward: u_z dropped", "dx[1] * u[1]", "dx[1]"),
    ),
    *of(
        "cells/diagonal.h", "DiagonalLSTM",
        ("forward: sign", "saved[0] * (saved[1] - c)", "saved[0] * (saved[1] + c)"),
        ("backward: tanh' dropped", "dc * k * tanh_grad(g)", "dc * k"),
        ("backward: through o dropped", " + dx[2] * u[2]", ""),
    ),
    *of(
        "rowwise/cpu/kernels/rows.h", "NormBackward",
        ("backward: without the mean", "scaled(j) - V(mean)", "scaled(j)"),
        ("backward: without the slope", " - normalised(j) * V(slope)", ""),
    ),
    *of(
        "rowwise/cpu/kernels/gates.h", "RowGates",
        ("forward: moments of W x for W h's", "moments.of[1], row.norm_hh",
         "moments.of[0], row.norm_hh"),
    ),
]  # fmt: skip


def apply_mutation(mutation, csrc):
    """Writes the mutated header, or stops the script: a list that no longer fits checks nothing."""
    path = csrc / "recurrent" / mutation.header
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"struct {re.escape(mutation.struct)}( : .+)? {{\n", text)
    start = found.start() if found else len(text)
    end = text.find("\n};\n", start)
    body = text[start:end]
    count = body.count(mutation.old)
    if count != 1:
        raise SystemExit(
            f"mutation_check: {mutation.header}, struct {mutation.struct}: `{mutation.old}` is "
            f"there {count} times, not once; bring MUTATIONS up to date"
        )
    path.write_text(text[:start] + body.replace(mutation.old, mutation.new) + text[end:], "utf-8")


def run_test(test, csrc, folder):
    """Compiles the test against `csrc` and runs it: its exit status, 0 when it passes."""
    program = folder / "test"
    name, *options = test
    tests = ROOT / "tests" / "cpp"
    compiler = os.environ.get("CXX", "g++").split()
    command = [*compiler, "-std=c++20", f"-I{csrc}", f"-I{tests}", *options]
    command += [str(tests / "recurrent" / name), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        raise SystemExit(f"mutation_check: {' '.join(command)} failed:\n{done.stderr}")
    return subprocess.run([program], capture_output=True, timeout=TIMEOUT).returncode


def check(test, mutation=None):
    """Whether the test fails on a copy of csrc/, as it should with a mutation."""
    with tempfile.TemporaryDirectory() as folder:
        csrc = Path(folder, "csrc")
        shutil.copytree(ROOT / "csrc", csrc)
        if mutation is not None:
            apply_mutation(mutation, csrc)
        return run_test(test, csrc, Path(folder)) != 0


def main():
    mutations = MUTATIONS[::2] if SAMPLED else MUTATIONS
    passed = 0
    with ThreadPoolExecutor(COMPILERS) as pool:
        tests = [CELLS_TEST, ROWWISE_TEST]
        for test, fails in zip(tests, pool.map(check, tests), strict=True):
            if fails:
                raise SystemExit(f"mutation_check: {test[0]} fails on csrc/ as it is")
        caught = pool.map(check, [mutation.test for mutation in mutations], mutations)
        for mutation, is_caught in zip(mutations, caught, strict=True):
            verdict = "caught" if is_caught else "NOT CAUGHT"
            print(f"{mutation.struct:15} {mutation.what:45} {verdict}", flush=True)
            passed += is_caught
    failed = len(mutations) - passed
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
