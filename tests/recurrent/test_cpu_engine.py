"""The CPU engine: every instruction set of this processor, sizes that miss tiles, long inputs,
rows that end, tiny numbers. tests/recurrent/test_kernels.py has what is asked of every engine."""

import os
import platform
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import fastcells
from fastcells import _extension
from fastcells.reference import recurrent as reference
from fastcells.testing import make_layer_problem
from pairs import one_thread  # noqa: F401 (an autouse fixture)
from problems import (
    MASKS,
    assert_matches,
    assert_same_bits,
    evaluate,
    poisoned_memory,
    run_kernels,
    run_reference,
    run_torch,
    steps_past_ends,
)

HERE = Path(__file__).resolve().parents[1]
#: The cells that this engine takes, and the elementwise ones.
CELLS = [cell for cell in reference.CELLS if cell != "gru_reset_before"]
each_cell = pytest.mark.parametrize("cell", CELLS)
#: Instruction sets, the best first, and the processor's flags that each takes.
AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
FLAGS = {
    "amx": {*AVX512, "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"},
    "avx512_bf16": {*AVX512, "avx512_vnni", "avx512_bf16"},
    "avx512_vnni": {*AVX512, "avx512_vnni"},
    "avx512": AVX512,
    "avx2_vnni": {"avx2", "fma", "avx_vnni"},
    "avx2": {"avx2", "fma"},
    "baseline": set(),
}


def missing_flags(name):
    if platform.machine() != "x86_64":
        return sorted(FLAGS[name])
    found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return sorted(FLAGS[name] - set(found.group(1).split()))


def plan_of(problem):
    """What the engine says of a problem's plan for training."""
    sizes = (*problem.input.shape, problem.weights[1].shape[1])
    engine, plan, _ = _extension._C.explain_cpu(
        problem.cell, problem.directions, sizes, problem.input.dtype, False, True, False
    )
    assert engine == "sequence"
    return plan


# ---- instruction sets ----


def check_every_layer(name):
    """Called in a process of its own where `name` is not what the processor would choose."""
    torch.set_num_threads(1)  # as pairs.one_thread does
    assert _extension._C.instruction_set() == name
    for cell in CELLS:
        for directions in (1, 2):
            for masks in MASKS.values():
                # 37 units are two vectors and a rest, or four, or nine.
                problem = make_layer_problem(cell, directions, 6, 5, 7, 37, **masks)
                actual, expected = evaluate(run_kernels, problem), evaluate(run_reference, problem)
                assert_matches(actual, expected)
                assert_same_bits(evaluate(run_kernels, problem), actual)
                single = problem.to(torch.float32)
                actual = evaluate(run_kernels, single)
                expected = evaluate(run_reference, single.to(torch.float64))
                in_double = {n: result.double() for n, result in actual.items()}
                assert_matches(in_double, expected, 2e-6 if cell != "rnn_relu" else 2e-5)
                assert_same_bits(evaluate(run_kernels, single), actual)


def run_python(program, **environment):
    paths = os.pathsep.join(map(str, (Path(__file__).parent, HERE, HERE.parent)))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", FLAGS)
def test_every_instruction_set_matches_the_reference(name):
    if missing := missing_flags(name):
        pytest.skip(f"this processor has no {', '.join(missing)} (/proc/cpuinfo)")
    if _extension._C.instruction_set() == name:
        check_every_layer(name)
    else:
        program = f"import test_cpu_engine as t; t.check_every_layer({name!r})"
        run_python(program, FASTCELLS_CPU_ISA=name)


ASK_FOR_THE_IMPOSSIBLE = """
import os, torch, fastcells
from fastcells import _extension
layer, input = fastcells.LSTM(64, 128), torch.randn(40, 64, 64)
def say(call):
    try:
        print(call())
    except Exception as error:
        print(type(error).__name__, error)
for name in NAMES:
    os.environ["FASTCELLS_CPU_ISA"] = name
    say(lambda: layer(input))
    say(lambda: fastcells.explain(layer, input))
os.environ["FASTCELLS_CPU_ISA"] = "baseline"
say(_extension._C.instruction_set)
"""

COMPUTE_ON_MANY_THREADS = """
import torch, fastcells
torch.set_num_threads(64)
layer, peer = fastcells.LSTM(64, 128), torch.nn.LSTM(64, 128)
peer.load_state_dict(layer.state_dict())
input = torch.randn(40, 64, 64)
with torch.no_grad():
    torch.testing.assert_close(layer(input)[0], peer(input)[0])
"""


def test_what_the_process_cannot_have_is_told():
    """An instruction set that is unknown, and one that the processor lacks."""
    supported = [name for name in FLAGS if not missing_flags(name)]
    wishes = ["sse9", "AVX2", *(name for name in FLAGS if name not in supported)]
    told = run_python(ASK_FOR_THE_IMPOSSIBLE.replace("NAMES", repr(wishes))).splitlines()
    assert told[:-1] == [
        "ValueError fastcells: FASTCELLS_CPU_ISA must name an instruction set of this processor "
        f"({', '.join(supported)}), got '{wish}'"
        for wish in wishes
        for _ in range(2)
    ]
    assert told[-1] == "baseline"


@pytest.mark.parametrize("variable", ["OMP_THREAD_LIMIT", "OMP_DYNAMIC"])
def test_fewer_threads_than_torch_asks_for_will_do(variable):
    """OpenMP may be told to start no more than one, or fewer when the machine is busy."""
    values = {"OMP_THREAD_LIMIT": "1", "OMP_DYNAMIC": "true"}
    run_python(COMPUTE_ON_MANY_THREADS, **{variable: values[variable]})


