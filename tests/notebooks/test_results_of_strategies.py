"""The stored full runs of the strategies for little data hold what their pages claim."""

import numpy as np
import pytest
from check_notebooks import FOLDER
from scipy.stats import spearmanr

from aion_lite.evaluation import paired_difference, read_results, samples_needed, seed_interval


def scores(records, task: str, n: int, metric: str):
    rows = records[(records.task == task) & (records.n == n)]
    return rows.pivot(index="seed", columns="method", values=metric)


# 08: what augmentation is worth


@pytest.fixture(scope="module")
def augmented():
    settings, records = read_results(FOLDER / "results" / "08_augment_images_and_series.json")
    assert "H100" in settings["device"]
    return records


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
    accuracy = scores(augmented, task, n, "accuracy")
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
    gains = [scores(augmented, "watch", n, "accuracy") for n in (50, 1000)]
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


@pytest.fixture(scope="module")
def unlabelled():
    settings, records = read_results(FOLDER / "results" / "09_pretrain_without_labels.json")
    assert "H100" in settings["device"] and len(settings["commit"]) == 40
    return records


PRETRAINED = ("moco", "simclr", "byol", "both")
LABEL_SIZES = {
    "image": [100, 500, 1000, 5000],
    "motion": [50, 100, 500, 1000],
    "spectrum": [50, 100, 200, 400],
}


def accuracy_of(records, data: str, kind: str):
    """Rows of n, columns of (method, seed); of every method all five seeds."""
    rows = records[records.task == f"{data}: {kind}"]
    seeds = rows.groupby(["n", "method"]).seed.apply(sorted)
    assert all(s == [0, 1, 2, 3, 4] for s in seeds)
    return rows.pivot(index="n", columns=["method", "seed"], values="accuracy")


def gain_over_all_sizes(records, data: str, ours: tuple[str, str], theirs: tuple[str, str]):
    """Paired difference over seeds of accuracies averaged over n; each side is (method, kind)."""
    a, b = (
        accuracy_of(records, data, kind)[method].loc[LABEL_SIZES[data]].mean()
        for method, kind in (ours, theirs)
    )
    return paired_difference(a, b)


@pytest.mark.parametrize("data", LABEL_SIZES)
def test_every_way_to_use_unlabelled_data_was_tried_at_every_size(unlabelled, data):
    for kind in ("fine-tuned", "probe"):
        tried = accuracy_of(unlabelled, data, kind)
        for method in ("scratch", "augmentation", *PRETRAINED):
            assert tried[method].loc[LABEL_SIZES[data]].notna().all(axis=None)


@pytest.mark.parametrize("task", ["neighbours", "neighbours over epochs", "norm", "reconstruction"])
def test_what_is_seen_without_labels_has_five_seeds(unlabelled, task):
    seeds = unlabelled[unlabelled.task == task].groupby(["n", "method"]).seed.apply(sorted)
    assert len(seeds) and all(s == [0, 1, 2, 3, 4] for s in seeds)


@pytest.mark.parametrize("kind", ["mean", "quarters", "every patch"])
def test_neighbours_get_better_over_epochs(unlabelled, kind):
    rows = unlabelled[unlabelled.task == "neighbours over epochs"]
    epochs, looks = np.unique(rows.epochs.iloc[0], return_index=True)
    curves = np.array(rows[kind].tolist())[:, looks]
    assert len(epochs) >= 9 and spearmanr(epochs, curves.mean(0)).statistic >= 0.8
    assert paired_difference(curves[:, -1], curves[:, 0])[1] > 0


@pytest.mark.parametrize("n", [1000, 5000])
@pytest.mark.parametrize("rival", ["pixels", "random"])
def test_moco_beats_what_needs_no_training(unlabelled, n, rival):
    rows = unlabelled[(unlabelled.task == "neighbours") & (unlabelled.n == n)]

    def best(name):  # by seed, the kind that did best within the labelled pictures
        of_name = rows[rows.method.str.startswith(f"{name}, ")]
        return of_name.loc[of_name.groupby("seed").validated.idxmax()].sort_values("seed").accuracy.to_numpy()

    assert paired_difference(best("moco"), best(rival))[1] > 0


