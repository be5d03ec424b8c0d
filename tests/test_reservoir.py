"""Scalar quantizers: the reservoir against Algorithm R, codes against numpy's and torch's quantiles.

Run: pytest tests/test_reservoir.py
"""

import numpy as np
import pytest
import torch
from aion.codecs.quantizers.scalar import ScalarReservoirQuantizer as AionReservoir
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aion_lite.quantizers import (
    FiniteScalarQuantizer,
    ScalarCompressedReservoirQuantizer,
    ScalarLogReservoirQuantizer,
    ScalarReservoirQuantizer,
)


def normal(*shape, seed=0, dtype=torch.float32, scale=2.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def uniform(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


def algorithm_r(stream, size, draws):
    """Vitter 1985, one item at a time."""
    reservoir = []
    for i, (value, draw) in enumerate(zip(stream, draws, strict=True)):
        if i < size:
            reservoir.append(value)
        elif (slot := int(draw * (i + 1))) < size:
            reservoir[slot] = value
    return reservoir


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    size=st.integers(2, 40),
    seed=st.integers(0, 99),
)
def test_batches_give_the_reservoir_of_algorithm_r(batches, size, seed):
    stream = normal(sum(batches), seed=seed)
    draws = torch.rand(len(stream), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    quantizer = ScalarReservoirQuantizer(8, size, seed)
    for batch in stream.split(batches):
        quantizer.update(batch)
    expected = algorithm_r(stream.tolist(), size, draws.tolist())
    assert quantizer.reservoir[: len(expected)].tolist() == expected
    assert int(quantizer.num_seen) == len(stream)


def inclusion_p_value(make, update, trials=600, size=12, batch=12, num_batches=4):
    """p of the chi-square test that each of the stream's items is kept equally often."""
    n, counts = batch * num_batches, np.zeros(batch * num_batches)
    for trial in range(trials):
        quantizer = make(size, trial)
        for part in torch.arange(n).float().split(batch):
            update(quantizer, part)
        counts += np.bincount(next(iter(quantizer.buffers())).long(), minlength=n)
    share = size / n
    expected = trials * share
    statistic = ((counts - expected) ** 2).sum() / (expected * (1 - share)) * (n - 1) / n
    return stats.chi2.sf(statistic, n - 1)


def test_every_item_is_kept_with_the_same_chance():
    p = inclusion_p_value(
        lambda size, seed: ScalarReservoirQuantizer(4, size, seed), lambda q, x: q.update(x)
    )
    assert p > 0.01


def test_aion_keeps_late_items_more_often():
    torch.manual_seed(0)
    p = inclusion_p_value(lambda size, _: AionReservoir(4, size), lambda q, x: q._update_reservoirs(x), 300)
    assert p < 1e-6


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 10), seed=st.integers(0, 9))
def test_a_cut_and_resumed_stream_is_the_whole_one(cut, seed):
    batches = normal(1000, seed=seed).split(100)
    whole, first = ScalarReservoirQuantizer(32, 150, seed), ScalarReservoirQuantizer(32, 150, seed)
    resumed = ScalarReservoirQuantizer(32, 150, seed=12345)
    for batch in batches:
        whole.update(batch)
    for batch in batches[:cut]:
        first.update(batch)
    resumed.load_state_dict(first.state_dict())
    for batch in batches[cut:]:
        resumed.update(batch)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), resumed.buffers(), strict=True))
    assert torch.equal(whole.codes, resumed.codes)


def test_loading_replaces_codes_already_read():
    quantizer, other = ScalarReservoirQuantizer(8, 50), ScalarReservoirQuantizer(8, 50)
    quantizer.update(normal(20))
    other.update(normal(20, seed=1))
    assert not torch.equal(quantizer.codes, other.codes)
    quantizer.load_state_dict(other.state_dict())
    assert torch.equal(quantizer.codes, other.codes)


FORMS = {
    "plain": (ScalarReservoirQuantizer, {}, lambda x: x, lambda z: z),
    "log": (ScalarLogReservoirQuantizer, {}, np.log, np.exp),
    "arcsinh": (
        ScalarCompressedReservoirQuantizer,
        {"scale": 0.25},
        lambda x: np.arcsinh(x / 0.25),
        lambda z: np.sinh(z) * 0.25,
    ),
}
forms = pytest.mark.parametrize(("make", "kwargs", "to_scale", "from_scale"), FORMS.values(), ids=FORMS)


