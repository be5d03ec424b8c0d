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
# # Tokenise an image
#
# How do you turn a picture into a few dozen integer codes and back, and how many pictures does it take to learn that?
#
# **What you'll learn**
#
# - how a vector of numbers becomes one code by rounding alone, with nothing to learn and nothing to collapse;
# - how to train a codec around it, and how to tell whether it is any good;
# - what more tokens, more codes and more images buy;
# - why a transformer should be told where a code lies.
#
# **What you'll need**: nothing but this page. The pictures travel with the package.
#
# **Runtime**: about a minute on two CPU cores with the default parameters. `aion-lite run 03 --profile full -p data_dir=FOLDER` repeats the comparisons on all of Fashion-MNIST over five seeds; it is meant for a GPU, and its results are stored with the book.

# %% tags=["parameters"]
profile: str = "fast"  # fast: two small codecs on two CPU cores; full: every comparison, on a GPU
seed: int = 0  # seed of weights, order, masks and the images drawn; the full profile starts here
num_seeds: int = 5  # seeds of the full profile
num_train: int = 3000  # images to train on in the fast profile
steps: int = 700  # optimiser steps of the codecs of the fast profile
experiments: list[str] = [
    "curve",
    "rate",
    "aion",
    "tokens",
]  # which comparisons the full profile makes
sizes: list[int] = []  # training images of the full profile; empty: its own
full_steps: int = 0  # steps of each training of the full profile; 0: its own
data_dir: str = ""  # folder with all of Fashion-MNIST; empty: the sample
output_dir: str = ""  # where results.json and the figures go; empty for nowhere

# %% tags=["hide-input"]
import importlib.util
import math
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from sklearn.cluster import MiniBatchKMeans
from sklearn.neighbors import KNeighborsClassifier
from torch.utils.data import TensorDataset

from aion_lite import evaluation, plots
from aion_lite.codecs import (
    CategoryCodec,
    CodecManager,
    ImageCodec,
    evaluate_codec,
    rate_line,
    train_codec,
)
from aion_lite.data import load_fashion_mnist, load_hubble_crops
from aion_lite.model import MultimodalTransformer
from aion_lite.quantizers import FiniteScalarQuantizer
from aion_lite.training import train

EXPERIMENTS = {"curve", "rate", "aion", "tokens"}
if profile not in ("fast", "full"):
    raise ValueError(f"profile must be 'fast' or 'full', got {profile!r}.")
if not 100 <= num_train <= 3000 and not data_dir:
    raise ValueError(
        f"num_train must lie in 100..3000 without data_dir, got {num_train}."
    )
if steps < 1 or full_steps < 0 or min(sizes, default=2) < 2:
    raise ValueError(
        f"steps must be 1 or more, full_steps 0 or more, sizes 2 or more; "
        f"got {steps}, {full_steps}, {sizes}."
    )
if not experiments or not set(experiments) <= EXPERIMENTS:
    raise ValueError(
        f"experiments are {sorted(EXPERIMENTS)}, got {experiments}."
    )
FULL = profile == "full"
ON_GPU = FULL and torch.cuda.is_available()
FASTER = {"mixed_precision": "bf16", "compile": True} if ON_GPU else {}
if FULL:
    torch.set_float32_matmul_precision("high")  # TF32 products on a GPU
plt.style.use("style.mplstyle")
started = time.perf_counter()


def save_figure(name: str) -> None:
    """Keep the picture beside the results, if there is a place for results."""
    if output_dir:
        plt.savefig(Path(output_dir) / f"{name}.png")


# %% [markdown]
# ## Rounding is all it takes
#
# A codec needs a step that makes integers out of numbers.
# The usual one keeps a table of learnt vectors and takes the nearest {cite:p}`oord-2017-vqvae`; such tables tend to *collapse*: many rows are never used.
# Finite scalar quantization (FSQ) has no table {cite:p}`mentzer-2024-fsq`.
# A vector of $d$ numbers $z_j$ is bounded and rounded, each number to its own few levels $L_j$:
#
# $$
# b_j = h_j \tanh\!\left(z_j + \operatorname{artanh}\tfrac{o_j}{h_j}\right) - o_j,
# \qquad
# k = \sum_j \left(\operatorname{round}(b_j) + \lfloor L_j / 2 \rfloor\right) \prod_{i<j} L_i .
# $$
#
# Here $h_j$ is half of $L_j - 1$, a thousandth larger so that the outermost levels can be reached, and $o_j$ is one half for an even number of levels, which has none in the middle, and zero for an odd one.
# The code $k$ reads the rounded numbers as digits, each with a base of its own.
# Rounding has no useful gradient, so the backward pass leaves it out: the *straight-through* estimate {cite:p}`bengio-2013-straight`.
# That is the whole of it:


