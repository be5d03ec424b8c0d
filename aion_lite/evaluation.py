"""Scores, with intervals; and the record of an experiment as a JSON file.

Scores take arrays (B,) of truths and predictions; those of images and codes take tensors, on any device. An
interval over seeds is Student's t; it covers what changes with the seed (weights, order, the training samples
drawn) and not which objects are in the test set.
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
import torch
import torch.nn.functional as F
from torch import Tensor


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


def psnr(truth: Tensor, reconstructed: Tensor, data_range: float, measured: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio, dB: 10 log10(data_range**2 / MSE) of each image, then the mean over images.

    Images (B, C, H, W), all channels of an image in one MSE; inf where one is given back exactly.
    ``measured``: bool of their shape; what is not measured is left out, and so are images that have nothing.
    """
    truth, reconstructed, measured = _images(truth, reconstructed, data_range, measured)
    count = measured.flatten(1).sum(1, dtype=torch.float64)
    error = (truth - reconstructed).double().square().where(measured, 0.0).flatten(1).sum(1)
    return float((10 * torch.log10(data_range**2 * count / error))[count > 0].mean())


def ssim(truth: Tensor, reconstructed: Tensor, data_range: float, measured: Tensor | None = None) -> float:
    """Structural similarity, 1 where equal: the mean over channels and windows, then over images.

    Windows of 11 x 11 pixels that lie inside the image, Gaussian weights of sigma 1.5, K1 = 0.01, K2 = 0.03
    (Wang et al. 2004, sections III.B and III.C). Takes what ``psnr`` takes; a window counts where its middle
    was measured. Raises ValueError on images below 11 pixels a side.
    """
    truth, reconstructed, measured = _images(truth, reconstructed, data_range, measured)
    height, width = truth.shape[2:]
    if min(height, width) < 11:
        raise ValueError(f"SSIM needs images of 11 x 11 pixels or more, got {height} x {width}.")
    middles = measured[..., 5:-5, 5:-5]
    batches = zip(truth.split(256), reconstructed.split(256), strict=True)
    similar = torch.cat([_ssim_map(x, y, data_range) for x, y in batches])
    count = middles.flatten(1).sum(1)
    return float((similar.where(middles, 0.0).flatten(1).sum(1) / count)[count > 0].mean())


