"""Compiles a printed cell against the kernels' headers, for this machine, and loads it; for a GPU
nvrtc.py does.

The compiler is torch's choice: `CXX`, or what it finds. A library holds one cell at one storage and
one instruction set. Nothing here raises: a call runs on the reference where there are no kernels,
after one warning that says why.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .._extension import _C, FastcellsBuildWarning
from ..ops import compiled_cells
from . import nvrtc
from .cache import CacheError, hash_of_files, library, told
from .errors import CannotCompileError, failure

if TYPE_CHECKING:
    from .definition import Definition

__all__ = ["headers", "load", "translation_unit"]

#: Those of the module itself, but for OpenMP: a cell's library knows no thread.
FLAGS = ("-std=c++20", "-O3", "-g0", "-fPIC", "-shared", "-fvisibility=hidden", "-w")
MOST_SECONDS = 300  # on a machine with time for one compiler it takes 10

STORAGES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "HalfBits",
    torch.bfloat16: "BFloat16Bits",
}
_LOCK = threading.Lock()
_LIBRARIES: list[ctypes.CDLL] = []  # stay loaded


def load(definition: Definition, dtype: torch.dtype, device: str) -> str:
    """Makes the kernels of a cell, dtype and type of device known; "" or why there are none, after
    a warning."""
    if dtype not in STORAGES or device not in ("cpu", "cuda"):
        return f"a cell from equations has no kernels for {dtype} on {device}"
    try:
        with _LOCK:
            if device == "cuda":
                nvrtc.load(definition, dtype, _headers())
            else:
                _open(_library(definition, dtype), definition, dtype)
    except (CannotCompileError, CacheError) as error:
        warnings.warn(
            f"{definition.specification.name}: {error}. Until then it runs on the reference, in "
            "plain torch, slowly",
            FastcellsBuildWarning,
            stacklevel=2,
        )
        return str(error)
    return ""


@cache
def headers() -> Path | None:
    """Where the kernels' headers are: beside the package, or inside it."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "include", package.parent / "csrc"):
        if (place / "recurrent" / "compiled" / "export.h").is_file():
            return place
    return None


def translation_unit(definition: Definition, dtype: torch.dtype, instructions: str) -> str:
    """The one file that is compiled: the cell between the kernels' headers and its table."""
    storage = STORAGES[dtype]
    storage = storage if storage in ("float", "double") else f"fastcells::{storage}"
    struct = definition.struct
    library = "fastcells::compiled::CellLibrary"
    return f"""\
#include "cpu/simd/{instructions}.h"

#include "recurrent/compiled/export.h"
{definition.body}
extern "C" __attribute__((visibility("default"))) const {library}* fastcells_cell() {{
  static constexpr {library} library =
      fastcells::library_of<fastcells::equations::{struct}, {storage}>();
  return &library;
}}
"""


def _instructions() -> str:
    """The header of the instruction set in use: what the kernels of built-in cells are made for."""
    assert _C is not None  # nothing is compiled for a module that is not there
    name = _C.instruction_set()
    if name == "amx":  # has no kernels of float32 of its own
        return "avx512"
    return next((s for s in ("avx512", "avx2") if name.startswith(s)), "baseline")


@cache
def _compiler() -> tuple[tuple[str, ...], str]:
    """The compiler's command and its version."""
    command = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if shutil.which(command[0]) is None:
        fallback = (
            [] if os.environ.get("CXX") else [c for c in ("g++", "clang++") if shutil.which(c)]
        )
        if not fallback:
            raise CannotCompileError(
                f"no C++ compiler was found ({command[0]}): install g++ or clang++, or set CXX"
            )
        command = fallback[:1]
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompileError(
            f"{shlex.join(command)} cannot be run ({error}): set CXX"
        ) from None
    if done.returncode != 0:
        raise CannotCompileError(
            f"{shlex.join(command)} --version failed: set CXX to a C++ compiler"
        )
    return tuple(command), done.stdout.partition("\n")[0]


def _headers() -> Path:
    place = headers()
    if place is None:
        raise CannotCompileError(
            "the kernels' headers were not found beside the package: install fastcells from a "
            "checkout, or from a wheel that carries them"
        )
    return place


def _library(definition: Definition, dtype: torch.dtype) -> Path:
    place = _headers()
    instructions = _instructions()
    text = translation_unit(definition, dtype, instructions)
    command, version = _compiler()
    parts = (text, *command, version, *FLAGS, hash_of_files(place, "*.h"))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    what = f"{definition.specification.name} for {str(dtype).removeprefix('torch.')}"

    def build(target: Path) -> None:
        source = target.parent / f"{definition.name}-{key}.cpp"
        source.write_text(text, encoding="utf-8")
        _run([*command, *FLAGS, f"-I{place}", str(source), "-o", str(target)], what, source)

    return library(definition.name, key, build)


def _run(command: list[str], what: str, source: Path) -> None:
    try:
        with told(what):
            subprocess.run(
                command, capture_output=True, text=True, timeout=MOST_SECONDS, check=True,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CannotCompileError(
            f"the compiler was not done after {MOST_SECONDS} s; its file is {source}"
        ) from None
    except OSError as error:
        raise CannotCompileError(f"{command[0]} cannot be run ({error}): set CXX") from None
    except subprocess.CalledProcessError as error:
        raise failure("the compiler", source, error.stderr or error.stdout) from None
    source.unlink(missing_ok=True)


def _open(path: Path, definition: Definition, dtype: torch.dtype) -> None:
    try:
        opened = ctypes.CDLL(str(path))
        entry = ctypes.cast(opened.fastcells_cell, ctypes.c_void_p).value
        assert entry is not None  # the address of a symbol that was found
        compiled_cells.take(definition.name, dtype, entry, definition.facts)
    except (OSError, AttributeError, ValueError) as error:
        raise CannotCompileError(
            f"its library {path} cannot be loaded ({error}): where the headers were changed, "
            "compile fastcells anew"
        ) from None
    _LIBRARIES.append(opened)
