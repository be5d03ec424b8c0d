"""Series and spectra: time never runs backwards, leads stay in step, gaps and weights follow, lines stay."""

import math

import ecg_augmentations as peer
import numpy as np
import pytest
import torch
from ecg_augmentations.ops import interp as peer_interp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.interpolate import CubicSpline

from aion_lite.strategies import augmentation_series as S
from aion_lite.strategies.augmentation import (
    CHANGES_LABEL,
    PROPERTIES,
    SERIES_TRANSFORMS,
    augment_spectrum,
    augment_timeseries,
    jitter,
    magnitude_warp,
    permutation,
    scaling,
    time_warp,
    window_slice,
)

IN_TIME = {time_warp: 0.3, window_slice: 0.4, permutation: 5}
IN_SIZE = {magnitude_warp: 0.3, scaling: 0.4}
ALL = {**IN_TIME, **IN_SIZE, jitter: 0.3}
NO_CHANGE = {time_warp: 0, window_slice: 1, permutation: 1, magnitude_warp: 0, scaling: 0, jitter: 0}
each = pytest.mark.parametrize("transform", ALL)
seeds = st.integers(0, 10_000)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=gen(seed))


def times(n, length):
    """n series that say what time it is, so that what comes out says where it was read."""
    return torch.arange(length, dtype=torch.float64).expand(n, 1, length)


# Time warps


@given(st.integers(3, 4000), st.floats(0, 1), st.integers(1, 12), seeds)
def test_time_never_runs_backwards_and_the_ends_stay(length, sigma, waves, seed):
    read = time_warp(times(4, length), sigma, waves, generator=gen(seed))
    assert (read.diff() > 0).all()
    assert (read[..., 0] == 0).all() and (read[..., -1] == length - 1).all()


def warp_of_knots(x, sigma, knots=4, seed=0):
    """The failing version, x (T,): times of knots times N(1, sigma), a spline through them, scaled to T - 1.

    The recipe of a much used collection (Iwana & Uchida 2021). Returns the series and its map of time.
    """
    t = np.arange(len(x), dtype=float)
    at = np.linspace(0, len(x) - 1, knots + 2)
    moved = CubicSpline(at, at * np.random.default_rng(seed).normal(1, sigma, knots + 2))(t)
    moved = moved * (len(x) - 1) / moved[-1]
    return np.interp(t, np.clip(moved, 0, len(x) - 1), x), moved


def test_knots_moved_by_themselves_run_backwards():
    """In most draws at the usual sigma of 0.2, and the more the larger it is; ours at none."""
    x, draws = np.sin(np.arange(200) / 9), 300
    backwards = [
        np.mean([(np.diff(warp_of_knots(x, sigma, seed=i)[1]) < 0).any() for i in range(draws)])
        for sigma in (0.1, 0.2, 0.3, 0.5)
    ]
    assert backwards == sorted(backwards) and backwards[1] > 0.6 and backwards[3] > 0.9
    ours = time_warp(times(draws, 200), 0.5, generator=gen())
    assert (ours.diff() > 0).all()


def test_values_are_read_by_linear_interpolation():
    """numpy's and ecg-augmentations', at the positions that a series of times betrays."""
    x = draw(9, 2, 80).double()
    out = time_warp(x, 0.4, generator=gen())
    read = time_warp(times(9, 80), 0.4, generator=gen())
    expected = [[np.interp(r[0], np.arange(80), c) for c in v] for r, v in zip(read, x, strict=True)]
    np.testing.assert_allclose(out, expected, atol=1e-9)
    torch.testing.assert_close(out, peer_interp(x, read))


def test_positions_are_the_scaled_integral_of_the_speed():
    speed = draw(5, 1, 30).double().exp()
    run = np.concatenate([np.zeros((5, 1, 1)), np.cumsum(speed.numpy(), -1)], -1)
    np.testing.assert_allclose(S.positions(speed).numpy(), 30 * run / run[..., -1:], rtol=1e-12)
    torch.testing.assert_close(S.positions(torch.ones(1, 30)), torch.arange(31.0)[None])


@pytest.mark.parametrize("waves", [1, 4, 9])
def test_smooth_curves_are_standard_normal_everywhere_and_smooth(waves):
    s = S._smooth(torch.zeros(4000, 1, 1), 101, waves, gen())[:, 0].numpy()
    for at in (0, 13, 50, 100):
        assert stats.kstest(s[:, at], "norm").pvalue > 1e-3
    assert np.abs(np.diff(s)).max() < 6 * math.pi * waves / 100  # six standard deviations of the slope


