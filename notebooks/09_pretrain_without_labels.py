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
# - how batch normalisation lets a contrastive encoder cheat, why a shuffle alone does not stop it, and what it cost here;
# - how to turn "needs less labelled data" into a factor with an interval.
#
# **What you'll need**: what a codec is, from [Tokenise an image](03_tokenise_an_image.ipynb).
#
# **Runtime**: about a minute on two CPU cores with the default parameters. `aion-lite run 09 --profile full -p data_dir=FOLDER` pretrains on all of Fashion-MNIST, on wrist motion and on supernovae over five seeds; it is meant for a GPU. Its results are stored with the book, and the page draws them from *Neighbours, epoch by epoch* on.

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
# On one device what takes the leak away is to *split* the batch: normalise it in groups, as so many GPUs would, and shuffle between the groups. That is what `pretrain` does for MoCo.
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

# %% tags=["hide-input"] mystnb={"figure": {"caption": "How often the queue holds a key of the picture that is asked about, by the length of the queue. Dots: counted. Line: the formula, up to a queue as long as the data. Dashed: the longest queue that pretrain makes.", "name": "fig-09-queue"}, "image": {"alt": "A curve that rises from zero, slowly at first, and ends near one half where the queue is as long as the data. Dots lie on it, and two more go on to one at twice that length. A dashed line at a quarter of the data, where the curve is still near zero."}}
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
    looks = {round(i * num_steps / 8) for i in range(9)}

    def look(step: int, codec) -> None:
        if step in looks:
            epochs.append(step * BATCH / len(images.pool))
            for kind, parts in KINDS.items():
                found = neighbours(seen_by(codec, parts), bank)
                curves[kind].append(found["accuracy"])

    codec, history = pretrained(images, "moco", one, num_steps, look)
    look(num_steps, codec)
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
print(f"The figures and tables below show\n{made_by}.")


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


def reading(difference) -> str:
    """What the interval of a difference says."""
    _, low, high = difference
    if not math.isfinite(low):
        return "one seed"
    if low > 0:
        return "clearly above"
    return "clearly below" if high < 0 else "not clear"


# %% [markdown]
# ## Neighbours, epoch by epoch

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accuracy of the ten nearest labelled neighbours while MoCo trains without labels (means over seeds; bands are 95 % intervals). Dotted, in the same colours: random weights. Dashed: raw pixels, by the better of two measures.", "name": "fig-09-neighbours"}, "image": {"alt": "Three lines against the epochs of pretraining, each rising from a dotted level, steeply before the second dot and slowly after it. Features of every patch start above the dashed level of the raw pixels and stay on top; those of quarters, and the mean over the picture, start below it, the mean by far, and end above it."}}
curves, curves_by = part("neighbours over epochs")
finals, finals_by = part("neighbours")
if len(curves):
    first_bank = int(curves.n.min())
    at_end = finals[finals.n == first_bank].groupby("method").accuracy.mean()
    # the end may have been looked at twice
    epochs, looks = np.unique(curves.epochs.iloc[0], return_index=True)
    by_kind = {k: np.array(curves[k].tolist())[:, looks] for k in KINDS}
    ax = plt.subplots(figsize=(6.6, 3.8))[1]
    for i, (kind, values) in enumerate(by_kind.items()):  # (seeds, looks)
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
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.29))
    save_figure("neighbours")
    plt.show()
else:
    print(NOTHING)

# %% [markdown]
# Does it rise? Spearman's rank correlation of accuracy and epochs is one where each look is better than the last; 0.8 is the goal, for the mean over seeds. A single seed wavers once the rise has become slow, so its own rank may be lower.

# %% tags=["hide-input"]
for kind, values in by_kind.items() if len(curves) else []:
    rank = spearmanr(epochs, values.mean(0)).statistic
    each = [spearmanr(epochs, v).statistic for v in values]
    reached = "reached" if rank >= 0.8 else "not reached"
    print(f"{kind}: Spearman {rank:.2f}, 0.8 {reached}", end="; ")
    print(f"seed by seed {min(each):.2f} to {max(each):.2f}")
    risen = evaluation.paired_difference(values[:, -1], values[:, 0])
    print(f"    end less start: {as_text(risen)}")


