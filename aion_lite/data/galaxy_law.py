"""The law of the simulated galaxies: from one draw of the truth to what a survey would measure of it.

Stars, gas and dust are bagpipes' (Carnall et al. 2018, MNRAS 480, 4379), shapes and seeing galsim's (Rowe et
al. 2015, Astronomy and Computing 10, 121). Their physics is real; the priors here are ours, and they decide
how much each modality tells. bagpipes is GPL-3 and 250 MB, so both are imported only when a galaxy is made.

The truth of a galaxy, in ``draw_truth``:

    redshift ~ U(0.05, 0.5), mass formed 10**U(9, 11.3) suns, bulge fraction ~ Beta(1.2, 1.6)
    star formation (t / tau)**beta, then (t / tau)**-alpha, tau ~ N(3 + 7 (1 - bulge), 1.5**2) Gyr
    metals 10**N(0.3 (log mass - 10.5), 0.15**2) suns, A_V ~ U(0, 1.5) (1 - 0.6 bulge) mag (Calzetti)
    half-light radius of the disc 3.5 kpc 10**N(0.25 (log mass - 10.5), 0.15**2), of the bulge 0.4 of it

So galaxies with large bulges are old and have little dust. ``link`` is the probability that a galaxy's own
bulge sets tau and dust; otherwise another galaxy's does, and the shape tells nothing of the stars.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings

import numpy as np
from numpy.random import Generator

BANDS = "grizy"
SIZE, PIXEL = 32, 0.26  # pixels, arcsec
SEEING = 0.7  # arcsec, full width at half maximum in r; Kolmogorov: it goes with wavelength**-0.2
EFFECTIVE_WAVELENGTH = {"g": 4800.0, "r": 6230.0, "i": 7540.0, "z": 8690.0, "y": 9730.0}  # angstrom
# A point source of this AB magnitude has S/N 5: in one visit as LSST's requirements have it (LPM-17), and
# ten visits are added up.
VISIT_DEPTH = {"g": 25.0, "r": 24.7, "i": 24.0, "z": 23.3, "y": 22.1}
DEPTH = {band: depth + 1.25 * np.log10(10) for band, depth in VISIT_DEPTH.items()}
# Its light falls on as many pixels as these; sky noise is 1 a pixel, so it has flux 5 sqrt(NOISE_PIXELS).
NOISE_PIXELS = 2.266 * (SEEING / PIXEL) ** 2
ZERO_POINT = {band: depth + 2.5 * np.log10(5 * np.sqrt(NOISE_PIXELS)) for band, depth in DEPTH.items()}
STEP = 0.5  # of the stored image, in sky noise
FLOOR = 0.01  # mag, calibration error of the photometry
DETECTED = 2.0  # S/N below which a magnitude is no measurement
WAVELENGTH = np.linspace(3700.0, 9300.0, 1024)  # angstrom
FINE = 4  # model points a bin of the spectrum
FLUX_UNIT = 1e-17  # erg / s / cm^2 / angstrom
AGE_EDGES = (0, 100, 300, 1000, 3000, 6000, 14000)  # Myr before the light left
LIGHT_SPEED = 2.99792458e18  # angstrom / s
LOWEST_LOG_SSFR = -14.0  # log10 per year


def spectrum_noise_shape() -> np.ndarray:
    """Noise of a spectrum along its wavelengths (1024,), 1 in the middle: both ends see less light."""
    return 1 + 2 * ((WAVELENGTH - 6500) / 2800) ** 4


def draw_truth(rng: Generator, link: float = 1.0) -> dict[str, float]:
    """One galaxy's parameters; units as in ``load_galaxies``."""
    bulge, other = rng.beta(1.2, 1.6, 2)
    driver = bulge if rng.random() < link else other
    log_mass = rng.uniform(9, 11.3)
    return {
        "redshift": rng.uniform(0.05, 0.5),
        "log_mass_formed": log_mass,
        "bulge_fraction": bulge,
        "alpha": 10 ** rng.uniform(-0.5, 2.5),
        "beta": 10 ** rng.uniform(-0.5, 1.5),
        "tau": np.clip(rng.normal(3 + 7 * (1 - driver), 1.5), 0.5, 12),
        "metallicity": np.clip(10 ** rng.normal(0.3 * (log_mass - 10.5), 0.15), 0.1, 2.5),
        "dust": rng.uniform(0, 1.5) * (1 - 0.6 * driver),
        "velocity_dispersion": rng.uniform(60, 300),
        "radius_kpc": 3.5 * 10 ** rng.normal(0.25 * (log_mass - 10.5), 0.15),
        "axis_ratio": rng.uniform(0.25, 1),
        "position_angle": rng.uniform(0, np.pi),
        "spectrum_snr": 10 ** rng.uniform(np.log10(2), np.log10(20)),
    }


