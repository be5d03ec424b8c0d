"""The galaxies against counts taken from the source on their own, hand-made magnitudes and known colours."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from aion_lite.data import load_sdss_galaxies
from aion_lite.data.sdss import FILE

BANDS = [*"ugrizJHK", "NUV", "FUV"]


@pytest.fixture(scope="module")
def galaxies():
    return load_sdss_galaxies()


@pytest.fixture(scope="module")
def observed():
    return load_sdss_galaxies(dereddened=False)


def test_counts_and_redshifts_of_the_source(galaxies):
    assert len(galaxies) == len(np.unique(galaxies.ids)) == 10_000
    assert list(galaxies.modalities) == [*BANDS, "redshift"]
    z = galaxies.values["redshift"].numpy()
    assert z.min() == pytest.approx(0.010, abs=5e-4) and z.max() == pytest.approx(0.583, abs=5e-4)
    assert np.median(z) == pytest.approx(0.099, abs=5e-4)
    count = {name: int(p.sum()) for name, p in galaxies.present.items()}
    assert count["NUV"] == 774 and count["FUV"] == 530
    assert count["u"] == 10_000 - 12 and count["g"] == count["redshift"] == 10_000
    assert count["J"] == 9_999  # one galaxy lacks JHK,
    assert count["H"] == 9_999 - 714 and count["K"] == 9_998  # others lack the error bar of one


def test_magnitudes_by_hand(observed):
    raw = pd.read_parquet(FILE)
    row = 123
    for band in "ugriz":
        flux, ivar = float(raw[f"MODELFLUX_{band}"][row]), float(raw[f"MODELFLUX_IVAR_{band}"][row])
        mag = -2.5 * np.log10(flux * 1e-9)  # a maggie is the flux of magnitude 0
        assert float(observed.values[band][row]) == pytest.approx(mag, abs=1e-4)
        half = 1.25 * np.log10((flux + ivar**-0.5) / (flux - ivar**-0.5))
        assert observed.info[f"{band}_err"][row] == pytest.approx(half, rel=0.02)
    row = int(observed.present["NUV"].int().argmax())
    assert float(observed.values["NUV"][row]) == pytest.approx(
        20.08 - 2.5 * np.log10(raw["NUV_FLUX_AUTO"][row])
    )
    assert float(observed.values["K"][row]) == pytest.approx(raw["K_M_EXT"][row])


def test_dust_makes_every_band_fainter_and_the_blue_ones_most(galaxies, observed):
    raw, dust = pd.read_parquet(FILE), {}
    for band in BANDS:
        both = galaxies.present[band]
        dust[band] = (observed.values[band] - galaxies.values[band])[both].median().item()
    assert dust["u"] == pytest.approx(raw["EXTINCTION_u"].median(), abs=1e-3)
    assert list(dust) == [*"ugrizJHK", "NUV", "FUV"]
    assert all(dust[a] > dust[b] > 0 for a, b in zip("ugrizJH", "grizJHK", strict=True))
    assert dust["FUV"] > dust["NUV"] > dust["u"]


def test_units_are_what_galaxies_look_like(galaxies):
    colour = galaxies.to_frame()
    assert 1.0 < (colour["J"] - colour["K"]).median() < 1.3  # Vega; in AB it would be near 0.2
    assert 0.2 < (colour["FUV"] - colour["NUV"]).median() < 0.9  # AB, galaxies that form stars
    assert 0.5 < (colour["g"] - colour["r"]).median() < 1.0
    assert [galaxies.modalities[b].unit for b in ("r", "K", "NUV")] == ["AB mag", "Vega mag", "AB mag"]


def test_errors_are_known_where_the_band_is(galaxies):
    for band in BANDS:
        error, present = galaxies.info[f"{band}_err"], galaxies.present[band].numpy()
        assert (np.isfinite(error) == present).all() and (error[present] > 0).all()
    assert set(galaxies.info) == {f"{b}_err" for b in BANDS} | {"ra", "dec", "ebv"}


def test_h_without_an_error_bar_is_no_measurement(galaxies):
    """Why the loader drops them: the other bands predict an H that is much brighter, nearly always."""
    raw, x = pd.read_parquet(FILE), galaxies.to_frame([*"grizJK"]).to_numpy()
    h, sigma = raw["H_M_EXT"].to_numpy(), raw["H_MSIG_EXT"].to_numpy()
    train, test = (sigma > 0) & (raw.index < 8000), (sigma > 0) & (raw.index >= 8000)
    model = HistGradientBoostingRegressor(max_iter=30, random_state=0).fit(x[train], h[train])
    without = (sigma == 0) & (h > 0)
    excess = h - model.predict(x)
    assert abs(np.median(excess[test])) < 0.03
    assert np.median(excess[without]) > 0.3 and (excess[without] > 0).mean() > 0.95


def test_boosting_finds_the_redshift(galaxies):
    """R2 about 0.82 and sigma_NMAD about 0.017 from the five magnitudes (five seeds, 8,000 galaxies)."""
    train, test = galaxies.split(2000, seed=0)
    z = test.values["redshift"].numpy()
    model = HistGradientBoostingRegressor(max_iter=60, random_state=0)
    model.fit(train.to_frame([*"ugriz"]).to_numpy(), train.values["redshift"].numpy())
    error = (model.predict(test.to_frame([*"ugriz"]).to_numpy()) - z) / (1 + z)
    assert 1.4826 * np.median(np.abs(error - np.median(error))) < 0.020
