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
# # Pretrain without labels
#
# You have sixty thousand pictures and labels for a hundred. What are the others worth?
# An encoder can learn from them what belongs together, before it sees a label. This page measures how many labels that saves.
#
# **What you'll learn**
#
# - how MoCo works, from a loss, an average and a queue of a few lines each;
# - that MoCo, SimCLR and BYOL are one call, for pictures, series and spectra;
# - how batch normalisation lets a contrastive encoder cheat, and why a shuffle alone does not stop it;
# - how to turn "needs less labelled data" into a factor with an interval.
#
# **What you'll need**: what a codec is, from [Tokenise an image](03_tokenise_an_image.ipynb).
#
# **Runtime**: about a minute and a half on two CPU cores with the default parameters. `aion-lite run 09 --profile full -p data_dir=FOLDER` pretrains on all of Fashion-MNIST, on wrist motion and on supernovae over five seeds; it is meant for a GPU, and the page draws its stored results where there are some.

# %% tags=["parameters"]
profile: str = "fast"  # fast: small encoders, two CPU cores; full: every comparison, on a GPU
seed: int = 0  # of weights, views, labels drawn; the full profile starts here
num_seeds: int = 5  # seeds of the full profile
experiments: list[str] = [
    "knn",
    "images",
    "watch",
    "supernovae",
    "norm",
]  # which comparisons the full profile makes
sizes: list[int] = []  # labelled images; empty for the profile's own
steps: int = 500  # steps of each pretraining of the fast profile
full_steps: int = 0  # steps of each training of the full profile; 0: its own
data_dir: str = ""  # folder with all of Fashion-MNIST and supernovae.npz; empty for our samples
output_dir: str = ""  # where results.json and the figures go; empty for nowhere

# %% tags=["hide-input"]
import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils.data import TensorDataset

from aion_lite import evaluation, plots
from aion_lite.codecs import (
    ImageCodec,
    SpectrumCodec,
    TimeSeriesCodec,
    evaluate_codec,
    train_codec,
)
from aion_lite.data import (
    MultimodalDataset,
    load_fashion_mnist,
    load_supernovae,
    load_watch,
)
from aion_lite.strategies.augmentation import (
    augment_images,
    augment_spectrum,
    augment_timeseries,
)
from aion_lite.strategies.contrast import MoCo, SplitBatchNorm, pooled
from aion_lite.strategies.self_supervised import (
    METHODS,
    features,
    knn_accuracy,
    pretrain,
)
from aion_lite.training import batch_rows, evaluate_loss, train

EXPERIMENTS = {"knn", "images", "watch", "supernovae", "norm"}
if profile not in ("fast", "full"):
    raise ValueError(f"profile must be 'fast' or 'full', got {profile!r}.")
if not experiments or not set(experiments) <= EXPERIMENTS:
    raise ValueError(
        f"experiments are {sorted(EXPERIMENTS)}, got {experiments}."
    )
if steps < 2 or full_steps < 0 or num_seeds < 1:
    raise ValueError(
        f"steps must be 2 or more, num_seeds 1 or more, full_steps 0 or more; "
        f"got {steps}, {num_seeds}, {full_steps}."
    )
FULL = profile == "full"
if FULL:
    torch.set_float32_matmul_precision("high")  # TF32 products on a GPU
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
plt.style.use("style.mplstyle")
started = time.perf_counter()


def save_figure(name: str) -> None:
    """Keep the picture beside the results, if there is a place for results."""
    if output_dir:
        plt.savefig(Path(output_dir) / f"{name}.png")


# %% [markdown]
# ## Two views of one thing
#
# Cut a part out of a picture, stretch it a little, change the light: it still shows the same shirt.
# Two such copies are two *views*.
# The task that needs no label is to know, among many pictures, which two are views of the same one.
# Whoever solves it must have found something in a picture that survives the changes, and that is often what the label is about, too.
#
# The views decide what is learnt: what differs between two views of one picture is what the encoder is told to forget.
# These pictures are Fashion-MNIST's {cite:p}`xiao-2017-fashion`. A shirt upside down never occurs there, nor one aslant, so flips and turns are left out.

# %%
clothes = load_fashion_mnist(data_dir or None)
tested = load_fashion_mnist(data_dir or None, split="test")
IMAGE = clothes.modalities["image"]
if min(sizes, default=40) < 40 or max(sizes, default=40) > len(clothes) // 2:
    raise ValueError(f"sizes lie in 40..{len(clothes) // 2}, got {sizes}.")
LIGHT_AND_PLACE = ("crop", "brightness", "contrast")
image_view = partial(augment_images, strength=2.5, transforms=LIGHT_AND_PLACE)

# %% mystnb={"figure": {"caption": "Ten pictures, and two views of each.", "name": "fig-09-views"}, "image": {"alt": "Three rows of ten pictures of clothes, one of each class. Top: as they are. Below: two rows of views, parts of half the picture or more, stretched, lighter or darker."}}
classes = clothes.values["class"]
one_each = [int((classes == k).nonzero()[0, 0]) for k in range(10)]
shown = clothes.values["image"][one_each]
g = torch.Generator().manual_seed(0)
rows = {"as it is": shown}
rows |= {f"view {i}": image_view(shown, generator=g) for i in (1, 2)}
plots.image_rows(plt.subplots(figsize=(7.4, 2.4))[1], rows)
save_figure("views")
plt.show()

# %% [markdown]
# ## The smallest MoCo
#
# MoCo {cite:p}`he-2020-moco` has three parts.
# **The loss** is a multiple choice. A *query* $q$ is the embedding of one view, its *key* $k_+$ that of the other; beside it stand $K$ keys of other pictures. All are vectors of length one, and $\tau$ is a temperature:
#
# $$
# \mathcal{L} = -\log \frac{\exp(q \cdot k_+ / \tau)}{\exp(q \cdot k_+ / \tau) + \sum_{i=1}^{K} \exp(q \cdot k_i / \tau)} .
# $$


# %%
def multiple_choice(q, k, queue, temperature):
    """q, k (B, D) and the keys of others (K, D), unit vectors -> the mean loss."""
    right = (q * k).sum(1, keepdim=True)  # (B, 1)
    wrong = q @ queue.T  # (B, K)
    logits = torch.cat([right, wrong], 1) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).mean()


# %% [markdown]
# **The queue** holds the keys of the last steps, so that there are many wrong answers without a large batch.
#
# **The average.** Keys in the queue were made by the encoder of some steps ago. If it changed fast, they could not be compared. So keys are made by a second encoder, which follows the first slowly, and which no gradient enters.


# %%
class Queue:
    def __init__(self, keys):
        self.keys, self.at = keys, 0

    def add(self, new):
        for key in new:  # the oldest makes room
            self.keys[self.at] = key
            self.at = (self.at + 1) % len(self.keys)


