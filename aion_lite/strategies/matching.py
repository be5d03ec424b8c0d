"""Where to begin without a pair: one number of each side that a common cause would move, and their ranks.

Of numbers, the sum that is skewest: independent causes added up look normal, one alone does not, so the
least normal sum is the nearest to one cause alone (independent component analysis; Hyvarinen and Oja 2000).
Of maps, such as whitened images or the coordinates of their tokens, what one part tells of the others: noise
and what is normal about a picture is gone once it is whitened, so what parts still know of each other is
what is odd about it. ``PartsPredictor`` learns it by hiding cells, and no label enters.

Ranks of two such numbers can then be matched. It holds only as far as the sides' skewest causes are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from aion_lite.training import History, train

FOLDS = 4  # one cell in so many is hidden at a time


class PartsPredictor(nn.Module):
    """Predicts hidden cells of a map (B, C, H, W) from the others; a normal law, mean and width.

    Args:
        channels: C, e.g. 1 of a grey image, or the coordinates of a token.
        width: channels within.

    The maps should be whitened or nearly so, and each channel of mean 0.
    """

    def __init__(self, channels: int = 1, width: int = 24, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = []
            for into, step in ((channels + 1, 1), (width, 1), (width, 2), (width, 1)):
                layers += [nn.Conv2d(into, width, 3, padding=step, dilation=step), nn.GELU()]
            self.net = nn.Sequential(*layers, nn.Conv2d(width, 2 * channels, 1))

    def forward(self, maps: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, C, H, W) given the cells ``seen`` (B, 1, H, W)."""
        out = self.net(torch.cat([maps * seen, seen.to(maps.dtype)], 1))
        mean, log_variance = out.chunk(2, 1)
        return mean, log_variance.clamp(-6, 6)

    def loss(self, maps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log-likelihood of the hidden quarter, nats a number, less a constant."""
        seen = torch.rand(maps[:, :1].shape, device=maps.device) >= 1 / FOLDS
        mean, log_variance = self(maps, seen)
        each = 0.5 * (log_variance + (maps - mean).square() * torch.exp(-log_variance)) * ~seen
        return each.sum() / (~seen).sum().clamp_min(1) / maps.shape[1], {}

    @torch.no_grad()
    def shared(self, maps: Tensor, rounds: int = 4, seed: int = 0, batch_size: int = 1000) -> Tensor:
        """How much a map's parts tell of each other (B,): the squares of the predictions, summed over cells.

        Each cell is predicted ``rounds`` times, from three quarters of the others drawn by ``seed``.
        """
        device = next(self.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        found = []
        for part in maps.split(batch_size):
            total = torch.zeros(len(part), device=device)
            for _ in range(rounds):
                fold = torch.rand(part[:, :1].shape, generator=generator).flatten(1).argsort(1).argsort(1)
                fold = (fold % FOLDS).view_as(part[:, :1]).to(device)
                means = [self(part.to(device), fold != k)[0] * (fold == k) for k in range(FOLDS)]
                total = total + sum(means).square().flatten(1).sum(1) / rounds
            found.append(total.to(maps.device))
        return torch.cat(found)


def train_parts(
    maps: Tensor, *, steps: int = 500, batch_size: int = 256, lr: float = 4e-3, seed: int = 0, **settings
) -> tuple[PartsPredictor, History]:
    """A PartsPredictor trained on maps (B, C, H, W); ``settings`` are those of ``training.train``."""
    if maps.ndim != 4 or not maps.is_floating_point() or not bool(maps.isfinite().all()):
        raise ValueError(f"Maps are finite floats (B, C, H, W), got {maps.dtype} {tuple(maps.shape)}.")
    model = PartsPredictor(maps.shape[1], seed=seed)
    batch_size = min(batch_size, len(maps))
    history = train(
        model, maps, steps=steps, batch_size=batch_size, lr=lr, weight_decay=0.01, optimizer="adamw",
        seed=seed, **settings,
    )  # fmt: skip
    return model, history


class Skewest:
    """The weighted sum of columns that is skewest among the samples it is made from, turned to skew upwards.

    Args:
        columns: numbers (B, C), not all of them normal.

    Found by following the gradient of the third moment of whitened columns (the fixed point of Hyvarinen and
    Oja 2000, section 6.2, with the square as nonlinearity), from several starts. ``skewness`` says how far to
    trust it: its standard error is sqrt(6 / B), and a symmetric law leaves nothing to find.

    Raises ValueError on too few samples, or on columns that are constant or repeat each other.
    """

    def __init__(self, columns: Any, seed: int = 0):
        columns = _columns(columns)
        self.mean = columns.mean(0)
        variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(columns.T)))
        if len(columns) < 10 or variances[0] <= 1e-9 * variances[-1]:
            raise ValueError(
                f"The skewest sum needs 10 samples or more and columns that differ; got {columns.shape} with "
                f"variances {variances}."
            )
        whitener = axes / np.sqrt(variances)
        white = (columns - self.mean) @ whitener
        starts = np.random.default_rng(seed).standard_normal((8, white.shape[1]))
        found = [_fixed_point(white, w) for w in starts]
        skews = [stats.skew(white @ w) for w in found]
        best = int(np.argmax(np.abs(skews)))
        self.skewness = abs(float(skews[best]))
        self.weights = whitener @ found[best] * np.sign(skews[best])  # (C,)

    def __call__(self, columns: Any) -> np.ndarray:
        """The sum (B,), of mean 0 and variance 1 among the samples it was made from."""
        return (_columns(columns) - self.mean) @ self.weights


def match_ranks(reading: Any, score: Any, correlation: float = 1.0, seed: int = 0) -> np.ndarray:
    """Rows (B,) of ``score`` that have the rank which each entry of ``reading`` (B,) has.

    Of other lengths, the rank is the share of the samples below. This is the optimal transport of one
    number to another under any convex cost (Santambrogio 2015, theorem 2.9).

    Args:
        correlation: of the normal scores of both, -1 to 1. Below 1 in size, normal noise drawn by ``seed``
            moves the ranks first: both marginals stay, and the pairs are as loose as that
            (``copula_correlation`` estimates it from true pairs).

    Raises ValueError on anything but finite numbers (B,).
    """
    reading, score = (np.asarray(x, dtype=float) for x in (reading, score))
    if reading.ndim != 1 or score.ndim != 1 or min(len(reading), len(score)) == 0:
        raise ValueError(f"Ranks are those of numbers (B,), got {reading.shape} and {score.shape}.")
    if not np.isfinite(reading).all() or not np.isfinite(score).all():
        raise ValueError("Ranks need finite numbers: leave out what was not measured.")
    if not -1 <= correlation <= 1:
        raise ValueError(f"A correlation lies in -1 to 1, got {correlation}.")
    share = _shares(reading)
    if correlation < 1:
        noise = np.random.default_rng(seed).standard_normal(len(reading))
        share = _shares(correlation * stats.norm.ppf(share) + np.sqrt(1 - correlation**2) * noise)
    return score.argsort(kind="stable")[(share * len(score)).astype(int)]


def copula_correlation(reading: Any, score: Any) -> float:
    """Correlation of the normal law with these pairs' rank correlation r: 2 sin(pi r / 6) (Kruskal 1958)."""
    return float(2 * np.sin(np.pi / 6 * stats.spearmanr(reading, score)[0]))


def _shares(x: np.ndarray) -> np.ndarray:
    """The share of the samples below each, half of itself counted."""
    return (x.argsort(kind="stable").argsort(kind="stable") + 0.5) / len(x)


def _fixed_point(white: np.ndarray, w: np.ndarray, rounds: int = 200) -> np.ndarray:
    w = w / np.linalg.norm(w)
    for _ in range(rounds):
        new = white.T @ (white @ w) ** 2 / len(white)
        new /= max(np.linalg.norm(new), 1e-30)
        if abs(new @ w) > 1 - 1e-12:
            return new
        w = new
    return w


def _columns(columns: Any) -> np.ndarray:
    columns = np.asarray(columns, dtype=float)
    if columns.ndim != 2 or not np.isfinite(columns).all():
        raise ValueError(f"Columns are finite numbers (B, C), got {columns.shape}.")
    return columns
