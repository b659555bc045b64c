"""`fastcells info`: what runs here, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from .. import _extension
from .._version import __version__
from ..ops.devices import has_kernels
from .processes import ISA_VARIABLE, instruction_sets

__all__ = ["collect", "find_missing", "make_tables", "processor_name"]

CPUINFO = Path("/proc/cpuinfo")
#: Optional packages, and the extra that brings each.
OPTIONAL = {"matplotlib": "plot"}


def processor_name() -> str:
    text = CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named.group(1) if named else platform.processor() or platform.machine()


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _devices() -> dict[str, dict[str, Any]]:
    """Each device that torch sees, and whether there are kernels for it."""
    found = {"cpu": processor_name()}
    for index in range(torch.cuda.device_count()):
        found[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return {
        device: {"name": name, "kernels": has_kernels(torch.device(device))}
        for device, name in found.items()
    }


def collect() -> dict[str, Any]:
    """All facts, as `--json` prints them."""
    build = _extension.read_build_info()
    module = _extension._C
    facts: dict[str, Any] = {
        "fastcells": __version__,
        "torch": str(torch.__version__),
        "torch_cuda": torch.version.cuda,
        "python": platform.python_version(),
        "system": platform.platform(),
        "package": str(Path(__file__).parents[1]),
        "compiled": _extension.is_compiled(),
        "why_not_compiled": _extension.why_not_compiled(),
        "build": build,
        "processor": processor_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "instruction_sets": instruction_sets(),
        "instruction_set": None if module is None else module.instruction_set(),
        "chosen_by": f"{ISA_VARIABLE}" if os.environ.get(ISA_VARIABLE) else "the processor",
        "devices": _devices(),
        "optional": {name: importlib.util.find_spec(name) is not None for name in OPTIONAL},
    }
    return {**facts, "missing": [list(pair) for pair in find_missing(facts)]}


def find_missing(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what is missing, what to do about it)."""
    if not facts["compiled"]:
        mend = f"in a checkout of fastcells: {_extension.REBUILD_COMMAND}"
        if _extension.is_disabled(os.environ):
            mend = f"unset {_extension.DISABLE_VARIABLE}"
        yield f"compiled kernels: {facts['why_not_compiled']}", mend
    elif any(not device["kernels"] for device in facts["devices"].values()):
        yield (
            "kernels for the GPU: this build is for the CPU alone, so that calls on cuda run in "
            "plain torch, slowly",
            "install nvcc of torch's CUDA version, then, in a checkout of fastcells, "
            f"FASTCELLS_CUDA=1 {_extension.REBUILD_COMMAND}",
        )
    sets, used = facts["instruction_sets"], facts["instruction_set"]
    if sets and used != sets[0]:
        yield f"{sets[0]}, which the processor has and which is not used", f"unset {ISA_VARIABLE}"
    if facts["threads"] < facts["cores"]:
        yield (
            f"threads: torch uses {facts['threads']} of {facts['cores']} cores",
            "torch.set_num_threads, or OMP_NUM_THREADS, unless that is meant",
        )
    for name, is_there in facts["optional"].items():
        if not is_there:
            yield f"{name}, for pictures", f"pip install 'fastcells[{OPTIONAL[name]}]'"


def make_tables(facts: Mapping[str, Any]) -> list[Table]:
    """The facts, and what is missing where something is."""
    table = Table(title="fastcells", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(facts):
        table.add_row(name, value)
    if not facts["missing"]:
        return [table]
    missing = Table(title="Missing")
    missing.add_column("what", overflow="fold")
    missing.add_column("what to do", overflow="fold")
    for what, mend in facts["missing"]:
        missing.add_row(what, mend)
    return [table, missing]


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "fastcells", f"{facts['fastcells']}, {facts['package']}"
    cuda = facts["torch_cuda"]
    yield "torch", facts["torch"] + (f", CUDA {cuda}" if cuda else "")
    yield "Python", f"{facts['python']}, {facts['system']}"
    yield "compiled", "yes" if facts["compiled"] else f"no: {facts['why_not_compiled']}"
    build = facts["build"]
    if build is not None:
        yield "  for", _extension.built_for(build)
        yield "  with", f"{build.get('compiler')}"
        yield "  revision", str(build.get("git_revision") or "not recorded")
        yield "  GPUs", ", ".join(build.get("cuda_arch_list") or ["none"])
    yield "processor", f"{facts['processor']}, {facts['cores']} cores"
    yield "threads", str(facts["threads"])
    yield "instruction sets", ", ".join(facts["instruction_sets"]) or "unknown"
    yield "  used", f"{facts['instruction_set']}, chosen by {facts['chosen_by']}"
    for name, device in facts["devices"].items():
        kernels = "compiled kernels" if device["kernels"] else "plain torch"
        yield name, f"{device['name']}: {kernels}"
