"""What the packages hold, and where the headers are. `make wheel` builds the packages, and
`make wheel-check` tries the wheel."""

import shutil
import subprocess

import pytest

from fastcells import _extension
from packages import find_content_faults, find_tag_fault

WHEEL = [
    "fastcells/_C.cpython-311-x86_64-linux-gnu.so", "fastcells/_C.pyi", "fastcells/py.typed",
    "fastcells/_build_info.json", "fastcells/include/recurrent/cells/gru.h",
    "fastcells/cli/__init__.py", "fastcells-1.0.dist-info/entry_points.txt",
    "fastcells-1.0.dist-info/licenses/LICENSE",
]  # fmt: skip


@pytest.mark.parametrize("tags", [[], ["v1.2.3"], ["reviewed", "v1.2.3"], ["vendored"]])
def test_a_commit_without_a_tag_or_with_the_versions_is_packaged(tags):
    assert find_tag_fault(tags, "1.2.3") is None


def test_a_tag_of_another_version_is_refused():
    assert find_tag_fault(["v1.2.4"], "1.2.3") == (
        "packages: the commit is tagged v1.2.4 and fastcells/_version.py says 1.2.3: make them "
        "agree"
    )


def test_a_wheel_with_all_it_needs_passes():
    assert find_content_faults(WHEEL) == []


@pytest.mark.parametrize("name", WHEEL)
def test_a_file_that_is_missing_is_a_fault(name):
    (fault,) = find_content_faults([other for other in WHEEL if other != name])
    assert fault.startswith("packages: the wheel lacks ")


@pytest.mark.parametrize("name", ["tests/test_a.py", "fastcells/a.cpp", "csrc/ops.h"])
def test_a_file_that_does_not_belong_there_is_a_fault(name):
    assert find_content_faults([*WHEEL, name]) == [f"packages: the wheel should not have {name}"]


def test_an_installed_packages_own_headers_are_found_first(tmp_path):
    (tmp_path / "csrc" / "recurrent" / "cells").mkdir(parents=True)
    package = tmp_path / "fastcells"
    assert _extension.include_dir(package) == tmp_path / "csrc"
    (package / "include" / "recurrent" / "cells").mkdir(parents=True)
    assert _extension.include_dir(package) == package / "include"


def test_headers_that_are_nowhere_are_told(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"neither in .* nor in .*: install fastcells again"
    ):
        _extension.include_dir(tmp_path / "fastcells")


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_a_program_compiles_against_the_headers_alone(tmp_path):
    source = tmp_path / "a.cpp"
    source.write_text('#include "recurrent/cells/gru.h"\nint gates = fastcells::GRU::kGates;\n')
    command = ["g++", "-std=c++20", "-fsyntax-only", f"-I{_extension.include_dir()}", source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
