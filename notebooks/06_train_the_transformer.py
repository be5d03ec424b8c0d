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
# # Train the multimodal transformer
#
# What does one step of masked training do, what does it cost, and what happens when half of the measurements are missing?
#
# **What you'll learn**
#
# - what enters the model and what is asked of it, sample by sample;
# - the training step in fifteen lines, and two ways to average a loss that look right and are not;
# - what a larger budget buys, and what it costs;
# - why a model should be trained on gaps before it meets them.
#
# **What you'll need**: nothing but this page. The data travel with the package. [Tokenise an image](03_tokenise_an_image.ipynb) tells where tokens come from.
#
# **Runtime**: about a minute and a half on two CPU cores with the default parameters. `aion-lite run 06 --profile full` repeats the comparisons over five seeds, with larger models; it is meant for a GPU, and the page draws its stored results where there are some.

# %% tags=["parameters"]
profile: str = "fast"  # fast: small models, two CPU cores; full: every comparison, on a GPU
seed: int = 0  # of weights, order, masks, gaps; the full profile starts here
num_seeds: int = 5  # seeds of the full profile
num_train: int = 3000  # pictures, and galaxies, to train on in the fast profile
steps: int = 250  # optimiser steps of each training of the fast profile
experiments: list[str] = [
    "usual",
    "by codebook",
    "7 in",
    "14 in",
    "54 in",
    "4 asked",
    "27 asked",
    "64 wide",
    "256 wide",
    "masked",
    "half missing",
    "never missing",
]  # which models the full profile trains
full_steps: int = 0  # steps of each training of the full profile; 0: its own
data_dir: str = ""  # all of Fashion-MNIST (full profile); empty: the sample
step_file: str = "../benchmarks/results/train_step.json"  # the GPU's speed
output_dir: str = ""  # where results.json and the figures go; empty for nowhere

# %% tags=["hide-input"]
import importlib.util
import json
import math
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aion_lite import evaluation, plots, widgets
from aion_lite.codecs import (
    CategoryCodec,
    CodecManager,
    ImageCodec,
    ScalarCodec,
    TableCodec,
    train_codec,
)
from aion_lite.data import (
    MultimodalDataset,
    load_fashion_mnist,
    load_sdss_galaxies,
)
from aion_lite.data.tokens import TokenDataset
from aion_lite.modalities import Scalar, Table
from aion_lite.model import SIZES, MultimodalTransformer, sample_masks
from aion_lite.training import train

OF_GALAXIES = {"masked", "half missing", "never missing"}
OF_CLOTHES = {"usual", "by codebook", "64 wide", "256 wide"}
OF_CLOTHES |= {"7 in", "14 in", "54 in", "4 asked", "27 asked"}
EXPERIMENTS = OF_CLOTHES | OF_GALAXIES
if profile not in ("fast", "full"):
    raise ValueError(f"profile must be 'fast' or 'full', got {profile!r}.")
if not 100 <= num_train <= 3000:
    raise ValueError(f"num_train must lie in 100..3000, got {num_train}.")
if steps < 1 or full_steps < 0 or num_seeds < 1:
    raise ValueError(
        f"steps and num_seeds must be 1 or more, full_steps 0 or more; "
        f"got {steps}, {num_seeds}, {full_steps}."
    )
if not experiments or not set(experiments) <= EXPERIMENTS:
    raise ValueError(
        f"experiments are {sorted(EXPERIMENTS)}, got {experiments}."
    )
FULL = profile == "full"
PRECISION = "bf16" if FULL and torch.cuda.is_available() else "no"
STEPS = (full_steps or 600) if FULL else steps
SHOWN_STEPS = min(STEPS, 60) if FULL else steps  # of what is only shown
if FULL:
    torch.set_float32_matmul_precision("high")  # TF32 products on a GPU
plt.style.use("style.mplstyle")
started = time.perf_counter()


def save_figure(name: str) -> None:
    """Keep the picture beside the results, if there is a place for results."""
    if output_dir:
        plt.savefig(Path(output_dir) / f"{name}.png")


# %% [markdown]
# ## Three modalities in a row
#
# Surveys and clinics publish pictures, a table of numbers measured on them, and a label.
# The clothes of Fashion-MNIST {cite:p}`xiao-2017-fashion` come as pictures with a class; the table is measured here, from the light in each picture: how bright, how wide and high, how far it leans.

# %%
clothes = load_fashion_mnist(data_dir or None if FULL else None)
clothes_test = load_fashion_mnist(data_dir or None if FULL else None, "test")
IMAGE, CLASS = clothes.modalities["image"], clothes.modalities["class"]
SHAPE = Table(
    "shape",
    columns=(
        Scalar("brightness"),
        Scalar("contrast"),
        Scalar("width", unit="pixels"),
        Scalar("height", unit="pixels"),
        Scalar("lean"),
    ),
)


def with_shapes(samples):
    """The same pictures and classes, and a table (B, 5) of their light."""
    light = samples.values["image"][:, 0]  # (B, 28, 28), rows then columns
    share = light / light.sum((1, 2), keepdim=True)
    axis = torch.arange(28.0)
    x, y = share.sum(1), share.sum(2)
    dx, dy = axis - (x @ axis)[:, None], axis - (y @ axis)[:, None]
    var_x, var_y = (x * dx**2).sum(1), (y * dy**2).sum(1)
    both = torch.einsum("byx,by,bx->b", share, dy, dx)
    columns = [
        light.mean((1, 2)),
        light.std((1, 2)),
        4 * var_x.sqrt(),
        4 * var_y.sqrt(),
        both / (var_x * var_y).sqrt(),
    ]
    values = {**samples.values, "shape": torch.stack(columns, 1)}
    return MultimodalDataset([IMAGE, SHAPE, CLASS], values, ids=samples.ids)


def draw(samples, n: int, seed: int):
    """n samples; the same for every method with this seed."""
    rows = np.random.default_rng(seed).permutation(len(samples))[:n]
    return samples[np.sort(rows)]


clothes, clothes_test = with_shapes(clothes), with_shapes(clothes_test)
WATCHED = 300  # pictures that tell the full profile which weights to keep
NUM_CLOTHES = len(clothes) - WATCHED if FULL else num_train
clothes_test.to_frame(["shape", "class"]).head(3).round(2)

# %% [markdown]
# Each modality gets its codec: a small trained one for the picture, quantiles for the columns, and nothing to learn for the class.

# %% tags=["nbval-check-output"]
PATCH = 4 if FULL else 7  # pixels a token, along each side


