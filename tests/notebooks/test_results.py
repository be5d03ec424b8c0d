"""The stored full runs hold what the book claims of them."""

import numpy as np
import pytest
from check_notebooks import FOLDER

from aion_lite.evaluation import paired_difference, read_results, samples_needed, seed_interval


@pytest.fixture(scope="module")
def galaxies():
    settings, records = read_results(FOLDER / "results" / "01_predict_redshifts.json")
    assert "H100" in settings["device"] and len(settings["commit"]) == 40
    return records


@pytest.fixture(scope="module")
def redshifts(galaxies):
    return galaxies[galaxies.task == "redshift from ugriz"]


def test_every_size_and_method_has_five_seeds(redshifts):
    seeds = redshifts.groupby(["n", "method"]).seed.apply(sorted)
    assert len(seeds) == 4 * 8
    assert all(s == [0, 1, 2, 3, 4] for s in seeds)


def test_eight_thousand_galaxies_give_the_promised_error_and_honest_intervals(redshifts):
    ours = redshifts[(redshifts.n == 8000) & (redshifts.method == "value")].mean(numeric_only=True)
    assert ours.sigma_nmad <= 0.0138
    assert 0.88 <= ours.coverage90 <= 0.92


@pytest.mark.parametrize("n", [300, 1000, 3000, 8000])
@pytest.mark.parametrize("task", ["redshift from ugriz", "redshift from ugrizJHK", "JHK from ugriz"])
def test_never_below_boosting_on_raw_magnitudes(galaxies, task, n):
    rows = galaxies[(galaxies.task == task) & (galaxies.n == n)]
    r2 = rows.pivot(index="seed", columns="method", values="r2")
    assert paired_difference(r2["value"], r2["boosting"])[1] > 0


@pytest.mark.parametrize("n", [300, 1000, 3000, 8000])
def test_far_above_tables(redshifts, n):
    r2 = redshifts[redshifts.n == n].pivot(index="seed", columns="method", values="r2")
    assert paired_difference(r2["value"], r2["table"])[1] > 0.3


@pytest.fixture(scope="module")
def images():
    settings, records = read_results(FOLDER / "results" / "03_tokenise_an_image.json")
    assert "H100" in settings["device"]
    return records


def test_nine_codes_in_ten_are_in_use_at_every_size(images):
    ours = images[(images.task == "image codec") & (images.method == "ImageCodec")]
    assert sorted(ours.seed.unique()) == [0, 1, 2, 3, 4] and ours.n.max() == 60_000
    assert ours.used.min() >= 0.9


@pytest.mark.parametrize("metric", ["psnr", "ssim", "r2"])
def test_reconstruction_is_at_least_as_good_as_aions_at_equal_tokens_and_weights(images, metric):
    rows = images[images.task == "against AION"]
    weights = rows.groupby("method").weights.first()
    assert weights.max() / weights.min() < 1.03
    by_seed = rows.pivot(index="seed", columns="method", values=metric)
    theirs = by_seed.drop(columns="ImageCodec").max(axis=1)  # the better of two rates, by seed
    assert len(by_seed) == 5 and paired_difference(by_seed["ImageCodec"], theirs)[1] > 0


@pytest.mark.parametrize(("n", "gain"), [(500, 0.3), (2000, 0.0)])
def test_codes_by_where_they_lie_score_above_a_table_where_images_are_few(images, n, gain):
    rows = images[(images.task == "tokens in the transformer") & (images.n == n)]
    by_seed = rows.pivot(index="seed", columns="method", values="log_score")
    assert len(by_seed) == 5 and paired_difference(by_seed["value"], by_seed["table"])[1] > gain


@pytest.fixture(scope="module")
def series():
    settings, records = read_results(FOLDER / "results" / "04_tokenise_a_series_and_a_spectrum.json")
    assert "H100" in settings["device"]
    return records


def by_seed_of(records, task: str, n: int):
    rows = records[(records.task == task) & (records.n == n)].pivot(
        index="seed", columns="method", values="r2"
    )
    assert sorted(rows.index) == [0, 1, 2, 3, 4]
    return rows


@pytest.mark.parametrize(
    ("task", "n", "sign"),
    [("watch", 1000, 1), ("swings", 100_000, 1), ("supernovae", 4108, -1), ("absorbers", 100_000, 1)],
)
def test_which_of_codec_and_opponent_wins_is_as_the_page_says(series, task, n, sign):
    r2 = by_seed_of(series, task, n)
    _, low, high = paired_difference(r2["codec"], r2["opponent"])
    assert (low if sign > 0 else -high) > 0


def test_weighing_by_inverse_variance_finds_more_of_the_law(series):
    r2 = by_seed_of(series, "noise", 3000)
    assert paired_difference(r2["weighted"], r2["all pixels alike"])[1] > 0.1


