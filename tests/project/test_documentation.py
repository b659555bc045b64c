"""Docstrings: shapes, errors, an example that runs. Pages and names have a place on the site."""

import doctest
import inspect
import re
from pathlib import Path

import pytest
import torch

import fastcells


def find(name):
    found = fastcells
    for part in name.split("."):
        found = getattr(found, part)
    return found


ROOT = Path(__file__).resolve().parents[2]
#: No examples of their own.
MODULES = ("functional", "reference", "keras", "onnx", "cells", "__version__")
NAMES = [name for name in fastcells.__all__ if name not in MODULES]
NAMES += [f"functional.{n}" for n in fastcells.functional.__all__ if not hasattr(fastcells, n)]
NAMES += [f"{m}.{n}" for m in ("keras", "onnx") for n in find(m).__all__ if n != "KerasLayer"]
#: Of no tensors: there are no shapes to give.
SHAPELESS = (
    "CellError", "ConversionReport", "FastcellsBuildWarning", "conversion_report", "convert",
    "explain", "freeze", "frozen", "is_compiled", "patched_torch", "quantize", "to_torch",
    "unfreeze", "onnx.decompositions", "keras.read", "keras.load_model",
)  # fmt: skip
CANNOT_FAIL = (
    "CellError", "ConversionReport", "FastcellsBuildWarning", "is_compiled", "patched_torch",
    "onnx.decompositions",
)  # fmt: skip


def documented(name):
    """The object and, of a class, the functions that are made with it (`from_sru`)."""
    found = find(name)
    own = vars(found).items() if inspect.isclass(found) else ()
    methods = [(f"{name}.{key}", value) for key, value in own if isinstance(value, classmethod)]
    return [(name, found), *((key, value.__func__) for key, value in methods)]


@pytest.mark.parametrize("name", NAMES)
def test_a_docstrings_example_runs(name):
    for full, found in documented(name):
        text = inspect.getdoc(found) or ""
        test = doctest.DocTestParser().get_doctest(
            text, {"torch": torch, "fastcells": fastcells}, full, None, 0
        )
        assert test.examples, f"{full} has no example"
        printed = []
        doctest.DocTestRunner().run(test, out=printed.append)
        assert not printed, "".join(printed)


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_gives_shapes_and_errors(name):
    text = inspect.getdoc(find(name))
    if name not in SHAPELESS:
        assert re.search(r"`\[|[Ss]hapes", text), "no shapes"
    if name not in CANNOT_FAIL:
        assert re.search(r"Raises:|[Ee]rrors", text), "no word of errors"


def pages_of(text):
    """The lines of all toctrees of the index."""
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and line[0] != ":"]


def test_the_sites_navigation_names_every_page_and_no_other():
    docs = ROOT / "docs"
    entries = pages_of((docs / "index.md").read_text(encoding="utf-8"))
    named = set()
    for entry in entries:
        folder = ROOT if entry.startswith("/") else docs
        found = {
            path for end in ("md", "rst") for path in folder.glob(f"{entry.lstrip('/')}.{end}")
        }
        assert found or entry.endswith("*"), f"docs/index.md: there is no page {entry}"
        named |= found
    pages = {*docs.glob("*.md"), *docs.glob("kernels/*.md")}
    pages -= {docs / "index.md", docs / "beyond_torch.md"}  # which the index shows
    lost = sorted(str(path.relative_to(ROOT)) for path in pages - named)
    assert not lost, f"add a line to a toctree of docs/index.md: {lost}"


def test_every_public_name_has_its_entry_among_the_api_pages():
    text = (ROOT / "docs/site/api.rst").read_text(encoding="utf-8")
    entries = set(re.findall(r"^ {3}(\w+)$", text, re.MULTILINE))
    entries |= set(
        re.findall(r"^\.\. (?:data|module):: (?:fastcells\.)?(\w+)$", text, re.MULTILINE)
    )
    names = {*fastcells.__all__, *fastcells.functional.__all__}
    lost, unknown = sorted(names - entries), sorted(entries - names)
    assert not lost, f"add to docs/site/api.rst: {lost}"
    assert not unknown, f"no public names, but in docs/site/api.rst: {unknown}"
