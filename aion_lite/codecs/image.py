"""ImageCodec: pixels to a grid of tokens and back.

May import the shared autoencoder; knows nothing of data sets and training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from aion_lite.codecs.autoencoder import AutoencoderCodec
from aion_lite.modalities import Image


class ImageCodec(AutoencoderCodec):
    """An Image (B, C, H, W) to tokens (B, ceil(H / patch) * ceil(W / patch)), any channels and size.

    Missing bands (``present`` (B, C)) are left out of the projection into the network, which is scaled up by
    sqrt(C / bands present), as in AION-1 (Parker et al. 2025); decoding gives every band.

    Args:
        levels: of the finite scalar quantizer; the codebook has their product, 1,000 by default.
        patch: pixels a token, along each side.
        width, depth, encoder_depth: channels, and blocks of the decoder and the encoder.
        compression: scale s of arcsinh(x / s), for brightness over many decades; None for none. The loss is
            then that of the compressed image.
        norm: layer norms next to the latent; without, what is rare and strong keeps its size.
    """

    sees_gaps = False

    def __init__(
        self,
        modality: Image,
        levels: Sequence[int] = (8, 5, 5, 5),
        patch: int = 4,
        width: int = 128,
        depth: int = 4,
        encoder_depth: int = 2,
        compression: float | None = None,
        norm: bool = True,
    ):
        if compression is not None and not 0 < compression < math.inf:
            raise ValueError(f"compression must be positive, in the image's unit, got {compression}.")
        self.compression = compression
        super().__init__(modality, levels, patch, width, depth, encoder_depth, Image, norm=norm)

    def _compress(self, x: Tensor) -> Tensor:
        return x if self.compression is None else torch.asinh(x / self.compression)

    def _expand(self, y: Tensor) -> Tensor:
        return y if self.compression is None else torch.sinh(y) * self.compression

    def _network_input(self, y: Tensor, mask: Tensor) -> Tensor:
        bands = mask[:, :, :1, :1].sum(1, keepdim=True).clamp_min(1)
        return super()._network_input(y * (self.channels / bands).sqrt(), mask)
