"""Whether our own kernels run here, tried once a GPU. May import those kernels, on a GPU alone."""

from __future__ import annotations

import threading
import warnings

import torch
from torch import Tensor

WIDTHS = (16, 32, 64, 128)  # of a head
GATE = 0  # in place of a width: the gate's kernels
works: dict[tuple[int | None, int], bool] = {}  # (GPU, width) -> whether the kernels run there
_trying = threading.Lock()


def serves(x: Tensor, width: int = GATE) -> bool:
    """Whether the kernels serve ``x``: half precision on a GPU, and heads of 16 to 128 (or the gate)."""
    if not (x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and width in (GATE, *WIDTHS)):
        return False
    compiling = torch.compiler.is_compiling()
    if compiling and not torch.is_grad_enabled():
        return False  # there torch.compile does as much, and cuDNN's attention is the faster
    if not compiling:  # a compiled model is tried before (compiled.py)
        try_kernels(x.device, width)
    return works.get((x.device.index, width), False)


def try_kernels(device: torch.device, width: int = GATE) -> None:
    """Build the kernels for heads of this width, and the gate's; a warning where they don't run.

    They are the very kernels that a model with such heads needs: none is built for the trial.
    """

    def untried() -> list[int]:
        wanted = {width, GATE}.intersection((GATE, *WIDTHS))
        return sorted(w for w in wanted if (device.index, w) not in works)

    if not untried():
        return
    with _trying:
        widths, failed = untried(), None  # by now another thread may have tried
        try:
            from aion_lite.model import launch

            launch.build(lambda: [_launch_all(device, w) for w in widths], device)
        except Exception as error:  # no Triton, no C compiler, no headers of Python, a GPU too old
            failed = error
        for w in widths:
            try:
                _launch_all(device, w)
                works[device.index, w] = True
            except Exception as error:  # this width needs more shared memory than this GPU has
                works[device.index, w], failed = False, error
        if not all(works[device.index, w] for w in widths):
            message = f"The model is slower on {device}, Triton builds no kernel: {failed!r}"
            warnings.warn(message, stacklevel=2)


def _launch_all(device: torch.device, width: int) -> None:
    """Each kernel once, the backward ones by hand: autograd would launch them from a thread of its own."""
    from aion_lite.model import attention_kernel, gate_kernel

    like = {"device": device, "dtype": torch.bfloat16}
    if width == GATE:
        both, down = torch.ones(1, 128, 128, **like), torch.ones(16, 64, **like)
        out = gate_kernel.gated_down(both, down)
        gate_kernel.gated_down_backward(out, both, down)
        return
    qkv, weight = torch.ones(1, 128, 6 * width, **like), torch.ones(width, device=device)
    masks = (torch.ones(1, 1, n, 128, device=device, dtype=torch.bool) for n in (1, 128))
    for mask in (None, *masks):
        out, *kept = attention_kernel.attend(qkv, None, weight, weight, mask, 2)
        attention_kernel.attend_backward(out, out, *kept, qkv, None, weight, weight, mask, 2)


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
