"""Compiles a printed cell for the GPU at hand with NVRTC, the compiler in torch's own CUDA.

The text is the cell between the headers of the CUDA kernels and two kernels of known names
(csrc/recurrent/compiled/cuda). NVRTC reads no file of a C++ standard library: the few
names that the headers take from one are here.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .._extension import _C
from ..ops import compiled_cells
from .cache import hash_of_files, library, told
from .errors import CannotCompileError, failure

if TYPE_CHECKING:
    from .definition import Definition

__all__ = ["image", "load", "load_nvrtc", "translation_unit"]

#: Storage and arithmetic as the kernels name them.
STORAGES = {
    torch.float32: ("float", "float"),
    torch.float64: ("double", "double"),
    torch.float16: ("__half", "float"),
    torch.bfloat16: ("__nv_bfloat16", "float"),
}
#: As nvcc compiles the built-in kernels; functions without a mark are a device's.
FLAGS = ("-std=c++20", "-default-device", "-w")

_INTEGERS = "".join(
    f"typedef {sign}{kind} {letter}int{bits}_t; namespace std {{ using ::{letter}int{bits}_t; }}\n"
    for bits, kind in ((8, "char"), (16, "short"), (32, "int"), (64, "long long"))
    for sign, letter in (("signed ", ""), ("unsigned ", "u"))
)
#: In the place of headers that NVRTC does not have, or has built in.
_HEADERS = {
    "cstdint": _INTEGERS + "typedef unsigned long long uintptr_t;\n"
    "namespace std { using ::uintptr_t; }\n",
    "cstddef": "namespace std { using size_t = decltype(sizeof 0); using ptrdiff_t = long long; }",
    "type_traits": """\
namespace std {
template <class A, class B> constexpr bool is_same_v = false;
template <class A> constexpr bool is_same_v<A, A> = true;
template <bool yes, class A, class B> struct conditional { using type = A; };
template <class A, class B> struct conditional<false, A, B> { using type = B; };
template <bool yes, class A, class B> using conditional_t = typename conditional<yes, A, B>::type;
}
""",
    "cmath": "#define INFINITY __int_as_float(0x7f800000)",
    "cstring": "",
    "cuda_runtime.h": "",
}


def load(definition: Definition, dtype: torch.dtype, headers: Path) -> None:
    """Makes the kernels of a cell and dtype known, for every kind of GPU there is. Raises
    CannotCompileError."""
    assert _C is not None  # nothing is compiled for a module that is not there
    if len(definition.specification.gains) == 1:
        raise CannotCompileError("a norm of x or of h alone has no CUDA kernels")
    devices = range(torch.cuda.device_count())
    for major, minor in {torch.cuda.get_device_capability(device) for device in devices}:
        compute = 10 * major + minor
        path = image(definition, dtype, compute, headers)
        try:
            compiled_cells.take_image(
                definition.name, dtype, compute, path.read_bytes(), definition.facts,
                definition.constants,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise CannotCompileError(f"its kernels {path} cannot be loaded ({error})") from None


def translation_unit(definition: Definition, dtype: torch.dtype) -> str:
    """The one text that is compiled."""
    assert _C is not None
    storage, arithmetic = STORAGES[dtype]
    return f"""\
#include "recurrent/compiled/cuda/export.cuh"

