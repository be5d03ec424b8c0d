"""Codes by thresholds against the functions they stand for, at the floats where these change and beside them.

The kernel runs on any machine in Triton's interpreter, and compiled where there is a GPU.

Run: pytest tests/test_thresholds.py
"""

import importlib.util

import numpy as np
import pytest
import torch
from aion.codecs.quantizers import FiniteScalarQuantizer as AionFSQ
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_lite import thresholds as module
from aion_lite.quantizers import (
    FiniteScalarQuantizer,
    ScalarCompressedReservoirQuantizer,
    ScalarLogReservoirQuantizer,
    ScalarReservoirQuantizer,
)
from aion_lite.thresholds import Thresholds, first_where, gpu_kernel

LEVELS = [[8, 5, 5, 5], [8, 8, 8, 5, 5, 5], [7, 5, 5, 5, 5], [4, 4, 4], [3, 3, 3], [256], [31, 3]]
FORMS = {
    "plain": ScalarReservoirQuantizer,
    "log": ScalarLogReservoirQuantizer,
    "arcsinh": lambda *sizes: ScalarCompressedReservoirQuantizer(*sizes, scale=0.25),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LARGEST, LEAST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)
EXTREMES = torch.tensor([0.0, -0.0, LEAST, -LEAST, 1e-39, 1.0, -1.0, LARGEST, -LARGEST])
floats = st.floats(-LARGEST, LARGEST, width=32)


def normal(*shape, seed=0, device="cpu"):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device) * 2


def neighbours(x, each=20):
    """x and the floats next to it, ``each`` to either side."""
    found, up, down = [x.numpy()], x.numpy(), x.numpy()
    with np.errstate(over="ignore"):  # beside the largest float lies infinity
        for _ in range(each):
            up, down = np.nextafter(up, np.float32(np.inf)), np.nextafter(down, np.float32(-np.inf))
            found += [up, down]
    return torch.from_numpy(np.concatenate(found))


def plain_finite(quantizer, z):
    """The codes by tanh, as the CPU has them."""
    levels = quantizer._bound(z.movedim(1, -1)).round().long() + quantizer.half_width
    return (levels * quantizer.basis).sum(-1)


def plain_scalar(quantizer, x):
    """The codes on the transformed scale, in float64."""
    codes = quantizer.codes
    return torch.bucketize(quantizer.transform(x.double()), (codes[1:] + codes[:-1]) / 2)


def filled(form, codes=1024, device="cpu"):
    quantizer = FORMS[form](codes, 5000).to(device)
    x = normal(8000)
    quantizer.update(x.exp() if form == "log" else x)
    return quantizer


@settings(max_examples=200, deadline=None)
@given(st.lists(floats, min_size=1, max_size=20))
def test_bisection_finds_the_first_float(numbers):
    x = torch.tensor(numbers)
    ends = torch.full_like(x, torch.inf)
    assert torch.equal(first_where(lambda y: y >= x, -ends, ends), x)
    beyond = neighbours(x, each=1)[len(x) : 2 * len(x)]
    assert torch.equal(first_where(lambda y: y > x, -ends, ends), beyond)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(floats, max_size=40, unique=True), min_size=1, max_size=4), st.data())
