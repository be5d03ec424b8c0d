"""The Bayes limit against closed forms, scipy's distributions, brute force, and scores on fresh patients."""

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.metrics import roc_auc_score

from aion_lite.data.synthetic import SyntheticDataGenerator
from aion_lite.data.synthetic_limit import TARGETS, BayesLimit

SIZE, NUM = 16, 600
THRESHOLDS = {"age": 60, "severity": 0.5, "glucose": 160, "cholesterol": 240, "heart_rate": 90}


@pytest.fixture(scope="module")
def patients():
    return SyntheticDataGenerator(NUM, seed=10, image_size=SIZE).generate_correlated_data()


@pytest.fixture(scope="module")
def limit():
    return BayesLimit(SyntheticDataGenerator(image_size=SIZE), num_samples=NUM)


# --- posteriors and limits


def test_given_a_normal_reading_severity_is_a_truncated_normal(limit):
    """Exponential prior times normal likelihood: scipy's truncnorm, moments and quantiles."""
    generator = SyntheticDataGenerator(200, seed=2, image_size=16)
    data = generator.generate_correlated_data()
    ours = limit.predict(data.select(["age", "severity", "glucose"]), ["age", "glucose"], "severity")
    glucose, age, severity = (data.values[n].double().numpy() for n in ("glucose", "age", "severity"))
    sd = 10 / 50
    centre = (glucose - 90 - 0.5 * age) / 50 - sd**2 / 0.3
    expected = stats.truncnorm(-centre / sd, np.inf, centre, sd)
    assert ours.mean == pytest.approx(expected.mean(), abs=5e-4)
    assert ours.variance == pytest.approx(expected.var(), rel=3e-3)
    assert ours.pit == pytest.approx(expected.cdf(severity), abs=0.01)
    assert ours.log_prob == pytest.approx(expected.logpdf(severity), abs=0.1)


def test_given_age_glucose_is_a_normal_plus_an_exponential(limit):
    data = SyntheticDataGenerator(200, seed=3, image_size=16).generate_correlated_data()
    ours = limit.predict(data, ["age"], "glucose", threshold=160)
    age, glucose = (data.values[n].double().numpy() for n in ("age", "glucose"))
    expected = stats.exponnorm(50 * 0.3 / 10, 90 + 0.5 * age, 10)
    assert ours.mean == pytest.approx(expected.mean(), abs=0.01)
    assert ours.variance == pytest.approx(expected.var(), rel=1e-3)
    assert ours.pit == pytest.approx(expected.cdf(glucose), abs=1e-4)
    assert ours.log_prob == pytest.approx(expected.logpdf(glucose), abs=1e-3)
    assert ours.exceeds == pytest.approx(expected.sf(160), abs=1e-4)
    score = limit.score(["age"], "glucose")
    assert score.method == "integration"
    assert score.r2 == pytest.approx(0.25 * 144 / (0.25 * 144 + 2500 * 0.09 + 100), abs=1e-4)
    assert score.log_score == pytest.approx(-stats.exponnorm(1.5, 0, 10).entropy(), abs=1e-3)


def test_what_severity_and_age_tell_has_a_closed_form(limit):
    total = {"glucose": 36 + 225 + 100, "cholesterol": 0.64 * 144 + 81 + 400, "heart_rate": 36 + 36}
    for given, target, left in (
        (["severity"], "glucose", 136),
        (["severity", "age"], "glucose", 100),
        (["severity", "age", "xray"], "cholesterol", 400),
        (["severity", "heart_rate"], "cholesterol", 400 + 0.64 * 144),
        (["severity", "xray"], "heart_rate", 36),
    ):
        score = limit.score(given, target)
        assert score.method == "closed form"
        assert score.r2 == pytest.approx(1 - left / total[target])
        assert score.log_score == pytest.approx(-stats.norm(0, np.sqrt(left)).entropy())


def test_r2_of_severity_from_heart_rate_is_scipys_double_integral(limit):
    """By scipy's quadrature over the reading: the expected variance of a truncated normal."""
    sd = 6 / 20

    def weighted(t):
        centre = t - sd**2 / 0.3
        density = stats.exponnorm.pdf(t, 0.3 / sd, 0, sd)
        return density * stats.truncnorm.var(-centre / sd, np.inf, centre, sd)

    left = integrate.quad(weighted, -1.5, 3.5, epsabs=1e-6, limit=60)[0]
    assert limit.score(["heart_rate"], "severity").r2 == pytest.approx(1 - left / 0.09, abs=1e-3)


