"""10,000 real galaxies, seen by SDSS (ugriz), 2MASS (JHK) and GALEX (NUV, FUV), with redshifts.

May import the declarations and the data set; knows nothing of codecs and models. The file travels in the
package; files/README.md tells where it is from.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aion_lite.data.dataset import MultimodalDataset
from aion_lite.modalities import Scalar

FILE = Path(__file__).parent / "files" / "sdss_galaxies.parquet"
MAG_PER_RELATIVE_ERROR = 2.5 / np.log(10)

# Galactic extinction A_band / E(B-V), as kcorrect has it. JHK: Schlegel, Finkbeiner & Davis 1998, table 6;
# GALEX: the values of its own pipeline. SDSS brings its extinction along, with A_r = 2.751 E(B-V).
EXTINCTION_PER_EBV = {"J": 0.902, "H": 0.576, "K": 0.367, "NUV": 8.18, "FUV": 8.29}
R_BAND_PER_EBV = 2.751
# AB magnitude of 1 unit of flux: SDSS fluxes are nanomaggies, GALEX FLUX_AUTO are counts per second.
SDSS_ZERO_POINT = 22.5
GALEX_ZERO_POINT = {"NUV": 20.08, "FUV": 18.82}


def load_sdss_galaxies(dereddened: bool = True) -> MultimodalDataset:
    """10,000 galaxies: magnitudes in ten bands, what is missing, measured errors, and the redshift.

    Modalities, all ``Scalar`` (B,): ``u g r i z`` (SDSS model magnitudes, AB to 0.04 mag), ``J H K`` (2MASS
    extended sources, total magnitudes, **Vega**; add 0.91, 1.39, 1.85 for AB), ``NUV FUV`` (GALEX Kron
    magnitudes, AB) and ``redshift`` (spectroscopic, 0.010 to 0.583). Redshift is laid out on its own scale,
    not on a log one: what colours tell of it has an error near 0.015 (1 + z), alike over this range.

    Absent: a flux that isn't positive (u: 12 galaxies), a 2MASS magnitude without an error bar, a GALEX flux
    of 0 (no GALEX source there: not covered, or found in neither band) or -99 (found in the other band only,
    so its absence hints at "faint").

    H without an error bar (714 galaxies) is marked absent because it isn't a measurement: those magnitudes
    are 0.41 mag fainter (median) than the galaxy's other bands predict, 99 % of them on that side, while
    measured ones scatter evenly about it. They are the faint galaxies, so H is missing not at random.

    Args:
        dereddened: correct every band for the dust of our own Galaxy; False gives magnitudes as observed.

    ``info``: ``u_err`` ... ``FUV_err`` (1 sigma, mag; NaN where the band is absent), ``ra``, ``dec``
    (degrees, J2000), ``ebv`` (Galactic reddening E(B-V), mag). Every galaxy is an object of its own.

    Source: kcorrect 5.1.9 (Blanton & Roweis 2007), its test sample of the NYU Value-Added Galaxy Catalog.
    """
    raw = pd.read_parquet(FILE)
    ebv = (raw["EXTINCTION_r"] / R_BAND_PER_EBV).to_numpy()
    magnitude: dict[str, np.ndarray] = {}
    error: dict[str, np.ndarray] = {}
    dust: dict[str, np.ndarray] = {}
    for band in "ugriz":
        flux, ivar = raw[f"MODELFLUX_{band}"].to_numpy(), raw[f"MODELFLUX_IVAR_{band}"].to_numpy()
        magnitude[band], error[band] = _magnitude(flux, 1 / np.sqrt(ivar), SDSS_ZERO_POINT)
        dust[band] = raw[f"EXTINCTION_{band}"].to_numpy()
    for band in "JHK":
        mag, sigma = raw[f"{band}_M_EXT"].to_numpy(), raw[f"{band}_MSIG_EXT"].to_numpy()
        measured = (mag > 0) & (sigma > 0)
        magnitude[band], error[band] = np.where(measured, mag, np.nan), np.where(measured, sigma, np.nan)
        dust[band] = EXTINCTION_PER_EBV[band] * ebv
    for band, zero_point in GALEX_ZERO_POINT.items():
        flux, sigma = raw[f"{band}_FLUX_AUTO"].to_numpy(), raw[f"{band}_FLUXERR_AUTO"].to_numpy()
        magnitude[band], error[band] = _magnitude(flux, sigma, zero_point)
        dust[band] = EXTINCTION_PER_EBV[band] * ebv

    modalities = [Scalar(band, unit="Vega mag" if band in "JHK" else "AB mag") for band in magnitude]
    values = {band: torch.from_numpy(mag - dust[band] * dereddened) for band, mag in magnitude.items()}
    present = {band: torch.from_numpy(np.isfinite(mag)) for band, mag in magnitude.items()}
    info = {f"{band}_err": sigma.astype(np.float32) for band, sigma in error.items()}
    return MultimodalDataset(
        [*modalities, Scalar("redshift")],
        {**values, "redshift": raw["Z"].to_numpy()},
        present,
        info={**info, "ra": raw["RA"].to_numpy(), "dec": raw["DEC"].to_numpy(), "ebv": ebv},
    )


def _magnitude(flux: np.ndarray, sigma: np.ndarray, zero_point: float) -> tuple[np.ndarray, np.ndarray]:
    """Pogson magnitude and its error (B,), NaN where the flux isn't positive and so has no logarithm."""
    positive = np.where(flux > 0, flux.astype(np.float64), np.nan)
    return zero_point - 2.5 * np.log10(positive), MAG_PER_RELATIVE_ERROR * sigma / positive
