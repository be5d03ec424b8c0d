"""What the figures show is what they were given."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from aion_lite import plots


@pytest.fixture
def ax():
    yield plt.subplots()[1]
    plt.close("all")


def test_bars_are_the_shares_in_reading_order(ax):
    plots.measured_shares(ax, {"u": 1.0, "H": 0.25})
    assert [bar.get_width() for bar in ax.patches] == [25.0, 100.0]  # the first name stands on top


def test_points_are_told_apart_by_their_intervals(ax):
    plots.predicted_and_true(ax, [0.0, 1.0, 2.0], [0.0, 1.0, 1.0], [-1, 0, 0], [1, 2, 1.5], "z")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["inside its interval (67%)", "outside (33%)"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("true z", "predicted z (median)")


def test_honest_intervals_lie_on_the_diagonal(ax):
    truth = stats.norm.ppf((np.arange(999) + 0.5) / 999)
    levels = {
        q: (np.full(999, -stats.norm.ppf((1 + q) / 2)), np.full(999, stats.norm.ppf((1 + q) / 2)))
        for q in (0.5, 0.9)
    }
    plots.calibration(ax, truth, levels)
    promised, held = ax.lines[1].get_data()
    np.testing.assert_allclose(held, promised, atol=0.2)


def test_a_learning_curve_is_the_mean_over_seeds_with_a_band(ax):
    frame = pd.DataFrame(
        {"method": "a", "n": [10, 10, 100, 100], "seed": [0, 1, 0, 1], "r2": [0.1, 0.3, 0.5, 0.7]}
    )
    plots.learning_curves(ax, frame, "r2", {"a": "ours", "missing": "not drawn"})
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.2, 0.6])
    assert len(ax.collections) == 1
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ours"]


def test_rows_are_named_top_down_and_methods_side_by_side(ax):
    plots.scores_by_inputs(
        ax, {"one": {"r": [0.1], "g, r": [0.3]}, "two": {"r": [0.2], "g, r": [0.4]}}, "score"
    )
    assert [t.get_text() for t in ax.get_yticklabels()] == ["g, r", "r"]
    np.testing.assert_allclose(ax.lines[1].get_xdata(), [0.4, 0.2])


@pytest.mark.parametrize("num_methods", [1, 2, 3, 4, 6])
def test_marks_lie_about_their_own_row_and_clear_of_the_next(num_methods):
    ax = plt.figure().add_subplot()
    plots.scores_by_inputs(ax, {f"m{i}": {"a": [0.1], "b": [0.2]} for i in range(num_methods)}, "score")
    rows = np.array([line.get_ydata() for line in ax.lines])
    np.testing.assert_allclose(rows.mean(0), [0, 1], atol=1e-12)
    assert rows[:, 0].max() < 0.5 < rows[:, 1].min()


def test_pictures_stand_in_rows_under_their_names(ax):
    grey, red = np.full((2, 1, 3, 4), 0.5), np.zeros((2, 3, 3, 4))
    red[:, 0] = 1.5  # beyond the range: shown as 1
    plots.image_rows(ax, {"grey": grey, "red": red}, gap=1)
    sheet = ax.images[0].get_array()
    assert sheet.shape == (2 * 4, 2 * 5, 3)
    assert (sheet[:3, 5:9] == 0.5).all() and (sheet[4:7, :4] == [1, 0, 0]).all()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["grey", "red"]


def test_roles_are_coloured_and_modalities_named_under_their_places(ax):
    roles = [[0, 1, 2], [3, 2, 1]]
    plots.token_roles(ax, roles, {"image": 2, "class": 1})
    sheet = ax.images[0].get_array()
    assert sheet.shape == (2, 3, 3) and (sheet[0, 1] == sheet[1, 2]).all() and (sheet[1, 0] == 1).all()
    assert [(t.get_text(), x) for t, x in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)] == [
        ("image", 0.5), ("class", 2.0)
    ]  # fmt: skip
    assert [t.get_text() for t in ax.get_legend().get_texts()] == list(plots.ROLES)


def test_roles_of_other_places_are_refused(ax):
    with pytest.raises(ValueError, match=r"Roles must be \(B, 4\)"):
        plots.token_roles(ax, [[0, 1, 2]], {"image": 3, "class": 1})