# 08: what augmentation is worth


@pytest.fixture(scope="module")
def augmented():
    settings, records = read_results(FOLDER / "results" / "08_augment_images_and_series.json")
    assert "H100" in settings["device"]
    return records


def accuracy_of(records, task: str, n: int):
    rows = records[(records.task == task) & (records.n == n)]
    return rows.pivot(index="seed", columns="method", values="accuracy")


def log_factors(records, task: str, method: str, n: int) -> np.ndarray:
    """(5,) by seed: log of the labels, over n, that training without needs to score as a method with n."""
    by = records[records.task == task].pivot(index="n", columns=["method", "seed"], values="accuracy")
    plain, ours = by["none"].dropna(), by[method].loc[n]
    return np.log([samples_needed(plain.index, plain[s], ours[s]) / n for s in range(5)])


def test_every_comparison_of_augmentation_has_five_seeds(augmented):
    seeds = augmented.groupby(["task", "method", "n"]).seed.apply(sorted)
    assert all(s == [0, 1, 2, 3, 4] for s in seeds)
    methods = augmented.groupby("task").method.nunique().to_dict()
    assert methods == {
        "clothes": 4, "watch": 3, "supernovae": 2, "strength: clothes": 5, "strength: watch": 5,
        "each: clothes": 8, "each: watch": 7,
    }  # fmt: skip
    sizes = augmented[augmented.method == "chosen"].groupby("task").n.apply(lambda n: sorted(set(n)))
    assert sizes.to_dict() == {
        "clothes": [100, 500, 1000, 5000],
        "watch": [50, 200, 1000],
        "supernovae": [50, 100, 200],
    }


@pytest.mark.parametrize(
    ("task", "n", "better", "worse"),
    [
        *[("clothes", n, "chosen", "none") for n in (100, 500, 1000, 5000)],
        *[("clothes", n, "10 copies", "none") for n in (500, 1000)],
        *[("clothes", n, "chosen", "all transforms") for n in (500, 1000)],
        ("clothes", 1000, "none", "all transforms"),
        *[("watch", n, method, "none") for n in (50, 200) for method in ("chosen", "all transforms")],
        ("supernovae", 200, "chosen", "none"),
        *[("each: clothes", 500, name, "none") for name in ("crop", "translation")],
        *[("each: clothes", 500, "none", name) for name in ("flip", "erase")],
        *[
            ("each: watch", 200, name, rival)
            for name in ("window_slice", "permutation")
            for rival in ("none", "time_warp", "jitter", "scaling", "magnitude_warp")
        ],
        *[("strength: clothes", 500, "0.5", name) for name in ("0", "1", "2", "4")],
        *[("strength: clothes", 500, "0", name) for name in ("2", "4")],
        *[("strength: watch", 200, name, "0") for name in ("0.5", "1", "2", "4")],
    ],
)
def test_which_augmentation_is_better_is_as_the_page_says(augmented, task, n, better, worse):
    accuracy = accuracy_of(augmented, task, n)
    assert paired_difference(accuracy[better], accuracy[worse])[1] > 0


@pytest.mark.parametrize(
    ("task", "method", "n"),
    [
        *[("clothes", "10 copies", n) for n in (100, 500, 1000)],
        *[("clothes", "all transforms", n) for n in (100, 500, 1000)],
        *[("clothes", "chosen", n) for n in (100, 500, 1000)],
        *[("watch", method, 50) for method in ("chosen", "all transforms")],
    ],
)
def test_ten_augmentations_are_not_ten_times_the_samples(augmented, task, method, n):
    sizes = augmented[(augmented.task == task) & (augmented.method == "none")].n
    assert sizes.max() > 10 * n  # so that ten could have been seen
    assert seed_interval(log_factors(augmented, task, method, n))[2] < np.log(10)


def test_augmentation_is_worth_less_where_labels_are_most(augmented):
    clothes = [log_factors(augmented, "clothes", "chosen", n) for n in (1000, 5000)]
    assert paired_difference(*clothes)[1] > 0
    gains = [accuracy_of(augmented, "watch", n) for n in (50, 1000)]
    few, many = (rows["chosen"] - rows["none"] for rows in gains)
    assert paired_difference(few, many)[1] > 0


@pytest.mark.parametrize("side", ["clothes", "watch"])
def test_a_strength_picked_on_held_out_samples_still_gains(augmented, side):
    rows = augmented[augmented.task == f"strength: {side}"]
    accuracy, watched = (
        rows.pivot(index="seed", columns="method", values=metric)[["0", "0.5", "1", "2", "4"]]
        for metric in ("accuracy", "watched")
    )
    picked = [accuracy.loc[seed, best] for seed, best in watched.idxmax(axis=1).items()]
    assert paired_difference(picked, accuracy["0"])[1] > 0
