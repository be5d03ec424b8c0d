"""Supernovae against the source's counts, the rest wavelength of a line, and a known score; needs h5py."""

from collections import Counter

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from aion_lite.data import fetch
from aion_lite.data.supernovae import copy_supernovae, coverage, load_supernovae


@pytest.fixture(scope="module")
def wheel():
    pytest.importorskip("h5py", reason="spectra are in HDF5 files: pip install h5py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_RETRIES", "0")
        patch.setenv("PIP_DEFAULT_TIMEOUT", "10")
        try:
            return fetch("supernovae")
        except RuntimeError as error:
            pytest.skip(f"the wheel isn't in the cache and can't be had: {error}")


@pytest.fixture(scope="module")
def everything(wheel):
    return load_supernovae((2500.0, 10_000.0), 0.0, wheel.parent)


@pytest.fixture(scope="module")
def supernovae(wheel):
    return load_supernovae()


def test_counts_of_the_source(everything):
    assert everything.values["spectrum"].shape == (5557, 1024) and len(np.unique(everything.ids)) == 653
    types = Counter(everything.info["listed_type"])
    assert [types[t] for t in ("Ia", "II", "Ic", "Ib", "SLSN")] == [2911, 1207, 640, 385, 212]
    assert int(everything.present["phase"].sum()) == 5523
    phase = everything.values["phase"][everything.present["phase"]].numpy()
    assert np.percentile(phase, [0, 5, 95, 100]) == pytest.approx([-83, -10, 220, 1961], abs=1)
    known = everything.present["type"]
    names = np.array(everything.modalities["type"].values)[everything.values["type"][known]]
    assert (names == everything.info["listed_type"][known]).all()
    grid = np.array(everything.modalities["spectrum"].wavelength)
    assert grid[[0, -1]] == pytest.approx([2502, 9993], abs=1)
    assert np.diff(np.log(grid)) == pytest.approx(np.log(4) / 1024, rel=1e-3)  # 2,500 to 10,000 in 1,024


def test_a_copy_holds_the_same(supernovae, wheel, tmp_path):
    path = copy_supernovae(tmp_path / "copy", wheel.parent)
    again = load_supernovae(folder=path.parent)
    assert again.modalities == supernovae.modalities and (again.ids == supernovae.ids).all()
    for name in supernovae.modalities:
        assert (again.values[name] == supernovae.values[name]).all()
        assert (again.present[name] == supernovae.present[name]).all()
    assert all((again.info[name] == column).all() for name, column in supernovae.info.items())
    assert path.stat().st_size < wheel.stat().st_size / 5


def test_what_is_left_in_the_window(supernovae):
    assert len(supernovae) == 5190 and len(np.unique(supernovae.ids)) == 631
    grid = np.array(supernovae.modalities["spectrum"].wavelength)
    assert len(grid) == 392 and grid[0] >= 4000 and grid[-1] <= 6800
    share = supernovae.present["spectrum"].float().mean(1)
    assert share.min() >= 0.9 and share.mean() > 0.99
    assert (supernovae.values["spectrum"][~supernovae.present["spectrum"]] == 0).all()


def test_silicon_tells_type_ia_at_maximum(supernovae):
    """Si II 6355 A, seen near 6,130 A at 11,000 km/s, defines type Ia (Filippenko 1997, ARA&A 35, 309)."""
    grid = np.array(supernovae.modalities["spectrum"].wavelength)
    young = supernovae.present["phase"] & (supernovae.values["phase"].abs() < 5)
    normal = young.numpy() & (supernovae.info["subtype"] == "Ia-norm")
    mean = supernovae.values["spectrum"][normal].mean(0).numpy()
    red = (grid > 5900) & (grid < 6500)
    assert grid[red][mean[red].argmin()] == pytest.approx(6130, abs=40)
    hydrogen = (grid > 6500) & (grid < 6620)
    listed = supernovae.info["listed_type"]
    flux = supernovae.values["spectrum"].numpy()
    assert flux[listed == "II"][:, hydrogen].mean() > 2 * flux[listed == "Ia"][:, hydrogen].mean()


def test_tapered_ends_are_not_covered_and_rounded_zeros_are(everything):
    flux = everything.values["spectrum"].abs()
    covered = everything.present["spectrum"]
    ends = covered & ~(covered.roll(5, 1) & covered.roll(-5, 1))  # the outermost five that count
    # with the taper these would be near 0; without it they are as large as the rest
    assert flux[ends].mean() > 0.6 * flux[covered].mean()
    zero, smallest = ((flux.mul(1000).round() == k) & covered for k in (0, 1))
    # fluxes pass 0 smoothly, so as many are rounded to 0 as to +0.001 or to -0.001
    assert int(zero.sum()) == pytest.approx(int(smallest.sum()) / 2, rel=0.05)


def test_coverage_by_hand():
    flux = np.zeros((3, 100))
    flux[0, 20:80] = 1.0  # 60 wavelengths, of which 3 go at either end
    flux[0, 50] = 0.0  # a measured zero
    flux[1] = 1.0
    got = coverage(flux)
    assert np.flatnonzero(got[0]).tolist() == list(range(23, 77))
    assert np.flatnonzero(got[1]).tolist() == list(range(5, 95))
    assert not got[2].any()


def balanced_accuracy(dataset, x) -> float:
    known = dataset.present["type"].numpy()
    y = dataset.values["type"].numpy()[known]
    model = make_pipeline(
        PCA(40, random_state=0), LogisticRegression(max_iter=300, tol=1e-3, class_weight="balanced")
    )
    folds = StratifiedGroupKFold(3, shuffle=True, random_state=0)
    guess = cross_val_predict(model, x.float().numpy()[known], y, groups=dataset.ids[known], cv=folds)
    return balanced_accuracy_score(y, guess)


def test_the_flux_tells_the_type_and_the_mask_only_outside_the_window(supernovae, everything):
    """By object; five folds and 60 components gave 0.73 for the flux, 0.41 for the mask of the whole grid."""
    assert 0.65 < balanced_accuracy(supernovae, supernovae.values["spectrum"]) < 0.80
    assert balanced_accuracy(supernovae, supernovae.present["spectrum"]) < 0.28
    assert balanced_accuracy(everything, everything.present["spectrum"]) > 0.33


def test_impossible_windows_are_refused(wheel):
    with pytest.raises(ValueError, match=r"holds 0 wavelengths.*within 2502 to 9993"):
        load_supernovae((100.0, 200.0))
    with pytest.raises(ValueError, match=r"No spectrum covers 1\.0 of \(2500"):
        load_supernovae((2500.0, 10_000.0), 1.0)


@pytest.mark.parametrize("content", [b"", b"PKxx", b"PK\x03\x04 cut"])
def test_a_damaged_copy_is_refused(tmp_path, content):
    (tmp_path / "supernovae.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged.*make it again with copy_supernovae"):
        load_supernovae(folder=tmp_path)
