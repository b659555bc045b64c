"""Weights that do not fit an elementwise cell: what the op says."""

import re

import pytest
import torch

from fastcells.ops import recurrent as ops

ELEMENTWISE = {
    "of_other_names": (
        "diagonal_gru", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"],
        [(18, 3), (18,), (18,), (18,)], ValueError,
        "names of a diagonal_gru must be weight_ih, weight_hh and, or not, bias_ih, got weight_ih, "
        "weight_hh, bias_ih, bias_hh",
    ),
    "without_weight_hh": (
        "indrnn_tanh", ["weight_ih"], [(6, 3)], ValueError,
        "names of a indrnn_tanh must be weight_ih, weight_hh and, or not, bias_ih, got weight_ih",
    ),
    "with_weight_hh": (
        "min_gru", ["weight_ih", "weight_hh"], [(12, 3), (6,)], ValueError,
        "names of a min_gru must be weight_ih and, or not, bias_ih, got weight_ih, weight_hh",
    ),
    "skip_scale": (
        "sru_skip", ["weight_ih", "weight_hh", "skip_scale"], [(24, 3), (12,), (6,)], ValueError,
        "names of a sru_skip must be weight_ih, weight_hh and, or not, bias_ih, got weight_ih, "
        "weight_hh, skip_scale",
    ),
    "matrix": (
        "indrnn_relu", ["weight_ih", "weight_hh"], [(6, 3), (6, 6)], RuntimeError,
        "weight_hh must have shape (V*H,) = (6,), got (6, 6)",
    ),
    "rows": (
        "min_lstm", ["weight_ih"], [(16, 3)], RuntimeError,
        "weight_ih of a min_lstm must have 3*H rows, got 16",
    ),
    "bias": (
        "qrnn", ["weight_ih", "bias_ih"], [(18, 3), (6,)], RuntimeError,
        "bias_ih must have shape (G*H,) = (18,), got (6,)",
    ),
    "scale": (
        "sru", ["weight_ih", "weight_hh", "skip_scale"], [(9, 3), (6,), (2,)], RuntimeError,
        "skip_scale must have shape (H,) = (3,), got (2,)",
    ),
    "columns": (
        "rg_lru", ["weight_ih", "weight_hh"], [(12, 3), (6,)], RuntimeError,
        "a rg_lru reads its input as it is, which must have H = 6 columns, got 3",
    ),
    "dense_with_scale": (
        "gru", ["weight_ih", "weight_hh", "skip_scale"], [(18, 3), (18, 6), (6,)], ValueError,
        "a gru has no skip_scale, which is of a cell that reads its input as it is",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_weights_of_elementwise_cells_that_do_not_fit_are_refused(case):
    cell, names, shapes, error, text = case
    weights = [torch.zeros(shape) for shape in shapes]
    whole = f"fastcells::recurrent_forward: {text}"
    with pytest.raises(error, match=f"^{re.escape(whole)}$"):
        ops.recurrent_forward(
            cell, 1, torch.zeros(5, 4, 3), None, None, weights, " ".join(names), None, None, "cells"
        )
