"""How codes enter the transformer: by their geometry, or by a table (``head.py`` is how they leave it).

Looking a code up in a table forgets that code 511 lies beside 512, so every row must be learnt from samples
of its own. Where a quantizer knows where its codes lie, a code is embedded by that place, through a small
network.

One network serves all codebooks, so cost follows the tokens and not the catalogue.

B samples, N tokens, D width.
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
        # One bias a codebook: the same place means another thing elsewhere.
        self.bias = nn.Embedding(len(specs), 2 * dim)
        self.outer = nn.Linear(2 * dim, dim)

    def forward(self, row_BN: Tensor, member_BN: Tensor) -> Tensor:
        return self.at(self.features[row_BN], member_BN)

    def at(self, x: Tensor, member_BN: Tensor) -> Tensor:
        """Of any place x (B, N, F), so that a gradient can reach it."""
        angles = (x[..., None] * self.frequencies).flatten(-2)
        # A wave's weight falls as its frequency grows, so that smooth functions are the easy ones.
        amplitude = (self.frequencies[:1] / self.frequencies).repeat(x.shape[-1])
        waves = torch.cat([4 * x, amplitude * angles.sin(), amplitude * angles.cos()], dim=-1)
        return self.outer(F.gelu(self.inner(waves) + self.bias(member_BN)))


class CodeEmbedding(nn.Module):
    """Codes (B, N) of given codebooks (B, N) -> (B, N, D): by value where there is geometry, else by table.

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

    def forward(self, code_BN: Tensor, book_BN: Tensor) -> Tensor:
        row_BN, member_BN = self.first_row[book_BN] + code_BN, self.member[book_BN]
        if self.table is None:
            return self.value(row_BN, member_BN)
        if self.value is None:
            return self.table(row_BN)
        is_value_BN = self.is_value[book_BN]
        value = self.value(row_BN * is_value_BN, member_BN * is_value_BN)
        return torch.where(is_value_BN[..., None], value, self.table(row_BN * ~is_value_BN))