# The other transforms, against ecg-augmentations and closed forms


def test_windows_are_the_peers():
    x = draw(50, 3, 120)
    theirs = peer.RandomResizedCrop(120, scale=(0.4, 1.0)).apply(x, gen())
    torch.testing.assert_close(window_slice(x, 0.4, generator=gen()), theirs, rtol=0, atol=1e-5)


def test_pieces_have_the_peers_law():
    """Where the first and the middle step went, how many steps keep their neighbour."""
    x = torch.arange(40.0).expand(1500, 1, 40)
    ours, theirs = permutation(x, 5, generator=gen()), peer.Permute(5).apply(x, gen(1))
    assert torch.equal(ours.sort().values, x)
    for statistic in (lambda y: y[..., 0], lambda y: y[..., 20], lambda y: (y.diff() == 1).sum(-1)):
        a, b = statistic(ours).flatten(), statistic(theirs).flatten()
        assert stats.ks_2samp(a, b, method="asymp").pvalue > 1e-3
    assert ((ours.diff() != 1).sum(-1) <= 4).all()


def test_noise_is_as_strong_as_the_peers():
    """sigma in standard deviations is a signal-to-noise ratio of -20 log10 sigma decibels, lead by lead."""
    x = draw(4, 2, 20_000) * torch.tensor([1.0, 50.0])[:, None] + 7
    ours = jitter(x, 0.1, generator=gen()) - x
    theirs = peer.GaussianNoise(snr_db=20.0).apply(x, gen()) - x
    torch.testing.assert_close(ours.std(-1), theirs.std(-1), rtol=0.03, atol=0)
    assert stats.kstest((ours / ours.std(-1, keepdim=True)).flatten(), "norm").pvalue > 1e-3


def test_scales_are_uniform_and_magnitude_warps_lognormal():
    x = torch.ones(3000, 1, 50)
    gain = scaling(x, 0.2, generator=gen())[:, 0]
    assert (gain == gain[:, :1]).all()
    assert stats.kstest(gain[:, 0], "uniform", (0.8, 0.4)).pvalue > 1e-3
    gain = magnitude_warp(x, 0.3, generator=gen())[:, 0]
    assert (gain > 0).all()
    assert stats.kstest(gain[:, 20].log() / 0.3, "norm").pvalue > 1e-3


# What all have in common


@each
def test_no_amount_is_the_identity(transform):
    x = draw(3, 2, 30)
    assert torch.equal(transform(x, NO_CHANGE[transform]), x)


@pytest.mark.parametrize("transform", [*IN_TIME, *IN_SIZE])
@given(seed=seeds)
@settings(max_examples=10)
def test_leads_stay_in_step(transform, seed):
    lead = draw(3, 1, 60, seed=seed)
    y = transform(torch.cat([lead, -2 * lead], 1), ALL[transform], generator=gen(seed))
    torch.testing.assert_close(y[:, 1], -2 * y[:, 0], rtol=1e-5, atol=1e-6)