def fit_codecs(samples, seed: int):
    """Codecs of the three modalities."""
    size = {"width": 32, "depth": 1, "encoder_depth": 1}
    torch.manual_seed(seed)
    codec = ImageCodec(IMAGE, patch=PATCH, **({} if FULL else size))
    if not torch.cuda.is_available():  # faster on CPUs
        codec = codec.to(memory_format=torch.channels_last)
    train_codec(
        codec,
        samples,
        steps=STEPS if OF_CLOTHES & set(experiments) else SHOWN_STEPS,
        batch_size=min(256 if FULL else 64, len(samples)),
        lr=2e-3 if FULL else 12e-3,
        ema=0.98,
        seed=seed,
        progress=False,
    )
    codecs = [codec, TableCodec(SHAPE), CategoryCodec(CLASS)]
    return CodecManager(codecs).fit(samples)


clothes_seen = draw(clothes, NUM_CLOTHES, seed)
clothes_codecs = fit_codecs(clothes_seen, seed)
tokens = clothes_codecs.encode(clothes_seen)
asked = clothes_codecs.encode(clothes_test)
PLACES = {name: codes.shape[1] for name, codes in tokens.tokens.items()}
print("token places:", PLACES)
print(len(tokens), "samples to train on,", len(asked), "to test on")

# %% [markdown]
# The model lays the tokens of all modalities in one row, and one *place* in the row always means the same measurement.
# It has a *budget* for each side: at most so many tokens enter the encoder, at most so many are asked of the decoder.

# %%
ALL = sum(PLACES.values())
BUDGET = (28, 14) if FULL else (12, 6)
SMALL = SIZES["small"] if FULL else {"d_model": 64, "nhead": 4, "num_layers": 2}


def new_model(codecs, seed: int, budget=BUDGET, kind=None, **more):
    """A transformer before training."""
    num_inputs, num_targets = budget
    return (kind or MultimodalTransformer)(
        codecs,
        seed=seed,
        num_inputs=num_inputs,
        num_targets=num_targets,
        **{**SMALL, "dropout": 0.1 if FULL else 0.0, **more},
    )


model = new_model(clothes_codecs, seed)
print(f"{sum(p.numel() for p in model.parameters()):,} weights")

# %% [markdown]
# ## What enters, and what is asked
#
# At every step, each sample draws its own tokens.
# Some enter the encoder, some others are asked of the decoder, the rest sit this step out.
# What was not measured does neither.
# `sample_masks` follows AION-1 {cite:p}`parker-2025-aion`: one modality is drawn first and gives a random number of its tokens to the inputs, the others fill up; among the targets one modality is drawn first again, and the others get a share that is mostly small.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Masks of twelve samples. Each row is one sample, each column one token place; in most samples some column of the table or the class was not measured.", "name": "fig-06-masks"}, "image": {"alt": "A grid with twelve rows and a column for each token place, in three groups: image, shape and class. Blue cells enter, orange cells are asked, grey cells are left out and crossed white cells are absent. The number of blue cells differs from row to row, and every row has an orange cell."}}
generator = torch.Generator().manual_seed(seed + 3)
SHOWN = 12
some_present = {
    "image": torch.ones(SHOWN, dtype=torch.bool),
    "shape": torch.rand(SHOWN, 5, generator=generator) > 0.3,
    "class": torch.rand(SHOWN, generator=generator) > 0.3,
}
shown_tokens = {name: codes[:SHOWN] for name, codes in tokens.tokens.items()}


def roles(present_BT, input_BI, is_input_BI, target_BO, is_target_BO):
    """(B, T): 0 left out, 1 enters, 2 is asked, 3 absent."""
    role_BT = torch.where(present_BT, 0, 3)
    for place, counts, role in (
        (input_BI, is_input_BI, 1),
        (target_BO, is_target_BO, 2),
    ):
        old = role_BT.gather(1, place)
        role_BT = role_BT.scatter(1, place, torch.where(counts, role, old))
    return role_BT


def draw_masks(present_BT, budget, seed: int):
    generator = torch.Generator().manual_seed(seed)
    return sample_masks(
        present_BT, model.modality_T, len(model.names), *budget, generator
    )


present_BT = model.flatten(shown_tokens, some_present)[1]
ax = plt.subplots(figsize=(7.2, 4.0))[1]
masks = draw_masks(present_BT, BUDGET, seed)
plots.token_roles(ax, roles(present_BT, *masks), PLACES)
save_figure("masks")
plt.show()

# %% [markdown]
# Why not simply draw places at random?
# Count over many samples how often a modality is wholly out of sight.

# %% tags=["nbval-check-output"]
many_BT = torch.ones(20_000, ALL, dtype=torch.bool)
drawn = roles(many_BT, *draw_masks(many_BT, BUDGET, 0))
order = torch.rand(many_BT.shape, generator=generator.manual_seed(0)).argsort(1)
plain = torch.zeros_like(drawn)
plain = plain.scatter(1, order[:, : BUDGET[0]], 1)
plain = plain.scatter(1, order[:, BUDGET[0] : sum(BUDGET)], 2)
rows = {}
for rule, role_BT in (("places alike", plain), ("by modality", drawn)):
    for name, places in zip(
        model.names, role_BT.split([*PLACES.values()], 1), strict=True
    ):
        nothing = (places != 1).all(1).float().mean()
        rows.setdefault(rule, {})[name] = f"{nothing:.1%}"
print("share of samples in which nothing of a modality enters")
print(pd.DataFrame(rows).to_string())

# %% [markdown]
# With places drawn alike, long modalities are always in view, at least in part, and the model never learns to do without.
# Drawn by modality, each is often out of sight, the picture too.
#
# ## A budget is a price
#
# An encoder block of width $D$ does about $24 n D^2 + 4 n^2 D$ operations on $n$ tokens, the second part in attention; a decoder block does $28 m D^2 + 4 n D^2 + 4 m (m + n) D$ for $m$ tokens that are asked.
# Neither knows how many places the row has.
# A batch is a rectangle, so a sample that does not fill its budget pays for it all the same.
# PyTorch can count what really happens:


# %%
def operations(num_inputs, num_targets, width: int, layers: int):
    """Of the blocks, forward, for one sample; a backward pass takes twice as many."""
    n, m = num_inputs + 1, num_targets  # one token more: the register
    encoder = 24 * n * width**2 + 4 * n**2 * width
    decoder = (28 * m + 4 * n) * width**2 + 4 * m * (m + n) * width
    return layers * (encoder + decoder)


counted_model = new_model(clothes_codecs, 0, (12, 6), d_model=256, dropout=0.0)
with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
    batch = tokens[:32]
    counted_model.loss(batch.tokens, batch.present)