# %% tags=["nbval-check-output"]
def fsq(z, levels, eps=1e-3):
    """Vectors (B, d) -> the nearest codes' values in [-1, 1], and codes (B,)."""
    L = torch.tensor(levels)
    half, middle = (L - 1) * (1 + eps) / 2, L // 2
    offset = torch.where(L % 2 == 0, 0.5, 0.0)
    bounded = torch.tanh(z + torch.atanh(offset / half)) * half - offset
    rounded = bounded + (bounded.round() - bounded).detach()
    digits = bounded.round().long() + middle
    return rounded / middle, (digits * (L.cumprod(0) // L)).sum(1)


quantizer = FiniteScalarQuantizer([8, 5, 5, 5])
generator = torch.Generator().manual_seed(0)
z = (2 * torch.randn(10_000, 4, generator=generator)).requires_grad_()
values, codes = fsq(z, [8, 5, 5, 5])
theirs = quantizer.quantize(z)
gradients = [
    torch.autograd.grad(v.square().sum(), z)[0] for v in (values, theirs)
]
assert torch.equal(values, theirs), "the values differ"
assert torch.equal(codes, quantizer.encode(z)), "the codes differ"
assert torch.allclose(*gradients), "the gradients differ"
print("codes in the codebook:", quantizer.codebook_size, "and learnt:", 0)
print(
    "code 521 has the digits",
    quantizer.level_indices(torch.tensor(521)).tolist(),
)
print("and the values", quantizer.decode(torch.tensor([521]))[0].tolist())

# %% [markdown]
# Codes made in this way are places on a grid, and the last section of this page lives on that.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Left: one number, bounded and rounded to five and to eight levels. Right: two numbers, five levels by four. Every point of the plane has one of twenty codes, and neighbours have neighbouring cells.", "name": "fig-03-codes"}, "image": {"alt": "Left: two smooth S-shaped curves of the bounded number against z, one from minus 2 to 2 and one from minus 4 to 3, each with the staircase that rounding makes of it. Right: the plane of two numbers in a grid of 5 by 4 coloured cells with the codes 0 to 19 written in them; the code grows by one to the right and by five upwards."}}
left, right = plt.subplots(1, 2, figsize=(7.2, 3.4))[1]
line = torch.linspace(-4, 4, 801)[:, None]
for number, color in ((5, "C0"), (8, "C1")):
    one = FiniteScalarQuantizer([number])
    left.plot(line, one._bound(line), color=color, alpha=0.5)
    stairs = one.quantize(line) * (number // 2)
    left.plot(line, stairs, color=color, label=f"{number} levels")
left.set(xlabel="$z$", ylabel="bounded, and rounded")
left.legend()
plane = torch.cartesian_prod(line[::8, 0] / 2, line[::8, 0] / 2)
places, numbers = fsq(plane, [5, 4])
side = len(line[::8])
right.pcolormesh(
    *(plane[:, i].reshape(side, side) for i in (0, 1)),
    numbers.reshape(side, side),
    alpha=0.6,
)
for code in range(20):
    x, y = plane[numbers == code].mean(0)
    right.text(x, y, code, ha="center", va="center", fontsize=11)
right.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
right.grid(False)
save_figure("codes")
plt.show()

# %% [markdown]
# ## A codec around it
#
# `ImageCodec` puts a convolutional network before the rounding and another one after it.
# The first cuts the picture into patches and makes four numbers of each; they are rounded to one of $8 \cdot 5 \cdot 5 \cdot 5$ codes; the second paints the picture from the rounded numbers.
# Both are trained at once, to give back what came in.
#
# The pictures are Fashion-MNIST's {cite:p}`xiao-2017-fashion`: clothes of ten kinds, grey, 28 pixels a side.
# A test picture is never trained on, and the test pictures are the same for every codec of this page.

# %% tags=["nbval-check-output"]
clothes = load_fashion_mnist(data_dir or None)
test = load_fashion_mnist(data_dir or None, split="test")[:2000]
IMAGE, CLASS = clothes.modalities["image"], clothes.modalities["class"]
if not 100 <= num_train <= len(clothes):
    raise ValueError(
        f"num_train must lie in 100..{len(clothes)}, got {num_train}."
    )
print(len(clothes), "pictures to train on,", len(test), "to test on")

SMALL = {"width": 32, "depth": 1, "encoder_depth": 1}
LARGE = {"width": 128, "depth": 4, "encoder_depth": 2}


def draw(n: int, seed: int, end: bool = False):
    """n pictures; the same for every method with this seed. ``end``: others."""
    rows = np.random.default_rng(seed).permutation(len(clothes))
    return clothes[np.sort(rows[-n:] if end else rows[:n])]


def new_codec(seed: int, size: dict, levels=(8, 5, 5, 5), patch: int = 4):
    torch.manual_seed(seed)
    codec = ImageCodec(IMAGE, levels=levels, patch=patch, **size)
    if torch.cuda.is_available():
        return codec
    return codec.to(memory_format=torch.channels_last)  # faster on CPUs


def fit(codec, samples, seed: int, num_steps: int, lr: float, batch_size: int):
    """Trains the codec, and scores it on the test pictures."""
    history = train_codec(
        codec,
        samples,
        steps=num_steps,
        batch_size=min(batch_size, len(samples)),
        lr=lr,
        ema=0.99,  # keep an average of the weights
        seed=seed,
        progress=False,
    )
    scores = evaluate_codec(codec, test, data_range=1.0)
    return {
        **scores,
        "weights": sum(p.numel() for p in codec.parameters()),
        "seconds": history.seconds,
    }


# %% [markdown]
# Train one.
# `rate_line` says what the tokens cost and what comes back: the nominal rate is $\log_2$ of the codebook for each token, the rate used is the entropy of the codes that really occur.

# %%
FAST = {"lr": 16e-3, "batch_size": 32}
first_steps = (
    min(steps, 200) if FULL else steps
)  # the full profile trains better ones below
codec = new_codec(seed, SMALL)
first = fit(codec, draw(num_train, seed), seed, first_steps, **FAST)
codec.to("cpu")
print(
    f"{first['weights']:,} weights, {first_steps} steps, {num_train:,} pictures"
)
print(rate_line(first))
print(f"8 bits a pixel would be {8 * math.prod(IMAGE.shape):,} bits")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Test pictures, their tokens and what the codec paints from those alone. Each token is one square, coloured by its first three numbers: like patches have like colours.", "name": "fig-03-reconstructions"}, "image": {"alt": "Three rows of ten pictures of clothes, one of each class. Top: the originals. Middle: 7 by 7 coloured squares, the tokens; the empty background is nearly of one colour. Bottom: the reconstructions, which show the same clothes, a little blurred, with fine patterns lost."}}
labels = test.values["class"]
rows = [int((labels == k).nonzero()[0, 0]) for k in range(len(CLASS.values))]
shown = test.values["image"][rows]
tokens = codec.encode(shown)
colours = codec.quantizer.decode(tokens)[:, :3]
colours = colours.reshape(-1, 3, 7, 7) / 2 + 0.5
pictures = {
    "original": shown,
    "tokens": np.kron(colours.numpy(), np.ones((1, 1, 4, 4))),
    "decoded": codec.decode(tokens),
}
plots.image_rows(plt.subplots(figsize=(7.2, 2.6))[1], pictures)
save_figure("reconstructions")
plt.show()

# %% [markdown]
# ### Is it any good?
#
# A simple opponent has the same tokens and the same number of codes: cut the pictures into the same patches, and let $k$-means find the patches that stand for all others.
# It takes seconds, and each of its codes sees its own patch only.


# %%
def patches(x, p: int):
    """(B, 1, H, W) -> (B * tokens, p * p)."""
    return x.unfold(2, p, p).unfold(3, p, p).reshape(-1, p * p)


def from_patches(y, p: int):
    grid = IMAGE.size // p
    y = y.reshape(-1, 1, grid, grid, p, p)
    return y.permute(0, 1, 2, 4, 3, 5).reshape(-1, *IMAGE.shape)


def k_means(samples, seed: int, num_codes: int = 1000, p: int = 4) -> dict:
    """The scores of a codebook of whole patches, from 200,000 patches at most."""
    began = time.perf_counter()
    cut = patches(samples.values["image"], p)
    order = np.random.default_rng(seed).permutation(len(cut))[:200_000]
    means = MiniBatchKMeans(
        min(num_codes, len(order)),
        n_init=1,
        batch_size=8192,
        random_state=seed,
    ).fit(cut[order].numpy())
    truth = test.values["image"]
    codes = means.predict(patches(truth, p).numpy())
    num_tokens = len(codes) // len(test)
    use = evaluation.codebook_use(codes, num_codes)
    back = torch.tensor(means.cluster_centers_[codes], dtype=torch.float32)
    back = from_patches(back, p)
    flat, flat_back = truth.flatten().numpy(), back.flatten().numpy()
    return {
        "r2": evaluation.r2(flat, flat_back),
        "psnr": evaluation.psnr(truth, back, 1.0),
        "ssim": evaluation.ssim(truth, back, 1.0),
        "bits_nominal": num_tokens * math.log2(num_codes),
        "bits": num_tokens * use.pop("bits"),
        **use,
        "seconds": time.perf_counter() - began,
    }


opponent = k_means(draw(num_train, seed), seed)
table = pd.DataFrame({"ImageCodec": first, "k-means on patches": opponent}).T
table = table[["r2", "psnr", "ssim", "used", "perplexity"]].astype(float)
table.columns = ["R2", "PSNR (dB)", "SSIM", "codes used", "perplexity"]
table.round(3)

# %% tags=["nbval-check-output"]
print("90 % or more of the codes in use on new pictures:", first["used"] >= 0.9)
print("nearer to the originals than k-means:", first["psnr"] > opponent["psnr"])

# %% [markdown]
# Perplexity is the number of codes that would be as many if all were equally frequent.
# It is below the number in use because empty background is frequent, and no codec should spend many codes on that.
#
# ## What if a band is missing?
#
# A telescope, a scanner or a satellite takes several bands, and some are missing for some objects.
# The codec lets only the bands that are there into its first layer, and makes up for the others by scale: with $m$ of $C$ bands present, what enters is multiplied by $\sqrt{C / m}$, as in AION-1 {cite:p}`parker-2025-aion`.
# What comes out has every band.
#
# The pictures below are crops of the Hubble extreme deep field {cite:p}`illingworth-2013-xdf` in three colours; test crops come from another part of the sky.
# In training, each band of each crop is missing one time in three.

# %%
hubble = load_hubble_crops(24, 1000, seed)
sky = load_hubble_crops(24, 200, seed, split="test").values["crop"]
present = torch.rand(len(hubble), 3, generator=generator) > 1 / 3
one = torch.randint(3, (len(hubble),), generator=generator)
present[torch.arange(len(hubble)), one] = True  # one band at least
torch.manual_seed(seed)
colour_codec = ImageCodec(
    hubble.modalities["crop"], width=32, depth=1, encoder_depth=1
)
train_codec(
    colour_codec,
    TensorDataset(hubble.values["crop"], present),
    steps=max(first_steps // 2, 1),
    batch_size=32,
    lr=12e-3,
    ema=0.98,
    seed=seed,
    progress=False,
)


def first_layer(codec, x, present):
    """Only what is there enters, scaled up by how much is not."""
    mean, std = (s[:, None, None] for s in (codec.mean, codec.std))
    y = (x - mean) / std * present[:, :, None, None]
    y = y * (len(mean) / present.sum(1)).sqrt()[:, None, None, None]
    patchify = codec.encoder.patchify
    return F.conv2d(y, patchify.weight, patchify.bias, stride=codec.patch)


colour_codec.to("cpu")
with torch.no_grad():
    seen = torch.tensor([[True, False, True]]).expand(len(sky), 3)
    h = colour_codec.encoder.blocks(first_layer(colour_codec, sky, seen))
    h = colour_codec.encoder.project(
        colour_codec.encoder.norm(h.movedim(1, -1))
    )
    by_hand = colour_codec.quantizer.encode(h.movedim(-1, 1)).flatten(1)
spoilt = torch.where(seen[:, :, None, None], sky, 1e6)  # must not matter
same = (by_hand == colour_codec.encode(spoilt, seen)).float().mean()
assert same > 0.999, "the codec and the ten lines above disagree"

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Test crops of the Hubble field, and what comes back of them when all bands are given, and when only one is.", "name": "fig-03-bands"}, "image": {"alt": "Four rows of eight small pictures of galaxies on black sky. Top: the originals in colour. Second: decoded from all three bands; the same shapes, blurred, their colours paler and some of them wrong. Third and fourth: decoded from the red band alone and from the blue band alone; the same shapes again, blue ones fainter in the row from red."}}
BANDS = {
    "all bands": [1, 1, 1],
    "red alone": [1, 0, 0],
    "blue alone": [0, 0, 1],
}
decoded = {}
for name, given in BANDS.items():
    seen = torch.tensor(given).bool().expand(len(sky), 3)
    decoded[name] = colour_codec.decode(colour_codec.encode(sky, seen))
brightest = sky.flatten(1).std(1).argsort(descending=True)[:40:5]
rows = {"original": sky[brightest]}
rows |= {f"from {name}": x[brightest] for name, x in decoded.items()}
plots.image_rows(plt.subplots(figsize=(7.2, 3.4))[1], rows)
save_figure("bands")
plt.show()

# %%
scores = {
    f"from {name}": [
        evaluation.r2(sky[:, band].flatten(), x[:, band].flatten())
        for band in range(3)
    ]
    for name, x in decoded.items()
}
pd.DataFrame(scores, ["R2 of red", "of green", "of blue"]).T.round(2)

# %% [markdown]
# A band that was not given is guessed from the others: good where bands go together, and never a measurement.
# Brightness comes back first; colour is a small difference between bands, and this codec was trained for seconds.
# For brightness over many decades there is `ImageCodec(..., compression=s)`, which works on $\operatorname{arsinh}(x / s)$.
#
# ## The comparisons
#
# The rest of the page compares, and a comparison needs several seeds and sizes that would take a laptop hours.
# The full profile makes them on a GPU.
# The fast one trains the codec from above once more, on few pictures, and lets $k$-means choose other patches and codes.
# Within a comparison every training gets the same number of steps, except that codecs for more than 1,000 pictures get more than the others.
# The bookkeeping is folded away.

# %% tags=["hide-input"]
CURVE_SIZES = sizes or [100, 300, 1000, 3000, 10_000, 60_000]
TOKEN_SIZES = sizes or [500, 2000, 20_000]
WATCHED = min(500, len(clothes) // 6)  # pictures that tell when to stop
CURVE_SIZES = sorted({min(n, len(clothes)) for n in CURVE_SIZES})
TOKEN_SIZES = sorted({min(n, len(clothes) - WATCHED) for n in TOKEN_SIZES})
MANY = min(10_000, CURVE_SIZES[-1])
VARIANTS = [
    (4, (5, 4)),
    (4, (8, 5, 5, 5)),
    (4, (7, 5, 5, 5, 5)),
    (4, (8, 8, 8, 6, 5)),
    (2, (8, 5, 5, 5)),
    (7, (8, 5, 5, 5)),
]
GPU = {"lr": 2e-3, "batch_size": 256}
TOKEN_LR = {"value": 2e-3, "table": 2e-3}
records = []


def keep(task, method, n, seed, scores) -> None:
    numbers = {k: float(v) for k, v in scores.items()}
    records.append(
        {"task": task, "method": method, "n": n, "seed": seed, **numbers}
    )


def steps_of(own: int) -> int:
    return full_steps or own


def curve(seed: int) -> None:
    """Reconstruction against the number of training images."""
    for n in CURVE_SIZES:
        samples = draw(n, seed)
        num_steps = steps_of(600 if n <= 1000 else 1000)
        scores = fit(new_codec(seed, LARGE), samples, seed, num_steps, **GPU)
        keep("image codec", "ImageCodec", n, seed, scores)
        keep("image codec", "k-means", n, seed, k_means(samples, seed))


def rate_name(patch: int, levels) -> str:
    return f"patch {patch}, {math.prod(levels):,} codes"


def rate(
    seed: int, variants, size: dict, num_steps: int, n: int, how: dict
) -> None:
    """Reconstruction against bits, by the number of codes and of tokens."""
    samples = draw(n, seed)
    for patch, levels in variants:
        name, num_codes = rate_name(patch, levels), math.prod(levels)
        made = new_codec(seed, size, levels, patch)
        scores = fit(made, samples, seed, num_steps, **how)
        keep("rate: ImageCodec", name, n, seed, scores)
        if num_codes <= 1000:
            scores = k_means(samples, seed, num_codes, patch)
            keep("rate: k-means", name, n, seed, scores)


class AionArchitecture(ImageCodec):
    """AION's image autoencoder in the place of ours: same scale, codes, loss and loop.

    Its multi-survey projection and MagViT-like network are the package polymathic-aion's own.
    """

    def __init__(self, modality, hidden: int = 128, projection: int = 54):
        from aion.codecs.modules.magvit import MagVitAE
        from aion.codecs.modules.subsampler import SubsampledLinear

        super().__init__(modality, width=8, depth=1, encoder_depth=1)
        del self.encoder, self.decoder
        self.net = MagVitAE(
            projection, hidden, n_compressions=2, num_consecutive=4
        )
        self.project_in = SubsampledLinear(self.channels, projection, True)
        self.project_out = SubsampledLinear(projection, self.channels, False)
        d = len(self.quantizer.num_levels)
        self.before, self.after = (
            torch.nn.Conv2d(a, b, 1) for a, b in ((hidden, d), (d, hidden))
        )

    def hidden_matrices(self):
        return []  # so it is trained by AdamW, as AION's was

    def bands(self, x):
        return torch.ones(
            len(x), self.channels, dtype=torch.bool, device=x.device
        )

    def _latent(self, y, mask):
        return self.before(self.net.encode(self.project_in(y, self.bands(y))))

    def _reconstruct(self, z):
        return self.project_out(self.net.decode(self.after(z)), self.bands(z))


def aion(seed: int) -> None:
    """Ours and AION's network at equal weights, tokens, codes, steps and data."""
    if importlib.util.find_spec("aion") is None:
        print("there is no polymathic-aion here, so the comparison is left out")
        return
    samples = draw(MANY, seed)
    ours = new_codec(seed, {"width": 240, "depth": 6, "encoder_depth": 3})
    scores = fit(ours, samples, seed, steps_of(600), **GPU)
    weights = scores["weights"]
    keep("against AION", "ImageCodec", MANY, seed, scores)
    for lr in (1e-3, 2e-3):
        torch.manual_seed(seed)
        theirs = AionArchitecture(IMAGE)
        how = {"lr": lr, "batch_size": GPU["batch_size"]}
        scores = fit(theirs, samples, seed, steps_of(600), **how)
        assert abs(weights / scores["weights"] - 1) < 0.03, "not of one size"
        keep("against AION", f"AION's, lr {lr:g}", MANY, seed, scores)


@torch.no_grad()
def token_score(model, tokens) -> float:
    """Mean log-probability of a test token, asked at random given random others.

    The same tokens are asked of every model, given the same others.
    """
    nll, device = [], next(model.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for start in range(0, len(tokens), 500):
            batch = tokens[start : start + 500].to(device)
            nll.append(model.loss(batch.tokens, batch.present)[1]["nll/image"])
    return -torch.stack(nll).mean().item()


def tokens_in_the_transformer(seed: int) -> None:
    """Codes by where they lie against codes by table, at several sizes."""
    codec = new_codec(seed, LARGE)
    fit(codec, draw(MANY, seed), seed, steps_of(1000), **GPU)
    codecs = CodecManager([codec, CategoryCodec(CLASS)])
    asked, watched = (
        codecs.encode(test),
        codecs.encode(draw(WATCHED, seed, end=True)),
    )
    known = asked.tokens["class"][:1000, 0]
    for n in TOKEN_SIZES:
        samples = draw(n, seed)
        tokens = codecs.encode(samples)
        for method, lr in TOKEN_LR.items():
            model = MultimodalTransformer(
                codecs,
                d_model=256,
                nhead=8,
                num_layers=4,
                dropout=0.1,
                num_inputs=50,
                num_targets=50,
                embedding=method,
                seed=seed,
            )
            history = train(
                model,
                tokens,
                steps=steps_of(600),
                batch_size=min(128, n),
                lr=lr,
                optimizer="adamw",
                ema=0.99,
                validation=watched,
                validate_every=100,
                seed=seed,
                progress=False,
                **FASTER,
            )
            guess = model.predict(asked[:1000].select(["image"]), "class")
            right = guess.probabilities.argmax(1).cpu() == known
            scores = {
                "log_score": token_score(model, asked),
                "accuracy": right.float().mean(),
                "best_step": history.best_step,
                "seconds": history.seconds,
            }
            keep("tokens in the transformer", method, n, seed, scores)
        neighbours = KNeighborsClassifier().fit(
            samples.values["image"].flatten(1), samples.values["class"]
        )
        right = (
            neighbours.predict(test.values["image"][:1000].flatten(1))
            == known.numpy()
        )
        scores = {"accuracy": right.mean()}
        keep("tokens in the transformer", "pixels", n, seed, scores)


def keep_results(summary: str) -> None:
    evaluation.write_results(
        Path(output_dir) / "results.json",
        summary,
        records,
        data="Fashion-MNIST, "
        + ("the whole set" if data_dir else "the sample in the package"),
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


keep("first codec", "ImageCodec", num_train, seed, first)
keep("first codec", "k-means", num_train, seed, opponent)
if FULL:
    for one in range(seed, seed + num_seeds):
        if "curve" in experiments:
            curve(one)
        if "rate" in experiments:
            rate(one, VARIANTS, LARGE, steps_of(400), MANY, GPU)
        if "aion" in experiments:
            aion(one)
        if "tokens" in experiments:
            tokens_in_the_transformer(one)
else:
    FEW = 100
    keep("image codec", "ImageCodec", num_train, seed, first)
    keep("image codec", "k-means", num_train, seed, opponent)
    if num_train > FEW:  # the same training on a few pictures
        few = draw(FEW, seed)
        scores = fit(new_codec(seed, SMALL), few, seed, steps, **FAST)
        keep("image codec", "ImageCodec", FEW, seed, scores)
        keep("image codec", "k-means", FEW, seed, k_means(few, seed))
    name = rate_name(4, (8, 5, 5, 5))
    keep("rate: ImageCodec", name, num_train, seed, first)
    keep("rate: k-means", name, num_train, seed, opponent)
    for patch, levels in ((7, (8, 5, 5, 5)), (4, (5, 4))):
        name, num_codes = rate_name(patch, levels), math.prod(levels)
        scores = k_means(draw(num_train, seed), seed, num_codes, patch)
        keep("rate: k-means", name, num_train, seed, scores)

run = pd.DataFrame(records)
if output_dir:  # before anything is drawn, so that nothing computed is lost
    keep_results(f"{len(records)} scores")
where = Path("results/03_tokenise_an_image.json")
if FULL or not where.exists():
    settings, stored = {"parameters": {"profile": profile}}, run
    made_by = "this run, made with the parameters above"
else:
    settings, stored = evaluation.read_results(where)
    made_by = f"the stored full run ({evaluation.made_on(settings)})"
print("The figures and tables below show", made_by + ".")


NOTHING = (
    "There is no such comparison: not stored yet, and not made in this run."
)


def part(task: str):
    """A comparison, and what made it: this run where the full run has none."""
    found = stored[stored.task == task]
    return (
        (found, made_by) if len(found) else (run[run.task == task], "this run")
    )


# %% [markdown]
# ### More tokens, or more codes?
#
# Bits can be spent in two ways: more codes to choose from, or smaller patches and so more tokens.
# Tokens are what the transformer pays for: the cost of its attention grows with their square.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Rate and distortion: how near the decoded test pictures are, against the bits of a picture's tokens. Colours tell the number of tokens, labels the number of codes. Up and to the left is better.", "name": "fig-03-rate"}, "image": {"alt": "Peak signal-to-noise ratio against bits a picture on a logarithmic axis. Filled circles are codecs, open squares k-means with the same patches and codes; colours tell 16, 49 or 196 tokens, and each point is labelled with its number of codes. The codec lies above k-means wherever both were tried. The codec's points rise with the bits, and so do those of k-means, but for the one with 20 codes, which is the lowest of all. The points with the most tokens are far above the others."}}
LABEL = {
    "xytext": (0, 6),
    "textcoords": "offset points",
    "rotation": 60,
    "fontsize": 9,
}
ax = plt.subplots(figsize=(6.6, 4.2))[1]
for task, marker, fill in (
    ("ImageCodec", "o", "full"),
    ("k-means", "s", "none"),
):
    spent = part(f"rate: {task}")[0].groupby("method")[["bits_nominal", "psnr"]]
    for method, (bits, psnr) in spent.mean().iterrows():
        patch, codes = method.removeprefix("patch ").split(", ")
        color = {"7": "C2", "4": "C0", "2": "C4"}[patch]
        ax.plot(bits, psnr, marker, color=color, fillstyle=fill, markersize=7)
        ax.annotate(codes.removesuffix(" codes"), (bits, psnr), **LABEL)
    ax.plot([], [], marker, color="k", fillstyle=fill, label=task)
for patch, color in ((7, "C2"), (4, "C0"), (2, "C4")):
    num_tokens = math.ceil(IMAGE.size / patch) ** 2
    ax.plot(
        [],
        [],
        "_",
        color=color,
        markeredgewidth=4,
        label=f"{num_tokens} tokens",
    )
ax.set(xscale="log", xlabel="bits a picture (nominal)", ylabel="PSNR (dB)")
ax.set_xticks(
    [100, 200, 500, 1000, 2000], ["100", "200", "500", "1,000", "2,000"]
)
ax.minorticks_off()
ax.set_xlim(120, 2600)
ax.margins(y=0.15)
ax.legend(loc="upper left")
save_figure("rate")
plt.show()

# %% [markdown]
# Where bits are few, it matters little how they are spent: few tokens of many codes, or more tokens of few, lie close to one curve, and the fewer tokens are cheaper for the transformer.
# Many times the codes bring less than smaller patches do, because bits grow with the logarithm of the one and in proportion to the other.
#
# ### How many images does a codec need?
#
# A common rule of thumb, and the one this book set out from, asks for 1,000 images at least, calls 10,000 good and 100,000 better.
# Two questions can be put to it: from where on does the codec *work*, say with nine tenths of the variance of new pictures explained, and more than $k$-means explains, and from where on is it *done*, with an error no more than a tenth above that of the largest training set?

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of the variance of new pictures that a codec misses, against the number of pictures it was trained on (bands are 95 % intervals of the mean over seeds). Dashed: the rule of thumb. Dotted: nine tenths explained.", "name": "fig-03-learning"}, "image": {"alt": "Unexplained share of the variance of test pictures against the number of training pictures, both axes logarithmic, for the codec and for k-means on patches. Dashed vertical lines stand at 1,000, 10,000 and 100,000 pictures with the words minimum, good and better; a dotted horizontal line at one tenth. The codec's line starts at the dotted one and falls all the way; that of k-means is flat, and they cross before 1,000."}}
LABELS = {"ImageCodec": "ImageCodec", "k-means": "k-means on patches"}
LINES = {"minimum": 1000, "good": 10_000, "better": 100_000}
learning, learnt_by = part("image codec")
learning = learning.assign(missed=1 - learning.r2)
if len(learning):
    ax = plots.learning_curves(plt.subplots()[1], learning, "missed", LABELS)
    low, high = learning.missed.min(), learning.missed.max()
    ax.set(yscale="log", ylabel="variance not explained")
    ax.set(
        xlim=(80, 200_000), ylim=(min(0.8 * low, 0.02), max(1.5 * high, 0.13))
    )
    ax.set_yticks([0.02, 0.03, 0.05, 0.1], ["2 %", "3 %", "5 %", "10 %"])
    ticks = [100, 1000, 10_000, 100_000]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.axhline(0.1, color="0.3", linestyle=":", linewidth=1)
    for name, n in LINES.items():
        ax.axvline(n, color="0.3", linestyle="--", linewidth=1)
        ax.text(
            n, ax.get_ylim()[1], name, ha="center", va="bottom", fontsize=11
        )
    save_figure("learning")
    plt.show()
else:
    print(NOTHING)

# %% [markdown]
# The same in numbers, and the rule judged: a line is *too strict* where a third of it or less is enough already, and *too low* where more is needed.

# %%
if len(learning):
    means = learning.groupby(["method", "n"])[
        ["r2", "psnr", "ssim", "used", "perplexity"]
    ].mean()
    ours = means.loc["ImageCodec"]
    table = ours.assign(other=means.loc["k-means"].r2)
    table.columns = [
        "R2",
        "PSNR (dB)",
        "SSIM",
        "codes used",
        "perplexity",
        "R2 of k-means",
    ]
    display(table.round(3))


# %%
def verdict(line: int, enough, largest: int) -> str:
    """Of a rule that asks for ``line`` pictures, where ``enough`` sizes are."""
    if len(enough) and enough[0] > line:
        return f"too low: it takes {enough[0]:,}"
    if not len(enough) and line <= largest:
        return f"too low: {largest:,} are not enough"
    if line > largest:
        return f"not measured: the largest set here has {largest:,}"
    return (
        "holds"
        if enough[0] > line / 3
        else f"too strict: {enough[0]:,} are enough"
    )


if len(learning):
    missed, largest = 1 - ours.r2, ours.index.max()
    behind = ours.r2 < means.loc["k-means"].r2
    works = ours.index[(missed <= 0.1) & ~behind]
    done = ours.index[missed <= 1.1 * missed[largest]]
    claims = {
        "minimum": ("will work", works),
        "good": ("compresses decently", done),
        "better": ("generalises well", done),
    }
    judged = [
        (f"{name}: {claim}", n, verdict(n, enough, largest))
        for (name, n), (claim, enough) in zip(
            LINES.items(), claims.values(), strict=True
        )
    ]
    print(f"From {learnt_by}, {learning.seed.nunique()} seed(s).")
    few = list(ours.index[behind])
    print("k-means reconstructs better at n =", few or "no size")
    judged = pd.DataFrame(judged, columns=["line", "images", "verdict"])
    display(judged.set_index("line"))

# %% [markdown]
# Small, grey, centred pictures are easy; the lines are about numbers of pictures, but what decides is how much there is to see in them.
# For your own images, put them in place of these, and look where your curve flattens.
#
# ### Against AION's network
#
# AION's image codec works at the resolution of the pixels first and comes down to that of the tokens in steps; ours works on patches from the start.
# Here both have the same number of tokens, codes, training images and steps, the same loss and scale, and the same number of weights to within three in a hundred.
# AION's is trained with two learning rates, and gets the better one of each seed, chosen on the test pictures; ours has one try.

# %%
against = stored[stored.task == "against AION"]
if len(against):
    weights = against.groupby("method").weights.first()
    print(made_by)
    print(f"networks of {weights.min():,.0f} to {weights.max():,.0f} weights")
    rows = []
    for name, metric in {
        "R2": "r2",
        "PSNR (dB)": "psnr",
        "SSIM": "ssim",
    }.items():
        by_seed = against.pivot(index="seed", columns="method", values=metric)
        theirs = by_seed.drop(columns="ImageCodec").max(axis=1)
        gain, low, high = evaluation.paired_difference(
            by_seed["ImageCodec"], theirs
        )
        rows.append(
            {
                "score": name,
                "ours": by_seed["ImageCodec"].mean(),
                "AION's": theirs.mean(),
                "gain": gain,
                "from": low,
                "to": high,
                "at least as good": low >= 0
                or (len(theirs) == 1 and gain >= 0),
            }
        )
    display(pd.DataFrame(rows).set_index("score").round(4))
else:
    print(NOTHING)

# %% [markdown]
# How fast both encode is measured by `benchmarks/encode_images.py`, at the size of AION's own codec.
# The codec of this page has fewer blocks in the encoder than in the decoder, which makes encoding cheap; the one with *equal halves* has as many in both.

# %%
timed = Path("../benchmarks/results/encode_images.json")
if timed.exists():
    about, speeds = evaluation.read_results(timed)
    print(f"{about['device']}, commit {about['commit'][:7]}; images a second:")
    speeds["images"] = speeds.images_per_second.round(0)
    display(
        speeds.pivot(index=["task", "n"], columns="method", values="images")
    )
else:
    print("It has not been run on a GPU yet.")

# %% [markdown]
# ## Image tokens inside a transformer
#
# Looking codes up in a table, as AION does, forgets that they are places on a grid: each of the thousand rows must be learnt from its own samples, and so must each of the thousand outputs.
# `MultimodalTransformer(embedding="value")` takes a code's coordinates in, through a small network, and gives one small softmax for each of its four numbers, each given those before it: $8 + 5 + 5 + 5$ outputs in place of a thousand.
# By the chain rule these are probabilities of whole codes, so the two can be compared by the *log-score*, the mean log-probability of a true token.
#
# The full profile trains both on image tokens and class together, and asks for random test tokens given random others, the same ones of both, and for the class given all image tokens.
# Each seed has one codec, trained on up to 10,000 pictures, so that only the transformer's training set grows.
# Both get the same steps, and the same 500 further pictures tell which weights to keep.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The same transformer with codes by where they lie and by table (bands are 95 % intervals of the mean over seeds). Higher is better in both panels.", "name": "fig-03-tokens"}, "image": {"alt": "Two panels against the number of training pictures on a logarithmic axis: left the mean log-probability of a test token in nats, right the share of test pictures whose class is predicted correctly. Left: codes by value are level throughout; codes by table start far below and reach them at the right end. Right: codes by value lie well above codes by table and both are level; nearest neighbours on pixels lie above both and rise."}}
inside = stored[stored.task == "tokens in the transformer"]
KINDS = {"value": "by value", "table": "by table", "pixels": "nearest pixels"}
if len(inside):
    left, right = plt.subplots(1, 2, figsize=(7.6, 3.8))[1]
    for ax, metric, name in (
        (left, "log_score", "log-score of a token (nats)"),
        (right, "accuracy", "class accuracy"),
    ):
        plots.learning_curves(ax, inside, metric, KINDS).set_ylabel(name)
        ax.get_legend().remove()
    handles = right.get_legend_handles_labels()
    left.figure.legend(*handles, loc="outside lower center", ncols=3)
    save_figure("tokens")
    plt.show()
else:
    print(NOTHING)

# %% [markdown]
# What is that worth in data?
# For each seed, find on the table's curve, linear in $\log n$, how many pictures it needs to score as well as the other does with $n$; the factor between the two is the *sample efficiency*.
# Where the curve of some seed does not reach so far, the factor is a bound, as the last column says.
# And where the best weights come at the end, the models had not finished learning: the numbers compare what equal steps buy, not what each would reach in the end.


# %%
def pictures_needed(curve, score: float) -> tuple[float, str]:
    """Where ``curve``, scores by n, reaches ``score``, or an end of it and "at ..."."""
    rising = np.maximum.accumulate(curve.to_numpy())
    bound = "at least" if score > rising[-1] else ""
    bound = "at most" if score < rising[0] else bound
    return np.exp(np.interp(score, rising, np.log(curve.index))), bound


rows = []
for name, metric in {"log-score": "log_score", "accuracy": "accuracy"}.items():
    if not len(inside):
        break
    by = inside.pivot(index=["seed", "n"], columns="method", values=metric)
    for n in sorted(inside.n.unique()):
        here = by.xs(n, level="n")
        pairs = [
            pictures_needed(by.table[i], here.value[i]) for i in here.index
        ]
        needed, bounds = zip(*pairs, strict=True)
        factors = np.array(needed) / n
        centre, low, high = np.exp(evaluation.seed_interval(np.log(factors)))
        gain = evaluation.paired_difference(here.value, here.table)
        rows.append(
            {
                "score": name,
                "n": n,
                **{KINDS[m]: here[m].mean() for m in ("value", "table")},
                "gain": gain[0],
                "gain from": gain[1],
                "gain to": gain[2],
                "factor": centre,
                "factor from": low,
                "factor to": high,
                "bound": " or ".join(sorted(set(bounds) - {""})),
            }
        )
if rows:
    print(f"{made_by}, {inside.seed.nunique()} seed(s)")
    trained = inside[inside.method != "pixels"]
    unfinished = (trained.best_step > 0.9 * trained.best_step.max()).mean()
    print(
        f"the best weights came at the end in {unfinished:.0%} of the trainings"
    )
    display(pd.DataFrame(rows).set_index(["score", "n"]).round(3))
else:
    print("Nothing to compute yet.")

# %% [markdown]
# To know where a code lies is worth most with the fewest pictures.
# With the most, the two log-scores can no longer be told apart, and only the class is still predicted better.
# Codes by value hardly gain from more pictures: at these steps it is training that they lack, not data.
# And nearest neighbours on the pixels name the class better than either transformer: tokens earn their place by what they can be joined with.
#
# ## Where it fails
#
# - A network that has seen few pictures, or few steps, can be worse than $k$-means, which takes seconds: always look at both.
# - Squared error blurs. Prints, laces and seams are the first to go, and no score above looks for them.
# - A token does not stand for its patch alone: the network sees the neighbourhood, so one wrong token changes what lies around it.
# - Fashion-MNIST is small, grey and centred. Natural or medical images have more in them, and need more tokens and more images.
# - Nothing here says how many images would be *too many*: the set ends before the last line of the rule.
# - The crops of the Hubble field overlap, and all come from one picture.
#
# ## Summary
#
# - Rounding a few bounded numbers gives a codebook that needs no learning and stays in use.
# - Measure a codec on new pictures, beside something simple at the same rate.
# - Codes on a grid carry their geometry into the transformer; a table throws it away, and must learn it from data.

# %%
summary = (
    f"{len(run[run.task != 'first codec'])} scores over {run.seed.nunique()} seed(s); "
    f"first codec, {num_train:,} pictures, {first_steps} steps: {rate_line(first)} "
    f"(k-means on patches: R2 {opponent['r2']:.3f})"
)
if output_dir:
    keep_results(summary)

# %% [markdown]
# ## Exercises
#
# ```{exercise-start}
# :label: ex-03-one-token
# ```
# How far does one token reach? Change the token in the middle of the shown pictures, and find the share of the change that lies inside its own patch.
# ```{exercise-end}
# ```
#
# ````{solution-start} ex-03-one-token
# :class: dropdown
# ````

# %%
changed = tokens.clone()
changed[:, 24] = (changed[:, 24] + 500) % 1000  # row 3, column 3 of 7 by 7
change = (codec.decode(changed) - codec.decode(tokens)).square().sum((0, 1))
inside_patch = change[12:16, 12:16].sum() / change.sum()
print(f"{inside_patch:.0%} of the change lies inside the token's own patch")

# %% [markdown]
# ````{solution-end}
# ````
#
# ```{exercise}
# :label: ex-03-few
#
# Run `aion-lite run 03 -p num_train=300` and compare the score line with yours.
# What happens with a tenth of the pictures to the codec, and what to $k$-means?
# ```
#
# ## Next
#
# Pictures have two axes.
# The next page does the same for signals along one: time series and spectra.
# AION-1 {cite:p}`parker-2025-aion` tokenises its images with FSQ as well; 4M {cite:p}`mizrahi-2023-4m` showed that one transformer can hold the tokens of many kinds of pictures.