static_assert(fastcells::compiled::kCudaLayout == {_C.CUDA_LAYOUT}ULL,
              "these headers are not those that the module was compiled from");
{definition.body}
namespace fastcells::compiled {{
using Own = KernelsOf<equations::{definition.struct}, Types<{storage}, {storage}, {arithmetic}>>;
}}
#include "recurrent/compiled/cuda/entries.cuh"
"""


def image(definition: Definition, dtype: torch.dtype, compute: int, headers: Path) -> Path:
    """The file of the compiled kernels (cubin) for one compute capability, 90 for 9.0. Raises
    CannotCompileError."""
    text, folder, nvrtc = translation_unit(definition, dtype), _cuda_headers(), load_nvrtc()
    flags = (f"--gpu-architecture=sm_{compute}", *FLAGS)
    parts = (text, *flags, nvrtc.version, str(folder), hash_of_files(headers, "*.*h"))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    name = definition.specification.name

    def build(target: Path) -> None:
        with told(f"{name} for {str(dtype).removeprefix('torch.')} on CUDA {compute / 10}"):
            made, said = nvrtc.compile(text, [*flags, f"-I{headers}", f"-I{folder}"])
            if made is None:
                source = target.parent / f"{definition.name}-{key}.cu"
                source.write_text(text, encoding="utf-8")
                raise failure("NVRTC", source, said)
            target.write_bytes(made)

    return library(definition.name, key, build, ".cubin")


# ---- where CUDA is ----


def _folders() -> Iterator[tuple[Path, Path]]:
    """Where packages and toolkits keep libraries and headers of CUDA, the likeliest first."""
    major = (torch.version.cuda or "13").partition(".")[0]
    package = importlib.util.find_spec("nvidia")
    for place in (package.submodule_search_locations or ()) if package else ():
        root = Path(place)
        for library_part, header_part in (
            (f"cu{major}", f"cu{major}"),
            ("cuda_nvrtc", "cuda_runtime"),
        ):
            yield root / library_part / "lib", root / header_part / "include"
    # Not at the head of the file: it looks for a compiler, and takes half a second.
    from torch.utils.cpp_extension import CUDA_HOME

    for home in (CUDA_HOME, "/usr/local/cuda"):
        if home:
            yield Path(home, "lib64"), Path(home, "include")


@cache
def _cuda_headers() -> Path:
    for _, folder in _folders():
        if (folder / "cuda_bf16.h").is_file():
            return folder
    raise CannotCompileError(
        "CUDA's headers (cuda_bf16.h) were not found: install nvidia-cuda-runtime, or set CUDA_HOME"
    )


class _Nvrtc:
    """The functions of the library that are used here."""

    def __init__(self, opened: ctypes.CDLL) -> None:
        self._calls = opened
        major, minor = ctypes.c_int(), ctypes.c_int()
        opened.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = f"NVRTC {major.value}.{minor.value}"

    def compile(self, text: str, flags: list[str]) -> tuple[bytes | None, str]:
        """The cubin, or None; and what the compiler said."""
        program = ctypes.c_void_p()
        count, strings = len(_HEADERS), ctypes.c_char_p * len(_HEADERS)
        status = self._calls.nvrtcCreateProgram(
            ctypes.byref(program),
            text.encode(),
            b"cell.cu",
            count,
            strings(*(header.encode() for header in _HEADERS.values())),
            strings(*(name.encode() for name in _HEADERS)),
        )
        if status != 0:
            return None, f"nvrtcCreateProgram ended with {status}"
        try:
            options = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
            status = self._calls.nvrtcCompileProgram(program, len(flags), options)
            told = self._get("ProgramLog", program).rstrip(b"\0").decode(errors="replace")
            return (self._get("CUBIN", program) if status == 0 else None), told
        finally:
            self._calls.nvrtcDestroyProgram(ctypes.byref(program))

    def _get(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        getattr(self._calls, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        found = ctypes.create_string_buffer(size.value)
        getattr(self._calls, f"nvrtcGet{what}")(program, found)
        return found.raw


@cache
def load_nvrtc() -> _Nvrtc:
    """The library, of torch's own CUDA where it can be found. Raises CannotCompileError."""
    major = (torch.version.cuda or "13").partition(".")[0]
    pattern = re.compile(rf"libnvrtc\.so\.{major}(\.[\d.]*)?")
    for folder, _ in _folders():
        found = sorted(path for path in folder.glob("libnvrtc.so*") if pattern.fullmatch(path.name))
        for path in found:
            try:
                for part in folder.glob("libnvrtc-builtins.so*"):  # which it looks for by name
                    ctypes.CDLL(str(part), mode=ctypes.RTLD_GLOBAL)
                return _Nvrtc(ctypes.CDLL(str(path)))
            except OSError:
                continue
    try:
        return _Nvrtc(ctypes.CDLL(f"libnvrtc.so.{major}"))
    except OSError:
        raise CannotCompileError(
            f"NVRTC (libnvrtc.so.{major}) was not found: install nvidia-cuda-nvrtc, or set "
            "CUDA_HOME"
        ) from None
