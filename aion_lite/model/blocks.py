"""Transformer blocks: pre-norm, SwiGLU, QK-norm, no biases.

Products of attention and gate go through torch, or on a GPU through our own kernels (``fused.py``).

The same functions as AION's and 4M's ``Block`` and ``DecoderBlock`` (tested to 1e-12), with masks the other
way round: here True means *may be seen*.

Shapes: B batch, N queries, M keys, D width, H heads, E = D / H, F hidden width of the feed-forward.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aion_lite.model import fused


def in_working_precision(x: Tensor) -> Tensor:
    """As products are computed: under autocast the stream between the blocks is half precision, too."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer 2020), F = 2/3 of mlp_ratio * D: three matrices cost what two would."""

    def __init__(self, dim: int, mlp_ratio: float = 4.0):
        super().__init__()
        hidden = int(2 * int(mlp_ratio * dim) / 3)
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        both = F.linear(x_BND, torch.cat([self.gate.weight, self.up.weight]))  # one large product
        if fused.serves(both):
            return fused.gated_down(both, self.down.weight)
        gate_BNF, up_BNF = both.chunk(2, -1)
        return self.down(F.silu(gate_BNF) * up_BNF)


class Attention(nn.Module):
    """Multi-head attention of x on ``context`` (on itself if None), with normalised queries and keys."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"d_model must be a multiple of nhead, got {dim} and {num_heads}.")
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.q_norm = nn.LayerNorm(dim // num_heads, bias=False)
        self.k_norm = nn.LayerNorm(dim // num_heads, bias=False)

    def forward(self, x_BND: Tensor, context_BMD: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """``mask``: bool, broadcastable to (B, 1, N, M); True = may be seen."""
        B, N, D = x_BND.shape
        if context_BMD is None:  # one large product
            q_BND, kv = F.linear(x_BND, torch.cat([self.q.weight, self.kv.weight])), None
        else:
            q_BND, kv = self.q(x_BND), self.kv(context_BMD)
        if fused.serves(q_BND, D // self.num_heads):
            weights = self.q_norm.weight, self.k_norm.weight
            return self.proj(fused.attend(q_BND, kv, *weights, mask, self.num_heads))
        if kv is None:
            q_BND, kv = q_BND.split([D, 2 * D], -1)
        heads = (self.num_heads, D // self.num_heads)
        q_BHNE = q_BND.unflatten(-1, heads).transpose(1, 2)
        k_BHME, v_BHME = kv.unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4)
        out_BHNE = F.scaled_dot_product_attention(
            self.q_norm(q_BHNE).to(v_BHME.dtype), self.k_norm(k_BHME).to(v_BHME.dtype), v_BHME, attn_mask=mask
        )
        return self.proj(out_BHNE.transpose(1, 2).reshape(B, N, D))


class Block(nn.Module):
    """Encoder block: x + attention(norm x), then x + feed-forward(norm x)."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, bias=False)
        self.attention = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, bias=False)
        self.mlp = SwiGLU(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor, mask: Tensor | None = None) -> Tensor:
        x_BND = x_BND + self.dropout(self.attention(self.norm1(x_BND), mask=mask))
        return x_BND + self.dropout(self.mlp(self.norm2(x_BND)))


class DecoderBlock(nn.Module):
    """Decoder block: attention among the queries, then on the encoded context, then feed-forward."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, bias=False)
        self.self_attention = Attention(dim, num_heads)
        self.query_norm = nn.LayerNorm(dim, bias=False)
        self.context_norm = nn.LayerNorm(dim, bias=False)
        self.cross_attention = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, bias=False)
        self.mlp = SwiGLU(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_BND: Tensor,
        context_BMD: Tensor,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        x_BND = x_BND + self.dropout(self.self_attention(self.norm1(x_BND), mask=mask))
        attended = self.cross_attention(self.query_norm(x_BND), self.context_norm(context_BMD), context_mask)
        x_BND = x_BND + self.dropout(attended)
        return x_BND + self.dropout(self.mlp(self.norm2(x_BND)))
