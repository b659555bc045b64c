"""What the benchmarks on a GPU share: how a case is timed, and the file that grows with each.

A number is the median over rounds in which the libraries take turns. A sample is the time between
two CUDA events around as many calls in a row as take a millisecond, once of the eager call and once
of replays of its CUDA graph. Who cannot be captured is timed as eager, and the record says so.

With `--device cpu` the same code runs tiny cases by the clock, without graphs: a rehearsal, whose
numbers mean nothing.
"""

import datetime
import gc
import json
import math
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import fastcells
from benchmarks.machine import describe_revision
from benchmarks.paths import BUILD, RESULTS
from fastcells.timing import order_of_round

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
ROUNDS, QUICK_ROUNDS = 9, 3
WARM_CALLS = 3
SAMPLE_MS, MAX_REPETITIONS = 1.0, 100
PEAK_WIDTH, COPY_BYTES = 8192, 2**30
TINY_WIDTH, TINY_BYTES = 256, 2**20  # of a rehearsal
MIN_SECONDS_LEFT = 10  # below, no new process is worth its start
ERROR_COLUMNS = 1000  # of an error's text


# ---- one call ----


def synchronize(device):
    """Wait for the GPU: what failed on it raises here."""
    if device == "cuda":
        torch.cuda.synchronize()


def is_lost(device):
    """Return whether an error on the GPU has ended this process's work there."""
    try:
        synchronize(device)
    except RuntimeError:
        return True
    return False


def text_of(error):
    """Return the kind of an exception and what it says, not more than a page."""
    return f"{type(error).__name__}: {error}"[:ERROR_COLUMNS]


@dataclass
class Captured:
    """A call that replays a graph, with the results it writes; else the call itself, and why."""

    call: object
    outputs: list
    why_not: str = ""


def capture(call):
    """Return a graph of `call` as Captured."""
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(WARM_CALLS):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            outputs = call()
    except RuntimeError as error:
        return Captured(call, [], text_of(error))
    return Captured(graph.replay, outputs)


def milliseconds(call, device="cuda", repetitions=1):
    """Return the time of a call, the mean over so many in a row: by events, or by the clock."""
    if device == "cpu":
        begin = time.perf_counter()
        for _ in range(repetitions):
            call()
        return (time.perf_counter() - begin) * 1e3 / repetitions
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repetitions):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repetitions


# ---- one case ----


def time_in_turns(calls, device, rounds):
    """Return {name: milliseconds}, medians over the rounds; the next one goes in reverse order."""
    repetitions, samples = {}, {name: [] for name in calls}
    for name, call in calls.items():
        once = min(milliseconds(call, device) for _ in range(2))
        wanted = math.ceil(SAMPLE_MS / max(once, 1e-6))
        repetitions[name] = 1 if device == "cpu" else min(MAX_REPETITIONS, wanted)
    for number in range(rounds):
        for name in order_of_round(list(calls), number):
            samples[name].append(milliseconds(calls[name], device, repetitions[name]))
    return {name: statistics.median(values) for name, values in samples.items()}


def max_difference(expected, actual):
    """Return the largest one of two lists of tensors, over the largest value where that is above 1.

    Not a number where either holds one.
    """
    found = [0.0]
    for a, b in zip(expected, actual, strict=True):
        a, b = a.detach().float(), b.detach().float()
        if a.numel():
            found.append(float((a - b).abs().max() / a.abs().max().clamp(min=1.0)))
    return math.nan if any(map(math.isnan, found)) else max(found)


