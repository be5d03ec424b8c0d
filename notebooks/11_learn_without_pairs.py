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
# # Learn without pairs
#
# One archive holds X-rays, another holds lab results. Nobody kept which belongs to whom. Can a model still learn to tell glucose from an X-ray?
#
# **What you'll learn**
#
# - why a perfect cycle, image to labs and back, proves nothing;
# - what does tell which image goes with which labs, and when nothing can;
# - how back-translation works with tokens, and what it keeps of where it began;
# - what 10, 100 or 1,000 true pairs add.
#
# **What you'll need**: [Make data whose answer is known](07_make_data_with_a_known_answer.ipynb), whose patients these are.
#
# **Runtime**: about a minute and a half on two CPU cores with the default parameters. `aion-lite run 11 --profile full` makes every comparison over five seeds with 10,000 images and 10,000 lab rows; it is meant for a GPU, and the page draws its stored results where there are some.

# %% tags=["parameters"]
profile: str = "fast"  # fast: small models, two CPU cores; full: every comparison, on a GPU
seed: int = 0  # of patients, weights, draws; the full profile starts here
num_seeds: int = 5  # seeds of the full profile
num_train: int = 1500  # images, and lab rows of others, in the fast profile
steps: int = 100  # optimiser steps of each training of the fast profile
experiments: list[str] = [
    "none",
    "pairs",
    "all",
    "control",
    "coins",
    "line",
]  # which comparisons the full profile makes
sizes: list[int] = []  # numbers of true pairs; empty: the profile's own
full_steps: int = 0  # steps of each training of the full profile; 0: its own
output_dir: str = ""  # where results.json and the figures go; empty for nowhere

# %% tags=["hide-input"]
import functools
import math
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy import stats
from sklearn.decomposition import PCA
from torch.utils.data import TensorDataset

from aion_lite import evaluation, plots
from aion_lite.codecs import (
    ImageCodec,
    ScalarCodec,
    TokenSpec,
    train_codec,
)
from aion_lite.data import BayesLimit, SyntheticDataGenerator
from aion_lite.data.tokens import TokenDataset
from aion_lite.modalities import Scalar
from aion_lite.model import SIZES, MultimodalTransformer
from aion_lite.strategies.cycle import CycleConsistency, back_translate
from aion_lite.strategies.matching import (
    Skewest,
    copula_correlation,
    match_ranks,
    train_parts,
)
from aion_lite.training import train

EXPERIMENTS = {"none", "pairs", "all", "control", "coins", "line"}
if profile not in ("fast", "full"):
    raise ValueError(f"profile must be 'fast' or 'full', got {profile!r}.")
if not 200 <= num_train <= 10_000:
    raise ValueError(f"num_train must lie in 200..10000, got {num_train}.")
if steps < 1 or full_steps < 0 or num_seeds < 1 or min(sizes, default=5) < 5:
    raise ValueError(
        f"steps and num_seeds must be 1 or more, full_steps 0 or more and "
        f"sizes 5 or more; got {steps}, {num_seeds}, {full_steps}, {sizes}."
    )
if not experiments or not set(experiments) <= EXPERIMENTS:
    raise ValueError(
        f"experiments are {sorted(EXPERIMENTS)}, got {experiments}."
    )
FULL = profile == "full"
ON_GPU = FULL and torch.cuda.is_available()
FASTER = {"mixed_precision": "bf16"} if ON_GPU else {}  # of transformers
if FULL:
    torch.set_float32_matmul_precision("high")  # TF32 products on a GPU
NUM = 10_000 if FULL else num_train
if max(sizes, default=0) > NUM:
    raise ValueError(f"There are {NUM} samples to pair, got sizes {sizes}.")
PAIRS = sizes or ([10, 100, 1000] if FULL else [100])
plt.style.use("style.mplstyle")
started = time.perf_counter()


def save_figure(name: str) -> None:
    """Keep the picture beside the results, if there is a place for results."""
    if output_dir:
        plt.savefig(Path(output_dir) / f"{name}.png")


# %% [markdown]
# ## The smallest case, by hand
#
# A coin $x$ lies in one archive and a coin $y$ in another. In truth $y$ is always the opposite of $x$, and nobody recorded them together.
# A translation there is a table $q(y \mid x)$, and one back is $q(x \mid y)$.
# The *cycle loss* asks whether a coin comes back as itself. Two tables do this perfectly: "the same" and "the opposite".
# So the cycle loss cannot tell them apart; what may is the *marginal*: translations of all $x$ must come up heads as often as $y$ does.

# %% tags=["nbval-check-output"]
same, opposite = np.eye(2), np.eye(2)[::-1]


def cycle_loss(there, back, p):
    """Expected -log probability that x comes back as x."""
    again = (there @ back).diagonal()
    return float(-(p * np.log(again)).sum())


rows = []
for coin, heads in (("fair", 0.5), ("biased", 0.8)):
    x = np.array([heads, 1 - heads])
    y = x @ opposite
    for name, table in (("same", same), ("opposite", opposite)):
        rows.append(
            {
                "coin": coin,
                "translation": name,
                "cycle loss": abs(cycle_loss(table, table.T, x)),
                "marginal off by": abs(x @ table - y).max(),
            }
        )
coins = pd.DataFrame(rows).set_index(["coin", "translation"])
assert (coins["cycle loss"] == 0).all()
coins.round(3)

