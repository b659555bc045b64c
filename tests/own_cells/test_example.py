"""examples/own_cell.py learns, and what benchmarks/own_cells.py compares is one cell."""

import importlib
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from benchmarks import own_cells

EXAMPLES = str(Path(__file__).resolve().parents[2] / "examples")


def test_the_invented_cell_learns_beside_the_lstm(on_reference):
    with patch.object(sys, "path", [EXAMPLES, *sys.path]):
        example = importlib.import_module("own_cell")
        speakers = importlib.import_module("speakers")
    few = [speakers.Utterances(*(x[::9] for x in part)) for part in speakers.load_data()]
    runs = example.train(2, 0, few)
    assert [run.name for run in runs] == ["LSTM", "tempo"]
    for run in runs:
        assert run.losses[-1] < run.losses[0] and len(run.accuracies) == 2
    table = example.make_table(runs)
    assert table.row_count == 2


@pytest.mark.parametrize("name", own_cells.LOOPS)
def test_the_loops_compute_the_cell(name, on_reference):
    cell, loop, step, _ = own_cells.LOOPS[name]
    layer = cell(5, 5)
    weights = [w.detach() for w in layer.parameters()]
    x = torch.randn(4, 3, 5)
    torch.testing.assert_close(loop(x, *weights), layer(x)[0])
    if step is not None:
        with patch.object(torch, "compile", lambda function, **options: function):
            compiled = own_cells.compiled_loop(step, len(layer(x)[1]))
        torch.testing.assert_close(compiled(x, *weights), layer(x)[0])


def test_the_built_in_cells_are_the_equations(on_reference):
    x = torch.randn(4, 3, 5)
    for own, built_in in own_cells.BUILT_IN.values():
        one, other = own(5, 5), built_in(5, 5)
        own_cells.share_weights(one, other)
        torch.testing.assert_close(one(x)[0], other(x)[0])
