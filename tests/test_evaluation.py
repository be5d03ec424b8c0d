"""Scores against scikit-learn, scikit-image, scipy and closed forms; result files against what went in."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import r2_score

from aion_lite import evaluation

RNG = np.random.default_rng(0)


def test_r2_is_scikit_learns():
    truth = RNG.normal(size=200)
    predicted = truth + RNG.normal(size=200)
    assert evaluation.r2(torch.tensor(truth), predicted) == pytest.approx(r2_score(truth, predicted))


@given(st.floats(0.001, 0.2), st.floats(-0.1, 0.1))
def test_sigma_nmad_is_the_standard_deviation_of_normal_errors_whatever_the_bias(sigma, bias):
    truth = np.linspace(0, 1, 4001)
    error = stats.norm(bias, sigma).ppf((np.arange(4001) + 0.5) / 4001)[
        np.random.default_rng(1).permutation(4001)
    ]
    assert evaluation.sigma_nmad(truth, truth + (1 + truth) * error) == pytest.approx(sigma, rel=2e-3)


def test_sigma_nmad_does_not_see_a_tenth_of_outliers_much():
    truth, error = np.zeros(1000), RNG.normal(0, 0.01, 1000)
    far = np.where(np.arange(1000) < 50, 1.0, error)
    assert evaluation.sigma_nmad(truth, far) < 1.2 * evaluation.sigma_nmad(truth, error)


def test_coverage_counts_the_ends_as_inside():
    assert evaluation.coverage([0.0, 1.0, 2.0, 3.0], [0, 0, 0, 0], [0, 1, 1, 1]) == 0.5


def test_seed_interval_is_students_and_holds_the_mean_as_often_as_it_says():
    values = [0.1, 0.4, 0.2, 0.35, 0.3]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert evaluation.seed_interval(values)[1:] == pytest.approx((expected.low, expected.high))
    draws = RNG.normal(2.0, 0.5, (2000, 5))
    held = [low <= 2.0 <= high for _, low, high in map(evaluation.seed_interval, draws)]
    assert abs(np.mean(held) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)


def test_one_seed_says_nothing_of_the_spread():
    assert evaluation.seed_interval([0.3]) == (0.3, -np.inf, np.inf)


def test_the_paired_difference_is_scipys_paired_test():
    ours, theirs = RNG.normal(1, 1, 6), RNG.normal(0, 1, 6)
    expected = stats.ttest_rel(ours, theirs).confidence_interval()
    assert evaluation.paired_difference(ours, theirs)[1:] == pytest.approx((expected.low, expected.high))
    with pytest.raises(ValueError, match="same seeds"):
        evaluation.paired_difference(ours, theirs[:5])


@pytest.mark.parametrize("bad", [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, np.nan], [1.0, 2.0])])
def test_scores_refuse_what_they_cannot_score(bad):
    with pytest.raises(ValueError, match="Scores need"):
        evaluation.r2(*bad)


def test_the_share_of_the_attainable_is_a_ratio_with_its_interval():
    share = evaluation.share_of_limit([0.3, 0.4, 0.35], 0.5)
    expected = stats.ttest_1samp([0.6, 0.8, 0.7], 0).confidence_interval(0.95)
    assert share == pytest.approx((0.7, expected.low, expected.high))
    assert evaluation.share_of_limit([0.3, 0.4], [0.3, 0.8])[0] == pytest.approx(0.75)
    for limit in (0.0, [0.5, -0.1], [0.5, 0.5, 0.5], np.nan):
        with pytest.raises(ValueError, match="limits above 0"):
            evaluation.share_of_limit([0.3, 0.4], limit)


def test_samples_needed_inverts_a_curve():
    sizes = np.array([10, 100, 1000, 10_000])
    law = 0.3 + 0.1 * np.log10(sizes)  # a line in log n, so the inverse is known everywhere
    for n in (10, 37, 100, 999, 10_000):
        assert evaluation.samples_needed(sizes, law, 0.3 + 0.1 * np.log10(n)) == pytest.approx(n)
    assert evaluation.samples_needed(sizes, law, 0.1) == pytest.approx(10)  # bounds, beyond both ends
    assert evaluation.samples_needed(sizes, law, 0.9) == pytest.approx(10_000)
    assert evaluation.samples_needed(sizes, [0.4, 0.6, 0.5, 0.7], 0.6) == pytest.approx(100)
    assert evaluation.samples_needed(sizes, [0.4, 0.6, 0.6, 0.7], 0.65) == pytest.approx(1000 * 10**0.5)
    for bad in ([10, 10, 20, 30], [0, 1, 2, 3], [10, 100]):
        with pytest.raises(ValueError, match="rising sizes"):
            evaluation.samples_needed(bad, law, 0.5)


def write(path, seed, task="t", **over):
    record = {"task": task, "method": "m", "n": 10, "seed": seed, "r2": 0.1 * seed}
    evaluation.write_results(path, "line", [record], parameters={"seed": seed}, seconds=1.0)
    if over:
        path.write_text(json.dumps({**json.loads(path.read_text()), **over}))
    return path


def test_results_say_what_made_them_and_read_back(tmp_path):
    settings, records = evaluation.read_results(write(tmp_path / "a.json", 3))
    assert {"device", "torch", "commit", "parameters", "summary", "seconds"} <= set(settings)
    assert records.to_dict("records") == [
        {"task": "t", "method": "m", "n": 10, "seed": 3, "r2": pytest.approx(0.3)}
    ]


def test_runs_split_over_seeds_merge_and_shared_records_count_once(tmp_path):
    paths = [write(tmp_path / f"{i}.json", seed) for i, seed in enumerate([1, 0, 1])]
    settings, records = evaluation.read_results(evaluation.merge_results(paths, tmp_path / "all.json"))
    assert records.seed.tolist() == [0, 1]
    assert settings["seconds"] == 3.0
    with pytest.raises(ValueError, match="not made alike"):
        evaluation.merge_results(
            [paths[0], write(tmp_path / "x.json", 2, commit="other")], tmp_path / "all.json"
        )


def test_tasks_may_be_of_other_commits_and_the_file_says_so(tmp_path):
    paths = [
        write(tmp_path / "0.json", 0),
        write(tmp_path / "1.json", 0, commit="other", task="another task"),
    ]
    settings, records = evaluation.read_results(evaluation.merge_results(paths, tmp_path / "all.json"))
    assert len(records) == 2
    made_by = {task: made["commit"] for task, made in settings["made_by"].items()}
    assert made_by["another task"] == "other" and len(set(made_by.values())) == 2
    one, device = json.loads(paths[0].read_text()), settings["device"]
    assert evaluation.made_on(one) == f"{device}, commit {one['commit'][:7]}"
    assert evaluation.made_on(settings) == f"{device}, commits {one['commit'][:7]}, other"
    settings["made_by"]["another task"]["device"] = "a GPU"
    assert evaluation.made_on(settings).startswith(f"{device} and a GPU, commits ")


def test_r2_of_truths_that_do_not_differ_is_refused():
    with pytest.raises(ValueError, match=r"truths that differ, got 3 times 1\.0"):
        evaluation.r2([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])


def images(shape, offset=0.0, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=g, dtype=dtype) + offset
    return x, x + 0.1 * torch.randn(shape, generator=g, dtype=dtype)


@pytest.mark.parametrize("offset", [0.0, -0.5, 300.0])  # 300: variances are small differences of squares
@pytest.mark.parametrize("shape", [(3, 1, 11, 11), (2, 3, 17, 30), (260, 1, 12, 11)])
def test_psnr_and_ssim_are_scikit_images(shape, offset):
    x, y = images(shape, offset)
    pairs = list(zip(x.double().numpy(), y.double().numpy(), strict=True))
    expected = [peak_signal_noise_ratio(a, b, data_range=1.3) for a, b in pairs]
    assert evaluation.psnr(x, y, 1.3) == pytest.approx(np.mean(expected), rel=1e-6)
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0}
    expected = [structural_similarity(a, b, data_range=1.3, **wang) for a, b in pairs]
    assert evaluation.ssim(x, y, 1.3) == pytest.approx(np.mean(expected), abs=1e-9)


def test_equal_images_are_as_alike_as_can_be():
    x, _ = images((2, 1, 16, 16))
    assert evaluation.ssim(x, x.clone(), 1.0) == pytest.approx(1.0, abs=1e-12)
    assert evaluation.psnr(x, x.clone(), 1.0) == np.inf


def test_a_tiny_unit_does_not_underflow():
    x, y = images((2, 1, 16, 16))
    small = [t.double() * 1e-25 for t in (x, y)]
    assert evaluation.psnr(*small, 1e-25) == pytest.approx(evaluation.psnr(x, y, 1.0), rel=1e-6)
    assert evaluation.ssim(*small, 1e-25) == pytest.approx(evaluation.ssim(x, y, 1.0), rel=1e-6)


def test_bands_that_were_not_measured_are_left_out():
    x, y = images((4, 3, 16, 16))
    measured = torch.ones(4, 3, 16, 16, dtype=torch.bool)
    measured[:, 1] = False
    measured[3] = False  # an image of which nothing was
    gaps = x.where(measured, torch.nan)
    for score in (evaluation.psnr, evaluation.ssim):
        assert score(gaps, y, 1.0, measured) == pytest.approx(score(x[:3, ::2], y[:3, ::2], 1.0))


@pytest.mark.parametrize("score", [evaluation.psnr, evaluation.ssim])
def test_image_scores_refuse_what_they_cannot_score(score):
    x, y = images((2, 1, 16, 16))
    with pytest.raises(ValueError, match=r"\(B, C, H, W\) of one shape"):
        score(x[:, 0], y[:, 0], 1.0)
    with pytest.raises(ValueError, match="data_range"):
        score(x, y, 0.0)
    with pytest.raises(ValueError, match="11 x 11 pixels or more, got 16 x 10"):
        evaluation.ssim(x[..., :10], y[..., :10], 1.0)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_codebook_use_is_scipys_entropy(codes):
    use = evaluation.codebook_use(torch.tensor(codes).reshape(1, -1), 10)
    counts = np.bincount(codes, minlength=10)
    assert use["bits"] == pytest.approx(stats.entropy(counts, base=2), abs=1e-12)
    assert use["perplexity"] == pytest.approx(np.exp(stats.entropy(counts)))
    assert use["used"] == len(set(codes)) / 10


@pytest.mark.parametrize("codes", [[], [-1, 2], [0, 10], [0.5]])
def test_codebook_use_refuses_what_are_no_codes(codes):
    with pytest.raises(ValueError, match=r"codes in 0\.\.9"):
        evaluation.codebook_use(codes, 10)


def test_a_page_shows_the_stored_run_unless_it_is_a_full_run_itself(tmp_path):
    path, run = tmp_path / "stored.json", [{"task": "t", "score": 1.0}]
    assert evaluation.stored_or_run(path, run, full=False) == (
        run, "this run, made with the parameters above"
    )  # fmt: skip
    evaluation.write_results(path, "one score", run)
    stored, made_by = evaluation.stored_or_run(path, [], full=False)
    assert stored.to_dict("records") == run
    assert made_by.startswith("the stored full run (") and "commit" in made_by
    assert evaluation.stored_or_run(path, run, full=True)[0] is run
