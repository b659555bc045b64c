"""What the programs say that time kernels without torch: build/gpu/sequence, build/gpu/attention.

A line of JSON for each timing, as the heads of benchmarks/gpu/sequence.cu and attention.cu have it:

    sequence   {"cell", "dtype", "way", "B", "H", "tier", "exchange", ..., "us_step", "plan"}
    attention  {"call", "dtype", "way", "with", "B", "N", "Tq", "Tk", "E", "us", "floor_us",
                "floor_by", "share", "kernels": [{"kernel", "blocks", "us"}, ...]}

and {"done": false} at the end where there was no time for all.
"""

from benchmarks.summary import geometric_mean

WAYS = ("forward", "backward")


def timings_in(records):
    """Return the lines that are timings."""
    return [r for r in records if "us" in r or "us_step" in r]


def line_of(records):
    """Return how much was timed, and how near to the floor where there is one, in words."""
    found = timings_in(records)
    words = [f"{len(found)} timed"]
    for way in WAYS:
        shares = [r["share"] for r in found if "share" in r and r["way"] == way]
        if shares:
            words.append(f"{way} {geometric_mean(shares):.0%} of the floor's speed")
    if {"done": True} not in records:
        words.append("not all")
    return ", ".join(words)


def attention_rows(records):
    """Return a row for each call: microseconds forward and back, with the share of the floor."""
    calls = {}
    for r in timings_in(records):
        key = tuple(r[name] for name in ("call", "dtype", "B", "N", "Tq", "Tk", "E", "with"))
        calls.setdefault(key, {})[r["way"]] = r
    rows = []
    for (*shape, extra), ways in calls.items():
        rows.append([*shape, extra or "-", *(in_words(ways.get(way)) for way in WAYS)])
    return rows


def in_words(record):
    """Return a time and what of its floor it has."""
    if record is None:
        return "-"
    return f"{record['us']:.1f} ({record['share']:.0%} of {record['floor_by']})"


def kernel_rows(records):
    """Return a row for each instance: how often it was timed, and where it took longest."""
    timed = {}
    for r in timings_in(records):
        for entry in r["kernels"]:
            timed.setdefault(entry["kernel"], []).append((entry["us"], r))
    rows = []
    for name, entries in sorted(timed.items()):
        us, r = max(entries, key=lambda entry: entry[0])
        shape = f"B={r['B']} N={r['N']} Tq={r['Tq']} Tk={r['Tk']} E={r['E']} {r['with']}".strip()
        rows.append([f"`{name}`", len(entries), f"{us:.1f}", shape])
    return rows
