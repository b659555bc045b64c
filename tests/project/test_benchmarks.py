"""The benchmarks' own arithmetic: what could make a published number wrong without a sign of it."""

import importlib
import json

import numpy as np
import pytest
import torch

import fastcells

# ---- turns and medians


def test_the_order_of_a_round_is_reversed_in_the_next(load):
    order_of_round = load("harness").order_of_round
    assert order_of_round(["a", "b", "c"], 0) == ["a", "b", "c"]
    assert order_of_round(["a", "b", "c"], 1) == ["c", "b", "a"]
    assert order_of_round(["a", "b", "c"], 2) == ["a", "b", "c"]


def test_every_round_holds_a_turn_of_each_in_alternating_order(load, monkeypatch):
    harness = load("harness")
    turns = []

    def turn(call, seconds, repetitions, pause_s):
        turns.append(call())
        return 1.0

    monkeypatch.setattr(harness, "turn", turn)
    monkeypatch.setattr(harness, "estimate", lambda call, pause_s: 1.0)
    found = harness.measure({"a": lambda: "a", "b": lambda: "b"}, rounds=4, pause_s=0)
    assert "".join(turns) == "abba" * 2
    assert found["a"].rounds == found["b"].rounds == 4


def test_a_timing_is_the_median_and_both_ends(load):
    timing = load("harness").summarize([3.0, 1.0, 100.0, 2.0], 5)
    assert (timing.median, timing.fastest, timing.slowest) == (2.5, 1.0, 100.0)
    assert (timing.rounds, timing.repetitions) == (4, 5)


def test_a_turn_pauses_then_warms_up_then_counts_the_repetitions(load, monkeypatch):
    harness = load("harness")
    events, clock = [], [0.0]

    def call():
        events.append("call")
        clock[0] += harness.WARM_S / 2

    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(harness.time, "sleep", lambda s: events.append(f"sleep {s}"))
    assert harness.turn(call, 1e-3, 3, 0.25) == pytest.approx(harness.WARM_S / 2)
    assert events == ["sleep 0.25"] + ["call"] * 5


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 200), (1e-6, 200), (3e-4, 7), (1.0, 1)])
def test_a_sample_lasts_two_milliseconds_within_the_limits(load, seconds, count):
    assert load("harness").repetitions_for(seconds) == count


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
def test_slow_cases_get_fewer_rounds_but_some(load, budget, seconds, rounds, expected):
    assert load("harness").rounds_within(budget, seconds, rounds) == expected


# ---- sizes and ceilings


@pytest.mark.parametrize(
    ("arguments", "flops"),
    [
        (dict(cell="lstm", B=32, T=50, I=256, H=256), 2 * 4 * 256 * 512 * 32 * 50),
        (dict(cell="gru", B=3, T=2, I=5, H=7), 2 * 3 * 7 * 12 * 3 * 2),
        (dict(cell="rnn_tanh", B=1, T=1, I=1, H=1), 4),
        (dict(cell="rnn_tanh", B=1, T=1, I=1, H=1, mode="training"), 12),
        (dict(cell="gru", B=1, T=1, I=2, H=3, directions=2), 2 * 2 * 9 * 5),
        (dict(cell="gru", B=1, T=1, I=2, H=3, directions=2, layers=2), 4 * 9 * 5 + 4 * 9 * 9),
    ],
)
def test_flops_of_known_cases(load, arguments, flops):
    assert load("cases").Case(**arguments).flops == flops


def test_weight_bytes_are_those_of_the_layer(load):
    case = load("cases").Case("lstm", B=1, T=1, I=6, H=4, directions=2, layers=2)
    layer = torch.nn.LSTM(6, 4, num_layers=2, bidirectional=True)
    matrices = [p for p in layer.parameters() if p.dim() == 2]
    assert case.weight_bytes == sum(p.nbytes for p in matrices)
    recurrent = [p for name, p in layer.named_parameters() if name.startswith("weight_hh")]
    assert case.recurrent_bytes == sum(p.nbytes for p in recurrent)


