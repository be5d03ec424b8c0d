"""BayesLimit: what the law of the synthetic patients lets any model reach, and the predictions that reach it.

Given severity everything is normal or enumerated (synthetic_posterior.py), so the posterior of severity on a
grid, given any set of modalities, gives the exact predictive distribution of any scalar. A signal, xray or
ecg, depends on one scalar only, its cause: what can be told of the signal follows from what is told of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy import special, stats

from aion_lite.data.dataset import MultimodalDataset
from aion_lite.data.predictive import Predictive, expected_auroc
from aion_lite.data.synthetic import MISSABLE, SyntheticDataGenerator
from aion_lite.data.synthetic_law import RATE_BINS, RATE_SD, SCALARS, SEVERITY_MEAN
from aion_lite.data.synthetic_posterior import NODES, STEP, Likelihoods, check_signals

TARGETS = ("age", "severity", "glucose", "cholesterol", "heart_rate")
CAUSES = {"xray": "severity", "ecg": "heart_rate"}  # given the cause, a signal tells of nothing else
RATES = np.arange(30, 180, 0.25) + 0.125  # (H,) grid of heart rates
PRIOR = np.exp(-(NODES - STEP / 2) / SEVERITY_MEAN) * -np.expm1(-STEP / SEVERITY_MEAN)  # (S,)
PRIOR[-1] = np.exp(-(NODES[-1] - STEP / 2) / SEVERITY_MEAN)  # and all that are worse


class Prediction(NamedTuple):
    """The exact prediction of each patient (B,), and how it meets the truth (NaN where that is absent)."""

    mean: np.ndarray
    variance: np.ndarray
    log_prob: np.ndarray  # nats, of the truth
    pit: np.ndarray  # P(value <= truth): uniform over patients
    exceeds: np.ndarray | None  # P(value > threshold)


class Limit(NamedTuple):
    """The best scores that any model can expect; ``*_error``: standard error of a Monte Carlo estimate."""

    r2: float
    r2_error: float
    log_score: float  # mean log density, nats, in the target's unit; of a signal, less that of nothing given
    log_score_error: float
    auroc: float | None  # of the event target > threshold
    auroc_error: float | None
    method: str


@dataclass
class _Evidence:
    """What is known of ``num`` patients. Scalars (B,) by name; log likelihoods (B, S) and (B, J), or None."""

    num: int
    scalars: dict[str, np.ndarray]
    xray: np.ndarray | None = None
    ecg: np.ndarray | None = None


class _Normal(NamedTuple):
    """Given scalars x (less their mean at severity 0), a statistic and a target at a known severity s.

    x @ to_severity ~ N(s, 1 / precision) is all that x tells of s;
    target ~ N(base + x @ weights + slope * s, variance).
    """

    seen: list[int]  # of SCALARS
    to_severity: np.ndarray
    precision: float
    weights: np.ndarray
    base: float
    slope: float
    variance: float


class BayesLimit:
    """Exact predictions and limits under the law of ``generator``.

    Args:
        generator: whose law it is (law="patients"); its missing pattern counts in ``predict``.
        num_samples: fresh patients of a Monte Carlo estimate.
        seed: of these patients, apart from the generator's own.

    "given" is any set of the seven modalities, "target" another one (in ``predict`` a scalar). What the
    ecg of a generator with ecg="realistic" tells isn't known; questions without it have the same answers.
    """

    def __init__(self, generator: SyntheticDataGenerator, num_samples: int = 4000, seed: int = 2**31):
        if not isinstance(generator, SyntheticDataGenerator):
            raise TypeError(f"generator is a SyntheticDataGenerator, got a {type(generator).__name__}.")
        if generator.patient_law is None:
            raise ValueError("The limit of the law 'seed' isn't computed: use law='patients'.")
        self.generator, self.law = generator, generator.patient_law
        self.likelihoods = Likelihoods(self.law)
        complete = {**generator.settings, "num_samples": num_samples, "seed": seed, "missing": None}
        complete["ecg"] = "periodic"  # a realistic one is never asked for
        self._fresh = SyntheticDataGenerator(**complete)
        self._drawn: dict[str, np.ndarray] = {}

    def predict(
        self, data: MultimodalDataset, given: Sequence[str], target: str, threshold: float | None = None
    ) -> Prediction:
        """The exact predictive distribution of ``target`` of every patient of ``data``.

        What is absent of ``given`` is integrated out; under missing="severity" its absence is evidence too.
        """
        given = self._check(given, target)
        if target in CAUSES:
            raise ValueError(
                f"predict has distributions of {TARGETS}, not of {target!r}; score has its limit."
            )
        if not isinstance(data, MultimodalDataset):
            raise TypeError(f"data is a MultimodalDataset, got a {type(data).__name__}.")
        lacking = [n for n in (*given, target) if n not in data.modalities]
        if lacking:
            raise ValueError(
                f"data needs {lacking}, which is given or the target; it has {list(data.modalities)}."
            )
        present = {n: data.present[n].numpy() for n in (*given, target)}
        patterns = np.stack([present[n] for n in given], 1) if given else np.ones((len(data), 0), bool)
        out = np.full((5, len(data)), np.nan)
        for pattern in np.unique(patterns, axis=0):
            rows = np.flatnonzero((patterns == pattern).all(1))
            seen = [n for n, here in zip(given, pattern, strict=True) if here]
            for part in np.array_split(rows, len(rows) // 1000 + 1):
                values = {n: data.values[n][part] for n in (*seen, target)}
                truth = values.pop(target).double().numpy()
                dist = self._predictive(self._evidence(values, len(part)), seen, target, masks=given)
                out[:4, part] = dist.mean, dist.variance, dist.log_prob(truth), dist.cdf(truth)
                if threshold is not None:
                    out[4, part] = 1 - dist.cdf(np.full(len(part), threshold))
        out[2:4, ~present[target]] = np.nan
        return Prediction(*out[:4], None if threshold is None else out[4])

    def score(
        self,
        given: Sequence[str],
        target: str,
        threshold: float | None = None,
        method: str | None = None,
    ) -> Limit:
        """The best R2, log-score and AUROC (of ``target`` > ``threshold``) were nothing ever absent.

        method: "closed form" (severity is given), "integration" (only scalars are given) or "Monte Carlo"
        (always): averages over fresh patients of each one's exact variance and entropy, so that no noise of
        the target's own enters. None takes the first that can be had. The AUROC is always Monte Carlo.

        Of an xray or ecg, R2 is that of all pixels or samples together, and log_score the nats gained over
        nothing given; there is no choice of method, and no threshold.

        Raises ValueError on unknown names, and where the method can't be had.
        """
        given = self._check(given, target)
        if target in CAUSES:
            if threshold is not None or method is not None:
                raise ValueError(f"{target!r} is no scalar: it has no threshold and no choice of method.")
            return self._score_signal(given, target)
        ecg_tells = "ecg" in given and (target == "heart_rate" or not {"severity", "heart_rate"} & set(given))
        xray_tells = "xray" in given and "severity" not in given
        can = ["Monte Carlo"]
        if not ecg_tells and not xray_tells:
            can = ["closed form" if "severity" in given else "integration", *can]
        method = method or can[0]
        if method not in can:
            raise ValueError(f"{target} given {given} can be had by {', '.join(can)}, not by {method!r}.")
        total = SEVERITY_MEAN**2 if target == "severity" else self.law.variance[SCALARS.index(target)]
        drawn = None
        if method == "Monte Carlo" or threshold is not None:
            drawn = self._predictive(self._draw(given), given, target)
        if method == "closed form":
            variance = self._normal(given, target).variance
            scores = (1 - variance / total, 0.0, -0.5 * np.log(2 * np.pi * np.e * variance), 0.0)
        else:
            dist, weights = (drawn, None) if method == "Monte Carlo" else self._integrate(given, target)
            scores = (*_mean(1 - dist.variance / total, weights), *_mean(-dist.entropy, weights))
        auroc = (None, None)
        if threshold is not None:
            auroc = expected_auroc(1 - drawn.cdf(np.full(len(drawn.offset), float(threshold))))
        return Limit(*scores, *auroc, method)

    def _score_signal(self, given: list[str], target: str) -> Limit:
        """What is told of a signal is told of its cause: I(x; given) = I(x; cause) - I(x; cause | given)."""
        if not given:
            return Limit(0.0, 0.0, 0.0, 0.0, None, None, "closed form")
        cause, r2, r2_error = CAUSES[target], 1.0, 0.0

        def told(names: list[str]) -> tuple[float, float]:
            """Nats, and their error, that the signal tells of its cause beside ``names``."""
            more, less = self.score([*names, target], cause), self.score(names, cause)
            return more.log_score - less.log_score, np.hypot(more.log_score_error, less.log_score_error)

        nats, error = told([])
        if cause not in given:
            known, rest = self.score(given, cause), told(given)
            r2, r2_error = known.r2, known.r2_error
            nats, error = nats - rest[0], np.hypot(error, rest[1])
        # The phase of an ecg is anyone's, so its mean is the same flat line whatever is given.
        share = self.law.severity_in_pixels if target == "xray" else 0.0
        return Limit(share * r2, share * r2_error, float(nats), float(error), None, None, "Monte Carlo")

    def _check(self, given: Sequence[str], target: str) -> list[str]:
        is_list = isinstance(given, Iterable) and not isinstance(given, str)
        given = list(given) if is_list else given
        if self.generator.ecg == "realistic" and is_list and "ecg" in (*given, target):
            raise ValueError(
                "What a realistic ecg tells has no known limit: leave ecg out, or use ecg='periodic'."
            )
        names = (*TARGETS, *CAUSES)
        if not is_list or any(n not in names for n in given) or target not in names or target in given:
            raise ValueError(
                f"given is a list of {names} and target one of them that isn't given; "
                f"got {given!r} and {target!r}."
            )
        return list(dict.fromkeys(given))

    def _normal(self, given: Sequence[str], target: str) -> _Normal:
        """How the given scalars tell of severity, and of the target at a known severity."""
        seen = [SCALARS.index(n) for n in given if n in SCALARS]
        slope, covariance = self.law.slope, self.law.covariance
        solve = np.linalg.inv(covariance[np.ix_(seen, seen)])
        precision = float(slope[seen] @ solve @ slope[seen])
        to_severity = solve @ slope[seen] / precision if precision > 0 else np.zeros(len(seen))
        if target == "severity":
            return _Normal(seen, to_severity, precision, np.zeros(len(seen)), 0.0, 1.0, 0.0)
        y = SCALARS.index(target)
        weights = solve @ covariance[seen, y]
        return _Normal(
            seen, to_severity, precision, weights,
            base=self.law.scalar_mean[y],
            slope=slope[y] - weights @ slope[seen],
            variance=covariance[y, y] - weights @ covariance[seen, y],
        )  # fmt: skip

    def _predictive(
        self, evidence: _Evidence, given: Sequence[str], target: str, masks: Sequence[str] = ()
    ) -> Predictive:
        """``masks``: modalities of which it is known whether they were measured, in ``given`` or not."""
        normal = self._normal(given, target)
        x = np.stack([evidence.scalars[n] for n in given if n in SCALARS] or [np.empty(0)], 1)
        x = x.reshape(evidence.num, len(normal.seen)) - self.law.scalar_mean[normal.seen]
        offset = normal.base + x @ normal.weights
        if "severity" in given:
            severity = evidence.scalars["severity"]
            log_s, nodes = np.zeros((evidence.num, 1)), np.zeros(1)
            offset, step = offset + normal.slope * severity, 0.0
        else:
            log_s = np.log(PRIOR) - 0.5 * normal.precision * ((x @ normal.to_severity)[:, None] - NODES) ** 2
            loss = self.generator.loss_of_severity
            for name in set(masks) & set(MISSABLE) if loss else ():
                log_s = log_s + (-loss * NODES if name in given else np.log(-np.expm1(-loss * NODES)))
            if "xray" in given:
                log_s = log_s + self._own_or_stranger(evidence.xray, PRIOR)
            if "ecg" in given and not {target, *given} & {"heart_rate"}:
                log_s = log_s + self._own_or_stranger(evidence.ecg, self._any_rate, self._rates(NODES))
            nodes, step = NODES, STEP
        weights = special.softmax(log_s, axis=1)
        if target == "severity":
            return Predictive(weights, np.zeros(evidence.num), nodes, STEP, uniform=True)
        width = np.sqrt(normal.variance + (normal.slope * step) ** 2 / 12)
        if target == "heart_rate" and "ecg" in given:
            expected = offset[:, None] if "severity" in given else offset[:1] + normal.slope * nodes
            prior = stats.norm.pdf(RATES, expected[..., None], width)
            prior = prior[:, 0] if "severity" in given else weights @ prior  # (B, H)
            log_h = np.log(prior + 1e-300) + self._own_or_stranger(
                evidence.ecg, self._any_rate, _bins(RATES[:, None], RATE_SD)
            )
            return Predictive(special.softmax(log_h, 1), np.zeros(evidence.num), RATES, 0.25, uniform=True)
        return Predictive(weights, offset, normal.slope * nodes, width)

    def _own_or_stranger(
        self, log_likelihood: np.ndarray, anyone: np.ndarray, of_own: np.ndarray | None = None
    ) -> np.ndarray:
        """(B, J) over what is shown -> (B, S) over the patient's own: log(rho own + (1 - rho) stranger's).

        ``anyone`` (J,): how often it is shown; ``of_own`` (S, J): how often given the patient's own.
        """
        likelihood = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
        own = likelihood if of_own is None else likelihood @ of_own.T
        with np.errstate(divide="ignore"):
            return np.log(self.law.rho * own + (1 - self.law.rho) * (likelihood @ anyone)[:, None])

    def _rates(self, severity: np.ndarray) -> np.ndarray:
        """(S, J) how often an ecg of a patient of this severity has each rate."""
        y = SCALARS.index("heart_rate")
        mean = self.law.scalar_mean[y] + self.law.slope[y] * severity
        return _bins(mean[:, None], np.sqrt(self.law.covariance[y, y] + RATE_SD**2))

    @cached_property
    def _any_rate(self) -> np.ndarray:
        """(J,) how often an ecg has each rate, among all patients."""
        return PRIOR @ self._rates(NODES)

    def _evidence(self, values: dict[str, torch.Tensor], num: int) -> _Evidence:
        check_signals(self.law, values.get("xray"), values.get("ecg"))
        scalars = {n: v.double().numpy() for n, v in values.items() if n not in ("xray", "ecg")}
        signals = {
            n: getattr(self.likelihoods, n)(values[n]).double().numpy()
            for n in ("xray", "ecg")
            if n in values
        }
        return _Evidence(num, scalars, **signals)

    def _draw(self, given: Sequence[str]) -> _Evidence:
        """The evidence of the fresh patients; drawn again, never kept: pixels and samples."""
        need = {n for n in (*TARGETS, *given) if n not in self._drawn}
        if need:
            parts = [self._evidence({n: b.values[n] for n in need}, len(b)) for b in self._fresh.batches()]
            for name in need:
                signal = name in ("xray", "ecg")
                drawn = [getattr(p, name) if signal else p.scalars[name] for p in parts]
                self._drawn[name] = np.concatenate(drawn)
        scalars = {n: self._drawn[n] for n in TARGETS}
        return _Evidence(self._fresh.num_samples, scalars, self._drawn.get("xray"), self._drawn.get("ecg"))

    def _integrate(self, given: Sequence[str], target: str) -> tuple[Predictive, np.ndarray]:
        """The predictive at each value of the scalars' statistic, and how often that value comes."""
        normal = self._normal(given, target)
        posterior, weights = PRIOR[None], np.ones(1)
        if normal.precision > 0:
            sd = normal.precision**-0.5
            t = np.arange(-8 * sd, NODES[-1] + 8 * sd, sd / 8)
            joint = PRIOR * stats.norm.pdf(t[:, None], NODES, sd) * sd / 8  # (T, S)
            weights = joint.sum(1)
            posterior = joint / weights[:, None]
        if target == "severity":
            return Predictive(posterior, np.zeros(len(weights)), NODES, STEP, uniform=True), weights
        width = np.sqrt(normal.variance + (normal.slope * STEP) ** 2 / 12)
        return Predictive(posterior, np.zeros(len(weights)), normal.slope * NODES, width), weights


def _bins(mean: np.ndarray, sd: float) -> np.ndarray:
    """(..., J) probability of each rate bin where the rate is normal; the last ones take what is beyond."""
    edges = (RATE_BINS[:-1] + 0.5) / 10
    below = special.ndtr((edges - mean) / sd)
    zero = np.zeros_like(below[..., :1])
    return np.diff(np.concatenate([zero, below, zero + 1], -1), axis=-1)


def _mean(x: np.ndarray, weights: np.ndarray | None) -> tuple[float, float]:
    """Mean and standard error; an integral's is 0."""
    if weights is not None:
        return float(weights @ x), 0.0
    return float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x)))
