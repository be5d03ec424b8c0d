"""The GPU kernels of blocks.py: attention that normalises its queries and keys itself.

FlashAttention-2 (Dao 2023) with a layer norm (no bias) of each query and key inside, so that normalised ones
are never written, nor kept for the backward pass. Imports Triton, so blocks.py imports it only where there is
a GPU.

Shapes: B batch, H heads, N queries, M keys, E width of a head.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Queries and keys at a time, warps, stages of the pipeline: measured on an H100 at 128 and 256 of either.
FORWARD = (64, 64, 4, 2)
QUERIES_BACKWARD = (64, 64, 4, 3)
KEYS_BACKWARD = (64, 64, 4, 2)
EPS = 1e-5  # of the layer norms, as torch has it


@triton.jit
def _normed(x, E: tl.constexpr, EPS: tl.constexpr):
    """Rows of x in float32 -> (rows normalised, their 1 / deviation)."""
    centred = x - (tl.sum(x, 1) / E)[:, None]
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) / E + EPS)
    return centred * scale[:, None], scale


@triton.jit
def _ready(x, weight, E: tl.constexpr, EPS: tl.constexpr):
    """Rows of x as they enter the products: normalised, weighted, in their own precision."""
    normed, _ = _normed(x.to(tl.float32), E, EPS)
    return (normed * weight[None, :]).to(x.dtype)


@triton.jit
def _through_norm(grad, normed, scale, weight, E: tl.constexpr):
    """Gradient of what was normalised, from that of normed * weight."""
    inner = grad * weight[None, :]
    along = tl.sum(inner * normed, 1) / E
    return (inner - (tl.sum(inner, 1) / E)[:, None] - normed * along[:, None]) * scale[:, None]


@triton.jit
def _rows(x, n, N, row, head, E: tl.constexpr):
    """Rows n of a head, (rows, E), zeros beyond N."""
    e = tl.arange(0, E)
    return tl.load(x + n[:, None] * row + head * E + e[None, :], mask=n[:, None] < N, other=0.0)


@triton.jit
def _seen(mask, n, m, N, M, mask_n, mask_m, MASKED: tl.constexpr):
    """Which keys each query sees, (queries, keys), or the other way round as n and m are shaped."""
    seen = (n < N) & (m < M)
    if MASKED:
        seen = seen & (tl.load(mask + n * mask_n + m * mask_m, mask=seen, other=0) != 0)
    return seen


@triton.jit
def _forward(
    q, k, v, q_weight, k_weight, mask, out, lse, N, M, H, q_row, k_row, mask_b, mask_n, mask_m, factor,
    E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, MASKED: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    q, k, v, mask = q + b * N * q_row, k + b * M * k_row, v + b * M * k_row, mask + b * mask_b
    n, e = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, E)
    kw_E = tl.load(k_weight + e)
    q_NE = _ready(_rows(q, n, N, q_row, h, E), tl.load(q_weight + e), E, EPS)
    dtype = q_NE.dtype
    top_N, total_N = tl.full([BLOCK_N], -1e30, tl.float32), tl.zeros([BLOCK_N], tl.float32)
    out_NE = tl.zeros([BLOCK_N, E], tl.float32)
    for start in range(0, M, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        k_ME = _ready(_rows(k, m, M, k_row, h, E), kw_E, E, EPS)
        score_NM = tl.dot(q_NE, tl.trans(k_ME), input_precision="ieee") * factor
        seen_NM = _seen(mask, n[:, None], m[None, :], N, M, mask_n, mask_m, MASKED)
        score_NM = tl.where(seen_NM, score_NM, float("-inf"))
        higher_N = tl.maximum(top_N, tl.max(score_NM, 1))
        p_NM, shrink_N = tl.exp(score_NM - higher_N[:, None]), tl.exp(top_N - higher_N)
        total_N = total_N * shrink_N + tl.sum(p_NM, 1)
        out_NE = out_NE * shrink_N[:, None]
        out_NE += tl.dot(p_NM.to(dtype), _rows(v, m, M, k_row, h, E), input_precision="ieee")
        top_N = higher_N
    total_N = tl.maximum(total_N, 1e-30)
    places = (b * N + n[:, None]) * H * E + h * E + e[None, :]
    tl.store(out + places, (out_NE / total_N[:, None]).to(dtype), mask=n[:, None] < N)
    tl.store(lse + (b * H + h) * N + n, top_N + tl.log(total_N), mask=n < N)


@triton.jit
def _queries_backward(
    q, k, v, q_weight, k_weight, mask, out, lse, grad, delta, dq, dq_weight,
    N, M, H, q_row, k_row, mask_b, mask_n, mask_m, factor,
    E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, MASKED: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    q, k, v, mask = q + b * N * q_row, k + b * M * k_row, v + b * M * k_row, mask + b * mask_b
    out, grad = out + b * N * H * E, grad + b * N * H * E
    n, e = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, E)
    qw_E, kw_E = tl.load(q_weight + e), tl.load(k_weight + e)
    q_NE = _rows(q, n, N, q_row, h, E)
    dtype = q_NE.dtype
    q_normed, q_scale = _normed(q_NE.to(tl.float32), E, EPS)
    q_NE = (q_normed * qw_E[None, :]).to(dtype)
    grad_NE = _rows(grad, n, N, H * E, h, E)
    delta_N = tl.sum(grad_NE.to(tl.float32) * _rows(out, n, N, H * E, h, E).to(tl.float32), 1)
    tl.store(delta + (b * H + h) * N + n, delta_N, mask=n < N)
    lse_N = tl.load(lse + (b * H + h) * N + n, mask=n < N, other=0.0)
    dq_NE = tl.zeros([BLOCK_N, E], tl.float32)
    for start in range(0, M, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        k_ME = _ready(_rows(k, m, M, k_row, h, E), kw_E, E, EPS)
        score_NM = tl.dot(q_NE, tl.trans(k_ME), input_precision="ieee") * factor
        seen_NM = _seen(mask, n[:, None], m[None, :], N, M, mask_n, mask_m, MASKED)
        p_NM = tl.where(seen_NM, tl.exp(score_NM - lse_N[:, None]), 0.0)
        dp_NM = tl.dot(grad_NE, tl.trans(_rows(v, m, M, k_row, h, E)), input_precision="ieee")
        ds_NM = (p_NM * (dp_NM - delta_N[:, None]) * factor).to(dtype)
        dq_NE += tl.dot(ds_NM, k_ME, input_precision="ieee")
    part = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(dq_weight + part * E + e, tl.sum(dq_NE * q_normed, 0))
    dq_NE = _through_norm(dq_NE, q_normed, q_scale, qw_E, E)
    tl.store(dq + (b * N + n[:, None]) * q_row + h * E + e[None, :], dq_NE.to(dtype), mask=n[:, None] < N)


@triton.jit
def _keys_backward(
    q, k, v, q_weight, k_weight, mask, lse, grad, delta, dk, dv, dk_weight,
    N, M, H, q_row, k_row, mask_b, mask_n, mask_m, factor,
    E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, MASKED: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    q, k, v, mask = q + b * N * q_row, k + b * M * k_row, v + b * M * k_row, mask + b * mask_b
    grad, lse, delta = grad + b * N * H * E, lse + (b * H + h) * N, delta + (b * H + h) * N
    m, e = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, E)
    qw_E, kw_E = tl.load(q_weight + e), tl.load(k_weight + e)
    k_ME, v_ME = _ready(_rows(k, m, M, k_row, h, E), kw_E, E, EPS), _rows(v, m, M, k_row, h, E)
    dtype = k_ME.dtype
    dk_ME, dv_ME = tl.zeros([BLOCK_M, E], tl.float32), tl.zeros([BLOCK_M, E], tl.float32)
    for start in range(0, N, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        q_NE = _ready(_rows(q, n, N, q_row, h, E), qw_E, E, EPS)
        grad_NE = _rows(grad, n, N, H * E, h, E)
        lse_N, delta_N = tl.load(lse + n, mask=n < N, other=0.0), tl.load(delta + n, mask=n < N, other=0.0)
        # Keys along the rows: what is summed over queries is then a plain product.
        score_MN = tl.dot(k_ME, tl.trans(q_NE), input_precision="ieee") * factor
        seen_MN = _seen(mask, n[None, :], m[:, None], N, M, mask_n, mask_m, MASKED)
        p_MN = tl.where(seen_MN, tl.exp(score_MN - lse_N[None, :]), 0.0)
        dv_ME += tl.dot(p_MN.to(dtype), grad_NE, input_precision="ieee")
        dp_MN = tl.dot(v_ME, tl.trans(grad_NE), input_precision="ieee")
        ds_MN = (p_MN * (dp_MN - delta_N[None, :]) * factor).to(dtype)
        dk_ME += tl.dot(ds_MN, q_NE, input_precision="ieee")
    places = (b * M + m[:, None]) * k_row + h * E + e[None, :]
    tl.store(dv + places, dv_ME.to(dtype), mask=m[:, None] < M)
    # What was normalised is read again rather than kept through the loop.
    k_normed, k_scale = _normed(_rows(k, m, M, k_row, h, E).to(tl.float32), E, EPS)
    part = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(dk_weight + part * E + e, tl.sum(dk_ME * k_normed, 0))
    tl.store(dk + places, _through_norm(dk_ME, k_normed, k_scale, kw_E, E).to(dtype), mask=m[:, None] < M)


def _split(q: Tensor, kv: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(queries, keys, values) as views of what the products gave: one tensor of three, or one and two."""
    if kv is None:
        return q.chunk(3, -1)
    return (q, *kv.chunk(2, -1))