@torch.no_grad()
def follow(average, weights, momentum):
    for a, w in zip(average, weights, strict=True):
        a.mul_(momentum).add_((1 - momentum) * w)


# %% [markdown]
# That is all. A step moves the average, makes two views, asks about one of them, learns, and puts the keys into the queue.
# `encoder` is the codec's, averaged over its patches; `head` is a small network that is thrown away afterwards.


# %%
def step(encoder, average, queue, optimizer, x, momentum=0.9, temperature=0.2):
    """One step on images x (B, 1, H, W) -> the loss."""
    follow(average.parameters(), encoder.parameters(), momentum)
    a, b = image_view(x), image_view(x)
    q = F.normalize(encoder(a), dim=1)
    with torch.no_grad():
        k = F.normalize(average(b), dim=1)
    loss = multiple_choice(q, k, queue.keys.clone(), temperature)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    queue.add(k)
    return loss.item()


# %% [markdown]
# The package's `MoCo` has to do the same. Both start from the same weights and the same queue and see the same views; after ten steps losses, averages and queues must agree.


# %% tags=["nbval-check-output"]
class Embedding(nn.Module):
    """A codec's encoder and a head: what both of MoCo's networks are made of."""

    def __init__(self, codec, encoder, head):
        super().__init__()
        self.encoder, self.head, self.codec = encoder, head, [codec]

    def forward(self, x):
        seen = torch.ones(len(x), dtype=torch.bool)
        return self.head(pooled(self.codec[0], self.encoder, x, seen))


torch.manual_seed(seed)
tiny = ImageCodec(IMAGE, width=16, depth=1, encoder_depth=1)
few = clothes.values["image"][:100]
tiny.fit_scale(few)
moco = MoCo(
    tiny,
    partial(image_view),
    norm="layer",
    symmetric=False,
    momentum=0.9,
    queue_size=50,
    dim=8,
)
by_hand = copy.deepcopy(moco)
encoder = Embedding(by_hand.codec, by_hand.codec.encoder, by_hand.head)
average = Embedding(by_hand.codec, by_hand.encoder_k, by_hand.head_k)
queue = Queue(by_hand.queue.keys)
mine = torch.optim.SGD(encoder.parameters(), lr=0.1)
theirs = torch.optim.SGD(moco.parameters(), lr=0.1)
losses = []
for i in range(10):
    x = few[batch_rows(len(few), 16, seed, i)]
    torch.manual_seed(i)  # the same views
    one = step(encoder, average, queue, mine, x)
    torch.manual_seed(i)
    loss, _ = moco.loss(x, torch.ones(len(x), dtype=torch.bool))
    theirs.zero_grad()
    loss.backward()
    theirs.step()
    losses.append((one, loss.item()))
agree = {
    "losses": np.ptp(np.array(losses), axis=1).max(),
    "weights": max(
        (p - q).abs().max().item()
        for p, q in zip(by_hand.parameters(), moco.parameters(), strict=True)
    ),
    "queues": (queue.keys - moco.queue.keys).abs().max().item(),
}
for name, difference in agree.items():
    assert difference < 1e-4, f"{name} differ by {difference}"
    print(f"{name} agree after {len(losses)} steps: True")

# %% [markdown]
# ## One call, three methods
#
# `pretrain` does this for a codec's encoder, whatever it reads: `ImageCodec`, `TimeSeriesCodec`, `SpectrumCodec`.
# With it come two relatives. **SimCLR** {cite:p}`chen-2020-simclr` takes the wrong answers from the batch, and needs no queue and no second encoder, but a large batch.
# **BYOL** {cite:p}`grill-2020-byol` has no wrong answers at all: a small network must *predict* the key of the other view. Nothing forbids that all embeddings become the same; watch `spread`, which is about one where they fill the sphere and zero where they have collapsed.
#
# The series are the motion of a wrist in seven exercises of physiotherapy {cite:p}`burns-2018-shoulder`, three seconds at a time. A *side* is all that the page needs to know of one kind of data.


# %%
@dataclass
class Side:
    """One kind of data: what is pretrained on, where labels are drawn, and what nobody sees before the test."""

    name: str  # the modality that is read
    label: str  # the category to predict
    pool: MultimodalDataset  # to pretrain on; no label is used
    labelled: MultimodalDataset
    test: MultimodalDataset
    new: Callable  # a codec with random weights
    view: Callable  # of pretraining
    change: Callable  # the milder one of training with labels
    parts: int  # of the encoder's grid, along each axis
    by_object: bool = False  # whether labels are drawn by object


def known(side: Side, samples) -> tuple:
    """(values, present) of what the encoder reads."""
    return samples.values[side.name], samples.present[side.name]


WIDTH = (
    {"width": 128, "depth": 2, "encoder_depth": 3}
    if FULL
    else {"width": 32, "depth": 1, "encoder_depth": 1}
)
PATCH = 4 if FULL else 7  # pixels a side
images = Side(
    name="image",
    label="class",
    pool=clothes.select(["image"]),
    labelled=clothes,
    test=tested[: 2000 if FULL else 400],
    new=lambda: ImageCodec(IMAGE, patch=PATCH, **WIDTH),
    view=image_view,
    change=partial(augment_images, strength=1.0, transforms=LIGHT_AND_PLACE),
    parts=2,
)
people, others = load_watch().split(test=3, seed=0)  # of ten; no one on both
MOTION = people.modalities["motion"]
watch = Side(
    name="motion",
    label="exercise",
    pool=people.select(["motion"]),
    labelled=people,
    test=others if FULL else others[::2],
    new=lambda: TimeSeriesCodec(MOTION, patch=10, **WIDTH),
    view=augment_timeseries,
    change=partial(augment_timeseries, strength=0.5),
    parts=3,
)


new = {}  # codecs with random weights


def fresh(side: Side, seed: int):
    """A codec with random weights that knows the scale of its data."""
    if (side.name, seed) not in new:
        torch.manual_seed(seed)
        codec = side.new().to(DEVICE)
        codec.fit_scale(*known(side, side.pool))
        new[side.name, seed] = codec.eval()
    return copy.deepcopy(new[side.name, seed])


BATCH = 256 if FULL else 64
LR = 6e-3 if FULL else 4e-3
made = {}  # what was pretrained in this run already


