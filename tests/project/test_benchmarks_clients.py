"""What `make clients` says of a client: right, wrong, not run; and its page."""

import json

import pytest
import torch
from torch import nn

import fastcells
from benchmarks.clients import run
from benchmarks.clients.document import DOCUMENT, make_document, make_row
from benchmarks.clients.work import Client, Work, training
from benchmarks.paths import RESULTS


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr("fastcells.timing.WARM_S", 1e-4)
    monkeypatch.setattr("fastcells.timing.SAMPLE_S", 1e-4)
    monkeypatch.setattr("fastcells.timing.PAUSE_S", 1e-4)


def build():
    return training(nn.GRUCell(3, 4), torch.randn(2, 3))


def build_late():
    made = []

    def call():
        torch.manual_seed(0)
        made[:] = [nn.LSTM(3, 4)]
        return {"output": made[0](torch.ones(5, 2, 3))[0]}

    return Work(call, lambda: made[0])


@pytest.mark.parametrize(("way", "make"), [("convert", build), ("patched_torch", build_late)])
def test_a_client_is_converted_compared_and_timed(way, make):
    record = run.run_client(Client("torch", "own", "training", way, make, 1e-5), rounds=7)
    assert (record["converted"], record["layers"], record["left"]) == (1, 1, [])
    assert record["is_right"] and record["torch_s"] > 0 and record["rounds"] >= 7


def test_other_numbers_are_wrong(monkeypatch):
    convert = fastcells.convert

    def convert_wrongly(model, **options):
        convert(model, **options)
        with torch.no_grad():
            model.bias_ih.add_(1e-3)

    monkeypatch.setattr(fastcells, "convert", convert_wrongly)
    record = run.run_client(Client("torch", "own", "training", "convert", build, 1e-5), rounds=7)
    assert not record["is_right"] and record["error"] > 1e-4


def test_a_client_that_fails_is_named_with_the_reason(tmp_path, monkeypatch):
    def fail():
        raise ImportError("no such\nthing")

    clients = [Client("torch", "own", "training", "convert", make, 1e-5) for make in (fail, build)]
    monkeypatch.setattr(run, "CLIENTS", clients)
    run.run_clients([0, 1], tmp_path / "records.json")
    first, second = json.loads((tmp_path / "records.json").read_text()).values()
    assert first == {"reason": "ImportError: no such"} and second["is_right"]
    named = {"package": "torch", "version": "1", "client": "own", "pass": "training", "way": "none"}
    assert make_row(named | first) == (
        "| torch 1 | own | training | none | | not run: ImportError: no such | | | |"
    )
    wrong = second | {"is_right": False, "error": 0.5, "torch_s": 0.002, "fastcells_s": 0.001}
    assert make_row(named | wrong) == (
        "| torch 1 | own | training | none | 1 of 1 | 5e-01 **wrong** | 2 | 1 | 2.00 |"
    )


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(run, "CLIENTS", [Client("absent-package", "own", "", "", build, 1e-5)])
    (record,) = run.run_package("absent-package", [0], 1)
    assert record["reason"] == "not installed" and record["version"] is None


@pytest.mark.skipif(
    not any(RESULTS.rglob("*-clients.json")), reason="no results have been taken yet"
)
def test_the_page_is_that_of_the_newest_results():
    newest = max(RESULTS.rglob("*-clients.json"), key=lambda path: path.name)
    results = json.loads(newest.read_text(encoding="utf-8"))
    assert DOCUMENT.read_text(encoding="utf-8") == make_document(results)
