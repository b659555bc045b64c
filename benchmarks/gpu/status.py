"""Write docs/gpu-status.md from the newest results of the kit on a GPU: what has run, and how.

    python -m benchmarks.gpu.status          writes the page
    python -m benchmarks.gpu.status --check  exits with 1 where it is not what the results say

Every number comes from benchmarks/results/<gpu>/<date>/; nothing on the page is written by hand.
"""

import argparse
import collections
import itertools
import json
import math
import re
import sys
from pathlib import Path

from benchmarks.gpu import timings
from benchmarks.gpu.kit import KERNEL_TESTS
from benchmarks.paths import RESULTS, ROOT
from benchmarks.summary import geometric_mean

PAGE = ROOT / "docs" / "gpu-status.md"
STAGES = (
    "kernels", "tests", "sanitizer", "micro", "sequence", "attention_kernels", "recurrent",
    "attention",
)  # fmt: skip
# Of every kernel in csrc/*/cuda: a status page that leaves one out hides it.
KERNEL = re.compile(r"^\s*(?:__launch_bounds__\([^;{]*?\)\s*)?(\w+_kernel)\(", re.MULTILINE)
EXCHANGES = (("cluster", "rows"), ("cluster", "lines"), ("grid", "counters"), ("grid", "packets"))
USUAL_EXCHANGE = {"cluster": "rows", "grid": "counters"}
SHAPES = ((64, 16), (256, 16), (512, 1), (512, 16), (512, 64), (1024, 1), (1024, 16), (1024, 64))


def newest_runs(results):
    """Return the folder of the newest run of each GPU."""
    runs = {}
    for summary in sorted(results.glob("*/*/summary.json")):
        runs[summary.parent.parent.name] = summary.parent
    return runs


def read(folder, stage):
    """Return a stage's record, None where it has not run."""
    path = folder / f"{stage}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def kernels_in_source():
    """Return the names of all kernels."""
    names = set()
    for path in sorted((ROOT / "csrc").rglob("*.cuh")):
        names.update(KERNEL.findall(path.read_text(encoding="utf-8")))
    return sorted(names)


def table(header, rows):
    """Return lines of a Markdown table."""
    return [
        "| " + " | ".join(map(str, row)) + " |" for row in (header, ["---"] * len(header), *rows)
    ]


def kernel_rows(record):
    """Return a row for every kernel: how many instances have run."""
    run = collections.Counter()
    for program in record["programs"] if record else []:
        for entry in program["records"]:
            name = re.search(r"(\w+_kernel)\b", entry.get("kernel", ""))
            if name and "registers" in entry:
                run[name.group(1)] += 1
    return [[f"`{n}`", run[n] or "not yet run on a GPU"] for n in kernels_in_source()]


def program_rows(record):
    """Return a row for every program: cases, the worst error in units of its bound."""
    rows = []
    for program in record["programs"]:
        cases = [entry for entry in program["records"] if "ok" in entry]
        shares = [c["error"] / c["bound"] for c in cases if c.get("bound") and c["ok"]]
        lost = [entry["case"] for entry in program["lost"]]
        bad = [entry["case"] for entry in cases if not entry["ok"]]
        words = "; ".join(lost + bad) or "none"
        rows.append([program["program"], len(cases), f"{max(shares, default=0):.2f}", words])
    have_run = {row[0] for row in rows}
    return rows + [
        [name, 0, "", "not yet run on a GPU"] for name in KERNEL_TESTS if name not in have_run
    ]


def step_rows(record):
    """Return microseconds a step of the fastest tier, forward and backward."""
    times = collections.defaultdict(list)
    for r in record["records"]:
        if "us_step" in r:
            times[r["cell"], r["dtype"], r["H"], r["B"], r["way"]].append(r)
    rows = []
    for cell, dtype in itertools.product(("lstm", "gru"), ("float16", "float32")):
        for shape in SHAPES:
            ways = [times.get((cell, dtype, *shape, way)) for way in ("forward", "backward")]
            if all(ways):
                fastest = [min(way, key=lambda r: r["us_step"]) for way in ways]
                rows.append([cell, dtype, *shape, *map(tier_of, fastest)])
    return rows


def tier_of(record):
    """Return a tier and its time in words."""
    blocks = "" if record["tier"] == "block" else f" of {record['blocks']}"
    exchange = record.get("exchange")
    other = f" with {exchange}" if exchange in ("packets", "lines") else ""
    return f"{record['us_step']:.2f} ({record['tier']}{blocks}{other})"


