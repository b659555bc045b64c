"""Compiles csrc/ into fastcells._C, against the torch that is installed.

Environment:
  FASTCELLS_CUDA        1: with CUDA, or stop and say why not.  0: never.
                        Unset: with CUDA when torch has it and nvcc is found. No GPU is needed.
  TORCH_CUDA_ARCH_LIST  the GPU architectures, as torch reads them, for instance "8.0;9.0+PTX".
  MAX_JOBS              compilers that run at once. Unset: one a core, as far as memory allows.
  FASTCELLS_JOINED      0: each .cpp by itself, for who works on them. 1, the default: those that
                        include torch together, a topic a time: torch's headers take longer to
                        compile than what stands in them.
  CXX, CUDA_HOME        the compiler and the CUDA toolkit.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# pip does not put the environment it runs in on PATH; ninja is there.
os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", "")

try:
    import torch
    from torch.utils import cpp_extension
except ImportError as error:
    raise SystemExit(
        "fastcells compiles against the torch you run: first `pip install 'torch>=2.11' setuptools "
        f"ninja pybind11`, then `pip install --no-build-isolation .` (import torch: {error})"
    ) from None

# -g0: the interpreter's own flags carry -g, which makes the module ten times as large.
CXX_FLAGS = ["-O3", "-g0", "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wextra"]
NVCC_FLAGS = ["-O3", "--expt-relaxed-constexpr", "-lineinfo", "--threads", "2"]
# torch switches off the conversions and operators of the 16-bit types; the kernels use them.
NVCC_FLAGS += [
    f"-U__CUDA_NO_{what}__"
    for what in ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS", "BFLOAT16_CONVERSIONS")
]
LINK_FLAGS = ["-fopenmp"]

# The PTX that every later GPU can translate for itself is 9.0's, the first with clusters; nothing
# in the kernels needs the targets of one GPU alone (9.0a, 10.0a).
DEFAULT_ARCH_LIST = ("8.0", "8.6", "8.9", "9.0+PTX", "10.0")
GIB_PER_COMPILER = 2  # what one compiler needs on a file that includes torch, rounded up


def read_version():
    text = (ROOT / "fastcells" / "_version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


def read_sources(with_cuda):
    """csrc/sources.txt, the list that CMakeLists.txt reads too, without CUDA's when that is off."""
    lines = (ROOT / "csrc" / "sources.txt").read_text(encoding="utf-8").splitlines()
    names = [line.partition("#")[0].strip() for line in lines]
    return [
        f"csrc/{name}" for name in names if name and (with_cuda or "cuda" not in Path(name).parts)
    ]


def join(sources, folder=ROOT / "build" / "joined"):
    """The sources, with each topic's .cpp outside of kernels/ as one file of the folder, which
    includes them."""
    apart, topics = [], {}
    for name in sources:
        topic, *_ = parts = Path(name).relative_to("csrc").parts
        if name.endswith(".cu") or "kernels" in parts:
            apart.append(name)
        else:
            topic = topic if topic in ("recurrent", "attention") else "others"
            topics.setdefault(topic, []).append(f'#include "{"/".join(parts)}"\n')
    folder.mkdir(parents=True, exist_ok=True)
    joined = {folder / f"{topic}.cpp": "".join(lines) for topic, lines in topics.items()}
    for file, text in joined.items():
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")  # ninja compiles what is newer
    return [file.relative_to(ROOT).as_posix() for file in joined] + apart


def mend_cuda_home():
    """Where nvcc on PATH is a wrapper, torch takes its folder for the toolkit's: ask nvcc."""
    home = cpp_extension.CUDA_HOME  # None with a CPU build of torch, even where there is a toolkit
    if not home or Path(home, "include", "cuda_runtime_api.h").is_file():
        return
    command = [Path(home, "bin", "nvcc"), "--dryrun", "-x", "cu", "-c", os.devnull]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        top = re.search(r"TOP=(.+)", told).group(1).strip()
    except (OSError, subprocess.CalledProcessError, AttributeError):
        return
    cpp_extension.CUDA_HOME = os.environ["CUDA_HOME"] = os.path.normpath(top)


def find_nvcc():
    home = cpp_extension.CUDA_HOME
    nvcc = Path(home or "", "bin", "nvcc")
    return nvcc if home and nvcc.is_file() else None


def nvcc_prints(nvcc, option):
    return subprocess.run([nvcc, option], capture_output=True, text=True, check=True).stdout


def why_no_cuda():
    """Why CUDA kernels cannot be compiled here, in one sentence, or None when they can."""
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is a CPU build, which a CUDA extension cannot be linked "
            "with: install a CUDA build of torch"
        )
    nvcc = find_nvcc()
    if nvcc is None:
        return (
            f"nvcc was not found (CUDA_HOME is {cpp_extension.CUDA_HOME}): install the CUDA "
            f"{torch.version.cuda} toolkit, or set CUDA_HOME to where it is"
        )
    return None


def check_nvcc_version(nvcc):
    """torch refuses another major version too, but only after a minute of compiling."""
    release = re.search(r"release (\d+)\.(\d+)", nvcc_prints(nvcc, "--version"))
    if release and release.group(1) != torch.version.cuda.split(".")[0]:
        raise SystemExit(
            f"fastcells: {nvcc} is CUDA {release.group(1)}.{release.group(2)} and torch "
            f"{torch.__version__} was built for CUDA {torch.version.cuda}: set CUDA_HOME to a CUDA "
            f"{torch.version.cuda} toolkit, or FASTCELLS_CUDA=0 to build for the CPU alone"
        )


