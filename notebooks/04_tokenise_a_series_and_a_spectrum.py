# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tokenise a time series and a spectrum
#
# Signals along one axis come with gaps, with noise that differs from point to point, and over any range of brightness.
# How do they become integer codes all the same, and how many of them does it take to learn that?
#
# **What you'll learn**
#
# - how a stretch of a signal becomes one token, in a dozen lines;
# - what irregular sampling and missing stretches do to the tokens, and why padding must never become one;
# - how a spectrum's brightness, shape, coverage and noise are kept apart;
# - how many series or spectra a codec needs.
#
# **What you'll need**: what a code on a grid is, from *Tokenise an image*. The sensor windows travel with the package.
#
# **Runtime**: about a minute on two CPU cores with the default parameters. `aion-lite run 04 --profile full -p data_dir=FOLDER` repeats the comparisons at all sizes over five seeds, on supernovae as well; it is meant for a GPU, and its results are stored with the book.

# %% tags=["parameters"]
profile: str = "fast"  # fast: small codecs on two CPU cores; full: every comparison, on a GPU
seed: int = 0  # seed of weights, order, people and samples drawn; the full profile starts here
num_seeds: int = 5  # seeds of the full profile
num_train: int = 2000  # windows, and spectra, to train on in the fast profile
steps: int = 400  # optimiser steps of the codecs of the fast profile
experiments: list[str] = [
    "watch",
    "swings",
    "supernovae",
    "absorbers",
    "noise",
    "gaps",
]  # which comparisons the full profile makes
sizes: list[int] = []  # training samples of the full profile; empty: its own
full_steps: int = 0  # steps of each training of the full profile; 0: its own
data_dir: str = ""  # folder with the supernovae; empty: they are left out
output_dir: str = ""  # where results.json and the figures go; empty for nowhere

# %% tags=["hide-input"]
import math
import time
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from sklearn.cluster import MiniBatchKMeans
from torch.utils.data import TensorDataset

from aion_lite import evaluation, plots
from aion_lite.codecs import (
    SpectrumCodec,
    TimeSeriesCodec,
    evaluate_codec,
    rate_line,
    train_codec,
)
from aion_lite.data import MultimodalDataset, load_supernovae, load_watch
from aion_lite.modalities import Spectrum, TimeSeries

EXPERIMENTS = {"watch", "swings", "supernovae", "absorbers"}
EXPERIMENTS |= {"noise", "gaps"}
if profile not in ("fast", "full"):
    raise ValueError(f"profile must be 'fast' or 'full', got {profile!r}.")
if not 100 <= num_train <= 2300:
    raise ValueError(f"num_train must lie in 100..2300, got {num_train}.")
if steps < 1 or full_steps < 0 or min(sizes, default=20) < 20:
    raise ValueError(
        f"steps must be 1 or more, full_steps 0 or more, sizes 20 or more; "
        f"got {steps}, {full_steps}, {sizes}."
    )
if not experiments or not set(experiments) <= EXPERIMENTS:
    raise ValueError(
        f"experiments are {sorted(EXPERIMENTS)}, got {experiments}."
    )
FULL = profile == "full"
FAST = {"lr": 16e-3, "batch_size": 32}
first_steps = (
    min(steps, 200) if FULL else steps
)  # full trains better ones below
plt.style.use("style.mplstyle")
started = time.perf_counter()


def save_figure(name: str) -> None:
    """Keep the picture beside the results, if there is a place for results."""
    if output_dir:
        plt.savefig(Path(output_dir) / f"{name}.png")


# %% [markdown]
# ## A stretch of signal is one token
#
# The series are those of a watch on the wrist {cite:p}`burns-2018-shoulder`: acceleration along three axes, with gravity in it, and rotation about them, fifty times a second, in windows of three seconds.
# Ten people did seven exercises of physiotherapy.
# Windows of one person are alike, so two people are kept for the test; which two changes with the seed.


# %%
@cache
def watch_of(seed: int):
    """Windows of eight people, and of the two others."""
    return load_watch().split(test=2, seed=seed)


def draw(whole, n: int, seed: int):
    """n samples; the same for every method with this seed."""
    rows = np.random.default_rng(seed).permutation(len(whole))[:n]
    return whole[np.sort(rows)]


SMALL = {"width": 32, "depth": 1, "encoder_depth": 1}
LARGE = {"width": 128, "depth": 4, "encoder_depth": 2}


def fit(codec, samples, seed: int, num_steps: int, lr: float, batch_size: int):
    """Trains the codec on a data set or (values, present)."""
    batch_size = min(batch_size, len(samples))
    train_codec(
        codec,
        samples,
        steps=num_steps,
        batch_size=batch_size,
        lr=lr,
        ema=0.99,  # keep an average of the weights
        seed=seed,
        progress=False,
    )
    return codec


def new_series(seed: int, series: TimeSeries, size: dict) -> TimeSeriesCodec:
    torch.manual_seed(seed)
    return TimeSeriesCodec(series, **size)


people, others = watch_of(seed)
MOTION = people.modalities["motion"]
windows = draw(people, num_train, seed)
codec = fit(new_series(seed, MOTION, SMALL), windows, seed, first_steps, **FAST)
first = evaluate_codec(codec, others)
codec.to("cpu")
print(f"{len(windows):,} windows to train on, {len(others):,} to test on")
print(rate_line(first))
print(f"32-bit numbers would be {32 * math.prod(MOTION.shape):,} bits")

# %% [markdown]
# `TimeSeriesCodec` cuts the window into stretches of eight time steps, and each, with all its channels, becomes one token.
# What it does is little enough to write down.
# The values are standardised; where nothing was measured they are 0, and a mask says so beside them.
# A linear layer makes a vector of each stretch, a block lets it look at two neighbours on either side, and four numbers come out and are rounded.
# Below is all of it, with the weights of the codec that has just been trained.


