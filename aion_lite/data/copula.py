"""A synthetic law for tables: a Gaussian copula, fitted to patients one has or read off what others publish.

Each column keeps its own margin; what columns have to do with each other is one correlation matrix of normal
scores. Whether a cell was measured is a column too. May import the declarations and the data set; knows
nothing of codecs and models.

B samples, D columns (values, then gaps) of the latent normal law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import linalg
from scipy.special import ndtr, ndtri

from aion_lite.data.dataset import MultimodalDataset
from aion_lite.modalities import Category, Modality, Scalar, Table

GAP = "gap in "  # so begins the name of the column that says where another was not measured
FEWEST = 10  # gaps that say when they come; fewer are left out


@dataclass(frozen=True)
class GaussianCopula:
    """A law of Scalars, Categories and Tables of these; all of it is a few quantiles and one matrix.

    Attributes:
        modalities: what it is a law of.
        margins: column -> (share of the samples up to a value, value), both rising, the shares from 0 to 1;
            of a category the values are its classes in the order they have here.
        correlation: (D, D) of the latent normal columns, in the order of ``margins``.

    Source: Liu et al. 2009 ("nonparanormal"); a class column is a cut normal one, as in polychoric
    correlations (Olsson 1979).
    """

    modalities: Sequence[Modality]
    margins: dict[str, tuple[np.ndarray, np.ndarray]]
    correlation: np.ndarray

    @classmethod
    def fit(cls, data: MultimodalDataset, num_quantiles: int = 100) -> GaussianCopula:
        """The law of these samples. A column with fewer than 10 gaps is taken to have none.

        Correlations are taken from the samples that have both columns, exact in the limit where one of the
        two is continuous and to first order where both are classes; then all are shrunk towards 0 by what
        their number of samples lets expect of noise (Schäfer & Strimmer 2005, table 1, target D). Classes
        without order are laid in a row by what tells them most apart in the other columns.

        Args:
            num_quantiles: a column of more different values is kept as so many quantiles.

        Raises ValueError on modalities that fit in no table, or below 10 samples.
        """
        columns = _columns(data.modalities.values())
        if len(data) < 10 or num_quantiles < 2:
            raise ValueError(
                f"A copula needs 10 samples and 2 quantiles or more, got {len(data)}, {num_quantiles}."
            )
        frame = data.to_frame()
        empty = [name for name in columns if frame[name].isna().all()]
        if empty:
            raise ValueError(f"A copula needs measured values of {', '.join(empty)}: select() the others.")
        margins, score_BD = {}, {}
        nominal = [n for n, c in columns.items() if isinstance(c, Category) and len(c.values) > 2]
        for name, column in columns.items():
            x = frame[name]
            x = x.cat.codes.where(x.notna()) if isinstance(column, Category) else x
            most = np.inf if isinstance(column, Category) else num_quantiles
            margins[name], score_BD[name] = _margin(x.to_numpy(float), most)
            gap = frame[name].isna().to_numpy(float)
            if min(gap.sum(), len(gap) - gap.sum()) >= FEWEST:
                margins[GAP + name], score_BD[GAP + name] = _margin(gap, np.inf)
        others = pd.DataFrame({n: s for n, s in score_BD.items() if n not in nominal})
        for name in nominal:
            order = _order_of_classes(frame[name].cat.codes.to_numpy(), others)
            x = frame[name].cat.codes.map({code: place for place, code in enumerate(order)})
            (share, place), score_BD[name] = _margin(x.to_numpy(float), np.inf)
            margins[name] = share, np.array(order)[place.astype(int)]
        names = [*columns, *(n for n in margins if n.startswith(GAP))]
        scores = np.stack([score_BD[n] for n in names], 1)
        return cls(list(data.modalities.values()), {n: margins[n] for n in names}, _correlation(scores))

    @property
    def names(self) -> list[str]:
        return list(self.margins)

    def sample(self, num_samples: int, seed: int = 0) -> MultimodalDataset:
        """Synthetic samples, gaps included; the same seed gives the same ones."""
        rng = np.random.default_rng(seed)
        factor = np.linalg.cholesky(self.correlation)
        u_BD = ndtr(rng.standard_normal((num_samples, len(factor))) @ factor.T)
        columns, frame = _columns(self.modalities), {}
        for (name, (share, value)), u in zip(self.margins.items(), u_BD.T, strict=True):
            if name in columns and len(share) == len(value) and not isinstance(columns[name], Category):
                frame[name] = np.interp(u, share, value)
            else:  # steps: the first value whose share is above u
                frame[name] = value[np.searchsorted(share[1:-1], u, side="right")]
        for name, column in columns.items():
            gap = frame.pop(GAP + name, np.zeros(num_samples)) > 0
            if isinstance(column, Category):
                codes = np.where(gap, -1, frame[name]).astype(int)
                frame[name] = pd.Categorical.from_codes(codes, list(column.values))
            else:
                frame[name] = np.where(gap, np.nan, frame[name])
        return MultimodalDataset.from_frame(pd.DataFrame(frame), self.modalities)

    def turned(self, target: str, degrees: float, seed: int = 0) -> GaussianCopula:
        """The same law but for what ``target`` has to do with the others: a law that is wrong by a dial.

        Which combination of the other columns tells of the target is turned by an angle towards one drawn
        at random; how much they tell stays. The cosine of the angle is the correlation between the right
        prediction and the turned law's: at 90 degrees they are unrelated, at 180 opposite.
        """
        if target not in self.margins:
            raise ValueError(f"The copula has no column {target!r}; there are {self.names}.")
        t = self.names.index(target)
        rest = np.delete(np.arange(len(self.names)), t)
        factor = np.linalg.cholesky(self.correlation[np.ix_(rest, rest)])
        right = linalg.solve_triangular(factor, self.correlation[rest, t], lower=True)
        length = np.linalg.norm(right)
        if length == 0:
            return self
        other = np.random.default_rng(seed).standard_normal(len(right))
        other -= right * (other @ right) / length**2
        other *= length / np.linalg.norm(other)
        angle = np.deg2rad(degrees)
        correlation = self.correlation.copy()
        correlation[rest, t] = correlation[t, rest] = factor @ (np.cos(angle) * right + np.sin(angle) * other)
        return replace(self, correlation=correlation)


def _columns(modalities) -> dict[str, Scalar | Category]:
    """Columns of a frame by name, tables taken apart."""
    columns = {}
    for modality in modalities:
        if not isinstance(modality, (Scalar, Category, Table)):
            raise ValueError(f"A copula is a law of Scalars, Categories and Tables, got {modality}.")
        for column in getattr(modality, "columns", (modality,)):
            columns[column.name] = column
    return columns


def _margin(x: np.ndarray, num_quantiles: float) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """((shares, values), normal scores (B,)) of a column with NaN where it was not measured.

    Few values: shares has one entry more, the ends of each value's part of 0..1. A score is the mean of the
    part of the normal law that is the value's: so a cut normal column gives what it would have given whole.
    """
    known = x[~np.isnan(x)]
    value, which, count = np.unique(known, return_inverse=True, return_counts=True)
    share = np.append(0, count.cumsum()) / len(known)
    share[-1] = 1.0
    density = np.exp(-(ndtri(share) ** 2) / 2) / np.sqrt(2 * np.pi)  # 0 at both ends
    score = np.full(len(x), np.nan)
    score[~np.isnan(x)] = (-np.diff(density) / np.diff(share))[which]
    if len(value) > num_quantiles:
        share = np.linspace(0, 1, num_quantiles)
        value = np.quantile(known, share)
    return (share, value), score


def _order_of_classes(code_B: np.ndarray, others: pd.DataFrame) -> list[int]:
    """Classes in a row along the direction in which their means of the other columns differ most."""
    group = others.groupby(code_B)
    mean, weight = group.mean().fillna(0.0), np.sqrt(group.size())
    mean, weight = mean[mean.index >= 0], weight[weight.index >= 0]
    centred = (mean - np.average(mean, axis=0, weights=weight**2)).to_numpy()
    u, s, _ = np.linalg.svd(weight.to_numpy()[:, None] * centred, full_matrices=False)
    place = u[:, 0] * s[0] / weight.to_numpy()
    return [int(code) for code in mean.index[np.argsort(place, kind="stable")]]


def _correlation(score_BD: np.ndarray) -> np.ndarray:
    """(D, D) latent correlations from scores with NaN: shrunk, and positive definite."""
    known = (~np.isnan(score_BD)).astype(float)
    x = np.nan_to_num(score_BD)
    both = np.maximum(known.T @ known, 1)
    sums = x.T @ known  # of a column over the samples that have the other, too
    covariance = x.T @ x / both - (sums / both) * (sums.T / both)
    variance = np.nanvar(score_BD, axis=0)
    scale = np.outer(variance, variance)
    scale[scale == 0] = np.inf  # a column that never varies has nothing to do with any other
    found = np.clip(covariance / scale, -0.99, 0.99)
    apart = ~np.eye(len(found), dtype=bool)
    noise = (1 - (covariance / np.sqrt(scale)).clip(-1, 1) ** 2) ** 2 / (both - 1).clip(1) / np.sqrt(scale)
    shrink = min(1.0, noise[apart].sum() / max((found[apart] ** 2).sum(), 1e-12))
    found = np.where(apart, (1 - shrink) * found, 1.0)
    values, vectors = np.linalg.eigh(found)
    found = vectors * values.clip(min=1e-3) @ vectors.T
    sd = np.sqrt(np.diag(found))
    return found / np.outer(sd, sd)
