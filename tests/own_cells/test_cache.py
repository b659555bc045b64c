"""The folder of compiled libraries, and what is told where there is no compiler."""

import multiprocessing
import os
import subprocess
import sys
import warnings

import pytest
import torch

import fastcells
from fastcells.equations import compiling
from fastcells.equations.cache import CacheError, folder, library


@pytest.fixture
def place(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTCELLS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cells"


def write(text):
    return lambda path: path.write_text(text)


def never(path):
    raise AssertionError("it was there")


def test_a_library_is_built_once_in_a_folder_of_the_users_own(place):
    path = library("cell", "key", write("one"))
    assert path.read_text() == "one" and path.parent == place
    assert place.stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o777 == 0o700
    assert library("cell", "key", never) == path
    assert library("cell", "other", write("two")) != path


@pytest.mark.parametrize("damage", ["bytes", "hash", "no hash", "writable", "link"])
def test_a_damaged_or_foreign_library_is_built_again(place, damage):
    path = library("cell", "key", write("one"))
    if damage == "bytes":
        path.write_text("ona")
    elif damage == "hash":
        path.with_suffix(".json").write_text("[]")
    elif damage == "no hash":
        path.with_suffix(".json").unlink()
    elif damage == "writable":
        path.chmod(0o722)
    else:
        path.rename(path.with_suffix(".elsewhere"))
        path.symlink_to(path.with_suffix(".elsewhere"))
    assert library("cell", "key", write("again")).read_text() == "again"
    assert not path.is_symlink()


def test_a_folder_that_others_may_enter_is_refused(place):
    folder().chmod(0o755)
    with pytest.raises(CacheError) as caught:
        library("cell", "key", never)
    assert str(caught.value) == (
        f"the cache {place} must be a folder of yours that nobody else may enter (chmod 700), its "
        f"owner is {os.getuid()} and its mode 755; set FASTCELLS_CACHE to another"
    )


def test_a_build_that_fails_leaves_nothing_to_load(place):
    def fails(path):
        path.write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        library("cell", "key", fails)
    assert [p for p in place.iterdir() if p.suffix != ".lock"] == []
    assert library("cell", "key", write("one")).read_text() == "one"


def slow_build(queue):
    def build(path):
        queue.put(os.getpid())
        path.write_text("one")

    library("cell", "key", build)


def test_processes_that_need_the_same_at_once_build_it_once(place):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=slow_build, args=(queue,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    queue.get(timeout=10)
    assert queue.empty()


def fresh_cell(name):
    def function(x, h, state, p):
        return torch.tanh(x.a + h.a)

    function.__name__ = name
    return fastcells.cell(gates="a")(function)


def run(made):
    layer, input = made(3, 4), torch.randn(2, 2, 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        output = layer(input)[0]
        layer(input)
    rnn = torch.nn.RNN(3, 4)
    rnn.load_state_dict(layer.state_dict())
    torch.testing.assert_close(output, rnn(input)[0])
    return layer, input, [str(w.message) for w in caught]


@pytest.fixture
def compiler(monkeypatch, place):
    """Sets CXX."""

    def choose(command):
        monkeypatch.setenv("CXX", command)
        compiling._compiler.cache_clear()

    yield choose
    compiling._compiler.cache_clear()


def test_without_a_compiler_there_is_one_warning_and_the_reference_runs(compiler):
    compiler("/nowhere/c++")
    layer, input, told = run(fresh_cell("nothing_compiles"))
    why = "no C++ compiler was found (/nowhere/c++): install g++ or clang++, or set CXX"
    assert told == [
        f"nothing_compiles: {why}. Until then it runs on the reference, in plain torch, slowly"
    ]
    explained = fastcells.explain(layer, input)
    assert explained.kernel == "reference" and explained.reason == why


def test_a_compiler_that_fails_is_quoted_and_its_file_kept(compiler, tmp_path, place, capfd):
    script = tmp_path / "c++"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && echo c 1 || { echo bad >&2; exit 1; }\n')
    script.chmod(0o700)
    compiler(str(script))
    _, _, told = run(fresh_cell("does_not_compile"))
    (kept,) = place.glob("*.cpp")
    assert told[0].startswith(
        f"does_not_compile: the compiler failed on {kept}, which is kept:\nbad\n"
    )
    assert "struct DoesNotCompile" in kept.read_text()
    assert capfd.readouterr().err == (
        "fastcells: compiling does_not_compile for float32, once ... failed\n"
    )


def test_a_library_of_other_headers_is_not_loaded(compiler, place, tmp_path):
    if not fastcells.is_compiled():
        pytest.skip("fastcells is not compiled")
    script = tmp_path / "c++"  # a compiler whose libraries hold no cell
    script.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo c 1 && exit\nfor o; do :; done; echo no > "$o"\n'
    )
    script.chmod(0o700)
    compiler(str(script))
    _, _, told = run(fresh_cell("is_no_library"))
    assert "cannot be loaded" in told[0]


def test_everything_runs_where_nothing_is_compiled():
    code = (
        "import torch, warnings; warnings.simplefilter('ignore'); import fastcells\n"
        "layer = fastcells.cells.coupled_lstm(3, 4)\n"
        "layer(torch.randn(2, 2, 3))[0].sum().backward()\n"
        "assert fastcells.explain(layer, torch.randn(2, 2, 3)).kernel == 'reference'\n"
    )
    environment = os.environ | {"FASTCELLS_DISABLE_EXTENSION": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=300)