# %% tags=["nbval-check-output"]
def four_numbers(codec, y, mask):
    """Standardised values and mask (B, C, T) -> (B, stretches, 4)."""
    net, p = codec.encoder, codec.patch
    both = torch.cat([torch.where(mask, y, 0.0), mask.float()], 1)
    cut = F.pad(both, (0, -both.shape[2] % p)).unfold(2, p, p)
    h = torch.einsum("bcnp,wcp->bnw", cut, net.patchify.weight)
    h = h + net.patchify.bias
    for block in net.blocks:
        near = F.pad(h, (0, 0, 2, 2)).unfold(1, 5, 1)  # (B, n, w, 5)
        g = (near * block.depthwise.weight[:, 0]).sum(-1)
        g = block.norm(g + block.depthwise.bias)
        h = h + block.outer(F.gelu(block.inner(g)))
    return net.project(net.norm(h))


def rounded(z, levels=(8, 5, 5, 5)):
    """(..., 4) -> codes (...), as in Tokenise an image."""
    L = torch.tensor(levels)
    half, offset = (L - 1) * 1.001 / 2, torch.where(L % 2 == 0, 0.5, 0.0)
    bounded = torch.tanh(z + torch.atanh(offset / half)) * half - offset
    digits = bounded.round().long() + L // 2
    return (digits * (L.cumprod(0) // L)).sum(-1)


generator = torch.Generator().manual_seed(0)
x = others.values["motion"]
seen = torch.rand(x.shape, generator=generator) < 0.8
mean, std = codec.mean[:, None], codec.std[:, None]
with torch.no_grad():
    by_hand = rounded(four_numbers(codec, (x - mean) / std, seen))
spoilt = torch.where(seen, x, 1e6)  # what was not measured must not matter
same = (by_hand == codec.encode(spoilt, seen)).float().mean()
assert same > 0.999, "the codec and the lines above disagree"
print(MOTION.shape, "numbers of a window become", by_hand.shape[1], "codes")
print("the same codes by hand and by the codec:", bool(same > 0.999))

# %% [markdown]
# (A share of all and not all of them, because sums in another order may round a number on the edge to the other side.)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Windows of people whom the codec has never seen, and what it gives back. Between them, the tokens: one square a stretch of 0.16 s, coloured by its first three numbers. Columns: abduction (ABD), internal rotation (IR) and upright row (ROW).", "name": "fig-04-windows"}, "image": {"alt": "Three columns, an exercise each. Top: acceleration along one axis over three seconds, as measured and as decoded; the decoded line follows the slow movement and misses fast jitter and sharp peaks. Bottom: the same for rotation. A row of 19 coloured squares stands between the two."}}
exercises = others.modalities["exercise"].values
rows = [
    int((others.values["exercise"] == k).nonzero()[8, 0]) for k in (1, 3, 6)
]
tokens = codec.encode(x[rows])
back = codec.decode(tokens)
colours = codec.quantizer.decode(tokens)[:, :3].movedim(1, -1) / 2 + 0.5
clock = np.arange(MOTION.length) / MOTION.rate
fig, axes = plt.subplots(
    3, 3, figsize=(7.2, 4.6), sharex=True, height_ratios=[6, 1, 6], sharey="row"
)
for j, row in enumerate(rows):
    for ax, channel in ((axes[0, j], 1), (axes[2, j], 5)):
        ax.plot(clock, x[row, channel], color="0.6", label="measured")
        ax.plot(clock, back[j, channel], color="C0", label="decoded")
    end = colours.shape[1] * codec.patch / MOTION.rate
    axes[1, j].imshow(colours[j][None], extent=(0, end, 0, 1), aspect="auto")
    axes[1, j].set(yticks=[], xlim=(0, clock[-1]))
    axes[1, j].grid(False)
    axes[0, j].set_title(exercises[others.values["exercise"][row]])
    axes[2, j].set_xlabel("time (s)")
axes[0, 0].set_ylabel("$a_y$ (g)")
axes[2, 0].set_ylabel("$w_z$ (rad/s)")
axes[0, 0].legend()
save_figure("windows")
plt.show()

# %% [markdown]
# ### Is it any good?
#
# As on the page before, $k$-means on the same stretches is the opponent: as many tokens, as many codes, and each code a stretch of all channels.


# %%
def series_r2(x, back, seen=None) -> float:
    """Mean over the channels of R2, where ``seen``; all (B, C, T)."""
    seen = torch.ones_like(x, dtype=torch.bool) if seen is None else seen
    return float(
        np.mean(
            [
                evaluation.r2(x[:, c][seen[:, c]], back[:, c][seen[:, c]])
                for c in range(x.shape[1])
                if seen[:, c].any()
            ]
        )
    )


def k_means(train, test, seed: int, num_codes: int = 1000, p: int = 8):
    """R2 of a codebook of whole stretches, from 50,000 of them at most."""
    mean, std = train.mean((0, 2))[:, None], train.std((0, 2))[:, None]

    def cut(x):  # (B, C, T) -> (B * stretches, C * p)
        x = F.pad((x - mean) / std, (0, -x.shape[2] % p)).unfold(2, p, p)
        return x.transpose(1, 2).flatten(2).flatten(0, 1).numpy()

    stretches = cut(train)
    order = np.random.default_rng(seed).permutation(len(stretches))[:50_000]
    found = MiniBatchKMeans(
        min(num_codes, len(order)), n_init=1, batch_size=4096, random_state=seed
    ).fit(stretches[order])
    back = found.cluster_centers_[found.predict(cut(test))]
    back = torch.tensor(back, dtype=torch.float32)
    back = back.reshape(len(test), -1, *(test.shape[1], p)).transpose(1, 2)
    back = back.flatten(2)[..., : test.shape[2]] * std + mean
    return {"r2": series_r2(test, back)}


assert abs(series_r2(x, codec.decode(codec.encode(x))) - first["r2"]) < 1e-4
opponent = k_means(windows.values["motion"], x, seed)
print(f"R2 {first['r2']:.3f}; of k-means on stretches {opponent['r2']:.3f}")

# %% [markdown]
# ## Irregular sampling and missing stretches
#
# The codec's grid is regular; the clock of an instrument often is not.
# Put each measurement on the grid's nearest step, and say in `present` which steps have one.
# A step without a measurement is a gap, and so is a sensor that failed.
# In training, gaps enter with their mask and are not scored, so nothing rewards the codec for inventing.
# A stretch with no measurement at all has an *absent* token, which the transformer never sees.
#
# A codec that has only met whole windows will not like gaps, so the second one below is trained with them.
# The opponent draws straight lines across the gaps first, and then uses the first codec.


# %%
def gaps(kind: str, n: int, seed: int):
    """Which of n windows' values are there (n, 6, 150)."""
    generator = torch.Generator().manual_seed(seed)
    seen = torch.ones(n, *MOTION.shape, dtype=torch.bool)
    if kind == "one step in three":
        seen &= torch.rand(n, 1, MOTION.length, generator=generator) < 1 / 3
    if kind == "a second missing":
        start = torch.randint(100, (n, 1, 1), generator=generator)
        step = torch.arange(MOTION.length)
        seen &= (step < start) | (step >= start + 50)
    if kind == "no gyroscope":
        seen[:, 3:] = False
    return seen


def bridged(x, seen, mean):
    """Straight lines across gaps; a channel without values has its mean."""
    out = mean[:, None].expand_as(x).clone()
    for i, c in seen.any(2).nonzero().tolist():
        at = seen[i, c].nonzero()[:, 0]
        line = np.interp(np.arange(x.shape[2]), at, x[i, c, at])
        out[i, c] = torch.from_numpy(line)
    return out


def with_gaps(windows, seed: int) -> TensorDataset:
    """A fourth of the windows with each kind of gaps."""
    kind = np.random.default_rng(seed).permutation(len(windows)) % len(KINDS)
    holes = torch.stack([gaps(k, len(windows), seed) for k in KINDS])
    holes = holes[kind, np.arange(len(windows))]
    return TensorDataset(windows.values["motion"], holes)


def gap_scores(kind: str, gap_codec, codec, x):
    """R2 of what was given by both codecs; what was seen, kept, decoded."""
    seen = gaps(kind, len(x), 10**6)
    tokens = gap_codec.encode(x, seen)
    here, back = gap_codec.token_present(tokens, seen), gap_codec.decode(tokens)
    ways = {
        "trained with gaps": back,
        "trained without": codec.decode(codec.encode(x, seen)),
        "lines across gaps": codec.decode(
            codec.encode(bridged(x, seen, codec.mean.cpu()))
        ),
    }
    scores = {way: series_r2(x, y, seen) for way, y in ways.items()}
    return scores, (seen, here, back)


KINDS = ["none", "one step in three", "a second missing", "no gyroscope"]
gap_codec = new_series(seed, MOTION, SMALL)
fit(gap_codec, with_gaps(windows, seed), seed, first_steps, **FAST).to("cpu")
gap_table, kept = {}, {}
for kind in KINDS:
    gap_table[kind], kept[kind] = gap_scores(kind, gap_codec, codec, x)
print("R2 of what was given, on people not seen in training")
absent = {k: 1 - here.float().mean().item() for k, (_, here, _) in kept.items()}
table = pd.DataFrame(gap_table).T.assign(**{"share absent": absent})
table.rename_axis("gaps").round(3)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "One test window with three kinds of gaps. Points: what the codec is given. Shaded: stretches whose token is absent; what is decoded there is no measurement, and is not drawn.", "name": "fig-04-gaps"}, "image": {"alt": "Three panels of one window over three seconds. First: points at irregular times, one step in three, with the decoded line near them, broken by narrow shaded bands where a stretch has none. Second: the decoded line is interrupted by a shaded band of about a second. Third: the acceleration is drawn although the rotation was not given; the line follows the points."}}
which = int((others.values["exercise"] == 1).nonzero()[8, 0])
fig, axes = plt.subplots(1, 3, figsize=(7.2, 2.9), sharey=True)
for ax, kind in zip(axes, KINDS[1:], strict=True):
    seen, here, back = kept[kind]
    given = seen[which, 1]
    drawn = here[which].repeat_interleave(codec.patch)[: MOTION.length]
    ax.plot(clock, x[which, 1], color="0.8", label="truth")
    line = torch.where(drawn, back[which, 1], torch.nan)
    ax.plot(clock, line, color="C0", label="decoded")
    ax.plot(clock[given], x[which, 1][given], ".", color="C1", label="given")
    for i in (~here[which]).nonzero()[:, 0].tolist():
        left = i * codec.patch / MOTION.rate
        ax.axvspan(left, left + codec.patch / MOTION.rate, color="0.93")
    ax.set(title=kind, xlabel="time (s)")