# %% tags=["hide-input"]
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
    print(f"{n:,} labels: MoCo by {' or '.join(sorted(set(kinds)))}")
    for rival in ("pixels", "random"):
        theirs, their_kinds = best_of(group, rival)
        print(f"    {rival} by {' or '.join(sorted(set(their_kinds)))}")
        gain = evaluation.paired_difference(ours, theirs)
        rows.append(
            {
                "labels": n,
                "rival": rival,
                "MoCo": as_text(evaluation.seed_interval(ours)),
                "its rival": as_text(evaluation.seed_interval(theirs)),
                "MoCo less rival": as_text(gain),
                "verdict": reading(gain),
            }
        )
if rows:
    display(pd.DataFrame(rows).set_index(["labels", "rival"]))
else:
    print(NOTHING)

# %% tags=["nbval-check-output"]
for curve in run[run.task == "neighbours over epochs"].get("mean", []):
    gained = curve[-1] - curve[0] > 0.03
    print("in this run, neighbours by the mean got better:", gained)

# %% [markdown]
# The encoder, trained without a label, beats both rivals. The random filters are the stronger one: with all places kept they do better than the pixels, and MoCo is ahead of them by less.
# The mean over the picture gains most, as it starts with no knowledge of places, and it still ends below *every patch*: on clothes that are centred, where something is tells what it is. On data that are less tidy that may be the other way round.
#
# ## What the leak did

# %% tags=["hide-input"]
norms, norms_by = part("norm")
if len(norms):
    columns = ["batch statistics", "running statistics", "neighbours"]
    by_norm = norms.pivot(index="seed", columns="method", values=columns)
    heads = [norm for norm in NORMS if norm in set(norms.method)]
    leak = "with less without"
    table = {
        NORMS[norm]: {
            name: as_text(evaluation.seed_interval(by_norm[name][norm]))
            for name in columns
        }
        | {
            leak: as_text(
                evaluation.paired_difference(
                    by_norm[columns[0]][norm], by_norm[columns[1]][norm]
                )
            )
        }
        for norm in heads
    }
    table = pd.DataFrame(table).T[[*columns[:2], leak, columns[2]]]
    print(f"From {norms_by}, {norms.seed.nunique()} seed(s).")
    display(table.rename_axis("norm of the head"))
    for rival in heads[1:]:
        for name in columns:
            gain = evaluation.paired_difference(
                by_norm[name]["batch"], by_norm[name][rival]
            )
            words = f"{name}, plain less {NORMS[rival]}: {as_text(gain)}"
            print(f"{words}; {reading(gain)}")
else:
    print(NOTHING)

# %% [markdown]
# The first two columns are shares of queries that found their own key, with the statistics of the batch and without; the third is their difference.
# With them, plain batch norm looks like by far the better student, and finds many more of its keys than the head that is split in groups.
# Part of that lead is the leak: without the statistics of the batch, plain batch norm finds fewer. Layer norm never sees the batch, and yet its two columns differ, so differences of that size mean little; the leak is a few times as large.
# More of the lead is the other's handicap. To split makes the question harder than it need be, as small groups have noisy statistics, and *split in groups* does better with the running ones. What remains with running statistics on both sides is neither, and we can't explain it.
#
# The neighbours, who see no batch, tell what it did to the features: no harm that shows. Plain batch norm does not fall behind the two heads that cannot cheat; it is a little ahead. So this run shows the leak, and it does **not** show the failure that MoCo's authors report.
# They had batch norm in every layer of a ResNet. Here only the head has it, and the encoder's own layers normalise each sample by itself, which leaves the leak a narrow way in. That may be the reason; it was not tried here.
#
# What remains: a loss that falls, or a contrastive accuracy that rises, says little of the features. The heads differ widely in the keys they find, and hardly in their neighbours.
#
# ## What reconstruction does

