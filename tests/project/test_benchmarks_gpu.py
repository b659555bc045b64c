"""The benchmarks on a GPU, rehearsed on a CPU: what they write, and what a failure leaves of it."""

import contextlib
import importlib
import json
import math
from types import SimpleNamespace

import pytest
import torch

import fastcells

pytest.importorskip("rich", reason="rich is not installed: `make venv` installs it")
gpu_timing = importlib.import_module("benchmarks.gpu_timing")
TOPICS = ("recurrent", "attention")


def rehearse(topic, folder, *arguments):
    """Return the exit code and the results of a quick run on the CPU."""
    module = importlib.import_module(f"benchmarks.{topic}.gpu")
    options = ["--device", "cpu", "--quick", "--output", str(folder)]
    code = module.main([*options, *arguments])
    (path,) = folder.rglob("*.json")
    assert path.name.endswith(f"-{topic}.json")
    return code, json.loads(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("topic", TOPICS)
def test_a_rehearsal_writes_what_a_run_does_and_is_gone_on_with(topic, tmp_path, capsys):
    code, results, path = rehearse(topic, tmp_path, "--first", "2")
    assert code == 0 and results["left_out"] == 0 and len(results["cases"]) == 2
    assert set(results["peaks"]) == {"float16", "bfloat16", "float32", "copy"}
    names = {"torch", "fastcells"}
    for record in results["cases"]:
        assert set(record["ms"]) == set(record["ms_eager"]) == names
        assert min(record["ms"].values()) > 0 and record["floor_ms"] > 0
        assert record["captured"] == dict.fromkeys(names, False)
        assert 0 < record["difference"] < 1e-2
        assert record["peer"] and record["plan" if topic == "recurrent" else "explain"]
    assert "eager: not captured" in capsys.readouterr().out
    code, more, _ = rehearse(topic, tmp_path, "--first", "1", "--resume", str(path))
    assert code == 0 and more["cases"][:2] == results["cases"] and len(more["cases"]) == 3
    assert len({json.dumps(record["case"]) for record in more["cases"]}) == 3


@pytest.mark.parametrize("topic", TOPICS)
def test_no_two_cases_are_alike_and_a_run_without_time_says_what_is_missing(topic, tmp_path):
    module = importlib.import_module(f"benchmarks.{topic}.gpu")
    describe = getattr(module, "describe", dict)
    for arguments in (["--device", "cpu"], ["--quick"], []):
        found = module.make_cases(module.parse_arguments(arguments))
        assert len({json.dumps(describe(case)) for case in found}) == len(found) > 30
    code, results, _ = rehearse(topic, tmp_path, "--seconds", "-1")
    assert code == 0 and results["cases"] == [] and results["left_out"] > 30


def test_every_group_of_attention_gives_what_its_peer_does(tmp_path):
    module = importlib.import_module("benchmarks.attention.gpu")
    for group in module.GROUPS:
        _, results, _ = rehearse("attention", tmp_path / group, "--only", group, "--first", "1")
        for record in results["cases"]:
            assert record["difference"] < 0.02, record["case"]


def test_who_fails_is_recorded_and_the_others_are_timed(tmp_path, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no such kernel\nand pages more")

    monkeypatch.setattr(fastcells, "additive_attention", fail)
    monkeypatch.setattr(fastcells, "explain", lambda *arguments, **options: "explained")
    code, results, _ = rehearse("attention", tmp_path, "--only", "additive", "--first", "2")
    assert code == 0 and len(results["cases"]) == 2
    for record in results["cases"]:
        assert record["errors"] == {"fastcells": "RuntimeError: no such kernel\nand pages more"}
        assert set(record["ms"]) == {"torch"} and "difference" not in record
    assert "fastcells FAILED: RuntimeError: no such kernel\n" in capsys.readouterr().out
    monkeypatch.setattr(fastcells, "explain", fail)
    arguments = ("--only", "additive", "bias", "--first", "2")
    _, results, _ = rehearse("attention", tmp_path / "again", *arguments)
    assert [record["error"].split("\n")[0] for record in results["cases"]] == [
        "RuntimeError: no such kernel"
    ] * 2


def test_a_new_process_goes_on_where_the_gpu_is_lost(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("an illegal memory access")

    commands = []

    def run(command, check):
        commands.append(command)
        return SimpleNamespace(returncode=7)

    monkeypatch.setattr(fastcells, "LSTM", fail)
    monkeypatch.setattr(gpu_timing, "is_lost", lambda device: True)
    monkeypatch.setattr(gpu_timing, "subprocess", SimpleNamespace(run=run))
    code, results, path = rehearse("recurrent", tmp_path, "--first", "5", "--seconds", "100")
    assert code == 7 and len(results["cases"]) == 1 and results["left_out"] == 4
    (command,) = commands
    assert command[1:3] == ["-m", "benchmarks.recurrent.gpu"] and "cpu" in command
    assert command[-6:-3] == ["--first", "4", "--seconds"] and float(command[-3]) <= 100
    assert command[-2:] == ["--resume", str(path)]


class Event:
    """Stands in for torch.cuda.Event: each is a millisecond after the last."""

    count = 0

    def __init__(self, enable_timing):
        pass

    def record(self):
        Event.count += 1
        self.time = Event.count

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return float(other.time - self.time)


def test_who_cannot_be_captured_is_told_from_who_can(monkeypatch):
    replays = []

    @contextlib.contextmanager
    def graph(it):
        yield

    cuda = SimpleNamespace(
        Event=Event,
        Stream=lambda: None,
        stream=lambda stream: contextlib.nullcontext(),
        synchronize=lambda: None,
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: replays.append(1)),
        graph=graph,
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    calls = []

    def uncapturable():
        calls.append(1)
        if len(calls) == gpu_timing.WARM_CALLS + 2:  # one eager before, then the warm ones
            raise RuntimeError("not permitted when stream is capturing")
        return [torch.ones(3)]

    found = gpu_timing.measure_calls(
        {"torch": lambda: [torch.zeros(3)], "fastcells": uncapturable}, "cuda", 3
    )
    assert found["captured"] == {"torch": True, "fastcells": False}
    why_not = "RuntimeError: not permitted when stream is capturing"
    assert found["not_captured"] == {"fastcells": why_not}
    assert found["difference"] == 1.0 and "errors" not in found
    assert found["ms"] == found["ms_eager"] == {"torch": 1.0, "fastcells": 1.0}
    assert len(replays) == 1 + 2 + 3  # once to see it work, to size the samples, the rounds


def test_a_difference_is_over_the_largest_value_and_sees_nan():
    difference = gpu_timing.max_difference
    assert difference([torch.tensor([4.0, 1.0])], [torch.tensor([4.0, 2.0])]) == 0.25
    assert difference([torch.tensor([0.5])], [torch.tensor([0.25])]) == 0.25
    nan = torch.tensor([math.nan])
    assert math.isnan(difference([torch.ones(1), nan], [torch.ones(1), nan]))
