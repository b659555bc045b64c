"""The kit for a GPU, without one: what it says of programs that fail, hang, or are not there."""

import json
import os
import stat
import sys
import time

import pytest

from benchmarks.gpu import fit, kit, status
from benchmarks.gpu.programs import run_program
from benchmarks.paths import RESULTS, ROOT

GOOD = '{"begin": 0, "case": "a"}\n{"case": "a", "ok": true, "error": 0.1, "bound": 1}'
BAD = '{"begin": 0, "case": "a"}\n{"case": "a", "ok": false, "error": 2, "bound": 1}'
# Case 1 takes the program with it; anew behind it, case 2 is right.
LOST = """
import os, sys
for number in range(int(os.environ["FASTCELLS_FIRST_CASE"]), 3):
    print('{"begin": %d, "case": "case %d"}' % (number, number), flush=True)
    if number == 1:
        sys.exit(3)
    print('{"case": "case %d", "ok": true, "error": 0, "bound": 1}' % number, flush=True)
"""


def write_program(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def python_program(path, source):
    return write_program(path, f"#!{sys.executable}\n{source}")


def says(path, words, code=0):
    return python_program(path, f"print({words!r})\nraise SystemExit({code})")


def in_time(seconds=20):
    return time.monotonic() + seconds


def test_a_program_that_is_right(tmp_path):
    result = run_program([str(says(tmp_path / "good", GOOD))], in_time())
    assert result["ok"] and result["cases"] == 1


def test_a_case_that_fails(tmp_path):
    result = run_program([str(says(tmp_path / "bad", BAD, code=1))], in_time())
    assert not result["ok"] and result["failed"] == 1 and result["error"] is None


def test_a_program_that_checks_nothing_is_not_right(tmp_path):
    assert not run_program([str(says(tmp_path / "empty", "words"))], in_time())["ok"]


def test_a_case_that_hangs_is_named_and_the_rest_goes_on(tmp_path):
    result = run_program([str(python_program(tmp_path / "lost", LOST))], in_time())
    assert [entry["case"] for entry in result["lost"]] == ["case 1"]
    assert [r["case"] for r in result["records"] if "ok" in r] == ["case 0", "case 2"]
    assert not result["ok"]


def test_a_program_that_does_not_end_is_killed(tmp_path):
    source = f"import time\nprint({GOOD!r}, flush=True)\ntime.sleep(60)"
    start = time.monotonic()
    result = run_program([str(python_program(tmp_path / "slow", source))], in_time(1))
    assert time.monotonic() - start < 20
    assert result["error"] == "out of time" and not result["ok"]


def run_kit(folder, programs, *arguments):
    code = kit.main(
        ["--output", str(folder), "--work", str(folder / "work"), "--programs", str(programs)]
        + ["--rehearse", "--stages", "kernels", "--seconds", "30", *arguments]
    )
    return code, json.loads((folder / "summary.json").read_text())


def test_every_program_of_cuda_kernels_is_in_the_kit():
    """All but those that run no kernel: their names are what the Makefile leaves out as well."""
    without_kernels = {"test_cuda_plan", "test_cuda_counts"}
    programs = {path.stem for path in (ROOT / "tests" / "cpp").rglob("test_cuda_*.cpp")}
    assert programs - without_kernels == set(kit.KERNEL_TESTS)


@pytest.mark.parametrize("sabotage", ["none", "broken", "removed", "hangs"])
def test_a_sabotage_shows_in_the_summary_and_the_exit_code(tmp_path, sabotage):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in kit.KERNEL_TESTS:
        says(programs / name, GOOD)
    victim = programs / kit.KERNEL_TESTS[2]
    if sabotage == "broken":
        says(victim, BAD, code=1)
    elif sabotage == "removed":
        victim.unlink()
    elif sabotage == "hangs":
        python_program(victim, "import time\ntime.sleep(60)")
    code, summary = run_kit(tmp_path / "out", programs, "--budget", "kernels=5")
    line = summary["stages"]["kernels"]
    assert (code == 0) == (sabotage == "none") == summary["ok"]
    assert ("FAILED" in line) == (victim.name in line) == (sabotage != "none")


def test_resume_leaves_out_what_is_whole(tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in kit.KERNEL_TESTS:
        says(programs / name, GOOD)
    assert run_kit(tmp_path / "out", programs)[0] == 0
    for name in kit.KERNEL_TESTS:
        (programs / name).unlink()  # would fail now
    assert run_kit(tmp_path / "out", programs, "--resume")[0] == 0
    assert run_kit(tmp_path / "out", programs)[0] == 1


# Stands for the tool: of the program that it is given it shows a case, or many if no short list is
# asked for.
SANITIZER = """
import os
for number in range(1 if os.environ.get("FASTCELLS_SHORT") else 100):
    print('{"begin": %d, "case": "case"}' % number)
    print('{"case": "case", "ok": true, "error": 0, "bound": 1}')
print("========= ERROR SUMMARY: 0 errors")
"""


def test_the_sanitizer_takes_the_short_list_of_every_program(tmp_path, monkeypatch):
    python_program(tmp_path / "compute-sanitizer", SANITIZER)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    options = kit.parse_arguments(["--output", str(tmp_path), "--programs", str(tmp_path)])
    record = kit.run_sanitizer(kit.Kit(options), in_time(60))
    assert record["ok"] and len(record["tools"]) == len(kit.SANITIZERS) * len(kit.KERNEL_TESTS)
    assert {facts["cases"] for facts in record["tools"].values()} == {1}


def attention_timing(way, us, extra=""):
    kernel = {"kernel": f"attention_{way}_kernel<float>", "blocks": 8, "us": us}
    shape = {"B": 1, "N": 2, "Tq": 64, "Tk": 64, "E": 64}
    facts = {"call": "dot", "dtype": "float32", "way": way, "with": extra, **shape}
    floor = {"floor_us": us / 4, "floor_by": "bytes", "share": 0.25}
    return {**facts, "us": us, **floor, "kernels": [kernel]}


def says_timings(path, records):
    lines = [{"begin": 0, "case": "dot"}, *records]
    return says(path, "\n".join(map(json.dumps, lines)))


def run_timings(folder, records):
    says_timings(folder / "attention", records)
    options = kit.parse_arguments(["--output", str(folder), "--programs", str(folder)])
    return kit.run_stage(kit.Kit(options), "attention_kernels")


def test_timings_of_attention_say_how_far_the_floor_is(tmp_path):
    found = [attention_timing("forward", 8.0), attention_timing("backward", 20.0)]
    record = run_timings(tmp_path, [*found, {"done": True}])
    assert record["ok"] and json.loads((tmp_path / "attention_kernels.json").read_text()) == record
    line = kit.line_of(record)
    assert "2 timed" in line and "forward 25% of the floor's speed" in line
    lines = "\n".join(status.attention_lines(record))
    assert "| 8.0 (25% of bytes) | 20.0 (25% of bytes) |" in lines
    assert "| `attention_backward_kernel<float>` | 1 | 20.0 |" in lines


def test_timings_that_the_time_did_not_suffice_for_are_no_fault_and_none_are(tmp_path):
    record = run_timings(tmp_path, [attention_timing("forward", 8.0, "causal"), {"done": False}])
    assert record["ok"] and "not all" in kit.line_of(record)
    assert "| causal | 8.0 (25% of bytes) | - |" in "\n".join(status.attention_lines(record))
    assert not run_timings(tmp_path, [{"done": False}])["ok"]
    lost = {"case": "dot", "ok": False, "fault": "a launch"}
    assert not run_timings(tmp_path, [attention_timing("forward", 8.0), lost])["ok"]


def test_a_budget_for_a_stage_that_is_none_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        kit.parse_arguments(["--output", str(tmp_path), "--budget", "kernel=5"])
    assert "there is no stage kernel" in capsys.readouterr().err


def test_the_status_page_is_what_the_results_say():
    assert status.main(["--check"]) == 0, "run `python -m benchmarks.gpu.status`"


def test_the_status_page_names_every_kernel():
    page = status.PAGE.read_text(encoding="utf-8")
    names = status.kernels_in_source()
    assert len(names) > 10 and all(f"`{name}`" in page for name in names)


def test_without_a_run_the_page_says_so(tmp_path):
    assert "not yet run on a GPU" in status.make_page(tmp_path)


def test_the_plans_table_is_fitted_to_the_results(capsys):
    newest = sorted(RESULTS.glob("nvidia-h200/*/sequence.json"))[-1]
    assert fit.main([str(newest)]) == 0
    assert "chosen over fastest 1.0" in capsys.readouterr().out


def test_the_page_compares_exchanges_where_both_were_timed():
    shape = {"cell": "lstm", "dtype": "float16", "way": "forward", "B": 16, "H": 512}
    cluster = {**shape, "tier": "cluster", "blocks": 8}
    records = [
        {**cluster, "exchange": "rows", "us_step": 3.0},
        {**cluster, "exchange": "lines", "us_step": 2.0},
        {**cluster, "H": 256, "exchange": "lines", "us_step": 1.0},
        {**shape, "tier": "grid", "blocks": 64, "us_step": 4.0},  # of results before there were two
    ]
    assert status.exchange_rows({"records": records}) == [
        ["cluster", "rows", 1, "1.000"],
        ["cluster", "lines", 2, "1.500"],
        ["grid", "counters", 1, "1.000"],
        ["grid", "packets", "not yet run on a GPU", "-"],
    ]
