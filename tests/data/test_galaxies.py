"""The embedded galaxies against textbook astronomy; the law against galsim, bagpipes, scipy."""

import builtins
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import kstest, spearmanr
from sklearn.ensemble import HistGradientBoostingRegressor

from aion_lite.data import galaxy_law as law
from aion_lite.data import load_galaxies, simulate_galaxies
from aion_lite.data.galaxies import SHARES, simulate_table

SPEED = 299_792.458  # km/s


@pytest.fixture(scope="module")
def galaxies():
    return load_galaxies()


def test_splits_shapes_and_declarations(galaxies):
    test = load_galaxies("test")
    assert (len(galaxies), len(test)) == (1000, 500)
    assert np.array_equal(np.concatenate([galaxies.ids, test.ids]), np.arange(1500))
    for part in (galaxies, test):
        assert list(part.modalities) == ["image", "spectrum", *"grizy", "log_mass", "redshift", "sfh"]
        assert part.values["image"].shape[1:] == (5, 32, 32)
        assert part.info["spectrum_ivar"].shape == part.values["spectrum"].shape == (len(part), 1024)
    images = np.concatenate([part.values["image"].flatten(1) for part in (galaxies, test)])
    assert len(np.unique(images, axis=0)) == 1500
    with pytest.raises(ValueError, match="splits 'train' and 'test', got 'val'"):
        load_galaxies("val")


def test_shares_of_the_past_add_up_to_1_and_none_is_older_than_the_universe(galaxies):
    shares = galaxies.values["sfh"].numpy()
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    assert shares.min() >= 0 and len(SHARES) == shares.shape[1]
    middle = (np.array(law.AGE_EDGES[1:]) + law.AGE_EDGES[:-1]) / 2000
    assert spearmanr(shares @ middle, galaxies.info["age"]).statistic > 0.95
    # 977.8 / 70 is the Hubble time in Gyr; Peebles 1993, eq. 13.20, for a flat universe with 0.3 of matter
    z = galaxies.values["redshift"].numpy()
    universe = 977.8 / 70 * 2 / 3 / np.sqrt(0.7) * np.arcsinh(np.sqrt(0.7 / 0.3) * (1 + z) ** -1.5)
    assert (galaxies.info["age"] < universe).all()


def test_the_spectrum_through_a_box_has_the_magnitude_of_the_band(galaxies):
    """LSST's r is nearly a box, 5520 to 6910 angstrom; the S/N of a sum over 250 bins is large."""
    wave = np.array(galaxies.modalities["spectrum"].wavelength)
    flux = galaxies.values["spectrum"].double().numpy() * 1e-17
    box = (wave > 5520) & (wave < 6910)
    light = (flux * wave)[:, box].sum(1) / (2.99792458e18 / wave[box]).sum()
    known = galaxies.present["r"].numpy() & (galaxies.info["r_err"] < 0.05)
    off = (-2.5 * np.log10(light) - 48.6 - galaxies.values["r"].numpy())[known]
    assert known.mean() > 0.8 and abs(np.median(off)) < 0.03 and np.std(off) < 0.09
    assert abs(off).max() < 0.4


def comoving_Mpc(z: float) -> float:
    return SPEED / 70 * quad(lambda x: (0.3 * (1 + x) ** 3 + 0.7) ** -0.5, 0, z)[0]


def test_stars_are_as_bright_as_stars_are(galaxies):
    """Mass over light, in suns (4.65 mag in r): 0.3 of young and 3 of old stars; it grows with age."""
    near = galaxies[galaxies.values["redshift"].numpy() < 0.15]  # where r sees nearly the same light
    distance = np.array([(1 + z) * comoving_Mpc(z) for z in near.values["redshift"].double().tolist()])
    absolute = near.info["true_r"] - 5 * np.log10(distance) - 25
    log_ratio = near.values["log_mass"].numpy() + 0.4 * (absolute - 4.65)
    dusty = near.info["dust"] > 0.3
    assert spearmanr(log_ratio[~dusty], near.info["age"][~dusty]).statistic > 0.8
    assert -0.7 < np.percentile(log_ratio[~dusty], 5) < np.percentile(log_ratio[~dusty], 95) < 0.7


