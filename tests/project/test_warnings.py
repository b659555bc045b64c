"""Warnings that fastcells or its tests cause fail a test; those of torch do not, as its versions
differ in them (pyproject.toml: filterwarnings)."""

import warnings

import pytest


def warn_in(module):
    warnings.warn_explicit("planted", UserWarning, "file.py", 1, module=module)


@pytest.mark.parametrize(
    "module", ["fastcells", "fastcells.layers.recurrent", "tests.a", "problems"]
)
def test_a_warning_of_ours_is_an_error(module):
    with pytest.raises(UserWarning, match="planted"):
        warn_in(module)


@pytest.mark.filterwarnings("ignore:planted")
def test_a_test_may_let_one_through():
    warn_in("fastcells")


@pytest.mark.parametrize("module", ["torch.jit", "torch.testing._internal", "fastcellsx"])
def test_a_warning_of_others_is_none_of_ours(module):
    with warnings.catch_warnings(record=True) as caught:
        warn_in(module)
    assert [str(warning.message) for warning in caught] == ["planted"]


def test_a_warning_that_points_here_is_an_error():
    with pytest.raises(UserWarning, match="planted"):
        warnings.warn("planted", stacklevel=1)
