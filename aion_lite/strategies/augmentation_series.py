"""Augmentations of time series and spectra, a whole batch at a time on its device.

Time series (B, C, T): every sample is changed in its own way, all its channels in the same way, so that leads
stay in step. Each function takes (T,) and (C, T) as well, and gives back what it was given. No loop over
samples and no wait for the device, so a training step can be recorded with them.

``present`` (of x's shape, or one flag a sample) says what was measured, ``weight`` (of x's shape) is the
inverse variance; both follow the values. What is absent comes back as 0.

B samples, C channels, T time steps, W wavelengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from aion_lite.strategies.augmentation_guard import Names, check_strength, chosen, given, normal, uniform

SERIES_TRANSFORMS = ("time_warp", "magnitude_warp", "scaling", "jitter", "window_slice", "permutation")
SPECTRUM_TRANSFORMS = ("noise", "dropout", "ripple")


def augment_timeseries(
    ts: Tensor,
    strength: float = 1.0,
    *,
    transforms: Names = ("time_warp", "scaling", "jitter", "window_slice"),
    p: float = 0.5,
    target: Names = (),
    allow: Names = (),
    present: Tensor | None = None,
    weight: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Time series (T,), (C, T) or (B, C, T) -> as many; each transform meets a sample with probability p.

    Args:
        strength: factor on every range, 0 (the series as they are) to 4. At 1: time and magnitude warps of
            sigma 0.2, factors of 0.8 to 1.2, noise of 0.1 standard deviations, a window of at least half the
            series, four segments in another order.
        transforms: which of ``SERIES_TRANSFORMS``, applied in the order of that tuple.
        target: properties (``PROPERTIES``) that are to be predicted, so must not change.
        allow: transforms to use nevertheless.
        generator: on the device of ts; None for torch's own. The same one gives the same series.

    Returns ts, or (ts, present, weight) of those that were given. Raises ValueError where a transform changes
    the target (``CHANGES_LABEL``), or an argument is out of range.
    """
    names = chosen(transforms, SERIES_TRANSFORMS, target, allow)
    s = check_strength(strength)
    if not 0 <= p <= 1:
        raise ValueError(f"p is a probability, got {p}.")
    if s == 0 or p == 0:
        return given(ts, present, weight)
    steps: dict[str, tuple[Callable, float]] = {
        "time_warp": (time_warp, 0.2 * s),
        "magnitude_warp": (magnitude_warp, 0.2 * s),
        "scaling": (scaling, 0.2 * s),
        "jitter": (jitter, 0.1 * s),
        "window_slice": (window_slice, 0.5**s),
        "permutation": (permutation, min(round(1 + 3 * s), ts.shape[-1])),
    }
    x, present_3, weight_3 = _batched(ts, present, weight)
    now = (x, torch.ones_like(x, dtype=torch.bool) if present is None else present_3.expand_as(x), weight_3)
    for name, (transform, amount) in steps.items():
        if name in names:
            new = transform(now[0], amount, present=now[1], weight=now[2], generator=generator)
            hit = uniform((len(x), 1, 1), x, generator) < p
            now = tuple(torch.where(hit, a, b) for a, b in zip(new, now, strict=False)) + now[len(new) :]
    return _restored(ts, present, weight, *now)


