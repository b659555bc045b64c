"""Where the repository's root, published results and what a run leaves behind are."""

from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"  # complete runs alone: what is published
BUILD = ROOT / "build" / "benchmarks"
