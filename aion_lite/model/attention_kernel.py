"""The GPU kernels of blocks.py: attention that normalises its queries and keys itself.

FlashAttention-2 (Dao 2023) with a layer norm (no bias) of each query and key inside, so that normalised ones
are never written, nor kept for the backward pass. What a kernel holds on to is normalised, what passes by is
not: with weights w, mean m and 1 / deviation s of a key, q . norm(k) = s (qw . k - m sum(qw)), so keys enter
the product as they come from memory, and the scores are set right (the gradients in the same way).
Imports Triton, so blocks.py imports it only where there is a GPU.

Shapes: B batch, H heads, N queries, M keys, E width of a head; moments (B, H, 2, N or M): m and s.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from aion_lite.model.launch import launch

# Queries and keys at a time, warps, stages of the pipeline, registers a thread: the fastest of those tried on
# an H200, at 128 and 256 of either, with heads of 64.
FORWARD = (128, 64, 8, 3, 128)
FORWARD_128 = (128, 64, 8, 2, 128)  # heads of 128: three stages exceed the 99 KiB that small GPUs share
QUERIES_BACKWARD = (64, 32, 4, 3, 128)
KEYS_BACKWARD = (32, 64, 4, 3, 168)
KEYS = 64  # keys at a time of which the moments are taken
EPS = 1e-5  # of the layer norms, as torch has it
LOG2_E = tl.constexpr(1.4426950408889634)  # exponentials are of base 2, as the GPU has them


@triton.jit
def _rows(x, n, N, row, head, E: tl.constexpr):
    """Rows n of a head, (rows, E), zeros beyond N."""
    e = tl.arange(0, E)
    return tl.load(x + n[:, None] * row + head * E + e[None, :], mask=n[:, None] < N, other=0.0)


@triton.jit
def _moments_of(moments, n, N):
    """(mean, 1 / deviation) of the rows n of a head; 0 beyond N."""
    return tl.load(moments + n, mask=n < N, other=0.0), tl.load(moments + N + n, mask=n < N, other=0.0)


@triton.jit
def _normed(x, mean, scale):
    return (x.to(tl.float32) - mean[:, None]) * scale[:, None]


@triton.jit
def _through_norm(grad, normed, scale, weight, E: tl.constexpr):
    """Gradient of what was normalised, from that of normed * weight."""
    inner = grad * weight[None, :]
    along = tl.sum(inner * normed, 1) / E
    return (inner - (tl.sum(inner, 1) / E)[:, None] - normed * along[:, None]) * scale[:, None]


@triton.jit
def _scores(ready, sums, raw, mean, scale):
    """Products of ready rows, whose sums are given, with raw ones as if those had been normalised."""
    product = tl.dot(ready, tl.trans(raw), input_precision="ieee")
    return (product - sums[:, None] * mean[None, :]) * scale[None, :]


@triton.jit
def _seen(mask, n, m, N, M, mask_n, mask_m, MASKED: tl.constexpr):
    """Which keys each query sees, (queries, keys), or the other way round as n and m are shaped.

    MASKED: 0 nothing is, 1 keys are, for all queries alike (a line to load, and no square), 2 pairs are.
    """
    seen = (n < N) & (m < M)
    if MASKED == 1:
        seen = seen & (tl.load(mask + m * mask_m, mask=m < M, other=0) != 0)
    if MASKED == 2:
        seen = seen & (tl.load(mask + n * mask_n + m * mask_m, mask=seen, other=0) != 0)
    return seen


@triton.jit
def _measured(x, moments, n, N, E: tl.constexpr, EPS: tl.constexpr):
    """(mean, 1 / deviation) of rows of x, which are the rows n of a head; stored, too."""
    x = x.to(tl.float32)
    mean = tl.sum(x, 1) / E
    centred = x - mean[:, None]
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) / E + EPS)
    tl.store(moments + n, mean, mask=n < N)
    tl.store(moments + N + n, scale, mask=n < N)
    return mean, scale


@triton.jit
def _measure_keys(k, moments, M, H, row, E: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr):
    b, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    m = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    _measured(_rows(k + b * M * row, m, M, row, h, E), moments + (b * H + h) * 2 * M, m, M, E, EPS)


@triton.jit
def _forward(
    q, k, v, q_weight, k_weight, mask, q_moments, k_moments, out, lse,
    N, M, H, q_row, k_row, mask_b, mask_n, mask_m, factor,
    E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr,
    EPS: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    q, k, v, mask = q + b * N * q_row, k + b * M * k_row, v + b * M * k_row, mask + b * mask_b
    q_moments, k_moments = q_moments + (b * H + h) * 2 * N, k_moments + (b * H + h) * 2 * M
    n, e = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, E)
    weight_E = tl.load(q_weight + e) * tl.load(k_weight + e) * (factor * LOG2_E)
    q_NE = _rows(q, n, N, q_row, h, E)
    dtype = q_NE.dtype
    mean_N, scale_N = _measured(q_NE, q_moments, n, N, E, EPS)
    q_NE = (_normed(q_NE, mean_N, scale_N) * weight_E[None, :]).to(dtype)
    sum_N = tl.sum(q_NE.to(tl.float32), 1)
    top_N, total_N = tl.full([BLOCK_N], -1e30, tl.float32), tl.zeros([BLOCK_N], tl.float32)
    out_NE = tl.zeros([BLOCK_N, E], tl.float32)
    for start in range(0, M, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        mean_M, scale_M = _moments_of(k_moments, m, M)
        score_NM = _scores(q_NE, sum_N, _rows(k, m, M, k_row, h, E), mean_M, scale_M)
        if MASKED or not WHOLE:
            seen_NM = _seen(mask, n[:, None], m[None, :], N, M, mask_n, mask_m, MASKED)
            score_NM = tl.where(seen_NM, score_NM, float("-inf"))
        higher_N = tl.maximum(top_N, tl.max(score_NM, 1))
        p_NM, shrink_N = tl.exp2(score_NM - higher_N[:, None]), tl.exp2(top_N - higher_N)
        total_N = total_N * shrink_N + tl.sum(p_NM, 1)
        out_NE = out_NE * shrink_N[:, None]
        out_NE += tl.dot(p_NM.to(dtype), _rows(v, m, M, k_row, h, E), input_precision="ieee")
        top_N = higher_N
    total_N = tl.maximum(total_N, 1e-30)
    places = (b * N + n[:, None]) * H * E + h * E + e[None, :]
    tl.store(out + places, (out_NE / total_N[:, None]).to(dtype), mask=n[:, None] < N)
    tl.store(lse + (b * H + h) * N + n, top_N + tl.log2(total_N), mask=n < N)


@triton.jit
def _queries_backward(
    q, k, v, q_weight, k_weight, mask, q_moments, k_moments, out, lse, grad, delta, dq, dq_weight,
    N, M, H, q_row, k_row, mask_b, mask_n, mask_m, factor,
    E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    q, k, v, mask = q + b * N * q_row, k + b * M * k_row, v + b * M * k_row, mask + b * mask_b
    q_moments, k_moments = q_moments + (b * H + h) * 2 * N, k_moments + (b * H + h) * 2 * M
    out, grad = out + b * N * H * E, grad + b * N * H * E
    n, e = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, E)
    qw_E, kw_E = tl.load(q_weight + e), tl.load(k_weight + e) * factor
    raw_NE = _rows(q, n, N, q_row, h, E)
    dtype = raw_NE.dtype
    mean_N, scale_N = _moments_of(q_moments, n, N)
    q_NE = (_normed(raw_NE, mean_N, scale_N) * (qw_E * kw_E * LOG2_E)[None, :]).to(dtype)
    sum_N = tl.sum(q_NE.to(tl.float32), 1)
    grad_NE = _rows(grad, n, N, H * E, h, E)
    delta_N = tl.sum(grad_NE.to(tl.float32) * _rows(out, n, N, H * E, h, E).to(tl.float32), 1)
    tl.store(delta + (b * H + h) * N + n, delta_N, mask=n < N)
    lse_N = tl.load(lse + (b * H + h) * N + n, mask=n < N, other=0.0)
    dq_NE, along_N = tl.zeros([BLOCK_N, E], tl.float32), tl.zeros([BLOCK_N], tl.float32)
    for start in range(0, M, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        k_ME = _rows(k, m, M, k_row, h, E)
        mean_M, scale_M = _moments_of(k_moments, m, M)
        p_NM = tl.exp2(_scores(q_NE, sum_N, k_ME, mean_M, scale_M) - lse_N[:, None])
        if MASKED or not WHOLE:
            p_NM = tl.where(_seen(mask, n[:, None], m[None, :], N, M, mask_n, mask_m, MASKED), p_NM, 0.0)
        dp_NM = tl.dot(grad_NE, tl.trans(_rows(v, m, M, k_row, h, E)), input_precision="ieee")
        ds_NM = (p_NM * (dp_NM - delta_N[:, None]) * scale_M[None, :]).to(dtype)
        along_N += tl.sum(ds_NM.to(tl.float32) * mean_M[None, :], 1)
        dq_NE += tl.dot(ds_NM, k_ME, input_precision="ieee")
    dq_NE = (dq_NE - along_N[:, None]) * kw_E[None, :]
    normed_NE = _normed(_rows(q, n, N, q_row, h, E), mean_N, scale_N)  # read again rather than kept
    part = (b * H + h) * tl.num_programs(1) + tl.program_id(1)
    tl.store(dq_weight + part * E + e, tl.sum(dq_NE * normed_NE, 0))
    dq_NE = _through_norm(dq_NE, normed_NE, scale_N, qw_E, E)
    tl.store(dq + (b * N + n[:, None]) * q_row + h * E + e[None, :], dq_NE.to(dtype), mask=n[:, None] < N)


@triton.jit
def _keys_backward(
    q, k, v, q_weight, k_weight, mask, q_moments, k_moments, lse, grad, delta, dk, dv, dk_weight,
    N, M, H, q_row, k_row, mask_b, mask_n, mask_m, factor,
    E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    q, k, v, mask = q + b * N * q_row, k + b * M * k_row, v + b * M * k_row, mask + b * mask_b
    q_moments, k_moments = q_moments + (b * H + h) * 2 * N, k_moments + (b * H + h) * 2 * M
    grad, lse, delta = grad + b * N * H * E, lse + (b * H + h) * N, delta + (b * H + h) * N
    m, e = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, E)
    qw_E, kw_E = tl.load(q_weight + e) * factor, tl.load(k_weight + e)
    raw_ME, v_ME = _rows(k, m, M, k_row, h, E), _rows(v, m, M, k_row, h, E)
    dtype = raw_ME.dtype
    mean_M, scale_M = _moments_of(k_moments, m, M)
    k_ME = (_normed(raw_ME, mean_M, scale_M) * (qw_E * kw_E * LOG2_E)[None, :]).to(dtype)
    sum_M = tl.sum(k_ME.to(tl.float32), 1)
    dk_ME, dv_ME = tl.zeros([BLOCK_M, E], tl.float32), tl.zeros([BLOCK_M, E], tl.float32)
    along_M = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, N, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        q_NE, grad_NE = _rows(q, n, N, q_row, h, E), _rows(grad, n, N, H * E, h, E)
        mean_N, scale_N = _moments_of(q_moments, n, N)
        lse_N = tl.load(lse + n, mask=n < N, other=0.0)
        delta_N = tl.load(delta + n, mask=n < N, other=0.0)
        # Keys along the rows: what is summed over queries is then a plain product.
        p_MN = tl.exp2(_scores(k_ME, sum_M, q_NE, mean_N, scale_N) - lse_N[None, :])
        if MASKED or not WHOLE:
            p_MN = tl.where(_seen(mask, n[None, :], m[:, None], N, M, mask_n, mask_m, MASKED), p_MN, 0.0)
        dv_ME += tl.dot(p_MN.to(dtype), grad_NE, input_precision="ieee")
        dp_MN = tl.dot(v_ME, tl.trans(grad_NE), input_precision="ieee")
        ds_MN = (p_MN * (dp_MN - delta_N[None, :]) * scale_N[None, :]).to(dtype)
        along_M += tl.sum(ds_MN.to(tl.float32) * mean_N[None, :], 1)
        dk_ME += tl.dot(ds_MN, q_NE, input_precision="ieee")
    places = (b * M + m[:, None]) * k_row + h * E + e[None, :]
    tl.store(dv + places, dv_ME.to(dtype), mask=m[:, None] < M)
    dk_ME = (dk_ME - along_M[:, None]) * qw_E[None, :]
    normed_ME = _normed(_rows(k, m, M, k_row, h, E), mean_M, scale_M)
    part = (b * H + h) * tl.num_programs(1) + tl.program_id(1)
    tl.store(dk_weight + part * E + e, tl.sum(dk_ME * normed_ME, 0))
    tl.store(dk + places, _through_norm(dk_ME, normed_ME, scale_M, kw_E, E).to(dtype), mask=m[:, None] < M)


def _split(q: Tensor, kv: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(queries, keys, values) as views of what the products gave: one tensor of three, or one and two."""
    if kv is None:
        return q.chunk(3, -1)
    return (q, *kv.chunk(2, -1))