def observe(truth: dict[str, float], rng: Generator) -> dict[str, np.ndarray | float]:
    """What is stored of one galaxy.

    ``image`` (5, 32, 32) int16 in steps of half the sky noise, ``spectrum`` (1024,) float16 and
    ``spectrum_sigma`` (its noise in the middle), ``g`` ... ``y`` (NaN where not detected) and ``g_err`` ...,
    ``log_mass``, ``sfh`` (6,), and the truth. Raises ImportError where bagpipes or galsim is missing.
    """
    model = model_of(truth)
    magnitude = {band: ab_magnitude(band, *observed_light(model, truth["redshift"])) for band in BANDS}
    radius = truth["radius_kpc"] / kpc_per_arcsec(truth["redshift"])
    image = draw_image(truth, radius, magnitude, offset=rng.uniform(-0.5, 0.5, 2))
    image = np.rint((image + rng.standard_normal(image.shape)) / STEP)
    row: dict[str, np.ndarray | float] = {"image": np.clip(image, -(2**15), 2**15 - 1).astype(np.int16)}

    flux = model.spectrum[:, 1].reshape(-1, FINE).mean(1) / FLUX_UNIT  # (1024,)
    sigma = np.float32(np.median(flux) / truth["spectrum_snr"])
    noise = sigma * spectrum_noise_shape() * rng.standard_normal(len(flux))
    row |= {"spectrum": (flux + noise).astype(np.float16), "spectrum_sigma": sigma}

    extended = np.sqrt(1 + (2 * radius / SEEING) ** 2)  # a wider source gathers the noise of more pixels
    for band in BANDS:
        true = 10 ** (-0.4 * (magnitude[band] - ZERO_POINT[band]))
        error = np.hypot(np.sqrt(NOISE_PIXELS) * extended, FLOOR * np.log(10) / 2.5 * true)
        got = true + error * rng.standard_normal()
        seen = got > DETECTED * error
        row[band] = ZERO_POINT[band] - 2.5 * np.log10(got) if seen else np.nan
        row[f"{band}_err"] = 2.5 / np.log(10) * error / got if seen else np.nan

    sfh = model.sfh
    row |= {
        "log_mass": sfh.stellar_mass,
        "sfh": formed_shares(sfh),
        "log_ssfr": max(np.nan_to_num(sfh.ssfr, nan=-np.inf), LOWEST_LOG_SSFR),
        "age": sfh.mass_weighted_age,
        "radius": radius,
    }
    return row | {f"true_{band}": magnitude[band] for band in BANDS} | truth


@functools.cache
def import_simulators():
    """(bagpipes, galsim). ImportError with what to install where one is missing."""
    try:
        import galsim
        import matplotlib

        # bagpipes prints, and changes how every later figure looks
        with contextlib.redirect_stdout(io.StringIO()), matplotlib.rc_context():
            import bagpipes
    except ImportError as error:
        raise ImportError(
            f"Simulating galaxies needs bagpipes (250 MB, GPL-3) and galsim, and {error.name} is missing: "
            f"pip install bagpipes galsim; load_galaxies() reads 1,500 that are made already."
        ) from error
    return bagpipes, galsim


@functools.cache
def _model():
    """bagpipes' galaxy, made once: an update takes 10 ms, a new one more."""
    bagpipes, _ = import_simulators()
    step = (WAVELENGTH[1] - WAVELENGTH[0]) / FINE
    fine = WAVELENGTH[0] + step * (np.arange(len(WAVELENGTH) * FINE) - (FINE - 1) / 2)
    first = _components(draw_truth(np.random.default_rng(0)))
    return bagpipes.model_galaxy(first, spec_wavs=fine)


