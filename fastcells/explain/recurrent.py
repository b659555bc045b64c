"""What :func:`fastcells.explain` says of recurrent layers, and how an answer looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .. import _extension
from ..checks import recurrent as checks
from ..checks.packed import check_packed
from ..checks.tensors import check_kind
from ..functional.autocast import autocast_dtypes
from ..functional.routing import choose_route, needs_grad, takes_whole_rows
from ..ops.recurrent import is_frozen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CallSizes", "Explanation", "explain_recurrent"]


class CallSizes(NamedTuple):
    """Of a call of a recurrent layer: T, B, I of the first layer, H, D."""

    steps: int
    batch: int
    input: int
    hidden: int
    directions: int


@dataclass(frozen=True)
class Explanation:
    """The answer of :func:`explain`; `str()` gives it in a few lines."""

    #: "cpu sequence", "cpu step", "cpu stepwise", "cpu elementwise", "cpu rowwise",
    #: "cuda stepwise", "cuda rowwise", "cpu dot attention", "cpu additive attention", "cpu scan" or
    #: "reference"
    kernel: str
    cell: str  # or "dot attention", "additive attention", "linear scan"
    dtype: torch.dtype  # storage of the tensors, after autocast
    reason: str
    notes: tuple[str, ...]
    plan: str = ""  # instruction set, threads and blocks, of the first of several layers
    sizes: CallSizes | None = None  # None of attention and scans

    def __str__(self) -> str:
        lines = [f"{self.cell}, {self.dtype}: {self.kernel}", f"  why: {self.reason}"]
        lines += [f"  plan: {self.plan}"] if self.plan else []
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def plot(self) -> Figure:
        """A picture of the plan of a recurrent layer: who computes which rows and units in a step,
        and how time is cut; of several layers the first.

        Raises:
            ValueError: the call is not a recurrent layer's, or runs on the reference.
            ImportError: matplotlib is not installed.

        Example::

            fastcells.explain(layer, input).plot().savefig("plan.png")
        """
        from .picture import draw

        return draw(self)


#: What each engine does, in a line.
_ENGINES = {
    "cpu sequence": "all steps in one team of threads, on packed weights",
    "cpu step": "a step at a time, the weights read where they lie",
    "cuda sequence": "all steps in one kernel, W_hh on the chip",
    "cpu elementwise": "each lane, a unit of a row, walks through time with its state in registers",
    "cpu rowwise": "all steps in one team of threads, a row's gates together, on packed weights",
    "cuda rowwise": (
        "input product for all steps at once, then a matrix product and a kernel per step, a block "
        "a row"
    ),
    "cuda elementwise": "a thread a lane, which walks through time with its state in registers",
    "stepwise": (
        "input product for all steps at once, then a matrix product and a fused step kernel per "
        "step"
    ),
}


def explain_recurrent(
    layer: Any,
    input: Tensor | PackedSequence,
    hx: Tensor | tuple[Tensor, Tensor] | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> Explanation:
    if not isinstance(getattr(layer, "cell", None), str):
        raise TypeError(
            f"explain: layer must be a layer or cell of fastcells, got {type(layer).__name__}"
        )
    if isinstance(input, PackedSequence):
        check_packed(type(layer).__name__, input)
    elif isinstance(layer, nn.RNNCellBase):
        check_kind(type(layer).__name__, "input", input)
        checks.check_cell_input(type(layer).__name__, input, layer.weight_ih, layer.input_size)
    else:
        layer._check_call(input, lengths, resets)
    data = input.data if isinstance(input, PackedSequence) else input
    states = () if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
    names = _names_of(layer)
    route = choose_route((data, *states, *layer.parameters()), layer.cell, names)
    if isinstance(input, PackedSequence):
        is_packed = data.shape[0] != len(input.batch_sizes) * int(input.batch_sizes[0])
    else:
        is_packed = isinstance(layer, nn.RNNCellBase)
    is_projected = bool(getattr(layer, "proj_size", 0))
    state = states[0] if states else None
    dtypes = autocast_dtypes(layer.cell, data, state, is_projected, is_packed)
    device, dtype = data.device.type, data.dtype if dtypes is None else dtypes.storage
    sizes = _sizes_of(layer, input)
    if not route.is_kernel:
        steps = ("plain torch operations, step by step",)
        return Explanation("reference", layer.cell, dtype, route.reason, steps, sizes=sizes)
    engine, plan, why_not = "stepwise", "", ""
    if device in ("cpu", "cuda"):
        tensors = (data, *states, *layer.parameters())
        has_rows = lengths is not None or resets is not None
        engine, plan, why_not = _ask(
            device, layer, sizes, dtype, tensors, has_rows, takes_whole_rows(names)
        )
        if engine == "rowwise":
            has_second = is_projected or layer.cell == "gru_reset_before"
            plan = plan.replace("a barrier a step", _barriers_of_rows(names, plan, has_second))
    notes = [_ENGINES[engine] if engine == "stepwise" else _ENGINES[f"{device} {engine}"]]
    if why_not:
        notes.append(f"not the sequence engine: {why_not}")
    weights = getattr(layer, "weight_dtype", None)
    if weights is not None:
        notes.append(f"weights in {weights}, packed once; arithmetic and cell state in float32")
    elif dtype in (torch.float16, torch.bfloat16):
        notes.append("arithmetic and cell state in float32")
    if engine in ("sequence", "elementwise", "rowwise") and any(
        map(is_frozen, layer.parameters(recurse=False))
    ):
        notes.append("weights frozen: their packs are not hashed")
    if isinstance(input, PackedSequence):
        notes.append("the PackedSequence is padded first; lengths= saves both copies")
    kernel = f"{device} {engine}"
    return Explanation(kernel, layer.cell, dtype, route.reason, tuple(notes), plan, sizes)


def _barriers_of_rows(names: str, plan: str, has_second: bool) -> str:
    """Of a step of the row-wise engine on the CPU, whose threads wait for each other after each
    product and each pass over the row: csrc/recurrent/rowwise/cpu/kernels."""
    is_c_normalised = not {"norm_c", "norm_carried_c"}.isdisjoint(names.split())
    there, back = (3, 5) if is_c_normalised else (3 if has_second else 2, 3)
    is_training = "weight gradients" in plan
    return f"{there} barriers a step" + (f" and {back} on the way back" if is_training else "")


def _names_of(layer: Any) -> str:
    """Of the weights of one direction, and of what is drawn at a call."""
    if isinstance(layer, nn.RNNCellBase):
        return " ".join(dict(layer.named_parameters(recurse=False)))
    names = [name.removesuffix("_l0") for name in layer._all_weights[0]]
    is_drawn = layer.regularisation._replace(weight_dropout=0.0).is_at_work(layer.training)
    return " ".join(names + ["noise"] * is_drawn)


def _sizes_of(layer: Any, input: Tensor | PackedSequence) -> CallSizes:
    if isinstance(input, PackedSequence):
        steps, batch = input.batch_sizes.shape[0], int(input.batch_sizes[0])
    elif isinstance(layer, nn.RNNCellBase):
        steps, batch = 1, input.shape[0] if input.dim() == 2 else 1
    else:
        steps, batch = input.shape[:2] if input.dim() == 3 else (input.shape[0], 1)
        if getattr(layer, "batch_first", False) and input.dim() == 3:
            steps, batch = batch, steps
    directions = 2 if getattr(layer, "bidirectional", False) else 1
    return CallSizes(steps, batch, layer.input_size, layer.hidden_size, directions)


def _ask(
    device: str,
    layer: Any,
    sizes: CallSizes,
    dtype: torch.dtype,
    tensors: Sequence[Tensor],
    has_rows: bool,  # lengths or resets
    is_rowwise: bool,
) -> tuple[str, str, str]:
    """Engine, plan and why not a faster engine, of the (first) layer."""
    weights = getattr(layer, "weight_dtype", None)
    if weights is not None:  # beside narrow weights all is float32
        dtype = torch.float32
    question = (
        layer.cell,
        sizes.directions,
        tuple(sizes[:4]),
        dtype,
        bool(getattr(layer, "proj_size", 0)),
        needs_grad(tensors),
    )
    module: Any = _extension._C
    if device == "cuda":
        return module.explain_cuda(*question, is_rowwise)
    return module.explain_cpu(*question, has_rows, weights, is_rowwise)
