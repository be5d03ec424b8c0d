"""Codecs with nothing to train by gradient: one number, or one class, a sample; one token each.

The number's codes are quantiles of the data (``quantizers.py``); the class is its own code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aion_lite.codecs.base import Codec, TokenSpec
from aion_lite.modalities import Category, Scalar, check_present
from aion_lite.quantizers import (
    ScalarCompressedReservoirQuantizer,
    ScalarLogReservoirQuantizer,
    ScalarReservoirQuantizer,
)


class ScalarCodec(Codec):
    """A Scalar (B,) to one token (B, 1), the nearest of at most ``codebook_size`` quantiles seen by ``fit``.

    The declaration's ``transform`` chooses the scale the codes are laid out on. Works from ten samples.
    ``even``: share of the codes laid out in equal steps, so that long tails are not rounded coarsely
    (``quantizers.py``); wise where differences between modalities matter, as colours do.
    """

    def __init__(
        self,
        modality: Scalar,
        codebook_size: int = 1024,
        reservoir_size: int = 100_000,
        seed: int = 0,
        even: float = 0.0,
    ):
        super().__init__()
        if not isinstance(modality, Scalar):
            raise TypeError(f"ScalarCodec needs a Scalar, got {modality}.")
        self.modality = modality
        sizes = (codebook_size, reservoir_size, seed)
        if modality.transform == "log":
            self.quantizer = ScalarLogReservoirQuantizer(*sizes, even=even)
        elif modality.transform == "arcsinh":
            self.quantizer = ScalarCompressedReservoirQuantizer(*sizes, scale=modality.scale, even=even)
        else:
            self.quantizer = ScalarReservoirQuantizer(*sizes, even=even)

    def fit(self, x: Any, present: Tensor | None = None) -> ScalarCodec:
        """Take in the measured values of x (B,); call again to take in more."""
        x = self.modality.check(x, present)
        measured = x[check_present(self.modality, present, len(x), x.device)]
        if len(measured) == 0:
            raise ValueError(f"{self.modality} has no measured sample to fit its codec on: leave it out.")
        self.quantizer.update(measured)
        return self

    @torch.no_grad()
    def encode(self, x: Any, present: Tensor | None = None) -> Tensor:
        x = self.modality.check(x, present)
        self._check_fitted()
        keep = check_present(self.modality, present, len(x), x.device)
        tokens = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        # Absent samples hold 0, which a log scale has no place for.
        tokens[keep] = self.quantizer.encode(x[keep]).to(x.device)
        return tokens[:, None]

    def _decode(self, z: Tensor) -> Tensor:
        return z[:, 0]

    def token_spec(self) -> TokenSpec:
        self._check_fitted()
        quantizer = self.quantizer
        where, values, cells = quantizer.code_features(), quantizer.values, quantizer.cells
        return TokenSpec(1, quantizer.num_codes, "ordinal", where, values, cells)

    def _check_fitted(self) -> None:
        if int(self.quantizer.num_seen) == 0:
            raise RuntimeError(f"The codec of {self.modality} is not fitted: call fit on training data.")


class CategoryCodec(Codec):
    """A Category (B,) to one token (B, 1): the class is the code, so there is nothing to fit."""

    def __init__(self, modality: Category):
        super().__init__()
        if not isinstance(modality, Category):
            raise TypeError(f"CategoryCodec needs a Category, got {modality}.")
        self.modality = modality
        self.quantizer = nn.Identity()

    def fit(self, x: Any, present: Tensor | None = None) -> CategoryCodec:
        self.modality.check(x, present)
        return self

    @torch.no_grad()
    def encode(self, x: Any, present: Tensor | None = None) -> Tensor:
        return self.modality.check(x, present)[:, None]

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        self._check_tokens(tokens)
        return self.modality.check(tokens[:, 0])

    def token_spec(self) -> TokenSpec:
        return TokenSpec(1, len(self.modality.values), "nominal")