# %% [markdown]
# With a biased coin the marginal names the translation; with a fair one nothing in the data does. This is no weakness of a method: the two archives look the same under both laws.
#
# ### Back-translation, by hand
#
# *Iterative back-translation* {cite:p}`lample-2018-unsupervised` takes real $y$, translates them to $x$ as well as it can, and learns to find $y$ from that; then the same the other way about, and again.
# Let each half step learn all there is to learn. It begins at a joint table $J$:
#
# $$
# q(x \mid y) \leftarrow \frac{p(x)\, q(y \mid x)}{\sum_{x'} p(x')\, q(y \mid x')},
# \qquad
# q(y \mid x) \leftarrow \frac{p(y)\, q(x \mid y)}{\sum_{y'} p(y')\, q(x \mid y')} .
# $$
#
# The first scales the rows of the joint table to the true $p(x)$ and the second its columns to the true $p(y)$: it is *iterative proportional fitting* {cite:p}`deming-1940-adjustment`.
# Both marginals come right, and the odds ratio $J_{11} J_{22} / (J_{12} J_{21})$ never changes.
# So back-translation cannot find out how strongly, or which way, the two hang together: it keeps what it began with. `back_translate` does this with a transformer, on drawn tokens, and has to end where the formula does.

# %% tags=["nbval-check-output"]
begun = np.array([[0.5, 0.1], [0.15, 0.25]])  # leans to "the same"
first, second = np.array([0.3, 0.7]), np.array([0.4, 0.6])
joint = begun
for _ in range(200):
    joint = joint * (first / joint.sum(1))[:, None]
    joint = joint * (second / joint.sum(0))


def odds_ratio(table) -> float:
    return float(table[0, 0] * table[1, 1] / (table[0, 1] * table[1, 0]))


assert math.isclose(odds_ratio(joint), odds_ratio(begun))


