"""Printed cells, compiled: every operation forward and back, as numbers and as vectors of them.

One file holds the structs of random cells and no engine: what is compiled is what is printed.
"""

import ctypes
import random
import shutil
import subprocess

import pytest
import torch

from fastcells.equations.compiling import headers
from fastcells.equations.source import print_cell, struct_name
from fastcells.testing import assert_as_accurate_as_torch
from programs import OPERATIONS, Program, work

COUNT = 8  # of lanes: two vectors of the baseline's floats
#: Among eight numbers torch is now and then exact, and an operation of ours is off by 2 ulp.
FLOOR = 16 * torch.finfo(torch.float32).eps
COMPILER = shutil.which("c++") or shutil.which("g++")
pytestmark = pytest.mark.skipif(
    COMPILER is None or headers() is None, reason="needs a C++ compiler and the kernels' headers"
)

HARNESS = """
#include "cpu/simd/baseline.h"

#include "cpu/simd/elementary.h"

namespace fastcells {
namespace {
template <class Cell, class A, class S>
void run(const S* const* in, S* const* out) {
  constexpr bool kVector = requires { Cell::kReadsInput; };
  constexpr int L = sizeof(A) / sizeof(S), V = Cell::kUnitWeights;
  for (int i = 0; i < %(count)d; i += L) {
    int k = 0, o = 0;
    const auto load = [&] { A a; std::memcpy(&a, in[k++] + i, sizeof a); return a; };
    const auto store = [&](A a) { std::memcpy(out[o++] + i, &a, sizeof a); };
    A x[Cell::kGates], g[Cell::kGates], u[V], state[2], prev[2], saved[Cell::kSaved], raw(0);
    A dx[Cell::kGates], dg[Cell::kGates], du[V], d_state[2];
    for (A& a : x) a = load();
    if (!kVector) for (A& a : g) a = load();
    for (A& a : u) a = load();
    for (int j = 0; j < 2; ++j) state[j] = prev[j] = load();
    for (A& a : d_state) a = load();
    if constexpr (kVector) {
      Cell::forward(x, u, raw, state, saved);
      Cell::backward(saved, u, raw, prev, state, d_state, dx, du, raw);
    } else {
      Cell::forward(x, g, u, state, saved);
      Cell::backward(saved, u, prev, state, d_state, dx, dg, du);
    }
    for (A a : state) store(a);
    for (A a : dx) store(a);
    if (!kVector) for (A a : dg) store(a);
    for (A a : du) store(a);
    for (A a : d_state) store(a);
  }
}
}  // namespace
}  // namespace fastcells
using namespace fastcells;
extern "C" void elementary(int which, const float* in, float* out, int count) {
  for (int i = 0; i < count; i += Vector<float>::kLanes) {
    const auto x = load(in + i);
    store(out + i, which == 0 ? exponential(x) : which == 1 ? logarithm(x) : softplus(x));
  }
}
"""


def programs():
    """One for each operation, among others at random."""
    draw = random.Random(0)
    for number, operation in enumerate(OPERATIONS):
        recurrent = ("dense", "vector")[number % 2]
        steps = [
            (draw.choice(list(OPERATIONS)), draw.randrange(30), draw.randrange(30), 0.4)
            for _ in range(3)
        ]
        yield Program(recurrent, (*steps, (operation, draw.randrange(7), draw.randrange(10), 2.5)))


@pytest.fixture(scope="module")
def cells():
    torch.manual_seed(1)
    return [work(program, COUNT) for program in programs()]


