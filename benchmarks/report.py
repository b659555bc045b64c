"""The results as tables on a terminal."""

from rich.markup import escape
from rich.table import Table

from benchmarks.summary import (
    OURS,
    by_mode_and_group,
    case_label,
    digest,
    full_label,
    group_of,
    ratio_of,
)

MS_CAPTION = "Milliseconds a call, medians. A ratio above 1: the second is faster."
EFFICIENCY = (
    ("gflops", "GF/s", "{:.1f}"),
    ("fma_share", "% of\nFMA", "{:.0%}"),
    ("bandwidth_share", "% of\nreading", "{:.0%}"),
    ("floor_ms", "floor\nms", "{:.3g}"),
    ("floor_share", "% of\nfloor", "{:.0%}"),
)


def number(value, form="{:.2f}"):
    """Return the value as text, nothing for None."""
    return "" if value is None else form.format(value)


def milliseconds(record, name):
    """Return the median in ms, with what hinders it in its place."""
    timing = record["timings"].get(name)
    if timing:
        return f"{timing['median'] * 1e3:.3g}"
    return record["skipped"].get(name, "").partition(":")[0]


def names_of(records):
    """Return all variants, in the order in which they first come."""
    return list(dict.fromkeys(name for r in records for name in r["timings"]))


def columns_of(mode, records):
    """Return (title, style, text of a record) of every column of a Mode that is not empty."""

    def time_column(name):
        return name.replace(", ", ",\n"), "", lambda r: milliseconds(r, name)

    def ratio_column(ratio):
        return ratio.title, "bold", lambda r: number(ratio_of(r, ratio))

    def fact_column(key, title):
        return title, "", lambda r: number(r["facts"].get(key))

    def efficiency_column(key, title, form):
        return title, "", lambda r: number(r["efficiency"].get(OURS, {}).get(key), form)

    columns = [
        *(time_column(name) for name in names_of(records)),
        *(ratio_column(ratio) for ratio in (*mode.ratios, *mode.shares)),
        *(fact_column(key, title) for key, title in mode.facts.items()),
        *(efficiency_column(*column) for column in EFFICIENCY if mode.shows_efficiency),
    ]
    return [c for c in columns if any(c[2](record) for record in records)]


def group_heading(records):
    """Return what the titles of the groups are."""
    return "cell" if all("cell" in record["case"] for record in records) else "passes"


def make_table(title, mode, records):
    """Return the table of one Mode, as its records have it."""
    table = Table(title=title, caption=MS_CAPTION)
    table.add_column(group_heading(records))
    table.add_column("case", no_wrap=True)
    columns = columns_of(mode, records)
    for title, style, _ in columns:
        table.add_column(title, justify="right", style=style)
    previous = None
    for record in records:
        group = group_of(record)
        if previous not in (None, group):
            table.add_section()
        previous = group
        texts = (text(record) for _, _, text in columns)
        table.add_row(group, case_label(record), *texts)
    return table


def make_summary(records, modes):
    """Return geometric means and worst points, a row for each mode, cell and ratio."""
    table = Table(title="Geometric means and worst points")
    for title in ("mode", group_heading(records), "ratio"):
        table.add_column(title, no_wrap=title != "ratio")
    for title in ("cases", "mean", "worst"):
        table.add_column(title, justify="right")
    table.add_column("worst at")
    previous = None
    for (mode, title), group in by_mode_and_group(records).items():
        if previous not in (None, mode):
            table.add_section()
        previous = mode
        for ratio in modes[mode].ratios:
            found = digest(group, ratio)
            if found:
                table.add_row(
                    mode, title, ratio.title.replace("\n", " "), str(found.count),
                    number(found.mean), number(found.worst), found.worst_label,
                )  # fmt: skip
    return table


def make_target_table(records, targets):
    """Return what the ratios are to reach, and what they reached over the cases that were run."""
    table = Table(title="Targets")
    for title in ("of", "ratio", "cases", "mean", "worst", "reached", "worst at"):
        table.add_column(title, justify="right" if title in ("cases", "mean", "worst") else "left")
    for target in targets:
        group = [record for record in records if record["mode"] in target.modes]
        found = digest(group, target.ratio, full_label)
        if not found:
            continue
        is_reached = found.mean >= target.mean and found.worst >= target.worst
        worst = number(found.worst) + (f" (≥ {target.worst:g})" if target.worst else "")
        table.add_row(
            target.title, target.ratio.title.replace("\n", " "), str(found.count),
            f"{found.mean:.2f} (≥ {target.mean:g})", worst,
            "[green]yes[/]" if is_reached else "[bold red]no[/]", found.worst_label,
        )  # fmt: skip
    return table


def make_error_table(records):
    """Return the largest error of each variant, and why some were not timed."""
    worst, reasons = {}, {}
    for record in records:
        for name, error in record["errors"].items():
            worst[name] = max(error, worst.get(name, 0.0))
        for name, reason in record["skipped"].items():
            reasons.setdefault(name, set()).add(reason)
    table = Table(title="Largest error")
    for title in ("variant", "error", "not timed"):
        table.add_column(title, justify="right" if title == "error" else "left")
    for name in dict.fromkeys([*worst, *reasons]):
        missing = "; ".join(sorted(reasons.get(name, ())))
        table.add_row(name, number(worst.get(name), "{:.1e}"), escape(missing))
    return table


def make_ceiling_table(ceilings):
    """Return what the machine can do."""
    table = Table(title="Ceilings, measured", caption="Reading: GB/s a thread, by MiB a thread.")
    table.add_column("threads", justify="right")
    table.add_column("FMA GF/s", justify="right")
    sizes = sorted(next(iter(ceilings.read_gb_s.values())))
    for size in sizes:
        table.add_column(f"{size / 2**20:g}", justify="right")
    for threads, rate in ceilings.fma_gflops.items():
        reads = (f"{ceilings.read_gb_s[threads][size]:.0f}" for size in sizes)
        table.add_row(str(threads), f"{rate:.0f}", *reads)
    return table