def _arguments(q: Tensor, kv: Tensor | None, mask: Tensor | None, num_heads: int):
    """(views of q, k, v; the mask, or any tensor; sizes and strides; constants) as the kernels take them."""
    q_BND, k_BMD, v_BMD = _split(q, kv)
    (B, N, D), M = q_BND.shape, k_BMD.shape[1]
    masked = 0 if mask is None else 1 if mask.shape[-2] == 1 else 2
    mask = mask.expand(B, 1, N, M) if masked else q
    strides = (mask.stride(0), mask.stride(2), mask.stride(3)) if masked else (0, 0, 0)
    E = D // num_heads
    sizes = (N, M, num_heads, q_BND.stride(1), k_BMD.stride(1), *strides, E**-0.5)
    return (q_BND, k_BMD, v_BMD), mask, sizes, {"E": E, "MASKED": masked}


def _tiles(settings: tuple[int, int, int, int, int], N: int, M: int) -> dict[str, int | bool]:
    block_n, block_m, warps, stages, registers = settings
    block_n, block_m = (min(b, max(16, triton.next_power_of_2(n))) for b, n in ((block_n, N), (block_m, M)))
    return {
        "BLOCK_N": block_n, "BLOCK_M": block_m, "WHOLE": N % block_n == 0 and M % block_m == 0,
        "num_warps": warps, "num_stages": stages, "maxnreg": registers,
    }  # fmt: skip


