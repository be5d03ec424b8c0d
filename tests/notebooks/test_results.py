"""The stored full runs hold what the book claims of them."""

import pytest
from check_notebooks import FOLDER
from stored_runs import stored

from aion_lite.evaluation import paired_difference, read_results


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


@pytest.fixture(scope="module")
def pretrained():
    return stored("05_start_from_pretrained", "H100")


def scores(records, task: str, n: int, metric: str):
    rows = records[(records.task == task) & (records.n == n)]
    return rows.pivot(index="seed", columns="method", values=metric)


@pytest.mark.parametrize("n", [50, 200, 1000, 3000, 10_000])
def test_frozen_features_cost_images_in_reconstruction(pretrained, n):
    r2 = scores(pretrained, "reconstruction", n, "r2")
    assert paired_difference(r2["scratch"], r2.drop(columns="scratch").max(axis=1))[1] > 0
    lost = scores(pretrained, "reconstruction", n, "r2_known") - r2
    assert paired_difference(lost["pretrained"], lost["scratch"])[1] > 0


@pytest.mark.parametrize("n", [1000, 3000, 10_000])
def test_features_of_photographs_tell_clothes_apart_better_than_pixels_or_chance_weights(pretrained, n):
    accuracy = scores(pretrained, "probe", n, "accuracy")
    assert len(accuracy.columns) == 5
    rivals = accuracy.drop(columns="pretrained").max(axis=1)
    assert paired_difference(accuracy["pretrained"], rivals)[1] > 0


@pytest.mark.parametrize("n", [50, 200, 1000])
def test_no_token_of_a_wrists_motion_reaches_the_raw_signal(pretrained, n):
    accuracy = scores(pretrained, "series probe", n, "accuracy")
    assert paired_difference(accuracy["signal"], accuracy.drop(columns="signal").max(axis=1))[1] > 0
    r2 = scores(pretrained, "series reconstruction", n, "r2")
    assert paired_difference(r2["scratch"], r2["pretrained"])[1] > 0


@pytest.mark.parametrize("n", [50, 200, 1000, 3000, 10_000])
def test_frozen_features_themselves_tell_classes_better_than_pixels(pretrained, n):
    features = scores(pretrained, "feature probe", n, "accuracy")
    pixels = scores(pretrained, "probe", n, "accuracy")["pixels"]
    assert paired_difference(features["pretrained"], pixels)[1] > 0


@pytest.mark.parametrize("n", [50, 200, 1000])
def test_random_filters_give_a_series_back_better_than_pretrained_ones(pretrained, n):
    r2 = scores(pretrained, "series reconstruction", n, "r2")
    assert paired_difference(r2["random"], r2["pretrained"])[1] > 0


# 06: the transformer


@pytest.fixture(scope="module")
def transformer():
    records = stored("06_train_the_transformer", "H200")
    assert records.groupby(["task", "method"]).ngroups == 6 * 4 + 6 + 3 + 2
    return records


@pytest.mark.parametrize("given", ["r", "g, r", "g, r, i", "J, H, K", "ugriz", "ugriz + JHK"])
def test_a_model_that_met_gaps_is_ahead_of_one_that_never_did(transformer, given):
    rows = transformer[transformer.task == f"redshift from {given}"]
    error = rows.pivot(index="seed", columns="method", values="error")
    for rival in ("never missing", "never missing, filled"):
        assert paired_difference(error[rival], error["masked"])[1] > 0
    # With few bands, gaps in the training data cost nothing that is seen; with many, about a tenth.
    _, low, high = paired_difference(error["masked, half missing"], error["masked"])
    assert low > 0 if given.startswith("ugriz") else low < 0 < high or high < 0.001


@pytest.mark.parametrize(
    ("better", "worse", "clear"),
    [
        ("14 in, 14 asked", "7 in, 14 asked", True),
        ("28 in, 14 asked", "14 in, 14 asked", True),
        ("54 in, 14 asked", "28 in, 14 asked", False),
        ("28 in, 14 asked", "28 in, 4 asked", True),
        ("28 in, 27 asked", "28 in, 14 asked", False),
    ],
)
def test_what_a_budget_buys_is_as_the_page_says(transformer, better, worse, clear):
    rows = transformer[transformer.task == "budget"]
    by_seed = rows.pivot(index="seed", columns="method", values="accuracy_image")
    _, low, high = paired_difference(by_seed[better], by_seed[worse])
    assert low > 0.01 if clear else low < 0.005 and high < 0.02


def test_larger_models_and_the_mean_over_modalities_name_more_classes(transformer):
    size, average = (
        transformer[transformer.task == task].pivot(index="seed", columns="method", values="accuracy_image")
        for task in ("size", "average")
    )
    assert paired_difference(size["256 wide, 6 layers"], size["128 wide, 4 layers"])[1] > 0
    assert paired_difference(average["modalities asked"], average["tokens by codebook"])[1] > 0.1