def measure_calls(calls, device, rounds):
    """Time {name: call}, torch's first; return what a record says of them.

    A call returns a list of tensors, which are compared with torch's: the eager ones and those of a
    replay. Who raises is left out, with the text in "errors".
    """
    outputs, captured, errors = {}, {}, {}
    for name, call in calls.items():
        try:
            outputs[name] = call()
            synchronize(device)
            captured[name] = Captured(call, [], "on a CPU") if device == "cpu" else capture(call)
            captured[name].call()
            synchronize(device)
        except Exception as error:  # the other one must be timed
            errors[name] = text_of(error)
    record = {"errors": errors} if errors else {}
    if errors and is_lost(device):
        return record
    working = [name for name in calls if name not in errors]
    record["captured"] = {name: not captured[name].why_not for name in working}
    record["not_captured"] = {n: c.why_not for n, c in captured.items() if c.why_not}
    if len(working) == 2:
        theirs, ours = working
        replayed = captured[ours].outputs or outputs[ours]
        both = outputs[theirs] * 2, [*outputs[ours], *replayed]
        record["difference"] = max_difference(*both)
        del both, replayed
    outputs.clear()
    eager = {name: calls[name] for name in working}
    record["ms_eager"] = time_in_turns(eager, device, rounds)
    record["ms"] = dict(record["ms_eager"])
    if device != "cpu":
        graphs = {name: captured[name].call for name in working}
        record["ms"] = time_in_turns(graphs, device, rounds)
    return record


# ---- peaks ----


def measure_peak(dtype, device="cuda"):
    """Return the operations a second of a large product: what a floor is reckoned with."""
    n = PEAK_WIDTH if device == "cuda" else TINY_WIDTH
    a = torch.randn(n, n, device=device).to(dtype)
    seconds = min(milliseconds(lambda: a @ a, device) for _ in range(ROUNDS)) * 1e-3
    return 2 * n**3 / seconds


def measure_copy(device="cuda"):
    """Return the bytes a second of a large copy, read and written ones together."""
    size = COPY_BYTES if device == "cuda" else TINY_BYTES
    a, b = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    seconds = min(milliseconds(lambda: a.copy_(b), device) for _ in range(ROUNDS)) * 1e-3
    return 2 * size / seconds


# ---- one run ----


def add_arguments(parser):
    """Add the options that both benchmarks have."""
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: rehearse")
    parser.add_argument("--quick", action="store_true", help="the first cases, few rounds")
    parser.add_argument("--first", type=int, metavar="N", help="the first N cases alone")
    parser.add_argument("--seconds", type=float, default=540, help="stop after so many")
    parser.add_argument("--output", type=Path, help="the folder of results")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on with a results file")


def parse(parser, arguments):
    """Read the command line, and keep it for a second process."""
    options = parser.parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    return options


