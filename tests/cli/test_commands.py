"""The command line: what each command prints, how it ends, and what it says of bad options."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from torch import nn

pytest.importorskip("typer", reason="the command line needs typer: the extra `cli`")

from typer.testing import CliRunner

import fastcells
from fastcells import _extension, cli, timing
from fastcells.cli import app as application
from fastcells.cli import bench, check, info, layers, processes, selftest

TIMING = asdict(timing.Timing(2.0, 1.0, 6.0, 7, 3))


def run(*arguments):
    return CliRunner().invoke(application.app, list(arguments), env={"COLUMNS": "200"})


def words_of(text):
    """The text without frames and line ends."""
    return " ".join(word for word in text.replace("│", " ").split() if word)


@pytest.fixture
def sets(monkeypatch):
    """No other process is asked for the instruction sets."""
    names = ["avx10", _extension._C.instruction_set()]
    monkeypatch.setattr(info, "instruction_sets", lambda: names)
    monkeypatch.setattr(application, "instruction_sets", lambda: names)
    return names


# ---- the program


@pytest.mark.parametrize("package", ["typer", "rich.console"])
def test_without_its_packages_it_says_how_to_get_them(package, monkeypatch):
    monkeypatch.delitem(sys.modules, "fastcells.cli.app")
    monkeypatch.delattr(cli, "app")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert str(ended.value) == (
        f"fastcells: the command line needs {package.partition('.')[0]}, which is not installed: "
        "pip install 'fastcells[cli]'"
    )


def test_another_package_that_is_missing_is_not_taken_for_its_own(monkeypatch):
    monkeypatch.delitem(sys.modules, "fastcells.cli.app")
    monkeypatch.delattr(cli, "app")
    monkeypatch.setitem(sys.modules, "fastcells.timing", None)
    with pytest.raises(ModuleNotFoundError, match=r"fastcells\.timing"):
        cli.main()


def test_it_lists_its_commands():
    text = run("--help").output
    assert all(name in text for name in ("info", "check", "bench", "explain"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "--hidden", "8,x"], "'--hidden': 'x' is not a whole number above 0"),
        (["bench", "--batch", "0"], "'--batch': '0' is not a whole number above 0"),
        (["bench", "--cell", "sru"], "'--cell': 'sru' is not one of lstm, gru, rnn, rnn_relu"),
        (["bench", "--dtype", "int8"], "'int8' is not one of float32, float64, bfloat16, float16"),
        (["bench", "--rounds", "3"], "Invalid value for '--rounds'"),
        (["bench", "--plot", "a.txt"], "'a.txt' does not end in .png, .svg or .pdf"),
        (["bench", "--plot", "no/a.png"], "'no' is not a folder that can be written to"),
        (["explain", "--cell", "lstn"], "'--cell': 'lstn' is not one of lstm, gru,"),
        (["explain", "--device", "tpu"], "'--device': 'tpu' is not one of cpu, cuda"),
        (["explain", "--steps", "0"], "Invalid value for '--steps'"),
        (["check", "--layer", "LSTM"], "'--layer': 'LSTM' is not one of lstm, gru,"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in words_of(result.output)


# ---- info


def test_info_tells_this_build_and_what_is_not_used(sets):
    result = run("info", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["fastcells"] == fastcells.__version__
    assert facts["torch"] == torch.__version__
    assert facts["build"] == _extension.read_build_info()
    assert facts["instruction_set"] == sets[1]
    assert facts["devices"]["cpu"]["kernels"]
    assert ["avx10, which the processor has and which is not used", "unset FASTCELLS_CPU_ISA"] in (
        facts["missing"]
    )


def test_info_prints_the_same_as_tables(sets):
    text = words_of(run("info").output)
    assert f"torch {torch.__version__}" in text
    assert "avx10, which the processor has" in text


def complete(**changes):
    """Facts of a machine where nothing is missing, with these changes."""
    facts = {
        "compiled": True,
        "why_not_compiled": None,
        "devices": {"cpu": {"kernels": True}},
        "instruction_sets": ["avx2"],
        "instruction_set": "avx2",
        "threads": 4,
        "cores": 4,
        "optional": {"matplotlib": True},
    }
    return facts | changes


@pytest.mark.parametrize(
    ("changes", "what", "mend"),
    [
        (
            {"compiled": False, "why_not_compiled": "no module"},
            "compiled kernels: no module",
            _extension.REBUILD_COMMAND,
        ),
        (
            {"devices": {"cpu": {"kernels": True}, "cuda:0": {"kernels": False}}},
            "kernels for the GPU",
            "FASTCELLS_CUDA=1",
        ),
        ({"threads": 2}, "torch uses 2 of 4 cores", "OMP_NUM_THREADS"),
        ({"optional": {"matplotlib": False}}, "matplotlib", "pip install 'fastcells[plot]'"),
    ],
)
def test_what_is_missing_is_told_with_what_to_do(changes, what, mend):
    ((told, command),) = info.find_missing(complete(**changes))
    assert what in told
    assert mend in command
    assert not list(info.find_missing(complete()))


def test_the_instruction_sets_of_this_processor_end_with_baseline():
    found = processes.instruction_sets()
    assert found[-1] == "baseline"
    assert _extension._C.instruction_set() in found


# ---- check


def results(value, dtype="float32"):
    output = torch.tensor([value, 1.0], dtype=torch.float64)
    return {("lstm", dtype): {"output 0": output.to(layers.DTYPES[dtype])}}


def expected(dtype="float32"):
    exact = {("lstm", dtype + selftest.EXACT): {"output 0": torch.ones(2, dtype=torch.float64)}}
    return results(1.0, dtype) | exact


def test_check_compares_every_layer_on_an_instruction_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # on a busy machine threads wait for each other
    chosen = _extension._C.instruction_set()
    result = run("check", "--layer", "gru,linear_scan", "--instruction-set", chosen)
    assert result.exit_code == 0, result.output
    assert f"Forward and gradients: {chosen}" in result.output
    assert "8 of 8 are right" in result.output


def test_check_leaves_no_layer_out():
    made = {type(make().module) for make in selftest.SUBJECTS.values()}
    public = {getattr(fastcells, name) for name in fastcells.__all__}
    layers_of_fastcells = {x for x in public if isinstance(x, type) and issubclass(x, nn.Module)}
    assert layers_of_fastcells
    assert layers_of_fastcells <= made


@pytest.mark.parametrize(
    ("dtype", "value", "is_right"),
    [
        ("float32", 1 + 1e-7, True),
        ("float32", 1 + 1e-6, False),
        ("float32", float("nan"), False),
        ("float64", 1 + 1e-13, True),
        ("float64", 1 + 1e-11, False),
        ("bfloat16", 1 + 3 / 128, True),
        ("bfloat16", 1 + 5 / 128, False),
    ],
)
def test_a_difference_beyond_rounding_is_a_fault(dtype, value, is_right):
    (verdict,) = check.compare("avx2", results(value, dtype), expected(dtype))
    assert (verdict.fault is None) == is_right


def test_check_ends_with_1_and_names_what_differs(sets, monkeypatch):
    def evaluate(names, **environment):
        is_reference = "FASTCELLS_DISABLE_EXTENSION" in environment
        return expected() if is_reference else results(2.0)

    monkeypatch.setattr(check, "evaluate_in_child", evaluate)
    result = run("check")
    assert result.exit_code == 1
    assert "differs" in result.stdout
    assert "avx10, lstm, float32: output 0: error 1.00e+00 exceeds" in result.stdout


def test_check_tells_a_process_that_crashed(sets, monkeypatch):
    ended = subprocess.CompletedProcess([], returncode=-4, stdout="", stderr="")
    monkeypatch.setattr(check, "run_python", lambda *arguments, **environment: ended)
    result = run("check")
    assert result.exit_code == 1
    assert "reference, all, all: the process was ended by SIGILL" in result.stdout


def test_check_without_kernels_has_nothing_to_check(monkeypatch):
    monkeypatch.setattr(_extension, "_C", None)
    monkeypatch.setattr(_extension, "_why_not", "no module")
    result = run("check")
    assert (result.exit_code, result.stderr) == (1, "Nothing to check: no module.\n")


# ---- bench


def test_bench_times_both_and_agrees_with_torch():
    sizes = ["--cell", "rnn", "--hidden", "8", "--steps", "2", "--batch", "1", "--rounds", "7"]
    result = run("bench", "--json", "--train", *sizes)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    (record,) = told["cases"]
    assert record["case"]["is_training"]
    assert set(record["timings"]) == {"fastcells", "torch"}
    assert all(timing["rounds"] == 7 for timing in record["timings"].values())
    medians = [record["timings"][name]["median"] for name in ("torch", "fastcells")]
    assert record["ratio"] == pytest.approx(medians[0] / medians[1])
    assert record["error"] < 1e-5


@pytest.fixture
def cases(monkeypatch):
    """What is timed: nothing runs."""
    seen = []

    def run_case(case, rounds, budget_s):
        seen.append(case)
        return bench.Record(case, {"fastcells": TIMING, "torch": TIMING | {"median": 5.0}}, 0.0, "")

    monkeypatch.setattr(bench, "run_case", run_case)
    return seen


def test_values_are_given_by_commas_or_again(cases):
    result = run("bench", "--hidden", "8,16", "--hidden", "32", "--cell", "gru", "--batch", "4")
    assert [(case.cell, case.batch, case.hidden) for case in cases] == [
        ("gru", 4, 8), ("gru", 4, 16), ("gru", 4, 32)
    ]  # fmt: skip
    assert "2.50" in result.stdout


def test_bench_draws_a_picture(cases, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "out.png"
    assert run("bench", "--plot", str(path)).exit_code == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_bench_ends_with_1_where_results_differ(monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda calls, rounds, budget_s: {
        name: timing.Timing(**TIMING) for name in calls
    })  # fmt: skip
    monkeypatch.setitem(layers.RECURRENT, "rnn", layers.RECURRENT["rnn_relu"])
    result = run("bench", "--cell", "rnn", "--hidden", "8", "--batch", "2", "--steps", "3")
    assert result.exit_code == 1
    assert "rnn B=2 H=8 T=3 float32: the results differ" in result.output


def test_bench_goes_on_where_torch_fails(monkeypatch):
    class Refusing(torch.nn.RNN):
        def forward(self, *arguments):
            raise RuntimeError("not implemented for 'Half'\nand more")

    monkeypatch.setattr(bench, "measure", lambda calls, rounds, budget_s: {
        name: timing.Timing(**TIMING) for name in calls
    })  # fmt: skip
    monkeypatch.setitem(layers.TORCH, "rnn", Refusing)
    result = run("bench", "--cell", "rnn", "--hidden", "8", "--batch", "2", "--steps", "3")
    assert result.exit_code == 0
    assert "torch failed: not implemented for 'Half'" in result.output
    assert "and more" not in result.output


# ---- explain


@pytest.mark.parametrize("is_training", [False, True])
def test_explain_says_what_the_function_says(is_training):
    layer = fastcells.GRU(5, 24, 2, bidirectional=True, dtype=torch.bfloat16)
    x = torch.zeros(9, 3, 5, dtype=torch.bfloat16)
    with torch.set_grad_enabled(is_training):
        told = fastcells.explain(layer, x)
    sizes = ["--batch", "3", "--hidden", "24", "--steps", "9", "--input", "5", "--layers", "2"]
    options = ["--cell", "gru", "--dtype", "bfloat16", "--bidirectional"]
    result = run("explain", *options, *sizes, *(["--train"] if is_training else []))
    assert result.stdout == f"{told}\n"


def test_explain_passes_on_what_a_layer_refuses():
    result = run("explain", "--cell", "rg_lru", "--input", "5")
    assert result.exit_code == 1
    assert result.stderr.startswith("RGLRU: input_size must be hidden_size")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_explain_for_a_gpu_that_is_not_there_is_refused():
    assert "torch sees no GPU here" in run("explain", "--device", "cuda").output


def test_explain_draws_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "plan.svg"
    assert run("explain", "--hidden", "32", "--plot", str(path)).exit_code == 0
    assert "<svg" in path.read_text()