by_formula = 32 * operations(12, 6, 256, SMALL["num_layers"])
share = by_formula / counter.get_total_flops()
assert 0.75 < share <= 1.0, "the formula and PyTorch disagree"
print("the blocks do more than three quarters of all operations:", share > 0.75)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Three budgets side by side, eight samples each, with everything measured. Titles tell the tokens that enter and are asked, and millions of operations a sample and training step.", "name": "fig-06-budgets"}, "image": {"alt": "Three grids of eight samples by all token places. With the smallest budget a few cells are blue or orange and most are grey; with the middle one more than a third are in use; with the largest most are, but some samples leave a part grey. The operations written above grow with the coloured share."}}
EIGHT = torch.ones(8, ALL, dtype=torch.bool)


def draw_budget(ax, num_inputs: int, num_targets: int, legend: bool = False):
    """Masks of eight samples under a budget, and its price in the title."""
    masks = draw_masks(EIGHT, (num_inputs, num_targets), seed)
    plots.token_roles(ax, roles(EIGHT, *masks), PLACES, legend)
    size = SMALL["d_model"], SMALL["num_layers"]
    price = 3 * operations(num_inputs, num_targets, *size) / 1e6
    ax.set_title(f"{num_inputs} in, {num_targets} asked\n{price:,.1f} million")
    ax.tick_params(axis="x", labelrotation=90)


axes = plt.subplots(1, 3, figsize=(7.6, 3.4))[1]
for ax, part in zip(axes, (0.2, 0.5, 1.0), strict=True):
    draw_budget(ax, round(part * ALL * 2 / 3), round(part * ALL / 3))
save_figure("budgets")
plt.show()

# %% [markdown]
# In JupyterLab you can move the budgets yourself; on a page without a kernel this is a still picture.


# %% tags=["nbval-ignore-output"] mystnb={"figure": {"caption": "The same with sliders, where a kernel is running.", "name": "fig-06-sliders"}, "image": {"alt": "One grid of eight samples by all token places under the budget of this page, coloured by what enters, what is asked and what is left out, with the price in the title."}}
def budget_figure(num_inputs: int, num_targets: int):
    figure, ax = plt.subplots(figsize=(6.4, 3.6))
    draw_budget(ax, num_inputs, num_targets)
    return figure


controls = widgets.sliders(
    budget_figure,
    num_inputs=(1, ALL - 1, BUDGET[0]),
    num_targets=(1, ALL - 1, BUDGET[1]),
)

# %% [markdown]
# At the shape of AION-Base, that is the difference between a price for what you *use* and a price for all you have *declared*.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Operations of a training step and sample at AION-Base's shape, against the number of token places of all modalities together. With AION's budgets the price stays; without, all tokens enter and all are asked.", "name": "fig-06-catalogue"}, "image": {"alt": "Two lines on logarithmic axes against 384 to 20,000 declared token places. With a budget of 256 in and 128 asked the line is flat. Without budgets it starts above that and rises, ever more steeply."}}
base = SIZES["base"]["d_model"], SIZES["base"]["num_layers"]
declared = np.geomspace(384, 20_000, 50)
ax = plt.subplots(figsize=(6.0, 3.4))[1]
for label, price in {
    "everything enters, everything is asked": operations(
        declared, declared, *base
    ),
    "256 enter, 128 are asked": operations(256 + 0 * declared, 128, *base),
}.items():
    ax.plot(declared, 3 * price / 1e12, label=label)
ax.set(
    xscale="log",
    yscale="log",
    xlabel="token places declared",
    ylabel="$10^{12}$ operations a sample",
)
ax.legend()
save_figure("catalogue")
plt.show()

# %% [markdown]
# ## One step by hand
#
# The whole step: draw masks, encode what enters, ask for what is masked, and take the cross-entropy of each true code.
# The law of a code comes out of the model's head as log-probabilities, and `F.cross_entropy` takes those as they are.


# %% tags=["nbval-check-output"]
def ask(model, tokens, present, generator):
    """What the decoder makes of the tokens asked, their codebooks, codes and modalities (-1: not asked)."""
    code_BT, present_BT = model.flatten(tokens, present)
    input_BI, is_input_BI, target_BO, is_target_BO = sample_masks(
        present_BT,
        model.modality_T,
        len(model.names),
        model.num_inputs,
        model.num_targets,
        generator,
        model.min_inputs,
        hold_out_G=model.hold_out_G,  # of modalities to keep out; none here
    )
    context = model.encode(code_BT.gather(1, input_BI), input_BI, is_input_BI)
    h_BOD = model.decode(target_BO, is_target_BO, *context)
    modality_BO = model.modality_T[target_BO].masked_fill(~is_target_BO, -1)
    return (
        h_BOD,
        model.book_T[target_BO],
        code_BT.gather(1, target_BO),
        modality_BO,
    )


def cross_entropies(model, batch, generator):
    """Log-probabilities, codes, modalities; and each modality's losses in nats, one number a token asked."""
    h_BOD, book_BO, code_BO, modality_BO = ask(
        model, batch.tokens, batch.present, generator
    )
    logp_BOK = model.head(h_BOD, book_BO)
    nats_BO = F.cross_entropy(
        logp_BOK.transpose(1, 2), code_BO, reduction="none"
    )
    by_modality = {
        name: nats_BO[modality_BO == g] for g, name in enumerate(model.names)
    }
    return logp_BOK, code_BO, modality_BO, by_modality


HAND = 16 if FULL else 64  # samples
plain_model = new_model(
    clothes_codecs, seed, smoothing=0.0, regression=0.0
).eval()
batch = tokens[:HAND]
with torch.no_grad():
    *_, losses = cross_entropies(
        plain_model, batch, generator.manual_seed(seed)
    )
    by_hand = torch.stack([x.mean() for x in losses.values() if len(x)]).mean()
    theirs, metrics = plain_model.loss(
        batch.tokens, batch.present, generator.manual_seed(seed)
    )
assert torch.allclose(by_hand, theirs, atol=1e-5), "the losses differ"
for name, x in losses.items():
    if len(x):
        assert torch.allclose(x.mean(), metrics[f"nll/{name}"], atol=1e-5), name
print("by hand and MultimodalTransformer.loss agree:", True)

