# The plain functions of the compiled module. Its ops are under torch.ops.fastcells.

from typing import Any

from torch import Tensor

def build_info() -> dict[str, object]: ...
def cells() -> dict[str, dict[str, int]]: ...
def explain_cpu(
    cell: str,
    directions: int,
    sizes: tuple[int, int, int, int],
    dtype: str,
    is_projected: bool,
    is_training: bool,
    is_step: bool,
) -> tuple[str, str, str]: ...
def instruction_set() -> str: ...
def packed_bytes() -> int: ...
def step_at_once(
    cell: str, input: object, h: object, c: object, parameters: dict[str, Any]
) -> Tensor | tuple[Tensor, Tensor] | None: ...