def decide_cuda():
    wish = os.environ.get("FASTCELLS_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"fastcells: FASTCELLS_CUDA must be 0, 1 or unset, got {wish!r}")
    if wish == "0":
        return False
    reason = why_no_cuda()
    if reason is not None:
        if wish == "1":
            raise SystemExit(f"fastcells: FASTCELLS_CUDA=1, but {reason}")
        return False
    check_nvcc_version(find_nvcc())
    return True


def default_arch_list(known):
    """DEFAULT_ARCH_LIST, cut to what this nvcc compiles for (`nvcc --list-gpu-arch`)."""
    return [
        arch
        for arch in DEFAULT_ARCH_LIST
        if "compute_" + re.sub(r"\D", "", arch.partition("+")[0]) in known
    ]


def free_gib():
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(re.search(r"MemAvailable:\s+(\d+) kB", meminfo).group(1)) / 2**20
    except (OSError, AttributeError):
        return float("inf")


def set_build_environment(with_cuda):
    """What BuildExtension reads. With no GPU and no architecture list it ends in an IndexError."""
    if with_cuda and not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        known = nvcc_prints(find_nvcc(), "--list-gpu-arch").split()
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(default_arch_list(known))
    if not os.environ.get("MAX_JOBS"):
        jobs = min(os.cpu_count() or 1, free_gib() // GIB_PER_COMPILER)
        os.environ["MAX_JOBS"] = str(max(1, int(jobs)))


def first_line_of(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.partition("\n")[0]


def build_info(with_cuda):
    archs = os.environ["TORCH_CUDA_ARCH_LIST"] if with_cuda else ""
    in_git = (ROOT / ".git").exists()  # not the repository that an unpacked sdist may lie in
    return {
        "fastcells": read_version(),
        "git_revision": first_line_of(["git", "rev-parse", "HEAD"]) if in_git else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torch_cuda": torch.version.cuda,
        "cuda": with_cuda,
        "cuda_arch_list": re.split(r"[;\s]+", archs.strip()) if archs else [],
        "compiler": first_line_of([cpp_extension.get_cxx_compiler(), "--version"]),
        "flags": {
            "cxx": CXX_FLAGS,
            "nvcc": NVCC_FLAGS if with_cuda else [],
            "link": LINK_FLAGS,
        },
    }


class BuildFastcells(cpp_extension.BuildExtension):
    """torch's build, with objects that are kept between runs and a record of the build."""

    def finalize_options(self):
        super().finalize_options()
        # `pip install -e .` would put objects into a folder that is deleted afterwards, and compile
        # everything each time. One folder for each torch: ninja does not watch torch's headers.
        self.build_temp = f"build/objects-{sys.implementation.cache_tag}-torch{torch.__version__}"

    def run(self):
        super().run()
        text = json.dumps(build_info(WITH_CUDA), indent=2) + "\n"
        folders = {Path(self.get_ext_fullpath("fastcells._C")).parent}  # the source's own for -e
        folders.add(Path(self.build_lib, "fastcells"))
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "_build_info.json").write_text(text, encoding="utf-8")


class BuildWithHeaders(build_py):
    """The Python files, and the headers of csrc/ as fastcells/include. An editable install has
    csrc/ itself: fastcells._extension.include_dir."""

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False):  # of setuptools 64
            return
        csrc, target = ROOT / "csrc", Path(self.build_lib, "fastcells", "include")
        shutil.rmtree(target, ignore_errors=True)  # what an earlier build left
        headers = [path for path in csrc.rglob("*.*") if path.suffix in (".h", ".cuh")]
        for header in headers:
            place = target / header.relative_to(csrc)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(header, place)


def make_extension(with_cuda):
    # -isystem keeps our warnings out of torch's headers; it also makes gcc ignore torch's own -I.
    kind = "cuda" if with_cuda else "cpu"
    system = [flag for path in cpp_extension.include_paths(kind) for flag in ("-isystem", path)]
    make = cpp_extension.CUDAExtension if with_cuda else cpp_extension.CppExtension
    sources = read_sources(with_cuda)
    return make(
        "fastcells._C",
        sources if os.environ.get("FASTCELLS_JOINED") == "0" else join(sources),
        include_dirs=[str(ROOT / "csrc")],
        define_macros=[("FASTCELLS_WITH_CUDA", "1")] if with_cuda else [],
        extra_compile_args={"cxx": CXX_FLAGS + system, "nvcc": NVCC_FLAGS},
        extra_link_args=LINK_FLAGS,
    )


if __name__ == "__main__":  # tests/project/cuda_check.py asks for the sources
    mend_cuda_home()
    WITH_CUDA = decide_cuda()
    set_build_environment(WITH_CUDA)
    print(
        f"fastcells: torch {torch.__version__}, CUDA "
        + (f"on for {os.environ['TORCH_CUDA_ARCH_LIST']}" if WITH_CUDA else "off")
        + f", {os.environ['MAX_JOBS']} compilers at once"
    )
    setup(
        version=read_version(),
        ext_modules=[make_extension(WITH_CUDA)],
        cmdclass={"build_ext": BuildFastcells, "build_py": BuildWithHeaders},
    )
