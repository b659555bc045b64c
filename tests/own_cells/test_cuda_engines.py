"""The CUDA engines on cells from equations: emulated_engines.cpp, called by the layers themselves,
against the reference in float64. What they give NVRTC to compile is in test_nvrtc.py."""

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

import fastcells
from fastcells.equations import cache
from routes import hide_kernels, no_kernels
from test_whole_rows import RATES, decorated

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
COMPILER = os.environ.get("CXX", "").split() or ["c++"]
pytestmark = pytest.mark.skipif(
    not fastcells.is_compiled() or shutil.which(COMPILER[0]) is None,
    reason="needs the compiled module and a C++ compiler",
)
I, H, T, B = 4, 13, 6, 5
TESTS = ROOT / "tests"
PLACES = (ROOT / "csrc", HERE, TESTS, TESTS / "cpp", TESTS / "simt" / "include")
KINDS = (".h", ".cuh", ".cpp")

#: Of csrc, beside the harness: what an op of a GPU runs, but for the launches.
SOURCES = """ops engine layer compiled/registry stepwise/forward stepwise/backward
    elementwise/cuda/engine rowwise/cuda/engine ../checks ../dense""".split()


@fastcells.cell(gates="i o g", states="c d e")
def dense(x, h, state, p):
    """Three states beside h, one of which the next step's gates do not see."""
    c = state.c + torch.sigmoid(x.i + h.i) * torch.tanh(x.g * h.g)
    d = 0.5 * state.d + torch.sigmoid(x.i) * c
    return torch.sigmoid(x.o + h.o) * torch.tanh(c) / (1 + d * d), c, d, state.e + d


@fastcells.cell(gates="f n", recurrent="vector", states="c d", parameters={"bend": 1.5})
def lanes(x, h, state, p):
    """A vector, a parameter, a kink, two states."""
    f = torch.sigmoid(x.f + h.f)
    c = f * state.c + (1 - f) * torch.nn.functional.elu(p.bend * (x.n + h.n))
    d = 0.3 * state.d + c * f
    return torch.tanh(c + d), c, d


@fastcells.cell(gates="f n", recurrent="none")
def gates_alone(x, h, state, p):
    """No recurrent weights, h itself."""
    f = torch.sigmoid(x.f)
    return f * h.prev + (1 - f) * x.n


LAYERS = {
    "dense": (dense, {}),
    "lltm": (fastcells.cells.lltm, {}),
    "a vector": (lanes, {}),
    "no recurrent part": (gates_alone, {}),
    "rows": (decorated(""), {}),
    "rows, both norms": (decorated("input recurrent"), {}),
    "rows with noise": (decorated(""), RATES),
}


def definition_of(cell, rates):
    return cell.definition.with_noise if rates else cell.definition


@pytest.fixture(scope="module")
def ops(tmp_path_factory):
    """torch.ops.fastcells_emulated, which knows every cell of LAYERS."""
    found = {}
    for cell, rates in LAYERS.values():
        definition = definition_of(cell, rates)
        found.setdefault(definition.name, definition)
    text = '#include "recurrent/compiled/cuda/export.cuh"\n'
    for k, one in enumerate(found.values()):
        text += one.body.replace(f"struct {one.struct} ", f"struct Cell{k} ")
    each = " ".join(f"f(equations::Cell{k}, {k})" for k in range(len(found)))
    text += f'#define FASTCELLS_EACH_CELL(f) {each}\n#include "emulated_engines.cpp"\n'
    hashed = hashlib.sha256((text + torch.__version__).encode())
    for path in sorted(p for place in PLACES for p in place.rglob("*.*") if p.suffix in KINDS):
        hashed.update(path.read_bytes())
    folder = tmp_path_factory.mktemp("engines")
    made = cache.library(
        "engines", hashed.hexdigest()[:16], lambda target: build(folder, text, target)
    )
    torch.ops.load_library(str(made))
    made = torch.ops.fastcells_emulated
    for one in found.values():
        made.declare(one.name, one.constants)
    return made


