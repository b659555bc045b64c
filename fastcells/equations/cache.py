"""Compiled libraries on disk: found by content, built once, loaded only where they can be trusted.

A library is `<cell>-<key>.so` in the folder `cells` of the cache, and beside it a `.json` with the
SHA-256 of its bytes. The folder and what is in it are the user's own (mode 700); anything else is
not loaded. What is written goes under another name first and is renamed, under a lock of the key:
processes that need the same library at once build it once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "CacheError", "folder", "hash_of_files", "library", "told"]

CACHE_VARIABLE = "FASTCELLS_CACHE"


class CacheError(OSError):
    """The cache cannot be used, and why."""


def folder() -> Path:
    """The folder of the libraries, made if need be. Raises CacheError where it is not the user's
    own."""
    wish = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(wish) if wish else Path(home) / "fastcells"
    path = root / "cells"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(path)
    except (OSError, RuntimeError) as error:
        raise CacheError(
            f"the cache {path} cannot be made ({error}); set {CACHE_VARIABLE}"
        ) from None
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise CacheError(
            f"the cache {path} must be a folder of yours that nobody else may enter (chmod 700), "
            f"its owner is {found.st_uid} and its mode {stat.S_IMODE(found.st_mode):o}; set "
            f"{CACHE_VARIABLE} to another"
        )
    return path


def library(name: str, key: str, build: Callable[[Path], None], suffix: str = ".so") -> Path:
    """The library of that name and key, or the image of a GPU's kernels: the one that is there, or
    what `build` writes to the path it is given. One that is damaged, or somebody else's, is built
    again."""
    path = folder() / f"{name}-{key}{suffix}"
    if _is_sound(path):
        return path
    with _lock(path.with_suffix(".lock")):
        if _is_sound(path):
            return path
        new = path.with_suffix(f".{os.getpid()}.new")
        try:
            build(new)
            new.chmod(0o700)
            told = {"sha256": _hash(new), "name": name, "key": key}
            _write(path.with_suffix(".json"), json.dumps(told))
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    return path


def _write(path: Path, text: str) -> None:
    new = path.with_suffix(f".{os.getpid()}.json.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_sound(path: Path) -> bool:
    """Whether a library is there, the user's own, and what was written."""
    try:
        for file in (path, path.with_suffix(".json")):
            found = os.lstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                return False
            if found.st_mode & 0o022:
                return False
        told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return told["sha256"] == _hash(path)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@cache
def hash_of_files(folder: Path, pattern: str) -> str:
    """Of the files of a folder and below it, their names and contents; read once."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob(pattern)):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


@contextmanager
def told(what: str) -> Iterator[None]:
    """A line on stderr while a cell is compiled: how long it took, or that it failed."""
    start = time.monotonic()
    print(f"fastcells: compiling {what}, once ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException as error:
        is_late = isinstance(error, subprocess.TimeoutExpired)
        print(" not done" if is_late else " failed", file=sys.stderr)
        raise
    print(f" {time.monotonic() - start:.1f} s", file=sys.stderr)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Waits for whoever holds it; ends with the process that does."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