PAIRS = [
    (["glucose"], "severity"),
    (["age", "glucose"], "cholesterol"),
    (["heart_rate", "cholesterol"], "glucose"),
    (["severity", "age"], "glucose"),
    (["glucose", "cholesterol"], "age"),
]


@pytest.mark.parametrize("given, target", PAIRS)
def test_closed_form_integration_and_monte_carlo_agree(limit, given, target):
    best, sampled = limit.score(given, target), limit.score(given, target, method="Monte Carlo")
    assert best.method == ("closed form" if "severity" in given else "integration")
    assert sampled.r2 == pytest.approx(best.r2, abs=4 * sampled.r2_error + 1e-4)
    assert sampled.log_score == pytest.approx(best.log_score, abs=4 * sampled.log_score_error + 1e-3)
    assert best.r2_error == 0 and sampled.r2_error < 0.02


SIGNALS = [
    (["xray"], "severity"),
    (["xray"], "glucose"),
    (["xray", "age"], "cholesterol"),
    (["ecg"], "heart_rate"),
    (["ecg", "xray", "age"], "heart_rate"),
    (["ecg", "severity"], "heart_rate"),
    (["xray", "ecg", "age", "cholesterol"], "glucose"),
]


@pytest.mark.parametrize("given, target", PAIRS + SIGNALS)
def test_exact_predictions_reach_the_limit_and_are_calibrated(limit, patients, given, target):
    """Scores against the truth of other patients: nothing of the limit's own making but the predictions."""
    threshold = THRESHOLDS[target]
    score = limit.score(given, target, threshold)
    ours = limit.predict(patients, given, target, threshold)
    truth = patients.values[target].double().numpy()
    squared = (truth - ours.mean) ** 2
    error = np.std(squared) / np.sqrt(NUM)
    expected = (1 - score.r2) * variance_of(target)
    assert squared.mean() == pytest.approx(expected, abs=4 * error)
    error = ours.log_prob.std() / np.sqrt(NUM)
    assert ours.log_prob.mean() == pytest.approx(score.log_score, abs=4 * error)
    assert stats.kstest(ours.pit, "uniform").pvalue > 1e-3  # one of twelve
    event = truth > threshold
    area = roc_auc_score(event, ours.exceeds)
    error = np.sqrt(area * (1 - area) / min(event.sum(), (~event).sum()))
    assert area == pytest.approx(score.auroc, abs=4 * error)


def variance_of(target):
    return {"age": 144, "severity": 0.09, "glucose": 361, "cholesterol": 573.16, "heart_rate": 72}[target]


def test_the_ecg_tells_what_an_exact_reading_of_its_rate_would(limit):
    """Its noise is low: heart rate from the ecg is heart rate from heart_rate + N(0, 1.5**2)."""
    reading = stats.exponnorm(6 / 6, 70, 6)

    def weighted(r):
        h = np.linspace(r - 9, r + 9, 400)
        p = reading.pdf(h) * stats.norm.pdf(r, h, 1.5)
        mean = (p * h).sum() / p.sum()
        return (p * (h - mean) ** 2).sum() * (h[1] - h[0])

    left = integrate.quad(weighted, 40, 170, limit=100)[0]
    score = limit.score(["ecg"], "heart_rate")
    assert score.r2 == pytest.approx(1 - left / 72, abs=1e-3)


def test_more_is_never_worse_and_what_adds_nothing_adds_nothing(limit):
    chain = [
        ["xray"],
        ["xray", "age"],
        ["xray", "age", "ecg"],
        ["xray", "age", "heart_rate"],
        ["severity", "age"],
    ]
    scores = [limit.score(given, "glucose") for given in chain]
    assert np.all(np.diff([s.r2 for s in scores]) > 0)
    assert np.all(np.diff([s.log_score for s in scores]) > 0)
    assert limit.score(["xray", "age"], "severity").r2 == pytest.approx(limit.score(["xray"], "severity").r2)
    with_ecg = limit.score(["heart_rate", "ecg"], "glucose")
    assert with_ecg == limit.score(["heart_rate"], "glucose")