def test_plain_batch_norm_leaks_and_its_features_are_not_worse(unlabelled):
    rows = unlabelled[unlabelled.task == "norm"].pivot(index="seed", columns="method")
    with_batch, without = rows["batch statistics"], rows["running statistics"]
    assert paired_difference(with_batch["batch"], without["batch"])[1] > 0
    assert paired_difference(with_batch["batch"], with_batch["split"])[1] > 0
    assert paired_difference(without["split"], with_batch["split"])[1] > 0
    for other in ("split", "layer"):
        assert paired_difference(rows["neighbours"]["batch"], rows["neighbours"][other])[1] > 0


def test_reconstruction_gains_nothing_and_takes_part_of_the_features(unlabelled):
    rows = unlabelled[unlabelled.task == "reconstruction"].pivot(index="seed", columns="method")
    assert paired_difference(rows["r2"]["scratch"], rows["r2"]["moco"])[1] > 0
    assert paired_difference(rows["before"]["moco"], rows["after"]["moco"])[1] > 0
    assert paired_difference(rows["after"]["moco"], rows["after"]["scratch"])[1] > 0


@pytest.mark.parametrize("method", PRETRAINED)
@pytest.mark.parametrize("kind", ["fine-tuned", "probe"])
def test_pretraining_saves_labelled_pictures_at_every_size(unlabelled, kind, method):
    scratch = accuracy_of(unlabelled, "image", "fine-tuned")["scratch"].dropna()
    ours = accuracy_of(unlabelled, "image", kind)[method]
    for n in LABEL_SIZES["image"]:
        needed = [samples_needed(scratch.index, scratch[s], ours.loc[n, s]) for s in range(5)]
        assert seed_interval(np.log(np.array(needed) / n))[1] > 0  # a factor above 1
        assert paired_difference(ours.loc[n], scratch.loc[n])[1] > 0


@pytest.mark.parametrize("method", PRETRAINED)
def test_pretrained_on_pictures_is_above_equal_steps_and_above_augmentation(unlabelled, method):
    tuned = accuracy_of(unlabelled, "image", "fine-tuned").loc[1000]
    assert paired_difference(tuned[method], tuned["scratch, longer"])[1] > 0
    rival = ("augmentation", "fine-tuned")
    assert gain_over_all_sizes(unlabelled, "image", (method, "fine-tuned"), rival)[1] > 0


def test_augmentation_alone_costs_labels_where_pictures_are_many(unlabelled):
    tuned = accuracy_of(unlabelled, "image", "fine-tuned")
    scratch, ours = tuned["scratch"].dropna(), tuned["augmentation"].loc[5000]
    needed = [samples_needed(scratch.index, scratch[s], ours[s]) for s in range(5)]
    assert seed_interval(np.log(np.array(needed) / 5000))[2] < 0
    assert paired_difference(ours, scratch.loc[5000])[2] < 0


@pytest.mark.parametrize("method", PRETRAINED)
def test_motion_gains_a_little_when_fine_tuned_and_not_when_frozen(unlabelled, method):
    scratch, tuned = ("scratch", "fine-tuned"), (method, "fine-tuned")
    _, low, high = gain_over_all_sizes(unlabelled, "motion", tuned, scratch)
    assert 0 < low and high < 0.06
    assert gain_over_all_sizes(unlabelled, "motion", tuned, (method, "probe"))[1] > 0


def test_both_is_above_augmentation_on_motion(unlabelled):
    pair = ("both", "fine-tuned"), ("augmentation", "fine-tuned")
    assert gain_over_all_sizes(unlabelled, "motion", *pair)[1] > 0


@pytest.mark.parametrize("method", PRETRAINED)
def test_frozen_features_of_supernovae_beat_an_encoder_from_scratch(unlabelled, method):
    pair = (method, "probe"), ("scratch", "fine-tuned")
    assert gain_over_all_sizes(unlabelled, "spectrum", *pair)[1] > 0
    probe = accuracy_of(unlabelled, "spectrum", "probe")[method].loc[50]
    scratch = accuracy_of(unlabelled, "spectrum", "fine-tuned")["scratch"].loc[50]
    assert paired_difference(probe, scratch)[1] > 0


@pytest.mark.parametrize("n", [1000, 5000])
def test_simclr_is_a_little_ahead_of_moco_where_labelled_pictures_are_many(unlabelled, n):
    by = scores(unlabelled, "image: fine-tuned", n, "accuracy")
    assert paired_difference(by["simclr"], by["moco"])[1] > 0
    if n == 5000:
        assert paired_difference(by["moco"], by["both"])[1] > 0