def _arguments(q: Tensor, kv: Tensor | None, mask: Tensor | None, num_heads: int):
    """(views of q, k, v; the mask, or any tensor; sizes and strides; constants) as the kernels take them."""
    q_BND, k_BMD, v_BMD = _split(q, kv)
    (B, N, D), M = q_BND.shape, k_BMD.shape[1]
    masked = mask is not None
    mask = mask.expand(B, 1, N, M) if masked else q
    strides = (mask.stride(0), mask.stride(2), mask.stride(3)) if masked else (0, 0, 0)
    E = D // num_heads
    sizes = (N, M, num_heads, q_BND.stride(1), k_BMD.stride(1), *strides, E**-0.5)
    return (q_BND, k_BMD, v_BMD), mask, sizes, {"E": E, "MASKED": masked, "EPS": EPS}


def _tiles(settings: tuple[int, int, int, int], N: int, M: int) -> dict[str, int]:
    block_n, block_m, warps, stages = settings
    block_n, block_m = (min(b, max(16, triton.next_power_of_2(n))) for b, n in ((block_n, N), (block_m, M)))
    return {"BLOCK_N": block_n, "BLOCK_M": block_m, "num_warps": warps, "num_stages": stages}


@torch.library.custom_op("aion_lite::attend", mutates_args=())
def attend(
    q: Tensor, kv: Tensor | None, q_weight: Tensor, k_weight: Tensor, mask: Tensor | None, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Attention of q (B, N, D) on kv (B, M, 2 D), or with kv None of the packed q, k, v (B, N, 3 D).

    ``mask``: bool, broadcastable to (B, 1, N, M). Returns (B, N, D) and, for the backward pass, the logarithm
    of each query's sum of exponentials (B, H, N).
    """
    q, kv = q.contiguous(), None if kv is None else kv.contiguous()
    q_weight, k_weight = q_weight.contiguous(), k_weight.contiguous()
    views, mask, sizes, constants = _arguments(q, kv, mask, num_heads)
    B, N, D = views[0].shape
    out_BND, lse_BHN = q.new_empty(B, N, D), q.new_empty(B, num_heads, N, dtype=torch.float32)
    tiles = _tiles(FORWARD, *sizes[:2])
    with torch.cuda.device_of(q):  # Triton launches on the current device, wherever the tensors are
        _forward[(B * num_heads, triton.cdiv(N, tiles["BLOCK_N"]))](
            *views, q_weight, k_weight, mask, out_BND, lse_BHN, *sizes, **constants, **tiles
        )
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
    q_weight, k_weight = q_weight.contiguous(), k_weight.contiguous()
    views, mask, sizes, constants = _arguments(q, kv, mask, num_heads)
    dq, dkv = torch.empty_like(q), None if kv is None else torch.empty_like(kv)
    (N, M), heads, E = sizes[:2], len(q) * num_heads, constants["E"]
    of_queries, of_keys = _tiles(QUERIES_BACKWARD, N, M), _tiles(KEYS_BACKWARD, N, M)
    num_queries, num_keys = triton.cdiv(N, of_queries["BLOCK_N"]), triton.cdiv(M, of_keys["BLOCK_M"])
    dq_weight, dk_weight = (
        q.new_empty(heads * parts, E, dtype=torch.float32) for parts in (num_queries, num_keys)
    )
    delta, (dq_BND, dk_BMD, dv_BMD) = torch.empty_like(lse), _split(dq, dkv)
    inputs = (*views, q_weight, k_weight, mask)
    with torch.cuda.device_of(q):
        _queries_backward[(heads, num_queries)](
            *inputs, out, lse, grad, delta, dq_BND, dq_weight, *sizes, **constants, **of_queries
        )
        _keys_backward[(heads, num_keys)](
            *inputs, lse, grad, delta, dk_BMD, dv_BMD, dk_weight, *sizes, **constants, **of_keys
        )
    return dq, q.new_empty(0) if dkv is None else dkv, dq_weight.sum(0), dk_weight.sum(0)


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
