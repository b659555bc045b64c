"""Cells from equations as NVRTC and nvcc take them, without a GPU: every family and storage
compiles to the two kernels, and what cannot be compiled is told. That they are right:
test_cuda_engines.py."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import fastcells
from fastcells.equations import compiling, nvrtc
from fastcells.equations.errors import CannotCompileError
from fastcells.ops import compiled_cells
from test_cuda_engines import LAYERS, definition_of, make

CELLS = {name: definition_of(*LAYERS[name]) for name in LAYERS}


def has_nvrtc():
    try:
        return bool(nvrtc.load_nvrtc() and nvrtc._cuda_headers())
    except CannotCompileError:
        return False


pytestmark = [
    pytest.mark.skipif(
        not fastcells.is_compiled() or compiling.headers() is None,
        reason="needs the compiled module and its headers",
    ),
    pytest.mark.skipif(not has_nvrtc(), reason="needs NVRTC and CUDA's headers"),
]


@pytest.fixture
def nvcc():
    from project.cuda_check import find_nvcc

    found = find_nvcc()
    if found is None or not any(map(shutil.which, ("gcc", "clang"))):
        pytest.skip("needs nvcc, which needs a C++ compiler")
    return found


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCELLS_CACHE", str(tmp_path))


def is_of_both_kernels(image):
    return image[:4] == b"\x7fELF" and all(
        f"own_{way}_kernel".encode() in image for way in ("forward", "backward")
    )


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", list(CELLS))
@pytest.mark.parametrize("dtype", list(nvrtc.STORAGES))
def test_every_family_and_storage_compiles(name, dtype):
    path = nvrtc.image(CELLS[name], dtype, 90, compiling.headers())
    assert path.suffix == ".cubin"
    assert is_of_both_kernels(path.read_bytes())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("compute", [80, 86, 100])
def test_other_gpus(compute):
    for name in ("dense", "a vector", "rows"):
        path = nvrtc.image(CELLS[name], torch.float32, compute, compiling.headers())
        assert is_of_both_kernels(path.read_bytes())


@pytest.mark.parametrize("name", ["dense", "a vector", "rows"])
def test_nvcc_takes_the_same_text(name, nvcc, tmp_path):
    source = tmp_path / "cell.cu"
    source.write_text(nvrtc.translation_unit(CELLS[name], torch.bfloat16))
    target = tmp_path / "cell.cubin"
    flags = ["-std=c++20", "--expt-relaxed-constexpr", f"-I{compiling.headers()}", "-arch=sm_90"]
    done = subprocess.run(
        [nvcc, *flags, "-cubin", str(source), "-o", str(target)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert is_of_both_kernels(target.read_bytes())


def test_an_image_is_compiled_once(capfd):
    first = nvrtc.image(CELLS["lltm"], torch.float32, 90, compiling.headers())
    assert "compiling lltm for float32 on CUDA 9.0, once" in capfd.readouterr().err
    assert nvrtc.image(CELLS["lltm"], torch.float32, 90, compiling.headers()) == first
    assert capfd.readouterr().err == ""
    other = nvrtc.image(CELLS["lltm"], torch.float32, 80, compiling.headers())
    assert other != first
    first.write_bytes(b"damaged")
    again = nvrtc.image(CELLS["lltm"], torch.float32, 90, compiling.headers())
    assert is_of_both_kernels(again.read_bytes())


def test_what_nvrtc_says_is_told_and_its_file_kept(monkeypatch):
    whole = nvrtc.translation_unit
    monkeypatch.setattr(nvrtc, "translation_unit", lambda *a: whole(*a) + "\nint x = unknown_name;")
    with pytest.raises(CannotCompileError, match="unknown_name") as caught:
        nvrtc.image(CELLS["lltm"], torch.float32, 90, compiling.headers())
    kept = str(caught.value).partition(" on ")[2].partition(", which is kept")[0]
    assert "unknown_name" in Path(kept).read_text(encoding="utf-8")


def test_headers_of_another_module_are_refused(monkeypatch):
    monkeypatch.setattr(fastcells._extension._C, "CUDA_LAYOUT", 1)
    with pytest.raises(CannotCompileError, match="not those that the module was compiled from"):
        nvrtc.image(CELLS["lltm"], torch.float32, 90, compiling.headers())


class Card:
    """Two GPUs of one kind and a third, as torch.cuda tells of them."""

    def __init__(self, monkeypatch):
        self.taken = []
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device: (8, 0) if device == 2 else (9, 0)
        )
        monkeypatch.setattr(compiled_cells, "take_image", lambda *a: self.taken.append(a))


def test_every_kind_of_gpu_gets_its_image(monkeypatch):
    card = Card(monkeypatch)
    definition = CELLS["rows"]
    assert compiling.load(definition, torch.float32, "cuda") == ""
    assert sorted(compute for _, _, compute, *_ in card.taken) == [80, 90]
    for name, dtype, _, image, facts, constants in card.taken:
        assert (name, dtype) == (definition.name, torch.float32)
        assert is_of_both_kernels(image)
        assert facts["states"] == constants["kStates"] == 3
        assert constants["kUnitWeights"] == constants["kWholeRows"] == 1


def test_without_nvrtc_it_runs_on_the_reference_after_one_warning(monkeypatch):
    Card(monkeypatch)

    def missing():
        raise CannotCompileError("NVRTC was not found")

    monkeypatch.setattr(nvrtc, "load_nvrtc", missing)
    with pytest.warns(fastcells.FastcellsBuildWarning, match="NVRTC was not found"):
        assert "NVRTC" in compiling.load(CELLS["lltm"], torch.float32, "cuda")


def test_one_norm_alone_is_refused(monkeypatch):
    card = Card(monkeypatch)
    layer = fastcells.cell(gates="n", norm="input")(lambda x, h, state, p: torch.tanh(x.n + h.n))
    with pytest.warns(fastcells.FastcellsBuildWarning, match="of x or of h alone"):
        assert compiling.load(layer.definition, torch.float32, "cuda")
    assert card.taken == []


def test_other_devices_have_no_kernels():
    assert "on xpu" in compiling.load(CELLS["lltm"], torch.float32, "xpu")
    assert make("lltm").definition.load(torch.int32, "cuda")
