# The plain functions of the compiled module. Its ops are under torch.ops.fastcells.

from typing import Any

from torch import Tensor, dtype

CUDA_LAYOUT: int  # of the structs that compiled cells' CUDA kernels take
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
    has_rows: bool,
    weights: dtype | None = None,
    is_rowwise: bool = False,
) -> tuple[str, str, str]: ...
def explain_cuda(
    cell: str,
    directions: int,
    sizes: tuple[int, int, int, int],
    dtype: dtype,
    is_projected: bool,
    is_training: bool,
    is_rowwise: bool,
) -> tuple[str, str, str]: ...  # of a build with CUDA alone
def freeze(weight: Tensor, bias: Tensor | None, cell: str, frozen: bool) -> None: ...
def instruction_set() -> str: ...
def is_frozen(weight: Tensor) -> bool: ...
def packed_bytes() -> int: ...
def stack_at_once(
    cell: str,
    directions: int,
    parameters: dict[str, Any],
    names: list[list[str]],
    flat_weights: list[Any],
    dropout: float,
    recompute: bool,
    is_batch_first: bool,
    input: object,
    h: object,
    c: object,
    lengths: object,
    resets: object,
) -> tuple[Tensor, Tensor, Tensor | None] | None: ...
def packed_stack_at_once(
    cell: str,
    directions: int,
    parameters: dict[str, Any],
    names: list[list[str]],
    flat_weights: list[Any],
    dropout: float,
    recompute: bool,
    data: object,
    batch_sizes: object,
    sorted_indices: object,
    unsorted_indices: object,
    h: object,
    c: object,
) -> tuple[Tensor, Tensor, Tensor | None] | None: ...
def scan_at_once(
    a: object,
    b: object,
    h_0: object,
    lengths: object,
    resets: object,
    batch_first: object,
    reverse: object,
) -> Tensor | None: ...
def take_cell(entry: int) -> None: ...
def take_image(
    name: str, constants: dict[str, int], dtype: dtype, compute: int, image: bytes
) -> None: ...  # of a build with CUDA alone
def step_at_once(
    cell: str, input: object, h: object, c: object, parameters: dict[str, Any]
) -> Tensor | tuple[Tensor, Tensor] | None: ...
def dot_at_once(
    query: object,
    key: object,
    value: object,
    mask: object,
    key_lengths: object,
    return_weights: object,
    is_causal: object,
    dropout_p: object,
    scale: object,
    softcap: object,
) -> Tensor | tuple[Tensor, Tensor] | None: ...
def additive_at_once(
    query: object,
    key: object,
    value: object,
    scale: object,
    mask: object,
    key_lengths: object,
    return_weights: bool,
    dropout_p: object,
) -> Tensor | tuple[Tensor, Tensor] | None: ...
def multihead_at_once(
    query: object,
    key: object,
    value: object,
    padding: object,
    mask: object,
    parameters: dict[str, Any],
    out_parameters: dict[str, Any],
    bias_k: object,
    bias_v: object,
    embed_dim: int,
    heads: int,
    batch_first: bool,
    add_zero: bool,
    is_causal: bool,
    dropout_p: float,
    need_weights: bool,
    average_weights: bool,
) -> tuple[Tensor, Tensor | None] | None: ...
def self_attention_at_once(
    input: object,
    lengths: object,
    query_map: dict[str, Any],
    key_map: dict[str, Any],
    value_map: dict[str, Any],
    scale: object,
    activation: str,
    score: str,
    softcap: float | None,
    causal: bool,
    dropout_p: float,
    need_weights: bool,
) -> Tensor | tuple[Tensor, Tensor] | None: ...