@each
def test_samples_differ_and_a_generator_repeats_them(transform):
    x = draw(1, 2, 60).expand(20, -1, -1)
    a, b, c = (transform(x, ALL[transform], generator=gen(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert len(torch.unique(a.flatten(1), dim=0)) == 20
    g = gen()
    assert not torch.equal(*(transform(x, ALL[transform], generator=g) for _ in range(2)))


@each
@pytest.mark.parametrize("shape", [(40,), (2, 40), (5, 2, 40)])
def test_shapes_come_back(transform, shape):
    x = draw(*shape)
    cells, weight = draw(*shape, seed=1) > 0, draw(*shape, seed=2).square()
    whole = torch.ones(shape[:-2], dtype=torch.bool)
    y = transform(x, ALL[transform], generator=gen())
    assert y.shape == x.shape and y.dtype == x.dtype
    for present in (cells, whole):
        y, mask, w = transform(x, ALL[transform], present=present, weight=weight, generator=gen())
        assert y.shape == x.shape == w.shape and mask.shape == present.shape and mask.dtype == torch.bool


@each
@given(st.sampled_from([math.nan, math.inf, 1e30]), seeds)
@settings(max_examples=10)
def test_gaps_never_matter_and_stay_gaps(transform, junk, seed):
    x, present = draw(4, 2, 50, seed=seed), draw(4, 2, 50, seed=seed + 1) > -0.5
    y, mask = transform(x.where(present, junk), ALL[transform], present=present, generator=gen(seed))
    z, same = transform(x, ALL[transform], present=present, generator=gen(seed))
    assert torch.equal(y, z) and torch.equal(mask, same)
    assert (y[~mask] == 0).all() and y.isfinite().all() and 0 < mask.sum() < mask.numel()


def test_a_value_is_there_where_both_it_is_read_from_are():
    x, present = draw(6, 1, 60).double(), draw(6, 1, 60, seed=1) > -0.8
    _, mask = time_warp(x, 0.4, present=present, generator=gen())
    read = time_warp(times(6, 60), 0.4, generator=gen())
    low, high = read.floor().long(), read.ceil().long()
    assert torch.equal(mask, present.gather(-1, low) & present.gather(-1, high))


def test_weights_are_the_inverse_variance_of_what_came_out():
    """Of 4,000 measurements with noise of variance 1 / weight, all of the same truth."""
    truth, weight = draw(1, 1, 20), torch.linspace(0.5, 4, 20).expand(4000, 1, 20)
    x = truth + draw(4000, 1, 20, seed=1) / weight.sqrt()
    y, w = magnitude_warp(x, 0.4, weight=weight, generator=gen())
    clean = magnitude_warp(truth.expand(4000, -1, -1), 0.4, generator=gen())
    torch.testing.assert_close(((y - clean) * w.sqrt()).std(0), torch.ones(1, 20), rtol=0.06, atol=0)
    y, w = jitter(x, 0.8, weight=weight, generator=gen())
    torch.testing.assert_close(((y - truth) * w.sqrt()).std(0), torch.ones(1, 20), rtol=0.06, atol=0)
    moved, v = permutation(x, 4, weight=weight, generator=gen())
    torch.testing.assert_close(v.sort().values, weight)
    pair = permutation(torch.stack([x[:, 0], weight[:, 0]], 1), 4, generator=gen())
    assert torch.equal(pair[:, :1], moved) and torch.equal(pair[:, 1:], v)


def test_nothing_waits_for_the_values():
    """Tensors without values show it: whatever asks for one fails."""
    x = torch.empty(4, 2, 30, device="meta")
    present = torch.ones_like(x, dtype=torch.bool)
    y, _, w = augment_timeseries(x, transforms=SERIES_TRANSFORMS, present=present, weight=x)
    assert y.shape == w.shape == x.shape
    assert augment_spectrum(x[:, 0], x[:, 0])[0].shape == (4, 30)


# The pipeline


def test_half_of_the_samples_meet_a_transform():
    x = draw(1, 2, 30).expand(2000, -1, -1)
    assert torch.equal(augment_timeseries(x, 0), x) and torch.equal(augment_timeseries(x, p=0), x)
    y = augment_timeseries(x, transforms="scaling", generator=gen())
    assert stats.binomtest(int((y == x).flatten(1).all(1).sum()), 2000, 0.5).pvalue > 1e-3
    assert (augment_timeseries(x, p=1, generator=gen()) != x).flatten(1).any(1).all()


@given(st.sampled_from([(3,), (1, 1), (50,), (2, 17), (3, 1, 40)]), st.floats(0, 4), seeds)
@settings(max_examples=25)
def test_any_shape_and_strength(shape, strength, seed):
    x = draw(*shape, seed=seed)
    y = augment_timeseries(x, strength, transforms=SERIES_TRANSFORMS, p=1, generator=gen(seed))
    assert y.shape == x.shape and y.isfinite().all()


def test_what_changes_the_target_is_refused_unless_allowed():
    x = draw(3, 1, 40)
    with pytest.raises(ValueError, match="time_warp, window_slice would change the rate that is to be pred"):
        augment_timeseries(x, target="rate")
    assert augment_timeseries(x, target="rate", allow=("time_warp", "window_slice")).shape == x.shape
    assert augment_timeseries(x, target="rate", transforms=("scaling", "jitter")).shape == x.shape
    with pytest.raises(ValueError, match="scaling would change the amplitude"):
        augment_timeseries(x, target={"amplitude", "rate"}, transforms=("scaling", "jitter"))
    with pytest.raises(ValueError, match="ripple would change the colour"):
        augment_spectrum(x[:, 0], target="colour")
    assert {what for changes in CHANGES_LABEL.values() for what in changes} == set(PROPERTIES)


@pytest.mark.parametrize("beats", [6, 11])
def test_a_warp_changes_a_rate_and_a_scale_does_not(beats):
    """Why the rate is protected: the strongest frequency of a window, before and after."""
    x = torch.sin(2 * math.pi * beats * torch.arange(256) / 256).expand(40, 1, 256)

    def rate(y):
        return torch.fft.rfft(y - y.mean(-1, keepdim=True)).abs().argmax(-1)

    assert (rate(scaling(x, 0.5, generator=gen())) == beats).all()
    assert (rate(window_slice(x, 0.5, generator=gen())) < beats).float().mean() > 0.8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: time_warp(x, -1), "sigma lies in 0 to 10, got -1"),
        (lambda x: time_warp(x, waves=0), "waves is 1 or more"),
        (lambda x: scaling(x, 1.5), "spread lies in 0 to 1"),
        (lambda x: window_slice(x, 0), "share lies above 0"),
        (lambda x: permutation(x, 41), "segments lie in 1 to 40"),
        (lambda x: jitter(x[None]), "floats of shape .T,., .C, T. or .B, C, T."),
        (lambda x: jitter(x.long()), "A time series is floats"),
        (lambda x: jitter(x, present=torch.ones(3, 2, dtype=torch.bool)), "present is bool of shape"),
        (lambda x: jitter(x, weight=x[0]), "weight needs shape"),
        (lambda x: augment_timeseries(x, p=2), "p is a probability"),
        (lambda x: augment_timeseries(x, -1), "strength lies between 0"),
        (lambda x: augment_spectrum(x), "shape .B, W."),
        (lambda x: augment_spectrum(x[:, 0], transforms="noise"), "give weight, or leave noise out"),
        (lambda x: augment_spectrum(x[:, 0], transforms="shift"), "Unknown shift"),
    ],
)
def test_what_it_cannot_do_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(draw(3, 1, 40))


