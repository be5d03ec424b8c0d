"""The GPU kernel of blocks.py: attention with normalised queries and keys, for keys that fit on the chip.

A program has one head of one sample. It reads queries, keys and values once, normalises them, and in the
backward pass computes the scores anew, so nothing but the output and one number a query is kept. Imports
Triton, so blocks.py imports it only where there is a GPU.

Shapes: B batch, H heads, N queries, M keys, E width of a head.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_KEYS = 256
FORWARD = (64, 4, 1)  # queries at a time, warps, stages of the pipeline
BACKWARD = (32, 8, 1)
EPS = 1e-5  # of the layer norms, as torch has it


@triton.jit
def _normed(x, weight, E: tl.constexpr, EPS: tl.constexpr):
    """Rows of x in float32 -> (rows normalised, their 1 / deviation)."""
    centred = x - (tl.sum(x, 1) / E)[:, None]
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) / E + EPS)
    return centred * scale[:, None], scale


@triton.jit
def _through_norm(grad, normed, scale, weight, E: tl.constexpr):
    """Gradient of what was normalised, from that of normed * weight."""
    inner = grad * weight[None, :]
    along = tl.sum(inner * normed, 1) / E
    return (inner - (tl.sum(inner, 1) / E)[:, None] - normed * along[:, None]) * scale[:, None]


@triton.jit
def _forward(
    q, k, v, q_weight, k_weight, mask, out, lse, N, M, H, q_row, k_row, mask_b, mask_n, mask_m, factor,
    E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, MASKED: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    e, m = tl.arange(0, E), tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    keys = (b * M + m[:, None]) * k_row + h * E + e[None, :]
    rows = (b * N + n[:, None]) * q_row + h * E + e[None, :]
    k_ME = tl.load(k + keys, mask=m[:, None] < M, other=0.0)
    v_ME = tl.load(v + keys, mask=m[:, None] < M, other=0.0)
    q_NE = tl.load(q + rows, mask=n[:, None] < N, other=0.0)
    dtype = k_ME.dtype
    k_normed, _ = _normed(k_ME.to(tl.float32), None, E, EPS)
    q_normed, _ = _normed(q_NE.to(tl.float32), None, E, EPS)
    k_ME = (k_normed * tl.load(k_weight + e)[None, :]).to(dtype)
    q_NE = (q_normed * tl.load(q_weight + e)[None, :]).to(dtype)
    score_NM = tl.dot(q_NE, tl.trans(k_ME), input_precision="ieee") * factor
    seen = (m[None, :] < M) & (n[:, None] < N)
    if MASKED:
        seen = seen & (
            tl.load(mask + b * mask_b + n[:, None] * mask_n + m[None, :] * mask_m, mask=seen, other=0) != 0
        )
    score_NM = tl.where(seen, score_NM, float("-inf"))
    top_N = tl.max(score_NM, 1)
    top_N = tl.where(top_N == float("-inf"), 0.0, top_N)
    p_NM = tl.exp(score_NM - top_N[:, None])
    total_N = tl.maximum(tl.sum(p_NM, 1), 1e-30)
    out_NE = tl.dot(p_NM.to(dtype), v_ME, input_precision="ieee") / total_N[:, None]
    places = (b * N + n[:, None]) * H * E + h * E + e[None, :]
    tl.store(out + places, out_NE.to(dtype), mask=n[:, None] < N)
    tl.store(lse + (b * H + h) * N + n, top_N + tl.log(total_N), mask=n < N)


@triton.jit
def _backward(
    q, k, v, q_weight, k_weight, mask, out, lse, grad, dq, dk, dv, dq_weight, dk_weight,
    N, M, H, q_row, k_row, mask_b, mask_n, mask_m, factor,
    E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, MASKED: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    e, m = tl.arange(0, E), tl.arange(0, BLOCK_M)
    keys = (b * M + m[:, None]) * k_row + h * E + e[None, :]
    k_ME = tl.load(k + keys, mask=m[:, None] < M, other=0.0)
    v_ME = tl.load(v + keys, mask=m[:, None] < M, other=0.0)
    dtype = k_ME.dtype
    qw_E, kw_E = tl.load(q_weight + e), tl.load(k_weight + e)
    k_normed, _ = _normed(k_ME.to(tl.float32), None, E, EPS)
    k_ME = (k_normed * kw_E[None, :]).to(dtype)
    dk_ME, dv_ME = tl.zeros([BLOCK_M, E], tl.float32), tl.zeros([BLOCK_M, E], tl.float32)
    dqw_E = tl.zeros([E], tl.float32)
    for start in range(0, N, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside = n[:, None] < N
        rows = (b * N + n[:, None]) * q_row + h * E + e[None, :]
        places = (b * N + n[:, None]) * H * E + h * E + e[None, :]
        q_normed, q_scale = _normed(tl.load(q + rows, mask=inside, other=0.0).to(tl.float32), None, E, EPS)
        q_NE = (q_normed * qw_E[None, :]).to(dtype)
        grad_NE = tl.load(grad + places, mask=inside, other=0.0)
        out_NE = tl.load(out + places, mask=inside, other=0.0)
        delta_N = tl.sum(grad_NE.to(tl.float32) * out_NE.to(tl.float32), 1)
        lse_N = tl.load(lse + (b * H + h) * N + n, mask=n < N, other=0.0)
        # Keys along the rows: what is summed over queries is then a plain product.
        score_MN = tl.dot(k_ME, tl.trans(q_NE), input_precision="ieee") * factor
        seen = (m[:, None] < M) & (n[None, :] < N)
        if MASKED:
            seen = seen & (
                tl.load(mask + b * mask_b + n[None, :] * mask_n + m[:, None] * mask_m, mask=seen, other=0)
                != 0
            )
        p_MN = tl.where(seen, tl.exp(score_MN - lse_N[None, :]), 0.0)
        dv_ME += tl.dot(p_MN.to(dtype), grad_NE, input_precision="ieee")
        dp_MN = tl.dot(v_ME, tl.trans(grad_NE), input_precision="ieee")
        ds_MN = (p_MN * (dp_MN - delta_N[None, :]) * factor).to(dtype)
        dk_ME += tl.dot(ds_MN, q_NE, input_precision="ieee")
        dq_NE = tl.dot(tl.trans(ds_MN), k_ME, input_precision="ieee")
        dqw_E += tl.sum(dq_NE * q_normed, 0)
        dq_NE = _through_norm(dq_NE, q_normed, q_scale, qw_E, E)
        tl.store(dq + rows, dq_NE.to(dtype), mask=inside)
    tl.store(dv + keys, dv_ME.to(dtype), mask=m[:, None] < M)
    # The keys once more: what was normalised is read again rather than kept through the loop.
    k_normed, k_scale = _normed(
        tl.load(k + keys, mask=m[:, None] < M, other=0.0).to(tl.float32), None, E, EPS
    )
    tl.store(dk_weight + tl.program_id(0) * E + e, tl.sum(dk_ME * k_normed, 0))
    tl.store(dq_weight + tl.program_id(0) * E + e, dqw_E)
    dk_ME = _through_norm(dk_ME, k_normed, k_scale, kw_E, E)
    tl.store(dk + keys, dk_ME.to(dtype), mask=m[:, None] < M)


def _split(q: Tensor, kv: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(queries, keys, values) as views of what the products gave: one tensor of three, or one and two."""
    if kv is None:
        return q.chunk(3, -1)
    return (q, *kv.chunk(2, -1))


