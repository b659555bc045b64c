"""Random words that depend on a position alone, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["philox", "words_of_units"]


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): four
    32-bit words for each counter, held in int64, whose product wraps as the algorithm wants."""
    low = 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            ((second >> 32) & low) ^ c1 ^ k0,
            second & low,
            ((first >> 32) & low) ^ c3 ^ k1,
            first & low,
        )
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return c0, c1, c2, c3


def words_of_units(seed: Tensor, step: int, kind: int, batch: int, hidden: int) -> Tensor:
    """`[B, H]`: word u % 4 at counter (step, u // 4, 4 b + kind, 0), the seed (int64) as the key:
    csrc/recurrent/rowwise/noise.h."""
    blocks = (hidden + 3) // 4
    shape, device = (batch, blocks), seed.device
    block = torch.arange(blocks, device=device).expand(shape)
    row = (4 * torch.arange(batch, device=device)[:, None] + kind).expand(shape)
    zero = torch.zeros_like(block)
    key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
    words = torch.stack(philox((zero + step, block, row, zero), key), dim=-1)
    return words.flatten(-2)[..., :hidden]