# %% tags=["hide-input"]
rebuilt, rebuilt_by = part("reconstruction")
if len(rebuilt):
    names = {
        "r2": "R2 of the pixels",
        "before": "neighbours before",
        "after": "neighbours after",
    }
    by_start = rebuilt.pivot(index="seed", columns="method", values=[*names])
    table = {
        LABELS[method]: {
            name: as_text(evaluation.seed_interval(by_start[key][method]))
            for key, name in names.items()
        }
        for method in ("scratch", "moco")
    }
    print(f"From {rebuilt_by}, {rebuilt.seed.nunique()} seed(s),")
    print(f"{rebuilt.n.max():,.0f} pictures to reconstruct.")
    display(pd.DataFrame(table).T.rename_axis("encoder starts from"))
    r2, before, after = (by_start[key] for key in names)
    for words, ours, theirs in (
        ("R2, MoCo less scratch", r2["moco"], r2["scratch"]),
        ("MoCo's neighbours, after less before", after["moco"], before["moco"]),
        ("after, MoCo less scratch", after["moco"], after["scratch"]),
    ):
        gain = evaluation.paired_difference(ours, theirs)
        print(f"{words}: {as_text(gain, 4)}; {reading(gain)}")
else:
    print(NOTHING)

# %% [markdown]
# Pretraining does not help the reconstruction; the pictures come back a little worse. Views that differ in light and place teach the encoder to forget light and place, which are just what a decoder needs.
# And the reconstruction takes away a part of what the encoder knew, though not all of it: its neighbours are still better than those of a codec that was never pretrained. If the features are what you want, take them before, or freeze the encoder.
#
# ## Labels, and what they buy

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accuracy on the test of fine-tuned encoders, by number of labels (means over seeds; bands are 95 % intervals): labelled pictures, windows of motion, supernovae. Scales differ.", "name": "fig-09-labels"}, "image": {"alt": "Three panels of accuracy against the number of labels on a logarithmic axis, rising on the whole. Pictures: the four lines with pretraining lie close together, above scratch throughout and above augmentation at both ends; scratch hardly rises at its long end. Motion and supernovae: the lines with pretraining lie mostly on top, but all lines are close and their bands overlap."}}
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
        ax.tick_params(axis="x", rotation=40)
        handles = ax.get_legend_handles_labels()
        ax.get_legend().remove()
    panels[0, 0].set_ylabel("accuracy, mean over classes")
    figure.legend(*handles, loc="outside lower center", ncols=3)
    save_figure("labels")
    plt.show()
else:
    print(NOTHING)

# %% [markdown]
# The same in numbers, fine-tuned / as a probe. Most of what the bands show is common to all methods, as they draw the same labels with the same seed; so methods are compared seed by seed, below.


# %% tags=["hide-input"]
def scores_of(name: str, kind: str) -> pd.DataFrame:
    """Accuracy of one kind of data: a row an n, a column a method and seed."""
    return part(f"{name}: {kind}")[0].pivot(
        index="n", columns=["method", "seed"], values="accuracy"
    )


sources = dict.fromkeys(part(f"{name}: fine-tuned")[1] for name in there)
print(f"From {' and '.join(sources)}.")
for name in there:
    means = [
        scores_of(name, kind).T.groupby("method").mean()
        for kind in ("fine-tuned", "probe")
    ]
    order = [*LABELS, "scratch, longer", "raw values"]
    tuned, probed = (
        m.reindex(index=order, columns=means[0].columns) for m in means
    )
    texts = (
        x.map("{:.3f}".format).replace("nan", "–") for x in (tuned, probed)
    )
    tuned, probed = texts
    both = (tuned + "\u00a0/\u00a0" + probed).replace("–\u00a0/\u00a0–", "")
    both = both.rename(index=LABELS).rename_axis(None)
    display(both.rename_axis(COUNTED[name], axis=1))

# %% [markdown]
# ### The factor
#
# "Less labelled data needed" is a number: how many labels does the encoder from scratch need, fine-tuned, to do as well?
# For each seed take its curve over $n$, linear in $\log n$, and read off where it reaches the score; that number over $n$ is the factor.
# Above one labels are saved, below one they are lost. Where the curve from scratch is too short, or already above at its start, its end gives a bound: *at least*, *at most*, or *open* where some seeds lie above the curve and some below.

# %% tags=["nbval-check-output"]
toy = [10, 100, 1000], [0.5, 0.6, 0.7]
for level in (0.6, 0.65, 0.9):
    print(f"{level} takes {evaluation.samples_needed(*toy, level):.0f} labels")