def test_codes_count_the_thresholds_reached(rows, data):
    rows = [torch.tensor(sorted(row), dtype=torch.float32) for row in rows]
    thresholds = Thresholds(rows)
    x = data.draw(st.lists(st.sampled_from([*torch.cat([*rows, EXTREMES]).tolist()]) | floats, min_size=4))
    x = torch.tensor(x[: len(x) // len(rows) * len(rows)]).reshape(1, len(rows), -1)
    expected, size = 0, 1
    for c, row in enumerate(rows):
        expected = expected + size * (x[0, c, :, None] >= row).sum(-1)
        size *= len(row) + 1
    assert torch.equal(thresholds.codes(x)[0], expected)


def test_finite_thresholds_are_where_the_tanh_changes_level():
    for levels in range(3, 257):
        quantizer = FiniteScalarQuantizer([levels])
        (row,) = quantizer.thresholds().rows
        z = torch.cat([neighbours(row), EXTREMES, torch.tensor([torch.inf, -torch.inf])])[:, None]
        codes = quantizer.thresholds().codes(z[:, :, None])[:, 0]
        assert torch.equal(codes, plain_finite(quantizer, z)) and codes.unique().numel() == levels


@pytest.mark.parametrize("levels", LEVELS[:5], ids=str)
def test_finite_codes_at_the_thresholds_are_aions(levels):
    quantizer = FiniteScalarQuantizer(levels)
    place = neighbours(torch.cat([*quantizer.thresholds().rows, EXTREMES]))
    z = torch.stack([place.roll(7 * c) for c in range(len(levels))], 1)
    codes = quantizer.thresholds().codes(z[:, :, None])[:, 0]
    assert torch.equal(codes, AionFSQ(levels).encode(z[..., None])[:, 0].long())
    assert torch.equal(codes, quantizer.encode(z))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_scalar_thresholds_are_where_the_nearest_code_changes(form, data):
    number = floats.filter(lambda x: x > 0) if form == "log" else floats
    quantizer = FORMS[form](data.draw(st.integers(2, 40)), 50)
    quantizer.update(torch.tensor(data.draw(st.lists(number, min_size=1, max_size=30))))
    thresholds = quantizer.thresholds()
    x = neighbours(torch.cat([*thresholds.rows, quantizer.values, EXTREMES]), each=3)
    x = x[quantizer.transform(x.double()).isfinite()]
    assert torch.equal(quantizer.encode(x), plain_scalar(quantizer, x))


@pytest.mark.parametrize("form", FORMS)
def test_a_number_is_refused_where_the_scale_has_no_place_for_it(form):
    quantizer = filled(form)
    for x in torch.cat([EXTREMES, torch.tensor([torch.inf, -torch.inf, torch.nan])]):
        if quantizer.transform(x.double()).isfinite():
            assert 0 <= quantizer.encode(x) < quantizer.num_codes
        else:
            for method in (quantizer.encode, quantizer.update):
                with pytest.raises(ValueError, match="1 of 2 are NaN, infinite or outside"):
                    method(torch.stack([torch.tensor(1.0), x]))


def test_nothing_gives_no_codes():
    assert filled("log").encode(torch.zeros(0, 3)).shape == (0, 3)
    assert FiniteScalarQuantizer([3, 3]).thresholds().codes(torch.zeros(0, 2, 4)).shape == (0, 4)


# ---- the kernel


@pytest.fixture(scope="module")
def interpreted():
    """The kernel's module in Triton's interpreter, which runs on the CPU."""
    pytest.importorskip("triton", reason="needs Triton")
    spec = importlib.util.spec_from_file_location("interpreted", module.__file__[:-4] + "_kernel.py")
    kernel = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(kernel)
    return kernel


def layouts(d):
    """z (B, d, N) of several shapes and strides, every number its own."""
    yield normal(3, d, 700)
    yield normal(1500, d, 1)
    yield normal(2, d, 9, 5).contiguous(memory_format=torch.channels_last).flatten(2)
    yield normal(d, 40, 31).transpose(0, 1)
    yield normal(2, 2 * d, 80)[:, ::2, 3::2]


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_the_kernel_gives_the_finite_codes(interpreted, levels):
    quantizer, d = FiniteScalarQuantizer(levels), len(levels)
    t = quantizer.thresholds()
    for z in [z.to(dtype) for z in layouts(d) for dtype in DTYPES]:
        codes = interpreted.codes(z, t.trees, t.basis, t.lowest, t.highest)
        assert torch.equal(codes, plain_finite(quantizer, z))
    place = neighbours(torch.cat([*t.rows, EXTREMES, torch.tensor([torch.inf, -torch.inf])]), each=2)
    z = torch.stack([place.roll(7 * c) for c in range(d)])[None]
    codes = interpreted.codes(z, t.trees, t.basis, t.lowest, t.highest)
    assert torch.equal(codes, plain_finite(quantizer, z))
    z[0, -1, -1] = torch.nan
    assert interpreted.codes(z, t.trees, t.basis, t.lowest, t.highest) is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1024, 1000, 2])
