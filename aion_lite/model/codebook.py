"""How codes enter and leave the transformer: by their geometry, or by a table.

Looking a code up in a table forgets that code 511 lies beside 512, so every row must be learnt from samples
of its own. Where a quantizer knows where its codes lie, a code is embedded by that place, through a small
network, and learnt with targets that spread over its neighbours.

One network and one output matrix serve all modalities of a geometry, so cost follows the tokens and not the
catalogue, and nothing here waits for the host.

B samples, N tokens, D width, K most codes of a modality, G modalities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aion_lite.codecs.base import TokenSpec


class ValueEmbedding(nn.Module):
    """Embeds a code by where it lies: its coordinates x through one hidden layer.

    ``num_frequencies`` adds the waves sin, cos of pi/4 x, pi/2 x, ... (Tancik et al., NeurIPS 2020). They let
    the embedding change fast with x, which a smooth relation does not need and few samples do not support.
    """

    def __init__(self, specs: Mapping[str, TokenSpec], dim: int, num_frequencies: int):
        super().__init__()
        width = max(spec.features.shape[1] for spec in specs.values())
        features = [s.features.float().cpu() for s in specs.values()]
        features = torch.cat([F.pad(f, (0, width - f.shape[1])) for f in features])
        frequencies = math.pi / 4 * 2.0 ** torch.arange(num_frequencies)
        self.register_buffer("features", features)  # (all codes, width)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.inner = nn.Linear(width * (2 * num_frequencies + 1), 2 * dim)
        # One bias a modality: the same place means another thing elsewhere.
        self.bias = nn.Embedding(len(specs), 2 * dim)
        self.outer = nn.Linear(2 * dim, dim)

    def forward(self, row_BN: Tensor, member_BN: Tensor) -> Tensor:
        x = self.features[row_BN]
        angles = (x[..., None] * self.frequencies).flatten(-2)
        # A wave's weight falls as its frequency grows, so that smooth functions are the easy ones.
        amplitude = (self.frequencies[:1] / self.frequencies).repeat(x.shape[-1])
        waves = torch.cat([4 * x, amplitude * angles.sin(), amplitude * angles.cos()], dim=-1)
        return self.outer(F.gelu(self.inner(waves) + self.bias(member_BN)))


class CodeEmbedding(nn.Module):
    """Codes (B, N) of given modalities (B, N) -> (B, N, D): by value where there is geometry, else by table.

    ``embedding="table"`` uses tables throughout, as AION and 4M do.
    """

    def __init__(self, specs: Mapping[str, TokenSpec], dim: int, embedding: str, num_frequencies: int):
        super().__init__()
        by_value = {n: s for n, s in specs.items() if embedding == "value" and s.features is not None}
        by_table = {n: s for n, s in specs.items() if n not in by_value}
        first, member = [], []
        for name in specs:
            group = by_value if name in by_value else by_table
            before = list(group)[: list(group).index(name)]
            member.append(len(before))
            first.append(sum(group[n].vocab_size for n in before))
        self.register_buffer("first_row", torch.tensor(first), persistent=False)
        self.register_buffer("member", torch.tensor(member), persistent=False)
        self.register_buffer("is_value", torch.tensor([n in by_value for n in specs]), persistent=False)
        self.value = ValueEmbedding(by_value, dim, num_frequencies) if by_value else None
        self.table = nn.Embedding(sum(s.vocab_size for s in by_table.values()), dim) if by_table else None
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=0.02)  # as 4M and AION start theirs

    def forward(self, code_BN: Tensor, modality_BN: Tensor) -> Tensor:
        row_BN, member_BN = self.first_row[modality_BN] + code_BN, self.member[modality_BN]
        if self.table is None:
            return self.value(row_BN, member_BN)
        if self.value is None:
            return self.table(row_BN)
        is_value_BN = self.is_value[modality_BN]
        value = self.value(row_BN * is_value_BN, member_BN * is_value_BN)
        return torch.where(is_value_BN[..., None], value, self.table(row_BN * ~is_value_BN))


class CodeHead(nn.Module):
    """(B, N, D) of given modalities -> log-probabilities (B, N, K) over each token's own codebook.

    Codes on a line share one output matrix, row k for the k-th code in order; the others have rows of their
    own. Entries beyond a modality's codebook are minus infinity.
    """

    def __init__(self, specs: Mapping[str, TokenSpec], dim: int, embedding: str):
        super().__init__()
        sizes = [spec.vocab_size for spec in specs.values()]
        ordinal = [embedding == "value" and spec.geometry == "ordinal" for spec in specs.values()]
        own_sizes = [0 if o else k for k, o in zip(sizes, ordinal, strict=True)]
        first = [0 if o else sum(own_sizes[:g]) for g, o in enumerate(ordinal)]
        num_own = sum(own_sizes)
        self.num_codes = max(sizes)
        self.register_buffer("size", torch.tensor(sizes), persistent=False)
        self.register_buffer("is_ordinal", torch.tensor(ordinal), persistent=False)
        self.register_buffer("first_row", torch.tensor(first), persistent=False)
        num_ordinal = max((k for k, o in zip(sizes, ordinal, strict=True) if o), default=0)
        pairs = zip(specs.values(), ordinal, strict=True)
        position = [spec.features[:, 0].float().cpu() if o else torch.zeros(0) for spec, o in pairs]
        padded = [F.pad(x, (0, self.num_codes - len(x)), value=float("inf")) for x in position]
        self.register_buffer("position", torch.stack(padded), persistent=False)  # (G, K) where codes lie
        self.norm = nn.LayerNorm(dim, bias=False)
        self.shared = nn.Linear(dim, num_ordinal, bias=False) if num_ordinal else None
        self.own = nn.Linear(dim, num_own, bias=False) if num_own else None

    def forward(self, h_BND: Tensor, modality_BN: Tensor) -> Tensor:
        h_BND = self.norm(h_BND)
        code_K = torch.arange(self.num_codes, device=h_BND.device)
        outside_BNK = code_K >= self.size[modality_BN][..., None]
        logits_BNK = h_BND.new_zeros(*modality_BN.shape, self.num_codes, dtype=torch.float32)
        if self.shared is not None:
            shared = self.shared(h_BND).float()
            logits_BNK = F.pad(shared, (0, self.num_codes - shared.shape[-1]))
        if self.own is not None:
            own = self.own(h_BND).float()
            row_BNK = (self.first_row[modality_BN][..., None] + code_K).clamp(max=own.shape[-1] - 1)
            is_ordinal_BN1 = self.is_ordinal[modality_BN][..., None]
            logits_BNK = torch.where(is_ordinal_BN1, logits_BNK, own.gather(-1, row_BNK))
        return logits_BNK.masked_fill(outside_BNK, float("-inf")).log_softmax(-1)

    def spread_targets(self, code_BN: Tensor, modality_BN: Tensor, smoothing: float) -> Tensor:
        """Target distributions (B, N, K): on a line a Gaussian around the code, one-hot elsewhere.

        ``smoothing``: its width in standard deviations of the codes' positions. Width in value and not in
        rank: the last hundredth of the ranks may be a tail as long as all the rest, which a width in rank
        would blur.
        """
        position_BNK = self.position[modality_BN]
        distance_BNK = (position_BNK - position_BNK.gather(-1, code_BN[..., None])) / smoothing
        exact_BNK = F.one_hot(code_BN, self.num_codes).float()
        is_ordinal_BN1 = self.is_ordinal[modality_BN][..., None]
        weight_BNK = torch.where(is_ordinal_BN1, torch.exp(-0.5 * distance_BNK.square()), exact_BNK)
        return weight_BNK / weight_BNK.sum(-1, keepdim=True)