def describe_versions():
    """Return those of what is measured."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "fastcells": fastcells.__version__,
    }


class Run:
    """The run of a topic, "recurrent" or "attention": its time, its device and its file."""

    def __init__(self, topic, options):
        self.topic, self.options, self.device = topic, options, options.device
        self.end = time.monotonic() + options.seconds
        self.rounds = QUICK_ROUNDS if options.quick else ROUNDS
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SystemExit(f"{topic}/gpu.py: there is no CUDA GPU here")
        name = torch.cuda.get_device_name() if self.device == "cuda" else "CPU rehearsal"
        date = datetime.date.today().isoformat()
        self.results = {
            "revision": describe_revision(),
            "versions": describe_versions(),
            "device": name,
            "date": date,
            "rounds": self.rounds,
            "tf32": {  # whether torch's float32 products are of TF32
                "matmul": torch.backends.cuda.matmul.allow_tf32,
                "cudnn": torch.backends.cudnn.allow_tf32,
            },
            "complete": False,  # which README's table of a CPU asks of every file
            "peaks": {},
            "left_out": None,
            "cases": [],
        }
        is_published = self.device == "cuda" and not options.quick and options.first is None
        folder = options.output or (RESULTS if is_published else BUILD / "results")
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        self.path = folder / slug / f"{date}-{topic}.json"
        if options.resume:
            self.path = options.resume
            self.results = json.loads(self.path.read_text(encoding="utf-8"))
        self.path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def records(self):
        """Those of the cases so far."""
        return self.results["cases"]

    def write(self):
        """Write the results file, whole or not at all."""
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)

    def measure_peaks(self, dtypes):
        """Return operations a second of each dtype, and bytes a second of "copy"."""
        peaks = self.results["peaks"]
        for name in dtypes:
            peaks[name] = peaks.get(name) or measure_peak(DTYPES[name], self.device)
        peaks["copy"] = peaks.get("copy") or measure_copy(self.device)
        return peaks

    def measure(self, case, measure_case):
        """Return the record of a case, with an error's text where it raises."""
        begin = time.monotonic()
        try:
            record = measure_case(case)
            synchronize(self.device)
        except Exception as error:  # the other cases must be measured
            record = {"error": text_of(error)}
        gc.collect()
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            record.setdefault("error", text_of(error))
        return record | {"seconds": round(time.monotonic() - begin, 2)}

    def run_all(self, cases, describe, columns, measure_case):
        """Measure all cases until time is up; write after each; return the exit code.

        `describe(case)` is what stands in the file, `columns` is {title: text of that}. Where an
        error has ended this process's work on the GPU, another process goes on.
        """
        known = [record["case"] for record in self.records]
        described = [(case, json.loads(json.dumps(describe(case)))) for case in cases]
        todo = [(case, text) for case, text in described if text not in known]
        todo = todo[: self.options.first]
        self.results["left_out"] = len(todo)
        self.write()
        for case, text in todo:
            if time.monotonic() > self.end:
                break
            record = {"case": text, **self.measure(case, measure_case)}
            self.records.append(record)
            self.results["left_out"] -= 1
            self.write()
            print(line_of(record, columns), flush=True)
            if ("error" in record or "errors" in record) and is_lost(self.device):
                return self.go_on_elsewhere()
        print_table(self.records, columns)
        left_out = self.results["left_out"]
        print(f"{len(self.records)} cases, {left_out} left out. Results: {self.path}", flush=True)
        return 0

    def go_on_elsewhere(self):
        """Measure the rest in a new process; return its exit code."""
        left = self.end - time.monotonic()
        print(f"The GPU is lost to this process; {left:.0f} s are left.", flush=True)
        if left < MIN_SECONDS_LEFT:
            return 1
        command = [sys.executable, "-m", f"benchmarks.{self.topic}.gpu", *self.options.arguments]
        if self.options.first is not None:
            command += ["--first", str(self.results["left_out"])]
        command += ["--seconds", f"{left:.0f}", "--resume", str(self.path)]
        return subprocess.run(command, check=False).returncode


# ---- what is printed ----


def ratio(record, key):
    """Return torch's time over ours, as text."""
    ms = record.get(key, {})
    return f"{ms['torch'] / ms['fastcells']:.2f}" if len(ms) == 2 else "-"


def captured_text(record):
    """Return who ran as a graph."""
    captured = record.get("captured", {})
    names = [name for name, is_captured in captured.items() if is_captured]
    return "both" if len(names) == 2 else " ".join(names) or "none"


def line_of(record, columns):
    """Return a case in a line: who took how long, and what went wrong."""
    words = [text(record["case"]) for text in columns.values()]
    for name, ms in record.get("ms", {}).items():
        how = "graph" if record["captured"][name] else "eager: not captured"
        words.append(f"| {name} {ms:.4f} ms ({how})")
    if "ms" in record:
        words.append(f"| ratio {ratio(record, 'ms')}, eager {ratio(record, 'ms_eager')}")
    if record.get("difference") is not None:
        words.append(f"| difference {record['difference']:.1e}")
    errors = dict(record.get("errors", {}))
    errors |= {"case": record["error"]} if "error" in record else {}
    words += [f"| {name} FAILED: {text.splitlines()[0]}" for name, text in errors.items()]
    return " ".join(words)


def print_table(records, columns):
    """Print milliseconds and ratios."""
    titles = ("torch ms", "fastcells ms", "ratio", "eager", "captured", "difference", "floor ms")
    table = Table(*columns, *titles)
    for record in records:
        ms, difference = record.get("ms", {}), record.get("difference")
        numbers = [f"{ms[name]:.4f}" if name in ms else "-" for name in ("torch", "fastcells")]
        numbers += [ratio(record, "ms"), ratio(record, "ms_eager"), captured_text(record)]
        numbers.append("-" if difference is None else f"{difference:.1e}")
        numbers.append(f"{record['floor_ms']:.4f}" if "floor_ms" in record else "-")
        table.add_row(*(text(record["case"]) for text in columns.values()), *numbers)
    Console(width=160).print(table)
