"""C++ under sanitizers: every C++ test under address and undefined, the team of threads and the CPU
engines under thread.

    python tests/project/sanitize.py [address | thread]
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
OPTIONS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=0:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    # libtorch and libgomp are not instrumented: what they do among themselves is not looked at.
    "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:halt_on_error=1:suppressions="
    f"{ROOT / 'tests/cpp/threads/suppressions.txt'}",
}


THREADED = [
    "tests/cpp/threads/engines.cpp",
    "tests/cpp/threads/rowwise_kernels.cpp",
    "csrc/recurrent/cpu/kernels/baseline.cpp",
    "csrc/recurrent/cpu/kernels/narrow/baseline.cpp",
    "csrc/attention/cpu/kernels/baseline.cpp",
]


def run(*command, **options):
    environment = {**os.environ, **OPTIONS}
    status = subprocess.run(list(map(str, command)), env=environment, **options).returncode
    if status:
        raise SystemExit(f"sanitize: `{' '.join(map(str, command))}` ended with {status}")


def check_addresses():
    """Builds and runs every C++ test with AddressSanitizer and UndefinedBehaviorSanitizer."""
    folder = BUILD / "sanitize-address"
    run(
        "cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "--log-level=WARNING",
        "-DFASTCELLS_SANITIZE=address,undefined",
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    run("cmake", "--build", folder, "--", "--quiet")
    run(
        "ctest", "--test-dir", folder, "--parallel", "2", "--output-on-failure",
        "--no-tests=error",
    )  # fmt: skip


def check_threads():
    """Builds and runs tests/cpp/threads/engines.cpp with ThreadSanitizer, against torch."""
    import torch
    from torch.utils import cpp_extension

    folder = BUILD / "sanitize-thread"
    folder.mkdir(parents=True, exist_ok=True)
    libraries = Path(torch.__file__).parent / "lib"
    includes = [flag for path in cpp_extension.include_paths() for flag in ("-isystem", path)]
    compiler = cpp_extension.get_cxx_compiler().split()
    flags = ["-std=c++20", "-O1", "-g1", "-fopenmp", "-Wno-psabi", "-fsanitize=thread"]

    def compile(source):
        target = folder / (source.replace("/", "-") + ".o")
        run(*compiler, *flags, f"-I{ROOT / 'csrc'}", *includes, "-c", ROOT / source, "-o", target)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile, THREADED))
    program = folder / "engines"
    run(
        *compiler, *flags, *objects, "-o", program, f"-L{libraries}", f"-Wl,-rpath,{libraries}",
        "-ltorch", "-ltorch_cpu", "-lc10",
    )  # fmt: skip
    # Without address randomisation, whose ranges on newer kernels ThreadSanitizer refuses.
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []
    run(*fixed, program)


CHECKS = {"address": check_addresses, "thread": check_threads}


def main(arguments):
    for name in arguments or CHECKS:
        if name not in CHECKS:
            raise SystemExit(f"sanitize: know {', '.join(CHECKS)}, got {name!r}")
        print(f"sanitize: {CHECKS[name].__doc__.splitlines()[0]}", flush=True)
        CHECKS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
