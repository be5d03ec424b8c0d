"""Simulated galaxies whose truth is known: image, spectrum, magnitudes, mass, redshift and past.

May import the declarations, the data set, ``fetch``'s cache, the law and the checks of arguments; knows
nothing of codecs and models. The law, its priors and its noise are in galaxy_law.py; files/README.md tells
how the 1,500 in the package were made.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aion_lite.arguments import real_number, whole_number
from aion_lite.data import galaxy_law as law
from aion_lite.data.dataset import MultimodalDataset
from aion_lite.data.fetch import cache_folder
from aion_lite.modalities import Image, Scalar, Spectrum, Table

FILE = Path(__file__).parent / "files" / "galaxies.parquet"
PARTS = {"train": slice(0, 1000), "test": slice(1000, 1500)}
BLOCK = 50  # galaxies that are simulated and kept together
VERSION = 1  # of the law: what another version left in the cache is not read
SHARES = tuple(f"formed_{a}_{b}_Myr" for a, b in zip(law.AGE_EDGES, law.AGE_EDGES[1:], strict=False))
MODALITIES = (
    Image("image", channels=len(law.BANDS), size=law.SIZE),
    Spectrum("spectrum", wavelength=law.WAVELENGTH),
    *(Scalar(band, unit="AB mag") for band in law.BANDS),
    Scalar("log_mass", unit="log10 of solar masses"),
    Scalar("redshift"),
    Table("sfh", columns=[Scalar(name) for name in SHARES]),
)


def load_galaxies(split: str = "train") -> MultimodalDataset:
    """1,000 simulated galaxies, or 500 for the test; they are in the package, no simulator is needed.

    Modalities:

    - ``image`` (B, 5, 32, 32): bands g r i z y, 0.26 arcsec a pixel, in units of the sky noise of a pixel.
      A flux of 1 in all is magnitude ``galaxy_law.ZERO_POINT[band]``. Stored in steps of 0.5.
    - ``spectrum`` (B, 1024): observed flux in 1e-17 erg / s / cm^2 / angstrom at 3700 to 9300 angstrom. Its
      S/N (median over wavelength) is log-uniform in 2 to 20, whatever the brightness. Stored as float16.
    - ``g r i z y`` (B,): AB magnitudes of exposures of their own, as deep as the image and with 0.01 mag of
      calibration error. Absent below S/N 2, so what is missing is faint.
    - ``log_mass`` (B,), log10 of the mass in stars, and ``redshift`` (B,), both without error.
    - ``sfh`` (B, 6): share of all mass ever formed that formed 0 to 100, 100 to 300, 300 to 1000, 1000 to
      3000, 3000 to 6000 and 6000 to 14000 Myr before the light left. They add up to 1. This is truth, no
      observable: a target.

    Args:
        split: "train" or "test"; all are independent draws of one law.

    ``ids`` are 0 to 999 and 1000 to 1499. ``info``: ``spectrum_ivar`` (B, 1024), the inverse variance of the
    spectrum, ``g_err`` ... (mag, 1 sigma; NaN where absent), and the truth: ``true_g`` ... (mag),
    ``bulge_fraction``, ``radius`` (arcsec, half-light, of the disc) and ``radius_kpc``, ``axis_ratio``,
    ``position_angle`` (radians), ``age`` (Gyr, mass-weighted), ``log_ssfr`` (log10 of star formation a year
    over the mass in stars; -14, a third of them, stands for less), ``log_mass_formed``, ``alpha``, ``beta``,
    ``tau`` (Gyr) of the star formation, ``metallicity`` (suns), ``dust`` (A_V, mag), ``velocity_dispersion``
    (km/s), ``spectrum_snr``.

    A model that does well here knows this law; it proves nothing about real galaxies.

    Source: made with bagpipes 1.3.6 and galsim 2.8.5, ``simulate_galaxies(1500, seed=0)``.
    """
    if split not in PARTS:
        raise ValueError(f"The galaxies have the splits 'train' and 'test', got {split!r}.")
    rows = np.arange(PARTS["test"].stop)[PARTS[split]]
    return _dataset(pq.read_table(FILE).slice(rows[0], len(rows)), rows)


def simulate_galaxies(
    num: int, seed: int = 0, link: float = 1.0, jobs: int = 1, folder: str | Path | None = None
) -> MultimodalDataset:
    """``num`` new galaxies, all that ``load_galaxies`` describes; needs bagpipes and galsim.

    Args:
        num: how many; 13 kB each on disk, 30 kB in memory.
        seed: of everything. More galaxies of the same seed begin with the fewer ones, for any ``jobs``.
        link: 0 to 1, the probability that a galaxy's bulge sets its age and dust; at 0 the shape tells
            nothing of the stars, and no marginal distribution changes.
        jobs: processes. Each needs seconds to start and 1.2 GB.
        folder: where they are kept, 50 in an Arrow file, and read from the next time; an interrupted run
            goes on where it was. Default: ``galaxies`` in ``$AION_LITE_CACHE`` (or ``~/.cache/aion-lite``).

    Raises ImportError where a simulator is missing and galaxies have to be made, TypeError for an argument
    that is no number, ValueError for one out of range.
    """
    num, seed = whole_number("num", num, 1), whole_number("seed", seed, 0)
    jobs, link = whole_number("jobs", jobs, 1), real_number("link", link, 0, 1)
    where = Path(folder).expanduser() if folder else cache_folder() / "galaxies"
    where = where / f"law{VERSION}-seed{seed}-link{link}"
    files = [where / f"{block:06d}.arrow" for block in range(-(-num // BLOCK))]
    missing = [block for block, file in enumerate(files) if not file.is_file()]
    if missing:
        from joblib import Parallel, delayed  # scikit-learn brings it

        law.import_simulators()  # the error, if any, once and here
        where.mkdir(parents=True, exist_ok=True)
        Parallel(n_jobs=min(jobs, len(missing)))(
            delayed(_write_block)(files[block], seed, block, link) for block in missing
        )
    table = pa.concat_tables([pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files])
    return _dataset(table.slice(0, num), np.arange(num))


def simulate_table(start: int, stop: int, seed: int, link: float = 1.0) -> pa.Table:
    """Galaxies ``start`` to ``stop`` of a seed, a row each, as they are stored."""
    rows = []
    for number in range(start, stop):
        rng = np.random.default_rng([seed, number])  # of its own: a galaxy doesn't depend on its block
        rows.append(law.observe(law.draw_truth(rng, link), rng))
    columns = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        if values.ndim == 1:
            columns[name] = values.astype(np.float32)
        else:  # bytes of each sample, little-endian
            values = values.reshape(len(rows), -1)
            values = values.astype(values.dtype.newbyteorder("<"))
            columns[name] = pa.array([v.tobytes() for v in values], pa.binary(values[0].nbytes))
    return pa.table(columns)


def _write_block(path: Path, seed: int, block: int, link: float) -> None:
    table = simulate_table(block * BLOCK, (block + 1) * BLOCK, seed, link)
    part = path.with_suffix(f".part{os.getpid()}")  # moved when whole: a killed run leaves no half file
    with pa.ipc.new_file(str(part), table.schema) as writer:
        writer.write_table(table)
    os.replace(part, path)


def _dataset(table: pa.Table, ids: np.ndarray) -> MultimodalDataset:
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_fixed_size_binary(column.type):
            kind = {"image": "<i2", "spectrum": "<f2", "sfh": "<f4"}[name]
            columns[name] = np.frombuffer(b"".join(column.to_pylist()), kind).reshape(len(table), -1)
        else:
            columns[name] = column.to_numpy()
    image, spectrum = columns["image"], columns["spectrum"]
    columns["image"] = image.reshape(-1, *MODALITIES[0].shape).astype(np.float32) * np.float32(law.STEP)
    columns["spectrum"] = spectrum.astype(np.float32)
    sigma = columns.pop("spectrum_sigma")[:, None] * law.spectrum_noise_shape()
    values = {m.name: columns.pop(m.name) for m in MODALITIES}
    present = {band: np.isfinite(values[band]) for band in law.BANDS}
    info = columns | {"spectrum_ivar": (sigma**-2).astype(np.float32)}
    return MultimodalDataset(MODALITIES, values, present, ids, info)
