"""The synthetic patients against the law as it is written down, scipy's distributions and scikit-learn."""

import re

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LinearRegression, RidgeCV

from aion_lite.data import synthetic_law as law
from aion_lite.data.synthetic import MISSABLE, SyntheticDataGenerator, read_synthetic
from aion_lite.evaluation import r2

ARRAYS = ("age", "severity", "xray", "glucose", "cholesterol", "heart_rate", "ecg")


@pytest.fixture(scope="module")
def patients():
    return SyntheticDataGenerator(4000, seed=1, image_size=16).generate_correlated_data()


def numbers(data):
    return {n: data.values[n].double().numpy() for n in (*law.SCALARS, "severity")}


def test_scalars_follow_the_law_as_written(patients):
    x = numbers(patients)
    own = {
        "glucose": (x["glucose"] - 90 - 0.5 * x["age"] - 50 * x["severity"]) / 10,
        "cholesterol": (x["cholesterol"] - 150 - 0.8 * x["age"] - 30 * x["severity"]) / 20,
        "heart_rate": (x["heart_rate"] - 70 - 20 * x["severity"]) / 6,
        "age": (x["age"] - 55) / 12,
    }
    for name, z in own.items():
        assert stats.kstest(z, "norm").pvalue > 0.01, name
    assert stats.kstest(x["severity"], "expon", args=(0, 0.3)).pvalue > 0.01
    correlation = np.corrcoef([*own.values(), x["severity"]])
    assert np.abs(correlation - np.eye(5)).max() < 4 / np.sqrt(len(patients))


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_rho_scales_every_link_and_leaves_mean_and_variance(rho):
    full, dialled = (
        SyntheticDataGenerator(20_000, seed=3, image_size=16, rho=r).generate_correlated_data()
        for r in (1, rho)
    )
    a, b = numbers(full), numbers(dialled)
    error = 4 / np.sqrt(20_000)
    for name in ("glucose", "cholesterol", "heart_rate"):
        assert b[name].mean() == pytest.approx(a[name].mean(), abs=error * a[name].std())
        assert b[name].std() == pytest.approx(a[name].std(), rel=3 * error)
        for cause in ("age", "severity"):
            expected = rho * np.corrcoef(a[name], a[cause])[0, 1]
            assert np.corrcoef(b[name], b[cause])[0, 1] == pytest.approx(expected, abs=error)
    shown, rate = dialled.info["shown_severity"], dialled.info["rate_bin"] / 10
    assert np.corrcoef(shown, b["severity"])[0, 1] == pytest.approx(rho, abs=2 * error)
    assert np.mean(np.isclose(shown, b["severity"], rtol=1e-4)) == pytest.approx(rho, abs=error)
    assert np.mean(np.abs(rate - b["heart_rate"]) < 8) > rho
    assert stats.ks_2samp(shown, a["severity"]).pvalue > 0.01  # a stranger is a patient like any other
    strip = b["heart_rate"] + np.random.default_rng(0).normal(0, 1.5, len(rate))
    assert stats.ks_2samp(rate, strip).pvalue > 0.01


def test_an_xray_is_the_chest_and_its_nuisances_and_white_noise():
    data = SyntheticDataGenerator(200, image_size=48, noise=2.0).generate_correlated_data()
    model = law.PatientLaw(noise=2.0, image_size=48)
    centre = (np.arange(48) + 0.5) / 48
    y, x = np.meshgrid(centre, centre, indexing="ij")
    place = (data.info["lesion_place"] + 0.5) / 32
    width = law.LESION_WIDTHS[data.info["lesion_width"]]
    away = (y - place[:, :1, None]) ** 2 + (x - place[:, 1:, None]) ** 2
    lesion = np.exp(-away / (2 * width[:, None, None] ** 2)) * data.info["shown_severity"][:, None, None]
    body = np.einsum("bk,khw->bhw", data.info["body"], model.modes)
    noise = (data.values["xray"][:, 0].numpy() - model.chest - body - 0.4 * lesion) / (0.06 * 2 * 48 / 64)
    assert stats.kstest(noise[:100].ravel()[::7], "norm").pvalue > 0.01
    assert noise.var() == pytest.approx(1, abs=4 * np.sqrt(2 / noise.size))
    assert abs((noise * lesion).mean()) < 4 * lesion.std() / np.sqrt(noise.size)
    for name in ("lesion_place", "lesion_width", "phase"):
        assert len(np.unique(data.info[name], axis=0)) > 2
    assert np.abs(np.corrcoef(data.info["body"][:, :7].T) - np.eye(7)).max() < 0.4