# %% [markdown]
# A bound can mislead: at the smallest $n$ no factor lies below one, as the curve begins there. So labels count as *saved* only where two intervals agree, that of the factor, above one, and that of the gain in accuracy at the same $n$, above zero; and as *lost* where both lie below.


# %%
BOUNDS = "", "at most ", "at least ", "open, "  # of factors


def saved(gain, factor, bound: str) -> str:
    """Whether gain in accuracy and factor agree."""
    if not math.isfinite(gain[1]):
        return "one seed"
    if gain[1] > 0 and factor[1] > 1 and bound in ("", "at least "):
        return "saves"
    if gain[2] < 0 and factor[2] < 1 and bound in ("", "at most "):
        return "costs"
    return "not clear"


def factors(name: str, kind: str) -> list[dict]:
    """A row a method and n: factor, gains in accuracy, and what they mean."""
    tuned, ours = scores_of(name, "fine-tuned"), scores_of(name, kind)
    base, rows = tuned["scratch"].dropna(), []
    for method in list(LABELS)[1:]:
        for n, theirs in ours[method].dropna().iterrows():
            needed = [
                evaluation.samples_needed(base.index, base[s], theirs[s])
                for s in base
            ]
            logs = np.log(np.array(needed) / n)
            factor = np.exp(evaluation.seed_interval(logs))
            below, above = theirs < base.iloc[0], theirs > base.max()
            bound = BOUNDS[int(below.any()) + 2 * int(above.any())]
            text = f"{bound}{factor[0]:.2g}"
            if math.isfinite(factor[2]) and factor[1] < factor[2]:
                text += f" ({factor[1]:.2g} to {factor[2]:.2g})"
            gain, over = (
                evaluation.paired_difference(theirs, tuned[rival].loc[n])
                for rival in ("scratch", "augmentation")
            )
            row = {"data": name, "kind": kind, "method": method, "n": n}
            row |= {"text": text, "verdict": saved(gain, factor, bound)}
            row |= {"middle": factor[0], "low": factor[1], "high": factor[2]}
            row |= {"bound": bound, "accuracy": theirs.mean()}
            rows.append(row | {"ahead of augmentation": reading(over)})
    return rows


KIND = ("fine-tuned", "probe")
COLUMNS = ["data", "kind", "method", "n", "verdict"]  # where nothing was made
found = [r for name in there for kind in KIND for r in factors(name, kind)]
found = pd.DataFrame(found, columns=None if found else COLUMNS)
for name in there:
    of_name = found[(found.data == name) & (found.kind == "fine-tuned")]
    by_n = of_name.pivot(index="method", columns="n", values="text")
    by_n = by_n.reindex([m for m in LABELS if m in by_n.index])
    by_n = by_n.rename(index=LABELS).rename_axis(None)
    display(by_n.rename_axis(COUNTED[name], axis=1))

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Label-efficiency factor of fine-tuned encoders against the number of labels (bars are 95 % intervals over seeds; triangles are bounds, where the curve from scratch was too short, and crosses are open). The line at one: nothing gained.", "name": "fig-09-factor"}, "image": {"alt": "Three panels with logarithmic axes. Pictures: the marks of all methods with pretraining lie above the line at one for every number of labels, those of augmentation fall below it at the right. Motion and supernovae: marks lie around the line or a little above it, most of their bars cross it, and most are triangles or crosses."}}
if there:
    figure, panels = plt.subplots(
        1,
        len(there),
        figsize=(3.2 * len(there) + 0.6, 4.0),
        squeeze=False,
        sharey=True,
    )
    for ax, name in zip(panels[0], there, strict=True):
        of_name = found[(found.data == name) & (found.kind == "fine-tuned")]
        for i, method in enumerate(list(LABELS)[1:], 1):
            rows = of_name[of_name.method == method].sort_values("n")
            places, colour = rows.n * 1.09 ** (i - 3), f"C{i}"
            for marker, bound in zip("ov^x", BOUNDS, strict=True):
                here = rows.bound == bound
                ax.plot(places[here], rows.middle[here], marker, color=colour)
            if np.isfinite(rows.high).all():
                ax.vlines(places, rows.low, rows.high, color=colour, alpha=0.6)
            ax.plot([], [], "o", color=colour, label=LABELS[method])
        ax.axhline(1, color="0.3", linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel=COUNTED[name])
        ticks = sorted(of_name.n.unique())
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.tick_params(axis="x", rotation=40)
        ax.minorticks_off()
    panels[0, 0].set_yticks([0.3, 1, 3, 10, 30], ["0.3", "1", "3", "10", "30"])
    panels[0, 0].set_ylabel("factor")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5)
    save_figure("factor")
    plt.show()

