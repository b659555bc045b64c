"""The benchmarks' own arithmetic: what could make a published number wrong without a sign of it."""

import json

import numpy as np
import pytest
import torch

from benchmarks import ceilings, experiments, machine, readme_table, summary
from fastcells import timing as harness

# ---- turns and medians


def test_the_order_of_a_round_is_reversed_in_the_next():
    order_of_round = harness.order_of_round
    assert order_of_round(["a", "b", "c"], 0) == ["a", "b", "c"]
    assert order_of_round(["a", "b", "c"], 1) == ["c", "b", "a"]
    assert order_of_round(["a", "b", "c"], 2) == ["a", "b", "c"]


def test_every_round_holds_a_turn_of_each_in_alternating_order(monkeypatch):
    turns = []

    def turn(call, seconds, repetitions, pause_s):
        turns.append(call())
        return 1.0

    monkeypatch.setattr(harness, "turn", turn)
    monkeypatch.setattr(harness, "estimate", lambda call, pause_s: 1.0)
    found = harness.measure({"a": lambda: "a", "b": lambda: "b"}, rounds=4, pause_s=0)
    assert "".join(turns) == "abba" * 2
    assert found["a"].rounds == found["b"].rounds == 4


def test_a_timing_is_the_median_and_both_ends():
    timing = harness.summarize([3.0, 1.0, 100.0, 2.0], 5)
    assert (timing.median, timing.fastest, timing.slowest) == (2.5, 1.0, 100.0)
    assert (timing.rounds, timing.repetitions) == (4, 5)


def test_a_turn_pauses_then_warms_up_then_counts_the_repetitions(monkeypatch):
    events, clock = [], [0.0]

    def call():
        events.append("call")
        clock[0] += harness.WARM_S / 2

    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(harness.time, "sleep", lambda s: events.append(f"sleep {s}"))
    assert harness.turn(call, 1e-3, 3, 0.25) == pytest.approx(harness.WARM_S / 2)
    assert events == ["sleep 0.25"] + ["call"] * 5


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 200), (1e-6, 200), (3e-4, 7), (1.0, 1)])
def test_a_sample_lasts_two_milliseconds_within_the_limits(seconds, count):
    assert harness.repetitions_for(seconds) == count


@pytest.mark.parametrize(
    ("budget", "seconds", "rounds", "expected"),
    [
        (np.inf, 1.0, 12, 12),
        (60.0, 1.0, 12, 12),
        (8.0, 1.0, 12, 8),
        (1.0, 1.0, 12, 7),
        (1, 1, 3, 3),
    ],
)
def test_slow_cases_get_fewer_rounds_but_some(budget, seconds, rounds, expected):
    assert harness.rounds_within(budget, seconds, rounds) == expected


# ---- the machine


def test_bandwidth_lies_between_the_two_sizes_and_ends_at_the_outer_ones():
    found = ceilings.parse(
        '{"threads": [{"threads": 2, "fma_gflops": 5.0, "bfloat16_gflops": 9.0,'
        ' "int8_gigaops": 0.0, "bfloat16_tile_gflops": 0.0, "int8_tile_gigaops": 70.0,'
        ' "read_gb_s_per_thread": {"100": 80.0, "400": 40.0}}]}'
    )
    assert found.fma_gflops == {2: 5.0} and found.bfloat16_gflops == {2: 9.0}
    assert found.int8_gigaops == {2: 70.0}
    rates = [found.bandwidth(2, size) for size in (1, 100, 200, 400, 9999)]
    assert rates == pytest.approx([160.0, 160.0, 120.0, 80.0, 80.0])


@pytest.mark.parametrize(
    ("family", "model", "name", "slug"),
    [
        (25, 0x01, "AMD EPYC 7763 64-Core Processor", "amd-epyc-zen3-2cores"),
        (25, 0x11, "AMD EPYC 9R14", "amd-epyc-zen4-2cores"),
        (26, 0x02, "AMD EPYC-Turin", "amd-epyc-zen5-2cores"),
        (23, 0x31, "AMD EPYC 7R32", "amd-epyc-7r32-2cores"),
    ],
)
def test_the_folder_of_a_processor_names_its_generation(family, model, name, slug):
    text = f"vendor_id\t: AuthenticAMD\ncpu family\t: {family}\nmodel\t\t: {model}\n"
    info = machine.read_cpuinfo(text + f"model name\t: {name}\n\nmodel name\t: other\n")
    assert machine.cpu_slug(info, 2) == slug