def test_the_image_has_the_magnitude_of_the_photometry(galaxies):
    """Where the galaxy is small for the stamp and bright enough to be summed."""
    light = galaxies.values["image"].double().sum((2, 3)).numpy()
    for i, band in enumerate("griz"):
        small = (galaxies.info["radius"] < 0.8) & (light[:, i] > 2000)
        magnitude = law.ZERO_POINT[band] - 2.5 * np.log10(light[small, i])
        off = magnitude - galaxies.info[f"true_{band}"][small]
        assert small.sum() > 40 and -0.02 < np.median(off) < 0.1  # the wings of seeing and bulge fall outside


def test_noise_is_what_info_says(galaxies):
    corner = galaxies.values["image"][:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    faint = galaxies.info["true_g"] > 25
    sky = corner[faint].numpy()
    assert (2 * galaxies.values["image"] % 1 == 0).all()
    assert sky.std() == pytest.approx(np.sqrt(1 + 0.5**2 / 12), abs=0.05)
    for band in "grizy":
        off = (galaxies.values[band].numpy() - galaxies.info[f"true_{band}"]) / galaxies.info[f"{band}_err"]
        bright = galaxies.info[f"{band}_err"] < 0.05
        assert kstest(off[bright], "norm").pvalue > 1e-3
        assert np.array_equal(np.isfinite(off), galaxies.present[band].numpy())
        assert (galaxies.info[f"{band}_err"][np.isfinite(off)] < 2.5 / np.log(10) / law.DETECTED).all()
    # second differences take the smooth spectrum away; 6 = 1 + 4 + 1, and robust against emission lines
    s, ivar = galaxies.values["spectrum"].double().numpy(), galaxies.info["spectrum_ivar"].astype(float)
    rough = (s[:, 2:] - 2 * s[:, 1:-1] + s[:, :-2]) * np.sqrt(ivar[:, 1:-1] / 6)
    noisy = galaxies.info["spectrum_snr"] < 4
    scatter = 1.4826 * np.median(np.abs(rough[noisy]), axis=0)  # (1022,) along wavelength
    for part in np.array_split(scatter, 5):
        assert part.mean() == pytest.approx(1, abs=0.05)


def test_what_tells_of_what(galaxies):
    """Redshift is in the colours; the shape tells of age, since bulges are old here."""
    test = load_galaxies("test")
    x, y = (-np.diff(part.to_frame([*"grizy"]).to_numpy(), axis=1) for part in (galaxies, test))
    model = HistGradientBoostingRegressor(max_iter=60, random_state=0)
    model.fit(x, galaxies.values["redshift"].numpy())
    assert model.score(y, test.values["redshift"].numpy()) > 0.6
    assert spearmanr(galaxies.info["bulge_fraction"], galaxies.info["age"]).statistic > 0.4


def test_the_knob_unlinks_shape_from_dust_and_changes_no_marginal():
    linked, free = (
        [law.draw_truth(np.random.default_rng([1, i]), link) for i in range(2000)] for link in (1.0, 0.0)
    )
    for truth, low, high in ((linked, -0.5, -0.15), (free, -0.07, 0.07)):
        bulge, dust = (np.array([t[name] for t in truth]) for name in ("bulge_fraction", "dust"))
        assert low < spearmanr(bulge, dust).statistic < high
    for name in linked[0]:
        assert kstest([t[name] for t in linked], [t[name] for t in free]).pvalue > 1e-3, name


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("num", 0, ValueError),
        ("num", 2.5, TypeError),
        ("num", "2", TypeError),
        ("seed", -1, ValueError),
        ("seed", None, TypeError),
        ("link", 1.5, ValueError),
        ("link", math.nan, ValueError),
        ("link", "a", TypeError),
        ("jobs", 0, ValueError),
        ("jobs", 1.5, TypeError),
    ],
)
def test_impossible_requests_are_refused(name, value, error, tmp_path):
    with pytest.raises(error, match=f"^{name} is a .* number .*, got {value!r}.$"):
        simulate_galaxies(**{"num": 1, "folder": tmp_path, name: value})
    assert not list(tmp_path.iterdir())