def test_an_ecg_beats_at_its_rate(patients):
    """The peaks of noiseless beats lie where rate and phase say; the rest is gain, wander and white noise."""
    model = law.PatientLaw()
    rates = np.array([60.0, 75.0, 150.0])
    beats = model.beats((10 * rates).astype(int), np.array([0, 16, 32]))
    for beat, rate, phase in zip(beats, rates, (0, 0.25, 0.5), strict=True):
        peaks = np.flatnonzero((beat[1:-1] > beat[:-2]) & (beat[1:-1] >= beat[2:]) & (beat[1:-1] > 0.8)) + 1
        turns = peaks / 100 * rate / 60 + phase
        assert np.abs(turns - turns.round()).max() < 1.5 * rate / 6000  # a sample and a half
        assert abs(len(peaks) - rate / 6) <= 1
    info = patients.info
    rest = patients.values["ecg"][:300, 0].numpy()
    rest = rest - info["gain"][:300, None] * model.beats(info["rate_bin"][:300], info["phase"][:300])
    rest = (rest - info["wander"][:300] @ model.slow) / 0.2
    assert stats.kstest(rest.ravel()[::7], "norm").pvalue > 0.01
    strip = info["rate_bin"] / 10 - numbers(patients)["heart_rate"]
    assert stats.kstest(strip / 1.5, "norm").pvalue > 0.01


def test_missing_at_random_is_blind_and_by_severity_is_not():
    blind, biased = (
        SyntheticDataGenerator(5000, image_size=16, missing=m, rate=0.3).generate_correlated_data()
        for m in ("random", "severity")
    )
    for data in (blind, biased):
        assert data.present["age"].all() and data.present["severity"].all()
        for name in MISSABLE:
            assert data.present[name].float().mean() == pytest.approx(0.7, abs=4 * np.sqrt(0.21 / 5000))
    severity = numbers(blind)["severity"]
    assert stats.kstest(severity[blind.present["xray"]], "expon", args=(0, 0.3)).pvalue > 0.01
    # measured with probability exp(-c s): exponential again, with the mean 0.3 times the share measured
    assert stats.kstest(severity[biased.present["xray"]], "expon", args=(0, 0.21)).pvalue > 0.01
    present = torch.stack([blind.present[n] for n in MISSABLE]).numpy()
    assert np.abs(np.corrcoef(present) - np.eye(5)).max() < 4 / np.sqrt(5000)


def test_the_seed_decides_and_a_longer_set_begins_with_the_shorter():
    def make(num, seed=5, law="patients", missing=None):
        return SyntheticDataGenerator(
            num, seed, image_size=16, law=law, missing=missing
        ).generate_correlated_data()

    for options in ({}, {"law": "seed"}, {"missing": "severity"}):
        short, long, other = make(30, **options), make(1100, **options), make(30, seed=6, **options)
        for name in ARRAYS:
            torch.testing.assert_close(short.values[name], long.values[name][:30], atol=1e-5, rtol=0)
            assert torch.equal(make(30, **options).values[name], short.values[name])
            assert torch.equal(short.present[name], long.present[name][:30])
            assert not torch.equal(short.values[name], other.values[name])
            assert not torch.equal(long.values[name][:100], long.values[name][1000:])


def test_written_patients_are_the_generated_ones(tmp_path):
    generator = SyntheticDataGenerator(1234, image_size=16, missing="random")
    expected = generator.generate_correlated_data()
    folder = generator.write(tmp_path / "a" / "patients")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["patients"]
    rows = np.array([3, 1001, 1233])
    for data, part in (
        (read_synthetic(folder), slice(None)),
        (read_synthetic(folder, rows), rows),
        (read_synthetic(folder, slice(1000, None)), slice(1000, None)),
        (list(generator.batches())[1], slice(1000, None)),
    ):
        assert list(data.modalities.values()) == list(expected.modalities.values())
        for name in ARRAYS:
            assert torch.equal(data.values[name], expected.values[name][part])
            assert torch.equal(data.present[name], expected.present[name][part])
        for name, array in expected.info.items():
            np.testing.assert_array_equal(data.info[name], array[part])
        np.testing.assert_array_equal(data.ids, np.arange(1234)[part])
    with pytest.raises(FileExistsError, match="name another folder"):
        generator.write(folder)
    with pytest.raises(FileNotFoundError, match="holds no synthetic patients"):
        read_synthetic(tmp_path)


def test_writing_keeps_no_patients_in_memory(tmp_path):
    """Peak of what Python and numpy hold while writing: the same for 1,000 and 5,000 patients."""
    import tracemalloc

    peaks = []
    for num in (1000, 5000):
        tracemalloc.start()
        SyntheticDataGenerator(num, image_size=32).write(tmp_path / str(num))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 2**20 * 10