def pretrained(side: Side, method: str, seed: int, num_steps: int, look=None):
    """(codec whose encoder was pretrained, history); ``look(step, codec)`` is called before each step."""
    key = (side.name, method, seed, num_steps)
    if key not in made:
        codec = fresh(side, seed)
        history = pretrain(
            codec,
            TensorDataset(*known(side, side.pool)),
            method=method,
            augment=side.view,
            steps=num_steps,
            batch_size=BATCH,
            lr=LR,
            symmetric=False,  # one view asks, the other answers: half the cost
            seed=seed,
            log_every=max(num_steps // 4, 1),
            progress=False,
            record=True,  # to look changes nothing
            on_step=look and (lambda step, module: look(step, module.codec)),
        )
        made[key] = codec, history
    return made[key]


BRIEF = (
    min(20, full_steps or 20) if FULL else max(steps // 5, 1)
)  # there is more of it below
rows = []
for side in (images, watch):
    for method in METHODS:
        last = pretrained(side, method, seed, BRIEF)[1].records[-1]
        row = {"data": side.name, "method": method, "steps": BRIEF}
        rows.append(row | {k: last[k] for k in ("loss", "spread")})
pd.DataFrame(rows).set_index(["data", "method"]).round(2)

# %%
for row in rows:
    print(
        row["data"],
        row["method"],
        "spreads over the sphere:",
        row["spread"] > 0.5,
    )

# %% [markdown]
# The losses are of different questions; don't compare them between methods.
#
# ## A batch that gives itself away
#
# The heads of these methods have batch normalisation in them {cite:p}`ioffe-2015-batchnorm`: each vector is measured against the mean and spread of its batch.
# In MoCo that is a leak. The right answer was normalised with *this* batch, the wrong ones in the queue with earlier ones, so a query can tell the right key by the batch it comes from, without a look at the picture.
#
# MoCo's authors saw it and shuffled the samples *between GPUs* before the keys are made, so that query and key are normalised in different company.
# Codes that were ported to one GPU often kept the shuffle. A shuffled batch has the same mean and the same spread:


# %% tags=["nbval-check-output"]
def normalised(x, order, norm):
    """Batch norm of the shuffled batch, put back in order."""
    return norm(x[order])[order.argsort()]


g = torch.Generator().manual_seed(0)
# Multiples of 1/8, so that sums are exact in any order.
x = torch.randint(-16, 16, (64, 5), generator=g).double() / 8
order = torch.randperm(64, generator=g)


def plain(x):
    mean = x.mean(0)
    return (x - mean) / (x.square().mean(0) - mean.square() + 1e-5).sqrt()


split = SplitBatchNorm(5, splits=8, affine=False).double().train()
batch_norm = nn.BatchNorm1d(5, affine=False).double().train()
assert torch.allclose(plain(x), batch_norm(x), atol=1e-12)
for name, norm in {"plain": plain, "split in 8": split}.items():
    change = (normalised(x, order, norm) - norm(x)).abs().max().item()
    print(f"a shuffle changes {name} batch norm: {change != 0}")
assert (normalised(x, order, plain) - plain(x)).abs().max() == 0.0
print(
    "difference of the plain one:",
    (normalised(x, order, plain) - plain(x)).abs().max().item(),
)

# %% [markdown]
# On one device what helps is to *split* the batch: normalise it in groups, as so many GPUs would, and shuffle between the groups. That is what `pretrain` does for MoCo.
#
# Does the leak matter? Train MoCo in small batches, whose statistics tell most, and then let queries choose among their own key and all keys of other batches: once with the statistics of the batch, as in training, and once with the running ones, which are the same for all and give nothing away.
# What an encoder can do only with the first, it does by cheating.


# %%
NORMS = {"batch": "plain", "split": "split in groups", "layer": "layer norm"}
SMALL_BATCH, NUM_KEYS = 32, 512


@torch.no_grad()
def own_key_found(module, x, own_statistics: bool) -> float:
    """Share of queries nearer to their own key than to all keys of other batches."""
    module.train(own_statistics)
    batches = x.split(SMALL_BATCH)
    half = len(batches) // 2
    seen = torch.ones(SMALL_BATCH, dtype=torch.bool, device=x.device)

    def keys(batch):
        return module._keys(*module.view(batch, seen))

    queue = torch.cat([keys(batch) for batch in batches[half:]])
    right = []
    for batch in batches[:half]:
        q = module._queries(*module.view(batch, seen))
        own = (q * keys(batch)).sum(1)
        right.append((own > (q @ queue.T).amax(1)).float().mean())
    module.eval()
    return float(torch.stack(right).mean())


def run_norm(one: int, num_steps: int, norms) -> None:
    x, present = known(images, images.pool)
    some = x[: 2 * NUM_KEYS].to(DEVICE)
    bank = draw(clothes, BANK, one, "class")
    for norm in norms:
        codec = fresh(images, one)
        module = MoCo(
            codec,
            image_view,
            norm=norm,
            splits=4,
            queue_size=NUM_KEYS,
            symmetric=False,
            temperature=0.1,
        )
        train(
            module,
            TensorDataset(x, present),
            steps=num_steps,
            batch_size=SMALL_BATCH,
            lr=LR,
            seed=one,
            progress=False,
        )
        torch.manual_seed(one)
        scores = {
            "batch statistics": own_key_found(module, some, True),
            "running statistics": own_key_found(module, some, False),
            "neighbours": neighbours(seen_by(codec, 1), bank)["accuracy"],
        }
        keep("norm", norm, len(x), one, scores)


# %% [markdown]
# ## Wrong answers that are right
#
# The queue may hold a key of the very picture that is asked about, and to call that wrong teaches nonsense.
# Each pass over $N$ pictures has its own random order. A picture was seen last $d$ pictures ago, the sum of what was left of the last pass and what went before in this one, so the chance that the queue of $K \le N$ pictures still holds it is $\tfrac{1}{2} (K/N)^2$.
# Count it on the order in which `train` really takes them:


# %%
def own_key_in_queue(num: int, queue_size: int, batch: int = 50) -> float:
    """Share of queries whose own picture has a key in the queue, over four passes."""
    steps_a_pass = num // batch
    rows = [
        batch_rows(num, batch, seed, s).numpy() for s in range(6 * steps_a_pass)
    ]
    found = []
    for s in range(2 * steps_a_pass, len(rows)):
        queue = np.concatenate(rows[:s])[-queue_size:]
        found.append(np.isin(rows[s], queue).mean())
    return float(np.mean(found))


NUM = 2000
shares = np.array([0.125, 0.25, 0.5, 1.0, 1.5, 2.0])
counted = [own_key_in_queue(NUM, int(share * NUM)) for share in shares]
by_share = dict(zip(shares, counted, strict=True))
print(f"a quarter of the data: {by_share[0.25]:.1%} of queries")
print(f"all of the data: {by_share[1.0]:.1%}; twice: {by_share[2.0]:.1%}")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "How often the queue holds a key of the picture that is asked about, by the length of the queue. Dots: counted. Line: the formula, up to a queue as long as the data. Dashed: the longest queue that pretrain makes.", "name": "fig-09-queue"}, "image": {"alt": "A curve that rises slowly from zero at a queue of an eighth of the data, passes one half where the queue is as long as the data, and reaches one at twice that. A dashed line at a quarter of the data, where the curve is still near zero."}}
ax = plt.subplots(figsize=(5.6, 3.2))[1]
line = np.linspace(0, 1, 50)
ax.plot(line, line**2 / 2, color="0.3", label="formula")
ax.plot(shares, counted, "o", label="counted")
ax.axvline(0.25, color="0.3", linestyle="--", linewidth=1)
ax.set(xlabel="keys in the queue / pictures", ylabel="share of queries")
ax.legend()
save_figure("queue")
plt.show()

