"""Printed cells as CUDA kernels, under the emulator: the C++ tests of the built-in cells on lists
of printed ones."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import fastcells
from fastcells.equations.source import struct_name

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("c++") or shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


@fastcells.cell(gates="f n", recurrent="vector", states="c", parameters={"bend": 1.5})
def bent(x, h, state, p):
    """A vector, a parameter, a kink, exponentials."""
    f = torch.sigmoid(x.f + h.f)
    c = f * state.c + (1 - f) * torch.nn.functional.elu(p.bend * (x.n + h.n))
    return torch.tanh(c), c


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """A header with the lists of cells.h: one dense, one elementwise cell."""
    made = {"Cells": fastcells.cells.lltm, "ElementwiseCells": bent}
    text = '}  // namespace fastcells, in which this is included\n#include "math/elementary.h"\n'
    for cell in made.values():
        text += cell.definition.body
    text += "namespace fastcells {\n"
    for name, cell in made.items():
        text += f"using {name} = CellList<equations::{struct_name(cell.__name__)}>;\n"
    text += "using RowCells = CellList<>;\n"
    path = tmp_path_factory.mktemp("cuda") / "lists.h"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["test_cuda_elementwise", "test_cuda_steps"])
def test_printed_cells_pass_the_tests_of_the_built_in_ones(lists, name):
    target = lists.with_name(name)
    folders = [
        f"-I{ROOT / folder}" for folder in ("csrc", "tests", "tests/cpp", "tests/simt/include")
    ]
    command = [COMPILER, "-std=c++20", "-O1", "-w", f'-DFASTCELLS_LISTS="{lists}"', *folders]
    source = ROOT / "tests" / "cpp" / "recurrent" / f"{name}.cpp"
    built = subprocess.run(
        [*command, str(source), "-o", str(target), "-pthread"], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr[:3000]
    environment = os.environ | {"FASTCELLS_SHORT": "1"}
    done = subprocess.run([target], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    assert ("lltm" in done.stdout) or ("bent" in done.stdout)
