"""The fitted law against closed forms of the normal law, and against the patients it was fitted to."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from aion_lite.data import MultimodalDataset, load_support2
from aion_lite.data.copula import GAP, GaussianCopula
from aion_lite.modalities import Category, Image, Scalar, Table

B = 20_000
RHO = np.array([[1.0, 0.6, -0.4, 0.3], [0.6, 1.0, 0.1, 0.0], [-0.4, 0.1, 1.0, 0.4], [0.3, 0.0, 0.4, 1.0]])
FOUR_SE = 4 / math.sqrt(B)


def normal(num: int = B, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).multivariate_normal(np.zeros(4), RHO, num)


@pytest.fixture(scope="module")
def mixed():
    """Known latent correlations under other margins: a log-normal, a normal, two classes, a gap."""
    z = normal()
    frame = pd.DataFrame({"crea": np.exp(z[:, 0]), "temp": 37 + z[:, 1]})
    frame["dead"] = np.where(z[:, 2] > 0.5, "yes", "no")
    frame["urine"] = np.where(z[:, 3] > 0, np.nan, np.random.default_rng(1).uniform(0, 9, B))
    labs = Table("labs", columns=(Scalar("crea", transform="log"), Scalar("urine")))
    modalities = [labs, Scalar("temp"), Category("dead", values=("no", "yes"))]
    return MultimodalDataset.from_frame(frame, modalities)


@pytest.fixture(scope="module")
def law(mixed):
    return GaussianCopula.fit(mixed)


def between(law: GaussianCopula, a: str, b: str) -> float:
    return law.correlation[law.names.index(a), law.names.index(b)]


@pytest.mark.parametrize(
    ("a", "b", "rho"),
    [
        ("crea", "temp", 0.6),
        ("crea", "dead", -0.4),  # polyserial: exact
        ("temp", "dead", 0.1),
        ("crea", GAP + "urine", 0.3),
        ("temp", GAP + "urine", 0.0),
        ("temp", "urine", 0.0),
    ],
)
def test_latent_correlations_are_found_under_any_margin(law, a, b, rho):
    assert between(law, a, b) == pytest.approx(rho, abs=1.5 * FOUR_SE)


def test_between_two_classes_it_is_first_order(law):
    """Sheppard: sign(x), sign(y) agree with probability 1/2 + asin(rho) / pi; here with unlike cuts."""
    assert between(law, "dead", GAP + "urine") == pytest.approx(0.4, abs=0.05)


def test_samples_have_the_margins(mixed, law):
    drawn, given = law.sample(B, seed=3).to_frame(), mixed.to_frame()
    for name in ("crea", "temp", "urine"):
        both = [f[name].dropna() for f in (drawn, given)]
        assert stats.ks_2samp(*both).statistic < 1.95 * math.sqrt(sum(1 / len(x) for x in both)) + 0.01
        assert both[1].min() <= both[0].min() and both[0].max() <= both[1].max()
    for share in ((drawn["dead"] == "yes").mean(), (given["dead"] == "yes").mean()):
        assert share == pytest.approx(stats.norm.sf(0.5), abs=FOUR_SE)
    assert drawn["urine"].isna().mean() == pytest.approx(0.5, abs=FOUR_SE)


def test_samples_have_the_dependence(law):
    """Kendall's tau of a normal pair is 2 / pi asin(rho) under any margins; the gap by the quadrant law."""
    drawn = law.sample(B, seed=4).to_frame()
    tau = stats.kendalltau(drawn["crea"], drawn["temp"]).statistic
    assert tau == pytest.approx(2 / math.pi * math.asin(0.6), abs=FOUR_SE)
    high = drawn["crea"] > 1
    assert (high & drawn["urine"].isna()).mean() == pytest.approx(
        1 / 4 + math.asin(0.3) / (2 * math.pi), abs=FOUR_SE
    )


@pytest.mark.parametrize("degrees", [0, 30, 90, 180])
def test_a_turned_law_tells_as_much_and_agrees_by_the_cosine(law, degrees):
    """Risk is the mean of the latent target given the others: b'z with b = R^-1 r and variance b'Rb."""
    turned = law.turned("dead", degrees, seed=5)
    t = law.names.index("dead")
    rest = np.delete(np.arange(len(law.names)), t)
    R = law.correlation[np.ix_(rest, rest)]
    assert np.array_equal(turned.correlation[np.ix_(rest, rest)], R)
    right, wrong = (np.linalg.solve(R, c.correlation[rest, t]) for c in (law, turned))
    told = right @ R @ right, wrong @ R @ wrong
    assert told[1] == pytest.approx(told[0])
    assert right @ R @ wrong / told[0] == pytest.approx(math.cos(math.radians(degrees)), abs=1e-9)
    assert np.linalg.eigvalsh(turned.correlation).min() > 0
    assert turned.margins is law.margins