# %% [markdown]
# That is the loss with `smoothing=0` and `regression=0`.
# By default the columns of the table, which are numbers on a line, are trained on targets spread over neighbouring codes and on the squared error of the mean, as [Predict redshifts from colours](01_predict_redshifts.ipynb) explains; the metrics `nll/NAME` are the cross-entropies above in any case.
#
# ## Two averages that look right
#
# Let $\ell_m$ be the mean loss of the $N_m$ tokens asked of modality $m$, whose codebook has $K_m$ codes, with $M$ modalities declared.
# The loss above averages the $\ell_m$ over the modalities *that were asked*.
# The code of 4M {cite:p}`mizrahi-2023-4m`, which AION has taken over, offers two averages:
#
# $$
# \mathcal{L}_\text{mod} = \frac{1}{M} \sum_m \ell_m,
# \qquad
# \mathcal{L}_\text{token} = \frac{\sum_m N_m K_m \, \ell_m}{\sum_m N_m K_m} .
# $$
#
# The first counts a modality that is absent as one predicted perfectly.
# The second is called a mean over tokens, but it counts the *logits*, so each token weighs as much as its codebook is large.
# Where the package `polymathic-aion` is installed, the next cell calls its own functions and compares.

# %%
SIZES_OF_BOOKS = {name: spec.vocab_size for name, spec in model.specs.items()}


def averages(losses: dict, sizes: dict) -> dict[str, float]:
    """Four averages of losses (N,) by modality, with codebooks of these sizes."""
    mean = {name: float(x.mean()) for name, x in losses.items() if len(x)}
    weight = {name: len(losses[name]) * sizes[name] for name in mean}
    numbers = sum(len(x) for x in losses.values())
    logits = sum(weight.values())
    return {
        "modalities asked (ours)": sum(mean.values()) / len(mean),
        "4M's mod": sum(mean.values()) / len(losses),
        "a true mean over tokens": float(sum(x.sum() for x in losses.values()))
        / numbers,
        "4M's token": sum(weight[n] * mean[n] for n in mean) / logits,
    }


def of_package(logp_BOK, code_BO, modality_BO) -> tuple[float, float]:
    """The two averages by the functions that polymathic-aion has."""
    from aion.fourm.fm import FourM

    names = list(SIZES_OF_BOOKS)
    one = SimpleNamespace(
        modality_info={name: {"id": g} for g, name in enumerate(names)},
        decoder_embeddings={
            name: SimpleNamespace(
                forward_logits=partial(torch.narrow, dim=1, start=0, length=k)
            )
            for name, k in SIZES_OF_BOOKS.items()
        },
    )
    given = logp_BOK, code_BO, dict.fromkeys(names), modality_BO
    functions = FourM.forward_mod_loss, FourM.forward_token_loss
    return tuple(float(function(one, *given)[0]) for function in functions)


def part_of(batch, names):
    """The batch as if only these modalities had been measured."""
    measured = {n: p & (n in names) for n, p in batch.present.items()}
    return TokenDataset(batch.tokens, measured)


rows, checked = {}, importlib.util.find_spec("aion") is not None
for names in (["image", "shape", "class"], ["image", "class"], ["shape"]):
    some = part_of(tokens[:HAND], names)
    with torch.no_grad():
        *given, losses = cross_entropies(
            plain_model, some, generator.manual_seed(seed)
        )
    rows["measured: " + ", ".join(names)] = averages(losses, SIZES_OF_BOOKS)
    if checked:
        mod, token = of_package(*given)
        here = rows["measured: " + ", ".join(names)]
        assert math.isclose(mod, here["4M's mod"], rel_tol=1e-4)
        assert math.isclose(token, here["4M's token"], rel_tol=1e-4)
codes = {"picture": 4375, "numbers": 64}  # of their codebooks
guess = {
    name: torch.full((count,), math.log(codes[name]))
    for name, count in {"picture": 10, "numbers": 100}.items()
}
rows["uniform guess: 10 picture tokens, 100 numbers"] = averages(guess, codes)
print("compared with the functions of polymathic-aion:", checked)
pd.DataFrame(rows).T.round(2)

# %% [markdown]
# This model is not trained, so it guesses no better in one row than in another.
# `mod` falls when modalities are missing though nothing was predicted better, and its gradient shrinks with it.
# `token` lies near the loss of the modality with the largest codebook, however few of its tokens were asked: in the last row, where every token is guessed uniformly, the picture has a codebook of 4,375 codes and the numbers one of 64.
# The comparison below trains one model with each average.
#
# ## Train it
#
# `train` draws batches, calls `loss` and steps the optimisers; its `History` has the loss of each modality along the way.


# %%
class WeightedByCodebook(MultimodalTransformer):
    """The same model under 4M's "token" average."""

    def loss(self, tokens, present=None, generator=None):
        h_BOD, book_BO, code_BO, modality_BO = ask(
            self, tokens, present, generator
        )
        soft_BO, _ = self.head.losses(
            h_BOD, book_BO, code_BO, self.smoothing, self.regression
        )
        weight_BO = self.head.size[book_BO] * (modality_BO >= 0)
        return (soft_BO * weight_BO).sum() / weight_BO.sum(), {}


def fit(model, tokens, seed: int, num_steps: int, watched=None, log_every=10):
    """Train in place; the same settings for every model of the clothes."""
    return train(
        model,
        tokens,
        steps=num_steps,
        batch_size=min(256 if FULL else 64, len(tokens)),
        lr=2e-3 if FULL else 5e-3,
        ema=0.99 if FULL else 0.98,
        validation=watched,
        mixed_precision=PRECISION,
        seed=seed,
        log_every=log_every,
        progress=False,
    )


history = fit(model, tokens, seed, SHOWN_STEPS, log_every=2)
ms = 1000 * history.seconds / SHOWN_STEPS
print(f"{SHOWN_STEPS} steps, {ms:.0f} ms each")

# %% [markdown]
# What would a model score that knows how often each code occurs at its place, and nothing else?
# That is the line to get below.


# %%
def frequencies(tokens, test, name: str) -> float:
    """Cross-entropy of the test tokens under each place's own frequencies, one count added to every code."""
    total = 0.0
    for place in range(PLACES[name]):
        codes, asked = (x.tokens[name][:, place] for x in (tokens, test))
        counts = torch.bincount(codes, minlength=SIZES_OF_BOOKS[name]) + 1.0
        total += float(-(counts / counts.sum()).log()[asked].mean())
    return total / PLACES[name]


