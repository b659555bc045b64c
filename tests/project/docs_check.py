"""Runs the ```python blocks of every document, and looks for relative links to nowhere.

The blocks of one file run in order, in one namespace and one process of their own, in an empty
folder. A block right after the line `<!-- docs-check: skip (reason) -->` is left out.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKIP = re.compile(r"<!--\s*docs-check:\s*skip\s*\((.+)\)\s*-->")
FENCE = re.compile(r"^(\s*)(```+|~~~+)\s*(\w*)")
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
TIMEOUT = 600
DOCUMENTS = ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/data/*.md")


def split(text):
    """(blocks, prose): python blocks as (first line, code), and the text with all code blanked."""
    blocks, prose = [], []
    fence, code, start, runs, previous = None, [], 0, False, ""
    for number, line in enumerate(text.splitlines(), 1):
        match = FENCE.match(line)
        if fence is None and match:
            indent, fence = match.group(1), match.group(2)
            code, start = [], number + 1
            runs = match.group(3) == "python" and not SKIP.search(previous)
        elif fence is not None and match and match.group(2) == fence and not match.group(3):
            if runs:
                blocks.append((start, "\n".join(code)))
            fence = None
        elif fence is not None:
            code.append(line.removeprefix(indent))
        else:
            prose.append((number, re.sub(r"`[^`]*`", "", line)))
        previous = line if line.strip() else previous
    return blocks, prose


def run_blocks(path):
    """In the child process: each block under the file's name, at the line where it stands."""
    namespace = {"__name__": "__main__"}
    blocks, _ = split(Path(path).read_text(encoding="utf-8"))
    for start, code in blocks:
        exec(compile("\n" * (start - 1) + code, path, "exec"), namespace)


def check_blocks(path):
    """(number of blocks, problems), from a child process that runs them."""
    blocks, _ = split(path.read_text(encoding="utf-8"))
    if not blocks:
        return 0, []
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "--run", str(path)],
            cwd=folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
        )
    if done.returncode == 0:
        return len(blocks), []
    lines = re.findall(rf'File "{re.escape(str(path))}", line (\d+)', done.stderr)
    place = f"{path}:{lines[-1] if lines else blocks[0][0]}"
    return len(blocks), [f"{place}: a code block fails\n{done.stdout}{done.stderr}"]


def check_links(path):
    """(number of relative links, problems)."""
    _, prose = split(path.read_text(encoding="utf-8"))
    count, problems = 0, []
    for number, line in prose:
        for target in LINK.findall(line):
            name = target.partition("#")[0]
            if not name or re.match(r"[a-z][a-z0-9+.-]*:", name):
                continue
            count += 1
            if not (path.parent / name).exists():
                problems.append(f"{path}:{number}: the link to {target} leads nowhere")
    return count, problems


def main():
    if sys.argv[1:2] == ["--run"]:
        run_blocks(sys.argv[2])
        return 0
    files = [path for pattern in DOCUMENTS for path in sorted(ROOT.glob(pattern))]
    blocks, links, problems = 0, 0, []
    for path in files:
        block_count, block_problems = check_blocks(path)
        link_count, link_problems = check_links(path)
        blocks, links = blocks + block_count, links + link_count
        problems += block_problems + link_problems
    for problem in problems:
        print(f"docs-check: {problem}", file=sys.stderr)
    print(f"docs-check: {len(files)} files, {blocks} code blocks run, {links} links, ", end="")
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