# %% [markdown]
# ### Is it worth it?
#
# First at each $n$: who saves labels, fine-tuned or as a probe, and which pretrained encoders, fine-tuned, are clearly above *augmentation* alone, which costs no pretraining.


# %% tags=["hide-input"]
PRETRAINED = ["moco", "simclr", "byol", "both"]


def in_words(methods) -> str:
    """A list in words."""
    if set(methods) == set(PRETRAINED):
        return "all four"
    return ", ".join(LABELS[m] for m in methods) or "none"


rows = []
for (name, n), group in found.groupby(["data", "n"]):
    pre = group[group.method.isin(PRETRAINED)]
    tuned, probed = (pre[pre.kind == kind] for kind in KIND)
    ahead = tuned[tuned["ahead of augmentation"] == "clearly above"]
    best = tuned.loc[tuned.accuracy.idxmax()]
    rows.append(
        {
            "data": name,
            "n": n,
            "saves, fine-tuned": in_words(
                tuned[tuned.verdict == "saves"].method
            ),
            "saves, probe": in_words(probed[probed.verdict == "saves"].method),
            "above augmentation": in_words(ahead.method),
            "highest mean": LABELS[best.method],
        }
    )
if rows:
    display(pd.DataFrame(rows).set_index(["data", "n"]))
costs = found[(found.verdict == "costs") & (found.kind == "fine-tuned")]
for row in costs.itertuples():
    print(f"costs labels: {row.data}, {LABELS[row.method]}, n = {row.n:,}")

# %% [markdown]
# Of so many intervals of 95 %, some lie on one side by luck. So trust what many rows say, and take the mean over all $n$ of a seed, too, which is less noisy than any one of them.

# %% tags=["hide-input"]
rows = []
for name in there:
    tuned, probed = (scores_of(name, kind) for kind in KIND)
    shared = probed.index  # where every method was tried
    for method in ["augmentation", *PRETRAINED]:
        pairs = {
            "fine-tuned less scratch": (tuned[method], tuned["scratch"]),
            "less augmentation": (tuned[method], tuned["augmentation"]),
            "probe less scratch fine-tuned": (probed[method], tuned["scratch"]),
            "probe less fine-tuned": (probed[method], tuned[method]),
        }
        row = {"data": name, "method": LABELS[method]}
        for words, (ours, theirs) in pairs.items():
            gain = evaluation.paired_difference(
                ours.loc[shared].mean(), theirs.loc[shared].mean()
            )
            clear = "*" * (reading(gain) in ("clearly above", "clearly below"))
            row[words] = "" if ours.equals(theirs) else as_text(gain) + clear
        rows.append(row)
    for method in PRETRAINED[1:]:
        gain = evaluation.paired_difference(
            tuned[method].loc[shared].mean(), tuned["moco"].loc[shared].mean()
        )
        words = f"{name}, fine-tuned, {LABELS[method]} less MoCo"
        print(f"{words}: {as_text(gain)}; {reading(gain)}")
print(
    "Differences in accuracy, mean over all n; * where the interval excludes 0."
)
if rows:
    display(pd.DataFrame(rows).set_index(["data", "method"]))

# %% [markdown]
# And the control. *Scratch, longer* is the encoder from random weights with all of the steps that pretraining and fine-tuning have together, at one $n$. It is a mild control: its batches are the smaller ones of fine-tuning, its learning rate is the one chosen for the short training, and it gets no changed copies.

