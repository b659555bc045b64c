"""Rewrite the table of measurements in README.md from the newest complete results file.

Run it with `python -m benchmarks.readme_table`; `--check` changes nothing and ends with exit code 1
if README.md says something else.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.paths import RESULTS, ROOT
from benchmarks.summary import VS_BEST, VS_TORCH, by_mode_and_group, digest

BEGIN, END = "<!-- cpu-benchmark: begin -->", "<!-- cpu-benchmark: end -->"
MODES = ("inference", "training")
PEER_TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "keras": "Keras"}
COLUMNS = 100


def newest_results(folder):
    """Return the newest complete results below `folder`, by date, then by name."""
    paths = sorted(Path(folder).rglob("*-recurrent.json"), key=lambda path: (path.name, str(path)))
    for path in reversed(paths):
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["complete"]:
            return results
    raise SystemExit(f"readme_table: no complete *-recurrent.json below {folder}: run `make bench`")


def make_rows(records):
    """Return the table's rows, one a mode and cell."""
    rows = []
    for (mode, title), group in by_mode_and_group(records).items():
        torch, best = digest(group, VS_TORCH), digest(group, VS_BEST)
        if mode in MODES and torch and best:
            rows.append(
                f"| {title} | {mode} | {torch.mean:.2f} | {best.mean:.2f} "
                f"| {torch.worst:.2f} ({torch.worst_label}) "
                f"| {best.worst:.2f} ({best.worst_label}) |"
            )
    return rows


def peers_text(results):
    """Return who was measured, with versions."""
    versions, timed = results["packages"], set()
    for record in results["records"]:
        timed |= set(record["timings"])
    compiled = " and compiled" if "torch.compile" in timed else ""
    texts = [f"torch {versions['torch']} eager{compiled}"]
    for name, title in PEER_TITLES.items():
        if name in timed:
            backend = f" on JAX {versions['jax']}" if name == "keras" and versions["jax"] else ""
            texts.append(f"{title} {versions[name]}{backend}")
    return ", ".join(texts)


def make_block(results):
    """Return the block between the markers, both included."""
    machine, settings = results["machine"], results["settings"]
    generation = f" ({machine['zen'].replace('zen', 'Zen ')})" if machine["zen"] else ""
    commit = (results["revision"]["commit"] or "unknown")[:7]
    commit += " with changes" if results["revision"]["dirty"] else ""
    header = "| cell | mode | torch.nn / fastcells | best peer / fastcells | worst, torch.nn "
    prose = (
        "Times over fastcells' time: above 1 fastcells is faster. Geometric means over all shapes, "
        f"and the worst shape. `make bench`, {results['date']}, {settings['threads']} cores of an "
        f"{machine['cpu']}{generation}, float32, T=60; {peers_text(results)}; revision {commit}."
    )
    lines = [BEGIN, header + "| worst, best peer |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *make_rows(results["records"]), "", wrap(prose), END])


def wrap(text):
    """Return `text` in lines of at most COLUMNS."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > COLUMNS:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)


def replace_block(text, block):
    """Return README's text with the new block in the place of the old one."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise SystemExit(f"readme_table: README.md must have one {BEGIN} and one {END} after it")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return before + block + after


def main(arguments=None):
    """Rewrite or check; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args(arguments)
    text = options.readme.read_text(encoding="utf-8")
    new = replace_block(text, make_block(newest_results(options.results)))
    if options.check:
        if new != text:
            print("readme_table: README.md differs: python -m benchmarks.readme_table")
        return int(new != text)
    options.readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