axes[0].set_ylabel("$a_y$ (g)")
axes[0].legend(fontsize=9)
save_figure("gaps")
plt.show()

# %% [markdown]
# Filling gaps in is the transformer's work, which knows the other modalities too; the codec's is to say what was there.
# Straight lines are a strong opponent where gaps are short and the signal is smooth, but afterwards every token looks measured.
# The full profile compares the two over five seeds, further down.
#
# ## A spectrum: amplitude, shape, coverage, noise
#
# Spectra bring more trouble than series.
# One source is a thousand times as bright as the next; each spectrograph covers its own wavelengths; and the noise differs from pixel to pixel, and is known.
# `SpectrumCodec` keeps these apart:
#
# - token 0 is the *amplitude*, the root mean square of the covered flux, on a log scale;
# - the other tokens are the *shape*, flux divided by amplitude, on one common grid of wavelengths;
# - the *coverage* goes in as a mask, and is decoded as well;
# - the *noise* goes into the loss: a pixel counts by its squared signal to noise, up to a limit.
#
# AION-1 divides by the mean {cite:p}`parker-2025-aion`, which is zero for spectra that were divided by their continuum.
#
# To know what is right, this page makes its own family of spectra: power laws of any brightness, with six absorption lines of any depth, shifted and widened together.
# These are simulated, and their law is known; real ones, of supernovae, come in the full profile.


