"""What a recurrent layer refuses, before any kernel runs: see :mod:`fastcells.checks`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .tensors import FLOATING, can_be_looked_at, check_kind, check_mask

__all__ = [
    "check_cell_hidden",
    "check_cell_input",
    "check_function",
    "check_input",
    "check_lengths",
    "check_range_of_lengths",
    "check_resets",
    "check_state",
    "split_weights",
]

CAST_BY_AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)


def _is_cast_by_autocast(*tensors: Tensor) -> bool:
    """Whether autocast is on and brings these tensors to one dtype."""
    return torch._C._is_any_autocast_enabled() and all(
        tensor.dtype in CAST_BY_AUTOCAST for tensor in tensors
    )


def check_input(name: str, input: Tensor, weight: Tensor) -> None:
    """Dtype, device and width of an input against w_ih; the dtype is autocast's affair, if on."""
    if weight.dtype not in FLOATING:
        raise TypeError(
            f"{name}: weights must be float32, float64, float16 or bfloat16, got {weight.dtype}"
        )
    if input.dtype != weight.dtype and not _is_cast_by_autocast(input, weight):
        if torch._C._is_any_autocast_enabled() and input.dtype in FLOATING:
            raise RuntimeError(
                "Input and parameter tensors are not the same dtype, found input tensor with "
                f"{input.dtype} and parameter tensor with {weight.dtype}: autocast leaves "
                "torch.float64 as it is. Convert one of them with .to(...)"
            )
        raise ValueError(
            f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({input.dtype})"
        )
    if input.device != weight.device:
        raise RuntimeError(
            "Input and parameter tensors are not at the same device, found input tensor at "
            f"{input.device} and parameter tensor at {weight.device}"
        )


def check_width(input: Tensor, input_size: int) -> None:
    if input.shape[-1] != input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {input_size}, got "
            f"{input.shape[-1]}"
        )


def check_state_fits(state: Tensor, input: Tensor) -> None:
    """Device and dtype of a state against the input's."""
    if state.device != input.device:
        raise RuntimeError(
            "Input and hidden tensors are not at the same device, found input tensor at "
            f"{input.device} and hidden tensor at {state.device}"
        )
    if state.dtype != input.dtype and not _is_cast_by_autocast(state, input):
        raise RuntimeError(
            "Input and hidden tensors are not the same dtype, found input tensor with "
            f"{input.dtype} and hidden tensor with {state.dtype}"
        )


def check_pair(name: str, hx: object) -> None:
    """hx of an LSTM: two tensors."""
    if not isinstance(hx, tuple | list) or len(hx) != 2:
        came = type(hx).__name__
        if isinstance(hx, tuple | list):
            came += f" of {len(hx)}"
        raise TypeError(f"{name}: hx must be a tuple (h_0, c_0) of two tensors, got {came}")
    for what, state in zip(("h_0", "c_0"), hx, strict=True):
        check_kind(name, what, state)


def check_ranks(states: Sequence[Tensor], is_batched: bool) -> None:
    """Rank of the states of a batched (3-D) or unbatched (2-D) input."""
    rank = 3 if is_batched else 2
    if all(state.dim() == rank for state in states):
        return
    kind = "batched 3-D" if is_batched else "unbatched 2-D"
    if len(states) == 1:
        raise RuntimeError(
            f"For {kind} input, hx should also be {rank}-D but got {states[0].dim()}-D tensor"
        )
    raise RuntimeError(
        f"For {kind} input, hx and cx should also be {rank}-D but got "
        f"({states[0].dim()}-D, {states[1].dim()}-D) tensors"
    )


def check_state(state: Tensor, expected: tuple[int, ...], input: Tensor, place: str = "") -> None:
    """Shape, device and dtype of one state; `place` is "[0]" or "[1]" for an LSTM."""
    if tuple(state.shape) != expected:
        raise RuntimeError(f"Expected hidden{place} size {expected}, got {list(state.shape)}")
    check_state_fits(state, input)


