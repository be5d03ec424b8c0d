"""A predictive distribution as a mixture on a grid, and what it expects of its own scores.

Knows nothing of the law that it predicts for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats


@dataclass
class Predictive:
    """A mixture a patient: value = offset (B,) + centre (N,) + spread, centre drawn by ``weights`` (B, N).

    The spread is normal of standard deviation ``width``; or, where ``uniform``, even over a bin that wide.
    """

    weights: np.ndarray
    offset: np.ndarray
    centres: np.ndarray
    width: float
    uniform: bool = False

    @property
    def mean(self) -> np.ndarray:
        """(B,)"""
        return self.offset + self.weights @ self.centres

    @property
    def variance(self) -> np.ndarray:
        """(B,)"""
        spread = self.width**2 / 12 if self.uniform else self.width**2
        away = self.centres - (self.weights @ self.centres)[:, None]
        return spread + (self.weights * away**2).sum(1)

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log density, nats, at y (B,); what lies beyond the last bin counts as in it."""
        if self.uniform:
            edge = self.centres[0] - self.width / 2
            index = np.floor((y - self.offset - edge) / self.width).astype(int)
            density = self.weights[np.arange(len(y)), np.clip(index, 0, len(self.centres) - 1)]
        else:
            z = ((y - self.offset)[:, None] - self.centres) / self.width
            density = (self.weights * np.exp(-0.5 * z**2)).sum(1) / np.sqrt(2 * np.pi)
        with np.errstate(divide="ignore"):
            return np.log(density / self.width)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """P(value <= y) at y (B,)."""
        z = ((y - self.offset)[:, None] - self.centres) / self.width
        return (self.weights * (np.clip(z + 0.5, 0, 1) if self.uniform else special.ndtr(z))).sum(1)

    @property
    def entropy(self) -> np.ndarray:
        """(B,) nats: minus the expected log density."""
        if self.uniform:
            return special.entr(self.weights).sum(1) + np.log(self.width)
        step = self.width / 8
        y = np.arange(self.centres.min() - 7 * self.width, self.centres.max() + 7 * self.width, step)
        kernel = stats.norm.pdf(y, self.centres[:, None], self.width)  # (N, Y)
        parts = np.array_split(self.weights, len(self.weights) // 500 + 1)  # (500, Y) at a time
        return np.concatenate([special.entr(part @ kernel).sum(1) * step for part in parts])


def expected_auroc(p: np.ndarray) -> tuple[float, float]:
    """AUROC that the right probabilities p (B,) of an event expect, and its standard error.

    A pair counts p_i (1 - p_j): no event is drawn. The error is that of a jackknife over 20 parts.
    """

    def area(p):
        p = np.sort(p)
        negative = 1 - p
        return (p * (negative.cumsum() - 0.5 * negative)).sum() / (p.sum() * negative.sum())

    part = np.arange(len(p)) % 20
    left_out = np.array([area(p[part != k]) for k in range(20)])
    return float(area(p)), float(np.sqrt(19 * left_out.var()))