# %%
WAVE = np.geomspace(4000, 7000, 256)
LINES = np.array([4300, 4700, 5150, 5500, 5900, 6400])


def absorbers(n: int, seed: int) -> MultimodalDataset:
    """n simulated spectra: nine numbers each, noise, coverage."""
    g = np.random.default_rng([1, seed])
    slope, shift = g.uniform(-2, 2, (n, 1)), g.normal(0, 0.01, (n, 1))
    width, depth = g.uniform(20, 60, (n, 1)), g.uniform(0, 0.8, (6, n, 1))
    law = np.ones((n, len(WAVE)))
    for line, deep in zip(LINES, depth, strict=True):
        away = (WAVE - line * (1 + shift)) / width
        law -= deep * np.exp(-(away**2) / 2)
    law *= (WAVE / 5300) ** slope * 10 ** g.normal(0, 0.5, (n, 1))
    edge = np.abs(np.linspace(-1, 1, len(WAVE))) ** 8  # noisy at both ends
    sigma = g.uniform(0.02, 0.1, (n, 1)) * (1 + 15 * edge)
    sigma = sigma * np.sqrt((law**2).mean(1, keepdims=True))
    start, end = g.integers(0, 60, (n, 1)), g.integers(196, 257, (n, 1))
    pixel = np.arange(len(WAVE))
    covered = (pixel >= start) & (pixel < end)
    flux = np.where(covered, law + sigma * g.standard_normal(law.shape), 0)
    return MultimodalDataset(
        [Spectrum("spectrum", wavelength=WAVE)],
        {"spectrum": flux.astype(np.float32)},
        {"spectrum": covered},
        info={
            "spectrum_ivar": np.where(covered, sigma**-2, 0),  # found by name
            "law": law.astype(np.float32),
        },
    )


def new_spectra(seed: int, grid: Spectrum, size: dict) -> SpectrumCodec:
    torch.manual_seed(seed)
    return SpectrumCodec(grid, patch=16, **size)


def shape_r2(samples, back) -> float:
    """R2 of flux / amplitude where covered, against the law if it is known."""
    truth, seen = samples.values["spectrum"], samples.present["spectrum"]
    truth = torch.as_tensor(samples.info.get("law", truth))
    power = torch.where(seen, truth, 0.0).square().sum(1, keepdim=True)
    rms = (power / seen.sum(1, keepdim=True)).sqrt()
    error = torch.where(seen, (truth - back) / rms, 0.0)
    shape = torch.where(seen, truth / rms, 0.0)
    spread = torch.where(seen, shape - shape.sum(0) / seen.sum(0), 0.0)
    return float(1 - error.square().sum() / spread.square().sum())


def spectrum_scores(codec, test) -> dict:
    back = codec.decode(codec.encode(*of(test)))
    return {**evaluate_codec(codec, test), "r2": shape_r2(test, back)}


def of(samples):
    return samples.values["spectrum"], samples.present["spectrum"]


sky, held = absorbers(num_train, seed), absorbers(1000, 10**6)
GRID = sky.modalities["spectrum"]
spectra = fit(new_spectra(seed, GRID, SMALL), sky, seed, first_steps, **FAST)
first_spectrum = spectrum_scores(spectra, held)
spectra.to("cpu")
print(rate_line(first_spectrum))

# %% [markdown]
# By hand it is the same dozen lines as before, after division by the amplitude.
# The loss, too, is short: a pixel's weight is its inverse variance in units of the amplitude.

# %% tags=["nbval-check-output"]
flux, seen = of(held)
ivar = torch.as_tensor(held.info["spectrum_ivar"], dtype=torch.float32)
rms = ((flux.double() ** 2).sum(1) / seen.sum(1)).sqrt()
low, high = spectra.log_rms_range
step = (high - low) / (spectra.norm_codes - 1)
amplitude = ((rms.log() - low) / step).round().clamp(0, spectra.norm_codes - 1)
shape = ((flux / rms[:, None]).float() - spectra.mean) / spectra.std
with torch.no_grad():
    codes = rounded(four_numbers(spectra, shape[:, None], seen[:, None]))
    wanted = spectra.loss(flux, seen, ivar)[1]["mse"]
there = spectra.token_present(codes, seen)[:, 1:]
by_hand = torch.cat([amplitude[:, None].long(), codes * there], 1)
tokens = spectra.encode(torch.where(seen, flux, 1e6), seen)
same = (by_hand == tokens).float().mean()
assert same > 0.999, "the codec and the lines above disagree"

