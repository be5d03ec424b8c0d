"""Fashion-MNIST: small grey pictures of clothes in ten classes; a sample travels in the package.

May import the declarations and the data set; knows nothing of codecs and models. files/README.md tells where
the sample is from and how it was drawn.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from aion_lite.data.dataset import MultimodalDataset
from aion_lite.modalities import Category, Image

FILE = Path(__file__).parent / "files" / "fashion_mnist.parquet"
IMAGE = Image("image", channels=1, size=28)
CLASS = Category(
    "class",
    values=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
)
PREFIX = {"train": "train", "test": "t10k"}  # what the source calls its two parts
WHERE = (
    "get the IDX files from https://github.com/zalandoresearch/fashion-mnist (MIT), from Debian's package "
    "dataset-fashion-mnist or with torchvision.datasets.FashionMNIST(folder, download=True)"
)


def load_fashion_mnist(folder: str | Path | None = None, split: str = "train") -> MultimodalDataset:
    """Pictures of clothes: ``image`` (B, 1, 28, 28), grey in 0 to 1, and ``class``, ten names.

    Args:
        folder: of the whole set, 60,000 training and 10,000 test pictures, as IDX files, gzipped or not, in
            it or below it in ``FashionMNIST/raw`` (torchvision's download). None: the sample in the package,
            3,000 and 1,000 pictures, the same number of each class.
        split: "train" or "test", the source's own. Every picture is an object of its own; ``ids`` are its
            rows in the source's file, from 0, so a test picture may have the id of a training picture.

    Raises FileNotFoundError or ValueError where a file is missing or damaged.

    Source: Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747.
    """
    if split not in PREFIX:
        raise ValueError(f"Fashion-MNIST has the splits 'train' and 'test', got {split!r}.")
    if folder is None:
        frame = pd.read_parquet(FILE)
        frame = frame[frame["split"] == split]
        pixels = np.frombuffer(b"".join(frame["image"]), np.uint8).reshape(-1, 28, 28)
        labels, rows = frame["label"].to_numpy(), frame["row"].to_numpy()
    else:
        pixels, labels = read_idx_files(folder, split)
        rows = np.arange(len(labels))
    values = {"image": pixels[:, None].astype(np.float32) / 255, "class": labels.astype(np.int64)}
    return MultimodalDataset([IMAGE, CLASS], values, ids=rows)


def read_idx_files(folder: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (B, 28, 28) and labels (B,), both uint8, of one split in a folder of the whole set."""
    image_file = _find(folder, f"{PREFIX[split]}-images-idx3-ubyte")
    label_file = _find(folder, f"{PREFIX[split]}-labels-idx1-ubyte")
    pixels, labels = _read_idx(image_file), _read_idx(label_file)
    if pixels.ndim != 3 or pixels.shape[1:] != (28, 28):
        raise ValueError(f"{image_file} holds shape {pixels.shape}, expected (B, 28, 28): {WHERE}.")
    if labels.shape != pixels.shape[:1] or (labels >= len(CLASS.values)).any():
        raise ValueError(
            f"{label_file} holds shape {labels.shape}, largest {labels.max(initial=0)}; expected "
            f"{pixels.shape[:1]} labels of 0 to 9, one for each picture of {image_file.name}: {WHERE}."
        )
    return pixels, labels


def _find(folder: str | Path, name: str) -> Path:
    folder = Path(folder).expanduser()
    for below in ("", "raw", "FashionMNIST/raw"):
        for ending in ("", ".gz"):
            if (path := folder / below / (name + ending)).is_file():
                return path
    raise FileNotFoundError(
        f"Neither {name} nor {name}.gz is in {folder} or below it in FashionMNIST/raw: {WHERE}."
    )


def _read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes: two zeros, the type 8, the number of axes, the axes (big-endian), the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): {WHERE}.") from error
    start = 4 + 4 * data[3] if len(data) > 3 else 4
    shape = tuple(np.frombuffer(data[4:start], ">u4").tolist()) if len(data) >= start else ()
    if data[:3] != b"\0\0\x08" or not shape or len(data) != start + math.prod(shape):
        raise ValueError(
            f"{path} is damaged: {len(data)} bytes that begin with {data[:4].hex()} are no whole IDX file of "
            f"bytes{f' of shape {shape}' if shape else ''}: {WHERE}."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
