"""How codes leave the transformer: the law of a token's code, shaped by the geometry of its codebook.

- Codes on a line (scalars): one softmax, learnt with targets that spread over the neighbours.
- Codes on a grid (FSQ): one small softmax a level, each given the levels before it. By the chain rule this is
  a law over all codes: 8 + 5 + 5 + 5 = 23 numbers in place of 1,000.
- Codes without order, and everything with ``embedding="table"``: one softmax over rows of their own.

One set of weights serves all codebooks of a geometry, so cost follows the tokens and not the catalogue, and
nothing here waits for the host.

B samples, N tokens, D width, K most codes of a codebook, G codebooks, J most levels of a grid, L most values
of a level.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aion_lite.codecs.base import TokenSpec


class FlatHead(nn.Module):
    """One softmax a token. Codes on a line share one output matrix, row k for the k-th code in order; the
    others have rows of their own. Entries beyond a token's codebook are minus infinity."""

    def __init__(self, specs: Mapping[str, TokenSpec], dim: int, is_flat: list[bool], is_ordinal: list[bool]):
        super().__init__()
        sizes = [s.vocab_size if flat else 1 for s, flat in zip(specs.values(), is_flat, strict=True)]
        own_sizes = [k if f and not o else 0 for k, f, o in zip(sizes, is_flat, is_ordinal, strict=True)]
        first = [sum(own_sizes[:g]) if own_sizes[g] else 0 for g in range(len(sizes))]
        num_ordinal = max((k for k, o in zip(sizes, is_ordinal, strict=True) if o), default=0)
        self.num_codes = max(sizes)
        pairs = zip(specs.values(), is_ordinal, strict=True)
        position = [spec.features[:, 0].float().cpu() if o else torch.zeros(0) for spec, o in pairs]
        padded = [F.pad(x, (0, self.num_codes - len(x)), value=torch.inf) for x in position]
        self.register_buffer("position", torch.stack(padded), persistent=False)  # (G, K) where codes lie
        self.register_buffer("size", torch.tensor(sizes), persistent=False)
        self.register_buffer("is_ordinal", torch.tensor(is_ordinal), persistent=False)
        self.register_buffer("first_row", torch.tensor(first), persistent=False)
        self.shared = nn.Linear(dim, num_ordinal, bias=False) if num_ordinal else None
        self.own = nn.Linear(dim, sum(own_sizes), bias=False) if sum(own_sizes) else None

    def forward(self, h_BND: Tensor, book_BN: Tensor) -> Tensor:
        """Log-probabilities (B, N, K)."""
        code_K = torch.arange(self.num_codes, device=h_BND.device)
        outside_BNK = code_K >= self.size[book_BN][..., None]
        logits_BNK = h_BND.new_zeros(*book_BN.shape, self.num_codes, dtype=torch.float32)
        if self.shared is not None:
            shared = self.shared(h_BND).float()
            logits_BNK = F.pad(shared, (0, self.num_codes - shared.shape[-1]))
        if self.own is not None:
            own = self.own(h_BND).float()
            row_BNK = (self.first_row[book_BN][..., None] + code_K).clamp(max=own.shape[-1] - 1)
            is_ordinal_BN1 = self.is_ordinal[book_BN][..., None]
            logits_BNK = torch.where(is_ordinal_BN1, logits_BNK, own.gather(-1, row_BNK))
        return logits_BNK.masked_fill(outside_BNK, float("-inf")).log_softmax(-1)

    def own_log_prob(self, h_BND: Tensor, book_BN: Tensor, code_BN: Tensor) -> Tensor:
        """Log-probability (B, N) of given codes, where no codebook lies on a line.

        The softmax runs over the token's own rows among all, so that no (B, N, K) is gathered.
        """
        own_BNR = self.own(h_BND).float()
        row_R = torch.arange(own_BNR.shape[-1], device=h_BND.device)
        first_BN1, size_BN1 = (x[book_BN][..., None] for x in (self.first_row, self.size))
        outside_BNR = (row_R < first_BN1) | (row_R >= first_BN1 + size_BN1)
        logp_BNR = own_BNR.masked_fill(outside_BNR, float("-inf")).log_softmax(-1)
        return logp_BNR.gather(-1, first_BN1 + code_BN[..., None])[..., 0]

    def spread_targets(self, code_BN: Tensor, book_BN: Tensor, smoothing: float) -> Tensor:
        """Target distributions (B, N, K): on a line a Gaussian around the code, one-hot elsewhere.

        ``smoothing``: its width in standard deviations of the codes' positions. Width in value and not in
        rank: the last hundredth of the ranks may be a tail as long as all the rest, which a width in rank
        would blur.
        """
        position_BNK = self.position[book_BN]
        distance_BNK = (position_BNK - position_BNK.gather(-1, code_BN[..., None])) / smoothing
        exact_BNK = F.one_hot(code_BN, self.num_codes).float()
        is_ordinal_BN1 = self.is_ordinal[book_BN][..., None]
        weight_BNK = torch.where(is_ordinal_BN1, torch.exp(-0.5 * distance_BNK.square()), exact_BNK)
        return weight_BNK / weight_BNK.sum(-1, keepdim=True)

    def squared_error(self, logp_BNK: Tensor, code_BN: Tensor, book_BN: Tensor) -> Tensor:
        """Of the predicted mean (B, N), in standard deviations of the codes; 0 where there is no line."""
        position_BNK = self.position[book_BN]
        position_BNK = torch.where(position_BNK.isfinite(), position_BNK, 0.0)
        mean_BN = (logp_BNK.exp() * position_BNK).sum(-1)
        error_BN = mean_BN - position_BNK.gather(-1, code_BN[..., None])[..., 0]
        return error_BN.square() * self.is_ordinal[book_BN]


