# The plain functions of the compiled module. Its ops are under torch.ops.fastcells.

from typing import Any

from torch import Tensor, dtype

MOST_HEAD_WIDTH_CUDA: int  # of the CUDA kernels of dot products

def build_info() -> dict[str, object]: ...
def cells() -> dict[str, dict[str, int]]: ...
def explain_cpu(
    cell: str,
    directions: int,
    sizes: tuple[int, int, int, int],
    dtype: dtype,
    is_projected: bool,
    is_training: bool,
    is_step: bool,
) -> tuple[str, str, str]: ...
def explain_cuda(
    cell: str,
    directions: int,
    sizes: tuple[int, int, int, int],
    dtype: dtype,
    is_projected: bool,
    is_training: bool,
) -> tuple[str, str, str]: ...  # of a build with CUDA alone
def instruction_set() -> str: ...
def packed_bytes() -> int: ...
def stack_at_once(
    cell: str,
    directions: int,
    is_batch_first: bool,
    input: object,
    h: object,
    c: object,
    lengths: object,
    resets: object,
    parameters: dict[str, Any],
    names: list[list[str]],
    flat_weights: list[Any],
) -> tuple[Tensor, Tensor, Tensor | None] | None: ...
def step_at_once(
    cell: str, input: object, h: object, c: object, parameters: dict[str, Any]
) -> Tensor | tuple[Tensor, Tensor] | None: ...
