"""The pictures of the site: what they show is what the results say."""

import pytest

pytest.importorskip("matplotlib")

from benchmarks import plots
from benchmarks.paths import RESULTS
from benchmarks.readme_table import newest_results
from benchmarks.summary import VS_BEST, VS_TORCH, by_mode_and_group, digest, geometric_mean


def test_the_means_of_the_recurrent_picture_are_those_of_the_readme():
    results = newest_results(RESULTS)
    rows = plots.recurrent_rows(results)
    for (mode, title), records in by_mode_and_group(results["records"]).items():
        if mode in ("inference", "training"):
            for values, ratio in zip(rows[f"{title}\n{mode}"], (VS_TORCH, VS_BEST), strict=True):
                found = digest(records, ratio)
                assert len(values) == found.count
                assert geometric_mean(values) == pytest.approx(found.mean)


@pytest.mark.parametrize("plot", plots.PLOTS, ids=lambda plot: plot.name)
def test_every_picture_has_rows_of_its_series(plot):
    _, results = plots.newest(plot.results)
    rows = plot.rows(results)
    assert rows
    assert all(len(values) == len(plot.series) and all(values) for values in rows.values())
    assert results.get("date", "") in plots.footer(results)


def test_the_newest_results_are_taken_by_their_date(tmp_path):
    for name in (
        "b/2026-01-02-narrow.json",
        "a/2026-03-04-narrow.json",
        "c/2025-12-31-narrow.json",
    ):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(f'{{"name": "{name}"}}', encoding="utf-8")
    assert plots.newest("*/*-narrow.json", tmp_path)[1]["name"].startswith("a/")
    with pytest.raises(SystemExit, match="there is no"):
        plots.newest("*/*-scan.json", tmp_path)


def test_a_picture_is_drawn_for_a_light_and_for_a_dark_page(tmp_path):
    plots.draw(plots.PLOTS[0], tmp_path)
    texts = [path.read_text(encoding="utf-8") for path in sorted(tmp_path.iterdir())]
    assert len(texts) == 2 and texts[0] != texts[1]
