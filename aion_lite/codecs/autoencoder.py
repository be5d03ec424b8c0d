"""What the trained codecs share: a convolutional autoencoder around finite scalar quantization (FSQ).

The convolutions work at the resolution of the tokens, one token a patch, so cost follows the tokens and
not the pixels. One code serves signals on a line (``ndim=1``) and on a grid (``ndim=2``: images).
May import the contract and the quantizers; knows nothing of data sets and training.

B samples, C channels, W width; "..." is the line or the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aion_lite.codecs.base import Codec, TokenSpec, as_cells
from aion_lite.modalities import Modality, check_present
from aion_lite.quantizers import FiniteScalarQuantizer

CONV = {1: nn.Conv1d, 2: nn.Conv2d}


class ConvBlock(nn.Module):
    """Residual block: each channel over its neighbourhood, then across channels (Liu et al. 2022, Fig. 4)."""

    def __init__(self, width: int, ndim: int, kernel: int = 5, expansion: int = 4):
        super().__init__()
        self.depthwise = CONV[ndim](width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, expansion * width)
        self.outer = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).movedim(1, -1))
        return x + self.outer(F.gelu(self.inner(h))).movedim(-1, 1)


class Encoder(nn.Module):
    """(B, C, ...) -> (B, d, ... / patch)."""

    def __init__(
        self, channels: int, out: int, patch: int, width: int, depth: int, ndim: int, norm: bool = True
    ):  # fmt: skip
        super().__init__()
        self.patchify = CONV[ndim](channels, width, patch, stride=patch)
        self.blocks = nn.Sequential(*(ConvBlock(width, ndim) for _ in range(depth)))
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.project = nn.Linear(width, out)

    def hidden(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, ... / patch, width): what the projection sees."""
        return self.norm(self.blocks(self.patchify(x)).movedim(1, -1))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.hidden(x)).movedim(-1, 1)


