"""Everything that a quarter of an hour on a GPU must show, in stages, each with a budget.

    python -m benchmarks.gpu.kit --output FOLDER            on a machine with a GPU
    python -m benchmarks.gpu.kit --output FOLDER --rehearse here, without one

Each stage writes FOLDER/<stage>.json before the next begins, and one that fails does not stop the
others. `--resume` leaves out the stages whose file says that they are whole. The exit code is 0
where all stages were run and all were right. The standard library and torch alone: nothing can be
fetched where a GPU is.

Stages: kernels (the C++ tests of the CUDA kernels, on the card), micro (what a barrier, an
exchange, a product cost), tests (`pytest -m cuda`), sequence (microseconds a step of every sequence
kernel), attention_kernels (microseconds of attention calls, of each of their kernels, and how far
they are from the least that they can take), recurrent and attention (beside cuDNN and torch),
sanitizer (compute-sanitizer over the short list of cases of every program). The extension is
compiled beside them, or taken from the carried build.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from benchmarks.gpu import timings
from benchmarks.gpu.programs import run_program, run_programs
from benchmarks.paths import ROOT

KERNEL_TESTS = (
    "test_cuda_steps", "test_cuda_additive", "test_cuda_attention_forward",
    "test_cuda_attention_backward", "test_cuda_forward", "test_cuda_backward",
    "test_cuda_rowwise", "test_cuda_elementwise", "test_cuda_scan",
)  # fmt: skip
CUDA_TESTS = (
    "tests/recurrent/test_cuda.py",
    "tests/attention/test_cuda.py",
    "tests/own_cells/test_on_a_gpu.py",
)
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
BUDGETS = {  # seconds
    "kernels": 75, "micro": 30, "tests": 75, "sequence": 75, "attention_kernels": 25,
    "recurrent": 70, "attention": 50, "sanitizer": 60,
}  # fmt: skip


class Kit:
    """Where things are, and how long there is."""

    def __init__(self, options):
        self.options = options
        self.output = options.output
        self.programs = options.programs
        self.end = time.monotonic() + options.seconds
        self.package = None  # the tree with a compiled module
        self.build = None

    def until(self, stage):
        """Return when the stage must be over."""
        return min(self.end, time.monotonic() + self.budget(stage))

    def budget(self, stage):
        """Return the seconds of the stage."""
        return self.options.budget.get(stage, BUDGETS[stage])

    def python(self, *arguments, until, log_lines=60):
        """Run Python in the tree with the module; return (exit code or None, last lines)."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "2"}
        command = [sys.executable, *arguments]
        left = max(1.0, until - time.monotonic())
        # `timeout` kills the whole group, and what was printed until then is kept.
        command = ["timeout", "-k", "2", f"{left:.0f}", *command]
        done = subprocess.run(
            command, cwd=self.package, env=environment, capture_output=True, text=True
        )
        lines = (done.stdout + done.stderr).splitlines()[-log_lines:]
        return (None if done.returncode in (124, 137) else done.returncode), lines


def outcome(is_right, /, **facts):
    """Return what a stage says of itself."""
    return {**facts, "ok": bool(is_right)}


# ---- the machine and the module ----


def words_of(*command):
    """Return what a command prints, or why it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem)
    return (done.stdout or done.stderr).strip()


def read_revision():
    """Return the git revision; a tree that was carried here as a copy may say it in a file."""
    carried = ROOT / "revision.txt"
    if carried.exists():
        return carried.read_text(encoding="utf-8").strip()
    return words_of("git", "-C", str(ROOT), "rev-parse", "HEAD")


def describe_environment(kit):
    """Return versions, the card, the clocks."""
    facts = {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "nvcc": words_of("nvcc", "--version").splitlines()[-1:],
        "driver": words_of(
            "nvidia-smi",
            "--query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,memory.total",
            "--format=csv,noheader",
        ),
        "sanitizer": words_of("compute-sanitizer", "--version").splitlines()[:2],
        "revision": read_revision(),
        "programs": {p.name: p.stat().st_size for p in sorted(kit.programs.glob("*"))},
    }
    try:
        import torch
    except ImportError as problem:
        return {**facts, "torch": str(problem)}
    facts.update(torch=torch.__version__, cuda=torch.version.cuda)
    if torch.cuda.is_available():
        p = torch.cuda.get_device_properties(0)
        facts.update(
            name=p.name,
            compute=[p.major, p.minor],
            multiprocessors=p.multi_processor_count,
            l2_bytes=p.L2_cache_size,
            shared_bytes_optin=p.shared_memory_per_block_optin,
            cudnn=torch.backends.cudnn.version(),
        )
    return facts


def find_module(folder):
    """Return the compiled module for this Python in a folder, or None."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return next(iter(sorted(folder.glob(f"_C{suffix}"))), None)