def exchange_rows(record):
    """Return for every exchange of a cluster or grid how often it was timed, and how it did.

    The last is the geometric mean of the tier's usual exchange's time over its own, of the same
    layer, way and blocks: above 1 it is the faster one.
    """
    times = collections.defaultdict(dict)
    for r in record["records"] if record else []:
        if "us_step" in r and r["tier"] != "block":
            usual = USUAL_EXCHANGE[r["tier"]]
            key = tuple(r[k] for k in ("cell", "dtype", "way", "B", "H", "tier", "blocks"))
            times[r["tier"], r.get("exchange") or usual][key] = r["us_step"]
    rows = []
    for tier, exchange in EXCHANGES:
        own, usual = times[tier, exchange], times[tier, USUAL_EXCHANGE[tier]]
        ratios = [usual[key] / us for key, us in own.items() if key in usual]
        mean = f"{geometric_mean(ratios):.3f}" if ratios else "-"
        rows.append([tier, exchange, len(own) or "not yet run on a GPU", mean])
    return rows


def ratio_lines(record, name):
    """Return the ratios to the peers, a line for each dtype and pass; above 1 ours is faster."""
    groups = collections.defaultdict(list)
    for entry in record["results"]["cases"]:
        ms, case = entry.get("ms"), entry["case"]
        if ms and all(ms.values()):
            peer, ours = ms["torch"], ms["fastcells"]
            groups[case["dtype"], case.get("pass") or case["mode"]].append(peer / ours)
    rows = []
    for (dtype, way), ratios in sorted(groups.items()):
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        share = sum(r >= 1 for r in ratios) / len(ratios)
        rows.append([dtype, way, len(ratios), f"{mean:.2f}", f"{min(ratios):.2f}", f"{share:.0%}"])
    header = ["dtype", "pass", "cases", "geometric mean", "least", "1.0 or more"]
    return [f"### {name}: torch's time over ours, graphs replayed", "", *table(header, rows), ""]


def describe_run(folder):
    """Return the lines of one GPU."""
    records = {stage: read(folder, stage) for stage in STAGES}
    summary = read(folder, "summary")
    facts = summary["environment"]
    lines = [f"## {facts.get('name', folder.parent.name)}, {folder.name}", ""]
    lines += [
        f"torch {facts.get('torch')}, CUDA {facts.get('cuda')}, cuDNN {facts.get('cudnn')}, "
        f"driver: {facts.get('driver')}. Raw results: "
        f"[`{folder.relative_to(ROOT)}`](../{folder.relative_to(ROOT)}).",
        "",
        *table(
            ["stage", "result"],
            [[s, said(records[s], summary["stages"].get(s))] for s in STAGES],
        ),
        "",
    ]
    kernels = records["kernels"]
    if kernels:
        header = ["program of tests/cpp", "cases", "worst error / bound", "failed"]
        lines += ["### Correctness", "", *table(header, program_rows(kernels)), ""]
    lines += [
        "### Kernels", "", *table(["kernel", "instances run"], kernel_rows(kernels)), "",
    ]  # fmt: skip
    if records["sequence"]:
        header = ["cell", "dtype", "H", "B"]
        header += ["forward", "backward"]
        lines += ["### Sequence kernels, microseconds a step of the fastest tier", ""]
        lines += [*table(header, step_rows(records["sequence"])), ""]
        header = ["tier", "exchange", "timed", "usual exchange's time over its own"]
        lines += ["### Exchanges of the sequence kernels", ""]
        lines += [*table(header, exchange_rows(records["sequence"])), ""]
    lines += attention_lines(records["attention_kernels"])
    for stage in ("recurrent", "attention"):
        if records[stage] and records[stage].get("results"):
            lines += ratio_lines(records[stage], stage)
    return lines


def attention_lines(record):
    """Return the times of attention calls and of their kernels, without torch."""
    lines = ["### Attention calls, microseconds, and the share of the least they can take", ""]
    if record is None or "skipped" in record:
        return [*lines, "build/gpu/attention, which times them: not yet run on a GPU.", ""]
    header = ["call", "dtype", "B", "N", "Tq", "Tk", "E", "with", "forward", "backward"]
    lines += [*table(header, timings.attention_rows(record["records"])), ""]
    header = ["kernel", "calls", "longest, us", "in"]
    return [*lines, *table(header, timings.kernel_rows(record["records"])), ""]


def said(record, line):
    """Return a stage's result in words."""
    if record is None:
        return "not run"
    return "skipped" if "skipped" in record else "right" if record["ok"] else f"FAILED: {line}"


def make_page(results=RESULTS):
    """Return the page."""
    runs = newest_runs(results)
    lines = [
        "# What has run on a GPU",
        "",
        "Generated by `python -m benchmarks.gpu.status` from the results of `make gpu`.",
        "",
    ]
    if not runs:
        lines += ["No run yet: every kernel below is *not yet run on a GPU*.", ""]
        lines += table(["kernel", "instances run"], kernel_rows(None))
    for _, folder in sorted(runs.items()):
        lines += describe_run(folder)
    return "\n".join(lines).rstrip() + "\n"


def main(arguments=None):
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    page = make_page()
    if options.check:
        return int(not options.page.exists() or options.page.read_text("utf-8") != page)
    options.page.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
