"""The stored full runs on patients whose law is known hold what their pages claim."""

import pytest
from stored_runs import stored

from aion_lite.evaluation import paired_difference, seed_interval

# 11: no pairs


@pytest.fixture(scope="module")
def unpaired():
    return stored("11_learn_without_pairs", "H200")


def glucose(records, metric: str):
    """By seed, a column for each (method, number of pairs)."""
    rows = records[records.task == "glucose from the X-ray"]
    return rows.pivot(index="seed", columns=["method", "n"], values=metric)


OURS = "back-translated"


@pytest.mark.parametrize(
    "rival", ["constant", "ranks: mean pixel", "ranks: leading component", "ranks: energy"]
)
def test_without_pairs_the_order_is_found_beyond_constant_and_naive_ranks(unpaired, rival):
    rank = glucose(unpaired, "rank")
    assert paired_difference(rank[OURS, 0], rank[rival, 0])[1] > 0


def test_without_pairs_the_order_is_as_good_as_with_all_and_a_hundred_pairs_nearly_set_the_scale(unpaired):
    rank, r2 = (glucose(unpaired, metric) for metric in ("rank", "r2"))
    supervised = "supervised", 10_000
    assert seed_interval(rank[OURS, 0] - 0.7 * rank[supervised])[1] > 0
    assert seed_interval(rank[OURS, 100] - 0.9 * rank[supervised])[1] > 0
    assert seed_interval(r2[OURS, 1000] - 0.9 * r2[supervised])[1] > 0
    short = seed_interval(r2[OURS, 100] - 0.9 * r2[supervised])  # the page's table says that this fails
    assert short[1] < 0 < short[2] and short[0] > -0.01


def test_transformer_and_back_translation_add_no_order_but_with_pairs_a_scale(unpaired):
    rank, r2 = (glucose(unpaired, metric) for metric in ("rank", "r2"))
    assert abs(paired_difference(rank[OURS, 0], rank["ranks: shared by parts", 0])[0]) < 0.005
    assert abs(paired_difference(rank[OURS, 0], rank["matched", 0])[0]) < 0.001
    for n in (100, 1000):
        assert paired_difference(r2[OURS, n], r2["matched", n])[1] > 0
    assert paired_difference(r2[OURS, 100], r2[OURS, 0])[1] > 0


def test_ten_pairs_help_most_seeds_a_little_and_ruin_one(unpaired):
    gain = (glucose(unpaired, "r2")[OURS, 10] - glucose(unpaired, "r2")[OURS, 0]).sort_values()
    assert gain.iloc[0] < -0.3 and gain.iloc[1] > 0.03


def test_nothing_is_found_where_there_is_nothing(unpaired):
    rank = unpaired[unpaired.task == "rho 0"]["rank"]
    assert (rank.abs() < 4 / 2000**0.5).all()


def test_a_fair_coin_is_told_either_way_and_a_biased_one_never_wrongly(unpaired):
    coins = unpaired[unpaired.task == "coins"].pivot(index="seed", columns="method", values="right")
    assert coins["fair"].min() < 0.1 and coins["fair"].max() > 0.9
    assert coins["biased"].min() > 0.5


# 07: the limit


@pytest.fixture(scope="module")
def patients():
    return stored("07_make_data_with_a_known_answer", "H200")


QUESTIONS = ["glucose from xray", "cholesterol from xray, age", "heart_rate from ecg"]


@pytest.mark.parametrize(("task", "reached"), zip(QUESTIONS, [False, False, True], strict=True))
def test_which_goals_are_reached_with_5000_patients_is_as_the_page_says(patients, task, reached):
    rows = patients[(patients.task == task) & (patients.n == 5000)]
    share = rows.pivot(index="seed", columns="method", values="share")
    assert (share["transformer"].mean() >= 0.95) == reached
    assert share["transformer"].mean() > 0.8
    assert abs(paired_difference(share["transformer"], share["boosting on features"])[0]) < 0.02
    ours = rows[rows.method == "transformer"]
    assert (ours.nats - ours.nats_limit).min() > 0.05  # too sure of itself, at every seed


def test_no_score_is_beyond_the_limit(patients):
    known = patients.dropna(subset=["limit"])
    assert (known.r2 <= known.limit).all()


def test_500_patients_are_too_few_and_an_ecg_more_hurts(patients):
    few = patients[(patients.task == QUESTIONS[1]) & (patients.n == 500)]
    share = few.pivot(index="seed", columns="method", values="share")
    assert paired_difference(share["transformer"], share["constant"])[1] < 0
    r2 = patients[(patients.n == 5000) & (patients.method == "transformer")].pivot(
        index="seed", columns="task", values="r2"
    )
    assert paired_difference(r2["glucose given xray, age"], r2["glucose given xray, age, ecg"])[1] > 0.03


def test_without_any_relation_no_skill_is_found(patients):
    control = patients[patients.task.str.startswith("rho 0")]
    assert len(control) == 15 and (control.correlation.abs() < 4 / 2000**0.5).all()
