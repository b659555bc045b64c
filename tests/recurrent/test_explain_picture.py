"""The picture of a plan shows the numbers of its line."""

import pytest
import torch

import fastcells
from fastcells.explain import picture

CLUSTER = (
    "clusters of 8 blocks, exchange by lines, 3 slices of 8 rows, 4 x 2 warps a block (units x "
    "parts of K), 96 KiB of shared memory, about 2.1 us a step; back: a grid of 40 blocks, "
    "exchange by packets, 1 slice of 16 rows, 4 x 2 warps a block (units x parts of K), 90 KiB of "
    "shared memory"
)


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("avx2, one thread; input product over 64 rows at once",
         picture.Layout("thread", 1, 1, 1, 1, 64, 0, 0)),
        ("avx512, 8 threads: 2 directions at once, each of 2 groups of rows, each of 2 threads "
         "that share the units, a barrier a step; input product over 12 rows at once; weight "
         "gradients over 480", picture.Layout("thread", 8, 2, 2, 2, 12, 480, 0, "a barrier")),
        ("avx512, 4 threads: 4 threads that share the units, 3 barriers a step and 5 on the way "
         "back; input product over 9 rows at once; weight gradients over 9",
         picture.Layout("thread", 4, 1, 1, 4, 9, 9, 0, "3 barriers")),
        ("avx512, 2 threads, chunks of 30 steps", picture.Layout("thread", 2, 1, 1, 1, 0, 0, 30)),
        (CLUSTER, picture.Layout("block", 24, 1, 3, 8, 0, 0, 0)),
        ("", picture.Layout("thread", 0, 1, 1, 1, 0, 0, 0)),
    ],
)  # fmt: skip
def test_a_plans_line_is_read(plan, expected):
    assert picture.read_plan(plan) == expected


@pytest.mark.parametrize("batch", [1, 5, 64])
@pytest.mark.parametrize("directions", [1, 2])
def test_every_thread_of_a_real_plan_has_its_part(batch, directions, four_threads):
    layer = fastcells.LSTM(64, 256, bidirectional=directions == 2)
    told = fastcells.explain(layer, torch.zeros(40, batch, 64))
    layout = picture.read_plan(told.plan)
    assert told.kernel == "cpu sequence"
    assert layout.has_parts
    assert layout.input_frames > 0
    assert layout.weight_frames > 0
    assert told.sizes == (40, batch, 64, 256, directions)


@pytest.mark.parametrize(
    ("layer", "there", "back"),
    [
        (fastcells.LSTM(64, 256), "a barrier", ""),
        (fastcells.LSTM(64, 256, zoneout=0.1), "2 barriers", " and 3 on the way back"),
        (fastcells.LayerNormGRU(64, 256), "2 barriers", " and 3 on the way back"),
        (fastcells.LayerNormLSTM(64, 256), "3 barriers", " and 5 on the way back"),
        (fastcells.LayerNormLSTM(64, 256, carry_normalised_c=True),
         "3 barriers", " and 5 on the way back"),
    ],
    ids=["sequence", "zoneout", "gates", "c", "carried c"],
)  # fmt: skip
def test_a_plan_counts_the_barriers_of_its_engine(layer, there, back, four_threads):
    x = torch.zeros(40, 1, 64)
    assert f"share the units, {there} a step{back}; input" in fastcells.explain(layer, x).plan
    with torch.no_grad():
        told = fastcells.explain(layer, x)
    assert told.plan.endswith("rows at once")
    assert f"share the units, {there} a step; input" in told.plan


@pytest.mark.parametrize(
    "layer",
    [
        fastcells.GRU(8, 32, bidirectional=True),
        fastcells.GRU(8, 32, variant="reset_before"),  # stepwise: no plan
        fastcells.QRNN(8, 32),
    ],
    ids=["sequence", "stepwise", "elementwise"],
)
@pytest.mark.parametrize("steps", [1, 200])
@pytest.mark.parametrize("batch", [0, 3])
def test_a_plan_is_drawn(layer, steps, batch):
    pytest.importorskip("matplotlib")
    told = fastcells.explain(layer, torch.zeros(steps, batch, 8))
    figure = told.plot()
    assert told.kernel in figure.get_suptitle()
    *fields, time = [axes for part in figure.subfigs for axes in part.axes]
    assert len(fields) == (2 if layer.bidirectional else 1)
    assert time.get_xlim() == (0, steps)
    figure.draw_without_rendering()


def test_other_calls_have_no_picture():
    x = torch.zeros(2, 3, 8)
    told = fastcells.explain(fastcells.MultiheadAttention(8, 2), x, x, x)
    with pytest.raises(ValueError) as raised:
        told.plot()
    assert str(raised.value) == (
        "explain: a picture shows the kernels of recurrent layers; this call is dot attention on "
        "'cpu dot attention'"
    )