@pytest.fixture(scope="module")
def library(cells, tmp_path_factory):
    text = HARNESS % {"count": COUNT}
    for k, done in enumerate(cells):
        _, source = print_cell(done.specification, done.equations, done.gradients, done.kept)
        body = source.partition('#include "math/elementary.h"\n')[2]
        text += body.replace("fastcells::equations", f"fastcells::cell_{k}")
        struct = f"cell_{k}::{struct_name(done.specification.name)}"
        for name, arithmetic, number in (
            ("number", "double", "double"), ("pair", "Pair<Vector<float>>", "float"),
        ):  # fmt: skip
            text += (
                f'extern "C" void {name}_{k}(const {number}* const* in, {number}* const* out) '
                f"{{ run<{struct}, {arithmetic}, {number}>(in, out); }}\n"
            )
    folder = tmp_path_factory.mktemp("printed")
    source, target = folder / "cells.cpp", folder / "cells.so"
    source.write_text(text)
    command = [COMPILER, "-std=c++20", "-O0", "-w", "-fPIC", "-shared", f"-I{headers()}"]
    done = subprocess.run(
        [*command, str(source), "-o", str(target)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[:3000]
    return ctypes.CDLL(str(target))


def run(library, name, done, dtype):
    keys = [key for key in done.leaves if key[0] != "d"]
    keys.sort(key=lambda key: (["x", "h", "u", "state"].index(key[0]), key[1]))
    given = [done.leaves[key].to(dtype) for key in [*keys, ("d", 0), ("d", 1)]]
    out_keys = [("result", 0), ("result", 1), *keys]
    results = [torch.empty(COUNT, dtype=dtype) for _ in out_keys]
    pointers = ctypes.c_void_p * len(given)
    library[name](
        pointers(*(x.data_ptr() for x in given)),
        (ctypes.c_void_p * len(results))(*(x.data_ptr() for x in results)),
    )
    return dict(zip(out_keys, results, strict=True))


def expected_of(done):
    return {("result", 0): done.results[0], ("result", 1): done.results[1]} | done.expected


def test_every_operation_in_float64_is_autograds(library, cells):
    for k, done in enumerate(cells):
        found = run(library, f"number_{k}", done, torch.float64)
        for key, expected in expected_of(done).items():
            torch.testing.assert_close(
                found[key], expected, rtol=1e-9, atol=1e-11, msg=f"cell {k} {key}"
            )


def test_every_operation_in_float32_is_as_accurate_as_torch(library, cells):
    torch.manual_seed(1)
    for k, (program, done) in enumerate(zip(programs(), cells, strict=True)):
        found = run(library, f"pair_{k}", done, torch.float32)
        torchs = in_float32(program, done)
        for key, expected in expected_of(done).items():
            assert_as_accurate_as_torch(
                found[key], expected, torchs[key], floor=FLOOR, what=f"cell {k} {program}, {key}"
            )


@pytest.mark.parametrize(
    ("which", "exact", "low", "high"),
    [(0, torch.exp, -87.0, 88.7), (1, torch.log, 1e-37, 1e37), (2, torch.nn.Softplus(), -80, 80)],
    ids=["exponential", "logarithm", "softplus"],
)
def test_vectors_of_float32_are_within_3_ulp_of_float64(library, which, exact, low, high):
    x = torch.cat([torch.linspace(low, high, 100_000), torch.linspace(-3, 3, 100_000)])
    if which == 1:
        x = torch.cat([torch.logspace(-37, 37, 100_000), x[x > 0]])
    x = x[: len(x) // 16 * 16].contiguous()
    found = elementary(library, which, x)
    expected = exact(x.double())
    eps = torch.finfo(torch.float32).eps
    error = (found.double() - expected).abs() / (expected.abs().clamp_min(1e-37) * eps)
    assert error.max() <= 3, (error.max(), x[error.argmax()])


def test_vectors_of_float32_have_torchs_limits(library):
    infinity, nan = float("inf"), float("nan")
    for which, function, given in (
        (0, torch.exp, [infinity, -infinity, nan, 100.0, -200.0, 0.0, 88.9, 1.0]),
        (1, torch.log, [infinity, -infinity, nan, 0.0, -1.0, 1.0, 3e38, 2.0]),
        (2, torch.nn.functional.softplus, [infinity, -infinity, nan, 1e30, -1e30, 0.0, 30.0, 1.0]),
    ):
        x = torch.tensor(given)
        torch.testing.assert_close(elementary(library, which, x), function(x), equal_nan=True)


def elementary(library, which, x):
    found = torch.empty_like(x)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, found)]
    library.elementary(which, *pointers, len(x))
    return found


def in_float32(program, done):
    """The same by torch in float32."""
    s = done.specification
    leaves = {k: v.float().requires_grad_(k[0] != "d") for k, v in done.leaves.items()}
    vector = s.recurrent == "vector"
    prev = leaves["state", 0]
    recurrent = [leaves["u", k] * prev if vector else leaves["h", k] for k in range(2)]
    results = s.function(
        s.types["x"](leaves["x", 0], leaves["x", 1]), s.types["h"](*recurrent, prev),
        s.types["state"](leaves["state", 1]), s.types["p"](leaves["u", 2 if vector else 0]),
    )  # fmt: skip
    wanted = [key for key in leaves if key[0] != "d"]
    found = torch.autograd.grad(
        results, [leaves[k] for k in wanted], [leaves["d", 0], leaves["d", 1]]
    )
    named = dict(zip(wanted, found, strict=True))
    return named | {("result", k): r.detach() for k, r in enumerate(results)}
