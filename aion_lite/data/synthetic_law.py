"""The law of the synthetic patients: what is drawn, what is seen, and what chest and heartbeat look like.

    severity    s ~ exponential, mean 0.3 (skewed: most are mildly ill, few badly)
    age         a ~ N(55, 12**2) years
    glucose     90 + 0.5 a + 50 s + N(0, 10**2) mg/dL
    cholesterol 150 + 0.8 a + 30 s + N(0, 20**2) mg/dL
    heart_rate  70 + 20 s + N(0, 6**2) beats a minute
    xray        mean chest + body (K) @ modes (K, H, W) + 0.4 s * lesion(place, width) + N(0, 0.06**2) a pixel
    ecg         gain * beat(rate t / 60 + phase) + wander (M) @ slow (M, T) + N(0, 0.2**2) a sample

Nuisances of the xray: the lesion's centre, uniform over a lattice in the lungs; its width, one of three; and
``body``, independent normals that stand for exposure, thickness, shape and soft tissue. An X-ray film shows
the log of what passes, so attenuations and exposure add. Finer pixels catch fewer photons: their noise grows
with the image size, and what the image tells stays the same.
Nuisances of the ecg: its rate over these ten seconds, N(heart_rate, 1.5**2) rounded to 0.1 a minute; its
phase, uniform over 64; gain ~ N(1, 0.2**2); wander of the baseline, independent normals.

``rho`` scales every link. The coefficients of a and s above are multiplied by it, and the normal noise grows
so that mean and variance stay. The xray shows the patient's own severity with probability rho and that of a
stranger otherwise; so does the ecg with the heart rate. Each link's correlation is rho times that at rho = 1.

Everything is normal given s, the place and width of the lesion and the rate and phase of the ecg, and those
can be enumerated: this is what makes the Bayes limit computable (synthetic_limit.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

SCALARS = ("age", "glucose", "cholesterol", "heart_rate")
SEVERITY_MEAN = 0.3
AGE_MEAN, AGE_SD = 55.0, 12.0
#                        age  glucose  cholesterol  heart_rate
BASE = np.array([AGE_MEAN, 90.0, 150.0, 70.0])
OF_AGE = np.array([1.0, 0.5, 0.8, 0.0])
OF_SEVERITY = np.array([0.0, 50.0, 30.0, 20.0])
NOISE_SD = np.array([0.0, 10.0, 20.0, 6.0])

LESION_ATTENUATION = 0.4  # a severity
LESION_WIDTHS = np.array([2.0, 3.0, 4.5]) / 64  # sigma, share of the image
PIXEL_SD = 0.06  # at 64 pixels
LUNGS = ((0.52, 0.29, 0.30, 0.14), (0.52, 0.71, 0.30, 0.14))  # centre y, x; radius y, x

LENGTH, RATE = 1000, 100.0  # samples, samples a second
FFT_LENGTH = 60_000  # bin j is j / 600 Hz = 0.1 j beats a minute
RATE_BINS = np.arange(300, 1801)  # the rates of an ecg: 30 to 180 a minute
PHASES = 64
HARMONICS = 16  # of 180 a minute: 48 Hz, below half the sampling rate
RATE_SD = 1.5
GAIN_SD = 0.2
ECG_SD = 0.2
CYCLE = math.lcm(FFT_LENGTH, PHASES)  # steps in a cycle: the phase of any sample is a whole number of them


@dataclass(frozen=True)
class PatientLaw:
    """The law at one ``rho``, ``noise`` (factor on the white noise of xray and ecg) and ``image_size``."""

    rho: float = 1.0
    noise: float = 1.0
    image_size: int = 64

    # --- scalars: given s, normal with mean ``scalar_mean + slope * s`` and covariance ``covariance``

    @property
    def slope(self) -> np.ndarray:
        """(4,) what a unit of severity adds, in the order of ``SCALARS``."""
        return self.rho * OF_SEVERITY

    @property
    def scalar_mean(self) -> np.ndarray:
        """(4,) mean at s = 0."""
        return BASE + np.r_[0, OF_AGE[1:]] * AGE_MEAN + (1 - self.rho) * OF_SEVERITY * SEVERITY_MEAN

    @property
    def covariance(self) -> np.ndarray:
        """(4, 4) given severity."""
        of_age = np.r_[1.0, self.rho * OF_AGE[1:]] * AGE_SD
        return np.outer(of_age, of_age) + np.diag(self.own_variance)

    @property
    def own_variance(self) -> np.ndarray:
        """(4,) of what neither age nor severity explains."""
        lost = (OF_AGE * AGE_SD) ** 2 + (OF_SEVERITY * SEVERITY_MEAN) ** 2
        return np.r_[0.0, (NOISE_SD**2 + (1 - self.rho**2) * lost)[1:]]

    @property
    def variance(self) -> np.ndarray:
        """(4,) of each scalar among all patients; the same at every rho."""
        return np.diag(self.covariance) + (self.slope * SEVERITY_MEAN) ** 2

    # --- xray

    @property
    def pixel_sd(self) -> float:
        return PIXEL_SD * self.noise * self.image_size / 64

    @cached_property
    def grid(self) -> np.ndarray:
        """(H,) pixel centres, the image being 0 to 1."""
        return (np.arange(self.image_size) + 0.5) / self.image_size

    @cached_property
    def chest(self) -> np.ndarray:
        """(H, W) the mean chest without a lesion."""
        return _chest(self.grid)

    @cached_property
    def modes(self) -> np.ndarray:
        """(K, H, W) what one standard deviation of each body nuisance adds to the image."""
        step = 0.01
        shape = [
            (_chest(self.grid, **{name: step}) - _chest(self.grid, **{name: -step})) / (2 * step) * sd
            for name, sd in {"width": 0.05, "height": 0.05, "heart": 0.1, "up": 0.015, "aside": 0.015}.items()
        ]
        waves = np.cos(np.pi * np.arange(8)[:, None] * self.grid)  # (8, H)
        tissue = [
            0.06 / np.hypot(k, m) * np.outer(waves[k], waves[m]) for k in range(8) for m in range(8) if k + m
        ]
        return np.stack([np.full_like(self.chest, 0.15), 0.1 * self.chest, *shape, *tissue])

    @cached_property
    def places(self) -> np.ndarray:
        """(P, 2) row and column on the lattice (32, 32) where a lesion may be."""
        lattice = (np.arange(32) + 0.5) / 32
        inside = sum(_ellipse(lattice, *lung, soft=1e-3) for lung in LUNGS)
        return np.argwhere(inside > 0.5)

    @cached_property
    def profiles(self) -> np.ndarray:
        """(R, 32, H) profile of a lesion of each width at each lattice line; a lesion is row * column."""
        away = self.grid - (np.arange(32)[:, None] + 0.5) / 32
        return np.exp(-0.5 * (away / LESION_WIDTHS[:, None, None]) ** 2)

    @cached_property
    def severity_in_pixels(self) -> float:
        """R2 of the pixels of an xray, all together, were the patient's severity known."""
        rows, columns = (self.profiles[:, self.places[:, i]] for i in (0, 1))  # (R, P, H), (R, P, W)
        first, second = (  # moments of a lesion that attenuates by 1
            np.einsum("rph,rpw->hw", rows**k, columns**k) / rows[..., 0].size for k in (1, 2)
        )
        sd = LESION_ATTENUATION * SEVERITY_MEAN  # an exponential's mean is its sd
        total = (self.pixel_sd**2 + (self.modes**2).sum(0) + sd**2 * (2 * second - first**2)).sum()
        return float((self.rho * sd) ** 2 * (first**2).sum() / total)

    # --- ecg

    @property
    def ecg_sd(self) -> float:
        return ECG_SD * self.noise

    @cached_property
    def harmonics(self) -> np.ndarray:
        """(HARMONICS,) complex a_k of beat(phase) = sum of Re a_k exp(2 pi i k phase): five bumps, P to T."""
        k = np.arange(1, HARMONICS + 1)
        at = np.array([-1.2, -0.26, 0.0, 0.26, 1.75])[:, None]  # radians
        width = np.array([0.25, 0.2, 0.2, 0.2, 0.4])[:, None]
        height = np.array([0.15, -0.25, 1.5, -0.35, 0.35])[:, None]
        bumps = height * width * np.sqrt(2 / np.pi) * np.exp(-0.5 * (k * width) ** 2 - 1j * k * at)
        return bumps.sum(0)

    @cached_property
    def beat(self) -> np.ndarray:
        """(CYCLE,) one beat, finely enough that every sample of every ecg falls on an entry."""
        spectrum = np.zeros(CYCLE // 2 + 1, complex)
        spectrum[1 : HARMONICS + 1] = self.harmonics * CYCLE / 2
        return np.fft.irfft(spectrum, CYCLE).astype(np.float32)

    @cached_property
    def slow(self) -> np.ndarray:
        """(M, T) what one standard deviation of each wander of the baseline adds to the ecg."""
        t = np.arange(LENGTH) / RATE
        angles = 2 * np.pi * np.array([0.1, 0.2, 0.3])[:, None] * t
        return 0.2 * np.concatenate([np.ones((1, LENGTH)), np.sin(angles), np.cos(angles)])

    def beats(self, bins: np.ndarray, phases: np.ndarray) -> np.ndarray:
        """(B, T) ecgs of gain 1, no noise: rates 0.1 * bins (B,) a minute, phases (B,) in 64ths of a beat."""
        steps = bins[:, None] * (CYCLE // FFT_LENGTH) * np.arange(LENGTH)
        return self.beat[(steps + phases[:, None] * (CYCLE // PHASES)) % CYCLE]


def _ellipse(grid, y, x, ry, rx, soft=0.1) -> np.ndarray:
    """(H, W) 1 inside, 0 outside, ``soft`` at the edge."""
    radius = np.hypot((grid[:, None] - y) / ry, (grid - x) / rx)
    return 0.5 * (1 - np.tanh((radius - 1) / (2 * soft)))


def _chest(grid, width=0.0, height=0.0, heart=0.0, up=0.0, aside=0.0) -> np.ndarray:
    """(H, W) attenuation of a chest; each argument is a relative change of its shape."""
    wide, high = 1 + width, 1 + height

    def part(y, x, ry, rx):
        y, x = 0.5 + (y - 0.5) * high - up, 0.5 + (x - 0.5) * wide + aside
        return _ellipse(grid, y, x, ry * high, rx * wide)

    lungs = sum(part(*lung) for lung in LUNGS)
    ribs = 0.5 + 0.5 * np.cos(2 * np.pi * (grid[:, None] + up) * 9 / high)
    size = 1 + heart
    return (
        0.9 * part(0.6, 0.5, 0.62, 0.47)
        - (0.5 - 0.08 * ribs) * lungs
        + 0.35 * part(0.62, 0.55, 0.17 * size, 0.13 * size)
    )