def _components(truth: dict[str, float]) -> dict:
    """The truth in bagpipes' words."""
    history = {name: truth[name] for name in ("alpha", "beta", "tau", "metallicity")}
    return {
        "redshift": truth["redshift"],
        "dblplaw": {**history, "massformed": truth["log_mass_formed"]},
        "dust": {"type": "Calzetti", "Av": truth["dust"], "eta": 2.0},  # young stars behind twice as much
        "nebular": {"logU": -3.0},
        "t_bc": 0.01,  # Gyr that stars stay in their cloud
        "veldisp": truth["velocity_dispersion"],
    }


def model_of(truth: dict[str, float]):
    """bagpipes' model of this galaxy; the next call changes it."""
    model = _model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # logarithms of star formation that is 0
        model.update(_components(truth))
    return model


def observed_light(model, redshift: float) -> tuple[np.ndarray, np.ndarray]:
    """Observed wavelength (angstrom) and flux (erg / s / cm^2 / angstrom), wider than any band."""
    return model.wavelengths * (1 + redshift), model.spectrum_full


@functools.cache
def _passband(band: str) -> tuple[np.ndarray, np.ndarray]:
    """Wavelength (angstrom) and throughput of an LSST band, as galsim ships them."""
    _, galsim = import_simulators()
    nm, throughput = np.loadtxt(f"{galsim.meta_data.share_dir}/bandpasses/LSST_{band}.dat").T
    return 10 * nm, throughput


def ab_magnitude(band: str, wavelength: np.ndarray, flux: np.ndarray) -> float:
    """AB magnitude of a spectrum, as a detector that counts photons sees it (Fukugita et al. 1996, eq. 7)."""
    grid, throughput = _passband(band)
    inside = wavelength[(wavelength > grid[0]) & (wavelength < grid[-1])]
    w = np.union1d(grid, inside)  # the band's own points are up to 160 angstrom apart and would miss lines
    throughput = np.interp(w, grid, throughput)
    light = np.trapezoid(np.interp(w, wavelength, flux) * throughput * w, w)
    flat = np.trapezoid(throughput * LIGHT_SPEED / w, w)  # of 1 erg / s / cm^2 / Hz at every wavelength
    return -2.5 * np.log10(light / flat) - 48.6


@functools.cache
def _cosmology():
    from astropy.cosmology import FlatLambdaCDM  # bagpipes needs astropy too

    return FlatLambdaCDM(H0=70, Om0=0.3)  # bagpipes' own


def kpc_per_arcsec(redshift: float) -> float:
    return _cosmology().angular_diameter_distance(redshift).to_value("kpc") * np.pi / (180 * 3600)


def draw_image(truth: dict, radius: float, magnitude: dict[str, float], offset=(0.0, 0.0)) -> np.ndarray:
    """The picture without noise (5, 32, 32), sky noise being 1: a round bulge in an inclined disc.

    ``radius`` (arcsec) is the disc's half-light radius, ``offset`` (pixels) where the centre lies. Bulge and
    disc have one colour.
    """
    _, galsim = import_simulators()
    bulge = galsim.DeVaucouleurs(half_light_radius=0.4 * radius, flux=truth["bulge_fraction"])
    disc = galsim.Exponential(half_light_radius=radius, flux=1 - truth["bulge_fraction"])
    disc = disc.shear(q=truth["axis_ratio"], beta=truth["position_angle"] * galsim.radians)
    image = np.empty((len(BANDS), SIZE, SIZE), np.float32)
    for picture, band in zip(image, BANDS, strict=True):
        fwhm = SEEING * (EFFECTIVE_WAVELENGTH[band] / EFFECTIVE_WAVELENGTH["r"]) ** -0.2
        seen = galsim.Convolve(bulge + disc, galsim.Kolmogorov(fwhm=fwhm))
        seen *= 10 ** (-0.4 * (magnitude[band] - ZERO_POINT[band]))
        picture[:] = seen.drawImage(nx=SIZE, ny=SIZE, scale=PIXEL, offset=tuple(offset)).array
    return image


def formed_shares(sfh) -> np.ndarray:
    """Share (6,) of the mass ever formed that formed in each stretch between ``AGE_EDGES``."""
    formed = np.concatenate([[0], np.cumsum(sfh.sfh * sfh.age_widths)])
    until = np.concatenate([[0], np.cumsum(sfh.age_widths)])  # years before the light left
    shares = np.diff(np.interp(np.array(AGE_EDGES) * 1e6, until, formed)) / formed[-1]
    return shares.astype(np.float32)