frame = history.to_frame()
levels = {name: frequencies(tokens, asked, name) for name in PLACES}

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Loss of each modality while the model trains: the tokens asked of each batch, and their running mean. Dashed: what the frequencies of codes alone score.", "name": "fig-06-training"}, "image": {"alt": "Three panels, image, shape and class: cross-entropy in nats a token against the step, noisy points with a smooth line through them. All three fall, from above their dashed line to below it."}}
axes = plt.subplots(1, 3, figsize=(7.6, 3.0))[1]
for g, (ax, name) in enumerate(zip(axes, PLACES, strict=True)):
    nats = frame[f"nll/{name}"]
    ax.plot(nats.index, nats, ".", color=f"C{g}", markersize=2, alpha=0.4)
    ax.plot(nats.ewm(span=15).mean(), color=f"C{g}")
    ax.axhline(levels[name], color="k", linestyle="--", linewidth=1)
    ax.set(title=name, xlabel="step")
axes[0].set_ylabel("nats a token asked")
save_figure("training")
plt.show()


# %% [markdown]
# On the test pictures: what each modality costs given all of the others, and how often the class is right given parts of the rest.


# %%
def clothes_scores(model, test) -> dict[str, float]:
    """Cross-entropies given all other modalities, and accuracies of the class, computed where the model lies."""
    few = {
        "batch_size": 1000
    }  # of 4,096, the law of every token takes gigabytes
    nats = {
        f"nll_{name}": -model.log_prob(test, name, **few).nanmean().item()
        for name in PLACES
    }
    known = test.tokens["class"][:, 0]
    for given in (["image"], ["shape"], ["image", "shape"]):
        p = model.predict(test.select(given), "class", **few).probabilities
        right = (p.argmax(1).cpu() == known).float().mean().item()
        nats["accuracy_" + "_".join(given)] = right
    return nats


first = clothes_scores(model, asked)
below = {name: first[f"nll_{name}"] < levels[name] for name in PLACES}
print("below the frequencies of codes:", below)
print({k: round(v, 3) for k, v in first.items() if k.startswith("accuracy")})

# %% [markdown]
# ## Absent is the same as left out
#
# A model may be given a modality marked as absent, or not be given it: the answer must be the same, whatever number stands in the empty cell.

# %%
model.to("cpu")  # exact to the last digits; a GPU's fast products are not
few = asked[:200]
junk = {name: torch.zeros_like(codes) for name, codes in few.tokens.items()}
junk["image"] = few.tokens["image"]
absent = TokenDataset(junk, part_of(few, ["image"]).present)
for target in ("class", "shape.width"):
    marked, left_out = (
        model.predict(given, target).log_probs
        for given in (absent, few.select(["image"]))
    )
    assert torch.allclose(marked, left_out, atol=1e-5), target
print("largest difference below 1e-5: True")

# %% [markdown]
# ## What missing measurements do
#
# A model that accepts gaps is not yet one that has learnt to live with them.
# Galaxies show it: eight bands of SDSS {cite:p}`york-2000-sdss` and 2MASS {cite:p}`skrutskie-2006-2mass`, and the redshift to predict.
# To know the truth, take galaxies with all bands measured, and make the gaps here.
#
# Three models, the same architecture, samples and number of steps:
#
# - *masked*: trained as above;
# - *masked, half missing*: the same, after half of all magnitudes were removed at random;
# - *never missing*: all bands always enter and the redshift is asked, as one would train a plain regression. When a band is missing later, it is left out, or filled with the mean of the training galaxies.

# %%
BANDS = list("ugrizJHK")
galaxies = load_sdss_galaxies().select([*BANDS, "redshift"])
whole = torch.stack([*galaxies.present.values()]).all(0)
pool, sky = galaxies[whole].split(test=2000, seed=0)
NUM_GALAXIES = len(pool) if FULL else num_train
GIVEN = {
    "r": ["r"],
    "g, r": list("gr"),
    "g, r, i": list("gri"),
    "J, H, K": list("JHK"),
    "ugriz": list("ugriz"),
    "ugriz + JHK": BANDS,
}
MASKED = {
    "num_inputs": 8,
    "num_targets": 6,
    "weights": {"redshift": 5.0},
    "hold_out": {"redshift": 0.8},
}
NEVER = {
    "num_inputs": 8,
    "min_inputs": 8,
    "num_targets": 1,
    "hold_out": {"redshift": 1.0},
}
print(len(pool), "galaxies to train on,", len(sky), "to test on")


def with_gaps(samples, seed: int):
    """Half of the magnitudes removed, at random."""
    generator = torch.Generator().manual_seed(seed)
    present = {
        band: torch.rand(len(samples), generator=generator) > 0.5
        for band in BANDS
    }
    return MultimodalDataset(
        list(samples.modalities.values()), samples.values, present
    )


def filled(samples, known, means):
    """The samples with every band outside ``known`` at the mean of the training galaxies."""
    values = {
        n: x if n in known else torch.full_like(x, means[n])
        for n, x in samples.values.items()
    }
    return MultimodalDataset(list(samples.modalities.values()), values)


def fit_galaxies(samples, settings: dict, seed: int, num_steps: int):
    num_codes = 1024 if FULL else 512
    codecs = CodecManager(
        [ScalarCodec(m, num_codes) for m in samples.modalities.values()]
    ).fit(samples)
    model = MultimodalTransformer(
        codecs, seed=seed, regression=3.0, **SMALL, **settings
    )
    train(
        model,
        codecs.encode(samples),
        steps=num_steps,
        batch_size=min(256 if FULL else 64, len(samples)),
        lr=2e-3 if FULL else 5e-3,
        ema=0.98,
        mixed_precision=PRECISION,
        seed=seed,
        progress=False,
    )
    return codecs, model


def redshift_error(model, tokens) -> float:
    """Root mean square error of the predicted mean."""
    mean = model.predict(tokens, "redshift").mean.cpu()
    return float((mean - sky.values["redshift"]).square().mean().sqrt())


# %% [markdown]
# The bookkeeping of all comparisons is folded away.

# %% tags=["hide-input"]
records = []
IN, ASKED = BUDGET


def of_budget(num_inputs: int, num_targets: int):
    """({task: method}, what is new about the model) of one among several budgets."""
    method = f"{num_inputs} in, {num_targets} asked"
    return {"budget": method}, {"budget": (num_inputs, num_targets)}


# name -> ({task: method}, what is new about the model); the first is part of three comparisons
IN_THREE = {"size": "128 wide, 4 layers", "average": "modalities asked"}
TRAININGS = {
    "usual": ({**of_budget(IN, ASKED)[0], **IN_THREE}, {}),
    "by codebook": (
        {"average": "tokens by codebook"},
        {"kind": WeightedByCodebook},
    ),
    "7 in": of_budget(7, ASKED),
    "14 in": of_budget(14, ASKED),
    "54 in": of_budget(54, ASKED),
    "4 asked": of_budget(IN, 4),
    "27 asked": of_budget(IN, 27),
    "64 wide": (
        {"size": "64 wide, 2 layers"},
        {"d_model": 64, "nhead": 4, "num_layers": 2},
    ),
    "256 wide": ({"size": "256 wide, 6 layers"}, SIZES["medium"]),
}


