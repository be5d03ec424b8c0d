"""SpectrumCodec: flux on one wavelength grid to an amplitude token and a line of shape tokens, and back.

May import the shared autoencoder; knows nothing of data sets and training.

B samples, W wavelengths, N = ceil(W / patch) patches, d channels of the quantizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aion_lite.codecs.autoencoder import AutoencoderCodec
from aion_lite.codecs.base import TokenSpec, as_cells
from aion_lite.modalities import Spectrum, check_present


class SpectrumCodec(AutoencoderCodec):
    """A Spectrum (B, W) to tokens (B, 1 + N): its amplitude, then its shape, patch by patch.

    Token 0 is the root mean square of the covered flux, on a log scale; not the mean, which is 0 for spectra
    divided by their continuum. The others code flux / rms, so a spectrum c times as bright differs in token 0
    alone. Coverage goes in as ``present`` (B, W) and comes out of ``decode_present``. Values outside it never
    matter, and a patch without a covered pixel has an absent token. After Parker et al. 2025 (AION-1), whose
    codec normalises by the mean and tokenises padding.

    Args:
        levels: of the finite scalar quantizer; the codebook has their product, 1,000 by default.
        patch: wavelengths a token.
        width, depth, encoder_depth: channels, and blocks of the decoder and the encoder.
        norm_codes: codes of the amplitude, in equal ratios from the lowest to the highest that ``fit_scale``
            sees. (Quantiles, as scalars have them, would leave the brightest spectra a code each.)
        max_weight: most that a pixel's squared signal-to-noise counts in the loss.
        norm: layer norms next to the latent; without, what is rare and strong keeps its size.
    """

    def __init__(
        self,
        modality: Spectrum,
        levels: Sequence[int] = (8, 5, 5, 5),
        patch: int = 32,
        width: int = 128,
        depth: int = 4,
        encoder_depth: int = 2,
        norm_codes: int = 256,
        max_weight: float = 100.0,
        norm: bool = True,
    ):
        if not max_weight > 0 or norm_codes < 2:
            raise ValueError(
                f"max_weight must be positive, norm_codes 2 or more: {max_weight}, {norm_codes}."
            )
        # Out come two channels, flux and the logit of coverage.
        super().__init__(modality, levels, patch, width, depth, encoder_depth, Spectrum, 2, norm)
        self.norm_codes, self.max_weight = norm_codes, max_weight
        self.register_buffer("log_rms_range", torch.full((2,), torch.nan, dtype=torch.float64))

    def token_spec(self) -> TokenSpec:
        self._check_fitted()
        position = torch.linspace(-1.7, 1.7, self.norm_codes)[:, None]  # mean 0, standard deviation 1
        norm = TokenSpec(1, self.norm_codes, "ordinal", position, self._amplitudes().float())
        return TokenSpec.joined({"norm": norm, "flux": super().token_spec()})

    @torch.no_grad()
    def fit_scale(self, x: Any, present: Tensor | None = None) -> None:
        """Codes of the amplitude, and mean and standard deviation of flux / rms, from these spectra alone."""
        x, mask = self._checked(x, present)
        if not mask.any():
            raise ValueError(f"{self.modality} has no covered spectrum to fit its codec on: leave it out.")
        shape, rms = _shape_and_rms(x, mask)
        self.log_rms_range.copy_(torch.stack(rms[mask.any(1)].log().aminmax()))
        super().fit_scale(shape, mask)

    def loss(self, x: Tensor, present: Tensor | None = None, weight: Tensor | None = None):
        """Squared error of the covered flux / rms, in standard deviations, plus the coverage's cross-entropy.

        ``weight``: inverse variance (B, W) in 1 / flux^2. A pixel counts ivar * rms^2, its squared signal to
        noise, clipped at ``max_weight``; without, 1. The error is the weighted mean over the batch, so its
        size does not depend on the noise, and a constant weight is none.
        """
        present = torch.ones(len(x), dtype=torch.bool, device=x.device) if present is None else present
        mask = as_cells(present, x).expand_as(x)
        shape, rms = _shape_and_rms(x, mask)
        y, seen = super()._standardised(shape, mask)  # (B, 1, W) each
        # Code 0, the corner where every level is lowest, in place of absent tokens: what decode will see.
        z = self.quantizer.quantize(self._latent(y, seen))
        out = self._reconstruct(torch.where(self._covered(mask)[:, None], z, -1.0))
        count = mask.to(y.dtype)
        if weight is not None:
            ivar = torch.where(mask, weight, 0.0).double()
            count = (ivar * rms[:, None].square()).clamp(0, self.max_weight).to(y.dtype)
        mse = ((out[:, 0] - y[:, 0]).square() * count).sum() / count.sum().clamp_min(1e-30)
        coverage = F.binary_cross_entropy_with_logits(out[:, 1], seen[:, 0])
        return mse + coverage, {"mse": mse.detach(), "coverage": coverage.detach()}

    @torch.no_grad()
    def encode(self, x: Any, present: Tensor | None = None, batch_size: int = 512) -> Tensor:
        """Flux (B, W) -> tokens (B, 1 + N) int64; tokens of what is absent are 0.

        Raises ValueError where a spectrum is 0 all over what it claims to cover: that is padding.
        """
        x, mask = self._checked(x, present)
        self._check_fitted()
        tokens = torch.zeros(len(x), self.num_tokens, dtype=torch.int64, device=x.device)
        for i in range(0, len(x), batch_size):
            part, covered = x[i : i + batch_size].to(self.device), mask[i : i + batch_size].to(self.device)
            tokens[i : i + batch_size, 0] = self._encode_rms(_shape_and_rms(part, covered)[1])
            tokens[i : i + batch_size, 1:] = self.quantizer.encode(self._encode(part, covered))
        return tokens * self.token_present(tokens, mask)

    @torch.no_grad()
    def decode(self, tokens: Tensor, batch_size: int = 512) -> Tensor:
        """Tokens (B, 1 + N) -> flux (B, W) in the unit of the input, over the whole grid."""
        shape = self._output(tokens, batch_size)[:, 0] * self.std + self.mean
        return (shape * self._amplitudes()[tokens[:, :1].to(self.device)].float()).to(tokens.device)

    @torch.no_grad()
    def decode_present(self, tokens: Tensor, batch_size: int = 512) -> Tensor:
        """Tokens (B, 1 + N) -> bool (B, W), where the spectrum was likely covered."""
        return (self._output(tokens, batch_size)[:, 1] > 0).to(tokens.device)

    def token_present(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Bool (B,), or (B, 1 + N): the amplitude where anything is covered, a patch where it is."""
        if present.ndim == 1:
            return present
        return torch.cat([present.any(1, keepdim=True), self._covered(present)], 1)

    def _amplitudes(self) -> Tensor:
        """(norm_codes,) root mean square flux that each code of token 0 stands for."""
        low, high = self.log_rms_range.tolist()
        return torch.linspace(low, high, self.norm_codes, dtype=torch.float64, device=self.device).exp()

    def _encode_rms(self, rms: Tensor) -> Tensor:
        codes = self._amplitudes().log()
        return torch.bucketize(rms.log(), (codes[1:] + codes[:-1]) / 2)

    def _output(self, tokens: Tensor, batch_size: int) -> Tensor:
        """Tokens (B, 1 + N) -> (B, 2, W): standardised flux / rms, and the logit of coverage."""
        self._check_tokens(tokens)
        parts = tokens[:, 1:].to(self.device).split(batch_size)
        return torch.cat([self._reconstruct(self.quantizer.decode(codes)) for codes in parts])

    def _standardised(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        return super()._standardised(_shape_and_rms(x, present)[0], present)

    def _covered(self, mask: Tensor) -> Tensor:
        """Pixels (B, W) -> patches (B, N) with a covered pixel."""
        return F.pad(mask, (0, -mask.shape[1] % self.patch)).unflatten(1, (-1, self.patch)).any(-1)

    def _checked(self, x: Any, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Flux (B, W), 0 outside the coverage, and the coverage (B, W)."""
        x = self.modality.check(x, present)
        mask = as_cells(check_present(self.modality, present, len(x), x.device), x).expand_as(x)
        dark = mask.any(1) & (x == 0).all(1)
        if dark.any():
            raise ValueError(
                f"{self.modality}: {int(dark.sum())} spectra are 0 wherever they claim to be covered (first: "
                f"row {int(dark.nonzero()[0])}), which is padding: mark them absent in present."
            )
        return x, mask

    def _check_fitted(self) -> None:
        if self.log_rms_range.isnan().any():
            raise RuntimeError(f"The codec of {self.modality} is not fitted: train it, or call fit_scale.")


def _shape_and_rms(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Flux and coverage (B, W) -> flux / rms (B, W), 0 in gaps, and rms (B,) float64, 1 where all is gap.

    float64: the square of a flux of 1e-20 (erg/s/cm2/A) has no float32.
    """
    x = torch.where(mask, x, 0.0).double()
    power = x.square().sum(1) / mask.sum(1).clamp_min(1)
    rms = torch.where(power > 0, power.sqrt(), 1.0)
    return (x / rms[:, None]).float(), rms