weight = (ivar * rms[:, None] ** 2).clamp(max=spectra.max_weight)
back = spectra.decode(tokens)
size_of = spectra.token_spec().parts["norm"].values[tokens[:, :1]]
missed = ((back / size_of - spectra.mean) / spectra.std - shape).square()
loss = (missed * weight * seen).sum() / (weight * seen).sum()
assert torch.isclose(loss.float(), wanted, rtol=1e-3), "another loss"
brighter = spectra.encode(1.5 * flux, seen)
only_first = torch.equal(brighter[:, 1:], tokens[:, 1:])
print("the same codes by hand and by the codec:", bool(same > 0.999))
print("half as bright again changes token 0 alone:", only_first)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Simulated test spectra: what is measured, the law behind it, and what is decoded from the tokens. Shaded: not covered; the decoded line ends where the decoded coverage does. Each is drawn in units of its amplitude.", "name": "fig-04-spectra"}, "image": {"alt": "Three panels of flux over amplitude against wavelength. Grey noisy measurements with larger scatter at both ends; a black smooth curve with six dips, the law; a blue decoded curve that follows it. Bands at the ends are shaded where a spectrum is not covered."}}
fig, axes = plt.subplots(3, 1, figsize=(7.0, 5.2), sharex=True)
decoded_cover = spectra.decode_present(tokens)
for ax, i in zip(axes, (2, 5, 7), strict=True):
    curve = torch.where(seen[i], flux[i], torch.nan) / rms[i]
    ax.plot(WAVE, curve, color="0.75", linewidth=1, label="measured")
    law = held.info["law"][i] / float(rms[i])
    ax.plot(WAVE, law, color="k", linewidth=1, label="law")
    line = torch.where(decoded_cover[i], back[i], torch.nan) / rms[i]
    ax.plot(WAVE, line, color="C0", label="decoded")
    out = ~seen[i].numpy()
    ax.fill_between(
        WAVE, 0, 1, where=out, transform=ax.get_xaxis_transform(), color="0.93"
    )
    ax.set(ylim=(min(0, law.min()) - 0.2, law.max() + 0.5), ylabel="shape")
axes[0].legend(ncols=3, fontsize=9)
axes[2].set_xlabel("wavelength (angstrom)")
save_figure("spectra")
plt.show()

# %% [markdown]
# What does it cost to leave the noise out of the loss?
# The same codec, trained without the inverse variances, scored against the law.

# %%
plain = new_spectra(seed, GRID, SMALL)
fit(plain, TensorDataset(*of(sky)), seed, first_steps, **FAST)
unweighted = spectrum_scores(plain, held)
coverage = (decoded_cover == seen).float().mean()
print(f"R2 of the law, weighted: {first_spectrum['r2']:.3f}")
print(f"R2 of the law, all pixels alike: {unweighted['r2']:.3f}")
print(f"pixels whose coverage is decoded rightly: {coverage:.1%}")

# %% [markdown]
# ### The opponent: principal components
#
# Spectra have long been compressed by principal components.
# Two components a token, each rounded to 31 levels, make as many tokens as the codec has, of 961 codes.
# It is given the same amplitude, unrounded; the mask; and the noise: its components are fitted with gaps filled in by the components themselves, over and over, and a spectrum's numbers are a weighted fit to the pixels that are covered.


# %%
def components(train, test, seed: int, tokens: int = 16) -> dict:
    """R2 of principal components, two a token, 31 levels each."""

    def shape_of(samples):
        flux, seen = of(samples)
        power = torch.where(seen, flux, 0.0).square().sum(1, keepdim=True)
        rms = (power / seen.sum(1, keepdim=True)).sqrt()
        weight = seen.float()
        if "spectrum_ivar" in samples.info:
            ivar = torch.as_tensor(samples.info["spectrum_ivar"]).float()
            weight = (ivar * rms**2).clamp(max=100) / 100
        return flux / rms, seen, weight, rms

    y, seen, _, _ = shape_of(train)
    mean = torch.where(seen, y, 0.0).sum(0) / seen.sum(0).clamp_min(1)
    full = torch.where(seen, y - mean, 0.0)
    number = min(2 * tokens, len(y) - 1)
    for _ in range(5):
        axes = torch.linalg.eigh(full.T @ full)[1][:, -number:]
        full = torch.where(seen, y - mean, full @ axes @ axes.T)

    def numbers(samples):
        y, seen, weight, rms = shape_of(samples)
        off = torch.where(seen, y - mean, 0.0) * weight
        normal = torch.stack([(axes.T * w) @ axes for w in weight])
        normal = normal + 1e-2 * torch.eye(number)
        return torch.linalg.solve(normal, off @ axes), rms

    some = numbers(train[: min(len(train), 5000)])[0]
    low, high = some.quantile(0.001, 0), some.quantile(0.999, 0)
    got, rms = numbers(test)
    digits = ((got - low) / (high - low) * 30).round().clamp(0, 30)
    back = mean + (digits / 30 * (high - low) + low) @ axes.T
    return {"r2": shape_r2(test, back * rms)}


opponent_spectrum = components(sky, held, seed)
print(
    f"R2 of the law: codec {first_spectrum['r2']:.3f}, "
    f"components {opponent_spectrum['r2']:.3f}"
)

# %% [markdown]
# ### Padding is not a measurement
#
# Spectra of different lengths are often filled up with zeros to a common length.
# In AION-1's package such padding became part of what was tokenised: for short spectra most tokens were one constant string, and its tracker tells of the confusion (issues 61, 64, 68 and 69 of `PolymathicAI/AION`).
# Here is how that happens, in a spectrum filled up with zeros that claims to be measured throughout, and what to do: say so in `present`.

# %% tags=["nbval-check-output"]
law = torch.as_tensor(held.info["law"][:100])
padded = torch.where(torch.arange(256) < 128, law, 0.0)
claimed = spectra.encode(padded)[:, -5:]
said = torch.arange(256).expand(100, -1) < 128
held_back = spectra.token_present(spectra.encode(padded, said), said)
print("of 100 spectra, the last five tokens as if measured:")
print("  one and the same string:", len(claimed.unique(dim=0)) == 1)
print("  and with the mask, tokens that are there:", int(held_back.sum(1)[0]))

