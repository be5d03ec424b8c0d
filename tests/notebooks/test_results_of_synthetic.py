"""The stored full runs on patients whose law is known hold what their pages claim."""

import pytest
import torch
from stored_runs import stored

from aion_lite import evaluation
from aion_lite.data import BayesLimit, SyntheticDataGenerator, load_support2
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


def test_a_line_does_as_well_with_a_hundred_pairs_and_less_with_a_thousand(unpaired):
    rows = unpaired[unpaired.task == "line on the reading"]
    line = rows.pivot(index="seed", columns="n", values="r2")
    r2 = glucose(unpaired, "r2")
    hundred, thousand = (paired_difference(r2[OURS, n], line[n]) for n in (100, 1000))
    assert hundred[1] < 0 < hundred[2] and abs(hundred[0]) < 0.01
    assert 0.01 < thousand[1] < thousand[2] < 0.05
    # Of ten pairs the line is mostly worse than ours without any, and at its worst not as far off as ours.
    assert ((r2[OURS, 0] - line[10]) > 0).sum() == 4 and line[10].min() > r2[OURS, 10].min() + 0.1


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
ALONE = "one transformer, one view"


def by_method(records, task: str, n: int, metric: str = "share"):
    """By seed, a column for each method."""
    rows = records[(records.task == task) & (records.n == n)]
    return rows.pivot(index="seed", columns="method", values=metric)


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


# 10: synthetic to real

RIGHT, SLIGHTLY, HALF, BADLY, OPPOSITE = (f"law turned by {a} degrees" for a in (0, 30, 60, 90, 180))
DIAL = RIGHT, SLIGHTLY, HALF, BADLY, OPPOSITE
ENDS_REAL = "curriculum", "pretrain, fine-tune", "mix, source told"
MIXED = *ENDS_REAL, "constant mix", "reversed"
EARLY, LINE = "real only, stopped early", "logistic regression"


@pytest.fixture(scope="module")
def mixed():
    records = stored("10_move_from_synthetic_to_real", "H200")

    def gain(ours, rival, n: int, metric: str = "auroc"):
        """(mean, low, high) of one (task, method) less another."""
        a, b = (by_method(records, task, n, metric)[method] for task, method in (ours, rival))
        return paired_difference(a, b)

    return gain


def test_of_100_patients_copies_of_a_right_law_alone_beat_every_mix_and_real_only(mixed):
    for law in (RIGHT, SLIGHTLY):
        for method in MIXED:
            assert mixed((law, "synthetic only"), (law, method), 100)[1] > 0
            assert mixed((law, method), ("real", LINE), 100)[1] < 0
        for rival in ("real only", EARLY):
            assert mixed((law, "synthetic only"), ("real", rival), 100)[1] > 0
    assert mixed((RIGHT, "synthetic only"), ("real", LINE), 100)[1] > 0
    assert all(mixed((law, m), ("real", LINE), 100)[0] < 0 for law in DIAL[2:] for m in MIXED)


def test_of_1000_patients_a_little_is_left_against_rivals_that_do_not_overfit(mixed):
    for law in (RIGHT, SLIGHTLY):
        for rival in (EARLY, LINE):
            mean, low, _ = mixed((law, "constant mix"), ("real", rival), 1000)
            assert low > 0 and mean < 0.025
        assert mixed((law, "constant mix"), ("real", "real only"), 1000)[0] > 0.04
    assert mixed(("real", EARLY), ("real", "real only"), 1000)[1] > 0
    assert mixed((BADLY, "constant mix"), ("real", LINE), 1000)[2] < 0


@pytest.mark.parametrize("method", ENDS_REAL)
def test_of_1000_patients_even_an_opposite_law_gains_over_real_only_but_not_over_stopping_early(
    mixed, method
):
    assert mixed((OPPOSITE, method), ("real", "real only"), 1000)[1] > 0
    for law in (BADLY, OPPOSITE):
        _, low, high = mixed((law, method), ("real", EARLY), 1000)
        assert low < 0 < high


@pytest.mark.parametrize("law", [*DIAL, "law of your own rows"])
@pytest.mark.parametrize("method", [*MIXED, "synthetic only"])
def test_of_5000_patients_every_mix_costs(mixed, law, method):
    assert mixed((law, method), ("real", "real only"), 5000)[2] < 0
    assert mixed((law, method), ("real", "real only"), 5000, "nats")[1] > 0
    if law == RIGHT and method != "synthetic only":
        assert mixed((law, method), ("real", "real only"), 5000)[0] > -0.015