def test_no_kernel_can_be_taken_for_another_instruction_sets():
    """The linker keeps one of several weak functions of a name: of AVX512's, on any processor."""
    objects = sorted(HERE.parent.glob("build/objects-*/csrc/**/cpu/kernels/**/*.o"))
    if not list(HERE.parent.glob("build/objects-*")):
        pytest.skip("the module was not compiled in this folder: there is no build/objects-*")
    assert objects, "build/objects-* has no kernels: where have they moved?"
    try:
        command = ["nm", "--defined-only", "--demangle", *map(str, objects)]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("nm was not found")
    assert {path.stem for path in objects} >= set(FLAGS)
    shared = [line for line in listed.splitlines() if re.match(r"[0-9a-f]+ [WVuC] ", line)]
    assert not shared
    exported = re.findall(r"^[0-9a-f]+ [TDBR] (.*)$", listed, re.MULTILINE)
    whole = ("attention(fastcells::cpu::Score, fastcells::Storage)", "kernels()")
    narrow = "narrow(int, fastcells::Storage, fastcells::cpu::WeightStorage)"
    expected = {f"fastcells::cpu::{name}_{narrow}" for name in FLAGS}
    for name in ("baseline", "avx2", "avx512"):
        expected |= {f"fastcells::cpu::{name}_{table}" for table in whole}
        expected.add(f"fastcells::cpu::{name}_scan(fastcells::ScanStorage)")
        for engine in ("elementwise", "rowwise"):
            expected.add(f"fastcells::{engine}::{name}_kernels(int, fastcells::Storage)")
    assert set(exported) == expected


# ---- sizes ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "shape", [(6, 1, 1, 1), (5, 2, 17, 9), (4, 3, 2, 16), (3, 9, 5, 33), (6, 5, 8, 70)], ids=str
)
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_sizes_that_miss_tiles_are_as_accurate_as_torch(cell, shape, dtype, assert_accurate):
    """With as much for the order of sums as in tests/recurrent/test_kernels.py, which says why."""
    problem = make_layer_problem(cell, 2, *shape, dtype=dtype)
    run = partial(run_kernels, want_cells=False)
    actual, torchs = evaluate(run, problem), evaluate(run_torch, problem)
    exact_run = partial(run_reference, want_cells=False)
    exact = evaluate(exact_run, problem.to(torch.float64), rounded_to=dtype)
    order_of_sums = 4 * torch.finfo(torch.float32).eps
    for name, result in actual.items():
        floor = torch.finfo(dtype).eps + (order_of_sums if "weight" in name else 0)
        assert_accurate(result, exact[name], torchs[name], floor=floor, what=name)


@pytest.mark.parametrize("masks", ["all_steps", "lengths_and_resets"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_an_input_of_several_chunks_matches_the_reference(cell, masks):
    H = 200 if cell == "lstm" else 270
    problem = make_layer_problem(cell, 2, 140, 5, 9, H, **MASKS[masks])
    frames = re.search(r"product over (\d+) rows .* gradients over (\d+)", plan_of(problem))
    assert all(int(count) < 140 * 5 for count in frames.groups())
    assert_matches(evaluate(run_kernels, problem), evaluate(run_reference, problem))


# ---- rows that end ----


@each_cell
def test_a_batch_without_steps_keeps_its_states_and_has_no_other_gradients(cell):
    problem = make_layer_problem(cell, 2, 4, 3, 5, 7)
    problem.input.fill_(float("nan"))
    problem = replace(problem, lengths=torch.zeros(3, dtype=torch.int64))
    with poisoned_memory():
        results = evaluate(run_kernels, problem, past_ends=float("nan"))
    assert torch.equal(results.pop("h_n"), problem.h_0)
    if problem.c_0 is not None:
        assert torch.equal(results.pop("c_n"), problem.c_0)
    for state in {"h_0", "c_0"} & problem.variables().keys():
        assert results.pop(f"grad of {state}").abs().min() > 0
    for name, result in results.items():
        assert torch.equal(result, torch.zeros_like(result)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@each_cell
def test_nan_past_the_ends_of_many_rows_has_no_effect(cell, dtype):
    """Row groups, chunks and edges of tiles, each with rows that have ended."""
    problem = make_layer_problem(cell, 2, 40, 13, 9, 35, lengths=True, resets=True, dtype=dtype)
    past = steps_past_ends(problem)
    problem.input[past] = 0
    expected = evaluate(run_kernels, problem, past_ends=0.0)
    problem.input[past] = float("nan")
    actual = evaluate(run_kernels, problem, past_ends=float("nan"))
    assert_same_bits(actual, expected)
    for name in {"output", "cells", "grad of input"} & actual.keys():
        assert not actual[name][past].any(), name


# ---- numbers below the normal range ----


def test_subnormal_arguments_count_as_zero_inside_and_stay_outside():
    tiny = torch.full((400, 400), 1e-40)  # enough elements for torch to take all threads
    bits = tiny.view(torch.int32)
    layer = fastcells.GRU(40, 40, bias=False)
    torch.set_num_threads(2)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.mul_(1e3)  # what they would add up to is a normal number
        outputs = [layer(torch.full((50, 40, 40), value))[0] for value in (1e-40, 1e-37, 0.0)]
        assert torch.equal(outputs[0], outputs[2])
        assert not torch.equal(outputs[1], outputs[2])
        # As integers: where operands count as zero, one that is and one that is not are equal.
        assert torch.equal((tiny * 1.0).view(torch.int32), bits)


def test_a_row_without_steps_keeps_subnormal_states():
    layer, state = fastcells.RNN(3, 5), torch.full((1, 2, 5), 1e-40)
    assert state.view(torch.int32).all()
    _, h_n = layer(torch.zeros(4, 2, 3), state, lengths=torch.tensor([0, 4]))
    assert torch.equal(h_n[:, 0].view(torch.int32), state[:, 0].view(torch.int32))