def check_lengths(name: str, lengths: object, input: Tensor, batch: int | None) -> None:
    """Steps of each row: int64 `[B]` beside a batch, `[]` beside an unbatched input."""
    names, shape = ("()", ()) if batch is None else ("(B,)", (batch,))
    check_mask(name, "lengths", lengths, torch.int64, names, shape, input.device)


def check_resets(name: str, resets: object, input: Tensor) -> None:
    """Boundaries: bool, laid out like the input without its last dimension."""
    shape = tuple(input.shape[:-1])
    names = "(T,)" if input.dim() == 2 else "like the input's first two dimensions"
    check_mask(name, "resets", resets, torch.bool, names, shape, input.device)


def check_range_of_lengths(lengths: Tensor | None, steps: int) -> None:
    """Values in 0 .. T, where they can be looked at; the ops check theirs."""
    if lengths is None or lengths.numel() == 0 or not can_be_looked_at(lengths):
        return
    low, high = int(lengths.min()), int(lengths.max())
    if low < 0 or high > steps:
        raise ValueError(f"lengths must lie in 0 .. T = {steps}, got values from {low} to {high}")


def check_cell_input(name: str, input: Tensor, weight: Tensor, input_size: int) -> None:
    """Rank, width, dtype and device of a cell's input."""
    check_kind(name, "input", input)
    if input.dim() not in (1, 2):
        raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
    check_input(name, input, weight)
    if input.shape[-1] != input_size:
        raise RuntimeError(
            f"input has inconsistent input_size: got {input.shape[-1]} expected {input_size}"
        )


def check_cell_hidden(
    name: str, state: Tensor, input: Tensor, hidden_size: int, index: int, what: str
) -> None:
    """Rank, batch, width, dtype and device of state number `index` of a cell."""
    check_kind(name, what, state)
    if state.dim() not in (1, 2):
        raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {state.dim()}D instead")
    if state.dim() != input.dim():
        raise RuntimeError(
            f"{name}: {what} must be {input.dim()}-D like the input, got {state.dim()}-D"
        )
    if input.dim() == 2 and input.shape[0] != state.shape[0]:
        raise RuntimeError(
            f"Input batch size {input.shape[0]} doesn't match hidden{index} batch size "
            f"{state.shape[0]}"
        )
    if state.shape[-1] != hidden_size:
        raise RuntimeError(
            f"hidden{index} has inconsistent hidden_size: got {state.shape[-1]}, expected "
            f"{hidden_size}"
        )
    check_state_fits(state, input)


#: The weights of a direction in torch.nn's order, by how many a caller gives.
_TORCH_NAMES = {
    2: "weight_ih weight_hh",
    3: "weight_ih weight_hh weight_hr",
    4: "weight_ih weight_hh bias_ih bias_hh",
    5: "weight_ih weight_hh bias_ih bias_hh weight_hr",
}


def split_weights(
    name: str, weights: Sequence[Tensor], num_layers: int, directions: int
) -> tuple[list[Sequence[Tensor]], str]:
    """The weights of each layer, and what each of one direction's is, in torch.nn's order."""
    if not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(f"{name}: num_layers must be a positive int, got {num_layers!r}")
    for index, weight in enumerate(weights):
        check_kind(name, f"weights[{index}]", weight)
    count, rest = divmod(len(weights), num_layers)
    if rest:
        raise ValueError(
            f"{name}: weights must hold the same number of tensors for each of num_layers = "
            f"{num_layers} layers, got {len(weights)} tensors"
        )
    of_one, rest = divmod(count, directions)
    if rest or of_one not in _TORCH_NAMES:
        raise ValueError(
            f"{name}: weights must hold w_ih, w_hh[, b_ih, b_hh][, w_hr] for each of {directions} "
            f"directions, got {count} tensors in a layer"
        )
    return [weights[i * count : (i + 1) * count] for i in range(num_layers)], _TORCH_NAMES[of_one]


def check_function(name: str, **tensors: Tensor | None) -> None:
    """The tensors that a function was given, but for its weights: None where one is absent."""
    for what, tensor in tensors.items():
        if tensor is not None or what == "input":
            check_kind(name, what, tensor)
