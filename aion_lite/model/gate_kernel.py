"""The GPU kernels of the gated feed-forward's second half: down(silu(gate) * up), with little kept.

The hidden values are made anew in the backward pass, in the one kernel that also writes the gradients of gate
and up side by side, as their common product wants them (torch.compile reads everything twice to put them
there). Imports Triton, so blocks.py imports it only where there is a GPU.

Shapes: B batch, N tokens, D width, F hidden width; ``both`` (B, N, 2 F) holds gate and up.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from aion_lite.model.launch import launch

BLOCK = 1024  # numbers at a time


@triton.jit
def _gate_forward(both, hidden, WIDTH, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < WIDTH
    gate = tl.load(both + row * 2 * WIDTH + i, mask=inside).to(tl.float32)
    up = tl.load(both + row * 2 * WIDTH + WIDTH + i, mask=inside).to(tl.float32)
    tl.store(
        hidden + row * WIDTH + i, (gate * tl.sigmoid(gate) * up).to(hidden.dtype.element_ty), mask=inside
    )


@triton.jit
def _gate_backward(both, grad, hidden, d_both, WIDTH, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < WIDTH
    dtype: tl.constexpr = hidden.dtype.element_ty
    gate = tl.load(both + row * 2 * WIDTH + i, mask=inside).to(tl.float32)
    up = tl.load(both + row * 2 * WIDTH + WIDTH + i, mask=inside).to(tl.float32)
    above = tl.load(grad + row * WIDTH + i, mask=inside).to(tl.float32)
    share = tl.sigmoid(gate)
    silu = gate * share
    tl.store(hidden + row * WIDTH + i, (silu * up).to(dtype), mask=inside)
    d_gate = above * up * (share + silu * (1 - share))
    tl.store(d_both + row * 2 * WIDTH + i, d_gate.to(dtype), mask=inside)
    tl.store(d_both + row * 2 * WIDTH + WIDTH + i, (above * silu).to(dtype), mask=inside)


def _sizes(both: Tensor) -> tuple[tuple[int, int], int]:
    """(programs by row and block, hidden width)."""
    width = both.shape[-1] // 2
    return (both.numel() // (2 * width), triton.cdiv(width, BLOCK)), width


@torch.library.custom_op("aion_lite::gated_down", mutates_args=())
def gated_down(both: Tensor, weight: Tensor) -> Tensor:
    """silu(gate) * up, times ``weight`` (D, F) -> (B, N, D); gate and up are the halves of ``both``."""
    both, (grid, width) = both.contiguous(), _sizes(both)
    hidden = both.new_empty(*both.shape[:-1], width)
    with torch.cuda.device_of(both):
        launch(_gate_forward, grid, both, hidden, width, BLOCK=BLOCK)
    return F.linear(hidden, weight)


@gated_down.register_fake
def _(both, weight):
    return both.new_empty(*both.shape[:-1], weight.shape[0])


@torch.library.custom_op("aion_lite::gated_down_backward", mutates_args=())
def gated_down_backward(grad: Tensor, both: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of both and weight."""
    both, (grid, width) = both.contiguous(), _sizes(both)
    # Of the precision of what comes in, whatever autocast may be set to in autograd's threads.
    with torch.cuda.device_of(both), torch.autocast(both.device.type, enabled=False):
        d_hidden, d_both = grad @ weight, torch.empty_like(both)
        hidden = torch.empty_like(d_hidden)
        launch(_gate_backward, grid, both, d_hidden, hidden, d_both, width, BLOCK=BLOCK)
        return d_both, grad.flatten(0, -2).T @ hidden.flatten(0, -2)


@gated_down_backward.register_fake
def _(grad, both, weight):
    return torch.empty_like(both), torch.empty_like(weight)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


gated_down.register_autograd(
    lambda ctx, grad: gated_down_backward(grad, *ctx.saved_tensors), setup_context=_keep
)
