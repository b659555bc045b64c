"""Compiles the CUDA sources without a GPU and without a CUDA build of torch.

Each .cu of csrc/sources.txt is compiled for each architecture, without torch's headers, and what
ptxas says of its kernels is reported: registers, stack, spills. A stack frame or a spill fails,
unless docs/cuda-stack-exceptions.txt explains it (a line `part of the kernel's name: reason`). So
does a kernel whose PTX is just `ret`, which launches well and computes nothing; those of clusters
may be, for GPUs without clusters.
The .cpp files that talk to torch's CUDA side are checked for syntax and types against torch's own
headers. A result is kept until a file that it was made from changes.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "cuda-check"
JOINED = BUILD / "joined"
EXCEPTIONS = ROOT / "docs" / "cuda-stack-exceptions.txt"
ALL_ARCHS = ("80", "90a", "100a")
ARCHS = tuple(os.environ.get("FASTCELLS_CUDA_CHECK_ARCHS", " ".join(ALL_ARCHS)).split())
# Device code alone: g++ is not run over what nvcc makes of the host's, whose types nvcc checks all
# the same.
ONLY_DEVICE = os.environ.get("FASTCELLS_CUDA_CHECK_ONLY_DEVICE", "0") == "1"
# Without the files that compile another's kernels for other cells or storage: half of the time.
SAMPLED = os.environ.get("FASTCELLS_SAMPLED", "0") == "1"
TWINS = re.compile(r"sequence_(rnn|gru)|dot/\w+_bfloat16|rowwise/cuda/(rnn|gru)")
PROCESSES = 2
NVCC_FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xptxas", "-v"]
NAME_WIDTH = 72
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)

# ---- what is compiled ----


def find_nvcc():
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [str(Path(home, "bin", "nvcc")) for home in homes if home]
    found = [place for place in [*places[:-1], "nvcc", places[-1]] if shutil.which(place)]
    return found[0] if found else None


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def sources_with_cuda():
    """What setup.py compiles: the .cu, kernels, and a file for each topic of the .cpp that include
    torch, of which some are compiled only, or differently, with CUDA."""
    spec = importlib.util.spec_from_file_location("setup_of_fastcells", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = module.join(module.read_sources(with_cuda=True), JOINED)
    return [ROOT / name for name in names]


def toolkit_include(nvcc):
    """The toolkit's headers, found as nvcc finds them: nvcc on PATH may be a wrapper."""
    dry = subprocess.run(
        [nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True
    )
    top = re.search(r"^#\$ TOP=(.+)$", dry.stderr, re.MULTILINE)
    home = Path(top.group(1)).resolve() if top else Path(shutil.which(nvcc)).resolve().parent.parent
    return home / "include"


def stand_in_include():
    """The one header that a CPU build of torch leaves out, in a folder of its own."""
    header = BUILD / "include" / "c10" / "cuda" / "impl" / "cuda_cmake_macros.h"
    header.parent.mkdir(parents=True, exist_ok=True)
    header.write_text("#pragma once\n#define C10_CUDA_BUILD_SHARED_LIBS\n", encoding="ascii")
    return BUILD / "include"


def torch_include_flags(nvcc):
    torch = Path(importlib.util.find_spec("torch").origin).parent / "include"
    paths = [torch, torch / "torch" / "csrc" / "api" / "include", toolkit_include(nvcc)]
    paths += [Path(sysconfig.get_path("include")), stand_in_include()]
    return [flag for path in paths for flag in ("-isystem", str(path))]


def make_tasks(nvcc, sources):
    """(label, arch or None, source, command) for everything there is to compile."""
    tasks = []
    known = output_of(nvcc, "--list-gpu-arch").split()
    archs = [arch for arch in ARCHS if f"compute_{arch.rstrip('a')}" in known]
    for source in sources:
        if source.suffix == ".cu" and not (SAMPLED and TWINS.search(source.as_posix())):
            name = source.relative_to(CSRC)
            for arch in archs:
                target = BUILD / "objects" / name.with_suffix(f".sm_{arch}.o")
                target.parent.mkdir(parents=True, exist_ok=True)
                # -arch=sm_90a would compile for compute_90, too.
                target_flags = ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
                output = "-cubin" if ONLY_DEVICE else "-c"
                command = [nvcc, *NVCC_FLAGS, f"-I{CSRC}", *target_flags, output, str(source)]
                command += ["-keep", "-keep-dir", str(kept_folder(target))]
                tasks.append((f"{name} sm_{arch}", arch, source, [*command, "-o", str(target)]))
        elif source.parent == JOINED:
            flags = ["-std=c++20", "-fsyntax-only", "-fopenmp", "-Wall", "-Wextra"]
            defines = ["-DFASTCELLS_WITH_CUDA=1", "-DTORCH_EXTENSION_NAME=_C"]
            includes = [f"-I{CSRC}", *torch_include_flags(nvcc)]
            compiler = os.environ.get("CXX", "g++")
            command = [compiler, *flags, *defines, *includes, str(source)]
            tasks.append((f"torch's side of {source.stem}", None, source, command))
    return tasks


# ---- compiling, with results that are kept ----


def kept_folder(target):
    """Where nvcc leaves what it makes on the way to an object, the PTX among it."""
    return target.with_suffix(".steps")


def take_ptx(folder):
    """The PTX that nvcc left; all of it is deleted."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.ptx"))]
    shutil.rmtree(folder)
    return "\n".join(texts)


def files_read_by(source):
    """The source and every file of csrc/ that it includes, directly or not."""
    seen, waiting = set(), [source]
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in INCLUDE.findall(file.read_text(encoding="utf-8")):
            candidates = [file.parent / name, CSRC / name]
            waiting += [path.resolve() for path in candidates if path.is_file()][:1]
    return sorted(seen)


def fingerprint(source, command, versions):
    digest = hashlib.sha256(json.dumps([command, versions]).encode())
    for file in files_read_by(source):
        digest.update(str(file).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def compile_one(task, versions, kept):
    """{"key", "ok", "kernels", "words", of a .cu "entries", "empty"}; the kept result where nothing
    has changed since."""
    label, arch, source, command = task
    key = fingerprint(source, command, versions)
    if kept.get(label, {}).get("key") == key:
        return kept[label]
    folder = kept_folder(Path(command[command.index("-o") + 1])) if arch else None
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    words, is_ok = done.stdout + done.stderr, done.returncode == 0
    kernels = parse_ptxas(words) if arch and is_ok else []
    ptx = take_ptx(folder) if folder else ""
    words = "\n".join(line for line in words.splitlines() if not is_ptxas_report(line))
    result = {"key": key, "ok": is_ok, "kernels": kernels, "words": words.strip()}
    if arch and is_ok:
        result["entries"], result["empty"] = len(read_entries(ptx)), empty_entries(ptx, arch)
    return result


def compile_all(tasks, versions):
    store = BUILD / "results.json"
    try:
        kept = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = {}
    with ThreadPoolExecutor(PROCESSES) as pool:
        results = list(pool.map(lambda task: compile_one(task, versions, kept), tasks))
    by_label = {task[0]: result for task, result in zip(tasks, results, strict=True)}
    good = {label: result for label, result in by_label.items() if result["ok"]}
    store.write_text(json.dumps(good, indent=1), encoding="utf-8")
    new = sum(result is not kept.get(label) for label, result in by_label.items())
    return by_label, new


# ---- what the PTX holds ----

ENTRY = re.compile(r"\.entry\s+([\w$]+)")
# Of a kernel's body, what is no instruction: directives, labels, braces.
NO_INSTRUCTION = re.compile(r"^(?:\..*|[\w$]+:|[{}])?$")
CLUSTER_TIER = "TierE1E"  # in the mangled name of a kernel that is one of clusters
FIRST_WITH_CLUSTERS = 90


def body_of(ptx, start):
    """The text between the braces that open behind `start`, those of the parameters left out."""
    first = ptx.index("{", start)
    depth, end = 1, first + 1
    while depth:
        depth += {"{": 1, "}": -1}.get(ptx[end], 0)
        end += 1
    return ptx[first + 1 : end - 1]


def read_entries(ptx):
    """[(mangled name, instructions)] of every kernel."""
    ptx = re.sub(r"//[^\n]*|/\*.*?\*/", "", ptx, flags=re.DOTALL)
    entries = []
    for match in ENTRY.finditer(ptx):
        lines = [line.strip() for line in body_of(ptx, match.end()).splitlines()]
        entries.append((match.group(1), [s for s in lines if not NO_INSTRUCTION.match(s)]))
    return entries


def empty_entries(ptx, arch):
    """Mangled names of the kernels that return at once, and may not on the architecture."""
    has_clusters = int(arch.rstrip("af")) >= FIRST_WITH_CLUSTERS
    return [
        name
        for name, instructions in read_entries(ptx)
        if instructions in ([], ["ret;"]) and (has_clusters or CLUSTER_TIER not in name)
    ]


# ---- what ptxas says ----


def is_ptxas_report(line):
    return line.startswith("ptxas info") or "bytes stack frame" in line


def parse_ptxas(words):
    """One entry for each function: name, registers, stack, spill_stores, spill_loads (bytes)."""
    functions, current = {}, None
    for line in words.splitlines():
        if match := re.search(r"Function properties for (\S+)", line):
            name = match.group(1).strip("'")
            current = functions.setdefault(name, {"name": name, "registers": 0})
        elif current is None:
            continue
        elif match := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            sizes = map(int, match.groups())
            current.update(zip(("stack", "spill_stores", "spill_loads"), sizes, strict=True))
        elif match := re.search(r"Used (\d+) registers", line):
            current["registers"] = int(match.group(1))
    readable = demangle(functions)
    return [{**entry, "name": readable[name]} for name, entry in functions.items()]


def demangle(names):
    names = list(names)
    if not names or not shutil.which("c++filt"):
        return {name: name for name in names}
    text = "\n".join(names)
    done = subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.splitlines(), strict=True))


def shorten(name):
    """`gru_kernel<float, 4>` of `void fastcells::gru_kernel<float, 4>(fastcells::Args, int)`."""
    depth, end = 0, len(name)
    for position, letter in enumerate(name.replace("(anonymous namespace)", "@" * 21)):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            end = position
            break
    short = name[:end].replace("(anonymous namespace)::", "").removeprefix("void ")
    short = re.sub(r"\b(fastcells|cuda|detail)::", "", short)
    return short if len(short) <= NAME_WIDTH else short[: NAME_WIDTH - 3] + "..."


def read_exceptions():
    if not EXCEPTIONS.is_file():
        return {}
    lines = [line.strip() for line in EXCEPTIONS.read_text(encoding="utf-8").splitlines()]
    pairs = [line.partition(": ")[::2] for line in lines if line and not line.startswith("#")]
    return {part.strip(): reason.strip() for part, reason in pairs}


def is_heavy(kernel):
    return bool(kernel["stack"] or kernel["spill_stores"] or kernel["spill_loads"])


def row(kernel, arch):
    return (
        f"{shorten(kernel['name']):{NAME_WIDTH}} {'sm_' + arch:8} {kernel['registers']:4}"
        f" {kernel['stack']:6} {kernel['spill_stores']:6}/{kernel['spill_loads']}"
    )


HEADER = f"{'kernel':{NAME_WIDTH}} {'arch':8} {'regs':>4} {'stack':>6} {'spill':>6} st/ld bytes"


def report(tasks, results):
    """Writes the whole table to report.txt, prints the short one; returns the failures."""
    exceptions, failures, table = read_exceptions(), [], [HEADER]
    for label, arch, _, command in tasks:
        result = results[label]
        if not result["ok"]:
            failures.append(f"{label} does not compile:\n{' '.join(command)}\n{result['words']}")
            continue
        if result["words"]:
            print(f"{label}: {result['words']}")
        if arch is None:
            print(f"  {label:40} types agree with torch's CUDA headers")
            continue
        kernels = result["kernels"]
        if kernels and not result["entries"]:
            failures.append(f"{label}: nvcc left no PTX of its kernels to look at")
        for name, readable in demangle(result["empty"]).items():
            failures.append(f"{shorten(readable)} ({name}) on sm_{arch} is empty: just `ret`")
        most = max((kernel["registers"] for kernel in kernels), default=0)
        print(f"  {label:40} {len(kernels):3} kernels, at most {most} registers")
        table += [row(kernel, arch) for kernel in kernels]
        for kernel in filter(is_heavy, kernels):
            reasons = [why for part, why in exceptions.items() if part in kernel["name"]]
            print(f"    {row(kernel, arch)}  {reasons[0] if reasons else 'NOT ALLOWED'}")
            if not reasons:
                failures.append(f"{kernel['name']} on sm_{arch} uses a stack frame or spills")
    (BUILD / "report.txt").write_text("\n".join(table) + "\n", encoding="utf-8")
    return failures


def main():
    nvcc = find_nvcc()
    if nvcc is None:
        print("cuda-check: nvcc is not on this machine, the CUDA sources were not compiled")
        return 0
    BUILD.mkdir(parents=True, exist_ok=True)
    torch_version = importlib.metadata.version("torch")
    versions = [output_of(nvcc, "--version"), torch_version]
    tasks = make_tasks(nvcc, sources_with_cuda())
    results, new = compile_all(tasks, versions)
    failures = report(tasks, results)
    table = (BUILD / "report.txt").relative_to(ROOT)
    print(f"cuda-check: {len(tasks)} compilations, {new} of them new; every kernel: {table}")
    for failure in failures:
        print(f"cuda-check: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
