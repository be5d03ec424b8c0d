"""Scores, with intervals; and the record of an experiment as a JSON file.

Scores take arrays (B,) of truths and predictions. An interval over seeds is Student's t; it covers what
changes with the seed (weights, order, the training samples drawn) and not which objects are in the test set.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def r2(truth: Any, predicted: Any) -> float:
    """Share of the variance explained: 1 is perfect, 0 is what the test set's mean scores."""
    truth, predicted = _arrays(truth, predicted)
    if np.ptp(truth) == 0:
        raise ValueError(f"R2 needs truths that differ, got {len(truth)} times {truth[0]}.")
    return float(1 - np.mean((predicted - truth) ** 2) / np.var(truth))


def sigma_nmad(truth: Any, predicted: Any) -> float:
    """Robust scatter of photometric redshifts: 1.4826 median |d - median d|, d = (zp - z) / (1 + z).

    Blind to outliers, and the standard deviation where errors are normal (Brammer et al. 2008, section 3).
    """
    truth, predicted = _arrays(truth, predicted)
    d = (predicted - truth) / (1 + truth)
    return float(1.4826 * np.median(np.abs(d - np.median(d))))


def coverage(truth: Any, low: Any, high: Any) -> float:
    """Share of the truths inside their predicted intervals."""
    truth, low, high = _arrays(truth, low, high)
    return float(np.mean((low <= truth) & (truth <= high)))


def seed_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) over seeds by Student's t; one seed gives an interval from -inf to inf."""
    from scipy import stats

    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, -np.inf, np.inf
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def paired_difference(ours: Sequence[float], baseline: Sequence[float], level: float = 0.95):
    """(mean, low, high) of ours - baseline, seed by seed: both saw the same samples with the same seed."""
    if len(ours) != len(baseline):
        raise ValueError(
            f"A paired difference needs the same seeds on both sides, got {len(ours)} and {len(baseline)}."
        )
    return seed_interval(np.asarray(ours) - np.asarray(baseline), level)


def write_results(
    path: str | Path, summary: str, records: Sequence[Mapping[str, Any]], **settings: Any
) -> Path:
    """Write ``results.json``.

    Args:
        summary: the score line, one line.
        records: flat dicts, one a trained model or baseline (task, n, seed, metric, value, ...).
        settings: what else made them (parameters, data, seconds). Versions, device and commit are added.
    """
    import torch

    import aion_lite

    commit = os.environ.get("AION_LITE_COMMIT")  # for machines that get the files without the repository
    if commit is None:
        git = ["git", "-C", str(Path(aion_lite.__file__).parent), "rev-parse", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    content = {
        "summary": summary, **settings, "device": device, "torch": torch.__version__,
        "python": platform.python_version(), "commit": commit, "records": list(records),
    }  # fmt: skip
    return _write(path, content)


def read_results(path: str | Path):
    """(settings, records as a pandas frame) of a file that ``write_results`` wrote."""
    import pandas as pd

    content = json.loads(Path(path).read_text())
    return content, pd.DataFrame(content.pop("records"))


def merge_results(paths: Sequence[str | Path], out: str | Path) -> Path:
    """One file from runs of one experiment that were split over seeds or methods.

    Records that two runs share (the same task, method, n and seed) are kept once; runs on different devices,
    versions or commits are refused with a ValueError.
    """
    runs = [json.loads(Path(path).read_text()) for path in paths]
    made_by = [{k: run[k] for k in ("device", "torch", "commit")} for run in runs]
    if any(made != made_by[0] for made in made_by):
        raise ValueError(f"These runs were not made alike and can't be merged: {made_by}.")
    key = ("task", "method", "n", "seed")
    records = {tuple(r.get(k) for k in key): r for run in runs for r in run["records"]}
    merged = dict(runs[0])
    merged["summary"] = f"merged from {len(runs)} runs"
    merged["parameters"] = [run["parameters"] for run in runs]
    merged["seconds"] = sum(run["seconds"] for run in runs)
    merged["records"] = sorted(records.values(), key=lambda r: tuple(str(r.get(k)).zfill(6) for k in key))
    return _write(out, merged)


def _write(path: str | Path, content: dict[str, Any]) -> Path:
    """The old file stays until the new one is whole."""
    path, temporary = Path(path), Path(path).with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)
    return path


def _arrays(*values: Any) -> list[np.ndarray]:
    arrays = [np.asarray(getattr(v, "cpu", lambda v=v: v)(), dtype=np.float64) for v in values]
    if len({a.shape for a in arrays}) > 1 or arrays[0].ndim != 1 or len(arrays[0]) < 2:
        raise ValueError(
            f"Scores need arrays (B,) of one length, two samples or more; got {[a.shape for a in arrays]}."
        )
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError("Scores need finite numbers: leave out samples whose truth was not measured.")
    return arrays
