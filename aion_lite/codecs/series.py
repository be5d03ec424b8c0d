"""TimeSeriesCodec: signals to a line of tokens and back.

May import the shared autoencoder; knows nothing of data sets and training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from aion_lite.codecs.autoencoder import AutoencoderCodec
from aion_lite.modalities import TimeSeries


class TimeSeriesCodec(AutoencoderCodec):
    """A TimeSeries (B, C, T) to tokens (B, ceil(T / patch)): all channels of a stretch in one token.

    Gaps and irregular sampling: ``present`` (B, C, T) says where the signal was measured. The mask enters the
    network beside the values, gaps are not scored, and a stretch with no measurement has an absent token.

    Args:
        levels: of the finite scalar quantizer; the codebook has their product, 1,000 by default.
        patch: time steps a token.
        width, depth, encoder_depth: channels, and blocks of the decoder and the encoder.
        norm: layer norms next to the latent; without, what is rare and strong keeps its size.
    """

    def __init__(
        self,
        modality: TimeSeries,
        levels: Sequence[int] = (8, 5, 5, 5),
        patch: int = 8,
        width: int = 128,
        depth: int = 4,
        encoder_depth: int = 2,
        norm: bool = True,
    ):
        super().__init__(modality, levels, patch, width, depth, encoder_depth, TimeSeries, norm=norm)

    def token_present(self, tokens: Tensor, present: Tensor) -> Tensor:
        if present.ndim == 1:
            return present
        anywhere = F.pad(present.any(1).float(), (0, -self.size[0] % self.patch))
        return anywhere.unflatten(1, (-1, self.patch)).amax(-1) > 0
