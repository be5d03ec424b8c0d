"""Finite scalars against AION's and lucidrains' quantizers, bit by bit. (The reservoir: test_reservoir.py.)

Run: pytest tests/test_quantizers.py
"""

import numpy as np
import pytest
import torch
from aion.codecs.quantizers import FiniteScalarQuantizer as AionFSQ
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_quantize_pytorch import FSQ as LucidrainsFSQ

from aion_lite.quantizers import FiniteScalarQuantizer

LEVELS = [[8, 5, 5, 5], [8, 8, 8, 5, 5, 5], [7, 5, 5, 5, 5], [4, 4, 4], [3, 3, 3], [5, 5, 5, 5]]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def normal(*shape, seed=0, dtype=torch.float32, scale=2.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


# ---- finite scalars


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_codes_values_and_gradients_are_those_of_aion_and_lucidrains(levels, dtype):
    ours, aion, lucid = FiniteScalarQuantizer(levels), AionFSQ(levels), LucidrainsFSQ(levels)
    inputs = [normal(16, len(levels), 12, 12, dtype=dtype).requires_grad_() for _ in range(3)]
    values = ours.quantize(inputs[0]), aion.quantize(inputs[1]), lucid(inputs[2])[0]
    assert torch.equal(values[0], values[1]) and torch.equal(values[0].to(dtype), values[2])
    codes = ours.encode(inputs[0])
    assert torch.equal(codes, aion.encode(inputs[1]).long())
    assert torch.equal(codes, lucid(inputs[2])[1].long())
    assert torch.equal(codes, ours.values_to_codes(values[0]))
    assert torch.equal(ours.decode(codes), aion.decode(codes))
    weight = normal(*values[0].shape, seed=1, dtype=dtype)
    gradients = [
        torch.autograd.grad((v.float() * weight.float()).sum(), x)[0]
        for v, x in zip(values, inputs, strict=True)
    ]
    assert gradients[0].abs().sum() > 0
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_the_codebook_is_that_of_lucidrains(levels):
    ours, lucid = FiniteScalarQuantizer(levels), LucidrainsFSQ(levels)
    codes = torch.arange(ours.codebook_size)
    assert ours.codebook_size == lucid.codebook_size
    assert torch.equal(ours.code_features(), lucid.implicit_codebook)
    assert torch.equal(ours.level_indices(codes), lucid.indices_to_level_indices(codes))
    assert torch.equal(ours.indices(ours.level_indices(codes)), codes)


def inputs_at_the_centre_of_each_level(num_levels):
    """z (1, 1, L) that the bound sends exactly on level 0, 1, ..., L-1: its closed-form inverse."""
    half = (num_levels - 1) * 1.001 / 2
    offset = 0.5 if num_levels % 2 == 0 else 0.0
    level = np.arange(num_levels) - num_levels // 2
    z = np.arctanh((level + offset) / half) - np.arctanh(offset / half)
    return torch.from_numpy(z.astype(np.float32))[None, None]


def test_every_code_of_every_level_count_round_trips():
    for num_levels in range(3, 257):
        quantizer, codes = FiniteScalarQuantizer([num_levels]), torch.arange(num_levels)[None]
        assert torch.equal(quantizer.encode(inputs_at_the_centre_of_each_level(num_levels)), codes)
        assert torch.equal(quantizer.values_to_codes(quantizer.decode(codes)), codes)


def test_aion_gets_134_of_the_254_level_counts_wrong():
    """It cuts where it should round; nothing of ours depends on this, it says why ours differs there."""
    wrong = [
        n
        for n in range(3, 257)
        if not torch.equal(AionFSQ([n]).encode(inputs_at_the_centre_of_each_level(n))[0], torch.arange(n))
    ]
    assert len(wrong) == 134 and wrong[:4] == [26, 27, 38, 39]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(3, 9), min_size=1, max_size=5), st.data())
def test_finite_codes_round_trip(levels, data):
    quantizer = FiniteScalarQuantizer(levels)
    codes = data.draw(st.lists(st.integers(0, quantizer.codebook_size - 1), min_size=1, max_size=20))
    codes = torch.tensor(codes)[None]
    assert torch.equal(quantizer.values_to_codes(quantizer.decode(codes)), codes)


def test_even_levels_span_minus_one_to_one_less_a_step():
    values = FiniteScalarQuantizer([4, 5]).code_features()
    assert values.amin(0).tolist() == [-1, -1] and values.amax(0).tolist() == [0.5, 1.0]


def test_half_precision_leaves_finite_codes_alone():
    z = normal(50, 4)
    codes = FiniteScalarQuantizer([8, 5, 5, 5]).encode(z)
    assert torch.equal(FiniteScalarQuantizer([8, 5, 5, 5]).bfloat16().encode(z), codes)


def test_forward_gives_values_no_loss_and_the_share_of_codes_in_use():
    quantizer, z = FiniteScalarQuantizer([3, 3]), torch.tensor([[-9.0, -9.0], [0.0, 0.0], [0.1, 0.1]])
    values, loss, used = quantizer(z)
    assert values.tolist() == [[-1, -1], [0, 0], [0, 0]]
    assert loss == 0 and used.item() == pytest.approx(2 / 9)


def test_finite_scalars_refuse_bad_input():
    for levels in ([], [8, 2], [4.5, 4], 5):
        with pytest.raises(ValueError, match="integers of 3 or more"):
            FiniteScalarQuantizer(levels)
    quantizer = FiniteScalarQuantizer([3, 3])
    with pytest.raises(ValueError, match=r"shape \(B, 2, ...\), got \(5, 3\)"):
        quantizer.encode(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"0\.\.8, got 0\.\.9"):
        quantizer.decode(torch.tensor([[0, 9]]))
    with pytest.raises(TypeError, match=r"integers, got torch\.float32"):
        quantizer.decode(torch.tensor([[0.0]]))
    with pytest.raises(ValueError, match="1 of 2 inputs are NaN"):
        quantizer.encode(torch.tensor([[0.0, torch.nan]]))
