"""The page of plans: it says of each call what `fastcells.explain` says of the code on it."""

import pytest
import torch

pytest.importorskip("matplotlib")

import fastcells
from benchmarks import plans
from benchmarks.paths import ROOT


@pytest.mark.parametrize("call", plans.CALLS, ids=lambda call: call.name)
def test_a_section_has_the_code_and_what_it_tells(call):
    with plans.threads(plans.THREADS):
        names = {"fastcells": fastcells, "torch": torch}
        exec(call.code(), names)
        told = names["told"]
        text = plans.section(call, call.explain())
    assert f"```python\n{call.code()}\n```" in text
    assert f"\n\n{told}\n```" in text
    assert ("{image}" in text) == (told.kernel != "reference")


def test_every_picture_that_a_page_shows_is_drawn(tmp_path):
    plans.write_page(tmp_path, tuple(c for c in plans.CALLS if c.name in ("small", "reference")))
    page = (tmp_path / "plans.md").read_text(encoding="utf-8")
    shown = {line.split("/")[-1] for line in page.splitlines() if line.startswith("```{image}")}
    assert shown == {path.name for path in tmp_path.glob("*.svg")}
    assert shown == {f"plan-small-{theme}.svg" for theme in plans.THEMES}


def test_the_calls_differ_in_engine_and_in_how_they_are_shared():
    with plans.threads(plans.THREADS):
        told = [call.explain() for call in plans.CALLS]
    assert {one.kernel for one in told} == {
        "cpu step", "cpu sequence", "cpu rowwise", "cpu elementwise", "reference",
    }  # fmt: skip
    every = " ".join(one.plan for one in told)
    for way in ("one thread", "directions at once", "groups of rows", "share the units", "chunks"):
        assert way in every


def test_the_number_of_threads_is_put_back():
    with plans.threads(3):
        with plans.threads(plans.THREADS):
            assert torch.get_num_threads() == plans.THREADS
        assert torch.get_num_threads() == 3


def test_the_sites_page_includes_the_calls():
    page = (ROOT / "docs" / "site" / "plans.md").read_text(encoding="utf-8")
    assert f"```{{include}} {plans.FOLDER}/plans.md" in page
