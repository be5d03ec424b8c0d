"""Mixtures on a grid against scipy's distributions, and the expected AUROC against scikit-learn's."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from aion_lite.data.predictive import Predictive, expected_auroc

RNG = np.random.default_rng(0)


def test_one_centre_is_scipys_normal():
    dist = Predictive(np.ones((3, 1)), np.array([1.0, 2.0, 3.0]), np.zeros(1), 0.5)
    expected, y = stats.norm([1.0, 2.0, 3.0], 0.5), np.array([1.2, 0.0, 9.0])
    assert dist.mean == pytest.approx(expected.mean()) and dist.variance == pytest.approx(expected.var())
    assert dist.log_prob(y) == pytest.approx(expected.logpdf(y))
    assert dist.cdf(y) == pytest.approx(expected.cdf(y))
    assert dist.entropy == pytest.approx(expected.entropy())


def test_bins_are_scipys_histogram():
    counts = RNG.random((1, 20))
    centres = 0.1 * np.arange(20) - 3.0
    dist = Predictive(counts / counts.sum(), np.zeros(1), centres, 0.1, uniform=True)
    edges = np.append(centres - 0.05, centres[-1] + 0.05)
    expected = stats.rv_histogram((counts[0], edges), density=False)
    assert dist.mean == pytest.approx(expected.mean()) and dist.variance == pytest.approx(expected.var())
    assert dist.entropy == pytest.approx(expected.entropy())
    for y in (-2.96, -2.0, -1.52):
        assert dist.cdf(np.array([y])) == pytest.approx(expected.cdf(y))
        assert dist.log_prob(np.array([y])) == pytest.approx(expected.logpdf(y))
    assert dist.log_prob(np.array([5.0])) == dist.log_prob(centres[-1:])  # never minus infinity


def test_a_mixture_scores_as_its_own_draws_do():
    weights, centres = np.array([[0.2, 0.5, 0.3]]), np.array([-3.0, 0.0, 1.0])
    dist = Predictive(weights, np.array([10.0]), centres, 0.7)
    y = 10 + RNG.choice(centres, 20_000, p=weights[0]) + 0.7 * RNG.standard_normal(20_000)
    log_prob = np.array([dist.log_prob(part[:1])[0] for part in y[:4000, None]])
    assert dist.mean[0] == pytest.approx(y.mean(), abs=4 * y.std() / 20_000**0.5)
    assert dist.variance[0] == pytest.approx(y.var(), rel=0.05)
    assert -dist.entropy[0] == pytest.approx(log_prob.mean(), abs=4 * log_prob.std() / 4000**0.5)
    assert dist.cdf(np.array([9.0]))[0] == pytest.approx((y <= 9).mean(), abs=0.02)


def test_the_expected_auroc_is_that_of_drawn_events():
    p = RNG.beta(0.5, 2, 2000)
    area, _ = expected_auroc(p)
    drawn = [roc_auc_score(RNG.random(2000) < p, p) for _ in range(100)]
    assert area == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 10 + 1e-3)
    areas, errors = zip(*(expected_auroc(RNG.beta(0.5, 2, 2000)) for _ in range(300)), strict=True)
    assert np.mean(np.square(errors)) == pytest.approx(np.var(areas), rel=0.35)
    assert expected_auroc(np.full(100, 0.3))[0] == pytest.approx(0.5)
