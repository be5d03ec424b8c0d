"""A codec's encoder trained without labels (``pretrain``), and how good its features are before any label.

Then ``train_codec`` trains the codec by reconstruction as usual. May import codecs, the training loop and
``contrast``, where the methods are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from aion_lite.codecs.autoencoder import AutoencoderCodec, Encoder
from aion_lite.codecs.image import ImageCodec
from aion_lite.codecs.train import measured_samples
from aion_lite.modalities import Image, Spectrum, TimeSeries, check_present
from aion_lite.strategies.contrast import BYOL, NORMS, MoCo, SimCLR, pooled
from aion_lite.training import History, train

METHODS = {"moco": MoCo, "simclr": SimCLR, "byol": BYOL}
USUAL_NORM = {"moco": "split", "simclr": "batch", "byol": "batch"}


def pretrain(
    codec: AutoencoderCodec,
    data: Any,
    *,
    method: str = "moco",
    augment: Callable[..., tuple[Tensor, Tensor]] | None = None,
    steps: int | None = None,
    num_epochs: float | None = None,
    batch_size: int = 256,
    lr: float = 2e-3,
    weight_decay: float = 0.05,
    temperature: float = 0.2,
    momentum: float = 0.99,
    queue_size: int = 4096,
    symmetric: bool = True,
    dim: int = 64,
    norm: str | None = None,
    splits: int = 8,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    device: str | None = None,
    mixed_precision: str = "no",
    record: bool | None = None,
    log_every: int = 50,
    progress: bool = True,
    on_step: Callable[[int, nn.Module], None] | None = None,
) -> History:
    """Train the encoder of ``codec`` in place to know two views of one sample as the same; no label is used.

    The codec takes its scale from ``data``; its decoder and its quantizer stay as they were. A projection
    head, the averaged encoder and the queue serve the training alone and are left behind.

    Args:
        codec: ImageCodec, TimeSeriesCodec or SpectrumCodec.
        data: as ``train_codec`` takes it, or a DataLoader, of whose batches the first tensor counts.
        method: "moco", "simclr" or "byol" (``contrast.py``).
        augment: makes a view, ``augment(x, present=present) -> (x, present)``, drawn anew at every call; by
            default ``augment_images``, ``augment_timeseries`` or ``augment_spectrum``.
        batch_size: at most the number of samples; with "split", rounded down to a multiple of ``splits``.
        temperature: of MoCo's and SimCLR's softmax.
        momentum, symmetric: of MoCo's and BYOL's averaged encoder (``contrast.Momentum``).
        queue_size: keys in MoCo's queue; at most a quarter of the samples, or many of them would be of the
            very samples they are to repel.
        dim: of the embedding that is compared.
        norm, splits: of the projection head: "layer", "batch", or "split" batch norm into ``splits`` groups.
            By default that of each method's paper: "split" for MoCo, as plain batch norm tells queries which
            keys are of their own batch, and "batch" for the others. With "layer" nothing passes between
            samples, but embeddings more easily all become the same: watch ``spread``.
        steps, ...: as ``training.train`` has them. The History's ``spread`` near 0 tells of a collapse.

    Raises TypeError for a codec without such an encoder; ValueError on too few samples, a setting out of
    range, or an augmentation that changes shapes or makes NaN; and what ``train`` raises.
    """
    if not isinstance(codec, AutoencoderCodec) or not isinstance(codec.encoder, Encoder):
        raise TypeError(f"Pretraining needs a codec with an encoder to train, got {type(codec).__name__}.")
    norm = USUAL_NORM.get(method) if norm is None else norm
    _check_settings(method, norm, temperature, momentum, min(queue_size, dim, splits))
    x, present, _ = measured_samples(codec, _gathered(data) if isinstance(data, DataLoader) else data)
    if len(x) < 8:
        raise ValueError(f"Pretraining compares samples with each other and needs 8 or more, got {len(x)}.")
    batch_size = min(batch_size, len(x))
    if batch_size == 1:
        raise ValueError("In a batch of one there is nothing to compare: make batch_size 2 or more.")
    if norm == "split":
        if batch_size < 2 * splits:
            raise ValueError(
                f"A batch of {batch_size} can't be split into {splits} groups of two or more: lower splits."
            )
        batch_size -= batch_size % splits
    on_gpu = device != "cpu" and torch.cuda.is_available()
    codec.to("cuda" if on_gpu else "cpu").fit_scale(x, present)

    augment = _default_augment(codec) if augment is None else augment
    options = {"temperature": temperature, "dim": dim, "norm": norm, "splits": splits}
    if method != "simclr":
        options |= {"momentum": momentum, "symmetric": symmetric}
    if method == "moco":
        options["queue_size"] = min(queue_size, len(x) // 4)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = METHODS[method](codec, augment, **options)
        _check_view(module, x[:8].to(codec.device), present[:8].to(codec.device))

    # What the loss doesn't reach: as it is no part of the optimizer, weight decay leaves it alone.
    idle = [p for part in (codec.decoder, codec.encoder.project) for p in part.parameters()]
    trained = [p for p in idle if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        return train(
            module, TensorDataset(x, present), steps=steps, num_epochs=num_epochs, batch_size=batch_size,
            lr=lr, weight_decay=weight_decay, seed=seed, checkpoint=checkpoint,
            checkpoint_every=checkpoint_every, device=device, mixed_precision=mixed_precision,
            record=record, log_every=log_every, progress=progress, on_step=on_step,
        )  # fmt: skip
    finally:
        for p in trained:
            p.requires_grad_(True)


class MoCoImageCodec(ImageCodec):
    """An ImageCodec whose encoder can learn from images alone before it learns to reconstruct."""

    def pretrain_moco(
        self, unlabeled_images: Any, num_epochs: float | None = None, *, steps: int | None = None, **settings
    ) -> History:
        """Pretrain with momentum contrast (He et al. 2020): ``pretrain(codec, unlabeled_images, ...)``.

        ``settings`` are those of ``pretrain``, ``method`` among them. Without steps and num_epochs: 100
        epochs.
        """
        num_epochs = 100 if steps is None and num_epochs is None else num_epochs
        return pretrain(self, unlabeled_images, steps=steps, num_epochs=num_epochs, **settings)


@torch.no_grad()
def features(
    codec: AutoencoderCodec, x: Any, present: Tensor | None = None, batch_size: int = 512, parts: int = 1
) -> Tensor:
    """What the codec's encoder makes of values (B, *modality.shape), before quantization: (B, width).

    The mean over the patches that hold something measured; for probes and neighbours. With ``parts`` the mean
    of each part of the grid, so many along each axis: (B, parts**ndim * width), which keeps where things are.
    """
    x = codec.modality.check(x, present)
    present = check_present(codec.modality, present, len(x), x.device)
    pairs = zip(x.split(batch_size), present.split(batch_size), strict=True)
    found = [pooled(codec, codec.encoder, a.to(codec.device), b.to(codec.device), parts) for a, b in pairs]
    return torch.cat(found).to(x.device)


def knn_accuracy(
    features: Any, labels: Any, test_features: Any, test_labels: Any, k: int = 10, metric: str = "cosine"
) -> float:
    """Share of test samples whose k nearest labelled neighbours vote for the right class.

    Args:
        features, test_features: (B, ...), flattened; so raw pixels are features too.
        labels, test_labels: (B,) classes.
        metric: "cosine" or "euclidean".

    Computed where the features are. Raises ValueError where there are fewer labelled samples than k.
    """
    a, b = (torch.as_tensor(t).detach().flatten(1) for t in (features, test_features))
    y, z = (torch.as_tensor(t).to(a.device) for t in (labels, test_labels))
    if len(y) != len(a) or len(z) != len(b):
        raise ValueError(f"Got {len(a)} and {len(b)} features, but {len(y)} and {len(z)} labels.")
    if not 1 <= k <= len(a):
        raise ValueError(f"Of {len(a)} labelled samples {k} can't be the nearest: choose another k.")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric is 'cosine' or 'euclidean', got {metric!r}.")
    # On a GPU in float64, as products in TF32 would mix up neighbours.
    a, b = (t.to(a.device, torch.float64 if a.is_cuda else torch.float32) for t in (a, b))
    half = a.square().sum(1) / 2  # |b - a|**2 = |b|**2 - 2 (b a - |a|**2 / 2)
    if metric == "cosine":
        a, b, half = F.normalize(a, dim=1), F.normalize(b, dim=1), 0.0
    classes, y = y.unique(return_inverse=True)
    votes = F.one_hot(y, len(classes))
    guess = [votes[(part @ a.T - half).topk(k).indices].sum(1).argmax(1) for part in b.split(2000)]
    return float((classes[torch.cat(guess)] == z).double().mean())


def _check_settings(method: str, norm: str, temperature: float, momentum: float, smallest: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {tuple(METHODS)}, got {method!r}.")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}.")
    if not temperature > 0 or not 0 <= momentum < 1 or smallest < 1:
        raise ValueError(
            f"Pretraining needs a positive temperature, a momentum in [0, 1), and a queue_size, dim and "
            f"splits of 1 or more, got {temperature}, {momentum} and a smallest of {smallest}."
        )


def _gathered(loader: DataLoader) -> Tensor:
    """All batches of a loader in one tensor; of a batch (images, labels) the images."""
    return torch.cat([batch[0] if isinstance(batch, (tuple, list)) else batch for batch in loader])


def _default_augment(codec: AutoencoderCodec) -> Callable[..., tuple[Tensor, Tensor]]:
    from aion_lite.strategies import augmentation

    names = {Image: "augment_images", TimeSeries: "augment_timeseries", Spectrum: "augment_spectrum"}
    return getattr(augmentation, names[type(codec.modality)])


def _check_view(module: SimCLR, x: Tensor, present: Tensor) -> None:
    """Once before training, as to look at values in a step would wait for the device."""
    made = module.view(x, present)
    if not isinstance(made, tuple) or len(made) != 2:
        raise TypeError("augment(x, present=present) must return x and present: two tensors.")
    view, seen = made
    if view.shape != x.shape or view.dtype != x.dtype or view.device != x.device:
        raise ValueError(
            f"augment made {view.dtype} {tuple(view.shape)} on {view.device} of {x.dtype} {tuple(x.shape)} "
            f"on {x.device}: views must be of the same kind."
        )
    module.codec.modality.check(view, seen)