# %% tags=["hide-input"]
rows = []
for name in there:
    scores = scores_of(name, "fine-tuned")
    if "scratch, longer" not in scores:
        continue
    if name == "image":  # batches of 64; a fifth of the labels is watched
        longest = scores.index.max()
        passes = FINE_STEPS * 64 / (0.8 * longest)
        print(f"In {FINE_STEPS} steps, {longest:,} pictures are seen", end=" ")
        print(f"{passes:.1f} times each.")
    control = scores["scratch, longer"].dropna()
    n = control.index[0]
    for method in ["scratch", "augmentation", *PRETRAINED]:
        gain = evaluation.paired_difference(
            scores[method].loc[n], control.loc[n]
        )
        row = {"data": name, "n": n, "method": LABELS[method]}
        row["less scratch, longer"] = as_text(gain)
        rows.append(row | {"verdict": reading(gain)})
if rows:
    display(pd.DataFrame(rows).set_index(["data", "n", "method"]))
else:
    print("scratch, longer:", NOTHING)

# %% [markdown]
# **Pictures: yes, at every $n$ that was tried.** Each of the three methods saves labels, frozen or fine-tuned; a few times what you have, and the gain stays when the encoder from scratch gets all of the steps. Fine-tuned, neither of the others can be told from MoCo over all $n$; SimCLR is ahead of it by a little from 1,000 labels on, and as a probe. Changed copies on top of MoCo add nothing, and cost a little where labels are most. Over all $n$ they are clearly above augmentation alone, though not every one at each.
# One doubt is left. At the long end of its curve the encoder from scratch sees a picture less than once in its few steps. Factors that are read off there, those of the larger $n$, count steps as well as labels, and the control was made at one $n$ only.
#
# **Motion: a little, fine-tuned.** Over all $n$ pretraining is ahead, by a gain so small that it hardly shows at any one; where the encoder from scratch could train for longer, they can't be told from it. The best bet is *both*, which alone is clearly above augmentation, too. Frozen features are no better than training from scratch, and worse than fine-tuned ones.
#
# **Supernovae: yes, and the encoder may stay frozen.** A regression on pretrained features beats the encoder that is trained from scratch, over all $n$, and saves labels where they are fewest; *scratch, longer* it clearly beats only with *both*. To fine-tune adds nothing that shows; it leaves a gain that is hardly clear of the noise. At the $n$ of the control, the fine-tuned ones can't be told from *scratch, longer*. Augmentation alone shows no clear gain here, with other views and fewer steps than in *Augment images and series*.
#
# Why so unlike? The pictures have by far the most unlabelled data; that may be why, but it was not varied here.
#
# Pretraining clearly costs labels nowhere. *Augmentation* alone does, where pictures are many: in so few steps, a network that sees each copy once learns more slowly.
# Two things are not in the factor: the time of the pretraining, and the labels that went into choosing the views, which somebody looked at.

# %% [markdown]
# ## Where it fails
#
# - Views are a choice, and a wrong one costs. Where the label is a brightness, don't change the light; `augment_images(..., target="amplitude")` refuses to.
# - Fashion-MNIST is centred and small: raw pixels are a strong rival, and to neighbours random filters are a stronger one. Never show a contrastive encoder without both.
# - Plain batch norm was expected to spoil MoCo. With this encoder it did not; the page shows the leak, and no harm from it.
# - Every training with labels has the same few steps. With many labels that holds the encoder from scratch back, and flatters the factor.
# - The watch has ten people. Intervals cover weights, views and the labels drawn, and not which three people were left for the test.
# - The classes are frequent here. With a rare one, most of its members repel each other as they would strangers, and nothing says that they belong together.
#
# ## Summary
#
# - A loss, a queue, an average: MoCo is thirty lines. What it learns is decided by the views.
# - On one device a shuffle alone changes nothing. A head with layer norm cannot see the batch, one with batch norm in groups sees its group alone; here features were no better for either.
# - Bound the queue by the data, or it holds the right answer among the wrong ones.
# - "Less labelled data" is a factor with an interval, at an $n$. Here it held for pictures, by whichever method; for motion the gain was small, and supernovae gained with the encoder frozen.
# - Train from scratch for as long as you would pretrain, before you believe a factor.

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
