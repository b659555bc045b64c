"""Loads the compiled module fastcells._C, and says what is wrong when it cannot be loaded.

`_build_info.json`, written beside the module by setup.py, names the torch it was compiled against.
torch's C++ interface changes with every minor version, so a module built for another one is never
loaded: it could crash. Everything then runs on fastcells.reference, after one warning.
"""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch

BUILD_INFO_FILE = Path(__file__).with_name("_build_info.json")
DISABLE_VARIABLE = "FASTCELLS_DISABLE_EXTENSION"
REBUILD_COMMAND = "pip install --no-build-isolation --force-reinstall --no-deps ."


class FastcellsBuildWarning(RuntimeWarning):
    """The compiled module is not in use, so every call runs on fastcells.reference.

    It comes once, with the import of fastcells, and says why and what to do.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", RuntimeWarning)  # no import without the kernels
        ...     import fastcells
    """


def read_build_info(path: Path = BUILD_INFO_FILE) -> dict[str, object] | None:
    """What setup.py wrote about the build, or None where there is no readable file."""
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return info if isinstance(info, dict) else None


def minor_version(version: str) -> tuple[str, ...]:
    """("2", "13") of "2.13.0+cpu": what torch's C++ interface is tied to."""
    return tuple(version.partition("+")[0].split(".")[:2])


def describe_torch(version: object, cuda: object) -> str:
    return f"torch {version} / " + (f"CUDA {cuda}" if cuda else "no CUDA")


def built_for(info: Mapping[str, object]) -> str:
    return describe_torch(info.get("torch"), info.get("torch_cuda"))


def find_mismatch(
    info: Mapping[str, object] | None, torch_version: str, torch_cuda: str | None
) -> str | None:
    """Why a module built as `info` says must not be loaded into this torch, or None if it may."""
    if info is None:  # built by other means than setup.py: the import decides
        return None
    you_have = f"you have {describe_torch(torch_version, torch_cuda)}"
    if minor_version(str(info.get("torch"))) != minor_version(torch_version):
        return (
            f"fastcells._C was built for {built_for(info)}, {you_have}: torch's C++ interface "
            "differs between these versions, so it was not loaded"
        )
    if info.get("torch_cuda") != torch_cuda:
        return (
            f"fastcells._C was built for {built_for(info)}, {you_have}: the CUDA versions differ, "
            "so it was not loaded"
        )
    return None


def describe_import_error(
    error: ImportError,
    info: Mapping[str, object] | None,
    torch_version: str,
    torch_cuda: str | None,
) -> str:
    """One sentence for a module that is missing, or that is there and cannot be imported."""
    you_have = f"you have {describe_torch(torch_version, torch_cuda)}"
    if isinstance(error, ModuleNotFoundError) and error.name == "fastcells._C":
        return f"fastcells._C has not been compiled ({you_have})"
    built = "by other means than setup.py" if info is None else f"for {built_for(info)}"
    return f"fastcells._C was built {built}, {you_have}, and importing it failed: {error}"


def is_disabled(environment: Mapping[str, str]) -> bool:
    return environment.get(DISABLE_VARIABLE, "") not in ("", "0")


def warning_text(why: str, disabled: bool) -> str:
    """The whole warning: what is wrong, what happens meanwhile, what mends it."""
    mend = (
        f"Unset {DISABLE_VARIABLE} to use the compiled kernels."
        if disabled
        else f"To mend it, run this in a checkout of fastcells: `{REBUILD_COMMAND}`"
    )
    return f"{why}. Until then calls run on fastcells.reference, in plain torch, slowly. {mend}"


def load() -> tuple[ModuleType | None, str | None]:
    """(the module, None), or (None, why it is not in use)."""
    if is_disabled(os.environ):
        return None, f"{DISABLE_VARIABLE} is set, so fastcells._C counts as not compiled"
    info = read_build_info()
    torch_version, torch_cuda = str(torch.__version__), torch.version.cuda
    mismatch = find_mismatch(info, torch_version, torch_cuda)
    if mismatch is not None:
        return None, mismatch
    try:
        return importlib.import_module("fastcells._C"), None
    except ImportError as error:
        return None, describe_import_error(error, info, torch_version, torch_cuda)


_C, _why_not = load()
if _why_not is not None:
    warnings.warn(
        warning_text(_why_not, is_disabled(os.environ)), FastcellsBuildWarning, stacklevel=2
    )


def include_dir(package: Path = Path(__file__).parent) -> Path:
    """The folder that `#include "recurrent/cells/gru.h"` is looked for in: the copy of the headers
    that an installed package has, or csrc/ of a checkout.

    Raises:
        FileNotFoundError: there is neither.
    """
    candidates = (package / "include", package.resolve().parent / "csrc")
    for folder in candidates:
        if (folder / "recurrent" / "cells").is_dir():
            return folder
    raise FileNotFoundError(
        f"fastcells: the headers are neither in {candidates[0]} nor in {candidates[1]}: install "
        "fastcells again"
    )


def is_compiled() -> bool:
    """Whether the compiled kernels are in use; if not, :class:`FastcellsBuildWarning` has said why.

    Example:
        >>> is_fast = fastcells.is_compiled()
    """
    return _C is not None


def why_not_compiled() -> str | None:
    """Why they are not, in one sentence; None when they are."""
    return _why_not