def test_without_the_simulators_it_says_what_to_install(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *rest):
        if name == "bagpipes":
            raise ImportError(name, name=name)
        return real(name, *rest)

    law.import_simulators.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"(bagpipes|galsim) is missing: pip install bagpipes galsim"):
        simulate_galaxies(1, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def simulators():
    try:
        return law.import_simulators()
    except ImportError as error:
        pytest.skip(str(error))


def truth_of(number: int) -> dict:
    return law.draw_truth(np.random.default_rng([0, number]))


def test_the_package_file_is_what_the_law_gives(simulators, galaxies):
    """Another machine may round a pixel to the next step."""
    stored = simulate_table(3, 5, seed=0)
    for row, number in enumerate((3, 4)):
        image = np.frombuffer(stored["image"][row].as_py(), "<i2") * np.float32(law.STEP)
        off = np.abs(image - galaxies.values["image"][number].flatten().numpy())
        assert off.max() <= 10 * law.STEP and (off > 0).mean() < 0.01
        spectrum = np.frombuffer(stored["spectrum"][row].as_py(), "<f2").astype(np.float32)
        np.testing.assert_allclose(spectrum, galaxies.values["spectrum"][number], rtol=5e-3, atol=1e-4)
        assert stored["true_r"][row].as_py() == pytest.approx(galaxies.info["true_r"][number], abs=1e-3)


def test_magnitudes_are_galsims(simulators):
    _, galsim = simulators
    for number in range(3):
        truth = truth_of(number)
        wave, flux = law.observed_light(law.model_of(truth), truth["redshift"])
        near = (wave > 2000) & (wave < 13000)
        table = galsim.LookupTable(wave[near] / 10, flux[near] * 10, interpolant="linear")
        light = galsim.SED(table, wave_type="nm", flux_type="flambda")
        for band in law.BANDS:
            bandpass = galsim.Bandpass(f"LSST_{band}.dat", wave_type="nm").withZeropoint("AB")
            theirs = light.calculateMagnitude(bandpass)
            assert law.ab_magnitude(band, wave, flux) == pytest.approx(theirs, abs=0.001)


def test_shapes_are_what_galsim_measures(simulators):
    """A disc without bulge: its axis ratio and angle after seeing; all light in a stamp that holds it."""
    _, galsim = simulators
    truth = {"bulge_fraction": 0.0, "axis_ratio": 0.5, "position_angle": 0.6}
    picture = law.draw_image(truth, 0.6, dict.fromkeys(law.BANDS, 20.0))
    for band, x in zip(law.BANDS, picture, strict=True):
        total = 10 ** (-0.4 * (20 - law.ZERO_POINT[band]))
        assert x.sum() == pytest.approx(total, rel=0.04)
    seen = galsim.hsm.FindAdaptiveMom(galsim.Image(picture[1], scale=law.PIXEL))
    assert seen.observed_shape.beta.rad == pytest.approx(0.6, abs=0.02)
    # a point is as wide as seeing and pixel, and wider in blue light
    point = law.draw_image(truth, 0.01, dict.fromkeys(law.BANDS, 20.0))
    fwhm = [galsim.Image(x, scale=law.PIXEL).calculateFWHM() for x in point]
    assert fwhm[1] == pytest.approx(np.hypot(law.SEEING, law.PIXEL), abs=0.1) and fwhm == sorted(
        fwhm, reverse=True
    )


def test_angles_follow_the_distance(simulators):
    for z in (0.05, 0.3, 0.5):
        angular = comoving_Mpc(z) / (1 + z)
        assert law.kpc_per_arcsec(z) == pytest.approx(angular * 1000 * np.pi / 648_000, rel=1e-3)


def test_one_seed_one_set_whatever_the_jobs(simulators, tmp_path):
    few = simulate_galaxies(2, seed=5, folder=tmp_path)
    kept = sorted(tmp_path.rglob("*.arrow"))
    times = [file.stat().st_mtime_ns for file in kept]
    more = simulate_galaxies(51, seed=5, jobs=2, folder=tmp_path)
    assert [file.stat().st_mtime_ns for file in kept] == times and len(list(tmp_path.rglob("*.arrow"))) == 2
    for name in few.modalities:
        assert (few.values[name] == more.values[name][:2]).all()
    alone = simulate_table(50, 51, seed=5)  # made by another process, after other galaxies
    assert alone["log_mass"][0].as_py() == more.values["log_mass"][50].item()
    assert np.array_equal(
        np.frombuffer(alone["image"][0].as_py(), "<i2"), 2 * more.values["image"][50].flatten().numpy()
    )
    assert simulate_table(0, 1, seed=6)["image"][0] != alone["image"][0]