# Spectra


def test_added_noise_is_that_of_the_pixels_and_known_to_the_ivar():
    ivar = torch.tensor([0.0, 1e-4, 1.0, 100.0]).repeat(10)
    flux, ivar = draw(1, 40).expand(5000, -1), ivar.expand(5000, -1)
    y, present, after = augment_spectrum(flux, ivar, transforms="noise", generator=gen())
    added = 1 / after[:, 1:4] - 1 / ivar[:, 1:4]  # its variance, drawn for each spectrum
    share = (added * ivar[:, 1:4]).sqrt()
    assert stats.kstest(share[:, 1], "uniform").pvalue > 1e-3
    torch.testing.assert_close(share[:, 1], share[:, 2], rtol=1e-2, atol=1e-2)
    assert stats.kstest(((y - flux)[:, 1:4] / added.sqrt()).flatten(), "norm").pvalue > 1e-3
    assert torch.equal(y[:, 0], flux[:, 0]) and (after[:, 0] == 0).all() and present.all()


def test_lines_stay_at_their_wavelengths():
    """The redshift is where the lines are: the brightest pixel of each of 200 copies is where it was."""
    flux = torch.exp(-0.5 * ((torch.arange(300) - 120) / 3.0) ** 2).expand(200, -1) + 0.2
    y, present = augment_spectrum(flux, strength=2.0, generator=gen())
    here = present[:, 117:124].all(1)
    assert here.sum() > 50 and (y.argmax(1)[here] - 120).abs().max() <= 1
    z, _ = augment_spectrum(flux, strength=2.0, transforms="dropout", generator=gen())
    assert torch.equal(z[z != 0], flux[z != 0])


def test_lost_pixels_are_absent_and_0_and_a_tenth_at_most():
    flux, ivar = torch.ones(300, 400), torch.ones(300, 400)
    covered = torch.arange(400).expand(300, -1) > 50
    y, present, w = augment_spectrum(flux, ivar, transforms="dropout", present=covered, generator=gen())
    assert not (present & ~covered).any()
    assert (y[~present] == 0).all() and (w[~present] == 0).all() and (y[present] == 1).all()
    lost = 1 - present[:, 51:].float().mean(1)
    assert 0.08 < lost.max() < 0.16 and lost.mean() == pytest.approx(0.05, abs=0.01)


def test_no_strength_leaves_a_spectrum_as_it_is():
    flux, ivar, absent = draw(3, 20), draw(3, 20).square(), torch.tensor([True, False, True])
    y, present, w = augment_spectrum(flux, ivar, 0)
    assert torch.equal(y, flux) and torch.equal(w, ivar) and present.all()
    y, present = augment_spectrum(flux, present=absent)
    assert torch.equal(present, absent[:, None].expand(3, 20) & present) and (y[1] == 0).all()