def _layout(q: Tensor, kv: Tensor | None, mask: Tensor | None, num_heads: int):
    q_BND, k_BMD, v_BMD = _split(q, kv)
    (B, N, D), M = q_BND.shape, k_BMD.shape[1]
    if mask is not None:
        mask = mask.expand(B, 1, N, M)
    mask_strides = (0, 0, 0) if mask is None else (mask.stride(0), mask.stride(2), mask.stride(3))
    sizes = (N, M, num_heads, q_BND.stride(1), k_BMD.stride(1), *mask_strides, (D // num_heads) ** -0.5)
    block_m = max(16, triton.next_power_of_2(M))
    constants = {"E": D // num_heads, "BLOCK_M": block_m, "MASKED": mask is not None, "EPS": EPS}
    return q_BND, k_BMD, v_BMD, mask, sizes, constants


@torch.library.custom_op("aion_lite::attend", mutates_args=())
def attend(
    q: Tensor, kv: Tensor | None, q_weight: Tensor, k_weight: Tensor, mask: Tensor | None, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Attention of q (B, N, D) on kv (B, M, 2 D), or with kv None of the packed q, k, v (B, N, 3 D).

    ``mask``: bool, broadcastable to (B, 1, N, M). Returns (B, N, D) and, for the backward pass, the logarithm
    of each query's sum of exponentials (B, H, N).
    """
    q, kv = q.contiguous(), None if kv is None else kv.contiguous()
    q_BND, k_BMD, v_BMD, mask, sizes, constants = _layout(q, kv, mask, num_heads)
    B, N, D = q_BND.shape
    out_BND = q.new_empty(B, N, D)
    lse_BHN = q.new_empty(B, num_heads, N, dtype=torch.float32)
    block_n, warps, stages = FORWARD
    _forward[(triton.cdiv(N, block_n), B * num_heads)](
        q_BND, k_BMD, v_BMD, q_weight, k_weight, mask, out_BND, lse_BHN, *sizes,
        BLOCK_N=block_n, **constants, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out_BND, lse_BHN


@attend.register_fake
def _(q, kv, q_weight, k_weight, mask, num_heads):
    D = q.shape[-1] // (3 if kv is None else 1)
    B, N = q.shape[:2]
    return q.new_empty(B, N, D), q.new_empty(B, num_heads, N, dtype=torch.float32)


@torch.library.custom_op("aion_lite::attend_backward", mutates_args=())
def attend_backward(
    grad: Tensor, out: Tensor, lse: Tensor, q: Tensor, kv: Tensor | None, q_weight: Tensor, k_weight: Tensor,
    mask: Tensor | None, num_heads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, kv (empty if None) and both weights."""
    q, kv, grad = q.contiguous(), None if kv is None else kv.contiguous(), grad.contiguous()
    q_BND, k_BMD, v_BMD, mask, sizes, constants = _layout(q, kv, mask, num_heads)
    dq, dkv = torch.empty_like(q), q.new_empty(0) if kv is None else torch.empty_like(kv)
    B, E = len(q), constants["E"]
    dq_weight, dk_weight = (q.new_empty(B * num_heads, E, dtype=torch.float32) for _ in range(2))
    block_n, warps, stages = BACKWARD
    _backward[(B * num_heads,)](
        q_BND, k_BMD, v_BMD, q_weight, k_weight, mask, out, lse, grad,
        *_split(dq, None if kv is None else dkv), dq_weight, dk_weight, *sizes,
        BLOCK_N=block_n, **constants, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return dq, dkv, dq_weight.sum(0), dk_weight.sum(0)


@attend_backward.register_fake
def _(grad, out, lse, q, kv, q_weight, k_weight, mask, num_heads):
    dkv = q.new_empty(0) if kv is None else torch.empty_like(kv)
    weights = (torch.empty_like(w, dtype=torch.float32) for w in (q_weight, k_weight))
    return torch.empty_like(q), dkv, *weights


def _keep(ctx, inputs, output):
    q, kv, q_weight, k_weight, mask, ctx.num_heads = inputs
    ctx.save_for_backward(*output, q, kv, q_weight, k_weight, mask)


def _gradients(ctx, grad, _):
    out, lse, q, kv, q_weight, k_weight, mask = ctx.saved_tensors
    dq, dkv, dq_weight, dk_weight = attend_backward(
        grad, out, lse, q, kv, q_weight, k_weight, mask, ctx.num_heads
    )
    return dq, None if kv is None else dkv, dq_weight, dk_weight, None, None


attend.register_autograd(_gradients, setup_context=_keep)
