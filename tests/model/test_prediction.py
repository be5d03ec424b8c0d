"""What a prediction says, against numpy and scipy on distributions that are known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aion_lite.codecs import ScalarCodec
from aion_lite.modalities import Scalar
from aion_lite.model import Prediction

VALUES = torch.linspace(-6, 8, 561)


def discretised(means, widths, values=VALUES) -> Prediction:
    """Each sample a normal law, put on codes: the mass between the midpoints around each value."""
    x = values.double().numpy()
    edges = np.concatenate([[-np.inf], (x[1:] + x[:-1]) / 2, [np.inf]])
    mass = np.diff(stats.norm(np.asarray(means)[:, None], np.asarray(widths)[:, None]).cdf(edges), axis=1)
    return Prediction("y", torch.from_numpy(np.log(mass + 1e-300))[:, None].float(), values)


MEANS, WIDTHS = np.array([-1.0, 0.3, 2.0]), np.array([0.5, 1.0, 0.2])
NORMAL, LAW = discretised(MEANS, WIDTHS), stats.norm(MEANS, WIDTHS)
CLASSES = Prediction("sex", torch.tensor([[[0.2, 0.3, 0.5]], [[1.0, 0.0, 0.0]]]).log(), None)
IMAGE = Prediction(
    "image", torch.rand(2, 4, 7, generator=torch.Generator().manual_seed(0)).log_softmax(-1), None
)


def test_mean_and_median_of_a_normal_law():
    np.testing.assert_allclose(NORMAL.mean, MEANS, atol=1e-3)
    np.testing.assert_allclose(NORMAL.median, MEANS, atol=1e-3)
    assert NORMAL.mean.shape == NORMAL.median.shape == (3,)


def test_mean_and_median_differ_where_the_law_is_skew():
    values = torch.linspace(0, 20, 2001)
    mass = torch.from_numpy(np.diff(stats.expon.cdf(np.linspace(-0.005, 20.005, 2002)))).float()
    skew = Prediction("y", mass.log()[None, None], values)
    assert float(skew.mean) == pytest.approx(1.0, abs=5e-3)
    assert float(skew.median) == pytest.approx(np.log(2), abs=5e-3)


@given(q=st.floats(0.005, 0.995))
@settings(max_examples=40, deadline=None)
def test_quantiles_of_a_normal_law(q):
    np.testing.assert_allclose(NORMAL.quantile(q), LAW.ppf(q), atol=2e-3)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_intervals_of_a_normal_law(level):
    low, high = NORMAL.interval(level)
    expected_low, expected_high = LAW.interval(level)
    np.testing.assert_allclose(low, expected_low, atol=4e-3)
    np.testing.assert_allclose(high, expected_high, atol=4e-3)


@given(
    probs=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12).filter(lambda p: sum(p) > 0.1),
    steps=st.lists(st.floats(0.01, 5.0), min_size=12, max_size=12),
    qs=st.lists(st.floats(0.001, 0.999), min_size=2, max_size=2),
)
@settings(max_examples=60, deadline=None)
def test_quantiles_rise_and_are_the_inverse_of_the_distribution(probs, steps, qs):
    probs = np.array(probs) / np.sum(probs)
    values = torch.tensor(steps[: len(probs)]).cumsum(0)
    prediction = Prediction("y", torch.from_numpy(probs).float().log()[None, None], values)
    low, high = (float(prediction.quantile(q)) for q in sorted(qs))
    assert low <= high + 1e-5
    edges = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2, values[-1:]]).astype(float)
    cdf = np.concatenate([[0], probs.cumsum()])
    # Where a stretch has no probability, any value in it is a right answer: so compare what lies below.
    at = np.interp([low - 1e-4, low + 1e-4], edges, cdf)
    slope = (probs / np.maximum(np.diff(edges), 1e-9)).max()
    assert at[0] - 1e-4 - 2e-4 * slope <= min(qs) <= at[1] + 1e-4 + 2e-4 * slope
    assert values[0] <= low and high <= values[-1] + 1e-5


def test_log_prob_is_the_score_on_hard_codes():
    tokens = torch.tensor([[100], [252], [320]])
    rows = NORMAL.log_probs[:, 0].numpy()
    np.testing.assert_array_equal(NORMAL.log_prob(tokens), rows[np.arange(3), tokens[:, 0]])
    width = float(VALUES[1] - VALUES[0])
    near = (torch.from_numpy(MEANS).float()[:, None] - VALUES).abs().argmin(1, keepdim=True)
    density = LAW.logpdf(VALUES[near[:, 0]].numpy()) + np.log(width)
    np.testing.assert_allclose(NORMAL.log_prob(near), density, atol=5e-3)


def test_log_prob_of_several_tokens_is_their_sum():
    tokens = torch.tensor([[0, 1, 2, 3], [6, 6, 6, 6]])
    expected = [sum(IMAGE.log_probs[b, n, tokens[b, n]] for n in range(4)) for b in range(2)]
    torch.testing.assert_close(IMAGE.log_prob(tokens), torch.stack(expected))


def test_class_probabilities():
    torch.testing.assert_close(CLASSES.probabilities, torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]))
    assert IMAGE.probabilities.shape == (2, 4, 7)


def test_samples_follow_the_law_and_the_generator():
    def sample(seed):
        return NORMAL.sample(4000, torch.Generator().manual_seed(seed))

    drawn = sample(0)
    assert drawn.shape == (3, 4000) and torch.equal(drawn, sample(0)) and not torch.equal(drawn, sample(1))
    for row, mean, width in zip(drawn.numpy(), MEANS, WIDTHS, strict=True):
        spread = row + np.random.default_rng(0).uniform(-0.5, 0.5, 4000) * float(VALUES[1] - VALUES[0])
        assert stats.kstest(spread, stats.norm(mean, width).cdf).pvalue > 1e-3


def test_samples_of_classes_are_codes():
    codes = CLASSES.sample(6000, torch.Generator().manual_seed(0))
    counts = np.bincount(codes[0], minlength=3)
    assert stats.chisquare(counts, np.array([0.2, 0.3, 0.5]) * 6000).pvalue > 1e-3
    assert (codes[1] == 0).all()


def test_a_mixture_of_normal_laws():
    means, widths = [MEANS, MEANS + 1.5, MEANS - 0.4], [WIDTHS, 2 * WIDTHS, WIDTHS]
    members = [discretised(m, w) for m, w in zip(means, widths, strict=True)]
    mixed = Prediction.mixture(members)
    assert (mixed.target, mixed.log_probs.shape) == ("y", NORMAL.log_probs.shape)
    np.testing.assert_allclose(mixed.mean, np.mean(means, 0), atol=2e-3)
    spread = mixed.probabilities @ VALUES.square() - mixed.mean.square()  # the law of total variance
    np.testing.assert_allclose(spread, np.mean(np.square(widths), 0) + np.var(means, 0), rtol=2e-3)
    laws = [stats.norm(m, w) for m, w in zip(means, widths, strict=True)]
    for q in (0.05, 0.5, 0.95):
        below = np.mean([law.cdf(mixed.quantile(q).numpy()) for law in laws], 0)
        np.testing.assert_allclose(below, q, atol=2e-3)


def test_a_mixture_of_classes_and_of_several_tokens():
    other = Prediction("sex", torch.tensor([[[0.6, 0.1, 0.3]], [[0.0, 1.0, 0.0]]]).log(), None)
    expected = torch.tensor([[0.4, 0.2, 0.4], [0.5, 0.5, 0.0]])
    torch.testing.assert_close(Prediction.mixture([CLASSES, other]).probabilities, expected)
    alone = Prediction.mixture(iter([IMAGE]))
    torch.testing.assert_close(alone.log_probs, IMAGE.log_probs)
    assert alone.values is None and alone.cells is None


def test_a_mixture_keeps_the_cells_and_never_scores_below_the_mean_of_its_members():
    cells = torch.stack([VALUES - 0.01, VALUES + 0.01], 1)
    members = [Prediction("y", discretised(MEANS + d, WIDTHS).log_probs, VALUES, cells) for d in (-0.3, 0.3)]
    mixed, tokens = Prediction.mixture(members), torch.tensor([[200], [252], [330]])
    assert torch.equal(mixed.cells, cells)
    assert (mixed.log_prob(tokens) >= sum(m.log_prob(tokens) for m in members) / 2).all()  # Jensen


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ([discretised(MEANS, WIDTHS, VALUES + 1)], "with the same codes, .* got 'y' .* and 'y' "),
        ([discretised(MEANS[:2], WIDTHS[:2])], r"\(3 samples, .* and 'y' \(2 samples, 1 tokens, 561 codes\)"),
        ([NORMAL, Prediction("x", NORMAL.log_probs, VALUES)], "one target"),
        ([Prediction("y", NORMAL.log_probs, VALUES, torch.stack([VALUES, VALUES], 1))], "the same codes"),
        ([Prediction("y", NORMAL.log_probs, None)], "Fit the codecs once"),
    ],
)
def test_a_mixture_of_what_does_not_fit_together_is_refused(others, says):
    with pytest.raises(ValueError, match=says):
        Prediction.mixture([NORMAL, *others])


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one prediction, got none"):
        Prediction.mixture([])


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: CLASSES.mean, "'sex' is not one number: use probabilities"),
        (lambda: CLASSES.median, "'sex' is not one number"),
        (lambda: CLASSES.interval(), "'sex' is not one number"),
        (lambda: IMAGE.mean, "'image' is not one number"),
        (lambda: IMAGE.sample(3), "'image' has several tokens .* model.generate"),
        (lambda: NORMAL.quantile(0.0), "0 < q < 1, got 0.0"),
        (lambda: NORMAL.quantile(1.0), "0 < q < 1, got 1.0"),
        (lambda: NORMAL.interval(90), "0 < level < 1, got 90"),
        (
            lambda: NORMAL.log_prob(torch.zeros(3, dtype=torch.int64)),
            r"must be of shape \(3, 1\), got \(3,\)",
        ),
        (lambda: IMAGE.log_prob(torch.zeros(2, 1, dtype=torch.int64)), r"\(2, 4\), got \(2, 1\)"),
    ],
)
def test_questions_without_an_answer_are_refused(act, says):
    with pytest.raises(ValueError, match=says):
        act()


@pytest.mark.parametrize(
    "values",
    [
        np.arange(2000) % 2.0,
        np.where(np.arange(2000) % 5 < 3, 0.0, -np.log1p(-np.arange(2000) / 2000)),
        stats.poisson(1).ppf((np.arange(2000) + 0.5) / 2000),
        stats.norm.ppf((np.arange(2000) + 0.5) / 2000),
    ],
    ids=["coin", "zeros and a tail", "counts", "continuous"],
)
def test_the_exact_marginal_law_holds_at_least_what_it_promises(values):
    x = torch.tensor(values, dtype=torch.float32)
    codec = ScalarCodec(Scalar("x"), codebook_size=256).fit(x)
    spec, codes = codec.token_spec(), codec.encode(x)[:, 0]
    law = torch.bincount(codes, minlength=spec.vocab_size).double() / len(x)
    prediction = Prediction("x", law.log()[None, None].float(), spec.values, spec.cells)
    for level in (0.5, 0.9):
        low, high = prediction.interval(level)
        assert ((low <= x) & (x <= high)).float().mean() >= level - 0.005
    assert (
        prediction.median.item() in values.round(6)
        or abs(prediction.median.item() - np.median(values)) < 0.01
    )