def test_rho_0_leaves_nothing_to_know():
    limit = BayesLimit(SyntheticDataGenerator(image_size=SIZE, rho=0.0), num_samples=40)
    for target in TARGETS:
        given = [n for n in (*TARGETS, "xray", "ecg") if n != target]
        score = limit.score(given, target, THRESHOLDS[target], method="Monte Carlo")
        assert score.r2 == pytest.approx(0, abs=1e-4)
        assert score.log_score == pytest.approx(limit.score([], target).log_score, abs=1e-3)
        assert score.auroc == pytest.approx(0.5, abs=1e-6)


def test_rho_squares_into_what_one_link_tells(limit):
    """E[severity | xray] is rho times what it is at rho = 1, so the R2 of that link is rho**2 times it."""
    half = BayesLimit(SyntheticDataGenerator(image_size=SIZE, rho=0.5), num_samples=NUM)
    full, dialled = limit.score(["xray"], "severity"), half.score(["xray"], "severity")
    assert dialled.r2 == pytest.approx(full.r2 / 4, abs=4 * dialled.r2_error)
    assert half.score(["severity"], "glucose").r2 == pytest.approx(
        limit.score(["severity"], "glucose").r2 / 4
    )
    data = SyntheticDataGenerator(NUM, 9, image_size=SIZE, rho=0.5).generate_correlated_data()
    for given, target in (
        (["xray", "ecg"], "severity"),
        (["ecg"], "heart_rate"),
        (["xray", "age"], "glucose"),
    ):
        assert stats.kstest(half.predict(data, given, target).pit, "uniform").pvalue > 0.01


def test_more_noise_tells_less(limit):
    noisy = BayesLimit(SyntheticDataGenerator(image_size=SIZE, noise=4.0), num_samples=200)
    for given, target in ((["xray"], "severity"), (["ecg"], "heart_rate")):
        assert noisy.score(given, target).r2 < limit.score(given, target).r2


# --- absence


def test_what_is_absent_is_integrated_out_and_its_absence_is_evidence():
    limits, data = {}, {}
    for missing in ("random", "severity"):
        generator = SyntheticDataGenerator(1000, 4, image_size=SIZE, missing=missing, rate=0.4)
        limits[missing], data[missing] = BayesLimit(generator), generator.generate_correlated_data()
    given = ["xray", "heart_rate"]
    blind = limits["random"].predict(data["random"], given, "glucose")
    here = data["random"].present["xray"] & data["random"].present["heart_rate"]
    neither = (~data["random"].present["xray"] & ~data["random"].present["heart_rate"]).numpy()
    assert blind.mean[neither] == pytest.approx(np.full(neither.sum(), 90 + 27.5 + 15), abs=0.01)
    complete = limits["random"].predict(data["random"][here], given, "glucose")
    assert blind.mean[here.numpy()] == pytest.approx(complete.mean)
    absent = ~data["random"].present["glucose"].numpy()
    assert np.isnan(blind.pit[absent]).all() and not np.isnan(blind.pit[~absent]).any()
    # Measured with probability exp(-c s): that there is an xray tells of severity before it is read.
    for missing in ("random", "severity"):
        pit = limits[missing].predict(data[missing], given, "severity").pit
        assert stats.kstest(pit, "uniform").pvalue > 0.01
    wrong = limits["random"].predict(data["severity"], given, "severity").pit
    assert stats.kstest(wrong, "uniform").pvalue < 1e-4