def test_the_kernel_gives_the_scalar_codes(interpreted, form, size):
    quantizer = filled(form, size)
    t = quantizer.thresholds()
    x = neighbours(torch.cat([*t.rows, quantizer.values]), each=1)
    codes = interpreted.codes(x[:, None, None], t.trees, t.basis, t.lowest, t.highest)
    assert torch.equal(codes.flatten(), plain_scalar(quantizer, x))
    for bad in (torch.nan, torch.inf, -torch.inf, *([0.0, -1.0] if form == "log" else [])):
        x[-1] = bad
        assert interpreted.codes(x[:, None, None], t.trees, t.basis, t.lowest, t.highest) is None


def test_without_a_kernel_it_warns_and_the_codes_come_all_the_same():
    with pytest.warns(UserWarning, match="slower on cpu"):
        assert gpu_kernel.__wrapped__(torch.device("cpu")) is None
    quantizer, z = FiniteScalarQuantizer([7, 5, 5]), normal(4, 3, 50)
    assert torch.equal(quantizer.thresholds().plain_codes(z), quantizer.encode(z))


# ---- on a GPU


@needs_gpu
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_finite_codes_on_a_gpu_are_those_of_its_tanh(levels):
    quantizer = FiniteScalarQuantizer(levels).cuda()
    assert gpu_kernel(quantizer.levels.device) is not None
    rows = torch.cat([row.cpu() for row in quantizer.thresholds().rows])
    place = neighbours(torch.cat([rows, EXTREMES, torch.tensor([torch.inf, -torch.inf])]))
    beside = torch.stack([place.roll(7 * c) for c in range(len(levels))], 1).cuda()
    for z in [beside, *(z.cuda().to(dtype) for z in layouts(len(levels)) for dtype in DTYPES)]:
        assert torch.equal(quantizer.encode(z), plain_finite(quantizer, z))
    assert torch.equal(quantizer.values_to_codes(quantizer.quantize(beside)), quantizer.encode(beside))
    beside[3, 0] = torch.nan
    with pytest.raises(ValueError, match=rf"1 of {beside.numel()} inputs are NaN"):
        quantizer.encode(beside)


@needs_gpu
@pytest.mark.parametrize("levels", [5, 8, 256])
def test_every_float_there_is_has_its_finite_code_on_a_gpu(levels):
    quantizer, part = FiniteScalarQuantizer([levels]).cuda(), 2**27
    for start in range(-(2**31), 2**31, part):
        z = torch.arange(start, start + part, device="cuda").int().view(torch.float32)[:, None]
        z = torch.where(z.isnan(), 0.0, z)
        assert torch.equal(quantizer.encode(z), plain_finite(quantizer, z))


@needs_gpu
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scalar_codes_on_a_gpu_are_those_of_its_float64(form, dtype):
    quantizer = filled(form, device="cuda")
    beside = neighbours(torch.cat([*quantizer.thresholds().rows, quantizer.values]).cpu())
    x = torch.cat([beside, normal(1_000_003).abs() + 1e-3]).cuda().to(dtype)
    x = x[quantizer.transform(x.double()).isfinite()]
    for part in (x, x[1::2], x[: len(x) // 6 * 6].reshape(2, 3, -1).transpose(0, 2)):
        assert torch.equal(quantizer.encode(part), plain_scalar(quantizer, part))
    x[5] = torch.nan
    with pytest.raises(ValueError, match=rf"1 of {len(x)} are NaN"):
        quantizer.encode(x)


@needs_gpu
def test_a_stream_fills_the_same_reservoir_on_a_gpu():
    here, there = ScalarReservoirQuantizer(256, 1000, 3), ScalarReservoirQuantizer(256, 1000, 3).cuda()
    for batch in normal(20_000).split([700, 700, 5000, 13_600]):
        here.update(batch)
        there.update(batch.cuda())
    assert all(torch.equal(a, b.cpu()) for a, b in zip(here.buffers(), there.buffers(), strict=True))
    assert torch.equal(here.values, there.values.cpu())
