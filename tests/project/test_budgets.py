"""Every file in git keeps the budgets and arrows of budgets.py, and each check works."""

import subprocess
from pathlib import Path

import pytest

from budgets import (
    CPP_ARROWS,
    IMPORTS,
    check_cpp_arrows,
    check_python_arrows,
    check_source_list,
    faults_of,
)

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {".py", ".h", ".cuh", ".cu", ".cpp"}


def tracked_files():
    """What is in git or would be added to it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git checkout, so there is no list of files")
    names = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in names if path.is_file() and path.suffix in SUFFIXES]


def test_every_file_keeps_its_budgets():
    files = tracked_files()
    assert files
    faults = [fault for path in files for fault in faults_of(path, path.read_text("utf-8"))]
    assert not faults, "\n".join(faults)


def test_every_source_is_listed_once():
    assert not check_source_list(ROOT / "csrc")


def test_every_arrow_between_folders_of_csrc_is_allowed():
    faults = check_cpp_arrows(ROOT / "csrc")
    assert not faults, "\n".join(faults)


def test_python_floors_import_downwards():
    package = ROOT / "fastcells"
    files = [
        (p.relative_to(package).as_posix(), p.read_text("utf-8")) for p in package.rglob("*.py")
    ]
    assert {name.split("/")[0].removesuffix(".py") for name, _ in files} >= set(IMPORTS)
    faults = [fault for name, text in files for fault in check_python_arrows(name, text)]
    assert not faults, "\n".join(faults)


# ---- the checkers themselves, on planted faults ----


def lines_of(count, line="x = 1"):
    return "\n".join([line] * count) + "\n"


def python_function(body_lines, docstring_lines=0):
    quoted = '    """' + "\n" * docstring_lines + '"""\n' if docstring_lines else ""
    return "def f():\n" + quoted + "    pass\n" * body_lines


def cpp_function(body_lines, head="void f(int n)"):
    return "namespace a {\n" + head + " {\n" + "  if (n) { n++; }\n" * body_lines + "}\n}\n"


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.py", lines_of(401), "a.py:400: 401 lines"),
        ("a.py", "x = '" + "y" * 95 + "'\n", "a.py:1: 101 columns"),
        ("utils.py", "", "utils.py:1: name the file for its content"),
        ("common.h", "", "common.h:1: name the file for its content"),
        ("a.py", python_function(60), "a.py:1: f has 61 lines"),
        ("a.py", "# x = f(y)\n", "a.py:1: commented-out code: # x = f(y)"),
        (
            "a.py",
            "if 1:\n    # import torch\n    pass\n",
            "a.py:2: commented-out code: # import torch",
        ),
        ("a.py", "# print(x, y)\n", "a.py:1: commented-out code: # print(x, y)"),
        ("a.py", "# return self.f(x)\n", "a.py:1: commented-out code: # return self.f(x)"),
        ("a.cpp", cpp_function(59), "a.cpp:2: f has 61 lines"),
        ("a.cpp", cpp_function(59, "A::A(int n) : x{n}, y(n)"), "a.cpp:2: A has 61 lines"),
        (
            "a.cpp",
            cpp_function(59, "template <class T>\nauto g(T n) -> T"),
            "a.cpp:2: g has 62 lines",
        ),
        ("a.cu", cpp_function(119, "__global__ void k(int n)"), "a.cu:2: k has 121 lines"),
        ("a.h", "#if 0\n#endif\n", "a.h:1: #if 0"),
        ("a.h", "// x = y;\n", "a.h:1: commented-out code: x = y;"),
        (
            "a.h",
            "  // const float* p = f(x);\n",
            "a.h:1: commented-out code: const float* p = f(x);",
        ),
        ("a.h", "// launch(a, b(c));\n", "a.h:1: commented-out code: launch(a, b(c));"),
        ("a.h", "// for (int i = 0; i < n; ++i) {\n", "commented-out code: for (int i = 0;"),
        ("a.h", "#define F(x) \\\n" + "  x; \\\n" * 5 + "  x\n", "a.h:1: a macro body of 6 lines"),
    ],
)
def test_a_planted_fault_is_found(name, text, fault):
    faults = faults_of(Path(name), text)
    assert len(faults) == 1
    assert fault in faults[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", lines_of(400)),
        ("a.py", python_function(59)),
        ("a.py", python_function(58, docstring_lines=40)),
        (
            "a.py",
            "# x_gates (T, B, G, H)\n# n = tanh(x_n + r * g_n)\n# import order\n# noqa: E501\n",
        ),
        ("a.py", "# type: ignore\n# if compiled:\n# return early\nx = 1  # y = f(x)\n"),
        ("a.cpp", cpp_function(58)),
        ("a.cu", cpp_function(118, "__global__ void k(int n)")),
        ("a.cpp", "enum A { kB };\nstruct C : D<int(int)> {\n" + "  int x;\n" * 70 + "};\n"),
        ("a.cpp", 'const char* s = "{"; // }\nint big = 1\'000;\n' + cpp_function(58)),
        ("a.h", "// returns the width (see above);\n// where, for T == 1, k is 0;\n// x is y;\n"),
        ("a.h", "#define F(x) \\\n" + "  x; \\\n" * 4 + "  x\n"),
    ],
)
def test_good_code_passes(name, text):
    assert faults_of(Path(name), text) == []


def plant(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_source_that_is_not_listed_or_does_not_exist_is_found(tmp_path):
    plant(tmp_path, cpu__a_dot_cpp="", cuda__b_dot_cu="", cuda__b_dot_cpp="", cells__c_dot_h="")
    plant(tmp_path, sources_dot_txt="# list\ncuda/b.cu\ncuda/b.cpp  # twice b.o\ncpu/gone.cpp\n")
    assert check_source_list(tmp_path) == [
        "cpu/a.cpp is not in sources.txt",
        "cpu/gone.cpp is in sources.txt and does not exist",
        "cuda/b.o is made twice",
    ]


def test_a_forbidden_header_is_found_through_other_headers(tmp_path):
    plant(tmp_path, math__b_dot_h="#include <ATen/Tensor.h>\n", recurrent__b_dot_h="")
    plant(tmp_path, recurrent__cells__a_dot_h='#include "math/b.h"\n', cpu__d_dot_h="")
    plant(tmp_path, recurrent__cuda__c_dot_cu='#include "../../ops.h"\n')
    plant(tmp_path, ops_dot_h="#include <torch/types.h>\n", recurrent__cuda__plan_dot_h="")
    plant(tmp_path, recurrent__cuda__plan_dot_cpp='#include "plan.h"\n#include <cuda_runtime.h>\n')
    plant(tmp_path, attention__e_dot_cpp='#include "cpu/d.h"\n#include "recurrent/b.h"\n')
    plant(tmp_path, scan__g_dot_h='#include "attention/h.h"\n', attention__h_dot_h="")
    plant(tmp_path, cpu__f_dot_cpp='#include "recurrent/b.h"\n#include <pybind11/stl.h>\n')
    faults = [fault.replace(f"{tmp_path}/", "") for fault in check_cpp_arrows(tmp_path)]
    assert faults == [
        "math/b.h includes <ATen/Tensor.h>: is to be torch-free",
        "recurrent/cells/a.h -> math/b.h includes <ATen/Tensor.h>: is to be torch-free",
        "recurrent/cuda/c.cu -> recurrent/cuda/../../ops.h includes <torch/types.h>: is to be "
        "torch-free",
        "recurrent/cuda/plan.cpp includes <cuda_runtime.h>: knows no CUDA header",
        "cpu/f.cpp includes <pybind11/stl.h>: knows no Python",
        "attention/e.cpp includes <recurrent/b.h>: topics stand side by side",
        "scan/g.h includes <attention/h.h>: topics stand side by side",
        "cpu/f.cpp includes <recurrent/b.h>: device floors know no topic",
    ]


def test_a_rule_that_checks_nothing_is_a_fault(tmp_path):
    faults = check_cpp_arrows(tmp_path)
    assert len(faults) == len(CPP_ARROWS)
    assert all("checks nothing" in fault for fault in faults)


@pytest.mark.parametrize(
    ("name", "text", "arrow"),
    [
        ("functional/a.py", "from fastcells.layers import b\n", "functional -> layers"),
        ("functional/a.py", "from ..layers.b import C\n", "functional -> layers"),
        ("functional/a.py", "from .. import layers\n", "functional -> layers"),
        ("ops/a.py", "def f():\n    import fastcells\n", "ops -> fastcells"),
        ("ops/a.py", "import fastcells.reference.b as r\n", "ops -> reference"),
        ("reference/__init__.py", "from ..ops import b\n", "reference -> ops"),
        ("checks.py", "from .functional import b\n", "checks -> functional"),
        ("_extension.py", "from . import ops\n", "_extension -> ops"),
    ],
)
def test_an_upward_import_is_found(name, text, arrow):
    (fault,) = check_python_arrows(name, text)
    assert fault.endswith(arrow)


def test_downward_imports_pass():
    text = (
        "import torch\nfrom . import b\nfrom .b import c\nfrom .. import ops, reference, checks\n"
    )
    assert check_python_arrows("functional/a.py", text) == []
    assert check_python_arrows("explain/__init__.py", "from .. import layers, _extension\n") == []
