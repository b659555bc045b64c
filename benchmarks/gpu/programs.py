"""Carried programs: each says what it does in lines of JSON, and is gone on with behind a hang.

`tests/cpp/cases.h` numbers a program's cases; a case whose kernel hangs or is lost ends the
program, which then begins anew behind it.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time

HUNG, LOST = 3, 4  # exit codes of tests/card/launch.h
MOST_RESTARTS = 5


class Program:
    """A program under way, in a process group of its own, with its lines as they come."""

    def __init__(self, command, first_case, environment=None):
        extra = {"FASTCELLS_FIRST_CASE": str(first_case), "FASTCELLS_JSON": "1"}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **extra, **(environment or {})},
            start_new_session=True,
        )
        self.records, self.words = [], []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        """Take JSON lines as records, all others as words."""
        for line in self.process.stdout:
            try:
                self.records.append(json.loads(line))
            except ValueError:
                self.words.append(line.rstrip()[:300])

    def wait(self, until):
        """Return the exit code, None where the time is over and the program was killed."""
        try:
            code = self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(5)
        self.process.stdout.close()
        return code


def run_program(command, until, environment=None):
    """Run a program to its end, behind every case that takes it with it.

    Return {"program", "ok", "seconds", "records", "words", "lost", "error"}.
    """
    start, first = time.monotonic(), 0
    result = {"program": os.path.basename(command[0]), "records": [], "words": [], "lost": []}
    error = None
    for _ in range(MOST_RESTARTS + 1):
        try:
            program = Program(command, first, environment)
        except OSError as problem:
            error = str(problem)
            break
        code = program.wait(until)
        result["records"] += program.records
        result["words"] += program.words[-20:]
        begun = [record for record in program.records if "begin" in record]
        error = {None: "out of time", 0: None, 1: None}.get(code, f"exit code {code}")
        if code in (None, 0, 1) or not begun:
            break
        result["lost"].append({"case": begun[-1]["case"], "code": code})
        first = begun[-1]["begin"] + 1
    cases = [record for record in result["records"] if "ok" in record]
    bad = [record for record in cases if not record["ok"]]
    result.update(
        seconds=round(time.monotonic() - start, 1),
        cases=len(cases),
        failed=len(bad),
        error=error,
        ok=bool(result["records"]) and not (bad or error or result["lost"]) and code == 0,
    )
    return result


def run_programs(commands, until, environment=None):
    """Run several at once; return their results in the order of `commands`."""
    results = [None] * len(commands)

    def work(index):
        results[index] = run_program(commands[index], until, environment)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(commands))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