@torch.library.custom_op("aion_lite::attend", mutates_args=())
def attend(
    q: Tensor, kv: Tensor | None, q_weight: Tensor, k_weight: Tensor, mask: Tensor | None, num_heads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention of q (B, N, D) on kv (B, M, 2 D), or with kv None of the packed q, k, v (B, N, 3 D).

    ``mask``: bool, broadcastable to (B, 1, N, M). Returns (B, N, D) and, for the backward pass, the logarithm
    (base 2) of each query's sum of exponentials (B, H, N), and the moments of queries and of keys.
    """
    q, kv = q.contiguous(), None if kv is None else kv.contiguous()
    q_weight, k_weight = q_weight.float().contiguous(), k_weight.float().contiguous()
    views, mask, sizes, constants = _arguments(q, kv, mask, num_heads)
    B, N, D = views[0].shape
    out_BND, lse_BHN = q.new_empty(B, N, D), q.new_empty(B, num_heads, N, dtype=torch.float32)
    (N, M), E = sizes[:2], constants["E"]
    tiles = _tiles(FORWARD if E < 128 else FORWARD_128, N, M)
    q_moments, k_moments = (q.new_empty(B, num_heads, 2, n, dtype=torch.float32) for n in (N, M))
    with torch.cuda.device_of(q):  # Triton launches on the current device, wherever the tensors are
        launch(
            _measure_keys, (B * num_heads, triton.cdiv(M, KEYS)), views[1], k_moments, M, num_heads,
            views[1].stride(1), E=E, BLOCK=KEYS, EPS=EPS,
        )  # fmt: skip
        launch(
            _forward, (B * num_heads, triton.cdiv(N, tiles["BLOCK_N"])),
            *views, q_weight, k_weight, mask, q_moments, k_moments, out_BND, lse_BHN, *sizes,
            EPS=EPS, **constants, **tiles,
        )  # fmt: skip
    return out_BND, lse_BHN, q_moments, k_moments


@attend.register_fake
def _(q, kv, q_weight, k_weight, mask, num_heads):
    D = q.shape[-1] // (3 if kv is None else 1)
    (B, N), M = q.shape[:2], (q if kv is None else kv).shape[1]
    of_heads = [(B, num_heads, N), (B, num_heads, 2, N), (B, num_heads, 2, M)]
    return q.new_empty(B, N, D), *(q.new_empty(shape, dtype=torch.float32) for shape in of_heads)


@torch.library.custom_op("aion_lite::attend_backward", mutates_args=())
def attend_backward(
    grad: Tensor, out: Tensor, lse: Tensor, q_moments: Tensor, k_moments: Tensor,
    q: Tensor, kv: Tensor | None, q_weight: Tensor, k_weight: Tensor, mask: Tensor | None, num_heads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, kv (empty if None) and both weights."""
    q, kv, grad = q.contiguous(), None if kv is None else kv.contiguous(), grad.contiguous()
    q_weight, k_weight = q_weight.float().contiguous(), k_weight.float().contiguous()
    views, mask, sizes, constants = _arguments(q, kv, mask, num_heads)
    dq, dkv = torch.empty_like(q), None if kv is None else torch.empty_like(kv)
    (N, M), heads, E = sizes[:2], len(q) * num_heads, constants["E"]
    of_queries, of_keys = _tiles(QUERIES_BACKWARD, N, M), _tiles(KEYS_BACKWARD, N, M)
    num_queries, num_keys = triton.cdiv(N, of_queries["BLOCK_N"]), triton.cdiv(M, of_keys["BLOCK_M"])
    dq_weight, dk_weight = (
        q.new_empty(heads * parts, E, dtype=torch.float32) for parts in (num_queries, num_keys)
    )
    delta, (dq_BND, dk_BMD, dv_BMD) = torch.empty_like(lse), _split(dq, dkv)
    inputs = (*views, q_weight, k_weight, mask, q_moments, k_moments)
    with torch.cuda.device_of(q):
        launch(
            _queries_backward, (heads, num_queries),
            *inputs, out, lse, grad, delta, dq_BND, dq_weight, *sizes, **constants, **of_queries,
        )  # fmt: skip
        launch(
            _keys_backward, (heads, num_keys),
            *inputs, lse, grad, delta, dk_BMD, dv_BMD, dk_weight, *sizes, **constants, **of_keys,
        )  # fmt: skip
    return dq, q.new_empty(0) if dkv is None else dkv, dq_weight.sum(0), dk_weight.sum(0)


@attend_backward.register_fake
def _(grad, out, lse, q_moments, k_moments, q, kv, q_weight, k_weight, mask, num_heads):
    dkv = q.new_empty(0) if kv is None else torch.empty_like(kv)
    weights = (torch.empty_like(w, dtype=torch.float32) for w in (q_weight, k_weight))
    return torch.empty_like(q), dkv, *weights


def _keep(ctx, inputs, output):
    q, kv, q_weight, k_weight, mask, ctx.num_heads = inputs
    ctx.save_for_backward(*output, q, kv, q_weight, k_weight, mask)


def _gradients(ctx, grad, *_):
    saved = ctx.saved_tensors  # once: gradient checkpointing gives them only once
    dq, dkv, dq_weight, dk_weight = attend_backward(grad, *saved, ctx.num_heads)
    return dq, None if saved[5] is None else dkv, dq_weight, dk_weight, None, None


attend.register_autograd(_gradients, setup_context=_keep)