def test_bandwidth_lies_between_the_two_sizes_and_ends_at_the_outer_ones(load):
    ceilings = load("ceilings").parse(
        '{"threads": [{"threads": 2, "fma_gflops": 5.0,'
        ' "read_gb_s_per_thread": {"100": 80.0, "400": 40.0}}]}'
    )
    assert ceilings.fma_gflops == {2: 5.0}
    found = [ceilings.bandwidth(2, size) for size in (1, 100, 200, 400, 9999)]
    assert found == pytest.approx([160.0, 160.0, 120.0, 80.0, 80.0])


@pytest.mark.parametrize(
    ("family", "model", "name", "slug"),
    [
        (25, 0x01, "AMD EPYC 7763 64-Core Processor", "amd-epyc-zen3-2cores"),
        (25, 0x11, "AMD EPYC 9R14", "amd-epyc-zen4-2cores"),
        (26, 0x02, "AMD EPYC-Turin", "amd-epyc-zen5-2cores"),
        (23, 0x31, "AMD EPYC 7R32", "amd-epyc-7r32-2cores"),
    ],
)
def test_the_folder_of_a_processor_names_its_generation(load, family, model, name, slug):
    text = f"vendor_id\t: AuthenticAMD\ncpu family\t: {family}\nmodel\t\t: {model}\n"
    info = load("machine").read_cpuinfo(text + f"model name\t: {name}\n\nmodel name\t: other\n")
    assert load("machine").cpu_slug(info, 2) == slug


# ---- peers


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_an_onnx_model_computes_what_torchs_layer_does(load, cell, directions):
    pytest.importorskip("onnx", reason="onnx is not installed: `make bench` installs it")
    evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator
    onnx_models, layers = load("onnx_models"), load("layers")
    case = load("cases").Case(cell, B=3, T=4, I=2, H=5, directions=directions)
    layer, x = layers.make_layer(case), layers.make_input(case)
    (y,) = evaluator(onnx_models.make_model(case, layer)).run(["Y"], {"X": x.numpy()})
    expected = layer(x)[0].detach().numpy()
    np.testing.assert_allclose(onnx_models.to_torch_layout(y), expected, atol=1e-6)


@pytest.mark.parametrize("library", ["ONNX_BLOCKS", "KERAS_BLOCKS"])
def test_reordering_moves_whole_gate_blocks(load, library):
    gate_orders = load("gate_orders")
    blocks = getattr(gate_orders, library)["gru"]
    torchs = np.array(["r0", "r1", "z0", "z1", "n0", "n1"])
    moved = gate_orders.reorder(torchs, blocks)
    assert moved.tolist() == ["z0", "z1", "r0", "r1", "n0", "n1"]


def test_fastcells_gets_torchs_weights(load):
    case = load("cases").square("gru", 2, 3, T=4, directions=2)
    ours, theirs = (load("layers").make_layer(case, library) for library in (fastcells, torch.nn))
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, ours.get_parameter(name))


def test_who_is_wrong_is_reported_and_not_timed(load):
    experiments = load("experiments")
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


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_packed_and_padded_rows_are_compared_in_one_layout(load, mode):
    experiments = load("experiments")
    case = load("cases").square("lstm", 3, 4, T=5, mode=mode, lengths="random")
    experiment = experiments.prepare_lengths(case, None)
    names = set(experiment.variants)
    errors = experiments.check(experiment, 1e-5)
    assert set(experiment.variants) == set(errors) == names and not experiment.skipped


def test_held_bytes_are_those_of_saved_tensors_without_parameters_and_input(load):
    x = torch.randn(5, 4)
    layer = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())
    assert load("memory").held_bytes(layer_of_first(layer), x) == 5 * 3 * 4


def layer_of_first(layer):
    """Return `layer` as one that returns a tuple, as a recurrent one does."""

    class Tupled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return (self.layer(x),)

    return Tupled()


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


def test_a_digest_is_the_geometric_mean_and_the_worst_point(load):
    summary = load("summary")
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


def test_readmes_table_is_rewritten_and_checked(load, written, capsys):
    arguments, readme = written
    main = load("readme_table").main
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


def test_a_readme_without_the_block_is_refused(load, written):
    arguments, readme = written
    readme.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="must have one <!-- cpu-benchmark: begin -->"):
        load("readme_table").main(arguments)