def drawn(table, n: int, draw_seed: int) -> TokenDataset:
    """Pairs of coins."""
    both = np.random.default_rng(draw_seed).choice(4, n, p=table.ravel())
    return TokenDataset(
        {
            "x": torch.tensor(both // 2)[:, None],
            "y": torch.tensor(both % 2)[:, None],
        }
    )


COIN = TokenSpec(1, 2, "nominal")
TINY = {"d_model": 16, "nhead": 2, "num_layers": 1}
coin_model = MultimodalTransformer({"x": COIN, "y": COIN}, **TINY)
usual = {
    "batch_size": 256,
    "lr": 5e-3,
    "optimizer": "adamw",
    "progress": False,
}
train(coin_model, drawn(begun, 4000, 0), steps=150, **usual)
archives = drawn(np.outer(first, second), 8000, 1)  # nothing but marginals
back_translate(coin_model, archives, ["x"], ["y"], rounds=4, steps=60, **usual)
told = coin_model.predict(
    {"x": torch.tensor([[0], [1]])}, "y"
).probabilities.cpu()
learnt = first[:, None] * told.double().numpy()
assert abs(learnt - joint).max() < 0.05, "back-translation ended elsewhere"
print("by formula:", joint.round(1).tolist())
print("the transformer's table within 0.05 of it:", True)

# %% [markdown]
# ## What can tell
#
# A patient's X-ray and labs have a common cause, the severity. If that cause has a law of its own kind, it can be recognised on both sides.
# Sums of many causes look normal; a single skewed one doesn't. So the *skewest* weighted sum of some columns is the nearest to one cause alone: that is independent component analysis {cite:p}`hyvarinen-2000-ica`.
# Find it on either side, match the ranks, and the pairs are back.
# With a normal cause there is nothing to recognise, and the sign comes out by luck. Forty pairs of archives of each kind:


# %%
def archive(cause, rng):
    """Three columns (B, 3) that a cause (B,) and two things of their own move."""
    own = rng.standard_normal((len(cause), 2))
    mix = rng.standard_normal((3, 3)) + 2 * np.eye(3)
    return np.concatenate([cause[:, None], own], 1) @ mix


def recovered(kind: str, one: int) -> float:
    """Correlation of the two sides' skewest sums, over patients that we know are the same."""
    rng = np.random.default_rng([one, kind == "normal"])
    draw = {"skewed": rng.exponential, "normal": rng.standard_normal}[kind]
    cause = draw(size=2000) - (kind == "skewed")
    sides = [archive(cause, rng) for _ in range(2)]
    a, b = (Skewest(side)(side) for side in sides)
    return float(np.corrcoef(a, b)[0, 1])


signs = {
    kind: np.array([recovered(kind, one) for one in range(40)])
    for kind in ("skewed", "normal")
}

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Correlation of what was recognised as the common cause on the two sides, forty pairs of archives of each kind, in order. Right is 1.", "name": "fig-11-signs"}, "image": {"alt": "Two rows of forty dots. The skewed cause: all dots at one. The normal cause: dots scattered on both sides of zero."}}
ax = plt.subplots(figsize=(7.0, 1.9))[1]
for row, (_, values) in enumerate(signs.items()):
    ax.plot(np.sort(values), np.full(40, -row), ".", markersize=6, alpha=0.6)
ax.axvline(0, color="k", linewidth=1)
ax.set(
    xlabel="correlation",
    yticks=[0, -1],
    yticklabels=[f"{kind} cause" for kind in signs],
    ylim=(-1.6, 0.6),
)
save_figure("signs")
plt.show()

# %% tags=["nbval-check-output"]
right = {kind: float((values > 0).mean()) for kind, values in signs.items()}
print("skewed cause, the sign is right every time:", right["skewed"] == 1)
print("normal cause, about half the time:", 0.25 < right["normal"] < 0.75)

# %% [markdown]
# ## Two archives
#
# The images are of some patients, the lab rows, glucose and cholesterol, of others. Only the test patients come with both.

# %%
IMAGE_SIZE = 16
OTHERS, LABS_OF = 2_000_000, 1_000_000  # seeds of test patients and lab rows
FULL_TEST = 2000  # patients of the full profile's test
NUM_TEST = FULL_TEST if FULL else 500
LABS = ("glucose", "cholesterol")


def patients(n: int, of: int, **law):
    return SyntheticDataGenerator(
        n, of, image_size=IMAGE_SIZE, **law
    ).generate_correlated_data()


def lab_rows(samples) -> np.ndarray:
    """(B, 2) glucose and cholesterol."""
    return np.stack([samples.values[n].numpy() for n in LABS], 1)


exact = BayesLimit(SyntheticDataGenerator(image_size=IMAGE_SIZE))
test = patients(NUM_TEST, OTHERS)
LIMIT = exact.predict(test, ["xray"], "glucose").mean


def scores(guess, samples=test, best=None, one: int = 0) -> dict[str, float]:
    """Of guesses (B,) of glucose, or (B, 2) of both labs, on true pairs.

    ``retrieval``: how often the true lab row is among the ten nearest of a hundred.
    """
    truth = lab_rows(samples)
    guess = np.asarray(guess, dtype=float).reshape(len(truth), -1)
    best = LIMIT if best is None else best
    y, g = truth[:, 0], guess[:, 0]
    flat = np.ptp(g) == 0
    found = {
        "rank": 0.0 if flat else float(stats.spearmanr(g, y)[0]),
        "rank_limit": float(stats.spearmanr(best, y)[0]),
        "r2": evaluation.r2(y, g),
        "r2_limit": evaluation.r2(y, best),
    }
    hits, k = [], guess.shape[1]
    unit = truth[:, :k].std(0)
    jitter = np.random.default_rng(one).random((100, 100)) * 1e-9  # of ties
    for start in range(0, len(truth) // 100 * 100, 100):
        part = slice(start, start + 100)
        away = (guess[part, None] - truth[None, part, :k]) / unit
        away = (away**2).sum(2) + jitter
        hits.append((away < away.diagonal()[:, None]).sum(1) < 10)
    return {**found, "retrieval": float(np.concatenate(hits).mean())}


print("labs, test patients, first three:", lab_rows(test)[:3].round().tolist())
print(f"rank correlation at most: {scores(LIMIT)['rank']:.3f}")

# %% [markdown]
# ### The image's side
#
# The images become tokens as [page 07](07_make_data_with_a_known_answer.ipynb) advises: whitened first, so that the tokens keep what is faint, by a codec without layer norms and with weight on bright pixels, so that they keep how bright it is.
# Whitening takes care of everything about a picture that is normal, exposure, body shape and tissue among it; for such parts no pixel tells of another any more.
# What pixels *still* know of each other is what is odd about a picture. `train_parts` learns it with no label: hide a quarter of the pixels, predict them from the rest. The sum of squares of the predictions is the picture's *reading*.


# %%
class Whitened:
    """Pictures in units of how much each direction varies among the training pictures."""

    def __init__(self, images, directions: int = 72):
        flat = images.flatten(1).double().numpy()
        found = PCA(directions, svd_solver="covariance_eigh").fit(flat)
        self.mean, self.axes = (
            torch.tensor(x, dtype=torch.float32)
            for x in (found.mean_, found.components_)
        )
        scale = np.sqrt(found.explained_variance_)
        self.scale = torch.tensor(scale, dtype=torch.float32)
        self.rest = math.sqrt(found.noise_variance_)

    def __call__(self, images):
        """(B, 1, H, W) -> the same shape, without unit."""
        x = images.flatten(1) - self.mean
        along = x @ self.axes.T  # (B, directions)
        x = (x - along @ self.axes) / self.rest + along / self.scale @ self.axes
        return x.reshape(images.shape)

    def leading(self, images):
        """(B,) how far along the direction of most variance."""
        return (images.flatten(1) - self.mean) @ self.axes[0]


LARGE = {"width": 96, "depth": 2, "encoder_depth": 2}
SMALL = {"width": 24, "depth": 1, "encoder_depth": 1}
STEPS = {
    "codec": full_steps or (2000 if FULL else steps),
    "parts": full_steps or (1500 if FULL else steps),
    "model": full_steps or (800 if FULL else steps),
    "back": full_steps or (150 if FULL else max(steps // 5, 1)),
    "all": full_steps or (4000 if FULL else steps),
    "few": full_steps or (400 if FULL else max(steps // 3, 1)),
}
HOW = {
    "batch_size": min(256 if FULL else 64, NUM),
    "progress": False,
}


def views(images):
    """The pictures, in the full profile turned and mirrored: eight times as many."""
    if not FULL:
        return images
    turned = [torch.rot90(images, k, (2, 3)) for k in range(4)]
    return torch.cat([y for x in turned for y in (x, x.flip(3))])


class ImageSide:
    """All that is made from images alone: whitening, codec, reading."""

    def __init__(self, samples, one: int):
        # Asked often, and of the same patients: kept.
        self.codes = functools.cache(self._codes)
        self.readings = functools.cache(self._readings)
        images = samples.values["xray"]
        self.white = Whitened(images)
        torch.manual_seed(one)
        codec = ImageCodec(
            samples.modalities["xray"],
            (16,) * 4,
            2,
            norm=False,
            **(LARGE if FULL else SMALL),
        )
        if not torch.cuda.is_available():
            codec = codec.to(memory_format=torch.channels_last)
        ready = self.white(images)
        # Bright pixels weigh more, as on page 07.
        bright = (1 + (ready / 3) ** 2) ** 0.5
        train_codec(
            codec,
            TensorDataset(
                ready, torch.ones(len(ready), dtype=torch.bool), bright
            ),
            steps=STEPS["codec"],
            lr=3e-3 if FULL else 1e-2,
            ema=0.99 if FULL else 0.97,
            seed=one,
            **HOW,
        )
        self.codec = codec
        shown = views(codec.decode(codec.encode(ready)))
        self.parts, _ = train_parts(
            shown, steps=STEPS["parts"], seed=one, **HOW
        )

    def _codes(self, samples, turn: bool = False):
        """(B, 64) tokens of the pictures, or of all their views."""
        ready = self.white(samples.values["xray"])
        return self.codec.encode(views(ready) if turn else ready)

    def decoded(self, samples):
        """Whitened pictures, as the tokens have them."""
        return self.codec.decode(self.codes(samples))

    def _readings(self, samples) -> dict[str, np.ndarray]:
        """One number (B,) a picture, by how it is made."""
        images, shown = samples.values["xray"], self.decoded(samples)
        shared = self.parts.shared(shown).clamp_min(1e-6).log()
        return {
            "mean pixel": images.mean((1, 2, 3)).numpy(),
            "leading component": self.white.leading(images).numpy(),
            "energy": shown.square().sum((1, 2, 3)).numpy(),
            "shared by parts": shared.numpy(),
        }


BEST_READING = "shared by parts"
images, others = patients(NUM, seed), patients(NUM, LABS_OF + seed)
side = ImageSide(images, seed)
rows = {
    name: {
        "with severity": stats.spearmanr(x, test.values["severity"])[0],
        "with glucose": stats.spearmanr(x, test.values["glucose"])[0],
    }
    for name, x in side.readings(test).items()
}
pd.DataFrame(rows).T.rename_axis("rank correlation on test patients").round(3)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Six test patients, from low to high reading. Top: the X-ray. Middle: decoded from its whitened tokens. Bottom: what the network of parts makes of that, with every pixel in sight.", "name": "fig-11-parts"}, "image": {"alt": "Three rows of six small pictures. Top: blurred chests. Middle: grey noise, with a bright blob in the pictures to the right. Bottom: flat grey, with a faint bright spot at the same place in the last but one, and in the last a strong one, ringed by dark."}}
some = test[:200]
order = side.readings(some)[BEST_READING].argsort()
few = some[order[np.linspace(20, 199, 6).astype(int)]]
shown = side.decoded(few)
with torch.no_grad():
    device = next(side.parts.parameters()).device
    seen = torch.ones_like(shown, dtype=torch.bool).to(device)
    predicted = side.parts(shown.to(device), seen)[0].cpu()
pictures = {
    "X-ray": few.values["xray"] / 1.4,
    "tokens": shown / 8 + 0.4,
    "from the rest": predicted / 3 + 0.4,
}
plots.image_rows(plt.subplots(figsize=(7.2, 3.8))[1], pictures, gap=1)
save_figure("parts")
plt.show()

# %% [markdown]
# No label went into any of these numbers. What is most visible in a picture, its brightness or its leading component, is a nuisance, and says nothing about glucose.
#
# ### The labs' side
#
# Of two columns the skewest sum is quickly found. Its skewness must stand out from chance, or there is nothing to go by:

# %%
table = lab_rows(others)
score = Skewest(table)
weights = score.weights * table.std(0)
print(
    "weights (a standard deviation each):",
    dict(zip(LABS, weights.round(2).tolist(), strict=True)),
)
print(
    f"skewness {score.skewness:.2f}, by chance about {math.sqrt(6 / NUM):.2f}"
)

# %% [markdown]
# ## Match, then learn
#
# Each image gets the lab row of its rank. From such *pseudo-pairs* the transformer learns as from any others, image tokens and reading on one side, labs on the other; then rounds of back-translation, in which it chooses for each lab row an image of the batch by its own law and learns from that.
#
# True pairs, where there are some, come in twice: they tell how loosely image and labs hang together, so that the pseudo-pairs are as loose (`match_ranks(..., correlation=...)`), and they take part in the back-translation.
# Without any, the ranks are matched tightly. Ranks don't mind; the *size* of the differences that such a model predicts is too large, and a squared error minds that.

# %%
NUM_CODES = 256
SHAPE = SIZES["small"] if FULL else {"d_model": 64, "nhead": 4, "num_layers": 1}
IMAGE_NAMES = ["xray", "reading"]


def lab_codecs(labs) -> dict:
    """Scalar codecs of lab rows (B, 2)."""
    return {
        name: ScalarCodec(Scalar(name, unit="mg/dL"), NUM_CODES).fit(
            column.contiguous()
        )
        for name, column in zip(LABS, torch.tensor(labs).T, strict=True)
    }


def image_tokens(side, numbers, samples, turn: bool = False) -> dict:
    reading = torch.tensor(side.readings(samples)[BEST_READING])
    codes = side.codes(samples, turn)
    code = numbers["reading"].encode(reading)
    return {"xray": codes, "reading": code.repeat(len(codes) // len(code), 1)}


def lab_tokens(numbers, labs, times: int = 1) -> dict:
    columns = zip(LABS, torch.tensor(labs).T, strict=True)
    return {
        name: numbers[name].encode(column.contiguous()).repeat(times, 1)
        for name, column in columns
    }


def fit(side, numbers, data, one: int, num_steps: int, watched=None):
    """A transformer trained on pairs, true or made up."""
    specs = {"xray": side.codec.token_spec()}
    specs |= {n: codec.token_spec() for n, codec in numbers.items()}
    specs = {n: spec for n, spec in specs.items() if n in data.tokens}
    hold_out = {"xray": 0.2, "reading": 0.4, "glucose": 0.9, "cholesterol": 0.7}
    places = sum(x.shape[1] for x in data.tokens.values())
    model = MultimodalTransformer(
        specs,
        **SHAPE,
        dropout=0.1 if FULL else 0.0,
        num_inputs=places,
        min_inputs=places,
        num_targets=5,
        hold_out={n: p for n, p in hold_out.items() if n in specs},
        weights={
            n: w for n, w in (("xray", 0.02), ("reading", 0.1)) if n in specs
        },
        regression=3.0,
        seed=one,
    )
    train(
        model,
        data,
        steps=num_steps,
        batch_size=min(HOW["batch_size"], len(data)),
        lr=2e-3 if FULL else 6e-3,
        validation=watched,
        validate_every=250,
        ema=0.99 if FULL else 0.97,
        seed=one,
        progress=False,
        compile=ON_GPU and num_steps >= 1000,  # it takes half a minute
        **FASTER,
    )
    return model


def answers(model, tokens) -> np.ndarray:
    """(B, 2) both labs from image tokens."""
    given = {n: tokens[n] for n in IMAGE_NAMES if n in model.specs}
    return np.stack(
        [model.predict(given, n).mean.cpu().numpy() for n in LABS], 1
    )


def without_pairs(side, samples, labs, one: int, num_pairs: int = 0):
    """Models before and after back-translation, and the tokens of the test patients.

    ``num_pairs``: how many of the patients with images are known with their labs.
    """
    reading, found = side.readings(samples)[BEST_READING], Skewest(labs)
    code_of_reading = ScalarCodec(Scalar("reading"), NUM_CODES)
    numbers = {
        "reading": code_of_reading.fit(torch.tensor(reading)),
        **lab_codecs(labs),
    }
    rank_of = found(labs)
    correlation, pairs, true = 1.0, None, slice(0, num_pairs)
    if num_pairs:
        known = found(lab_rows(samples)[true])
        correlation = float(
            np.clip(copula_correlation(reading[true], known), -1, 1)
        )
        pairs = TokenDataset(
            {
                **image_tokens(side, numbers, samples[true]),
                **lab_tokens(numbers, lab_rows(samples)[true]),
            }
        )
    rows = match_ranks(reading, rank_of, correlation, one)
    codes = image_tokens(side, numbers, samples, turn=True)
    times = len(codes["xray"]) // len(reading)
    pseudo = TokenDataset({**codes, **lab_tokens(numbers, labs[rows], times)})
    model = fit(side, numbers, pseudo, one, STEPS["model"])
    tokens = image_tokens(side, numbers, test)
    matched = answers(model, tokens)
    archives = TokenDataset({**codes, **lab_tokens(numbers, labs, times)})
    back_translate(
        model,
        archives,
        IMAGE_NAMES,
        list(LABS),
        rounds=3 if FULL else 1,
        steps=STEPS["back"],
        pairs=pairs,
        settings={"draw": "choose", "first_weight": 0.02, "pair_weight": 0.3},
        lr=1e-3,
        ema=0.97,
        seed=one,
        **HOW,
        **FASTER,
    )
    return matched, answers(model, tokens)


def supervised(side, samples, n: int, one: int) -> np.ndarray:
    """Answers of a transformer that had n true pairs and nothing else."""
    some = samples[:n]
    numbers = lab_codecs(lab_rows(some))

    def pairs_of(part, turn):
        codes = side.codes(part, turn)
        labs = lab_tokens(numbers, lab_rows(part), len(codes) // len(part))
        return TokenDataset({"xray": codes, **labs})

    aside = n // 10 if FULL and n >= 1000 else 0  # tell which weights to keep
    data = pairs_of(some[: n - aside], True)
    watched = pairs_of(some[n - aside :], False) if aside else None
    num_steps = STEPS["all" if n == NUM else "few"]
    model = fit(side, numbers, data, one, num_steps, watched)
    return answers(model, {"xray": side.codes(test)})


# %% [markdown]
# The bookkeeping of all comparisons is folded away.

# %% tags=["hide-input"]
records = []
GLUCOSE = "glucose from the X-ray"
LINE = "line on the reading"
METHODS = [
    "constant",
    "exact",
    "ranks: mean pixel",
    "ranks: leading component",
    "ranks: energy",
    "ranks: " + BEST_READING,
    "matched",
    "back-translated",
    "supervised",
]  # in the order of the tables
COLUMNS = {
    GLUCOSE: ["rank", "rank_limit", "r2", "r2_limit", "retrieval"],
    LINE: ["rank", "rank_limit", "r2", "r2_limit"],
    "rho 0": ["rank", "r2", "skewness"],
    "coins": ["loss", "right"],
}  # of each comparison


def keep(task, method, n, one, found) -> None:
    numbers = {k: float(v) for k, v in found.items()}
    records.append(
        {"task": task, "method": method, "n": n, "seed": one, **numbers}
    )


def made(one: int):
    """(image's side, images, lab rows of others) of one seed."""
    if one == seed:
        return side, images, table
    samples = patients(NUM, one)
    labs = lab_rows(patients(NUM, LABS_OF + one))
    return ImageSide(samples, one), samples, labs


def run_none(side, samples, labs, one: int) -> None:
    constant = np.tile(labs.mean(0), (NUM_TEST, 1))
    keep(GLUCOSE, "constant", 0, one, scores(constant, one=one))
    keep(GLUCOSE, "exact", 0, one, scores(LIMIT, one=one))
    rank_of = Skewest(labs)(labs)
    for name, reading in side.readings(test).items():
        guess = labs[match_ranks(reading, rank_of)]
        keep(GLUCOSE, f"ranks: {name}", 0, one, scores(guess, one=one))
    for method, guess in zip(
        ("matched", "back-translated"),
        without_pairs(side, samples, labs, one),
        strict=True,
    ):
        keep(GLUCOSE, method, 0, one, scores(guess, one=one))


def run_pairs(side, samples, labs, one: int) -> None:
    for n in PAIRS:
        for method, guess in zip(
            ("matched", "back-translated"),
            without_pairs(side, samples, labs, one, n),
            strict=True,
        ):
            keep(GLUCOSE, method, n, one, scores(guess, one=one))
        guess = supervised(side, samples, n, one)
        keep(GLUCOSE, "supervised", n, one, scores(guess, one=one))


def run_all(side, samples, one: int) -> None:
    guess = supervised(side, samples, NUM, one)
    keep(GLUCOSE, "supervised", NUM, one, scores(guess, one=one))


def run_line(side, samples, one: int) -> None:
    """The least that pairs can be used for: glucose as a line in the reading, which is made without any."""
    seen, new = (side.readings(x)[BEST_READING] for x in (samples, test))
    glucose = lab_rows(samples)[:, 0]
    for n in (*PAIRS, NUM):
        guess = np.polyval(np.polyfit(seen[:n], glucose[:n], 1), new)
        keep(LINE, LINE, n, one, scores(guess, one=one))


def run_control(side, one: int) -> None:
    """rho = 0. Images by themselves follow the same law there, so the image's side is that of before."""
    labs = lab_rows(patients(NUM, LABS_OF + one, rho=0.0))
    new = patients(NUM_TEST, OTHERS, rho=0.0)
    found = Skewest(labs)
    guess = labs[match_ranks(side.readings(new)[BEST_READING], found(labs))]
    truth = lab_rows(new)[:, 0]
    keep(
        "rho 0",
        "ranks: " + BEST_READING,
        0,
        one,
        {
            "rank": stats.spearmanr(guess[:, 0], truth)[0],
            "r2": evaluation.r2(truth, guess[:, 0]),
            "skewness": found.skewness,
        },
    )


def run_coins(one: int, starts: int, num_steps: int) -> None:
    """Cycles with a marginal on coins, y = not x; of several starts the one with the least loss."""
    where = torch.tensor([[-1.0], [1.0]])
    spec = TokenSpec(1, 2, "ordinal", where, where[:, 0])
    for name, heads in (("fair", 0.5), ("biased", 0.8)):
        x = np.array([heads, 1 - heads])
        archives = drawn(np.outer(x, x[::-1]), 2000, one)
        tried = []
        for start in range(starts):
            model = MultimodalTransformer(
                {"x": spec, "y": spec},
                **TINY,
                smoothing=0.0,
                regression=0.0,
                seed=100 * one + start,
            )
            history = train(
                CycleConsistency(model, ["x"], ["y"], marginal_weight=2.0),
                archives,
                steps=num_steps,
                batch_size=64,
                lr=2e-2,
                optimizer="adamw",
                seed=100 * one + start,
                progress=False,
            )
            coin = {"x": torch.tensor([[0], [1]])}
            told = model.predict(coin, "y").probabilities.cpu()
            truth = float(
                torch.tensor(x, dtype=torch.float32) @ told.flip(1).diagonal()
            )
            tried.append((history.records[-1]["loss"], truth))
        loss, truth = min(tried)
        keep("coins", name, 0, one, {"loss": loss, "right": truth})


for one in range(seed, seed + (num_seeds if FULL else 1)):
    asked = set(experiments) if FULL else EXPERIMENTS
    if asked != {"coins"}:
        own_side, *archives = made(one)
    if "none" in asked:
        run_none(own_side, *archives, one)
    if "pairs" in asked:
        run_pairs(own_side, *archives, one)
    if "all" in asked:
        run_all(own_side, archives[0], one)
    if "line" in asked:
        run_line(own_side, archives[0], one)
    if "control" in asked:
        run_control(own_side, one)
    if "coins" in asked:
        starts, num_steps = (4, 400) if FULL else (1, 3 * steps // 2)
        run_coins(one, starts, full_steps or num_steps)
run = pd.DataFrame(records)


def keep_results(summary: str) -> None:
    evaluation.write_results(
        Path(output_dir) / "results.json",
        summary,
        records,
        data="synthetic patients, X-rays of 16 pixels, labs of others",
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


if output_dir:  # before anything is drawn, so that nothing computed is lost
    keep_results(f"{len(records)} scores")
where = Path("results/11_learn_without_pairs.json")
stored, made_by = evaluation.stored_or_run(where, run, FULL)
print("The figures and tables below show", made_by + ".")


def part(task: str):
    """A comparison, and what made it: this run where the full run has none.

    Rows in the order of ``METHODS``; both may be without any where a run was of some experiments only.
    """
    found, by = stored[stored.task == task], made_by
    if not len(found):
        found, by = run[run.task == task], "this run"
    place = {method: i for i, method in enumerate(METHODS)}
    order = found.method.map(place).fillna(len(place))
    found = found.assign(order=order).sort_values(["n", "order", "seed"])
    return found.reindex(columns=["method", "n", "seed", *COLUMNS[task]]), by


NOTHING = (
    "There is no such comparison: not stored yet, and not made in this run."
)


def as_text(interval, digits: int = 3) -> str:
    """Mean over seeds, with its 95 % interval where there are several."""
    mean, low, high = interval
    text = f"{mean:.{digits}f}"
    if math.isfinite(low):
        text += f" ({low:.{digits}f} to {high:.{digits}f})"
    return text


# %% [markdown]
# ## How good is it?
#
# On test patients, whose pairs are true and were never seen. The loss of a cycle or of back-translation is not looked at: we saw what it is worth.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Rank correlation of true glucose with what each method says from the X-ray, by how many true pairs it had (lines are 95 % intervals of the mean over seeds, small dots the seeds). Dashed: what the exact law reaches.", "name": "fig-11-scores"}, "image": {"alt": "Rows of methods. The constant is at zero and ranks of the mean pixel or of the leading component hardly above it; ranks of the energy come far, those of what parts share further. Level with these, a little left of the dashed line, are the transformers without pairs, with 100 and with 1,000, and the supervised one with 10,000. Supervised with 10 pairs is near zero, with 100 half way, with 1,000 not far behind. With 10 pairs ours are to the left of themselves without any, with intervals that span most of the picture: four seeds as good as ever, one far off."}}
found, found_by = part(GLUCOSE)
if len(found):
    ax = plt.subplots(figsize=(7.0, 4.6))[1]
    groups = list(found.groupby(["method", "n"], sort=False))
    colour = {"ranks": "C1", "matched": "C2", "back-translated": "C0"}
    for row, ((method, _), group) in enumerate(groups):
        mean, low, high = evaluation.seed_interval(group["rank"])
        how = {"color": colour.get(method.split(":")[0], "C3")}
        ax.plot(mean, -row, "o", **how)
        seeds = group["rank"], [-row] * len(group)
        ax.plot(*seeds, "k.", markersize=3, zorder=3)
        if math.isfinite(low):
            ax.plot([low, high], [-row, -row], linewidth=2, **how)
    ax.axvline(found.rank_limit.mean(), color="k", linestyle="--", linewidth=1)
    labels = [f"{method}, {n:,} pairs" for (method, n), _ in groups]
    ax.set(xlabel="rank correlation with glucose")
    ax.set_yticks(range(0, -len(groups), -1), labels)
    save_figure("scores")
    plt.show()
else:
    print(NOTHING)

# %% tags=["hide-input"]
rows = []
for (method, n), group in found.groupby(["method", "n"], sort=False):
    shares = evaluation.share_of_limit(group.r2, group.r2_limit)
    rows.append(
        {
            "method": method,
            "pairs": n,
            "rank correlation": as_text(
                evaluation.seed_interval(group["rank"])
            ),
            "R2": as_text(evaluation.seed_interval(group.r2)),
            "share of the attainable R2": as_text(shares),
            "among ten of a hundred": as_text(
                evaluation.seed_interval(group.retrieval)
            ),
        }
    )
print(f"From {found_by}, {found.seed.nunique()} seed(s).")
if rows:
    display(pd.DataFrame(rows).set_index(["method", "pairs"]))

# %% [markdown]
# The claims of this page, one by one, seed by seed on the same patients:


# %% tags=["hide-input"]
def of(method: str, n: int, score: str = "rank") -> pd.Series:
    """Rank correlations, or other scores, by seed."""
    rows = found[(found.method == method) & (found.n == n)]
    return rows.set_index("seed")[score].sort_index()


def compared(ours, rival, share: float = 1.0):
    """Ours less a share of a rival's, over the seeds that both have."""
    both = ours.index.intersection(rival.index)
    return (
        evaluation.seed_interval(ours[both] - share * rival[both])
        if len(both)
        else None
    )


OURS = "back-translated"
best_supervised = found[found.method == "supervised"].n.max()
claims = {
    "no pairs, above the constant": (of(OURS, 0), of("constant", 0), 1.0),
    **{
        f"no pairs, above ranks of the {name}": (
            of(OURS, 0),
            of(f"ranks: {name}", 0),
            1.0,
        )
        for name in ("mean pixel", "leading component", "energy")
    },
    "no pairs, above 0.7 of the supervised": (
        of(OURS, 0),
        of("supervised", best_supervised),
        0.7,
    ),
    "100 pairs, above 0.9 of the supervised": (
        of(OURS, 100),
        of("supervised", best_supervised),
        0.9,
    ),
    "the same in R2": (
        of(OURS, 100, "r2"),
        of("supervised", best_supervised, "r2"),
        0.9,
    ),
    "no pairs, above the ranks it was matched by": (
        of(OURS, 0),
        of(f"ranks: {BEST_READING}", 0),
        1.0,
    ),
}
rows = []
for claim, (ours, rival, share) in claims.items():
    interval = compared(ours, rival, share)
    if interval is not None:
        mean, low, _ = interval
        holds = (
            "one seed tells little" if not math.isfinite(low) else bool(low > 0)
        )
        rows.append(
            {"claim": claim, "difference": as_text(interval), "holds": holds}
        )
if rows:
    display(pd.DataFrame(rows).set_index("claim"))

# %% [markdown]
# In the fast profile the supervised transformer has too few steps to learn to read the tokens at all, and the comparison with it means little there. In the full profile, with all pairs, it gets more than twice the steps of ours; with few pairs, fewer steps. It has no reading to go by and is no limit: the dashed line is.
#
# Read the last claim with care: what parts of a picture share, matched by rank, is the method's own beginning, and the transformer learns from nothing else. It need not beat it.
# Back-translation by itself changes nothing here, as the page's first formula said it would.
# A hundred pairs begin to set the scale, just short of nine tenths of the supervised $R^2$. They add nothing to the order, and the true lab row is found less often than before (the exact law is asked for glucose alone there, the others for both labs).
# Of ten pairs, look at the seeds: four gain a little in $R^2$; in one, ten patients happened to show no relation, the labs were matched as loosely as that, and what had been known without any pair was lost. Ten pairs are too few to set a scale by, and too few to check with.
#
# Is the transformer needed at all? The reading is made without a pair. Draw a line through it and the glucose of the pairs there are:

# %% tags=["hide-input"]
line, line_by = part(LINE)
if len(line):
    print(f"From {line_by}, {line.seed.nunique()} seed(s).")
    means = line.groupby("n")[["rank", "r2", "rank_limit", "r2_limit"]].mean()
    display(means.rename_axis("pairs").round(3))
else:
    print(NOTHING)

# %% [markdown]
# For one lab, that is hard to beat: what was to be learnt was learnt when the reading was made. With a hundred pairs the line does as well as the transformers; with a thousand they are ahead by a little, as they may bend where it cannot. With ten it is worse, at most seeds, than they are without any, and at its worst not as far off as they are.
# A transformer gives each lab a law, too, and takes in whatever else is known of a patient; if you need neither, take the line.
#
# ### Nothing to find
#
# With `rho=0` labs and images have nothing in common. Ranks can be matched all the same, and a model would learn the pseudo-pairs as gladly as before. Only true pairs show that there is nothing in them; the skewness of the labs gives a warning.

# %% tags=["hide-input"]
control, control_by = part("rho 0")
print(f"From {control_by}, {control.seed.nunique()} seed(s).")
if len(control):
    for column in ("rank", "r2", "skewness"):
        print(column, as_text(evaluation.seed_interval(control[column])))

# %% tags=["nbval-check-output"]
if len(control):
    tested = NUM_TEST if control_by == "this run" else FULL_TEST
    chance = 4 / math.sqrt(tested)  # four standard errors of a correlation
    print("no skill at rho = 0:", bool((control["rank"].abs() < chance).all()))

# %% [markdown]
# ### Cycles alone
#
# The notes this book set out from proposed a cycle loss through `predict`. Through the likeliest tokens no gradient passes, so it would train nothing; `CycleConsistency` draws the tokens in between with *straight-through Gumbel* {cite:p}`jang-2017-gumbel`, which has one, and holds the translations to the real marginal.
# On the coins, of several starts the one with the lowest loss:

# %% tags=["hide-input"]
coin_runs, coins_by = part("coins")
print(f"From {coins_by}, {coin_runs.seed.nunique()} seed(s).")
if len(coin_runs):
    rows = {
        name: {
            "probability given to the truth": group.right.mean(),
            "right": (group.right > 0.9).sum(),
            "wrong": (group.right < 0.1).sum(),
            "undecided": group.right.between(0.1, 0.9).sum(),
            "loss": group.loss.mean(),
        }
        for name, group in coin_runs.groupby("method", sort=False)
    }
    display(pd.DataFrame(rows).T)

# %% [markdown]
# The fair coin's loss is as low when the answer is wrong. A start from which nothing is told either way has no gradient to leave by, so a run may never begin. With images on one side, where most tokens are noise, we have not tried cycles alone.
#
# ## Where it fails
#
# - It rests on one assumption: that the skewest cause of the labs is what is odd about the images. Here it is true by law. Two archives with *different* skewed causes would be matched just as confidently, and no loss would tell.
# - Where the law is symmetric, or nothing links the sides, the answer is luck. Look at the skewness, and get a few true pairs.
# - Without pairs the size of differences isn't known, only their order, and how loosely the sides hang together is poorly known from a few.
# - Several readings can be made of a picture. That the parts give the best was seen on true pairs, while this page was made; an archive without any cannot tell.
# - Both archives must be of the same kind of patients. A hospital with sicker patients has other ranks.
#
# ## Summary
#
# - A perfect cycle is no evidence. Score on true pairs, and on more than a handful.
# - Marginals identify what they are asymmetric in, and nothing else.
# - Back-translation makes marginals right and keeps the odds it began with. Begin somewhere that means something.
# - A hundred pairs are worth more as a check and a scale than as training data.

# %% tags=["hide-input"]
ours = run[(run.task == GLUCOSE) & (run.method == OURS)] if len(run) else run
summary = f"{len(records)} scores over {run.seed.nunique()} seed(s)"
if len(ours):
    summary += "; rank correlation by pairs: " + ", ".join(
        f"{n} {group['rank'].mean():.3f}" for n, group in ours.groupby("n")
    )
if output_dir:
    keep_results(summary)

# %% [markdown]
# ## Exercises
#
# ```{exercise-start}
# :label: ex-11-reversed
# ```
# Match the ranks the wrong way round, as someone may who thinks that ill pictures go with low glucose. What do true pairs say, and would the marginals have told?
# ```{exercise-end}
# ```
#
# ````{solution-start} ex-11-reversed
# :class: dropdown
# ````

# %%
rank_of = Skewest(table)(table)
for sign in (1, -1):
    rows = match_ranks(sign * side.readings(test)[BEST_READING], rank_of)
    guess = table[rows, 0]
    print(
        f"{'right' if sign > 0 else 'wrong'} way: rank correlation",
        f"{stats.spearmanr(guess, test.values['glucose'])[0]:.2f}, mean glucose",
        f"{guess.mean():.0f} mg/dL",
    )

# %% [markdown]
# Both have the right marginal: matching ranks gives it by construction. What was asymmetric was the *cause*, and the wrong way pairs its long tail with the labs' short one.
#
# ````{solution-end}
# ````
#
# ```{exercise}
# :label: ex-11-labs
#
# Leave cholesterol out, so that glucose is the only column. What is the skewest sum then, and what does the rank correlation lose? Guess first.
# ```
#
# ## Further reading
#
# Unsupervised translation by back-translation is {cite:t}`lample-2018-unsupervised`'s; cycles are {cite:t}`zhu-2017-cyclegan`'s. Matching ranks is optimal transport on a line {cite:p}`santambrogio-2015-transport`. That back-translation by choice within a batch is a step of expectation maximisation {cite:p}`dempster-1977-em` explains why it cannot do worse on the marginal, and says nothing about the pairs.