# %% [markdown]
# A queue of 65,536 keys, the original's, is right for a million pictures. With a thousand it holds every picture dozens of times. `pretrain` bounds it by a quarter of the data.
#
# ## How good are neighbours?
#
# Before any label has trained it, ask an encoder's neighbours: a picture gets the class that most of its ten nearest labelled pictures have, by the angle between features.
# `features` takes the encoder's map, before the projection to tokens, and averages it over all patches (*mean*), over quarters of the picture, or not at all (*every patch*). The first asks what is there, the last also where.
#
# Two rivals need no training: the raw pixels, and the features of an encoder with random weights.
# The first is strong here, as the clothes are centred and upright. The kind of feature, and the measure of distance between pixels, are chosen within the labelled pictures, for each rival alike.

# %%
KINDS = {"mean": 1, "quarters": 2, "every patch": 28 // PATCH}
BANKS = [1000, 5000] if data_dir else [1000]  # labelled neighbours
BANK = BANKS[0]


def draw(samples, n: int, seed: int, label: str, by_object: bool = False):
    """All samples of n objects, alike in number of each class; those of a smaller n are among them."""
    ids = samples.ids if by_object else np.arange(len(samples))
    objects, first, member = np.unique(
        ids, return_index=True, return_inverse=True
    )
    rows = np.random.default_rng(seed).permutation(len(objects))
    of_class = samples.values[label].numpy()[first][rows]
    rank = pd.Series(of_class).groupby(of_class).cumcount()
    taken = rows[np.argsort(rank, kind="stable")[:n]]
    return samples[np.isin(member, taken)]


def neighbours(vectors, bank, metric: str = "cosine") -> dict:
    """Accuracy on test pictures, and within the bank: a fifth of it asks the others."""
    x, y = vectors(bank.values["image"]), bank.values["class"]
    new = vectors(images.test.values["image"])
    labels = images.test.values["class"]
    order = np.random.default_rng(0).permutation(len(x))
    kept, inside = order[len(x) // 5 :], order[: len(x) // 5]
    rivals = {"accuracy": (x, y, new, labels)}
    rivals["validated"] = (x[kept], y[kept], x[inside], y[inside])
    return {
        name: knn_accuracy(*four, metric=metric)
        for name, four in rivals.items()
    }


def seen_by(codec, parts: int) -> Callable:
    return lambda x: features(codec, x.to(DEVICE), parts=parts)


def run_knn(one: int, num_steps: int) -> None:
    """Neighbours while MoCo trains, and at its end beside the rivals."""
    bank = draw(clothes, BANK, one, "class")
    epochs, curves = [], {kind: [] for kind in KINDS}

    def look(step: int, codec) -> None:
        if step % max(num_steps // 8, 1) == 0:
            epochs.append(step * BATCH / len(images.pool))
            for kind, parts in KINDS.items():
                found = neighbours(seen_by(codec, parts), bank)
                curves[kind].append(found["accuracy"])

    codec, history = pretrained(images, "moco", one, num_steps, look)
    look(num_steps // 8 * 8, codec)
    scores = {"epochs": epochs, **curves, "seconds": history.seconds}
    keep("neighbours over epochs", "moco", BANK, one, scores)
    encoders = {"moco": codec, "random": fresh(images, one)}
    for n in BANKS:
        bank = draw(clothes, n, one, "class")
        for name, encoder in encoders.items():
            for kind, parts in KINDS.items():
                scores = neighbours(seen_by(encoder, parts), bank)
                keep("neighbours", f"{name}, {kind}", n, one, scores)
        for metric in ("cosine", "euclidean"):
            scores = neighbours(lambda x: x.to(DEVICE), bank, metric)
            keep("neighbours", f"pixels, {metric}", n, one, scores)


# %% [markdown]
# ## Then reconstruct
#
# What was pretrained is the encoder of a codec, and a codec has to give pictures back. So, as the document that this book grew from has it, it is then trained by reconstruction like any other.
# Two questions: does the pretraining help the reconstruction, and do the features survive it?


# %%
def run_reconstruction(one: int, num_steps: int, n: int, codec_steps: int):
    """A codec trained on n pictures, from random weights and from MoCo's."""
    samples = draw(clothes, n, one, "class")
    bank = draw(clothes, BANK, one, "class")
    starts = {
        "scratch": fresh(images, one),
        "moco": pretrained(images, "moco", one, num_steps)[0],
    }
    for method, start in starts.items():
        codec = copy.deepcopy(start)
        before = neighbours(seen_by(codec, 1), bank)["accuracy"]
        train_codec(
            codec,
            samples,
            steps=codec_steps,
            batch_size=BATCH,
            seed=one,
            progress=False,
        )
        scores = {
            "r2": evaluate_codec(codec, images.test)["r2"],
            "before": before,
            "after": neighbours(seen_by(codec, 1), bank)["accuracy"],
        }
        keep("reconstruction", method, n, one, scores)


# %% [markdown]
# ## What are labels worth?
#
# Now the question of the page. $n$ pictures have labels, all others have none. Six ways to a classifier, all with the same encoder, the same labels and the same steps on them:
#
# - *scratch*: from random weights;
# - *augmentation*: the same, on changed copies;
# - *MoCo*, *SimCLR*, *BYOL*: from the pretrained encoder;
# - *both*: MoCo, and then changed copies.
#
# Each is scored as a *probe*, a logistic regression on features that stay as they are {cite:p}`alain-2016-probes` (for *augmentation* and *both* on changed copies too), and *fine-tuned*, encoder and all.
# A fifth of the labelled objects is set aside to choose the learning rate and weight decay, of the same few for every method, and (without copies) the penalty of the regression.
# The steps of the pretraining come on top: they cost time and no labels. As a control, *scratch, longer* gets them too.
#
# Accuracy is the mean over classes of the share found, so that rare types count as much as frequent ones.


# %%
LABELS = {
    "scratch": "scratch",
    "augmentation": "augmentation",
    "moco": "MoCo",
    "simclr": "SimCLR",
    "byol": "BYOL",
    "both": "both",
}
ALL = list(LABELS)
START = {"scratch": "random", "augmentation": "random", "both": "moco"}
CHANGED = ("augmentation", "both")
GRID = [(5e-4, 0.05), (2e-3, 0.05)]  # learning rate, weight decay
PENALTIES = [0.001, 0.01, 0.1]
COPIES = 2 if FULL else 4


class Classifier(nn.Module):
    """A codec's encoder and a linear layer on its features."""

    def __init__(self, codec, side: Side, counts, change=None):
        super().__init__()
        self.codec, self.parts = copy.deepcopy(codec), side.parts
        self.change = change
        num = self.codec.encoder.project.in_features
        num *= side.parts**self.codec.ndim
        self.out = nn.Linear(num, len(counts))
        # rare classes count as much as frequent ones
        rare = counts.sum() / len(counts) / counts.clamp_min(1)
        self.register_buffer("rare", rare)

    def forward(self, x, present):
        encoder = self.codec.encoder
        return self.out(pooled(self.codec, encoder, x, present, self.parts))

    def loss(self, x, present, y):
        if self.training and self.change is not None:
            with torch.no_grad():
                x, present = self.change(x, present=present)
        logits = self(x, present)
        return F.cross_entropy(logits, y, weight=self.rare), {}

    def hidden_matrices(self):
        blocks = self.codec.encoder.blocks.parameters()
        return [p for p in blocks if p.ndim == 2]


def found_by_class(truth, guess) -> float:
    """Share of each class that was found, averaged over the classes there are."""
    truth, guess = np.asarray(truth), np.asarray(guess)
    return float(np.mean([(guess[truth == k] == k).mean() for k in set(truth)]))


@torch.no_grad()
def classify(model, side: Side, samples):
    parts = zip(*(t.split(1000) for t in known(side, samples)), strict=True)
    guess = [
        model(x.to(DEVICE), p.to(DEVICE)).argmax(1).cpu() for x, p in parts
    ]
    return torch.cat(guess)


def tensors(side: Side, samples) -> TensorDataset:
    """Values, presence and labels, where the classifier is."""
    columns = (*known(side, samples), samples.values[side.label])
    return TensorDataset(*(t.to(DEVICE) for t in columns))


def fine_tune(start, side, seen, watched, change, seed, num_steps, grid):
    """(classifier, its place in the grid), the best of the grid on what is watched."""
    num_classes = len(side.labelled.modalities[side.label].values)
    counts = torch.bincount(seen.values[side.label], minlength=num_classes)
    best = None
    for lr, weight_decay in grid:
        torch.manual_seed(seed)
        model = Classifier(start, side, counts, change)
        train(
            model,
            tensors(side, seen),
            steps=num_steps,
            batch_size=min(64, len(seen)),
            lr=lr,
            weight_decay=weight_decay,
            seed=seed,
            progress=False,
        )
        guess = classify(model, side, watched)
        score = found_by_class(watched.values[side.label], guess)
        unsure = evaluate_loss(model, tensors(side, watched))
        if best is None or (score, -unsure) > best[0]:
            best = (score, -unsure), model, (lr, weight_decay)
    return best[1:]


# %% tags=["hide-input"]
records = []


def keep(task, method, n, seed, scores) -> None:
    numbers = {
        k: v if isinstance(v, (list, str)) else float(v)
        for k, v in scores.items()
    }
    records.append(
        {"task": task, "method": method, "n": n, "seed": seed, **numbers}
    )


def probe(side, seen, watched, vectors, change, seed) -> dict:
    """A logistic regression on ``vectors(x, present)``, its penalty chosen on what is watched."""
    x, present = known(side, seen)
    y = seen.values[side.label].numpy()
    rows = vectors(x, present).numpy()
    asked = vectors(*known(side, watched)).numpy()

    def score(penalty: float) -> float:
        guess = regression(penalty, rows, y).predict(asked)
        return found_by_class(watched.values[side.label], guess)

    with threadpool_limits(2, "blas"):
        penalty = max(PENALTIES, key=score)
        if change is not None:
            g = torch.Generator().manual_seed(seed)
            copies = [
                vectors(*change(x, present=present, generator=g)).numpy()
                for _ in range(COPIES)
            ]
            rows, y = np.concatenate([rows, *copies]), np.tile(y, COPIES + 1)
        model = regression(penalty, rows, y)
        guess = model.predict(vectors(*known(side, side.test)).numpy())
    truth = side.test.values[side.label]
    return {"accuracy": found_by_class(truth, guess)}


def regression(penalty: float, rows, y):
    """A logistic regression on standardised features."""
    return make_pipeline(
        StandardScaler(),
        LogisticRegression(
            C=penalty, max_iter=300, class_weight="balanced", tol=1e-3
        ),
    ).fit(rows, y)


def run_table(side, one, n, num_steps, methods, pretraining, longer=False):
    """Probes and fine-tuned classifiers from n labels; of scratch alone no probe."""
    drawn = draw(side.labelled, n, one, side.label, side.by_object)
    seen, watched = drawn.split(0.2, seed=one)
    truth = side.test.values[side.label]

    def start(method):
        name = START.get(method, method)
        if name == "random":
            return fresh(side, one)
        return pretrained(side, name, one, pretraining[name])[0]

    for method in methods:
        codec = start(method)
        change = side.change if method in CHANGED else None

        def vectors(x, present, codec=codec):
            x, present = x.to(DEVICE), present.to(DEVICE)
            return features(codec, x, present, parts=side.parts).cpu()

        if methods == ALL:
            scores = probe(side, seen, watched, vectors, change, one)
            keep(f"{side.name}: probe", method, n, one, scores)
        model, (lr, decay) = fine_tune(
            codec, side, seen, watched, change, one, num_steps, GRID
        )
        scores = {
            "accuracy": found_by_class(truth, classify(model, side, side.test)),
            "lr": lr,
            "weight_decay": decay,
        }
        keep(f"{side.name}: fine-tuned", method, n, one, scores)
        if method == "scratch" and longer:
            more = num_steps + pretraining["moco"]  # in all as many
            model, _ = fine_tune(
                codec, side, seen, watched, None, one, more, [(lr, decay)]
            )
            guess = classify(model, side, side.test)
            scores = {"accuracy": found_by_class(truth, guess)}
            keep(f"{side.name}: fine-tuned", "scratch, longer", n, one, scores)
    if methods == ALL:
        scores = probe(
            side, seen, watched, lambda x, present: x.flatten(1), None, one
        )
        keep(f"{side.name}: probe", "raw values", n, one, scores)


# %% [markdown]
# Supernova types, from spectra, join in the full profile: labels are drawn by *object*, as one look at a supernova names all of its spectra, and no object is on both sides.


# %% tags=["hide-input"]
def load_types():
    """Spectra of the five types of supernovae; None where there is no file and no full run."""
    if not (data_dir and (Path(data_dir) / "supernovae.npz").exists()):
        return None
    spectra = load_supernovae(folder=data_dir)
    pool, test = spectra.split(test=0.25, seed=0)
    has_type = [s[s.present["type"]] for s in (pool, test)]
    spectrum = spectra.modalities["spectrum"]
    return Side(
        name="spectrum",
        label="type",
        pool=pool.select(["spectrum"]),
        labelled=has_type[0],
        test=has_type[1],
        new=lambda: SpectrumCodec(spectrum, patch=14, **WIDTH),
        view=spectrum_view,
        change=partial(spectrum_view, strength=0.5),
        parts=4,
        by_object=True,
    )


def spectrum_view(x, present, strength: float = 1.0, generator=None):
    """Ripples of the calibration, lost pixels, a slow change of the slope, noise: nothing moves."""
    x, present = augment_spectrum(
        x, strength=2 * strength, present=present, generator=generator
    )
    x, present = augment_timeseries(
        x[:, None],
        strength,
        transforms=("magnitude_warp", "jitter"),
        present=present[:, None],
        generator=generator,
    )
    return x[:, 0], present[:, 0]


# %% tags=["hide-input"]
def long(num: int) -> int:
    """Steps of the full profile."""
    return full_steps or num


IMAGE_STEPS = dict.fromkeys(METHODS, long(3500))
LINE_STEPS = dict.fromkeys(METHODS, long(1500))
FINE_STEPS = long(200)
SIZES = sizes or ([100, 500, 1000, 5000] if data_dir else [100, 500, 1000])
LINE_SIZES = {"motion": [50, 100, 500, 1000], "spectrum": [50, 100, 200, 400]}
if FULL:
    for one in range(seed, seed + num_seeds):
        if "knn" in experiments:
            run_knn(one, IMAGE_STEPS["moco"])
            run_reconstruction(one, IMAGE_STEPS["moco"], 1000, long(500))
        if "norm" in experiments:
            run_norm(one, long(5000), NORMS)
        if "images" in experiments:
            for n in SIZES:
                run_table(
                    images, one, n, FINE_STEPS, ALL, IMAGE_STEPS, n == 1000
                )
            more = 4 * max(SIZES)  # so that the curve from scratch is longer
            if more <= len(clothes):
                run_table(images, one, more, FINE_STEPS, ["scratch"], {})
        sides = {"watch": watch, "supernovae": load_types()}
        if "supernovae" in experiments and sides["supernovae"] is None:
            print("supernovae are left out: no supernovae.npz in data_dir")
        for name, side in sides.items():
            if name in experiments and side is not None:
                for n in LINE_SIZES[side.name]:
                    run_table(
                        side, one, n, FINE_STEPS, ALL, LINE_STEPS, n == 100
                    )
                if side is watch:
                    run_table(side, one, 2000, FINE_STEPS, ["scratch"], {})
else:
    brief = {"moco": steps, "simclr": BRIEF, "byol": BRIEF}
    run_knn(seed, steps)
    run_reconstruction(seed, steps, 300, max(steps // 5, 1))
    run_norm(seed, steps, ["batch", "split"])
    for n in sizes or [100]:
        run_table(images, seed, n, 40, ALL, brief)
    run_table(watch, seed, 100, 40, ALL, brief)
run = pd.DataFrame(records)


def keep_results(summary: str) -> None:
    evaluation.write_results(
        Path(output_dir) / "results.json",
        summary,
        records,
        data="Fashion-MNIST; Watch, by person; supernovae, by object",
        parameters={
            "profile": profile,
            "seed": seed,
            "num_seeds": num_seeds,
            "experiments": experiments,
            "sizes": sizes,
            "steps": steps,
            "full_steps": full_steps,
            "data_dir": Path(data_dir).name,
        },
        seconds=round(time.perf_counter() - started, 1),
    )


if output_dir:  # before anything is drawn, so that nothing computed is lost
    keep_results(f"{len(records)} scores")
where = Path("results/09_pretrain_without_labels.json")
stored, made_by = evaluation.stored_or_run(where, run, FULL)
print("The figures and tables below show", made_by + ".")


def part(task: str):
    """A comparison, and what made it: this run where the full run has none."""
    found = stored[stored.task == task]
    if len(found):
        return found, made_by
    return run[run.task == task], "this run"


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
# ## Neighbours, epoch by epoch

# %% mystnb={"figure": {"caption": "Accuracy of the ten nearest labelled neighbours while MoCo trains without labels (means over seeds; bands are 95 % intervals). Dotted, in the same colours: random weights. Dashed: raw pixels.", "name": "fig-09-neighbours"}, "image": {"alt": "Three lines against the epochs of pretraining: features averaged over the picture, over quarters, and of every patch. A dotted level for each at its start, and a dashed level for raw pixels. The line of the mean starts far below the pixels and rises most."}}
curves, curves_by = part("neighbours over epochs")
finals, finals_by = part("neighbours")
if len(curves):
    first_bank = int(curves.n.min())
    at_end = finals[finals.n == first_bank].groupby("method").accuracy.mean()
    ax = plt.subplots(figsize=(6.6, 3.8))[1]
    epochs = np.array(curves.epochs.iloc[0])
    for i, kind in enumerate(KINDS):
        values = np.array(curves[kind].tolist())  # (seeds, looks)
        mean, low, high = np.array(
            [evaluation.seed_interval(v) for v in values.T]
        ).T
        ax.plot(epochs, mean, "o-", color=f"C{i}", label=kind)
        if np.isfinite(low).all():
            ax.fill_between(epochs, low, high, color=f"C{i}", alpha=0.2)
        ax.axhline(at_end[f"random, {kind}"], color=f"C{i}", linestyle=":")
    pixels = max(at_end["pixels, cosine"], at_end["pixels, euclidean"])
    ax.axhline(pixels, color="k", linestyle="--", label="raw pixels")
    ax.set(xlabel="epochs", ylabel=f"accuracy from {first_bank:,} labels")
    ax.legend()
    save_figure("neighbours")
    plt.show()
else:
    print(NOTHING)


# %%
def best_of(frame, name: str):
    """By seed: the score of the kind (or measure) that did best within the labelled pictures, and which."""
    of_name = frame[frame.method.str.startswith(name + ", ")]
    best = of_name.loc[of_name.groupby("seed").validated.idxmax()]
    best = best.sort_values("seed")
    return best.accuracy.to_numpy(), best.method.str.split(", ").str[1].tolist()


rows = []
print(f"From {finals_by}, {finals.seed.nunique()} seed(s).")
for n, group in finals.groupby("n"):
    ours, kinds = best_of(group, "moco")
    for rival in ("pixels", "random"):
        theirs, their_kinds = best_of(group, rival)
        low = evaluation.paired_difference(ours, theirs)[1]
        rows.append(
            {
                "labels": n,
                "MoCo": as_text(evaluation.seed_interval(ours)),
                "chosen": ", ".join(sorted(set(kinds))),
                "rival": rival,
                "its score": as_text(evaluation.seed_interval(theirs)),
                "its choice": ", ".join(sorted(set(their_kinds))),
                "MoCo better by": as_text(
                    evaluation.paired_difference(ours, theirs)
                ),
                "clearly": bool(low > 0) if math.isfinite(low) else "one seed",
            }
        )
if rows:
    display(pd.DataFrame(rows).set_index(["labels", "rival"]))
else:
    print(NOTHING)

# %%
for kind in KINDS if len(curves) else []:
    mean = np.mean(curves[kind].tolist(), axis=0)
    rank = spearmanr(epochs, mean).statistic
    reached = "reached" if rank >= 0.8 else "not reached"
    print(f"{kind}: Spearman of accuracy and epochs {rank:.2f}; 0.8 {reached}")

# %% tags=["nbval-check-output"]
for curve in run[run.task == "neighbours over epochs"].get("mean", []):
    gained = curve[-1] - curve[0] > 0.03
    print("neighbours by the mean got better without a label:", gained)

# %% [markdown]
# How much there is to gain depends on the rival. Where things lie in their place, pixels and random filters with places know most of it, and the mean over the picture, which throws places away, starts far behind; on data that are less tidy that is the other way round.
#
# ## What the leak did

# %%
norms, norms_by = part("norm")
if len(norms):
    columns = ["batch statistics", "running statistics", "neighbours"]
    table = {
        NORMS[norm]: {
            name: as_text(evaluation.seed_interval(group[name]))
            for name in columns
        }
        for norm, group in norms.groupby("method", sort=False)
    }
    print(f"From {norms_by}, {norms.seed.nunique()} seed(s).")
    display(pd.DataFrame(table).T.rename_axis("norm of the head"))
    mean = norms.groupby("method")[columns].mean()
    for name in columns[:2]:
        times = mean[name]["batch"] / mean[name]["split"]
        print(f"{name}: plain finds {times:.1f} times as many keys as split")
    by_norm = norms.pivot(index="seed", columns="method", values="neighbours")
    gain = evaluation.paired_difference(by_norm["split"], by_norm["batch"])
    print("neighbours, split less plain:", as_text(gain))
else:
    print(NOTHING)

# %% [markdown]
# The first two columns are shares of queries that found their own key, with the statistics of the batch and without.
# With them, plain batch norm looks like the far better student. Take them away, and see how much of its lead is left; that much was skill. The neighbours, who see no batch, tell whether the rest was worth anything.
# (To split makes the question harder than it need be, as small groups have noisy statistics, so *split in groups* may do better with the running ones.)
# A loss that falls, or a contrastive accuracy that rises, is no sign of good features.
#
# Here only the head has batch norm, and the encoder's own layers normalise each sample by itself, so the leak has a narrow way in; in encoders with batch norm throughout, such as ResNets, it is wide.
#
# ## What reconstruction does

# %%
rebuilt, rebuilt_by = part("reconstruction")
if len(rebuilt):
    names = {
        "r2": "R2 of the pixels",
        "before": "neighbours before",
        "after": "neighbours after",
    }
    table = {
        LABELS[method]: {
            name: as_text(evaluation.seed_interval(group[key]))
            for key, name in names.items()
        }
        for method, group in rebuilt.groupby("method", sort=False)
    }
    print(f"From {rebuilt_by}, {rebuilt.seed.nunique()} seed(s),")
    print(f"{rebuilt.n.max():,.0f} pictures to reconstruct.")
    display(pd.DataFrame(table).T.rename_axis("encoder starts from"))
    by_start = rebuilt.pivot(index="seed", columns="method", values="r2")
    gain = evaluation.paired_difference(by_start["moco"], by_start["scratch"])
    print("R2, pretrained less scratch:", as_text(gain))
else:
    print(NOTHING)

# %% [markdown]
# Views that differ in light and place teach the encoder to forget light and place, which are just what a decoder needs. So there is little reason to expect better pictures from this, and what the encoder knew may be trained away again: compare *before* and *after*. If the features are what you want, take them before, or freeze the encoder.
#
# ## Labels, and what they buy

# %% mystnb={"figure": {"caption": "Accuracy on the test of fine-tuned encoders, by number of labels (means over seeds; bands are 95 % intervals): labelled pictures, windows of motion, supernovae.", "name": "fig-09-labels"}, "image": {"alt": "Panels for images, motion and spectra. Lines or dots of accuracy against the number of labels on a logarithmic axis, for scratch, augmentation, MoCo, SimCLR, BYOL and both."}}
COUNTED = {
    "image": "labelled pictures",
    "motion": "labelled windows",
    "spectrum": "labelled supernovae",
}
there = [name for name in COUNTED if len(part(f"{name}: fine-tuned")[0])]
if there:
    figure, panels = plt.subplots(
        1, len(there), figsize=(3.2 * len(there) + 0.6, 4.0), squeeze=False
    )
    for ax, name in zip(panels[0], there, strict=True):
        found, _ = part(f"{name}: fine-tuned")
        plots.learning_curves(ax, found, "accuracy", LABELS)
        ax.set(xlabel=COUNTED[name])
        ax.tick_params(axis="x", rotation=30)
        handles = ax.get_legend_handles_labels()
        ax.get_legend().remove()
    panels[0, 0].set_ylabel("accuracy, mean over classes")
    figure.legend(*handles, loc="outside lower center", ncols=3)
    save_figure("labels")
    plt.show()
else:
    print(NOTHING)


# %%
def show_table(name: str) -> None:
    """Methods by n, with intervals, fine-tuned and by probes, of one kind of data."""
    for kind in ("fine-tuned", "probe"):
        found, found_by = part(f"{name}: {kind}")
        print(f"{name}, {kind}: {found_by}, {found.seed.nunique()} seed(s).")
        if not len(found):
            continue
        table = (
            found.groupby(["method", "n"])
            .accuracy.apply(lambda v: as_text(evaluation.seed_interval(v)))
            .unstack()
        )
        order = [*LABELS, "scratch, longer", "raw values"]
        table = table.reindex([m for m in order if m in table.index])
        table = table.fillna("").rename(index=LABELS)
        display(table.rename_axis(None, axis=1))


show_table("image")

# %% [markdown]
# The same for motion, on people who were never seen, and for supernovae where there is a stored run.

# %%
show_table("motion")
show_table("spectrum")

# %% [markdown]
# ### The factor
#
# "Less labelled data needed" is a number: how many labels does the encoder from scratch need to do as well?
# For each seed take its curve over $n$, linear in $\log n$, and read off where it reaches the score; that number over $n$ is the factor.
# Above one labels are saved, below one they are lost. Where the curve from scratch is too short, or already above at its start, its end gives a bound: *at least*, *at most*.


# %% tags=["nbval-check-output"]
def labels_needed(curve: pd.Series, score: float) -> float:
    """Where ``curve``, scores by n, reaches ``score``; its ends where it doesn't."""
    rising = np.maximum.accumulate(curve.to_numpy())
    first = np.r_[True, np.diff(rising) > 0]  # of equal scores the smallest n
    logs = np.log(curve.index.to_numpy(float))[first]
    return float(np.exp(np.interp(score, rising[first], logs)))


toy = pd.Series([0.5, 0.6, 0.7], index=[10, 100, 1000])
for level in (0.6, 0.65, 0.9):
    print(f"{level} takes {labels_needed(toy, level):.0f} labels")


# %%
def factors(name: str, kind: str = "fine-tuned"):
    """A row a method and n: the factor with its interval, a bound, and what it means."""
    found, _ = part(f"{name}: {kind}")
    by = found.pivot(index="n", columns=["method", "seed"], values="accuracy")
    base, rows = by["scratch"].dropna(), []
    for method in list(LABELS)[1:]:
        theirs = by[method].dropna()
        for n in theirs.index:
            needed = [
                labels_needed(base[s], theirs.loc[n, s]) for s in base.columns
            ]
            factor = np.exp(
                evaluation.seed_interval(np.log(np.array(needed) / n))
            )
            gain = evaluation.paired_difference(theirs.loc[n], base.loc[n])
            bound = ""
            if (theirs.loc[n] > base.max()).any():
                bound = "at least "
            elif (theirs.loc[n] < base.min()).any():
                bound = "at most "
            several = math.isfinite(gain[1])
            reading = "one seed: no interval"
            if several:
                reading = "no clear difference"
                if gain[1] > 0:
                    reading = "saves labels"
                elif gain[2] < 0:
                    reading = "costs labels"
            text = as_text(factor, 2) if several else f"{factor[0]:.2f}"
            row = {"data": name, "method": LABELS[method], "n": n}
            row |= {"factor": bound + text, "reading": reading}
            row |= {"gain": as_text(gain), "middle": factor[0]}
            rows.append(row)
    return rows


found = pd.DataFrame([row for name in there for row in factors(name)])
if len(found):
    print(f"From {part('image: fine-tuned')[1]}.")
    by_n = found.pivot(index=["data", "method"], columns="n", values="factor")
    display(by_n.fillna("").rename_axis(None, axis=1))
    by_reading = found.groupby(["data", "method"]).reading.value_counts()
    print("At how many n:")
    display(by_reading.unstack(fill_value=0).rename_axis(None, axis=1))
else:
    print(NOTHING)

# %% [markdown]
# Where a factor is below one, look for one of three reasons.
# The views may have taught the encoder to forget what the label is about: a stretch of time, where the speed tells the exercises apart.
# The pretraining may be too short, so that its weights are a worse start than random ones, whose sizes were chosen with care.
# Or there are no more unlabelled data than labelled ones, as at the right end of the curves, and nothing to gain.
#
# Three things are not in the factor. The time of the pretraining; the labels that went into choosing the views, which somebody looked at; and that a *probe*, whose encoder never moves, may profit where fine-tuning does not.

# %%
longer, _ = part("image: fine-tuned")
control = longer[longer.method == "scratch, longer"]
if len(control):
    n = control.n.iloc[0]
    scores = longer[longer.n == n].pivot(
        index="seed", columns="method", values="accuracy"
    )
    gain = evaluation.paired_difference(
        scores["moco"], scores["scratch, longer"]
    )
    print(f"{n:,} labels, scratch with all of the steps: MoCo is better by")
    print(as_text(gain))
else:
    print("scratch, longer:", NOTHING)

# %% [markdown]
# ## Where it fails
#
# - Views are a choice, and a wrong one costs. Where the label is a brightness, don't change the light; `augment_images(..., target="amplitude")` refuses to.
# - Fashion-MNIST is centred and small: raw pixels are a strong rival, and random filters a stronger one. Never show a contrastive encoder without both.
# - The watch has ten people. Intervals cover weights, views and the labels drawn, and not which three people were left for the test.
# - The classes are frequent here. With a rare one, most of its members repel each other as they would strangers, and nothing says that they belong together.
#
# ## Summary
#
# - A loss, a queue, an average: MoCo is thirty lines. What it learns is decided by the views.
# - On one device split the batch norm. A shuffle alone changes nothing.
# - Bound the queue by the data, or it holds the right answer among the wrong ones.
# - "Less labelled data" is a factor with an interval, at an $n$; it may be below one.

# %% tags=["hide-input"]
summary = f"{len(records)} scores over {run.seed.nunique()} seed(s)"
for name in COUNTED:
    tuned = run[run.task == f"{name}: fine-tuned"]
    if len(tuned):
        mean = tuned.groupby("method").accuracy.mean()
        summary += (
            f"; {name}: MoCo {mean['moco']:.3f}, scratch {mean['scratch']:.3f}"
        )
if output_dir:
    keep_results(summary)

# %% [markdown]
# ## Exercises
#
# ```{exercise-start}
# :label: ex-09-views
# ```
# What if the views don't differ at all? Pretrain with `augment` giving back what it got, and look at the neighbours.
# ```{exercise-end}
# ```
#
# ````{solution-start} ex-09-views
# :class: dropdown
# ````

# %%
same = fresh(images, seed)
pretrain(
    same,
    images.pool.values["image"],
    augment=lambda x, present: (x, present),
    steps=BRIEF,
    batch_size=BATCH,
    lr=LR,
    seed=seed,
    progress=False,
)
bank = draw(clothes, BANK, seed, "class")
for name, codec in {
    "random weights": fresh(images, seed),
    "views alike": same,
    "views that differ": pretrained(images, "moco", seed, BRIEF)[0],
}.items():
    print(f"{name}: {neighbours(seen_by(codec, 1), bank)['accuracy']:.3f}")

# %% [markdown]
# To know a picture by any detail is enough to tell it from others, so there is no need to find what matters.
#
# ````{solution-end}
# ````
#
# ```{exercise}
# :label: ex-09-shift
#
# The views of supernovae leave the wavelengths where they are. Would you let them move? Think of what a redshift that is a little wrong does, and of what the type is read from.
# ```
#
# ## Further reading
#
# {cite:t}`he-2020-moco` and {cite:t}`chen-2020-simclr` appeared within months of each other; {cite:t}`grill-2020-byol` then left the wrong answers out. {cite:t}`wang-2020-uniformity` say what the loss asks for: views together, and all else spread evenly over the sphere.