def build(folder, text, target):
    (folder / "cells.cpp").write_text(text)
    flags = ["-std=c++20", "-O0", "-w", "-fPIC", "-fvisibility=hidden", "-DFASTCELLS_EMULATED"]
    flags += ['-DFASTCELLS_LISTS="recurrent/compiled/no_cells.h"', *(f"-I{p}" for p in PLACES)]
    flags += [f for path in cpp_extension.include_paths() for f in ("-isystem", path)]

    def compile(source):
        made = folder / (str(source.relative_to(source.anchor)).replace("/", "-") + ".o")
        run([*COMPILER, *flags, "-c", str(source), "-o", str(made)])
        return str(made)

    sources = [ROOT / "csrc" / "recurrent" / f"{name}.cpp" for name in SOURCES]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile, [folder / "cells.cpp", *(s.resolve() for s in sources)]))
    libraries = Path(torch.__file__).parent / "lib"
    run([*COMPILER, "-shared", *objects, "-o", str(target), f"-L{libraries}",
         "-ltorch", "-ltorch_cpu", "-lc10"])  # fmt: skip


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]


class Calls:
    """The emulated ops, and how often each was called."""

    def __init__(self, monkeypatch, ops):
        self.counts = {}
        hide_kernels(monkeypatch, "")
        for name in ("recurrent_forward", "recurrent_backward"):
            monkeypatch.setattr(torch.ops.fastcells, name, self.counted(name, getattr(ops, name)))

    def counted(self, name, op):
        def call(*arguments):
            self.counts[name] = self.counts.get(name, 0) + 1
            return op(*arguments)

        return call


def outputs_and_gradients(layer, lengths=None, resets=None, dtype=torch.float64):
    torch.manual_seed(11)  # the masks, too
    device = layer.weight_ih_l0.device

    def draw(shape):
        return torch.randn(shape, dtype=torch.float64).to(device, dtype)

    count = layer.num_layers * (2 if layer.bidirectional else 1)
    states = len(layer.definition.specification.states)
    shapes = [(T, B, I), *[(count, B, H)] * (1 + states)]
    leaves = [draw(shape).requires_grad_() for shape in shapes]
    hx = tuple(leaves[1:]) if states else leaves[1]
    output, final = layer(leaves[0], hx, lengths, resets)
    found = [output, *(final if states else (final,))]
    total = sum((x * draw(x.shape)).sum() for x in found)
    return [*found, *torch.autograd.grad(total, [*leaves, *layer.parameters()])]


def make(name, **more):
    cell, rates = LAYERS[name]
    torch.manual_seed(5)
    layer = cell(I, H, dtype=torch.float64, **rates, **more)
    with torch.no_grad():
        for key, weight in layer.named_parameters():
            if key.startswith("norm"):
                weight.uniform_(0.5, 1.5)
    return layer


GIVEN = {"lengths": torch.tensor([6, 0, 4, 6, 1]), "resets": torch.zeros(T, B, dtype=torch.bool)}
GIVEN["resets"][[0, 2, 3], [0, 2, 3]] = True


def assert_same(found, expected, tolerance):
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=tolerance, check_dtype=False, msg=lambda m, k=k: f"{k}: {m}"
        )


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("way", ["plain", "rows and both directions", "recompute"])
def test_a_layer_is_the_reference(name, way, ops, monkeypatch):
    options = {"num_layers": 2, "bidirectional": True} if way.startswith("rows") else {}
    layer = make(name, recompute=way == "recompute", **options)
    given = GIVEN if way != "plain" else {}
    with no_kernels(monkeypatch):
        expected = outputs_and_gradients(layer, **given)
    with monkeypatch.context() as patch:
        calls = Calls(patch, ops)
        found = outputs_and_gradients(layer, **given)
    assert calls.counts == {
        "recurrent_forward": layer.num_layers,
        "recurrent_backward": layer.num_layers,
    }
    assert_same(found, expected, 1e-11)


@pytest.mark.parametrize("name", list(LAYERS))
def test_float32_is_close_to_float64(name, ops, monkeypatch):
    layer = make(name)
    Calls(monkeypatch, ops)
    expected = outputs_and_gradients(layer, **GIVEN)
    found = outputs_and_gradients(layer.float(), **GIVEN, dtype=torch.float32)
    assert all(x.dtype == torch.float32 for x in found)
    # Weights that are rounded, six steps of sums of 13, and exponentials of what they give.
    assert_same(found, expected, 2e-5)