def time_warp(
    x: Tensor, sigma: float = 0.2, waves: int = 4, *,
    present: Tensor | None = None, weight: Tensor | None = None, generator: Generator | None = None,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    """Time runs faster here and slower there, never backwards; first and last step stay where they are.

    The speed is exp(sigma s(t)), s smooth with variance 1 and at most ``waves`` half-waves over the series;
    its integral, scaled to end at the last step, says where each step is read. (Multiplying the times of
    knots by N(1, sigma), as often seen, runs backwards in most draws at sigma 0.3.) sigma 0: no change.
    """
    _check(0 <= sigma <= 10, f"sigma lies in 0 to 10, got {sigma}.")
    if sigma == 0 or x.shape[-1] < 3:
        return given(x, present, weight)
    y, mask, w = _batched(x, present, weight)
    T = y.shape[-1]
    # In float64: the positions of a long series differ by less than float32 tells apart.
    speed = (sigma * _smooth(y, T - 1, waves, generator)).double().exp()  # between neighbouring steps
    return _restored(x, present, weight, *_read_at(y, mask, w, positions(speed)))


def positions(speed: Tensor) -> Tensor:
    """Speeds (..., T - 1) above 0 -> increasing positions (..., T) from 0 to T - 1, their scaled integral."""
    run = torch.nn.functional.pad(speed.cumsum(-1), (1, 0))
    return run / run[..., -1:] * speed.shape[-1]


def magnitude_warp(
    x: Tensor, sigma: float = 0.2, waves: int = 4, *,
    present: Tensor | None = None, weight: Tensor | None = None, generator: Generator | None = None,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    """x exp(sigma s(t)), s as in ``time_warp``: the size swells and shrinks, and never changes sign."""
    _check(sigma >= 0, f"sigma is 0 or more, got {sigma}.")
    if sigma == 0:
        return given(x, present, weight)
    y, mask, w = _batched(x, present, weight)
    gain = (sigma * _smooth(y, y.shape[-1], waves, generator)).exp()
    return _restored(x, present, weight, *_times(y, mask, w, gain))


def scaling(
    x: Tensor, spread: float = 0.2, *,
    present: Tensor | None = None, weight: Tensor | None = None, generator: Generator | None = None,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    """x times one factor a sample, uniform in 1 - spread to 1 + spread."""
    _check(0 <= spread < 1, f"spread lies in 0 to 1, got {spread}.")
    if spread == 0:
        return given(x, present, weight)
    y, mask, w = _batched(x, present, weight)
    gain = 1 + spread * (2 * uniform((len(y), 1, 1), y, generator) - 1)
    return _restored(x, present, weight, *_times(y, mask, w, gain))


def jitter(
    x: Tensor, sigma: float = 0.1, *,
    present: Tensor | None = None, weight: Tensor | None = None, generator: Generator | None = None,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    """White noise of ``sigma`` standard deviations of each channel of each sample, over what was measured."""
    _check(sigma >= 0, f"sigma is 0 or more, got {sigma}.")
    if sigma == 0:
        return given(x, present, weight)
    y, mask, w = _batched(x, present, weight)
    seen = torch.ones_like(y, dtype=torch.bool) if mask is None else mask.expand_as(y)
    count = seen.sum(-1, keepdim=True).clamp_min(1)
    noise = normal(y.shape, y, generator)
    y = y.to(noise.dtype)  # in float16 the squares would overflow
    mean = y.sum(-1, keepdim=True) / count
    variance = torch.where(seen, y - mean, 0.0).square().sum(-1, keepdim=True) / count * sigma**2
    y = torch.where(seen, y + noise * variance.sqrt(), 0.0).to(x.dtype)
    return _restored(x, present, weight, y, mask, w if w is None else (w / (1 + w * variance)).to(w.dtype))


def window_slice(
    x: Tensor, share: float = 0.5, *,
    present: Tensor | None = None, weight: Tensor | None = None, generator: Generator | None = None,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    """A window of ``share`` to all of the series, anywhere in it, stretched to the whole length."""
    _check(0 < share <= 1, f"share lies above 0 and up to 1, got {share}.")
    T = x.shape[-1]
    if share == 1 or T < 3:
        return given(x, present, weight)
    y, mask, w = _batched(x, present, weight)
    length = ((share + (1 - share) * uniform((len(y), 1, 1), y, generator)) * T).clamp_min(1)
    start = uniform((len(y), 1, 1), y, generator) * (T - length)
    at = start + torch.arange(T, device=y.device) * ((length - 1) / (T - 1))
    return _restored(x, present, weight, *_read_at(y, mask, w, at))


def permutation(
    x: Tensor, segments: int = 4, *,
    present: Tensor | None = None, weight: Tensor | None = None, generator: Generator | None = None,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    """The series in ``segments`` pieces of random lengths, in another order."""
    T = x.shape[-1]
    _check(1 <= segments <= T, f"segments lie in 1 to {T}, the length of the series, got {segments}.")
    if segments == 1:
        return given(x, present, weight)
    y, mask, w = _batched(x, present, weight)
    # segments - 1 different places to cut before, then a random place for each piece.
    cuts = uniform((len(y), T - 1), y, generator).topk(segments - 1).indices + 1
    piece = torch.zeros(len(y), T, dtype=torch.int64, device=y.device).scatter(1, cuts, 1).cumsum(1)
    place = uniform((len(y), segments), y, generator).argsort(1)
    order = place.gather(1, piece).argsort(dim=1, stable=True)[:, None]  # (B, 1, T)
    moved = [t if t is None or t.shape[-1] == 1 else t.gather(-1, order.expand_as(t)) for t in (y, mask, w)]
    if mask is not None:
        moved[0] = torch.where(moved[1], moved[0], 0.0)
    return _restored(x, present, weight, *moved)


def augment_spectrum(
    flux: Tensor,
    weight: Tensor | None = None,
    strength: float = 1.0,
    *,
    transforms: Names | None = None,
    target: Names = (),
    allow: Names = (),
    present: Tensor | None = None,
    generator: Generator | None = None,
) -> tuple[Tensor, ...]:
    """Spectra (B, W) as a worse night would have given them; nothing moves along the wavelengths.

    - ``noise``: normal, its standard deviation up to ``strength`` times that of the pixel, weight**-1/2.
    - ``dropout``: up to a tenth of the pixels, times ``strength``, are lost: absent and 0.
    - ``ripple``: a smooth error of the flux calibration, exp(0.05 ``strength`` s), s of variance 1.

    Args:
        weight: (B, W) inverse variance of the flux; 0 where it says nothing. Without, no noise can be drawn.
        transforms: which of ``SPECTRUM_TRANSFORMS``; None for all that can be drawn.
        target, allow, strength, generator: as in ``augment_timeseries``.
        present: (B,) or (B, W), the coverage.

    Returns (flux, present), and weight after them if it was given, as it is with the noise that was added.
    """
    if transforms is None:
        transforms = [t for t in SPECTRUM_TRANSFORMS if t != "noise" or weight is not None]
    names, s = chosen(transforms, SPECTRUM_TRANSFORMS, target, allow), check_strength(strength)
    if "noise" in names and weight is None:
        raise ValueError("noise is drawn from the inverse variance: give weight, or leave noise out.")
    _check(flux.ndim == 2, f"Spectra are of shape (B, W), got {tuple(flux.shape)}.")
    y, mask, w = _batched(*(t if t is None or t.ndim == 1 else t[:, None] for t in (flux, present, weight)))
    mask = torch.ones_like(y, dtype=torch.bool) if mask is None else mask.expand_as(y)
    if s > 0:
        if "ripple" in names:
            gain = (0.05 * s * _smooth(y, y.shape[-1], 4, generator)).exp()
            y, mask, w = _times(y, mask, w, gain)
        if "noise" in names:
            share = s * uniform((len(y), 1, 1), y, generator)
            noise = normal(y.shape, y, generator) * share * w.clamp_min(torch.finfo(w.dtype).tiny).rsqrt()
            y, w = torch.where(w > 0, y + noise.to(y.dtype), y), (w / (1 + share.square())).to(w.dtype)
        if "dropout" in names:
            rate = 0.1 * s * uniform((len(y), 1, 1), y, generator)
            mask = mask & (uniform(y.shape, y, generator) >= rate)
    y = torch.where(mask, y, 0.0)
    out = (y, mask) if w is None else (y, mask, torch.where(mask, w, 0.0))
    return tuple(t[:, 0] for t in out)


def _smooth(like: Tensor, n: int, waves: int, generator: Generator | None) -> Tensor:
    """(B, 1, n) random curves, stationary normal with mean 0 and variance 1, the fastest of ``waves`` / 2
    periods over the n points."""
    _check(waves >= 1, f"waves is 1 or more, got {waves}.")
    z = normal((len(like), 2 * waves, 1), like, generator) / math.sqrt(waves)
    phase = torch.linspace(0, math.pi, n, device=like.device, dtype=z.dtype)
    phase = phase * torch.arange(1, waves + 1, device=like.device)[:, None]  # (waves, n)
    return (z * torch.cat([phase.cos(), phase.sin()])).sum(1, keepdim=True)


def _read_at(y: Tensor, mask: Tensor | None, weight: Tensor | None, at: Tensor) -> tuple:
    """y (B, C, T) at positions ``at`` (B, 1, T), linearly; present where all that is read from is."""
    at = at.clamp(0, y.shape[-1] - 1)
    low = at.floor().long().clamp_max(y.shape[-1] - 2)
    share = (at - low).to(y.dtype)

    def read(t: Tensor) -> tuple[Tensor, Tensor]:
        index = low.expand_as(t)
        return t.gather(-1, index), t.gather(-1, index + 1)

    a, b = read(y)
    out, w = torch.lerp(a, b, share), None
    if weight is not None:
        w = torch.lerp(*read(weight), share.to(weight.dtype))
    if mask is not None and mask.shape[-1] > 1:
        left, right = read(mask)
        mask = (left | (share == 1)) & (right | (share == 0))
        out = torch.where(mask, out, 0.0)
        w = None if w is None else torch.where(mask, w, 0.0)
    return out, mask, w


def _times(y: Tensor, mask: Tensor | None, weight: Tensor | None, gain: Tensor) -> tuple:
    weight = weight if weight is None else (weight / gain.square()).to(weight.dtype)
    return (y * gain).to(y.dtype), mask, weight


def _batched(x: Tensor, present: Tensor | None, weight: Tensor | None) -> tuple:
    """x as (B, C, T), present as (B, C, T) or (B, 1, 1), weight as (B, C, T)."""
    _check(
        1 <= x.ndim <= 3 and x.dtype.is_floating_point,
        f"A time series is floats of shape (T,), (C, T) or (B, C, T), got {x.dtype} {tuple(x.shape)}.",
    )
    y = x.reshape((1,) * (3 - x.ndim) + tuple(x.shape))
    if weight is not None:
        _check(weight.shape == x.shape, f"weight needs shape {tuple(x.shape)}, got {tuple(weight.shape)}.")
        weight = weight.reshape(y.shape)
    if present is not None:
        _check(
            present.shape in (x.shape, x.shape[: x.ndim - 2]) and present.dtype == torch.bool,
            f"present is bool of shape {tuple(x.shape)} or one a sample, got {tuple(present.shape)}.",
        )
        whole = present.shape == x.shape
        present = present.reshape(y.shape if whole else (-1, 1, 1))
        y = torch.where(present, y, 0.0)
        weight = None if weight is None else torch.where(present, weight, 0.0)
    return y, present, weight


def _restored(x, present, weight, y, mask, w) -> Tensor | tuple[Tensor, ...]:
    """(y, mask, w) in the shapes that came in, those of them that came in."""
    whole = present is not None and present.shape == x.shape
    return given(
        y.reshape(x.shape),
        mask.reshape(x.shape) if whole else present,
        None if weight is None else w.reshape(x.shape),
    )


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
