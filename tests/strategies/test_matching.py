"""Skewest sums against scikit-learn's ICA, ranks against scipy's transport, parts against a known law."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.decomposition import FastICA

from aion_lite.strategies.matching import (
    PartsPredictor,
    Skewest,
    copula_correlation,
    match_ranks,
    train_parts,
)


def numbers(B=20_000, seed=0, spread=0.3) -> tuple[np.ndarray, np.ndarray]:
    """A skewed cause (B,), and three columns (B, 3) that it and two normal causes move."""
    rng = np.random.default_rng(seed)
    cause = rng.exponential(spread, B)
    normal = rng.standard_normal((B, 2))
    mixed = np.stack([cause, *normal.T], 1) @ np.array([[50, 30, -20], [6, 10, 0], [10, -5, 6.0]])
    return cause, mixed + np.array([90, 150, 70])


def test_the_skewest_sum_is_the_cause_and_what_ica_finds():
    cause, columns = numbers()
    found = Skewest(columns)
    score = found(columns)
    assert np.corrcoef(score, cause)[0, 1] > 0.99
    assert found.skewness == pytest.approx(stats.skew(score)) == pytest.approx(2, abs=0.2)
    theirs = FastICA(fun="exp", whiten="unit-variance", random_state=0, max_iter=1000).fit_transform(columns)
    assert max(abs(np.corrcoef(score, t)[0, 1]) for t in theirs.T) > 0.99


def test_no_turned_sum_is_skewer():
    """All directions of two columns, counted through."""
    _, columns = numbers(5000)
    columns = columns[:, :2]
    white = np.linalg.solve(np.linalg.cholesky(np.cov(columns.T)), (columns - columns.mean(0)).T)
    angles = np.linspace(0, np.pi, 721)
    best = max(abs(stats.skew(np.cos(a) * white[0] + np.sin(a) * white[1])) for a in angles)
    assert Skewest(columns).skewness == pytest.approx(best, abs=1e-4)


def test_a_symmetric_law_leaves_no_skew():
    columns = np.random.default_rng(0).standard_normal((20_000, 2))
    assert Skewest(columns).skewness < 5 * np.sqrt(6 / 20_000)


def test_matched_ranks_are_the_cheapest_assignment():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(40), rng.exponential(size=40)
    rows = match_ranks(a, b)
    row, column = optimize.linear_sum_assignment((a[:, None] - b) ** 2)
    assert rows.tolist() == column[row.argsort()].tolist()
    assert sorted(rows) == list(range(40))


def test_ranks_of_other_lengths_are_shares():
    assert match_ranks([3.0, 1.0], [10.0, 30.0, 20.0, 40.0]).tolist() == [
        3,
        2,
    ]
    assert match_ranks([3.0, 1.0, 2.0, 4.0], [5.0, 6.0]).tolist() == [1, 0, 0, 1]


def test_looser_pairs_have_the_correlation_asked_for_and_the_marginals_they_had():
    rng = np.random.default_rng(1)
    a, b = rng.exponential(size=20_000), rng.gamma(3.0, size=20_000)
    rows = match_ranks(a, b, correlation=0.6, seed=1)
    assert sorted(rows) == list(range(20_000))
    assert copula_correlation(a, b[rows]) == pytest.approx(0.6, abs=0.02)
    scores = [stats.norm.ppf((stats.rankdata(x) - 0.5) / len(x)) for x in (a, b[rows])]
    assert np.corrcoef(*scores)[0, 1] == pytest.approx(0.6, abs=0.02)


def odd_maps(B: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """White noise (B, 1, 8, 8) with a blob of some strength anywhere, and that strength."""
    g = torch.Generator().manual_seed(seed)
    at = torch.arange(8.0)
    y, x = (torch.randint(2, 6, (B, 1), generator=g) for _ in range(2))
    rows, columns = (torch.exp(-((at - c) ** 2) / 2) for c in (y, x))
    strength = -torch.rand(B, generator=g).log()
    blob = 3 * strength[:, None, None] * rows[:, :, None] * columns[:, None, :]
    return torch.randn(B, 1, 8, 8, generator=g) + blob[:, None], strength


def test_parts_tell_of_a_blob_that_no_label_named():
    maps, _ = odd_maps(2000, 0)
    model, _ = train_parts(maps, steps=100, batch_size=64, progress=False)
    new, strength = odd_maps(600, 1)
    shared = model.shared(new)
    rank = stats.spearmanr(shared, strength)[0]
    energy = stats.spearmanr(new.square().sum((1, 2, 3)), strength)[0]
    assert rank > energy > 0.3
    noise = torch.randn(new.shape, generator=torch.Generator().manual_seed(2))
    assert model.shared(noise).mean() < 0.2 * shared.mean()
    assert torch.equal(model.shared(new), shared), "the folds are drawn by the seed"


def test_hidden_cells_are_not_looked_at():
    model, maps = PartsPredictor(2), torch.randn(3, 2, 5, 5)
    seen = torch.ones(3, 1, 5, 5, dtype=torch.bool)
    seen[:, :, 2, 3] = False
    other = maps.clone()
    other[:, :, 2, 3] = 100.0
    for a, b in zip(model(maps, seen), model(other, seen), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Skewest(np.zeros(20)), "Columns are"),
        (lambda: Skewest(np.ones((20, 2))), "columns that differ"),
        (lambda: Skewest(np.random.default_rng(0).random((5, 2))), "10 samples"),
        (lambda: match_ranks([1.0, np.nan], [1.0, 2.0]), "finite"),
        (lambda: match_ranks([1.0], [1.0], correlation=1.5), "-1 to 1"),
        (lambda: match_ranks([[1.0]], [1.0]), "numbers"),
        (lambda: train_parts(torch.zeros(4, 8, 8), steps=1), "Maps are"),
        (lambda: train_parts(torch.full((4, 1, 8, 8), torch.nan), steps=1), "Maps are"),
    ],
)
def test_errors_at_the_door(call, says):
    with pytest.raises(ValueError, match=says):
        call()
