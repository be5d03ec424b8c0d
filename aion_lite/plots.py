"""Figures of the book. Each function draws on the axes it is given and returns them; style is the caller's.

Takes arrays and result frames, never models or data sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from aion_lite.evaluation import coverage, seed_interval


def measured_shares(ax: Axes, shares: Mapping[str, float]) -> Axes:
    """A bar a modality: how many samples have it."""
    names = list(shares)[::-1]
    ax.barh(names, [100 * shares[name] for name in names])
    ax.set(xlabel="samples measured (%)", xlim=(0, 100))
    ax.grid(axis="y", visible=False)
    return ax


def predicted_and_true(ax: Axes, truth: Any, median: Any, low: Any, high: Any, unit: str = "") -> Axes:
    """Predicted median against truth, coloured by whether the interval holds the truth."""
    truth, median, low, high = map(np.asarray, (truth, median, low, high))
    held = (low <= truth) & (truth <= high)
    for mask, label, style in ((held, "inside its interval", ("C0", ".")), (~held, "outside", ("C4", "x"))):
        share = f"{label} ({mask.mean():.0%})"
        ax.plot(truth[mask], median[mask], style[1], color=style[0], markersize=4, alpha=0.6, label=share)
    ends = [min(truth.min(), median.min()), max(truth.max(), median.max())]
    ax.plot(ends, ends, color="0.3", linewidth=1)
    ax.set(xlabel=f"true {unit}".strip(), ylabel=f"predicted {unit} (median)".strip())
    ax.legend(loc="upper left")
    return ax


def calibration(ax: Axes, truth: Any, intervals: Mapping[float, tuple[Any, Any]]) -> Axes:
    """Share of truths held by central intervals against the share promised; on the diagonal is honest."""
    levels = sorted(intervals)
    held = [coverage(truth, *intervals[level]) for level in levels]
    ax.plot([0, 100], [0, 100], color="0.3", linewidth=1)
    ax.plot(100 * np.array(levels), 100 * np.array(held), "o-")
    ax.set(xlabel="promised (%)", ylabel="held the truth (%)", xlim=(0, 100), ylim=(0, 100), aspect="equal")
    return ax


def learning_curves(
    ax: Axes, frame: Any, metric: str, labels: Mapping[str, str], x: str = "n", by: str = "method"
) -> Axes:
    """One line a method over ``x``: mean over seeds, with the 95 % interval of that mean as a band.

    ``frame``: one row a (method, x, seed) with a column ``metric``.
    """
    for i, (method, label) in enumerate(labels.items()):
        rows = frame[frame[by] == method].dropna(subset=[metric]).groupby(x)[metric]
        if not len(rows):
            continue
        places = np.array(list(rows.groups))
        mean, low, high = np.array([seed_interval(group) for _, group in rows]).T
        line = ax.plot(places, mean, "os^DvP"[i % 6] + "-", label=label)[0]
        if np.isfinite(low).all():
            ax.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xscale="log", xlabel="training samples")
    ticks = sorted(frame[x].unique())
    ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
    ax.minorticks_off()
    ax.legend()
    return ax


def scores_by_inputs(ax: Axes, scores: Mapping[str, Mapping[str, Sequence[float]]], xlabel: str) -> Axes:
    """A row a set of inputs, a mark a method; with several seeds, the 95 % interval of the mean as a line.

    ``scores``: method -> inputs -> score of every seed.
    """
    for m, (method, by_inputs) in enumerate(scores.items()):
        names = list(by_inputs)[::-1]
        mean, low, high = np.array([seed_interval(by_inputs[name]) for name in names]).T
        step = min(0.3, 0.75 / len(scores))
        rows = np.arange(len(names)) + step * ((len(scores) - 1) / 2 - m)
        marks = ax.plot(mean, rows, "os^D"[m % 4], label=method)[0]
        if np.isfinite(low).all():
            ax.hlines(rows, low, high, color=marks.get_color(), linewidth=3, alpha=0.5)
        ax.set_yticks(range(len(names)), names)
    ax.set(xlabel=xlabel)
    ax.legend()
    return ax


def image_rows(ax: Axes, rows: Mapping[str, Any], gap: int = 2) -> Axes:
    """A row of pictures a name, all on one sheet.

    ``rows``: name -> images (B, C, H, W), C of 1 (grey) or 3 (RGB), in 0 to 1, alike in B, H and W.
    """
    strips = []
    for images in rows.values():
        x = np.clip(np.asarray(images, dtype=float), 0, 1).transpose(0, 2, 3, 1)
        x = np.broadcast_to(x, (*x.shape[:3], 3))
        x = np.pad(x, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1.0)
        strips.append(np.concatenate(list(x), axis=1))
    sheet, height = np.concatenate(strips), strips[0].shape[0]
    ax.imshow(sheet, interpolation="nearest")
    ax.set_yticks([(i + 0.5) * height - gap / 2 for i in range(len(rows))], list(rows))
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


ROLES = ("left out", "enters", "asked", "absent")


def token_roles(ax: Axes, roles: Any, num_tokens: Mapping[str, int], legend: bool = True) -> Axes:
    """What becomes of each token: a row a sample, a column a token place, places in groups by modality.

    ``roles``: (B, T) integers, places in ``ROLES``; ``num_tokens``: modality -> how many of the T it has.
    """
    roles, colours = np.asarray(roles), ["0.88", "C0", "C1", "white"]
    ends = np.cumsum(list(num_tokens.values()))
    if roles.ndim != 2 or roles.shape[1] != ends[-1]:
        raise ValueError(f"Roles must be (B, {ends[-1]}) for {dict(num_tokens)}, got {roles.shape}.")
    shades = np.array([to_rgb(colour) for colour in colours])
    ax.imshow(shades[roles], aspect="auto", interpolation="nearest")
    for row, place in np.argwhere(roles == ROLES.index("absent")):
        ax.plot(place, row, "x", color="0.6", markersize=3, markeredgewidth=1)
    ax.set_xticks(np.arange(1, roles.shape[1]) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, len(roles)) - 0.5, minor=True)
    ax.grid(False)
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="both", length=0)
    for end in ends[:-1]:
        ax.axvline(end - 0.5, color="k", linewidth=1.5)
    ax.set_xticks(ends - (np.array(list(num_tokens.values())) + 1) / 2, list(num_tokens))
    ax.set(yticks=[], ylabel="samples")
    if legend:
        present = [i for i in range(len(ROLES)) if (roles == i).any()]
        marks = [
            Patch(facecolor=colours[i], edgecolor="0.6", hatch="xx" * (i == 3), label=ROLES[i])
            for i in present
        ]
        ax.legend(handles=marks, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(marks))
    return ax
