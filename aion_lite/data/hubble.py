"""Crops of the Hubble extreme deep field, one picture full of galaxies; needs scikit-image, which carries it.

May import the declarations and the data set; knows nothing of codecs and models.
"""

from __future__ import annotations

import numpy as np

from aion_lite.data.dataset import MultimodalDataset
from aion_lite.modalities import Image

TRAIN_COLUMNS = 700  # of 1000: train crops lie left of this column, test crops from it on


def load_hubble_crops(
    size: int = 96, num: int = 1000, seed: int = 0, split: str = "train"
) -> MultimodalDataset:
    """Crops at random places of one picture of 872 x 1000 pixels: ``crop`` (B, 3, size, size), RGB in 0 to 1.

    Args:
        size: height and width of a crop, at most 300 pixels for the test part, 700 for the train part.
        num: number of crops. They overlap: 63 crops of 96 pixels tile the train part and 27 the test part, so
            a thousand are worth far fewer.
        seed: of the places.
        split: "train" takes the left 70 % of the picture, "test" the rest; no pixel is in both.

    ``ids`` are all alike, since all is one picture: ``MultimodalDataset.split`` refuses to part it. ``info``:
    ``top`` and ``left`` pixel of each crop. There are no labels.

    Source: scikit-image, ``skimage.data.hubble_deep_field``; NASA and ESA, XDF: Illingworth et al. 2013,
    ApJS 209, 6.
    """
    if split not in ("train", "test"):
        raise ValueError(f"The Hubble field has the splits 'train' and 'test', got {split!r}.")
    try:
        from skimage.data import hubble_deep_field
    except ImportError as error:
        raise ImportError(
            "load_hubble_crops takes its picture from scikit-image, which is missing: "
            "pip install scikit-image."
        ) from error
    picture = hubble_deep_field().astype(np.float32) / 255  # (872, 1000, 3)
    start, stop = (0, TRAIN_COLUMNS) if split == "train" else (TRAIN_COLUMNS, picture.shape[1])
    height, width = picture.shape[0], stop - start
    if not 1 <= size <= min(height, width) or num < 1:
        raise ValueError(
            f"The {split} part has {height} x {width} pixels: got size={size}, num={num}; "
            f"choose size in 1 to {min(height, width)} and num from 1."
        )
    rng = np.random.default_rng(seed)
    top = rng.integers(0, height - size + 1, num)
    left = rng.integers(start, stop - size + 1, num)
    crops = np.stack([picture[y : y + size, x : x + size] for y, x in zip(top, left, strict=True)])
    return MultimodalDataset(
        [Image("crop", channels=3, size=size)],
        {"crop": np.ascontiguousarray(crops.transpose(0, 3, 1, 2))},
        ids=np.zeros(num, np.int64),
        info={"top": top, "left": left},
    )