def test_order_matters_by_the_law_and_the_stairs_do_not(mixed):
    for rival in ("reversed", "constant mix"):
        for law in (RIGHT, SLIGHTLY):
            assert mixed((law, "curriculum"), (law, rival), 100)[2] < 0
        for n in (100, 1000, 5000):
            assert mixed((OPPOSITE, "curriculum"), (OPPOSITE, rival), n)[1] > 0
    two = [
        mixed((law, "curriculum"), (law, "pretrain, fine-tune"), n) for law in DIAL for n in (100, 1000, 5000)
    ]
    assert sum(low * high > 0 for _, low, high in two) <= 1
    assert all(abs(mean) < 0.011 for mean, *_ in two[1::3] + two[2::3])  # 1,000 and 5,000


@pytest.mark.parametrize("method", [*MIXED, "synthetic only"])
def test_the_other_hospitals_law_is_worth_more_than_ones_own_with_100_patients_only(mixed, method):
    other, own = (RIGHT, method), ("law of your own rows", method)
    assert mixed(other, own, 100)[1] > 0 and mixed(own, ("real", LINE), 100)[0] < 0
    for n in (1000, 5000):
        _, low, high = mixed(other, own, n)
        assert low < 0 < high
    if method == "constant mix":
        assert mixed(own, ("real", LINE), 1000)[1] > 0


def test_who_is_sure_of_100_patients_is_wrong(mixed):
    died = load_support2().split(2000, seed=0)[1].values["hospdead"].double().mean()
    one_risk_for_all = float(torch.special.entr(torch.stack([died, 1 - died])).sum())
    records = stored("10_move_from_synthetic_to_real", "H200")
    nats = records[records.n == 100].groupby(["task", "method"]).nats.mean()
    assert nats["real", "real only"] > 2 * one_risk_for_all and nats["real", EARLY] > one_risk_for_all
    for law in (RIGHT, SLIGHTLY, BADLY):
        good = nats[law] < one_risk_for_all
        assert set(good[good].index) == ({"reversed", "synthetic only"} if law != BADLY else set())
    for method in ("constant mix", "reversed"):
        assert mixed((RIGHT, method), ("real", EARLY), 1000, "nats")[2] < 0


def test_copies_that_know_nothing_lift_what_overfits_and_the_true_law_alone_gives_nearly_all(mixed):
    for n in (100, 1000):
        for method in ("constant mix", "curriculum"):
            assert mixed(("known, rho 0.0", method), ("known", "real only"), n, "share")[1] > 0.2
    alone, mix, last = (("known, rho 1.0", m) for m in ("synthetic only", "constant mix", "curriculum"))
    assert mixed(alone, mix, 100, "share")[1] > 0 and mixed(mix, last, 100, "share")[1] > 0
    assert mixed(("known, rho 0.0", "constant mix"), ("known", "real only"), 5000, "share")[2] < 0
    assert abs(mixed(("known, rho 0.0", "curriculum"), ("known", "real only"), 5000, "share")[0]) < 0.01


def test_simulated_galaxies_are_a_start_with_few_real_ones_and_nothing_with_5000(mixed):
    sim, like = (f"galaxies: {pool}" for pool in ("as simulated", "like SDSS"))
    start = "pretrain, fine-tune"
    for method, n in [(start, 100), (start, 1000), ("mix, source told", 1000)]:
        for rival in ("boosting", EARLY):
            assert mixed((sim, method), ("galaxies", rival), n, "r2")[1] > 0
    assert mixed((sim, start), (like, start), 100, "r2")[1] > 0
    for pool in (sim, like):
        for method in ("constant mix", "curriculum"):
            for rival in ("boosting", EARLY):
                assert mixed((pool, method), ("galaxies", rival), 1000, "r2")[2] < 0
        for method in (*MIXED, "synthetic only"):
            assert mixed((pool, method), ("galaxies", EARLY), 5000, "r2")[1] < 0
    for method in ("pretrain, fine-tune", "mix, source told"):
        assert mixed((like, method), ("galaxies", EARLY), 1000, "r2")[1] < 0


def test_scatter_forgives_the_mixes_of_1000_galaxies_what_r2_does_not(mixed):
    for method in ("constant mix", "curriculum"):
        for rival in ("boosting", EARLY):
            ours = "galaxies: as simulated", method
            assert mixed(ours, ("galaxies", rival), 1000, "r2")[2] < 0
            assert mixed(ours, ("galaxies", rival), 1000, "sigma_nmad")[2] < 0


def test_to_look_like_sdss_helps_where_the_simulation_has_the_last_word(mixed):
    def step(method, n):
        return mixed(("galaxies: like SDSS", method), ("galaxies: as simulated", method), n, "r2")

    assert all(step("synthetic only", n)[1] > 0 for n in (100, 1000, 5000))
    assert step("reversed", 100)[1] > 0 > step("pretrain, fine-tune", 100)[2]
