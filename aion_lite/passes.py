"""Which samples make up a step: pass after pass over all of them, each pass in its own order.

A function of (seed, step) alone, so a run can be resumed at any step. Imports torch alone.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def batch_rows(num_samples: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Rows of step ``step`` where every step takes ``batch_size`` of them."""
    return pass_rows(num_samples, step * batch_size, (step + 1) * batch_size, seed)


def pass_rows(num_samples: int, first: int, last: int, seed: int) -> Tensor:
    """Places ``first`` to ``last`` (excluded) of an endless row of passes; no pass is cut short."""
    rows = [torch.empty(0, dtype=torch.int64)]
    for epoch in range(first // num_samples, (last - 1) // num_samples + 1):
        begin, end = (max(row - epoch * num_samples, 0) for row in (first, last))
        rows.append(_order(num_samples, seed, epoch)[begin:end])
    return torch.cat(rows)


@functools.lru_cache(maxsize=4)  # the pass that ends and the one that begins, of two pools
def _order(num_samples: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(num_samples, generator=generator)
