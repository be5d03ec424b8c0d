"""The stored full run on patients whose limit is known holds what page 07 claims."""

import pytest
from stored_runs import by_method, stored

from aion_lite import evaluation
from aion_lite.data import BayesLimit, SyntheticDataGenerator
from aion_lite.evaluation import paired_difference, seed_interval


@pytest.fixture(scope="module")
def patients():
    return stored("07_make_data_with_a_known_answer", "H200")


QUESTIONS = ["glucose from xray", "cholesterol from xray, age", "heart_rate from ecg"]
ALONE = "one transformer, one view"


@pytest.mark.parametrize("task", QUESTIONS)
def test_with_5000_patients_the_goal_is_reached_at_every_seed_and_not_by_one_model_asked_once(patients, task):
    share = by_method(patients, task, 5000)
    assert (share["transformer"] >= 0.95).all()
    assert (share["transformer"] > share[ALONE]).all()
    assert (share["transformer"] > share["boosting on features"]).all()
    if task == QUESTIONS[0]:
        assert share[ALONE].mean() < 0.95


@pytest.mark.parametrize("task", QUESTIONS)
def test_with_50000_patients_the_higher_goal_is_reached_but_for_glucose(patients, task):
    share = by_method(patients, task, 50_000)["transformer"]
    if task == QUESTIONS[0]:  # the page says that this fails
        assert 0.97 < share.min() and share.max() < 0.98
    else:
        assert share.min() > 0.98


def above_limit(records, task: str, n: int):
    """Nats above the limit, by seed and method."""
    return by_method(records, task, n, "nats") - by_method(records, task, n, "nats_limit")


def test_the_goal_in_nats_is_reached_for_cholesterol_and_missed_narrowly_for_the_others(patients):
    few = {task: above_limit(patients, task, 5000)["transformer"] for task in QUESTIONS}
    glucose, rate = (few[QUESTIONS[i]].mean() for i in (0, 2))
    assert few[QUESTIONS[1]].max() < 0.05 < glucose < rate < 0.065
    assert all(above_limit(patients, task, 50_000)["transformer"].max() < 0.03 for task in QUESTIONS)


@pytest.mark.parametrize("task", QUESTIONS)
def test_three_short_trainings_beat_one_as_long_as_all_of_them(patients, task):
    for number, better in ((by_method, 1), (above_limit, -1)):
        short = number(patients, task, 5000)["transformer"]
        long = number(patients, f"mixtures: {task}", 5000)["1 of 9,000 steps, 8 views"]
        assert paired_difference(better * short, better * long)[1] > 0


@pytest.mark.parametrize("task", QUESTIONS)
def test_of_50000_patients_more_models_steps_and_views_than_eight_add_next_to_nothing(patients, task):
    share = by_method(patients, f"mixtures: {task}", 50_000)
    one, three = (share[f"{num} of 5,000 steps, 8 views"] for num in (1, 3))
    assert paired_difference(share["1 of 5,000 steps, 16 views"], one)[0] < 0.001
    assert paired_difference(three, one)[0] < 0.004
    assert paired_difference(by_method(patients, task, 50_000)["transformer"], one)[0] < 0.004
    if task != QUESTIONS[2]:
        assert paired_difference(one, share["1 of 5,000 steps, 1 views"])[1] > 0.005


def test_gaps_that_follow_the_illness_are_used_as_evidence(patients):
    gaps = patients[patients.task == "gaps: severity"]
    law = {"image_size": 16, "rate": 0.3}
    new = SyntheticDataGenerator(2000, 2_000_000, missing="severity", **law).generate_correlated_data()
    new = new[new.present["glucose"]]
    given = ["age", "xray", "cholesterol", "ecg"]
    right, chance = (
        evaluation.r2(
            new.values["glucose"],
            BayesLimit(SyntheticDataGenerator(missing=pattern, **law)).predict(new, given, "glucose").mean,
        )
        for pattern in ("severity", "random")
    )
    assert gaps.limit.unique() == pytest.approx(right)
    assert seed_interval(gaps.r2 - chance)[1] > 0


def test_tokens_keep_the_illness_only_if_pictures_are_whitened(patients):
    kept = by_method(patients, "tokens", 5000, "kept")
    plain, whitened = kept["as they are, 65,536 codes"], kept["whitened, 65,536 codes"]
    assert paired_difference(whitened, plain)[1] > 0.02
    assert kept["whitened, no norm, weighted, 1,048,576 codes"].min() > 0.99


@pytest.mark.parametrize("task", QUESTIONS)
def test_of_500_patients_a_mixture_makes_more_but_the_heart_rate_is_better_told_by_features(patients, task):
    share = by_method(patients, task, 500)
    assert paired_difference(share["transformer"], share[ALONE])[1] > 0
    gain = paired_difference(share["transformer"], share["boosting on features"])
    assert gain[2] < 0 if task == QUESTIONS[2] else gain[1] > 0
    if task != QUESTIONS[2]:
        assert paired_difference(share["transformer"], share["ridge on all values"])[1] > 0.2


def test_no_score_is_beyond_the_limit(patients):
    known = patients.dropna(subset=["limit"])
    # A score of 2,000 patients may pass the limit by luck, where it is as good as reached: by age alone.
    assert (known.r2 <= known.limit + 0.001).all()
    assert set(known.task[known.r2 > known.limit]) <= {"glucose given age"}


def test_an_ecg_more_leaves_glucose_alone_and_of_500_patients_takes_a_little(patients):
    def cost(n):
        rows = patients[(patients.n == n) & patients.task.str.startswith("glucose given")]
        r2 = rows.pivot(index="seed", columns="task", values="r2")
        return paired_difference(r2["glucose given xray, age"], r2["glucose given xray, age, ecg"])

    assert abs(cost(5000)[0]) < 0.005 and 0 < cost(500)[1] < cost(500)[0] < 0.03


@pytest.mark.parametrize("n", [5000, 50_000])
def test_a_missing_measurement_costs_about_what_the_law_says(patients, n):
    rows = patients[(patients.n == n) & patients.task.str.startswith("glucose given")]
    r2, limit = (rows.pivot(index="seed", columns="task", values=x) for x in ("r2", "limit"))
    for given, without in [("xray, age", "age"), ("xray, age", "xray"), ("xray, age, ecg", "xray, age")]:
        ours, law = (x[f"glucose given {given}"] - x[f"glucose given {without}"] for x in (r2, limit))
        assert abs(ours.mean() - law.mean()) < 0.035


def test_without_any_relation_no_skill_is_found(patients):
    control = patients[patients.task.str.startswith("rho 0")]
    assert len(control) == 15 and (control.correlation.abs() < 4 / 2000**0.5).all()