def keep(task, method, n, seed, scores) -> None:
    numbers = {k: float(v) for k, v in scores.items()}
    records.append(
        {"task": task, "method": method, "n": n, "seed": seed, **numbers}
    )


def clothes_of(codecs, seed):
    """Tokens to train on, tokens that tell which weights to keep, tokens to test on."""
    if not FULL:
        return tokens, None, asked
    rows = np.random.default_rng(seed).permutation(len(clothes))
    watched = codecs.encode(clothes[rows[NUM_CLOTHES:]])
    if codecs is clothes_codecs:
        return tokens, watched, asked
    seen = codecs.encode(draw(clothes, NUM_CLOTHES, seed))
    return seen, watched, codecs.encode(clothes_test)


def run_clothes(methods, codecs, data, seed, num_steps, **more) -> None:
    """Train one model of the clothes and keep its scores, by task."""
    tokens, watched, test = data
    model = new_model(codecs, seed, **more)
    history = fit(model, tokens, seed, num_steps, watched)
    scores = clothes_scores(model, test)
    keep_clothes(methods, seed, model, history, num_steps, scores)


def keep_clothes(methods, seed, model, history, num_steps, scores) -> None:
    shape = model.config["d_model"], model.config["num_layers"]
    budget = model.num_inputs, model.num_targets
    price = {
        "num_inputs": budget[0],
        "num_targets": budget[1],
        "operations": 3 * operations(*budget, *shape),
        "seconds_a_step": history.seconds / history.records[-1]["step"],
        "steps": num_steps,
    }
    for task, method in methods.items():
        keep(task, method, NUM_CLOTHES, seed, {**scores, **price})


def run_galaxies(seed, num_steps, chosen=OF_GALAXIES) -> None:
    samples = draw(pool, NUM_GALAXIES, seed)
    means = {n: float(x.mean()) for n, x in samples.values.items()}
    level = sky.values["redshift"] - means["redshift"]
    level = float(level.square().mean().sqrt())
    for experiment, method, seen, settings in (
        ("masked", "masked", samples, MASKED),
        (
            "half missing",
            "masked, half missing",
            with_gaps(samples, seed),
            MASKED,
        ),
        ("never missing", "never missing", samples, NEVER),
    ):
        if experiment not in chosen:
            continue
        codecs, model = fit_galaxies(seen, settings, seed, num_steps)
        everything = codecs.encode(sky)
        for name, known in GIVEN.items():
            error = redshift_error(model, everything.select(known))
            about = f"redshift from {name}", method, NUM_GALAXIES, seed
            keep(*about, {"error": error, "constant": level})
            if method == "never missing":
                given = codecs.encode(filled(sky, known, means))
                error = redshift_error(model, given.select(BANDS))
                about = about[0], "never missing, filled", *about[2:]
                keep(*about, {"error": error, "constant": level})


def run_all(one: int) -> None:
    """What the full profile trains with one seed."""
    if OF_CLOTHES & set(experiments):
        codecs = clothes_codecs
        if one != seed:
            codecs = fit_codecs(draw(clothes, NUM_CLOTHES, one), one)
        data = clothes_of(codecs, one)
        for name in TRAININGS:
            if name in experiments:
                methods, new = TRAININGS[name]
                run_clothes(methods, codecs, data, one, STEPS, **new)
    if OF_GALAXIES & set(experiments):
        run_galaxies(one, 2 * STEPS, experiments)


if FULL:
    for one in range(seed, seed + num_seeds):
        run_all(one)
