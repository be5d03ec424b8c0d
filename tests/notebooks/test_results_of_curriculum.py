"""The stored full run from synthetic to real holds what page 10 claims."""

import pytest
import torch
from stored_runs import by_method, stored

from aion_lite.data import load_support2
from aion_lite.evaluation import paired_difference

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
