"""The benchmark of attention: what it counts, checks and judges, on cases of milliseconds."""

import importlib
import json
from functools import partial
from pathlib import Path

import pytest
import torch

import fastcells
from benchmarks import summary
from benchmarks.attention import calls, cases, memory, modes
from benchmarks.ceilings import Ceilings


@pytest.mark.parametrize(
    ("kind", "arguments", "flops", "numbers"),
    [
        ("DotCase", dict(B=2, N=3, Tq=4, Tk=5, E=6), 4 * 2 * 3 * 20 * 6, 36 * (4 + 5 + 5 + 4)),
        ("DotCase", dict(B=1, N=1, Tq=4, Tk=4, E=1, is_causal=True), 4 * 10, 16),
        ("DotCase", dict(B=1, Tq=2, Tk=3, E=1, has_bias=True), 4 * 6, 2 + 3 + 3 + 6 + 2),
        ("DotCase", dict(B=1, Tq=2, Tk=3, E=1, mode="training"), 14 * 6, 3 * 10),
        ("AdditiveCase", dict(B=2, Tq=3, Tk=4, E=5, D=6), 24 * (5 * 6 + 2 * 5), 36 + 48 + 40 + 36),
        ("AdditiveCase", dict(B=1, Tq=1, Tk=1, E=1, D=1, mode="training"), 18 + 6, 3 * 5),
        ("MultiheadCase", dict(B=2, N=2, Tq=3, Tk=3, E=4), 4 * 2 * 6 * 64 + 4 * 4 * 9 * 4, 96),
    ],
)
def test_flops_and_bytes_of_known_attention(kind, arguments, flops, numbers):
    case = getattr(cases, kind)(**arguments)
    assert (case.flops, case.bytes) == (flops, 4 * numbers)


def test_a_floor_is_the_longer_of_operations_and_bytes():
    ceilings = Ceilings({1: 2.0}, {}, {}, {1: {1: 10.0}})
    case = cases.DotCase(B=1, Tq=1, Tk=8, E=16)
    found = modes.efficiency(case, 1e-6, ceilings, 1)
    assert found["floor_by"] == "operations"
    assert found["floor_ms"] == pytest.approx(2.56e-4)
    assert found["floor_share"] == pytest.approx(0.256)
    slow = Ceilings({1: 2.0}, {}, {}, {1: {1: 1.0}})
    found = modes.efficiency(case, 1e-5, slow, 1)
    assert found["floor_by"] == "bytes"
    assert found["floor_share"] == pytest.approx(18 * 16 * 4 * 1e-9 / 1e-5)


@pytest.fixture
def attention_cpu(monkeypatch):
    """Return the benchmark with tiny cases and ceilings that are made up."""
    for package in ("rich", "tqdm"):
        pytest.importorskip(package, reason=f"{package} is not installed: `make venv` installs it")
    command = importlib.import_module("benchmarks.command")
    module = importlib.import_module("benchmarks.attention.cpu")
    tiny = {
        "dot": cases.in_both([cases.dot((1, 2, 5, 4)), cases.dot((1, 2, 5, 4), is_causal=True)]),
        "bias": [cases.dot((2, 2, 5, 4), has_bias=True, mode=cases.TRAINING)],
        "dropout": cases.in_both([cases.dot((1, 2, 30, 4), dropout_p=0.1)]),
        "additive": cases.in_both([cases.AdditiveCase(B=2, Tq=3, Tk=5, E=4, D=6)]),
        "multihead": cases.in_both([cases.MultiheadCase(2, 5, 5, 4, N=2)]),
    }
    ceilings = Ceilings({2: 100.0}, {}, {}, {2: {1024: 50.0}})
    monkeypatch.setattr(module, "CASES", {k: lambda quick, v=v: v for k, v in tiny.items()})
    monkeypatch.setattr(command, "measure_ceilings", lambda threads: ceilings)
    monkeypatch.setattr(command, "restrict_threads", lambda threads: None)
    return module


def run_quickly(module, folder, *arguments):
    """Return the exit code and the results of a run of one round."""
    quick = ["--quick", "--threads", "2", "--rounds", "1", "--output", str(folder)]
    code = module.main([*quick, *arguments])
    (path,) = folder.rglob("*-attention.json")
    return code, json.loads(path.read_text(encoding="utf-8"))