else:
    ours = {"average": IN_THREE["average"]}
    keep_clothes(ours, seed, model, history, steps, first)
    given = clothes_codecs, clothes_of(clothes_codecs, seed), seed
    methods, new = TRAININGS["by codebook"]
    run_clothes(methods, *given, steps, **new)
    for num_inputs in (3, 12, 21):
        methods, new = of_budget(num_inputs, ASKED)
        run_clothes(methods, *given, max(steps // 5, 1), **new)
    run_galaxies(seed, steps)

run = pd.DataFrame(records)


def keep_results(summary: str) -> None:
    evaluation.write_results(
        Path(output_dir) / "results.json",
        summary,
        records,
        data="Fashion-MNIST with a table of shapes; SDSS x 2MASS galaxies",
        parameters={
            "profile": profile,
            "seed": seed,
            "num_seeds": num_seeds,
            "num_train": num_train,
            "steps": steps,
            "experiments": experiments,
            "full_steps": full_steps,
        },
        seconds=round(time.perf_counter() - started, 1),
    )


if output_dir:  # before anything is drawn, so that nothing computed is lost
    keep_results(f"{len(records)} scores")
where = Path("results/06_train_the_transformer.json")
stored, made_by = evaluation.stored_or_run(where, run, FULL)
print("The figures and tables below show", made_by + ".")


def part(task: str):
    """A comparison, and what made it: this run where the full run has none."""
    found = stored[stored.task.str.startswith(task)]
    if len(found):
        return found, made_by
    return run[run.task.str.startswith(task)], "this run"


NOTHING = (
    "There is no such comparison: not stored yet, and not made in this run."
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Error of the redshift by the bands that are given, for models that met gaps in training and for one that did not (with several seeds, lines are 95 % intervals of the mean over weights, order and gaps; the galaxies are the same). Dotted: always guessing the mean. Further left is better.", "name": "fig-06-missing"}, "image": {"alt": "Six rows of bands given, from r alone to all eight, with a mark a model for the error of the redshift. The two masked models are furthest left in every row: level with each other where few bands are given, the one trained with half missing a little behind with the five optical bands and with all eight. The model that never met a gap is right of both in every row, least with the five optical bands and with all eight, and beyond the dotted line of a constant guess with r alone and with J, H, K. Filled with the mean it is beyond the line with r alone and with g, r, i, on it with g, r, and better than with the gaps left out for J, H, K only."}}
found, missing_by = part("redshift from ")
METHODS = {
    "masked": "masked",
    "masked, half missing": "masked, half missing",
    "never missing": "never missing, left out",
    "never missing, filled": "never missing, filled",
}
if len(found):
    errors = {
        label: {
            name: found[
                (found.task == f"redshift from {name}")
                & (found.method == method)
            ].error.tolist()
            for name in GIVEN
        }
        for method, label in METHODS.items()
        if (found.method == method).any()
    }
    ax = plt.subplots(figsize=(7.0, 4.2))[1]
    plots.scores_by_inputs(ax, errors, "error of the redshift (rms)")
    ax.axvline(found.constant.mean(), color="k", linestyle=":", linewidth=1)
    ax.set_xscale("log")
    ticks = [0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0]
    low, high = ax.get_xlim()
    ticks = [tick for tick in ticks if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    save_figure("missing")
    plt.show()
else:
    print(NOTHING)

# %% [markdown]
# In numbers: how many times as large the error is as that of the masked model given the same bands, with a 95 % interval over the seeds where there are several.

# %%
rows = []
trained = [method for method in METHODS if (found.method == method).any()]
for name in GIVEN if "masked" in trained else ():
    here = found[found.task == f"redshift from {name}"]
    here = here.pivot(index="seed", columns="method", values="error")
    row = {"given": name, "masked: error": here["masked"].mean()}
    for method in trained[1:]:
        ratio = np.log(here[method] / here["masked"]).dropna()
        centre, low, high = np.exp(evaluation.seed_interval(ratio))
        row[METHODS[method]] = f"{centre:.2f}"
        if len(ratio) > 1:
            row[METHODS[method]] += f" ({low:.2f} to {high:.2f})"
    rows.append(row)
if rows:
    print(f"From {missing_by}, {found.seed.nunique()} seed(s).")
    display(pd.DataFrame(rows).set_index("given").round(4))
else:
    print(NOTHING)

# %% tags=["nbval-check-output"]
if "masked" in trained:
    mean = found.groupby(["method", "task"]).error.mean()
    fewest = "redshift from r"
    for method in [m for m in trained if m.startswith("never")]:
        worse = mean[method, fewest] > mean["masked", fewest]
        print(f"r alone: {method} is worse than masked:", bool(worse))

# %% [markdown]
# Take bands away from the model that always had them, and what it does was never trained: it is behind in every row, and with r or with J, H, K alone worse than no model at all.
# Filling the gap with a mean looks harmless, and says something false: that this galaxy *has* the mean brightness there. Only for J, H, K is that the lesser evil.
#
# Given all bands, the model that always had them might be expected ahead, as it spent every step on just this question. After the few steps of the fast profile it is; in the full profile the masked one is ahead there, too.
# Much of that lead is learning by heart: a model that always sees the same eight numbers of a galaxy ends with a training error far below its test error. Masks are one remedy, stopping in time by galaxies set aside is another, and this comparison gives it neither.
# The masked model has an answer for any bands, and still has one when half of all magnitudes were lost in training; the table tells the price.
#
# ## What does a budget buy?
#
# The same model, the same pictures, the same number of steps; only the budget changes.
# In the fast profile these are a fifth of the steps from above, too few to rank them.
# More tokens in give the model more to see at once; more asked give it more to learn from at each step.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accuracy of the class given the image, against the price of a training step, for budgets at equal steps (mean over seeds, with its 95 % interval where there are several). Labels: tokens in, tokens asked. Along the blue points the tokens that enter grow; orange ones, in the full profile, ask fewer or more.", "name": "fig-06-budget"}, "image": {"alt": "Points of test accuracy against millions of operations a sample and step, one for each budget and labelled with it. The blue ones rise steeply from 7 tokens in over 14 to 28, and no further at 54, at the highest price of all. The orange one with 4 tokens asked lies clearly below that with 14, for a quarter fewer operations; the one with 27 asked is level with it, at a third more."}}
budget, budget_by = part("budget")
if len(budget):
    ax = plt.subplots(figsize=(6.4, 3.8))[1]
    for _, group in budget.groupby("method"):
        x, y = group.operations.mean() / 1e6, group.accuracy_image
        mean, low, high = evaluation.seed_interval(y)
        usual = group.num_targets.iloc[0] == budget.num_targets.mode()[0]
        color = "C0" if usual else "C1"
        mark = ax.plot(x, mean, "o", color=color)[0]
        if np.isfinite(low):
            ax.vlines(x, low, high, color=color, linewidth=3, alpha=0.5)
        label = (
            f"{group.num_inputs.iloc[0]:.0f}, {group.num_targets.iloc[0]:.0f}"
        )
        ax.annotate(label, (x, mean), xytext=(6, 4), textcoords="offset points")
    ax.set(
        xlabel="million operations a sample and step", ylabel="class accuracy"
    )
    ax.margins(x=0.15)
    save_figure("budget")
    plt.show()
else:
    print(NOTHING)

# %%
COLUMNS = {
    "accuracy_image": "class accuracy",
    "nll_image": "nats an image token",
    "nll_shape": "nats a number",
    "operations": "million operations",
}


def price_table(frame):
    means = frame.groupby("method", sort=False)[list(COLUMNS)].mean()
    means["operations"] /= 1e6
    order = means.operations.sort_values().index
    return means.loc[order].rename(columns=COLUMNS).round(3)


if len(budget):
    print(f"From {budget_by}, {budget.seed.nunique()} seed(s).")
    display(price_table(budget))
else:
    print(NOTHING)

# %% [markdown]
# For the class, more in sight is worth its price up to about half of all places; beyond that only the numbers of the table still gain.
# Fewer tokens asked are cheaper and worse, about as fewer tokens in are: what is asked is what is learnt from.
#
# And a smaller and a larger model, at the budget of this page:

# %%
size, size_by = part("size")
if len(size):
    print(f"From {size_by}, {size.seed.nunique()} seed(s).")
    display(price_table(size))
else:
    print(NOTHING)

# %% [markdown]
# Compare the two tables: where operations are scarce, a narrower model that sees a good part of each sample is cheaper and better than a wider one that sees a little of it.
#
# ### What the wrong average costs
#
# Now the two averages from above, in training: ours over the modalities asked, and 4M's `token`, in which a token weighs as much as its codebook is large.

# %%
average, average_by = part("average")
if len(average):
    weigh = SIZES_OF_BOOKS["image"] / SIZES_OF_BOOKS["class"]
    print(
        f"A token of the picture weighs as much as {weigh:,.0f} of the class."
    )
    scores = ["accuracy_image", "accuracy_shape", *[f"nll_{n}" for n in PLACES]]
    print(f"From {average_by}, {average.seed.nunique()} seed(s).")
    display(average.groupby("method")[scores].mean().T.round(3))
    by = average.pivot(index="seed", columns="method", values="accuracy_image")
    if by.shape[1] == 2:
        gain = evaluation.paired_difference(
            by["modalities asked"], by["tokens by codebook"]
        )
        print("accuracy gained by ours: {:.3f}, {:.3f} to {:.3f}".format(*gain))
else:
    print(NOTHING)

# %% [markdown]
# The other average is better at what it weighs most, the tokens of the picture, and pays for it with everything else.
#
# ## Where the time goes
#
# `benchmarks/train_step.py` times a whole training step at AION-Base's shape on one GPU, side by side with AION's own model, plain and compiled.
# What it found is stored with the book.

# %%
timed = Path(step_file)
speed = json.loads(timed.read_text()) if timed.is_file() else {}


def said(key: str, text: str) -> None:
    """A number of the measurement, if it is there."""
    if isinstance(speed.get(key), int | float):
        print(text.format(speed[key]))


if not speed:
    print("The measurement has not been made yet: there is no such file.")
else:
    print(speed.get("device", "device unknown"), end=", ")
    print("commit", str(speed.get("commit") or "unknown")[:7])
    said("ratio_to_aion_eager", "{:.2f} times AION's samples a second")
    said("ratio_to_aion_compiled", "{:.2f} times those of AION compiled")
    said("matmul_share", "{:.1%} of what the chip's matrix products reach")
    if speed.get("matmul_share", 1.0) < 0.5:
        print("(the aim was half: missed)")
    said("gib_at_batch_256", "{:.1f} GiB at 256 samples a batch")
    said("first_step_seconds", "{:.1f} s for the first step, compiling")
    said("second_process_seconds", "{:.1f} s for that of a second process")
speeds = pd.DataFrame(speed.get("rows") or [])
if {"variant", "batch", "samples_per_second"} <= set(speeds):
    rate = speeds.set_index(["batch", "variant"]).samples_per_second
    table = rate.dropna().to_frame("samples a second")
    for other in ("AION eager", "AION compiled"):
        beside = rate.xs(other, level="variant").reindex(
            table.index.get_level_values("batch")
        )
        table[f"times {other}"] = table["samples a second"] / beside.to_numpy()
    display(table.map("{:,.2f}".format).replace("nan", ""))

# %% [markdown]
# *By table* has the same work as AION's model: a row for each code, and a softmax over all codes of a modality.
# With codes *by value* a step costs the same, since only the tokens asked get any logits.
# Nor do modalities that are declared but do not enter cost anything: compare five with forty.
#
# The share of the rate that the chip's matrix products reach alone is that of the larger batch.
# The products of the step run not far below that rate, but they are little more than half of the time; attention in small heads and short rows, and norms and activations that move memory more than they compute, take most of the rest.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Where the time of one training step goes, as the profiler sees it on the GPU.", "name": "fig-06-profile"}, "image": {"alt": "Horizontal bars of milliseconds in one training step by kind of work, such as matrix products, attention, norms and activations, optimiser and other, each with its share of the step written at its end."}}
spent = pd.DataFrame(speed.get("profile") or [])
if {"kind", "milliseconds"} <= set(spent):
    spent = spent.sort_values("milliseconds")
    if "share" not in spent:
        spent["share"] = spent.milliseconds / spent.milliseconds.sum()
    ax = plt.subplots(figsize=(6.4, 0.8 + 0.45 * len(spent)))[1]
    bars = ax.barh(spent.kind, spent.milliseconds)
    ax.bar_label(bars, [f"{share:.0%}" for share in spent.share], padding=4)
    ax.set(xlabel="milliseconds a step")
    ax.margins(x=0.12)
    ax.grid(axis="y", visible=False)
    save_figure("profile")
    plt.show()
else:
    print("There is no profile to draw yet.")

# %% [markdown]
# ## Where it fails
#
# - Given everything, after few steps, the model that always saw everything is ahead: masks spend steps on questions that nobody may ask. If no measurement is ever missing, try letting all of them enter (`min_inputs`, `hold_out`), too.
# - Removing at random is the kindest way to lose data. Real gaps have reasons: faint galaxies lack the infrared because they are faint.
# - The table of shapes is measured on the pictures, so beside a good picture it has nothing new to say.
# - The class is one question of many here, after a short training. Nearest neighbours on the raw pixels, which take no training, name it more often, as on the page [Tokenise an image](03_tokenise_an_image.ipynb).
# - Tokens of the picture that are asked together are predicted each on its own; joint samples take `generate`.
# - What a budget buys was measured, in the full profile, with many pictures and few steps, so that none was seen more than a few times. With few pictures the order may change.
#
# ## Summary
#
# - Each step draws, sample by sample, what enters and what is asked; what is absent does neither.
# - The price follows the budgets and not the number of things declared.
# - Average over the modalities that were asked: other means quietly favour large codebooks, or count absence as success.
# - A model meets gaps well if it has trained on them.

# %%
summary = (
    f"{len(records)} scores over {run.seed.nunique()} seed(s); clothes, "
    f"{SHOWN_STEPS} steps: class accuracy {first['accuracy_image']:.3f} from the image, "
    f"{first['accuracy_shape']:.3f} from the table"
)
worst = run[run.task == "redshift from r"]
for method in ("masked", "never missing"):
    if (worst.method == method).any():
        error = worst[worst.method == method].error.mean()
        summary += f"; redshift from r, {method}: rms error {error:.4f}"
if output_dir:
    keep_results(summary)

# %% [markdown]
# ## Exercises
#
# ```{exercise-start}
# :label: ex-06-register
# ```
# What does the model answer when nothing at all was measured? Compare its class probabilities with the frequencies of the training pictures.
# ```{exercise-end}
# ```
#
# ````{solution-start} ex-06-register
# :class: dropdown
# ````

# %%
nothing = part_of(asked[:1], []).select(["image"])
guess = model.predict(nothing, "class").probabilities[0]
counts = torch.bincount(tokens.tokens["class"][:, 0], minlength=10)
pd.DataFrame(
    {"predicted": guess, "frequency": counts / counts.sum()}, CLASS.values
).round(3)

# %% [markdown]
# ````{solution-end}
# ````
#
# ```{exercise}
# :label: ex-06-gaps
#
# Train the model that always gets all bands on the galaxies with gaps, `fit_galaxies(with_gaps(...), NEVER, ...)`.
# Do gaps in the data alone teach it what the masks do?
# ```
#
# ## Further reading
#
# The masked multimodal recipe is 4M's {cite:p}`mizrahi-2023-4m`, with budgets for both sides; AION-1 {cite:p}`parker-2025-aion` changed how they are shared out, for modalities of very unequal length.