class LevelHead(nn.Module):
    """One softmax a level, each given the levels before it, which enter the hidden layer as embeddings."""

    def __init__(self, specs: Mapping[str, TokenSpec], dim: int, is_grid: list[bool]):
        super().__init__()
        levels = [s.levels if grid else () for s, grid in zip(specs.values(), is_grid, strict=True)]
        J, L = max(map(len, levels)), max(itertools.chain(*levels))
        padded = torch.tensor(
            [[*row, *[1] * (J - len(row))] for row in levels]
        )  # (G, J); a level of 1 is none
        self.register_buffer("levels", padded, persistent=False)
        self.register_buffer("basis", padded.cumprod(1) // padded, persistent=False)
        self.inner = nn.Linear(dim, dim)
        self.before = nn.Embedding(len(levels) * J * L, dim)  # what level j of codebook g turned out to be
        nn.init.normal_(self.before.weight, std=0.02)
        self.outer = nn.ModuleList(nn.Linear(dim, L) for _ in range(J))

    def log_prob(self, h_BND: Tensor, book_BN: Tensor, code_BN: Tensor) -> Tensor:
        """Log-probability (B, N) of given codes."""
        return self._walk(h_BND, book_BN, code_BN)[1]

    def sample(self, h_BND: Tensor, book_BN: Tensor, temperature: float, generator=None) -> Tensor:
        """Codes (B, N), level by level; temperature 0 takes the likeliest value of each level in turn."""
        return self._walk(h_BND, book_BN, None, temperature, generator)[0]

    def _walk(self, h_BND, book_BN, code_BN=None, temperature=1.0, generator=None) -> tuple[Tensor, Tensor]:
        hidden_BND, J, L = self.inner(h_BND), len(self.outer), self.outer[0].out_features
        levels_BNJ, basis_BNJ = self.levels[book_BN], self.basis[book_BN]
        given_BNJ = None if code_BN is None else (code_BN[..., None] // basis_BNJ) % levels_BNJ
        code_out, logp_BN = torch.zeros_like(book_BN), 0.0
        for j, outer in enumerate(self.outer):
            outside_BNL = torch.arange(L, device=h_BND.device) >= levels_BNJ[..., j, None]
            logits_BNL = outer(F.gelu(hidden_BND)).float().masked_fill(outside_BNL, float("-inf"))
            logp_BNL = logits_BNL.log_softmax(-1)
            value_BN = given_BNJ[..., j] if given_BNJ is not None else draw(logp_BNL, temperature, generator)
            logp_BN = logp_BN + logp_BNL.gather(-1, value_BN[..., None])[..., 0]
            code_out = code_out + value_BN * basis_BNJ[..., j]
            hidden_BND = hidden_BND + self.before((book_BN * J + j) * L + value_BN)
        return code_out, logp_BN


class CodeHead(nn.Module):
    """(B, N, D) of tokens of given codebooks (B, N) -> the law of their codes."""

    def __init__(self, specs: Mapping[str, TokenSpec], dim: int, embedding: str):
        super().__init__()
        by_value = embedding == "value"
        is_grid = [by_value and spec.geometry == "grid" for spec in specs.values()]
        is_ordinal = [by_value and spec.geometry == "ordinal" for spec in specs.values()]
        sizes = [spec.vocab_size for spec in specs.values()]
        self.num_codes = max(sizes)
        self.register_buffer("size", torch.tensor(sizes), persistent=False)
        self.register_buffer("is_grid", torch.tensor(is_grid), persistent=False)
        self.norm = nn.LayerNorm(dim, bias=False)
        is_flat = [not grid for grid in is_grid]
        self.flat = FlatHead(specs, dim, is_flat, is_ordinal) if any(is_flat) else None
        self.level = LevelHead(specs, dim, is_grid) if any(is_grid) else None

    def losses(
        self, h_BND: Tensor, book_BN: Tensor, code_BN: Tensor, smoothing: float, regression: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """(B, N) each: what to train on, and the cross-entropy of the codes themselves.

        The first is the cross-entropy against targets spread over neighbours, plus ``regression`` times the
        squared error of the predicted mean.
        """
        h_BND, grid_BN = self.norm(h_BND), self.is_grid[book_BN]
        if self.level is not None:
            level_BN = -self.level.log_prob(h_BND, book_BN, code_BN * grid_BN)
            if self.flat is None:
                return level_BN, level_BN
        inside_BN = code_BN * ~grid_BN
        if self.flat.shared is None:
            hard_BN = soft_BN = -self.flat.own_log_prob(h_BND, book_BN, inside_BN)
        else:
            logp_BNK = self.flat(h_BND, book_BN)
            hard_BN = soft_BN = -logp_BNK.gather(-1, inside_BN[..., None])[..., 0]
            if smoothing > 0:
                target_BNK = self.flat.spread_targets(inside_BN, book_BN, smoothing)
                soft_BN = -(target_BNK * logp_BNK.masked_fill(target_BNK == 0, 0.0)).sum(-1)
            if regression > 0:
                soft_BN = soft_BN + regression * self.flat.squared_error(logp_BNK, inside_BN, book_BN)
        if self.level is None:
            return soft_BN, hard_BN
        return torch.where(grid_BN, level_BN, soft_BN), torch.where(grid_BN, level_BN, hard_BN)

    def sample(self, h_BND: Tensor, book_BN: Tensor, temperature: float = 1.0, generator=None) -> Tensor:
        """Codes (B, N) drawn from the law; temperature 0 takes the likeliest."""
        h_BND = self.norm(h_BND)
        level = self.level and self.level.sample(h_BND, book_BN, temperature, generator)
        flat = self.flat and draw(self.flat(h_BND, book_BN), temperature, generator)
        if level is None or flat is None:
            return flat if level is None else level
        return torch.where(self.is_grid[book_BN], level, flat)

    def forward(self, h_BND: Tensor, book_BN: Tensor, num_codes: int | None = None) -> Tensor:
        """Log-probabilities (B, N, K) of every code; minus infinity beyond a token's own codebook.

        ``num_codes``: K, where the tokens' codebooks are known to be smaller than the largest of all.
        On a grid this goes through all codes, a few tokens at a time: ``losses`` and ``sample`` do not.
        """
        normed_BND, K = self.norm(h_BND), num_codes or self.num_codes
        logp_BNK = normed_BND.new_full((*book_BN.shape, K), float("-inf"), dtype=torch.float32)
        if self.flat is not None:
            flat_BNK = self.flat(normed_BND, book_BN)[..., :K]
            logp_BNK[..., : flat_BNK.shape[-1]] = flat_BNK
        if self.level is not None:
            grid_BN = self.is_grid[book_BN]
            logp_BNK[grid_BN] = self._all_codes(normed_BND[grid_BN], book_BN[grid_BN], K)
        return logp_BNK

    def _all_codes(self, h_MD: Tensor, book_M: Tensor, K: int) -> Tensor:
        code_1K = torch.arange(K, device=h_MD.device)[None]
        rows, chunk = [], max(1, 2**24 // (K * h_MD.shape[-1]))
        for h_mD, book_m in zip(h_MD.split(chunk), book_M.split(chunk), strict=True):
            book_mK = book_m[:, None].expand(-1, K)
            inside_mK = code_1K < self.size[book_mK]
            logp_mK = self.level.log_prob(h_mD[:, None].expand(-1, K, -1), book_mK, code_1K * inside_mK)
            rows.append(logp_mK.masked_fill(~inside_mK, float("-inf")))
        return torch.cat(rows) if rows else h_MD.new_zeros(0, K)


def draw(logp_BNK: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Codes (B, N) from log-probabilities (B, N, K), sharpened by a temperature below 1; 0: the likeliest."""
    if temperature == 0:
        return logp_BNK.argmax(-1)
    probs = (logp_BNK / temperature).softmax(-1)
    return torch.multinomial(probs.flatten(0, -2), 1, generator=generator).view(logp_BNK.shape[:-1])
