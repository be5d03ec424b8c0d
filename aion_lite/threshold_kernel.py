"""The GPU kernel of thresholds.py: numbers to codes, each number read once and each code written once.

Imports Triton, so thresholds.py imports it only where there is a GPU; knows nothing of quantizers.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # codes a program


@triton.jit
def _codes(
    x,
    trees,
    basis,
    codes,
    refused,
    total,
    n,
    stride_b,
    stride_d,
    stride_n,
    lowest,
    highest,
    D: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    lane = tl.arange(0, BLOCK)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    inside = start + lane < total
    # 64-bit sums once a program, 32-bit ones once a number.
    b = start // n
    place = (start - b * n).to(tl.int32) + lane
    at = x + b * stride_b + (place // n) * stride_b + (place % n) * stride_n
    code = tl.full([BLOCK], 0, tl.int64)
    least, most = tl.full([BLOCK], float("inf"), tl.float32), tl.full([BLOCK], float("-inf"), tl.float32)
    for d in tl.static_range(D):
        number = tl.load(at + d * stride_d, mask=inside, eviction_policy="evict_first").to(tl.float32)
        least = tl.minimum(least, number, propagate_nan=tl.PropagateNan.ALL)
        most = tl.maximum(most, number, propagate_nan=tl.PropagateNan.ALL)
        node = tl.full([BLOCK], 1, tl.int32)
        for _ in tl.static_range(DEPTH):
            reached = number >= tl.load(trees + (d << DEPTH) + node)
            node = 2 * node + reached.to(tl.int32)
        code += (node - (1 << DEPTH)).to(tl.int64) * tl.load(basis + d)
    tl.store(codes + start + lane, code, mask=inside)
    good = (least >= lowest) & (most <= highest)  # false of NaN
    tl.store(refused + tl.full([BLOCK], 0, tl.int32), 1, mask=inside & (good == 0))


def codes(x: Tensor, trees: Tensor, basis: Tensor, lowest: float, highest: float) -> Tensor | None:
    """x (B, D, N), trees (D, 2**depth), basis (D,) -> (B, N) int64; None if a number is outside or NaN."""
    B, D, N = x.shape
    out = torch.empty(B, N, dtype=torch.int64, device=x.device)
    if out.numel() == 0:
        return out
    # Host memory that the kernel writes to only on a bad number: nothing to clear or copy for a good one.
    refused = torch.zeros(1, dtype=torch.int32, pin_memory=x.is_cuda)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        _codes[(triton.cdiv(B * N, BLOCK),)](
            x, trees, basis, out, refused, B * N, N, *x.stride(), lowest, highest,
            D=D, DEPTH=trees.shape[1].bit_length() - 1, BLOCK=BLOCK,
        )  # fmt: skip
        if x.is_cuda:
            torch.cuda.current_stream().synchronize()
    return None if refused.item() else out