MISTAKES = {
    "wavelengths filled up with zeros": lambda: Spectrum(
        "spectrum", wavelength=[4000.0, 4002.0, 4004.0, 0.0, 0.0]
    ),
    "wavelengths that fall": lambda: Spectrum(
        "spectrum", wavelength=[4000.0, 4002.0, 4001.0]
    ),
    "nothing but padding": lambda: spectra.encode(torch.zeros(1, 256)),
    "a gap without a mask": lambda: spectra.encode(
        torch.full((1, 256), torch.nan)
    ),
}
for mistake, make in MISTAKES.items():
    try:
        make()
        raise AssertionError(f"{mistake} went through")
    except ValueError as error:
        print(f"- {mistake}: {error}")

# %% [markdown]
# A zero can be a measurement, so a spectrum that is padded in part cannot be told from one that is dark there.
# Only you know; the codec can refuse no more than what is zero from end to end.
#
# ## How many does a codec need?
#
# A common rule of thumb, and the one this book set out from, asks for 1,000 sequences at least, calls 10,000 good and 100,000 better.
# Both real sets end before the second of these lines, so beyond it only simulated data can tell: the absorbers above, and swings of an arm, six numbers each, as a watch would see them.
#
# The full profile trains the same codec on all four, from 100 samples on; the fast one repeats the two trainings from above on few.
# Codecs for more than 1,000 samples get more steps than the others.
# The bookkeeping is folded away.

# %% tags=["hide-input"]
SERIES_SIZES = sizes or [100, 300, 1000, 3000]
FAR_SIZES = sizes or [100, 300, 1000, 3000, 10_000, 30_000, 100_000]
GPU = {"lr": 2e-3, "batch_size": 256}
SWING = TimeSeries("motion", channels=3, length=150, rate=50.0)
records = []


def swings(n: int, seed: int) -> MultimodalDataset:
    """A watch on a swinging arm: gravity along two axes, and rotation."""
    g = np.random.default_rng([2, seed])
    t = np.arange(SWING.length) / SWING.rate
    size, rate = g.uniform(0.2, 1.2, (n, 1)), g.uniform(2, 8, (n, 1))
    second, middle = g.uniform(0, 0.5, (n, 1)), g.uniform(-1, 1, (n, 1))
    one, two = g.uniform(0, 2 * np.pi, (2, n, 1))
    waves = np.sin(rate * t + one) + second * np.sin(2 * rate * t + two)
    angle = middle + size * waves
    turn = np.cos(rate * t + one) + 2 * second * np.cos(2 * rate * t + two)
    x = np.stack([np.sin(angle), np.cos(angle), size * rate * turn], 1)
    return MultimodalDataset([SWING], {"motion": x.astype(np.float32)})


@cache
def supernovae():
    return load_supernovae(folder=data_dir)


@cache
def supernovae_of(seed: int):
    """Spectra of four fifths of the objects, and of the others."""
    return supernovae().split(test=0.2, seed=seed)


def at_most(whole_of, some_sizes) -> list[int]:
    """The sizes, up to what every seed's choice of people or objects leaves."""
    least = min(len(whole_of(s)[0]) for s in {*range(5), seed})
    return sorted({min(n, least) for n in some_sizes})


def keep(task, method, n, seed, scores) -> None:
    numbers = {k: float(v) for k, v in scores.items()}
    records.append(
        {"task": task, "method": method, "n": n, "seed": seed, **numbers}
    )


def series(task, train, test, seed, num_steps, size, how) -> None:
    """The codec and k-means on series."""
    n, grid = len(train), train.modalities["motion"]
    made = fit(new_series(seed, grid, size), train, seed, num_steps, **how)
    keep(task, "codec", n, seed, evaluate_codec(made, test))
    values = [samples.values["motion"] for samples in (train, test)]
    keep(task, "opponent", n, seed, k_means(*values, seed))


def spectrum(task, train, test, seed, num_steps, size, how) -> None:
    """The codec and principal components on spectra."""
    n, grid = len(train), train.modalities["spectrum"]
    made = fit(new_spectra(seed, grid, size), train, seed, num_steps, **how)
    keep(task, "codec", n, seed, spectrum_scores(made, test))
    scores = components(train, test, seed, made.num_tokens - 1)
    keep(task, "opponent", n, seed, scores)


def noise(seed: int, n: int, num_steps: int) -> None:
    """With and without inverse variances in the loss."""
    train, test = absorbers(n, seed), absorbers(1000, 10**6)
    for method, samples in (
        ("weighted", train),
        ("all pixels alike", TensorDataset(*of(train))),
    ):
        made = fit(
            new_spectra(seed, GRID, LARGE), samples, seed, num_steps, **GPU
        )
        keep("noise", method, n, seed, spectrum_scores(made, test))


def with_and_without_gaps(seed: int, n: int, num_steps: int) -> None:
    """A codec trained with gaps, and one without, on what has gaps."""
    train, x = draw(watch_of(seed)[0], n, seed), watch_of(seed)[1]
    made = []
    for samples in (with_gaps(train, seed), train):
        made.append(
            fit(
                new_series(seed, MOTION, LARGE), samples, seed, num_steps, **GPU
            )
        )
    for kind in KINDS:
        scores, _ = gap_scores(kind, *made, x.values["motion"])
        for way, r2 in scores.items():
            keep(f"gaps: {kind}", way, n, seed, {"r2": r2})


