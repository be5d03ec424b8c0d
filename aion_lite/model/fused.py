"""Whether attention runs in our own kernels here, tried once. May import attention_kernel, on a GPU alone."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

WIDTHS = (16, 32, 64, 128)  # of a head
works: bool | None = None  # None: not tried yet


def serves(x: Tensor, width: int) -> bool:
    """Whether the kernels serve attention on ``x``: half precision on a GPU, heads of 16 to 128."""
    if not (x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and width in WIDTHS):
        return False
    if works is None and not torch.compiler.is_compiling():  # a compiled model is tried before (compiled.py)
        try_kernels(x.device, width)
    return bool(works)


def try_kernels(device: torch.device | str = "cuda", width: int = 64) -> None:
    """Build the kernels for heads of this width; a warning where Triton can't, and attention goes without.

    They are the very kernels that a model with such heads needs without a mask: none is built for the trial.
    """
    global works
    if works is not None:
        return
    try:
        qkv = torch.ones(1, 64, 6 * width, device=device, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.ones(width, device=device)
        with torch.enable_grad():
            attend(qkv, None, weight, weight, None, 2).sum().backward()
        works = True
    except Exception as error:  # no Triton, no C compiler, no headers of Python
        warnings.warn(f"Attention is slower on {device}, Triton builds no kernel: {error!r}", stacklevel=2)
        works = False


def attend(
    q: Tensor, kv: Tensor | None, q_weight: Tensor, k_weight: Tensor, mask: Tensor | None, num_heads: int
) -> Tensor:
    """Attention of q (B, N, D) on kv (B, M, 2 D), or with kv None of the packed q, k, v (B, N, 3 D).

    Queries and keys of each head are normalised first. ``mask``: bool, broadcastable to (B, 1, N, M).
    """
    from aion_lite.model import attention_kernel

    return attention_kernel.attend(q, kv, q_weight, k_weight, mask, num_heads)[0]
