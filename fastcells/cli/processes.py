"""Other processes of this interpreter: the instruction set of the kernels is chosen once in each,
and whether the compiled module is loaded, too."""

from __future__ import annotations

import os
import re
import subprocess
import sys

__all__ = ["instruction_sets", "run_python"]

ISA_VARIABLE = "FASTCELLS_CPU_ISA"
TIMEOUT_S = 1800  # of a process that hangs; on a busy machine one that works takes minutes
_ASK = "from fastcells import _extension as e; e._C is None or e._C.instruction_set()"


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python arguments` with these variables in place of the ones that choose kernels here.

    Raises:
        subprocess.TimeoutExpired: it took longer than TIMEOUT_S.
    """
    variables = {name: value for name, value in os.environ.items() if name != ISA_VARIABLE}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        env={**variables, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def instruction_sets() -> list[str]:
    """Those that this processor has, the best first; none without compiled kernels."""
    told = run_python("-c", _ASK, **{ISA_VARIABLE: "?"}).stderr
    named = re.search(r"of this processor \((.+)\), got", told)
    return named.group(1).split(", ") if named else []
