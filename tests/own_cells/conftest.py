"""Cells from equations without a compiler, and with a cache of their own."""

from pathlib import Path

import pytest

from routes import hide_kernels


@pytest.fixture
def on_reference(monkeypatch):
    """No cell is compiled here; what is loaded already is not used."""
    hide_kernels(monkeypatch, "the test wants none")


@pytest.fixture(scope="session", autouse=True)
def cache():
    """Libraries of cells that the tests define stay from run to run."""
    with pytest.MonkeyPatch.context() as patch:
        folder = Path(__file__).resolve().parents[2] / "build" / "own-cells"
        patch.setenv("FASTCELLS_CACHE", str(folder))
        yield folder