class Decoder(nn.Module):
    """(B, d, ... / patch) -> (B, C, ...): blocks on tokens, then one thin block on what they unfold to."""

    def __init__(
        self, d: int, channels: int, patch: int, width: int, depth: int, ndim: int, norm: bool = True
    ):  # fmt: skip
        super().__init__()
        self.patch, self.ndim, self.thin = patch, ndim, max(8, width // 4)
        self.project = nn.Linear(d, width)
        self.blocks = nn.Sequential(*(ConvBlock(width, ndim) for _ in range(depth)))
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.unfold = nn.Linear(width, self.thin * patch**ndim)
        self.refine = ConvBlock(self.thin, ndim)
        self.out = CONV[ndim](self.thin, channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.blocks(self.project(z.movedim(1, -1)).movedim(-1, 1))
        h = self.unfold(self.norm(h.movedim(1, -1)))  # (B, ..., thin * patch**ndim)
        h = h.unflatten(-1, (self.thin, *[self.patch] * self.ndim))
        if self.ndim == 1:
            h = h.permute(0, 2, 1, 3).flatten(2, 3)
        else:
            h = h.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)  # (B, thin, H, p, W, p) -> pixels
        return self.out(self.refine(h))


class AutoencoderCodec(Codec):
    """Base of the codecs trained by gradient: values -> autoencoder's latent -> FSQ codes, and back.

    Values are standardised channel by channel with the mean and standard deviation that ``fit_scale`` saw
    (``train_codec`` calls it). Gaps enter as 0; with ``sees_gaps`` the mask enters beside the values.

    ``norm=False`` leaves out the layer norms next to the latent. With them a patch's size is gone before the
    projection sees it, so what is rare and strong saturates: fine for whole pictures, not for a bright spot.
    """

    quantizer: FiniteScalarQuantizer
    sees_gaps = True

    def __init__(
        self, modality: Modality, levels: Sequence[int], patch: int, width: int, depth: int,
        encoder_depth: int, kind: type[Modality], channels_out: int | None = None, norm: bool = True,
    ):  # fmt: skip
        super().__init__()
        if not isinstance(modality, kind):
            raise TypeError(f"{type(self).__name__} needs a declared {kind.__name__}, got {modality}.")
        if patch < 1 or width < 8 or min(depth, encoder_depth) < 1:
            raise ValueError(
                f"{type(self).__name__} needs patch, depth and encoder_depth of 1 or more and a width of 8 "
                f"or more, got {patch}, {depth}, {encoder_depth} and {width}."
            )
        self.modality, self.patch = modality, patch
        channels, *size = modality.shape if len(modality.shape) > 1 else (1, *modality.shape)
        self.channels, self.size, self.ndim = channels, size, len(size)
        self.grid = tuple(math.ceil(s / patch) for s in size)
        self.quantizer = FiniteScalarQuantizer(levels)
        channels_in = channels * (2 if self.sees_gaps else 1)
        self.encoder = Encoder(channels_in, len(levels), patch, width, encoder_depth, self.ndim, norm)
        self.decoder = Decoder(len(levels), channels_out or channels, patch, width, depth, self.ndim, norm)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def token_spec(self) -> TokenSpec:
        features = self.quantizer.code_features()
        levels, N, K = self.quantizer.num_levels, math.prod(self.grid), self.quantizer.codebook_size
        return TokenSpec(N, K, "grid", features, levels=levels, grid=self.grid)

    @torch.no_grad()
    def fit_scale(self, x: Any, present: Tensor | None = None) -> None:
        """Mean and standard deviation of each channel, over what was measured; 0 and 1 where nothing was."""
        x = self.modality.check(x, present)
        y, mask = self._channels_first(x, check_present(self.modality, present, len(x), x.device))
        y, mask = self._compress(y).transpose(0, 1).flatten(1), mask.transpose(0, 1).flatten(1)
        count = mask.sum(1, dtype=torch.float64).clamp_min(1)
        mean = (y * mask).sum(1, dtype=torch.float64) / count
        variance = ((y - mean[:, None]).square() * mask).sum(1) / count
        self.mean.copy_(mean)
        self.std.copy_(torch.where(variance > 0, variance.sqrt(), 1.0))

    def loss(
        self, x: Tensor, present: Tensor | None = None, weight: Tensor | None = None,
        latent: Tensor | None = None,
    ):  # fmt: skip
        """Mean squared error of what was measured, in standard deviations, of what ``decode`` would give.

        ``weight``: inverse variance of x, of its shape. A value counts by it times the channel's variance, so
        channels of other units count alike. ``latent``: where it is known already.
        """
        present = torch.ones(len(x), dtype=torch.bool, device=x.device) if present is None else present
        y, mask = self._standardised(x, present)
        z = self.quantizer.quantize(self._latent(y, mask) if latent is None else latent)
        held = self.token_present(z, present)
        if held.ndim > 1:  # absent tokens are decoded as code 0, the lowest level of every channel
            z = torch.where(held.reshape(len(z), 1, *self.grid), z, -1.0)
        if weight is not None:
            std, weight = self._per_channel(self.std), self._channels_first(weight, present)[0]
            mask = torch.where(mask > 0, weight * std * std, 0.0)
        mse = ((self._reconstruct(z) - y).square() * mask).sum() / mask.sum().clamp_min(1e-30)
        return mse, {"mse": mse.detach()}

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The matrices inside the blocks: what Muon is for (``training.py``)."""
        blocks = [*self.encoder.blocks, *self.decoder.blocks]
        return [p for block in blocks for p in block.parameters() if p.ndim == 2]

    def _encode(self, x: Tensor, present: Tensor) -> Tensor:
        return self._latent(*self._standardised(x, present))

    def _decode(self, z: Tensor) -> Tensor:
        y = self._reconstruct(z) * self._per_channel(self.std) + self._per_channel(self.mean)
        return self._expand(y).reshape(len(z), *self.modality.shape)

    def _latent(self, y: Tensor, mask: Tensor) -> Tensor:
        """Standardised values and mask (B, C, ...) -> (B, d, ... / patch)."""
        return self.encoder(self._network_input(y, mask))

    def _network_input(self, y: Tensor, mask: Tensor) -> Tensor:
        """Standardised values and mask -> what the encoder is given, padded to whole patches."""
        y = torch.cat([y, mask], 1) if self.sees_gaps else y
        pad = [n for s in reversed(self.size) for n in (0, -s % self.patch)]
        # What fills up the last patch is a gap where the network sees gaps, else a copy of the last pixel.
        return F.pad(y, pad, mode="constant" if self.sees_gaps else "replicate")

    def _reconstruct(self, z: Tensor) -> Tensor:
        out = self.decoder(z)
        return out[(..., *(slice(s) for s in self.size))] if out.shape[2:] != tuple(self.size) else out

    def _standardised(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        y, mask = self._channels_first(x, present)
        y = (self._compress(y) - self._per_channel(self.mean)) / self._per_channel(self.std)
        return torch.where(mask > 0, y, 0.0), mask

    def _channels_first(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Values and mask as floats (B, C, ...)."""
        mask = as_cells(present, x).to(x.dtype).expand_as(x)
        shape = (len(x), self.channels, *self.size)
        return x.reshape(shape), mask.reshape(shape)

    def _per_channel(self, statistic: Tensor) -> Tensor:
        return statistic.reshape(-1, *[1] * self.ndim)

    def _compress(self, x: Tensor) -> Tensor:
        """To the scale that is standardised and scored; ``_expand`` is its inverse."""
        return x

    def _expand(self, y: Tensor) -> Tensor:
        return y