def test_a_turned_law_draws_the_other_columns_as_before(law):
    right, turned = (c.sample(500, seed=1).to_frame() for c in (law, law.turned("dead", 180)))
    t = law.names.index("dead")
    assert t == len([n for n in law.names if not n.startswith(GAP)]) - 1
    for name in ("crea", "temp"):  # those before it in the factor
        pd.testing.assert_series_equal(right[name], turned[name])
    assert not right["dead"].equals(turned["dead"])


def test_classes_without_order_are_laid_by_what_tells_them_apart():
    z = normal(5000, seed=2)
    place = np.digitize(z[:, 0], [-1, 0, 1])  # four classes of a line, named in another order
    names = np.array(["c", "a", "d", "b"])
    frame = pd.DataFrame({"kind": names[place], "x": z[:, 1]})
    data = MultimodalDataset.from_frame(frame, [Category("kind", values=("a", "b", "c", "d")), Scalar("x")])
    law = GaussianCopula.fit(data)
    assert abs(between(law, "kind", "x")) == pytest.approx(0.6, abs=0.05)
    drawn = law.sample(5000, seed=1).to_frame()
    theirs, ours = (f.groupby("kind", observed=True)["x"].mean() for f in (frame, drawn))
    assert (theirs - ours).abs().max() < 0.15


def test_a_category_of_many_classes_keeps_them_all():
    codes = np.arange(900) % 150
    kind = Category("kind", values=tuple(map(str, range(150))))
    data = MultimodalDataset([kind, Scalar("x")], {"kind": codes, "x": codes + 0.0})
    drawn = GaussianCopula.fit(data).sample(3000).to_frame()
    assert drawn["kind"].nunique() == 150
    assert drawn["kind"].cat.codes.corr(drawn["x"], method="spearman") > 0.95


def test_with_few_samples_noise_is_shrunk_away():
    """Independent columns: without shrinking, each of 66 correlations would be about 1/sqrt(30) = 0.18."""
    x = np.random.default_rng(0).standard_normal((30, 12)).astype(np.float32)
    data = MultimodalDataset([Scalar(f"x{i}") for i in range(12)], {f"x{i}": x[:, i] for i in range(12)})
    off = GaussianCopula.fit(data).correlation[~np.eye(12, dtype=bool)]
    raw = np.corrcoef(x.T)[~np.eye(12, dtype=bool)]
    assert np.sqrt((off**2).mean()) < 0.4 * np.sqrt((raw**2).mean())


def test_the_patients_and_their_copies_look_alike():
    patients = load_support2()
    copies = GaussianCopula.fit(patients).sample(len(patients), seed=0)
    assert copies.modalities == patients.modalities
    a, b = patients.to_frame(), copies.to_frame()
    assert (a.isna().mean() - b.isna().mean()).abs().max() < 0.02
    numbers = a.select_dtypes("number").columns
    known = a[numbers].corr("spearman", min_periods=100), b[numbers].corr("spearman", min_periods=100)
    assert (known[0] - known[1]).abs().max().max() < 0.12
    died = [
        f.groupby("dzgroup", observed=True)["hospdead"].apply(lambda x: (x == "dead").mean()) for f in (a, b)
    ]
    assert died[0].corr(died[1]) > 0.6


def test_same_seed_same_samples(law):
    a, b, c = (law.sample(50, seed=s).to_frame() for s in (1, 1, 2))
    pd.testing.assert_frame_equal(a, b)
    assert not a.equals(c)


def small(modalities, **values) -> MultimodalDataset:
    return MultimodalDataset(modalities, values)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (
            lambda: GaussianCopula.fit(small([Scalar("x")], x=np.zeros(9))),
            "10 samples and 2 quantiles or more, got 9",
        ),
        (
            lambda: GaussianCopula.fit(small([Image("i", size=2)], i=np.zeros((20, 1, 2, 2)))),
            "a law of Scalars, Categories and Tables, got Image",
        ),
        (
            lambda: GaussianCopula.fit(
                MultimodalDataset([Scalar("x")], {"x": np.zeros(20)}, {"x": np.zeros(20, dtype=bool)})
            ),
            "needs measured values of x",
        ),
        (lambda: GaussianCopula.fit(small([Scalar("x")], x=np.arange(20.0))).turned("y", 3), "no column 'y'"),
    ],
)
def test_bad_use_is_refused(act, says):
    with pytest.raises(ValueError, match=says):
        act()


def test_a_column_that_never_varies_stays_as_it_is():
    data = small([Scalar("x"), Scalar("y")], x=np.full(50, 7.0), y=np.arange(50.0))
    drawn = GaussianCopula.fit(data).sample(100).to_frame()
    assert (drawn["x"] == 7).all() and drawn["y"].std() > 5
