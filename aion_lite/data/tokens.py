"""TokenDataset: the samples of one data set after the codecs, as integer tokens by modality name.

Knows nothing of how tokens were made or what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class TokenDataset:
    """Tokens of B samples.

    Args:
        tokens: modality name -> int64 (B, num_tokens).
        present: modality name -> bool (B,), or (B, num_tokens) where single tokens may be missing;
            a name left out is all measured.
    """

    def __init__(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None):
        if not isinstance(tokens, Mapping):
            kind = type(tokens).__name__
            raise TypeError(f"Tokens come by modality name, got {kind}: encode a data set with its codecs.")
        present, unknown = dict(present or {}), sorted(set(present or {}) - set(tokens))
        if not tokens or unknown:
            raise ValueError(f"Need tokens of one modality or more, and of {unknown}, which present names.")
        self.tokens = {name: torch.as_tensor(t) for name, t in tokens.items()}
        self.present = {}
        for name, t in self.tokens.items():
            if t.ndim != 2 or t.dtype.is_floating_point or t.dtype == torch.bool:
                got = f"{t.dtype} {tuple(t.shape)}"
                raise TypeError(f"Tokens of {name!r} must be integers (B, num_tokens), got {got}.")
            mask = torch.as_tensor(present.get(name, torch.ones(len(t), dtype=torch.bool)), device=t.device)
            if mask.dtype != torch.bool or mask.shape not in (t.shape, t.shape[:1]):
                got = f"{mask.dtype} {tuple(mask.shape)}"
                raise ValueError(f"present[{name!r}] must be bool (B,) or (B, num_tokens), got {got}.")
            self.present[name] = mask
        sizes = {name: len(t) for name, t in self.tokens.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Every modality needs tokens of the same samples, got {sizes}.")

    def __len__(self) -> int:
        return len(next(iter(self.tokens.values())))

    def __getitem__(self, rows: Any) -> TokenDataset:
        """A slice, mask or index tensor of samples; an int gives a data set of one."""
        rows = [rows] if isinstance(rows, int) else rows
        tokens = {name: t[rows] for name, t in self.tokens.items()}
        return TokenDataset(tokens, {name: p[rows] for name, p in self.present.items()})

    def select(self, names: Sequence[str]) -> TokenDataset:
        """The same samples with fewer modalities."""
        unknown = set(names) - set(self.tokens)
        if unknown:
            raise ValueError(f"No tokens of {sorted(unknown)}; there are {list(self.tokens)}.")
        return TokenDataset({n: self.tokens[n] for n in names}, {n: self.present[n] for n in names})

    def to(self, device: torch.device | str) -> TokenDataset:
        return TokenDataset(
            {n: t.to(device, non_blocking=True) for n, t in self.tokens.items()},
            {n: p.to(device, non_blocking=True) for n, p in self.present.items()},
        )
