"""How likely an xray is at each severity, and an ecg at each rate, under the law of the synthetic patients.

Exact: the sums run over every lesion, rate and phase that can be drawn; what is normal (body, noise, gain,
wander) is integrated out in closed form. Covariances are inverted in float64, sums run in float32: about two
milliseconds an image or ecg on one core.

Shapes: B patients, S severities, Q lesions (width and place), J rates, P phases, K body modes, M wanders.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from aion_lite.data.synthetic_law import (
    FFT_LENGTH,
    GAIN_SD,
    HARMONICS,
    LENGTH,
    LESION_ATTENUATION,
    PHASES,
    RATE_BINS,
    PatientLaw,
)

STEP = 0.0125  # of the grid of severities
NODES = (np.arange(320) + 0.5) * STEP  # (S,) to 4.0: one patient in 600,000 is worse


class Likelihoods:
    """log p(xray | severity that it shows) and log p(ecg | its rate), up to a constant a patient."""

    def __init__(self, law: PatientLaw):
        self.law = law
        self._chest, self._modes, self._profiles, self._slow = (
            torch.from_numpy(a) for a in (law.chest, law.modes, law.profiles, law.slow)
        )
        self._places = torch.from_numpy(law.places)
        self._body_gain = _inverse(self._modes.flatten(1), law.pixel_sd)
        self._wander_gain = _inverse(self._slow, law.ecg_sd)

    def xray(self, x: Tensor) -> Tensor:
        """Images (B, 1, H, W) -> (B, S) over ``NODES``.

        A lesion T adds m = 0.4 s to normal pixels of covariance C (noise and body), so the log ratio to no
        lesion is m u - m**2 q / 2 with u = T' C^-1 (x - chest), a matched filter, and q = T' C^-1 T.
        """
        m = torch.from_numpy(LESION_ATTENUATION * NODES).float()[:, None]
        loss = -0.5 * m**2 * self._lesion_power.float()  # (S, Q)
        out = []
        for part in x.split(64):
            for u in self._filter(
                self._whiten(part[:, 0] - self._chest)
            ):  # (Q,); one at a time stays in cache
                out.append(torch.addcmul(loss, m, u).logsumexp(1))
        return torch.stack(out)

    def ecg(self, x: Tensor) -> Tensor:
        """Signals (B, 1, T) -> (B, J) over ``RATE_BINS``.

        At rate j and phase p a beat W of gain g ~ N(1, 0.2**2) lies in normal samples of covariance C (noise
        and wander); with u = W' C^-1 x and q = W' C^-1 W the gain's integral is that of a normal. u of all
        rates comes from one Fourier transform: harmonic k of rate bin j is its bin k j.
        """
        k = np.arange(1, HARMONICS + 1)
        turn = self.law.harmonics * np.exp(2j * np.pi * np.outer(np.arange(PHASES), k) / PHASES)  # (P, k)
        turn = torch.from_numpy(np.concatenate([turn.real, turn.imag], 1).T).float()  # (2k, P)
        bins = torch.from_numpy(RATE_BINS[:, None] * k)
        variance = GAIN_SD**2
        spread = 1 + variance * _beat_power(PatientLaw(noise=self.law.noise))  # (J, P)
        out = []
        for part in x.split(32):
            spectrum = torch.fft.rfft(self._straighten(part[:, 0].double()).float(), FFT_LENGTH)[
                :, bins
            ]  # (B, J, k)
            u = torch.cat([spectrum.real, spectrum.imag], -1) @ turn  # (B, J, P): Re(a e^ip conj(spectrum))
            log_l = (variance * u + 1) ** 2 / (2 * variance * spread) - 0.5 * spread.log()
            out.append(log_l.logsumexp(-1))
        return torch.cat(out)

    def _whiten(self, z: Tensor) -> Tensor:
        """C^-1 z of z (B, H, W): the body has rank K, so Woodbury's identity needs a K x K inverse only."""
        along = torch.einsum("khw,bhw->bk", self._modes, z) @ self._body_gain
        return (z - torch.einsum("bk,khw->bhw", along, self._modes)) / self.law.pixel_sd**2

    def _straighten(self, z: Tensor) -> Tensor:
        """C^-1 z of z (B, T), the same for the wander of an ecg."""
        along = z @ self._slow.T @ self._wander_gain
        return (z - along @ self._slow) / self.law.ecg_sd**2

    def _filter(self, z: Tensor) -> Tensor:
        """T' z of every lesion: (B, H, W) -> (B, Q). A lesion is a row profile times a column profile."""
        u = torch.einsum("rph,bhw,rqw->brpq", self._profiles, z, self._profiles)
        return u[:, :, self._places[:, 0], self._places[:, 1]].flatten(1)

    @cached_property
    def _lesion_power(self) -> Tensor:
        """(Q,) q = T' C^-1 T."""
        rows, columns = (self._profiles[:, self._places[:, i]] for i in (0, 1))  # (R, places, H)
        lesions = zip(rows.flatten(0, 1).split(64), columns.flatten(0, 1).split(64), strict=True)
        lesions = (a[:, :, None] * b[:, None, :] for a, b in lesions)  # (64, H, W)
        return torch.cat([(t * self._whiten(t)).sum((1, 2)) for t in lesions])


def _inverse(modes: Tensor, sd: float) -> Tensor:
    """(K, K) of Woodbury's identity, of modes (K, N) in white noise."""
    return torch.linalg.inv(sd**2 * torch.eye(len(modes), dtype=modes.dtype) + modes @ modes.T)


@lru_cache(maxsize=4)  # seconds to make, 360 kB to keep
def _beat_power(law: PatientLaw) -> Tensor:
    """(J, P) q = W' C^-1 W."""
    phases, likelihoods, power = np.arange(PHASES), Likelihoods(law), []
    for j in RATE_BINS:
        beats = torch.from_numpy(law.beats(np.full(PHASES, j), phases)).double()
        power.append((beats * likelihoods._straighten(beats)).sum(1))
    return torch.stack(power).float()


def check_signals(law: PatientLaw, xray: Tensor | None = None, ecg: Tensor | None = None) -> None:
    """Raises ValueError where images or signals aren't of the law's shape."""
    for name, x, shape in (("xray", xray, (1, law.image_size, law.image_size)), ("ecg", ecg, (1, LENGTH))):
        if x is not None and tuple(x.shape[1:]) != shape:
            raise ValueError(f"{name} needs shape (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}.")