def full_run(seed: int) -> None:
    def steps_for(n):
        return full_steps or (600 if n <= 1000 else 1000)

    sources = {
        "watch": (series, lambda n: draw(watch_of(seed)[0], n, seed)),
        "swings": (series, lambda n: swings(n, seed)),
        "supernovae": (
            spectrum,
            lambda n: draw(supernovae_of(seed)[0], n, seed),
        ),
        "absorbers": (spectrum, lambda n: absorbers(n, seed)),
    }
    tests = {
        "watch": lambda: watch_of(seed)[1],
        "swings": lambda: swings(1000, 10**6),
        "supernovae": lambda: supernovae_of(seed)[1],
        "absorbers": lambda: absorbers(1000, 10**6),
    }
    for task, (compare, of_size) in sources.items():
        if task not in experiments or (task == "supernovae" and not data_dir):
            continue
        all_sizes = FAR_SIZES
        if task == "watch":
            all_sizes = at_most(watch_of, SERIES_SIZES)
        if task == "supernovae":
            all_sizes = at_most(supernovae_of, SERIES_SIZES + FAR_SIZES[4:5])
        test = tests[task]()
        for n in all_sizes:
            compare(task, of_size(n), test, seed, steps_for(n), LARGE, GPU)
    if "noise" in experiments:
        n = FAR_SIZES[min(3, len(FAR_SIZES) - 1)]
        noise(seed, n, steps_for(n))
    if "gaps" in experiments:
        n = at_most(watch_of, SERIES_SIZES)[-1]
        with_and_without_gaps(seed, n, steps_for(n))


def keep_results(summary: str) -> None:
    evaluation.write_results(
        Path(output_dir) / "results.json",
        summary,
        records,
        data="Watch; simulated swings and absorbers"
        + ("; supernovae" if data_dir else ""),
        parameters={
            "profile": profile,
            "seed": seed,
            "num_seeds": num_seeds,
            "num_train": num_train,
            "steps": steps,
            "experiments": experiments,
            "sizes": sizes,
            "full_steps": full_steps,
        },
        seconds=round(time.perf_counter() - started, 1),
    )


if FULL:
    for one in range(seed, seed + num_seeds):
        full_run(one)
else:
    keep("watch", "codec", num_train, seed, first)
    keep("watch", "opponent", num_train, seed, opponent)
    keep("absorbers", "codec", num_train, seed, first_spectrum)
    keep("absorbers", "opponent", num_train, seed, opponent_spectrum)
    keep("noise", "weighted", num_train, seed, first_spectrum)
    keep("noise", "all pixels alike", num_train, seed, unweighted)
    for kind, ways in gap_table.items():
        for way, r2 in ways.items():
            keep(f"gaps: {kind}", way, num_train, seed, {"r2": r2})
    if num_train > 100:  # the same trainings on a few samples
        few = draw(people, 100, seed), others
        series("watch", *few, seed, steps, SMALL, FAST)
        few = absorbers(100, seed), held
        spectrum("absorbers", *few, seed, steps, SMALL, FAST)

run = pd.DataFrame(records)
if output_dir:  # before anything is drawn, so that nothing computed is lost
    keep_results(f"{len(records)} scores")
where = Path("results/04_tokenise_a_series_and_a_spectrum.json")
stored, made_by = evaluation.stored_or_run(where, run, FULL)
print("The figure and tables below show", made_by + ".")


# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of the variance that a codec misses on new samples, against how many it was trained on (bands are 95 % intervals of the mean over seeds). Dashed: the rule of thumb. The opponents are k-means on stretches and principal components.", "name": "fig-04-learning"}, "image": {"alt": "Four panels, watch, swings, supernovae and absorbers: unexplained share of the variance of test samples against the number of training samples, both axes logarithmic, for the codec and its opponent. Dashed vertical lines stand at 1,000, 10,000 and 100,000. Watch: the codec starts above k-means and lies below it from 1,000 windows on. Swings: below throughout, and level from 10,000 on. Supernovae: above the principal components at every size. Absorbers: above them up to 3,000, below from 10,000 on."}}
LINES = {"minimum": 1000, "good": 10_000, "better": 100_000}
TITLES = {
    "watch": "series: watch",
    "swings": "series: swings (simulated)",
    "supernovae": "spectra: supernovae",
    "absorbers": "spectra: absorbers (simulated)",
}
OPPONENT = {"series": "k-means", "spectra": "components"}
curves = {}
fig, axes = plt.subplots(2, 2, figsize=(7.4, 6.4), sharex=True)
for ax, (task, title) in zip(axes.flat, TITLES.items(), strict=True):
    found = stored[stored.task == task]
    found = found if len(found) else run[run.task == task]
    found = found.assign(missed=1 - found.r2)
    ax.set_title(title + "\n")
    ax.tick_params(labelsize=9)
    if not len(found):
        ax.text(
            0.5, 0.5, "not in this run", transform=ax.transAxes, ha="center"
        )
        ax.set_yticks([])
        continue
    curves[task] = found
    labels = {"codec": "codec", "opponent": OPPONENT[title.split(":")[0]]}
    plots.learning_curves(ax, found, "missed", labels)
    ax.set(yscale="log", xlim=(70, 150_000), xlabel="")
    ticks = [100, 1000, 10_000, 100_000]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    low, high = found.missed.min(), found.missed.max()
    ax.set_ylim(0.8 * low, 1.2 * high)
    marks = [
        m * 10.0**e
        for e in (-3, -2, -1, 0)
        for m in (1, 2, 3, 5)
        if 0.8 * low <= m * 10.0**e <= 1.2 * high
    ]
    ax.set_yticks(marks, [f"{100 * m:g} %" for m in marks])
    ax.minorticks_off()
    for name, n in LINES.items():
        ax.axvline(n, color="0.3", linestyle="--", linewidth=1)
        ax.text(n, ax.get_ylim()[1], name, ha="center", va="bottom", fontsize=9)
for ax in axes[1]:
    ax.set_xlabel("training samples")
for ax in axes[:, 0]:
    ax.set_ylabel("variance not explained")
save_figure("learning")
plt.show()

# %% [markdown]
# The rule judged, for each set.
# That a codec *works* is taken to mean that it is nearer to new samples than an opponent with as many tokens and no more codes, trained on the same ones, at this size and at all larger ones; that it is *done*, that its error is no more than a tenth above that of the largest training set.
# A line is *too strict* where a third of it or less is enough already, and *too low* where more is needed.