def prepare_package(kit):
    """Take the carried module, in a copy of the tree; else compile one there, in the background."""
    module = find_module(kit.programs)
    if kit.options.rehearse or (module is None and find_module(ROOT / "fastcells")):
        kit.package = ROOT
        return
    kit.package = kit.options.work / "tree"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "*.so", "results", "__pycache__")
    shutil.copytree(ROOT, kit.package, ignore=ignored, dirs_exist_ok=True)
    if module is not None:
        shutil.copy(module, kit.package / "fastcells")
        shutil.copy(kit.programs / "_build_info.json", kit.package / "fastcells")
        if not kit.options.build:
            return
    source = kit.options.work / "compiled"
    shutil.copytree(ROOT, source, ignore=ignored, dirs_exist_ok=True)
    jobs = str(max(1, (os.cpu_count() or 2) - 4))
    environment = {
        **os.environ, "FASTCELLS_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0a", "MAX_JOBS": jobs,
    }  # fmt: skip
    with open(kit.options.work / "build.log", "w", encoding="utf-8") as log:
        command = ["nice", "-n", "15", sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        started = time.monotonic()
        process = subprocess.Popen(
            command, cwd=source, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    kit.build = {"process": process, "started": started, "folder": source}


def finish_build(kit, until):
    """Wait for the compilation; return what came of it. Its module is taken if none was carried."""
    if kit.build is None:
        return None
    process, folder = kit.build["process"], kit.build["folder"]
    try:
        code = process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return {"ok": False, "error": "not over yet"}
    facts = {"ok": code == 0, "at_most_s": round(time.monotonic() - kit.build["started"])}
    if code != 0:
        log = (kit.options.work / "build.log").read_text(encoding="utf-8", errors="replace")
        wrong = [line for line in log.splitlines() if "error" in line][:20]
        facts["log"] = wrong or log.splitlines()[-20:]
    elif find_module(kit.package / "fastcells") is None:
        shutil.copy(find_module(folder / "fastcells"), kit.package / "fastcells")
    return facts


# ---- stages ----


def run_kernels(kit, until):
    """Run the C++ tests of the CUDA kernels, all at once; here, where CTest runs them, the short
    lists of a few."""
    names = KERNEL_TESTS[:3] if kit.options.rehearse else KERNEL_TESTS
    commands = [[str(kit.programs / name)] for name in names]
    environment = {"FASTCELLS_SHORT": "1"} if kit.options.rehearse else None
    results = run_programs(commands, until, environment)
    return outcome(all(r["ok"] for r in results), programs=results)


def run_micro(kit, until):
    """Run the micro-benchmarks."""
    if kit.options.rehearse:
        return outcome(True, skipped="needs a GPU")
    result = run_program([str(kit.programs / "micro")], until)
    errors = [r for r in result["records"] if "error" in r]
    return outcome(result["records"] and not errors and not result["error"], **result)


def run_tests(kit, until):
    """Run the Python tests marked cuda; here they are collected, and skipped."""
    left = max(5.0, until - time.monotonic())
    arguments = ["-m", "pytest", "-v", "-m", "cuda", "--maxfail=25", "--tb=short", *CUDA_TESTS]
    if not kit.options.rehearse:
        arguments += ["-n", "6", "--timeout", f"{min(40.0, left):.0f}", "--timeout-method=thread"]
    code, lines = kit.python(*arguments, until=until, log_lines=300)
    counts = [line.strip("= ") for line in lines if re.search(r"\d (passed|failed|skipped)", line)]
    has_run = kit.options.rehearse or any("passed" in line for line in counts)
    return outcome(code == 0 and has_run, code=code, last=counts[-1:], log=lines)


def run_timings(kit, until, program):
    """Time kernels without torch; what there was no time for is no fault."""
    if kit.options.rehearse:
        return outcome(True, skipped="needs a GPU")
    seconds = max(1.0, until - time.monotonic() - 4)
    result = run_program([str(kit.programs / program), f"{seconds:.0f}"], until)
    wrong = [r for r in result["records"] if r.get("ok") is False or "error" in r]
    timed = timings.timings_in(result["records"])
    last = [timings.line_of(result["records"])]
    return outcome(timed and not wrong and not result["error"], **result, last=last)


def run_benchmark(kit, until, name):
    """Time layers beside cuDNN and torch; what it has written counts, however it ended."""
    folder = kit.options.work / f"{name}-results"
    seconds = max(5.0, until - time.monotonic() - 12)
    arguments = ["-m", f"benchmarks.{name}.gpu", "--output", str(folder.resolve())]
    arguments += ["--seconds", f"{seconds:.0f}"]
    if kit.options.rehearse:
        arguments += ["--device", "cpu", "--quick"]
    code, lines = kit.python(*arguments, until=until)
    written = sorted(folder.rglob("*.json"))
    results = json.loads(written[-1].read_text(encoding="utf-8")) if written else None
    return outcome(code == 0 and results, code=code, log=lines, results=results)


def run_sanitizer(kit, until):
    """Run compute-sanitizer over every program's short list, one tool after the other."""
    if kit.options.rehearse:
        return outcome(True, skipped="needs a GPU")
    if shutil.which("compute-sanitizer") is None:
        return outcome(True, skipped="there is no compute-sanitizer")
    found = {}
    for number, tool in enumerate(SANITIZERS):
        share = (until - time.monotonic()) / (len(SANITIZERS) - number)
        commands = [
            ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", kit.programs / name]
            for name in KERNEL_TESTS
        ]
        commands = [[str(word) for word in command] for command in commands]
        environment = {"FASTCELLS_KERNEL_SECONDS": "60", "FASTCELLS_SHORT": "1"}
        results = run_programs(commands, time.monotonic() + share, environment)
        for name, result in zip(KERNEL_TESTS, results, strict=True):
            told = [w for w in result["words"] if w.startswith("=====")]
            facts = {key: result[key] for key in ("cases", "failed", "error", "lost")}
            found[f"{tool} {name}"] = {**facts, "words": told[-20:]}
    return outcome(all(is_clean(facts) for facts in found.values()), tools=found)


def is_clean(facts):
    """Return whether a tool has seen cases, and nothing wrong in any."""
    summaries = [word for word in facts["words"] if "SUMMARY" in word]
    words = any("Error:" in word for word in facts["words"])
    whole = all(re.search(r"SUMMARY: 0 (errors|hazards)", word) for word in summaries)
    return facts["cases"] and whole and not (words or facts["failed"] or facts["lost"])


STAGES = {
    "kernels": run_kernels,
    "micro": run_micro,
    "tests": run_tests,
    "sequence": lambda kit, until: run_timings(kit, until, "sequence"),
    "attention_kernels": lambda kit, until: run_timings(kit, until, "attention"),
    "recurrent": lambda kit, until: run_benchmark(kit, until, "recurrent"),
    "attention": lambda kit, until: run_benchmark(kit, until, "attention"),
    "sanitizer": run_sanitizer,
}


def write(path, record):
    """Write a record whole or not at all."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def is_whole(path):
    """Return whether a stage's file says that it went well."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["ok"]
    except (OSError, ValueError, KeyError):
        return False


def run_stage(kit, name):
    """Run one stage; return its record, which is written."""
    start, until = time.monotonic(), kit.until(name)
    try:
        record = STAGES[name](kit, until)
    except Exception as problem:  # the others must go on
        record = outcome(False, error=f"{type(problem).__name__}: {problem}")
    record = {"stage": name, "seconds": round(time.monotonic() - start, 1), **record}
    write(kit.output / f"{name}.json", record)
    return record


def line_of(record):
    """Return a stage's line of the summary."""
    state = "skipped" if "skipped" in record else "ok" if record["ok"] else "FAILED"
    words = [f"{record['stage']:17} {state:8} {record['seconds']:6.1f} s"]
    programs = record.get("programs") or ([record] if "program" in record else [])
    for program in programs:
        bad = program["failed"] + len(program["lost"])
        if bad or program["error"]:
            words.append(f"{program['program']}: {bad} failed, {program['error'] or 'ended'}")
    words += [str(record[key]) for key in ("error", "skipped") if record.get(key)]
    words += record.get("last", [])
    return ", ".join(words)[:300]


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the folder of results")
    parser.add_argument("--programs", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--work", type=Path, default=Path("/tmp/fastcells-gpu"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--seconds", type=float, default=480, help="of the whole run")
    parser.add_argument("--budget", nargs="*", default=[], metavar="STAGE=SECONDS")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU")
    parser.add_argument("--build", action="store_true", help="compile, with a carried module too")
    parser.add_argument("--resume", action="store_true", help="leave out what is whole")
    options = parser.parse_args(arguments)
    options.budget = {k: float(v) for k, v in (pair.split("=") for pair in options.budget)}
    if unknown := set(options.budget) - set(STAGES):
        parser.error(f"--budget: there is no stage {', '.join(sorted(unknown))}")
    return options


def main(arguments=None):
    """Run the stages; print a summary of a line each."""
    options = parse_arguments(arguments)
    for folder in (options.output, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    kit, start = Kit(options), time.monotonic()
    prepare_package(kit)
    summary = {"environment": describe_environment(kit), "stages": {}, "ok": False}
    write(options.output / "summary.json", summary)
    for name in options.stages:
        path = options.output / f"{name}.json"
        if options.resume and is_whole(path):
            record = json.loads(path.read_text(encoding="utf-8"))
        else:
            needs_module = name in ("tests", "recurrent", "attention")
            if needs_module and find_module(kit.package / "fastcells") is None:
                summary["build"] = finish_build(kit, kit.end)
            record = run_stage(kit, name)
        summary["stages"][name] = line_of(record)
        print(summary["stages"][name], flush=True)
        write(options.output / "summary.json", summary)
    summary["build"] = summary.get("build") or finish_build(kit, kit.end)
    if summary["build"]:
        print("build", summary["build"])
    whole = all(is_whole(options.output / f"{name}.json") for name in options.stages)
    summary["ok"] = whole and (summary["build"] is None or summary["build"]["ok"])
    summary["seconds"] = round(time.monotonic() - start, 1)
    write(options.output / "summary.json", summary)
    print(f"gpu kit: {'all right' if summary['ok'] else 'NOT all right'}, {summary['seconds']} s")
    return 0 if summary["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
