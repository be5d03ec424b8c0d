"""Whether our own kernels run here, tried once. May import those kernels, on a GPU alone."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

WIDTHS = (16, 32, 64, 128)  # of a head
works: bool | None = None  # None: not tried yet


def serves(x: Tensor, width: int = WIDTHS[0]) -> bool:
    """Whether the kernels serve ``x``: half precision on a GPU, and heads of 16 to 128."""
    if not (x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and width in WIDTHS):
        return False
    if torch.compiler.is_compiling() and not torch.is_grad_enabled():
        return (
            False  # torch.compile does as much where nothing is kept, and cuDNN's attention is faster forward
        )
    if works is None and not torch.compiler.is_compiling():  # a compiled model is tried before (compiled.py)
        try_kernels(x.device, width)
    return bool(works)


def try_kernels(device: torch.device | str = "cuda", width: int = 64) -> None:
    """Build the kernels for heads of this width; a warning where Triton can't, and it goes without them.

    They are the very kernels that a model with such heads needs: none is built for the trial.
    """
    global works
    if works is not None:
        return
    options = {"device": device, "dtype": torch.bfloat16, "requires_grad": True}
    mask = torch.ones(1, 1, 128, 128, device=device, dtype=torch.bool)

    def run() -> None:
        with torch.enable_grad():
            weight = torch.ones(width, device=device)
            for seen in (None, mask):
                qkv = torch.ones(1, 128, 6 * width, **options)
                attend(qkv, None, weight, weight, seen, 2).sum().backward()
            both, down = torch.ones(1, 128, 128, **options), torch.ones(16, 64, **options)
            gated_down(both, down).sum().backward()

    try:
        from aion_lite.model import launch

        launch.build(run, device)
        run()
        works = True
    except Exception as error:  # no Triton, no C compiler, no headers of Python
        warnings.warn(f"The model is slower on {device}, Triton builds no kernel: {error!r}", stacklevel=2)
        works = False


def attend(
    q: Tensor, kv: Tensor | None, q_weight: Tensor, k_weight: Tensor, mask: Tensor | None, num_heads: int
) -> Tensor:
    """Attention of q (B, N, D) on kv (B, M, 2 D), or with kv None of the packed q, k, v (B, N, 3 D).

    Queries and keys of each head are normalised first. ``mask``: bool, broadcastable to (B, 1, N, M).
    """
    from aion_lite.model import attention_kernel

    return attention_kernel.attend(q, kv, q_weight, k_weight, mask, num_heads)[0]


def gated_down(both: Tensor, weight: Tensor) -> Tensor:
    """silu(gate) * up, times ``weight`` (D, F) -> (B, N, D); gate and up are the halves of ``both``."""
    from aion_lite.model import gate_kernel

    return gate_kernel.gated_down(both, weight.to(both.dtype))