# %%
def verdict(line: int, good: pd.Series) -> str:
    """Of a rule that asks for ``line`` samples; ``good``: by size, enough?"""
    largest = good.index.max()
    enough = good.index[good[::-1].cummin()[::-1]]
    if line > largest:
        return f"not measured: the largest set has {largest:,}"
    if not len(enough):
        return f"too low: {largest:,} are not enough"
    if enough[0] > line:
        return f"too low: it takes {enough[0]:,}"
    return (
        "holds"
        if enough[0] > line / 3
        else f"too strict: {enough[0]:,} are enough"
    )


judged, scores = {}, {}
for task, found in curves.items():
    by = found.pivot_table(index="n", columns="method", values="missed")
    done = by.codec <= 1.1 * by.codec.iloc[-1]
    judged[task] = {
        "minimum: will work": verdict(1000, by.codec < by.opponent),
        "good: compresses decently": verdict(10_000, done),
        "better: generalises well": verdict(100_000, done),
    }
    scores[task] = 1 - by
print(f"{made_by}, {stored.seed.nunique()} seed(s)")
display(pd.DataFrame(judged).T)

# %% [markdown]
# The same in numbers: R2 on new samples.

# %%
pd.concat(scores, names=["set"]).round(3)

# %% [markdown]
# And the noise: what inverse variances in the loss are worth, against the law.


# %%
def compared(task: str, ours: str, other: str) -> dict:
    """Means over seeds of two methods, and their difference, seed by seed."""
    found = stored[stored.task == task]
    by = found.pivot(index="seed", columns="method", values="r2")
    gain = evaluation.paired_difference(by[ours], by[other])
    means = {ours: by[ours].mean(), other: by[other].mean()}
    return means | dict(zip(("gain", "from", "to"), gain, strict=True))


if "noise" in set(stored.task):
    row = compared("noise", "weighted", "all pixels alike")
    display(pd.DataFrame([row], ["R2 of the law"]).round(4))
else:
    print("It was not among the experiments of this run.")

# %% [markdown]
# And gaps: a codec trained with them against straight lines across them, at equal steps, by R2 of what was given.

# %%
if any(stored.task.str.startswith("gaps")):
    rows = {
        kind: compared(
            f"gaps: {kind}", "trained with gaps", "lines across gaps"
        )
        for kind in KINDS
    }
    display(pd.DataFrame(rows).T.round(3))
else:
    print("It was not among the experiments of this run.")

# %% [markdown]
# ## Where it fails
#
# - Squared error smooths: jitter of a sensor, and lines as narrow as a pixel, are the first to go.
# - A gap costs more than what lies in it: its neighbours' tokens see it too. A codec that is to meet gaps should train with them, and where straight lines across them score better, they cost the knowledge of what was measured.
# - Sampling finer than the grid is averaged away, and a clock that drifts against the grid is not corrected.
# - Spectra on different grids must be brought to one first; interpolation correlates their noise, and the loss knows nothing of that.
# - The amplitude's codes end at the brightest and the faintest spectrum that was trained on.
# - Spectra that a few smooth shapes add up to are a case for principal components: on the supernovae they stay ahead of the trained codec at every size, and on the absorbers until the codec has thousands to learn narrow lines from.
# - Ten people are few: another two for the test move the score by more than another seed does.
# - The simulated sets obey a handful of numbers each. Real data have more in them, and need more.
#
# ## Summary
#
# - A stretch of all channels is a token; a mask beside the values says what was measured, and a stretch without measurements has no token.
# - Keep amplitude, shape, coverage and noise of a spectrum apart, and never tokenise padding.
# - Whether a codec is worth its training is told by an opponent at the same rate: $k$-means for series, principal components for spectra. With a thousand series train a codec; with a thousand spectra take the components, unless what you are after is narrower than they are.

# %%
summary = (
    f"{len(run)} scores over {run.seed.nunique()} seed(s); first series codec, "
    f"{num_train:,} windows, {first_steps} steps: {rate_line(first)} (k-means: "
    f"R2 {opponent['r2']:.3f}); spectra: {rate_line(first_spectrum)} "
    f"(components: R2 {opponent_spectrum['r2']:.3f})"
)
if output_dir:
    keep_results(summary)

# %% [markdown]
# ## Exercises
#
# ```{exercise-start}
# :label: ex-04-clock
# ```
# An instrument measures at times of its own, 40 times in three seconds. Put its measurements on the watch's grid, and count the tokens that are there.
# ```{exercise-end}
# ```
#
# ````{solution-start} ex-04-clock
# :class: dropdown
# ````

# %%
times = np.sort(np.random.default_rng(0).uniform(0, 2.99, 40))  # seconds
readings = np.sin(2 * np.pi * times)  # of channel 1
at = np.round(times * MOTION.rate).astype(int)
on_grid, measured = torch.zeros(1, 6, 150), torch.zeros(1, 6, 150).bool()
on_grid[0, 1, at] = torch.tensor(readings, dtype=torch.float32)
measured[0, 1, at] = True
tokens = gap_codec.encode(on_grid, measured)
print(
    int(gap_codec.token_present(tokens, measured).sum()), "of", tokens.shape[1]
)

# %% [markdown]
# ````{solution-end}
# ````
#
# ```{exercise}
# :label: ex-04-patch
#
# Give `TimeSeriesCodec` a `patch` of 5 and of 15 in `new_series`, and $k$-means the same.
# Which of the two loses more by longer stretches, and why?
# ```
#
# ## Next
#
# All codecs so far began from nothing.
# *Start from a pretrained encoder* asks what an encoder that has seen other data is worth.
# AION-1 {cite:p}`parker-2025-aion` has the spectrum codec that this one follows.
