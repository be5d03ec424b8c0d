"""Data augmentation (strategy 2): changed copies of what was measured, from ranges that a reader can state.

Public names of the strategy. Batches on any device: ``augment_images``, ``augment_timeseries``,
``augment_spectrum``; a picture at a time, for data loaders: ``AugmentedImageDataset``. ``Augmented`` trains a
codec on new copies at every step, ``augmented_copies`` makes a larger data set once and for all. May import
codecs and data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from aion_lite.codecs.base import Codec
from aion_lite.data.dataset import MultimodalDataset
from aion_lite.modalities import Text
from aion_lite.strategies import augmentation_images as images
from aion_lite.strategies.augmentation_guard import (
    CHANGES_LABEL,
    PROPERTIES,
    Names,
    check_strength,
    chosen,
)
from aion_lite.strategies.augmentation_images import IMAGE_TRANSFORMS, augment_images, augment_pair
from aion_lite.strategies.augmentation_series import (
    SERIES_TRANSFORMS,
    SPECTRUM_TRANSFORMS,
    augment_spectrum,
    augment_timeseries,
    jitter,
    magnitude_warp,
    permutation,
    scaling,
    time_warp,
    window_slice,
)

__all__ = [
    "CHANGES_LABEL",
    "IMAGE_TRANSFORMS",
    "PROPERTIES",
    "SERIES_TRANSFORMS",
    "SPECTRUM_TRANSFORMS",
    "Augmented",
    "AugmentedImageDataset",
    "augment_images",
    "augment_pair",
    "augment_spectrum",
    "augment_timeseries",
    "augmented_copies",
    "image_pipeline",
    "jitter",
    "magnitude_warp",
    "permutation",
    "scaling",
    "time_warp",
    "window_slice",
]


class AugmentedImageDataset(Dataset):
    """Images for a DataLoader, a new random change of each at every visit; of the training split alone.

    Args:
        images: (N, C, H, W), or a sequence of N images (C, H, W), of any sizes; floats, or uint8, which
            become floats in 0 to 1.
        labels: one a sample; items are then (image, label).
        split: "train"; images of any other split ("validation", "test") come as they are.
        strength, transforms, target, allow, limits, fill: as in ``augment_images``, but values are clipped to
            0..1 by default, as torchvision's ColorJitter does; limits=None for fluxes.

    Random numbers are torch's own; a DataLoader gives each worker a stream of its own. Raises ValueError
    where a transform changes the target, or an image has values outside ``limits``.
    """

    def __init__(
        self, images: Any, labels: Sequence[Any] | None = None, split: str = "train", strength: float = 1.0,
        *, transforms: Names = IMAGE_TRANSFORMS, target: Names = (), allow: Names = (),
        limits: tuple[float, float] | None = (0.0, 1.0), fill: float = 0.0,
    ):  # fmt: skip
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"There are {len(images)} images and {len(labels)} labels.")
        names = chosen(transforms, IMAGE_TRANSFORMS, target, allow)
        self.images, self.labels, self.split = images, labels, split
        self.settings = {"strength": check_strength(strength), "names": names, "limits": limits, "fill": fill}
        self.pipelines: dict[tuple[int, ...], v2.Transform] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image = self._load_image(index)
        if self.split == "train":
            limits, low, high = self.settings["limits"], float(image.min()), float(image.max())
            if limits is not None and not limits[0] <= low <= high <= limits[1]:
                raise ValueError(
                    f"Image {index} has values from {low:.4g} to {high:.4g}, which would be clipped to "
                    f"{limits}: give limits=None."
                )
            shape = tuple(image.shape)
            if shape not in self.pipelines:
                self.pipelines[shape] = image_pipeline(*shape, **self.settings)
            image = self.pipelines[shape](image)
        return image if self.labels is None else (image, self.labels[index])

    def _load_image(self, index: int) -> Tensor:
        image = torch.as_tensor(np.asarray(self.images[index]))
        if image.ndim != 3:
            raise ValueError(f"An image has shape (C, H, W), image {index} has {tuple(image.shape)}.")
        return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def image_pipeline(
    channels: int, height: int, width: int, strength: float = 1.0, names: Names = IMAGE_TRANSFORMS,
    limits: tuple[float, float] | None = (0.0, 1.0), fill: float = 0.0,
) -> v2.Transform:  # fmt: skip
    """The seed document's transforms, for one image (C, H, W): what ``augment_images`` does to a batch.

    Two changes to the seed's list: rotation and translation are one interpolation, which keeps the corners
    that a turn pushes out and a move brings back; and the crop, as large as the image, comes before the
    light.
    """
    s, names = check_strength(strength), chosen(names, IMAGE_TRANSFORMS)
    if s == 0:
        return v2.Identity()
    bilinear, steps = v2.InterpolationMode.BILINEAR, []
    if "flip" in names:
        p = min(images.FLIP * s, 0.5)
        steps += [v2.RandomHorizontalFlip(p), v2.RandomVerticalFlip(p)]
    if names & {"rotation", "translation"}:
        degrees = images.ANGLE * s * ("rotation" in names)
        share = images.SHIFT * s * ("translation" in names)
        # A fill of 0 is None here: torchvision would weigh the rim with its share of the image twice.
        fill_in = fill if fill else None
        steps.append(v2.RandomAffine(degrees, (share, share), interpolation=bilinear, fill=fill_in))
    if "crop" in names:
        ratio = images.crop_ratio(height, width, s)
        steps.append(v2.RandomResizedCrop((height, width), (1 - images.CROP * s, 1.0), ratio, bilinear))
    light = {n: images.JITTER * s for n in ("brightness", "contrast", "saturation") if n in names}
    if light and channels in (1, 3) and limits == (0.0, 1.0):
        steps.append(v2.ColorJitter(**light))
    elif light:
        steps.append(_LightOfBands(s, set(light), limits))
    if "erase" in names:
        steps.append(v2.RandomErasing(images.ERASE * s, value=fill))
    return v2.Compose(steps) if steps else v2.Identity()


class _LightOfBands(v2.Transform):
    """ColorJitter for any number of channels and any range of values."""

    def __init__(self, strength: float, names: set[str], limits: tuple[float, float] | None):
        super().__init__()
        self.strength, self.names, self.limits = strength, names, limits

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        light = images.draw_light(inpt[None], self.strength, self.names)
        return images.change_light(inpt[None], light, self.limits)[0]


class Augmented(nn.Module):
    """A codec that is trained on changed copies: ``train_codec(Augmented(codec, augment), data)``.

    In training mode, every call of ``loss`` changes its batch anew and asks the codec to give back the
    changed values; in eval mode (validation) the batch is left as it is. The codec is trained in place.

    Args:
        codec: one that is trained by gradient. A frozen part of it runs at every step, on the changed values.
        augment: ``augment(x, present=..., weight=...) -> (x, present[, weight])``, ``weight`` where there is
            one: e.g. ``partial(augment_timeseries, target="rate", transforms=("scaling", "jitter"))``.
            Without a generator: torch's own random numbers can be recorded with the step and go into
            checkpoints.
    """

    fit = Codec.fit  # by gradient

    def __init__(self, codec: Codec, augment: Callable[..., tuple[Tensor, ...]]):
        super().__init__()
        if type(codec).fit is not Codec.fit:
            raise TypeError(f"{type(codec).__name__} is not trained by gradient: fit it on the data as is.")
        self.codec, self.augment = codec, augment
        if hasattr(codec, "fit_scale"):
            self.fit_scale = codec.fit_scale

    @property
    def modality(self):
        return self.codec.modality

    @property
    def config(self):
        return self.codec.config

    def hidden_matrices(self) -> list[nn.Parameter]:
        return self.codec.hidden_matrices() if hasattr(self.codec, "hidden_matrices") else []

    def loss(self, x: Tensor, present: Tensor | None = None, weight: Tensor | None = None):
        if not self.training:
            return self.codec.loss(x, present, weight)
        if present is None:
            present = torch.ones(len(x), dtype=torch.bool, device=x.device)
        what = {"present": present} if weight is None else {"present": present, "weight": weight}
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            changed = self.augment(x, **what)
        return self.codec.loss(*changed)


def augmented_copies(
    data: MultimodalDataset,
    augment: Mapping[str | tuple[str, str], Callable[..., Any]],
    copies: int,
    seed: int = 0,
    independent: bool = False,
) -> MultimodalDataset:
    """``data`` followed by ``copies`` changed copies of all its samples; what is not named stays as it is.

    Ids are kept, so a copy never lies on the other side of a later split than its original: but give the
    training part only. Inverse variances ("NAME_ivar" in ``info``) are kept as they were.

    Args:
        augment: modality name -> e.g. ``partial(augment_images, strength=0.5)``, called with ``present`` and
            ``generator``; or a pair of names -> e.g. ``augment_pair``, called with the values of both and
            ``generator``.
        independent: say that two modalities of one kind need not share their geometry. Without, ValueError:
            a pixel (or a moment) of the one would no longer belong to that of the other.
    """
    alone = [name for name in augment if isinstance(name, str)]
    named = [n for key in augment for n in ((key,) if isinstance(key, str) else key)]
    unknown = sorted(set(named) - set(data.modalities))
    if unknown or len(set(named)) < len(named):
        raise ValueError(f"Name each modality of {list(data.modalities)} once at most, got {named}.")
    kinds = [data.modalities[n].kind for n in named]
    clash = [n for n in alone if kinds.count(data.modalities[n].kind) > 1]
    if clash and not independent:
        raise ValueError(
            f"{', '.join(clash)} would each be changed in its own way and no longer match: name them as a "
            f"pair with one function for both, or say independent=True."
        )
    if copies < 0:
        raise ValueError(f"copies is 0 or more, got {copies}.")
    generator = Generator().manual_seed(seed)
    values = {n: [v] for n, v in data.values.items()}
    present = {n: [p] for n, p in data.present.items()}
    for _ in range(copies):
        new, seen = dict(data.values), dict(data.present)
        for key, change in augment.items():
            if isinstance(key, str):
                new[key], seen[key] = change(new[key], present=seen[key], generator=generator)
            else:
                a, b = key
                new[a], new[b] = change(new[a], new[b], generator=generator)
        for n in data.modalities:
            values[n].append(new[n])
            present[n].append(seen[n])
    texts = {n for n, m in data.modalities.items() if isinstance(m, Text)}
    return MultimodalDataset(
        list(data.modalities.values()),
        {n: np.concatenate(v) if n in texts else torch.cat(v) for n, v in values.items()},
        {n: torch.cat(p) for n, p in present.items()},
        np.concatenate([data.ids] * (copies + 1)),
        {n: np.concatenate([v] * (copies + 1)) for n, v in data.info.items()},
    )