def _ssim_map(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    """(B, C, H, W) -> (B, C, H - 10, W - 10). float64: variances are small differences of squares."""
    x, y = x.double(), y.double()
    window = torch.exp(-((torch.arange(11, device=x.device, dtype=x.dtype) - 5) ** 2) / (2 * 1.5**2))
    moments = torch.cat([x, y, x * x, y * y, x * y], 1)
    window = (window / window.sum()).expand(moments.shape[1], 1, 1, 11)
    moments = F.conv2d(moments, window, groups=len(window))
    moments = F.conv2d(moments, window.transpose(2, 3), groups=len(window))
    x, y, xx, yy, xy = moments.chunk(5, 1)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    light = (2 * x * y + c1) / (x * x + y * y + c1)
    return light * (2 * (xy - x * y) + c2) / (xx - x * x + yy - y * y + c2)


def codebook_use(codes: Any, codebook_size: int) -> dict[str, float]:
    """How evenly integer codes of any shape use their codebook.

    ``used``: share of the codebook seen; ``bits``: entropy of the codes' frequencies, bits a token;
    ``perplexity``: 2**bits, the number of codes that would be as many if all were as frequent. Few tokens see
    few codes: all three come out low below about ten tokens a code.
    """
    codes = torch.as_tensor(codes).flatten()
    if codes.is_floating_point() or not len(codes) or codes.min() < 0 or codes.max() >= codebook_size:
        raise ValueError(f"Codebook use needs codes in 0..{codebook_size - 1}, one or more, got {codes}.")
    counts = torch.bincount(codes, minlength=codebook_size).double()
    bits = float(torch.special.entr(counts / counts.sum()).sum() / np.log(2))
    return {"used": float((counts > 0).double().mean()), "perplexity": 2**bits, "bits": bits}


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


def share_of_limit(
    scores: Sequence[float], limit: float | Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """(mean, low, high) over seeds of score / limit: 1 is all that the data's law lets any model reach.

    ``scores``: one a seed, of a score that is 0 without skill (R2; AUROC less one half). ``limit``: the best
    that can be expected (``data.BayesLimit``), one for all or one a seed. A lucky test set may exceed it.
    """
    scores, limit = np.asarray(scores, float), np.asarray(limit, float)
    if limit.shape not in ((), scores.shape) or not (limit > 0).all():
        raise ValueError(
            f"A share needs limits above 0, one or one a seed, got {limit.tolist()} for {len(scores)} "
            "scores: where nothing can be known there is nothing to share."
        )
    return seed_interval(scores / limit, level)


def samples_needed(sizes: Sequence[float], scores: Sequence[float], score: float) -> float:
    """How many samples a learning curve needs for ``score``, linear in the log of the sizes between them.

    Args:
        sizes, scores: the curve, by rising size; where a score falls again, the best so far counts.
        score: to be reached. Below or above the whole curve gives its smallest or largest size: a bound.

    Over the n of another method that has this score, it is that method's label efficiency.
    """
    sizes, best = np.asarray(sizes, float), np.maximum.accumulate(np.asarray(scores, float))
    if (
        sizes.shape != best.shape
        or sizes.ndim != 1
        or not (np.diff(sizes) > 0).all()
        or not (sizes > 0).all()
    ):
        raise ValueError(f"A curve needs rising sizes above 0 and a score each, got {sizes} and {scores}.")
    i = int(np.searchsorted(best, score))  # the first size that reaches it
    if i in (0, len(best)):
        return float(sizes[min(i, len(best) - 1)])
    return float(np.exp(np.interp(score, best[i - 1 : i + 1], np.log(sizes[i - 1 : i + 1]))))


def write_results(
    path: str | Path, summary: str, records: Sequence[Mapping[str, Any]], **settings: Any
) -> Path:
    """Write ``results.json``.

    Args:
        summary: the score line, one line.
        records: flat dicts, one a trained model or baseline (task, n, seed, metric, value, ...).
        settings: what else made them (parameters, data, seconds). Versions, device and commit are added.
    """
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


def stored_or_run(path: str | Path, run: Any, full: bool) -> tuple[Any, str]:
    """(records, words for what made them): those of the full run stored at ``path``, or ``run`` itself.

    ``run`` it is where it is a full run, or where none is stored.
    """
    if full or not Path(path).exists():
        return run, "this run, made with the parameters above"
    settings, stored = read_results(path)
    return stored, f"the stored full run ({made_on(settings)})"


def merge_results(paths: Sequence[str | Path], out: str | Path) -> Path:
    """One file from runs of one notebook that were split over seeds, methods or tasks.

    Records that two runs share (the same task, method, n and seed) are kept once, the first run's. All runs
    of a task, which a page compares with each other, must be of one device, version and commit, else
    ValueError; where tasks differ in these, ``made_by`` has them by task, and the file's own are the first's.
    """
    runs = [json.loads(Path(path).read_text()) for path in paths]
    key = ("task", "method", "n", "seed")
    records, made_by = {}, {}
    for run in runs:
        made = {k: run[k] for k in ("device", "torch", "commit")}
        for record in run["records"]:
            if tuple(record.get(k) for k in key) not in records:
                records[tuple(record.get(k) for k in key)] = record
                if made_by.setdefault(record["task"], made) != made:
                    raise ValueError(
                        f"These runs of {record['task']!r} were not made alike and can't be merged: "
                        f"{made_by[record['task']]} and {made}."
                    )
    merged = dict(runs[0])
    merged["summary"] = f"merged from {len(runs)} runs"
    merged["parameters"] = [run["parameters"] for run in runs]
    merged["seconds"] = sum(run["seconds"] for run in runs)
    if any(made != next(iter(made_by.values())) for made in made_by.values()):
        merged["made_by"] = made_by
    merged["records"] = sorted(records.values(), key=lambda r: tuple(str(r.get(k)).zfill(6) for k in key))
    return _write(out, merged)


def made_on(settings: Mapping[str, Any]) -> str:
    """Devices and commits of a results file, for a line on a page."""
    made = settings.get("made_by", {"": settings}).values()
    devices, commits = (list(dict.fromkeys(m[key] for m in made)) for key in ("device", "commit"))
    plural = "s" if len(commits) > 1 else ""
    return f"{' and '.join(devices)}, commit{plural} {', '.join(c[:7] for c in commits)}"


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


def _images(x: Tensor, y: Tensor, data_range: float, measured: Tensor | None) -> list[Tensor]:
    if x.ndim != 4 or x.shape != y.shape or (measured is not None and measured.shape != x.shape):
        shapes = [None if t is None else tuple(t.shape) for t in (x, y, measured)]
        raise ValueError(f"Image scores need images (B, C, H, W) of one shape, got {shapes}.")
    if not 0 < data_range < np.inf:
        raise ValueError(f"data_range is the span of the images' values, above 0, got {data_range}.")
    measured = torch.ones_like(x, dtype=torch.bool) if measured is None else measured
    # Equal where nothing was measured, so that no window sees what lies there.
    return [torch.where(measured, x, y), y, measured]
