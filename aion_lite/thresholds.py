"""Numbers to codes in one pass: a number's step is how many of a list of thresholds it reaches.

Any increasing function from float32 to steps is such a list, found by bisection over the floats themselves:
the codes are exactly the function's, whatever it computes on the way (a tanh, a log), and need none of it
again. On a GPU a Triton kernel reads each number once and writes each code once; elsewhere torch.bucketize
does it.

Imports torch and, on a GPU alone, the kernel beside it; knows nothing of what the numbers mean.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor


def first_where(holds: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Smallest float32 of low..high for which ``holds`` is true, element by element.

    ``holds`` takes float32 of low's shape; it is false up to some number, true from there on, true at high.
    """
    low, high = _rank(low), _rank(high)
    while bool((low < high).any()):
        middle = (low + high) >> 1  # rounds down, of negative sums too
        true = holds(_number(middle))
        low, high = torch.where(true, low, middle + 1), torch.where(true, middle, high)
    return _number(high)


def _rank(x: Tensor) -> Tensor:
    """float32 -> int64 in the same order, neighbours one apart; -0 comes just before +0."""
    bits = x.contiguous().view(torch.int32).long()
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _number(rank: Tensor) -> Tensor:
    return torch.where(rank < 0, rank ^ 0x7FFFFFFF, rank).int().view(torch.float32)


class Thresholds:
    """D channels' thresholds; numbers to codes with them, on the device they are on.

    Args:
        rows: D of them, each (K_c,) increasing float32. Channel c has K_c + 1 steps; its step is how many of
            its thresholds are <= x. A code holds all the steps: step_0 + (K_0 + 1) * step_1 + ...
        lowest, highest: what lies outside of them is refused, and so is NaN.
    """

    def __init__(self, rows: Sequence[Tensor], lowest: float = -math.inf, highest: float = math.inf):
        self.rows, self.lowest, self.highest = tuple(rows), lowest, highest
        self.device = rows[0].device
        sizes = torch.tensor([len(row) + 1 for row in rows])
        self.basis = (sizes.cumprod(0) // sizes).to(self.device)
        self.trees = torch.stack([_tree(row, int(sizes.max() - 1).bit_length()) for row in rows])

    def codes(self, x: Tensor) -> Tensor | None:
        """x (B, D, N) of any float dtype and strides -> codes (B, N) int64; None if any number is refused."""
        x = x.detach()
        if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            x = x.float()
        if x.is_cuda and (kernel := gpu_kernel(x.device)) is not None:
            return kernel.codes(x, self.trees, self.basis, self.lowest, self.highest)
        return self.plain_codes(x.float())

    def plain_codes(self, x: Tensor) -> Tensor | None:
        """The same from torch's own operations, for float32."""
        if not bool(((x >= self.lowest) & (x <= self.highest)).all()):
            return None
        steps = (torch.bucketize(x[:, c].contiguous(), row, right=True) for c, row in enumerate(self.rows))
        first, *others = (step * size for step, size in zip(steps, self.basis.tolist(), strict=True))
        return sum(others, first)


def _tree(row: Tensor, depth: int) -> Tensor:
    """(K,) -> (2**depth,): a binary search's tree, level by level from entry 1; NaN where there is nothing.

    A search goes from node i to 2 i, or to 2 i + 1 where x reaches the threshold; it ends at 2**depth + step.
    So laid out, what all searches read first lies together, and threads seldom wait for each other's reads.
    """
    padded = torch.full((2**depth - 1,), torch.nan, device=row.device)
    padded[: len(row)] = row
    levels = [padded[2**k - 1 :: 2 ** (k + 1)] for k in reversed(range(depth))]
    return torch.cat([padded.new_full((1,), torch.nan), *levels])


@functools.cache
def gpu_kernel(device: torch.device) -> ModuleType | None:
    """The kernel's module, tried once a device; None, with a warning, where Triton cannot build it."""
    try:
        from aion_lite import threshold_kernel

        trial = Thresholds([torch.zeros(1, device=device)])
        threshold_kernel.codes(torch.zeros(1, 1, 1, device=device), trial.trees, trial.basis, 0.0, 0.0)
    except Exception as error:  # no Triton, no C compiler, no headers of Python: the codes come all the same
        warnings.warn(f"Quantizers are slower on {device}, Triton builds no kernel: {error!r}", stacklevel=2)
        return None
    return threshold_kernel
