"""On what something was measured: processor, caches, versions, revision."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from benchmarks.paths import ROOT

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
ISA_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
PACKAGES = (
    "torch", "fastcells", "numpy", "onnx", "onnxruntime", "openvino", "keras", "jax", "jaxlib",
)  # fmt: skip
# Family 25 is Zen 3 or Zen 4, by model.
ZEN3_MODELS = (range(0x10), range(0x20, 0x60))
ZEN4_MODELS = (range(0x10, 0x20), range(0x60, 0xB0))


def read_cpuinfo(text):
    """Return {key: value} of the first processor."""
    first = text.split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def zen_generation(info):
    """Return "zen3", "zen4" or "zen5", None for what is not known to be one."""
    if info.get("vendor_id") != "AuthenticAMD":
        return None
    family, model = int(info.get("cpu family", 0)), int(info.get("model", 0))
    if family == 26:
        return "zen5"
    if family == 25 and any(model in models for models in ZEN3_MODELS):
        return "zen3"
    if family == 25 and any(model in models for models in ZEN4_MODELS):
        return "zen4"
    return None


def cpu_slug(info, cores):
    """Return a name for a folder, as amd-epyc-zen3-2cores."""
    name = re.sub(r"\((R|TM)\)|\bCPU\b|\bProcessor\b|@.*", " ", info.get("model name", "unknown"))
    words = re.findall(r"[a-z0-9]+", name.lower())
    zen = zen_generation(info)
    if zen:
        words = [*words[:2], zen]
    return "-".join([*words, f"{cores}cores"])


def read_caches(folder=CACHES):
    """Return {"L1d": "32K", ...} of the first core."""
    caches = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = (
            (index / name).read_text().strip() for name in ("level", "type", "size")
        )
        letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
        caches[f"L{level}{letter}"] = size
    return caches


def describe_machine():
    """Return the processor as the results file has it."""
    info = read_cpuinfo(CPUINFO.read_text()) if CPUINFO.exists() else {}
    cores = os.cpu_count()
    flags = set(info.get("flags", "").split())
    return {
        "slug": cpu_slug(info, cores),
        "cpu": info.get("model name", platform.processor()),
        "family": info.get("cpu family"),
        "model": info.get("model"),
        "zen": zen_generation(info),
        "cores": cores,
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "caches": read_caches(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def package_versions(names=PACKAGES):
    """Return {name: version}, None for what is not installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git(*arguments):
    """Return what git says, None where there is no checkout."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def describe_revision():
    """Return the commit, and whether files differ from it."""
    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}
