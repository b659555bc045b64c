"""What this machine can do at best, here and now: compiles ceilings.cpp and runs it."""

import json
import math
import os
import subprocess
from dataclasses import dataclass

from benchmarks.paths import BUILD, HERE, ROOT

SOURCE = HERE / "ceilings.cpp"
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fopenmp", f"-I{ROOT / 'csrc'}")


@dataclass(frozen=True)
class Ceilings:
    """Float32 FMA and read bandwidth, each {threads: ...}, on 1 thread and on as many as asked."""

    fma_gflops: dict[int, float]
    # Products of bfloat16 pairs and of bytes, in the same unit, the faster of vectors and tiles; 0
    # without an instruction for them.
    bfloat16_gflops: dict[int, float]
    int8_gigaops: dict[int, float]
    read_gb_s: dict[int, dict[int, float]]  # a thread, by the bytes that each thread reads

    def bandwidth(self, threads, bytes_per_thread):
        """Return GB/s of all threads together, between two measured sizes on a line in log size."""
        rates = sorted(self.read_gb_s[threads].items())
        below = [pair for pair in rates if pair[0] <= bytes_per_thread] or rates[:1]
        above = [pair for pair in rates if pair[0] >= bytes_per_thread] or rates[-1:]
        (low, rate_low), (high, rate_high) = below[-1], above[0]
        if low == high or bytes_per_thread < low or bytes_per_thread > high:
            rate = rate_low if bytes_per_thread >= low else rate_high
        else:
            share = math.log(bytes_per_thread / low) / math.log(high / low)
            rate = rate_low + share * (rate_high - rate_low)
        return threads * rate


def compile_program(compiler=None):
    """Return the compiled ceilings.cpp. -march=native: compiled anew, it takes a second."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / "ceilings"
    command = [compiler or os.environ.get("CXX", "g++"), *FLAGS, str(SOURCE), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def parse(text):
    """Return the Ceilings of the program's output."""
    found = json.loads(text)["threads"]
    widths = (
        ("fma_gflops",),
        ("bfloat16_gflops", "bfloat16_tile_gflops"),
        ("int8_gigaops", "int8_tile_gigaops"),
    )
    return Ceilings(
        *({one["threads"]: max(one[rate] for rate in rates) for one in found} for rates in widths),
        {
            one["threads"]: {int(size): rate for size, rate in one["read_gb_s_per_thread"].items()}
            for one in found
        },
    )


def measure_ceilings(threads):
    """Return the Ceilings on 1 and on `threads` threads."""
    # Bound: a team of two that has just been started may share a core for milliseconds.
    environment = {**os.environ, "OMP_PROC_BIND": "true"}
    command = [str(compile_program()), str(threads)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return parse(done.stdout)