@forms
@pytest.mark.parametrize("n", [1000, 10, 1])
def test_codes_are_numpys_quantiles_on_the_scale(make, kwargs, to_scale, from_scale, n):
    x = normal(n, scale=1.0).exp()
    quantizer = make(64, 2000, **kwargs)
    quantizer.update(x)
    quantiles = np.quantile(to_scale(x.double().numpy()), np.linspace(0, 1, 64))
    quantiles = quantiles if n > 1 else quantiles[:1]
    np.testing.assert_allclose(quantizer.codes, quantiles, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(quantizer.values, from_scale(quantiles), rtol=1e-6)
    assert quantizer.values[0] == x.min() and quantizer.values[-1] == x.max()


def test_plain_codes_are_torchs_quantiles():
    x = normal(999)
    quantizer = ScalarReservoirQuantizer(100, 1000)
    quantizer.update(x)
    expected = torch.quantile(x.double(), torch.linspace(0, 1, 100, dtype=torch.float64))
    torch.testing.assert_close(quantizer.values.double(), expected, rtol=2e-7, atol=1e-7)


@forms
def test_even_codes_are_in_equal_steps_on_the_scale(make, kwargs, to_scale, from_scale):
    x = normal(1000, scale=1.0).exp()
    quantizer = make(64, 2000, even=1.0, **kwargs)
    quantizer.update(x)
    ends = to_scale(x.double().numpy()[[x.argmin(), x.argmax()]])
    np.testing.assert_allclose(quantizer.codes, np.linspace(*ends, 64), rtol=1e-6, atol=1e-6)


def test_half_even_is_halfway_in_the_tail_and_in_the_crowd():
    law = stats.expon()
    x = law.ppf((np.arange(100_000) + 0.5) / 100_000)  # from 0 to 12.2, most of it below 1
    quantizer = ScalarReservoirQuantizer(1001, even=0.5)
    quantizer.update(torch.from_numpy(x))
    # A share of codes below t is the mean of both layouts': the law's, and how far t lies along the range.
    t = np.array([0.1, 1.0, 3.0, 8.0])
    below = np.searchsorted(quantizer.values.numpy(), t) / 1001
    np.testing.assert_allclose(below, (law.cdf(t) + t / x.max()) / 2, atol=2e-3)
    assert quantizer.values.diff().max() < x.max() / (0.5 * 1000)


LARGEST = float(np.finfo(np.float32).max)
numbers = st.floats(-LARGEST, LARGEST, width=32, allow_subnormal=False) | st.integers(1, 20).map(float)
positive = st.floats(2.0**-126, LARGEST, width=32, allow_subnormal=False) | st.integers(1, 20).map(float)


@forms
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_laws_of_the_codes(make, kwargs, to_scale, from_scale, data):
    """Any floats, neighbouring and huge ones among them."""
    number = positive if make is ScalarLogReservoirQuantizer else numbers
    seen = data.draw(st.lists(number, min_size=1, max_size=30))
    close = [float(np.nextafter(np.float32(x), np.float32(0))) for x in seen[:3] if abs(x) > 1e-37]
    x = torch.tensor(sorted(data.draw(st.lists(number, max_size=20)) + seen))
    even = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    quantizer = make(data.draw(st.integers(2, 40)), 50, even=even, **kwargs)
    quantizer.update(torch.tensor(seen + close))

    every = torch.arange(quantizer.num_codes)
    assert torch.equal(quantizer.encode(quantizer.decode(every)), every)
    assert (quantizer.values.diff() > 0).all()
    codes = quantizer.encode(x)
    assert (codes.diff() >= 0).all()
    z, places = to_scale(x.double().numpy()), to_scale(quantizer.values.double().numpy())
    distance = np.abs(z[:, None] - places)
    chosen = np.take_along_axis(distance, codes.numpy()[:, None], 1)[:, 0]
    assert (chosen <= distance.min(1) + 1e-12 * np.abs(z)).all()


def test_mean_square_error_is_a_quarter_of_aions():
    stream, test = uniform(20_000), uniform(50_000, seed=1)
    ours, aion = ScalarReservoirQuantizer(256, 10_000), AionReservoir(256, 10_000)
    for batch in stream.split(10_000):
        ours.update(batch)
        aion._update_reservoirs(batch)
    mse = [(q.decode(q.encode(test)) - test).square().mean().item() for q in (ours, aion)]
    assert mse[0] / mse[1] == pytest.approx(0.25, abs=0.02)


def test_few_data_in_a_large_reservoir():
    x = normal(500, scale=1.0) + 5
    ours, aion = ScalarReservoirQuantizer(1024, 100_000), AionReservoir(1024, 100_000)
    ours.update(x)
    aion._update_reservoirs(x)
    mse = [(q.decode(q.encode(x)) - x).square().mean().item() for q in (ours, aion)]
    assert mse[0] < 1e-4 and mse[1] > 0.3  # AION: 0.4 to 1.5 by seed, its codebook is nearly all zeros


def test_equal_numbers_share_a_code():
    quantizer = ScalarReservoirQuantizer(6, 100)
    quantizer.update(torch.tensor([7.0, 1.0, 2.0, 1.0, 2.0, 1.0]))
    assert quantizer.values.tolist() == [1, 2, 7]
    constant = ScalarLogReservoirQuantizer(1024)
    constant.update(torch.full((10,), 3.3))
    assert (
        constant.values.tolist() == [pytest.approx(3.3)] and constant.encode(uniform(5)).tolist() == [0] * 5
    )


def test_eval_and_encode_learn_nothing_and_change_nothing():
    quantizer, x = ScalarReservoirQuantizer(16, 50), normal(80)
    quantizer(x)  # train mode: learns
    assert int(quantizer.num_seen) == 80
    before, x_before = [b.clone() for b in quantizer.buffers()], x.clone()
    quantizer.encode(x)
    quantizer.eval()
    values, loss, used = quantizer(x + 99)
    assert all(torch.equal(a, b) for a, b in zip(before, quantizer.buffers(), strict=True))
    assert torch.equal(x, x_before)
    assert set(values.tolist()) == {quantizer.values[-1].item()} and loss == 0 and used == 1 / 16


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e300])
def test_what_is_no_number_is_refused_and_nothing_is_lost(bad):
    quantizer = ScalarReservoirQuantizer(16, 50)
    quantizer.update(normal(20))
    before = [b.clone() for b in quantizer.buffers()]
    for method in (quantizer.update, quantizer.encode):
        with pytest.raises(ValueError, match="1 of 2 are NaN, infinite"):
            method(torch.tensor([1.0, bad], dtype=torch.float64))
    assert all(torch.equal(a, b) for a, b in zip(before, quantizer.buffers(), strict=True))


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_the_log_form_refuses_what_has_no_logarithm(bad):
    with pytest.raises(ValueError, match="outside the scale"):
        ScalarLogReservoirQuantizer(16, 50).update(torch.tensor([1.0, bad]))