def test_the_attention_benchmark_checks_times_and_judges(
    attention_cpu, tmp_path, capsys, monkeypatch
):
    def fail():
        raise RuntimeError("no compiler\nand pages more")

    monkeypatch.setattr(modes, "compiled_by_hand", lambda: lambda *tensors: fail())
    code, results = run_quickly(attention_cpu, tmp_path)
    records, text = results["records"], capsys.readouterr().out
    assert code == 0 and len(records) == 11 and not results["complete"]
    for record in records:
        assert record["errors"]["fastcells"] < 1e-5
        assert record["timings"]["torch"]["median"] > 0 < record["timings"]["fastcells"]["median"]
        assert record["efficiency"]["fastcells"]["floor_share"] > 0
    compiled = {"torch.compile": "failed: RuntimeError: no compiler"}
    assert all(r["skipped"] == (compiled if r["mode"] == "additive" else {}) for r in records)
    for words in ("failed: RuntimeError: no compiler", "bias and dropout", "(≥ 2.2)"):
        assert words in text


def test_wrong_attention_is_said_and_ends_with_1(attention_cpu, tmp_path, capsys, monkeypatch):
    wrong = partial(fastcells.scaled_dot_product_attention, scale=1.0)
    monkeypatch.setattr(fastcells, "scaled_dot_product_attention", wrong)
    code, results = run_quickly(attention_cpu, tmp_path, "--only", "dot", "dropout")
    assert code == 1
    assert all(r["skipped"]["fastcells"].startswith("wrong") for r in results["records"])
    assert "Wrong: dot forward B=1 N=2 T=5 E=4" in capsys.readouterr().out


def test_a_wrong_share_of_dropout_is_refused(monkeypatch):
    case = cases.dot((1, 2, 30, 4), dropout_p=0.1)
    weights = torch.ones(1, 2, 30, 30)
    monkeypatch.setattr(calls, "seeded", lambda call: lambda: (None, weights))
    with pytest.raises(
        ValueError, match=r"^0\.0000 of the weights are zeroed, with dropout_p=0\.1"
    ):
        calls.dropout_of(case)
    weights.flatten()[::10] = 0
    assert calls.dropout_of(case).unique().tolist() == pytest.approx([0, 1 / 0.9])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_the_memory_of_additive_attention_holds_torchs_tanh_alone():
    case = cases.AdditiveCase(B=8, Tq=64, Tk=64, E=8, D=128, mode="training")
    tanh_bytes = 4 * 8 * 64 * 64 * 128
    torchs, ours = (memory.memory_of_child(case, n, 2) for n in ("torch", "fastcells"))
    assert torchs["peak"] >= 2 * tanh_bytes and torchs["growth"] >= tanh_bytes
    assert ours["peak"] < tanh_bytes / 2


def test_a_target_asks_for_the_mean_and_the_worst_case():
    pytest.importorskip("rich", reason="rich is not installed: `make venv` installs it")
    report = importlib.import_module("benchmarks.report")

    def record(torchs, peaks):
        timings = {"torch": {"median": torchs}, "fastcells": {"median": 1.0}}
        facts = {"peak MiB, torch": peaks, "peak MiB, fastcells": 2.0} if peaks else {}
        case = {"mode": "training"}
        return {"mode": "dot", "case": case, "label": "x", "timings": timings, "facts": facts}

    records = [record(18.0, 50.0), record(0.5, None)]
    targets = [
        summary.Target("mean", ("dot",), summary.VS_TORCH, 2.0),
        summary.Target("worst", ("dot",), summary.VS_TORCH, 2.0, 1.0),
        summary.Target("memory", ("dot",), modes.PEAK_VS_TORCH, 24.0),
        summary.Target("more memory", ("dot",), modes.PEAK_VS_TORCH, 26.0),
        summary.Target("not run", ("bias",), summary.VS_TORCH, 1.0),
    ]
    columns = report.make_target_table(records, targets).columns
    found = {column.header: list(column.cells) for column in columns}
    assert found["of"] == ["mean", "worst", "memory", "more memory"]
    assert found["cases"] == ["2", "2", "1", "1"]
    assert found["mean"] == ["3.00 (≥ 2)", "3.00 (≥ 2)", "25.00 (≥ 24)", "25.00 (≥ 26)"]
    assert ["yes" in cell for cell in found["reached"]] == [True, False, True, False]
    assert found["worst at"][0] == "dot training x"
