"""TableCodec: a row of numbers and classes to one token a column, and back.

May import the contract and the scalar codecs, of which it holds one a column; knows nothing of data sets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aion_lite.codecs.base import Codec, TokenSpec, as_cells
from aion_lite.codecs.scalar import CategoryCodec, ScalarCodec
from aion_lite.modalities import Category, Table, check_present


class TableCodec(Codec):
    """A Table (B, columns) to tokens (B, columns), each column with a codebook of its own.

    A number gets the nearest of at most ``codebook_size`` quantiles of its column, a category its class. A
    missing cell has an absent token. Categories decode to their codes as floats, as the Table holds them.
    """

    def __init__(
        self, modality: Table, codebook_size: int = 256, reservoir_size: int = 20_000, seed: int = 0
    ):
        super().__init__()
        if not isinstance(modality, Table):
            raise TypeError(f"TableCodec needs a Table, got {modality}.")
        self.modality = modality
        self.columns = nn.ModuleList(
            CategoryCodec(column)
            if isinstance(column, Category)
            else ScalarCodec(column, codebook_size, reservoir_size, seed)
            for column in modality.columns
        )

    def fit(self, x: Any, present: Tensor | None = None) -> TableCodec:
        """Take in the measured cells of x (B, columns); call again to take in more.

        Raises ValueError, naming them, where columns have no measured cell; nothing is taken in then.
        """
        x, cells = self._checked(x, present)
        empty = [c.name for c, seen in zip(self.modality.columns, cells.any(0), strict=True) if not seen]
        if empty:
            raise ValueError(
                f"{self.modality} has no measured cell to fit its codec on in {', '.join(empty)}: "
                f"declare the table without."
            )
        for codec, column, measured in self._by_column(x, cells):
            codec.fit(column, measured)
        return self

    @torch.no_grad()
    def encode(self, x: Any, present: Tensor | None = None) -> Tensor:
        """Cells (B, columns) -> tokens (B, columns) int64; tokens of missing cells are 0."""
        by_column = self._by_column(*self._checked(x, present))
        return torch.cat([codec.encode(column, measured) for codec, column, measured in by_column], 1)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, columns) -> cells (B, columns) float32; a missing cell's comes out as code 0 says."""
        self._check_tokens(tokens)
        pairs = zip(self.columns, tokens.split(1, dim=1), strict=True)
        return torch.stack([codec.decode(column).float() for codec, column in pairs], dim=1)

    def token_present(self, tokens: Tensor, present: Tensor) -> Tensor:
        return present  # a cell is a token

    def token_spec(self) -> TokenSpec:
        return TokenSpec.joined({codec.modality.name: codec.token_spec() for codec in self.columns})

    def _checked(self, x: Any, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cells and whether they were measured, (B, columns) each."""
        x = self.modality.check(x, present)
        return x, as_cells(check_present(self.modality, present, len(x), x.device), x).expand_as(x)

    def _by_column(self, x: Tensor, cells: Tensor):
        """(codec, values (B,), measured (B,)) of each column."""
        for i, codec in enumerate(self.columns):
            yield codec, x[:, i].long() if isinstance(codec, CategoryCodec) else x[:, i], cells[:, i]