def test_no_linear_reading_of_pixels_comes_near(patients):
    """The best linear predictor of severity from pixels, from the law's own covariances, and fitted ones.

    Half of the limit is 0.46: the xray tells 93 % of the variance of severity (test_synthetic_limit.py).
    """
    model, num = law.PatientLaw(image_size=32), 32**2
    lesions = np.stack(
        [np.outer(p[y], p[x]).ravel() for p in model.profiles for y, x in model.places]
    )  # (Q, pixels)
    mean, power = 0.4 * 0.3, (0.4 * 0.3) ** 2  # of an exponential: E s**2 = 2 (E s)**2
    modes = model.modes.reshape(-1, num)
    covariance = (
        model.pixel_sd**2 * np.eye(num) + modes.T @ modes + 2 * power * lesions.T @ lesions / len(lesions)
    )
    average = lesions.mean(0)
    covariance -= power * np.outer(average, average)
    with_severity = mean * 0.3 * average
    best = with_severity @ np.linalg.solve(covariance, with_severity) / 0.3**2
    pixel = with_severity.sum() ** 2 / covariance.sum() / 0.3**2
    assert 0 < pixel < best < 0.1

    x, y = patients.values["xray"].flatten(1).numpy(), numbers(patients)["glucose"]
    ridge = RidgeCV(np.logspace(-1, 5, 7)).fit(x[:3000], y[:3000])
    assert r2(y[3000:], ridge.predict(x[3000:])) < 0.58 / 2
    line = LinearRegression().fit(x[:3000].mean(1, keepdims=True), y[:3000])
    assert r2(y[3000:], line.predict(x[3000:].mean(1, keepdims=True))) < 0.58 / 2


def test_in_the_seeds_law_the_mean_pixel_tells_nearly_all():
    """There an xray tells severity where it is above 0.5, else only that it isn't: R2 of glucose is 0.5."""
    var_glucose = 50**2 / 12 + (0.5 * 15) ** 2 + 10**2
    limit = 50**2 * (1 / 12 - 0.5 * 0.5**2 / 12) / var_glucose
    assert limit == pytest.approx(0.5)
    x, y = [], []
    for batch in SyntheticDataGenerator(4000, image_size=128, law="seed").batches():
        x.append(batch.values["xray"].mean((1, 2, 3)).numpy())
        y.append(batch.values["glucose"].numpy())
    x, y = np.concatenate(x), np.concatenate(y)
    line = np.polynomial.Polynomial.fit(x[:2000], y[:2000], 1)
    assert r2(y[2000:], line(x[2000:])) / limit > 0.95


@pytest.mark.parametrize(
    "wrong",
    [
        {"missing": "often"},
        {"rate": 1.0},
        {"law": "other"},
        {"law": "seed", "rho": 0.5},
        {"law": "seed", "missing": "severity"},
    ],
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=r"missing is|law"):
        SyntheticDataGenerator(**wrong)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("num_samples", "ten", TypeError),
        ("num_samples", 10.5, TypeError),
        ("num_samples", 0, ValueError),
        ("seed", None, TypeError),
        ("seed", 1.5, TypeError),
        ("seed", True, TypeError),
        ("seed", -1, ValueError),
        ("image_size", 64.0, TypeError),
        ("image_size", 8, ValueError),
        ("noise", 0.0, ValueError),
        ("noise", np.inf, ValueError),
        ("noise", None, TypeError),
        ("rho", "a", TypeError),
        ("rho", 1.1, ValueError),
        ("rho", -0.1, ValueError),
        ("rho", np.nan, ValueError),
        ("rate", "a", TypeError),
        ("rate", np.nan, ValueError),
        ("rate", -np.inf, ValueError),
        ("ecg_time_limit", "1 s", TypeError),
        ("ecg_time_limit", np.inf, ValueError),
    ],
)
def test_a_number_that_is_none_or_out_of_range_is_refused_by_name(name, value, error):
    with pytest.raises(error, match=f"^{name} is a .* number .*, got {re.escape(repr(value))}.$"):
        SyntheticDataGenerator(**{name: value})


def test_numbers_of_numpy_are_written_as_plain_ones(tmp_path):
    generator = SyntheticDataGenerator(np.int64(3), np.uint8(1), np.int32(16), np.float32(1), np.float64(1))
    data = read_synthetic(generator.write(tmp_path / "set"))
    expected = SyntheticDataGenerator(3, 1, 16).generate_correlated_data()
    assert all(torch.equal(data.values[name], expected.values[name]) for name in ARRAYS)