def test_what_is_counted_stays_on_the_host():
    quantizer = ScalarReservoirQuantizer(codebook_size=4, reservoir_size=8)
    quantizer.update(torch.arange(5.0))
    moved = quantizer.to("meta")  # stands for a GPU
    assert moved is quantizer and moved.reservoir.device.type == "meta"
    assert moved.num_seen == 5 and moved.generator_state.device.type == "cpu"
    assert set(moved.state_dict()) == {"reservoir", "num_seen", "generator_state"}


def test_half_precision_leaves_the_reservoir_alone():
    quantizer, x = ScalarReservoirQuantizer(256, 1000), 1000 + normal(500)
    quantizer.update(x)
    codes = quantizer.encode(x)
    assert torch.equal(quantizer.half().encode(x), codes) and torch.equal(quantizer.double().encode(x), codes)


def test_features_are_standard_score_and_normal_score():
    for scale in (1.0, 1e-17, 1e20):  # fluxes come in 1e-17 erg/s/cm2
        quantizer = ScalarReservoirQuantizer(99, 1000)
        quantizer.update(normal(700) * scale)
        features, values = quantizer.code_features(), quantizer.values.double().numpy()
        assert features.dtype == torch.float32
        np.testing.assert_allclose(features[:, 0], stats.zscore(values), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(features[:, 1], stats.norm.ppf((np.arange(99) + 0.5) / 99), atol=1e-5)
    lone = ScalarReservoirQuantizer()
    lone.update(torch.ones(1))
    assert lone.code_features().tolist() == [[0, 0]]


def test_the_reservoir_refuses_bad_sizes_bad_codes_and_reading_before_data():
    for sizes in ((1, 10), (10, 1), (10.0, 10)):
        with pytest.raises(ValueError, match="integers of 2 or more"):
            ScalarReservoirQuantizer(*sizes)
    for even in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="even is a share of the codes, 0 to 1"):
            ScalarReservoirQuantizer(even=even)
    quantizer = ScalarReservoirQuantizer(8, 50)
    with pytest.raises(RuntimeError, match="seen no data"):
        quantizer.encode(torch.zeros(1))
    quantizer.update(normal(20))
    with pytest.raises(ValueError, match=r"0\.\.7, got -1\.\.8"):
        quantizer.decode(torch.tensor([-1, 8]))


def test_what_makes_no_codebook_is_refused():
    with pytest.raises(ValueError, match="more codes than can be counted"):
        FiniteScalarQuantizer([3] * 50)
    for scale in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="above 0, got"):
            ScalarCompressedReservoirQuantizer(scale=scale)
