"""The likelihoods of signals against scipy's normals, and brute force."""

import numpy as np
import pytest
from scipy import stats

from aion_lite.data.synthetic import SyntheticDataGenerator
from aion_lite.data.synthetic_law import PatientLaw
from aion_lite.data.synthetic_posterior import NODES, Likelihoods

SIZE = 16


def test_the_xrays_likelihood_is_that_of_a_mixture_of_normals():
    """Against scipy's multivariate normal, one lesion at a time."""
    law = PatientLaw(image_size=SIZE)
    x = SyntheticDataGenerator(3, seed=10, image_size=SIZE).generate_correlated_data().values["xray"]
    ours = Likelihoods(law).xray(x).double().numpy()
    modes = law.modes.reshape(len(law.modes), -1)
    covariance = law.pixel_sd**2 * np.eye(SIZE**2) + modes.T @ modes
    normal = stats.multivariate_normal(law.chest.ravel(), covariance)
    lesions = np.stack(
        [np.outer(p[y], p[z]).ravel() for p in law.profiles for y, z in law.places]
    )  # (Q, pixels)
    pixels = x.flatten(1).double().numpy()
    for i in (0, 30, 100):
        log_p = normal.logpdf(pixels - 0.4 * NODES[i] * lesions[:, None])  # (Q, 3)
        expected = np.logaddexp.reduce(log_p, 0)
        assert ours[:, i] == pytest.approx(expected - normal.logpdf(pixels), abs=2e-3)


def test_the_ecgs_likelihood_is_that_of_a_mixture_of_normals():
    """By Cholesky's factor, one rate and phase at a time, the gain summed over a grid."""
    law = PatientLaw()
    data = SyntheticDataGenerator(2, image_size=16).generate_correlated_data()
    ours = Likelihoods(law).ecg(data.values["ecg"]).double().numpy()
    factor = np.linalg.cholesky(law.ecg_sd**2 * np.eye(1000) + law.slow.T @ law.slow)
    x = np.linalg.solve(factor, data.values["ecg"][:, 0].double().numpy().T).T
    gain = np.linspace(-0.5, 2.5, 1501)
    bins = [*(data.info["rate_bin"] - 300), 1400]
    expected = np.zeros((2, 3))
    for i, j in enumerate(bins):
        beats = law.beats(np.full(64, 300 + j), np.arange(64)).astype(float)
        white = np.linalg.solve(factor, beats.T).T  # (P, T)
        for b in range(2):
            power = (
                (x[b] ** 2).sum()
                - 2 * gain[:, None] * (white @ x[b])
                + gain[:, None] ** 2 * (white**2).sum(1)
            )
            log_p = -0.5 * power + stats.norm(1, 0.2).logpdf(gain)[:, None]
            expected[b, i] = np.logaddexp.reduce(log_p, axis=None)
    difference = ours[:, bins] - expected
    assert np.ptp(expected, axis=1).min() > 5
    assert difference - difference[:, :1] == pytest.approx(np.zeros((2, 3)), abs=0.02)
