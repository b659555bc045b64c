"""Builds the packages, and tries the wheel where torch alone is installed.

    packages.py build           sdist and wheel into dist/, checked by twine; auditwheel's verdict
    packages.py check TORCH     a virtual environment with TORCH ("torch==2.13.0") and the wheel

The wheel is built from the unpacked sdist, which so proves to be complete, against the torch of
this interpreter.
"""

import email
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIST, CLEAN = ROOT / "dist", ROOT / "build" / "wheel-check"
#: Files that the wheel must have, beside the Python files.
NEEDED = (
    r"fastcells/_C\..*\.so", r"fastcells/_C\.pyi", r"fastcells/py\.typed",
    r"fastcells/_build_info\.json", r"fastcells/include/recurrent/cells/gru\.h",
    r"fastcells/cli/__init__\.py", r"fastcells-.*/entry_points\.txt", r"fastcells-.*/LICENSE",
)  # fmt: skip
#: What must have stayed behind.
FOREIGN = r"(tests|benchmarks|examples|csrc|build)/|.*\.(o|cpp|cu)$"


def run(*command, **options):
    """The command, whose output goes to the terminal; ends this program where it fails."""
    print("$", *command, flush=True)
    code = subprocess.run([str(word) for word in command], **options).returncode
    if code != 0:
        raise SystemExit(f"packages: exit code {code}")


def read_version():
    text = (ROOT / "fastcells" / "_version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


def find_tag_fault(tags, version):
    """Why a commit with these tags must not be packaged as `version`, or None."""
    releases = [tag for tag in tags if re.match(r"v\d", tag)]
    if releases and f"v{version}" not in releases:
        return (
            f"packages: the commit is tagged {', '.join(releases)} and fastcells/_version.py says "
            f"{version}: make them agree"
        )
    return None


def find_content_faults(names):
    """What a wheel with files of these names lacks or should not have."""
    missing = [pattern for pattern in NEEDED if not any(re.fullmatch(pattern, n) for n in names)]
    foreign = [name for name in names if re.match(FOREIGN, name)]
    return [f"packages: the wheel lacks {pattern}" for pattern in missing] + [
        f"packages: the wheel should not have {name}" for name in foreign
    ]


def find_wheel():
    wheels = sorted(DIST.glob(f"fastcells-{read_version()}-*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"packages: {len(wheels)} wheels of this version in {DIST}: `make wheel`")
    return wheels[0]


def build():
    version = read_version()
    tags = subprocess.run(["git", "tag", "--points-at", "HEAD"], cwd=ROOT, capture_output=True)
    fault = find_tag_fault(tags.stdout.decode().split(), version)
    if fault:
        raise SystemExit(fault)
    for old in DIST.glob("fastcells-*"):
        old.unlink()
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, ROOT, cwd=DIST.parent)
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.glob("fastcells-*")))
    wheel = find_wheel()
    with zipfile.ZipFile(wheel) as archive:
        faults = find_content_faults(archive.namelist())
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        told = email.message_from_bytes(archive.read(metadata))["Version"]
    if told != version:
        faults.append(f"packages: the wheel's version is {told}, _version.py says {version}")
    if faults:
        raise SystemExit("\n".join(faults))
    run(sys.executable, "-m", "auditwheel", "show", wheel)


def check(torch):
    wheel = find_wheel()
    print(f"packages: {torch} and {wheel.name} alone in {CLEAN}", flush=True)
    venv.create(CLEAN, clear=True, with_pip=True)
    python = CLEAN / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet")
    run(*pip, torch, wheel)
    with tempfile.TemporaryDirectory() as elsewhere:  # where no checkout can be imported
        script = "import fastcells as f; assert f.is_compiled(); print(f._extension.include_dir())"
        run(python, "-c", script, cwd=elsewhere)
        run(*pip, f"fastcells[cli] @ {wheel.as_uri()}")
        run(python, "-m", "fastcells", "check", cwd=elsewhere)


if __name__ == "__main__":
    if sys.argv[1:] == ["build"]:
        build()
    elif sys.argv[1:2] == ["check"] and len(sys.argv) == 3:
        check(sys.argv[2])
    else:
        raise SystemExit(__doc__)