# ---- who is timed


def test_who_is_wrong_is_reported_and_not_timed():
    right, wrong = torch.zeros(3), torch.tensor([0.0, 0.0, 0.002])
    found = experiments.Experiment(
        {
            "torch": experiments.Variant(lambda: [right]),
            "good": experiments.Variant(lambda: [right + 1e-7]),
            "bad": experiments.Variant(lambda: [wrong]),
            "nan": experiments.Variant(lambda: [wrong * float("nan")]),
            "broken": experiments.Variant(lambda: [][0]),
        }
    )
    errors = experiments.check(found, 1e-3)
    assert set(found.variants) == {"torch", "good"}
    assert errors["good"] == pytest.approx(1e-7, rel=1e-3)
    assert found.skipped["bad"] == "wrong: error 2.0e-03 against torch"
    assert found.skipped["nan"].startswith("wrong")
    assert found.skipped["broken"].startswith("failed: IndexError")


# ---- what is published


def made_up(mode, cell, shape, **milliseconds):
    """Return a record with these medians."""
    B, H = shape
    timings = {name: {"median": ms * 1e-3} for name, ms in milliseconds.items()}
    case = {"cell": cell, "B": B, "H": H, "mode": mode}
    return {"mode": mode, "case": case, "label": f"B={B} H={H}", "timings": timings}


RECORDS = [
    made_up("inference", "lstm", (1, 128), torch=4.0, keras=2.0, fastcells=1.0),
    made_up("inference", "lstm", (64, 512), torch=1.0, keras=3.0, fastcells=1.0),
    made_up("inference", "lstm", (32, 64), torch=1.0),
    made_up("streaming", "lstm", (1, 128), torch=1.0, fastcells=0.1),
]


def test_a_digest_is_the_geometric_mean_and_the_worst_point():
    found = summary.digest(RECORDS[:3], summary.VS_TORCH)
    assert (found.mean, found.worst, found.count) == (pytest.approx(2.0), 1.0, 2)
    assert found.worst_label == "B=64 H=512"
    best = summary.digest(RECORDS[:3], summary.VS_BEST)
    assert best.mean == pytest.approx(2**0.5)
    assert best.worst_label == "B=64 H=512, torch"
    assert summary.digest(RECORDS[2:3], summary.VS_TORCH) is None


@pytest.fixture
def written(tmp_path):
    """Return the folder of two results files, of which the newer is partial, and a README."""
    results = {
        "date": "2030-01-02",
        "complete": True,
        "machine": {"cpu": "AMD EPYC", "zen": "zen3"},
        "settings": {"threads": 2},
        "packages": {"torch": "2.13.0", "keras": "3.15.1", "jax": "0.10.2"},
        "revision": {"commit": "0123456789", "dirty": True},
        "records": RECORDS,
    }
    partial = {**results, "date": "2030-01-03", "complete": False, "records": []}
    for one in (results, partial):
        path = tmp_path / "results" / "cpu" / f"{one['date']}-recurrent.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one), encoding="utf-8")
    readme = tmp_path / "README.md"
    begin, end = "<!-- cpu-benchmark: begin -->", "<!-- cpu-benchmark: end -->"
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    return ["--results", str(tmp_path / "results"), "--readme", str(readme)], readme


def test_readmes_table_is_rewritten_and_checked(written, capsys):
    arguments, readme = written
    main = readme_table.main
    assert main([*arguments, "--check"]) == 1
    assert "README.md differs" in capsys.readouterr().out
    assert "old" in readme.read_text()
    assert main(arguments) == 0
    text = readme.read_text()
    row = "| LSTM | inference | 2.00 | 1.41 | 1.00 (B=64 H=512) | 1.00 (B=64 H=512, torch) |"
    assert row in text and "old" not in text
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "2030-01-02, 2 cores of an AMD EPYC (Zen 3)" in text.replace("\n", " ")
    assert "Keras 3.15.1 on JAX 0.10.2; revision 0123456 with changes" in text.replace("\n", " ")
    assert max(len(line) for line in text.splitlines()) <= 100
    assert main([*arguments, "--check"]) == 0


def test_a_readme_without_the_block_is_refused(written):
    arguments, readme = written
    readme.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="must have one <!-- cpu-benchmark: begin -->"):
        readme_table.main(arguments)