def test_what_cannot_be_had_is_refused(limit, patients):
    for given, target in ((["pulse"], "glucose"), ("xray", "glucose"), (["xray"], "pulse"), (["age"], "age")):
        with pytest.raises(ValueError, match="given is a list of"):
            limit.score(given, target)
    with pytest.raises(ValueError, match="can be had by Monte Carlo, not by 'integration'"):
        limit.score(["xray"], "glucose", method="integration")
    with pytest.raises(ValueError, match="law='patients'"):
        BayesLimit(SyntheticDataGenerator(law="seed"))
    with pytest.raises(ValueError, match=r"xray needs shape \(B, 1, 64, 64\)"):
        BayesLimit(SyntheticDataGenerator()).predict(patients, ["xray"], "glucose")


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda limit, data: BayesLimit("x"), TypeError, "generator is a SyntheticDataGenerator, got a str"),
        (lambda limit, data: BayesLimit(limit.generator, 2.5), TypeError, "num_samples .* got 2.5"),
        (lambda limit, data: BayesLimit(limit.generator, seed=None), TypeError, "seed .* got None"),
        (
            lambda limit, data: limit.predict(data.select(["age", "ecg"]), ["age", "xray"], "glucose"),
            ValueError,
            r"data needs \['xray', 'glucose'\], .* it has \['age', 'ecg'\]",
        ),
        (
            lambda limit, data: limit.predict(data.values, ["xray"], "glucose"),
            TypeError,
            "data is a MultimodalDataset, got a dict",
        ),
        (lambda limit, data: limit.predict(data, None, "glucose"), ValueError, "given is .* got None"),
        (lambda limit, data: limit.score([["age"]], "glucose"), ValueError, r"given is .* got \[\['age'\]\]"),
    ],
)
def test_wrong_input_is_refused_at_the_door(limit, patients, ask, error, says):
    with pytest.raises(error, match=says):
        ask(limit, patients)


def test_the_seed_decides():
    a, b, c = (
        BayesLimit(SyntheticDataGenerator(image_size=SIZE), num_samples=50, seed=s).score(
            ["xray"], "glucose", 160
        )
        for s in (1, 1, 2)
    )
    assert a == b and a.r2 != c.r2


# --- signals as targets


@pytest.mark.parametrize("rho", [1.0, 0.6])
def test_the_r2_of_pixels_is_what_a_known_severity_takes_off_their_squares(rho):
    generator = SyntheticDataGenerator(6000, seed=3, image_size=SIZE, rho=rho)
    limit, law = BayesLimit(generator, num_samples=50), generator.patient_law
    data = generator.generate_correlated_data()
    x = data.values["xray"][:, 0].double().numpy() - law.chest
    total = (x - x.mean(0)).var(0).sum()
    x -= np.einsum("bk,khw->bhw", data.info["body"], law.modes)  # independent of all: less to average out
    lesion = np.mean([p[y][:, None] * p[z] for p in law.profiles for y, z in law.places], 0)
    s = data.values["severity"].double().numpy()[:, None, None]
    blind = ((x - 0.4 * 0.3 * lesion) ** 2).sum((1, 2))
    best = ((x - 0.4 * (rho * s + (1 - rho) * 0.3) * lesion) ** 2).sum((1, 2))
    error = (blind - best).std() / len(x) ** 0.5
    r2 = limit.score(["severity"], "xray").r2
    assert r2 == pytest.approx((blind - best).mean() / total, abs=4 * error / total)
    assert r2 > 4 * error / total


@pytest.mark.parametrize(
    "one, other", [("glucose", "xray"), ("severity", "ecg"), ("ecg", "xray"), ("heart_rate", "ecg")]
)
def test_what_one_tells_of_the_other_the_other_tells_of_it(limit, one, other):
    """Mutual information is symmetric, and the two ways to it have little in common."""
    there, back = (limit.score([a], b) for a, b in ((one, other), (other, one)))
    nothing = limit.score([], one)
    error = np.hypot(there.log_score_error, back.log_score_error)
    gained = back.log_score - nothing.log_score
    assert there.log_score == pytest.approx(gained, abs=4 * error + 2e-3)
    assert gained > 0.1


def test_of_a_signal_nothing_is_told_by_age_or_nothing_and_all_by_its_cause(limit):
    for target, cause in (("xray", "severity"), ("ecg", "heart_rate")):
        assert limit.score([], target)[:4] == (0, 0, 0, 0)
        assert limit.score(["age"], target).log_score == pytest.approx(0, abs=1e-9)
        assert limit.score([cause, "glucose"], target) == limit.score([cause], target)
    assert limit.score(["heart_rate"], "ecg").r2 == 0
    phases = limit.law.beats(np.full(64, 700), np.arange(64))
    assert np.abs(phases.mean(0)).max() < 1e-5  # the mean of an ecg over its phase


def test_signals_have_no_threshold_and_no_prediction(limit, patients):
    for more in ({"threshold": 1.0}, {"method": "integration"}):
        with pytest.raises(ValueError, match="'xray' is no scalar"):
            limit.score(["age"], "xray", **more)
    with pytest.raises(ValueError, match="not of 'ecg'"):
        limit.predict(patients, ["age"], "ecg")
