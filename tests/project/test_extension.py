"""What fastcells says when its compiled module is missing or was built for another torch."""

import json
import os
import subprocess
import sys

import pytest

from fastcells import _extension

BUILT_FOR_CPU = {"torch": "2.13.0+cpu", "torch_cuda": None}
BUILT_FOR_CUDA = {"torch": "2.11.0+cu130", "torch_cuda": "13.0"}


def run_python(code, **environment):
    """stdout and stderr of a fresh interpreter that runs `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("info", "torch_version", "torch_cuda"),
    [
        (BUILT_FOR_CPU, "2.13.0+cpu", None),
        (BUILT_FOR_CPU, "2.13.4", None),  # another patch of the same minor version
        (BUILT_FOR_CUDA, "2.11.1+cu130", "13.0"),
        (None, "2.13.0", None),  # built by other means: nothing to compare
    ],
)
def test_a_build_for_the_same_minor_version_and_cuda_may_be_loaded(info, torch_version, torch_cuda):
    assert _extension.find_mismatch(info, torch_version, torch_cuda) is None


def test_a_build_for_another_minor_version_is_refused_naming_both():
    assert _extension.find_mismatch(BUILT_FOR_CPU, "2.15.0+cpu", None) == (
        "fastcells._C was built for torch 2.13.0+cpu / no CUDA, you have torch 2.15.0+cpu / no "
        "CUDA: torch's C++ interface differs between these versions, so it was not loaded"
    )


def test_a_longer_minor_version_is_another_one():
    info = {"torch": "2.1.0", "torch_cuda": None}
    assert _extension.find_mismatch(info, "2.11.0", None) is not None


@pytest.mark.parametrize(
    ("info", "torch_cuda", "built", "have"),
    [
        (BUILT_FOR_CUDA, None, "CUDA 13.0", "no CUDA"),
        (BUILT_FOR_CUDA, "12.8", "CUDA 13.0", "CUDA 12.8"),
        ({"torch": "2.11.0+cpu", "torch_cuda": None}, "13.0", "no CUDA", "CUDA 13.0"),
    ],
)
def test_a_build_for_another_cuda_is_refused_naming_both(info, torch_cuda, built, have):
    assert _extension.find_mismatch(info, "2.11.0", torch_cuda) == (
        f"fastcells._C was built for torch {info['torch']} / {built}, you have torch 2.11.0 / "
        f"{have}: the CUDA versions differ, so it was not loaded"
    )


def test_build_info_without_a_torch_version_is_refused():
    assert "built for torch None" in _extension.find_mismatch({}, "2.13.0", None)


def test_a_module_that_was_never_compiled_is_named_so():
    error = ModuleNotFoundError("No module named 'fastcells._C'", name="fastcells._C")
    assert _extension.describe_import_error(error, None, "2.13.0+cpu", None) == (
        "fastcells._C has not been compiled (you have torch 2.13.0+cpu / no CUDA)"
    )


def test_an_undefined_symbol_is_reported_with_both_versions_and_the_loaders_words():
    error = ImportError("_C.so: undefined symbol: _ZN2at6Tensor", name="fastcells._C")
    text = _extension.describe_import_error(error, BUILT_FOR_CPU, "2.13.1", None)
    assert text == (
        "fastcells._C was built for torch 2.13.0+cpu / no CUDA, you have torch 2.13.1 / no CUDA, "
        "and importing it failed: _C.so: undefined symbol: _ZN2at6Tensor"
    )
    by_cmake = _extension.describe_import_error(error, None, "2.13.1", None)
    assert by_cmake.startswith("fastcells._C was built by other means than setup.py, you have")


def test_the_warning_names_the_command_that_mends_it_and_what_happens_meanwhile():
    text = _extension.warning_text("why", disabled=False)
    assert "`pip install --no-build-isolation --force-reinstall --no-deps .`" in text
    assert "fastcells.reference" in text
    assert "Unset FASTCELLS_DISABLE_EXTENSION" in _extension.warning_text("why", disabled=True)


@pytest.mark.parametrize(("value", "disabled"), [("1", True), ("0", False), ("", False)])
def test_the_switch_is_read_as_a_boolean(value, disabled):
    assert _extension.is_disabled({"FASTCELLS_DISABLE_EXTENSION": value}) is disabled
    assert not _extension.is_disabled({})


@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_a_missing_or_broken_build_info_file_reads_as_none(tmp_path, content):
    path = tmp_path / "_build_info.json"
    if content is not None:
        path.write_text(content)
    assert _extension.read_build_info(path) is None


def test_build_info_is_read_back(tmp_path):
    path = tmp_path / "_build_info.json"
    path.write_text(json.dumps(BUILT_FOR_CUDA))
    assert _extension.read_build_info(path) == BUILT_FOR_CUDA


def test_this_build_is_in_use_and_describes_itself():
    assert _extension.is_compiled(), _extension.why_not_compiled()
    assert _extension.why_not_compiled() is None
    info = _extension.read_build_info()
    names = {"fastcells", "git_revision", "python", "torch", "torch_cuda", "cuda"}
    assert names | {"cuda_arch_list", "compiler", "flags"} == set(info)


def test_importing_fastcells_without_the_module_warns_exactly_once():
    code = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastcells
    import fastcells._extension, fastcells.functional, fastcells.layers
    fastcells.is_compiled(), fastcells.is_compiled()
ours = [w for w in caught if issubclass(w.category, fastcells._extension.FastcellsBuildWarning)]
print(len(ours), fastcells.is_compiled())
print(fastcells._extension.why_not_compiled())
print(ours[0].message)
"""
    out, _ = run_python(code, FASTCELLS_DISABLE_EXTENSION="1")
    counts, why, message = out.splitlines()
    assert counts == "1 False"
    assert why == "FASTCELLS_DISABLE_EXTENSION is set, so fastcells._C counts as not compiled"
    assert message == _extension.warning_text(why, disabled=True)


def test_a_module_for_another_torch_is_not_loaded():
    code = """
import json, pathlib, sys, tempfile, warnings
import torch
torch.__version__ = "9.9.0"  # as if torch had been upgraded after the build
warnings.simplefilter("ignore")
from fastcells import _extension
print(_extension.is_compiled(), "fastcells._C" in sys.modules)
print(_extension.why_not_compiled())
"""
    out, _ = run_python(code)
    state, why = out.splitlines()
    assert state == "False False"
    assert "you have torch 9.9.0" in why
