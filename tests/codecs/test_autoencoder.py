"""The autoencoder codecs of images and series: closed forms, gaps that never matter, and that they learn."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aion_lite.codecs.autoencoder import Decoder
from aion_lite.codecs.image import ImageCodec
from aion_lite.codecs.series import TimeSeriesCodec
from aion_lite.modalities import Image, Spectrum, TimeSeries
from aion_lite.training import train

SMALL = {"width": 8, "depth": 1, "encoder_depth": 1, "levels": (5, 4, 3)}
kinds = pytest.mark.parametrize("kind", ["image", "series"])
shapes = st.tuples(st.integers(1, 4), st.integers(1, 13), st.integers(1, 13), st.integers(1, 6))


def codec(kind, channels=3, height=9, length=10, patch=4, **over):
    torch.manual_seed(0)
    if kind == "image":
        return ImageCodec(Image("x", channels, (height, length)), patch=patch, **{**SMALL, **over})
    return TimeSeriesCodec(TimeSeries("x", channels, length), patch=patch, **{**SMALL, **over})


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def values(c, n=5, seed=0):
    return 3 * draw(n, *c.modality.shape, seed=seed) + 7


def some(c, n=5, seed=1):
    """Cells that are there, as ``present`` and as a mask of the values' shape."""
    present = draw(n, *c.modality.cell_shape, seed=seed) > -0.3
    shape = (n, *c.modality.shape)
    return present, present.reshape(*present.shape, *[1] * (len(shape) - present.ndim)).expand(shape)


# Shapes


@kinds
@given(shapes)
@settings(max_examples=25)
def test_any_channels_and_size_round_trip(kind, shape):
    c = codec(kind, *shape)
    x, spec = values(c), c.token_spec()
    tokens = c.encode(x, batch_size=2)
    sides, patch = shape[1:3] if kind == "image" else shape[2:3], shape[3]
    assert spec.grid == tuple(math.ceil(side / patch) for side in sides)
    assert tokens.shape == (5, math.prod(spec.grid)) and tokens.dtype == torch.int64
    assert 0 <= tokens.min() and tokens.max() < spec.vocab_size == 60
    back = c.decode(tokens, batch_size=3)
    assert back.shape == x.shape and back.isfinite().all()
    torch.testing.assert_close(back, c.decode(tokens), rtol=1e-4, atol=1e-5)
    loss, metrics = c.loss(x)
    assert loss.ndim == 0 and metrics["mse"] == loss


@pytest.mark.parametrize("ndim", [1, 2])
def test_what_unfolds_is_a_pixel_shuffle(ndim):
    """Identities in place of what comes before and after; on a line, one row of torch's 2-D shuffle."""
    torch.manual_seed(0)
    d, patch = 6, 3
    decoder = Decoder(d, 1, patch, 8, 1, ndim)
    decoder.project = decoder.blocks = decoder.norm = decoder.refine = decoder.out = nn.Identity()
    decoder.unfold = nn.Linear(d, decoder.thin * patch**ndim)
    z = draw(2, d, *(4, 5)[:ndim])
    flat = decoder.unfold(z.movedim(1, -1)).movedim(-1, 1)  # (B, thin * patch**ndim, ...)
    if ndim == 2:
        assert torch.equal(decoder(z), F.pixel_shuffle(flat, patch))
    else:
        assert torch.equal(decoder(z), flat.unflatten(1, (-1, patch)).transpose(2, 3).reshape(2, 8, 12))


def test_tokens_lie_where_their_pixels_do():
    """A change in one patch changes the stem's output there alone, at the row and column of the token."""
    c = codec("image", 1, 12, 20)
    x = values(c, 1)
    other = x.clone()
    other[..., 4:8, 12:16] += 1  # row 1, column 3 of 3 x 5
    changed = (c.encoder.patchify(x) - c.encoder.patchify(other)).abs().sum(1)[0] > 0
    assert changed.nonzero().tolist() == [[1, 3]] and c.grid == changed.shape


# Gaps


@kinds
@given(st.integers(0, 10_000), st.sampled_from([0.0, 1e30, math.nan, -math.inf]))
@settings(max_examples=20)
def test_what_lies_in_gaps_never_matters(kind, seed, junk):
    c = codec(kind)
    x = values(c, seed=seed)
    c.fit_scale(x)
    present, mask = some(c, seed=seed)
    weight = draw(*x.shape, seed=2).square()
    wild = x.where(mask, junk)
    assert torch.equal(c.encode(wild, present), c.encode(x, present))
    assert torch.equal(c.loss(wild, present, weight.where(mask, junk))[0], c.loss(x, present, weight)[0])
    c.fit_scale(wild, present)
    mean = c.mean.clone()
    c.fit_scale(x, present)
    assert torch.equal(mean, c.mean) and not torch.equal(c.encode(x), c.encode(x, present))


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 10_000))
@settings(max_examples=30)
def test_a_stretch_with_nothing_measured_has_an_absent_token(length, patch, seed):
    c = codec("series", 2, length=length, patch=patch)
    present = draw(6, 2, length, seed=seed) > 1
    expected = np.array(
        [[p[:, i : i + patch].any() for i in range(0, length, patch)] for p in present.numpy()]
    )
    tokens = c.encode(values(c, 6), present)
    np.testing.assert_array_equal(c.token_present(tokens, present), expected)
    assert (tokens[~torch.tensor(expected)] == 0).all()
    assert torch.equal(c.token_present(tokens, present[:, 0, 0]), present[:, 0, 0])


def test_missing_bands_leave_the_stem_by_the_square_root_law():
    """W y sqrt(C / present) + b, over the bands that are there (Parker et al. 2025)."""
    c, seen = codec("image", 4), []
    x = values(c, 3)
    c.fit_scale(x)
    present = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]]).bool()
    stem = c.encoder.patchify
    stem.register_forward_hook(lambda module, inputs, output: seen.append(output))
    c.encode(x, present)
    y = F.pad((x - c.mean[:, None, None]) / c.std[:, None, None], (0, 2, 0, 3), mode="replicate")
    for i, bands in enumerate(present):
        scale = math.sqrt(4 / int(bands.sum()))
        expected = F.conv2d(y[i : i + 1, bands], stem.weight[:, bands] * scale, stem.bias, stride=4)
        torch.testing.assert_close(seen[0][i : i + 1], expected, rtol=1e-4, atol=1e-5)


# What is learnt


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "over"), [("image", {}), ("image", {"compression": 2.0}), ("series", {})])
def test_the_loss_is_the_error_of_what_decode_gives_in_standard_deviations(kind, over, weighted):
    c = codec(kind, length=24, **over)
    x = values(c)
    x[:, 1] *= 100  # a channel of another unit
    c.fit_scale(x)
    present, mask = some(c)
    if kind == "series":
        present[:, :, 8:12] = False  # a whole stretch, so an absent token
    weight = draw(*x.shape, seed=2).square() if weighted else None
    back = c.decode(c.encode(x, present))
    scale = (lambda v: np.arcsinh(v / 2)) if over else (lambda v: v)
    std = c.std.double().numpy().reshape(-1, *[1] * c.ndim)
    error = (scale(back.double().numpy()) - scale(x.double().numpy())) / std
    count = mask.double().numpy() * (weight.double().numpy() * std**2 if weighted else 1)
    expected = (error**2 * count).sum() / count.sum()
    assert float(c.loss(x, present, weight)[1]["mse"]) == pytest.approx(expected, rel=1e-4)


@kinds
def test_the_scale_is_numpys_over_what_was_measured(kind):
    c = codec(kind, 4)
    x, (present, mask) = values(c, 20), some(c, 20)
    x[:, 2] = 0.1  # never changes
    mask = mask.clone()
    mask[:, 3] = present[:, 3] = False
    c.fit_scale(x, present)
    v = np.moveaxis(np.where(mask, x.double(), np.nan), 1, 0).reshape(4, -1)[:3]
    np.testing.assert_allclose(c.mean, [*np.nanmean(v, 1), 0], rtol=1e-6)
    np.testing.assert_allclose(c.std, [*np.nanstd(v[:2], 1), 1, 1], rtol=1e-6)


@given(st.floats(-1e6, 1e6, width=32), st.floats(1e-3, 1e3))
def test_compression_is_arcsinh_and_comes_undone(value, scale):
    c = codec("image", compression=scale)
    y = c._compress(torch.tensor(value))
    assert float(y) == pytest.approx(np.arcsinh(value / scale), rel=1e-5)
    assert float(c._expand(y)) == pytest.approx(value, rel=1e-4, abs=1e-6)


@kinds
def test_gradients_reach_every_weight_through_the_quantizer(kind):
    c = codec(kind)
    c.loss(values(c))[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in c.parameters())
    assert all(p.ndim == 2 for p in c.hidden_matrices()) and len(c.hidden_matrices()) == 4


@kinds
def test_a_small_codec_learns_16_smooth_samples(kind):
    c = codec(kind, 2, 16, 16, width=32)
    t = torch.linspace(-1, 1, c.modality.shape[-1])
    a, b = draw(2, 16, 2, *[1] * (c.ndim))
    x = 5 + a + b * (t if kind == "series" else t[:, None] * t)
    c.fit_scale(x)
    train(c, x, steps=250, batch_size=16, lr=5e-3, device="cpu", progress=False)
    error = (c.decode(c.encode(x)) - x).square().mean() / x.var(correction=0)
    assert 1 - error > 0.9


@kinds
def test_the_size_of_a_patch_gets_past_the_latent_only_without_norm(kind):
    """Ten times as far from the mean: a latent many times as large without, all but the same one with."""
    x = values(codec(kind))
    grown = {}
    for norm in (True, False):
        c = codec(kind, norm=norm)
        c.fit_scale(x)
        y, mask = c._standardised(x, torch.ones(5, dtype=torch.bool))
        small, large = (c._latent(size * y, mask).detach().norm() for size in (10, 100))
        grown[norm] = float(large / small)
    assert grown[True] < 1.2 and grown[False] > 5


# At the door


@kinds
@pytest.mark.parametrize("norm", [True, False])
def test_saved_and_loaded_is_the_same_codec(kind, norm, tmp_path):
    c = codec(kind, norm=norm, **({"compression": 3.0} if kind == "image" else {}))
    x = values(c)
    c.fit_scale(x)
    c.save_pretrained(tmp_path)
    again = type(c).from_pretrained(tmp_path)
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in c.state_dict().items())
    tokens = c.encode(x)
    assert torch.equal(again.encode(x), tokens) and torch.equal(again.decode(tokens), c.decode(tokens))


def test_a_codec_saved_before_there_was_norm_loads_with_it(tmp_path):
    codec("image").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("norm") is True
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert isinstance(ImageCodec.from_pretrained(tmp_path).encoder.norm, nn.LayerNorm)


@kinds
def test_encode_and_decode_change_neither_codec_nor_input(kind):
    c = codec(kind)
    x, (present, _) = values(c), some(c)
    kept, state = x.clone(), {name: t.clone() for name, t in c.state_dict().items()}
    c.decode(c.encode(x, present))
    assert torch.equal(x, kept)
    assert all(torch.equal(t, state[name]) for name, t in c.state_dict().items())


@kinds
def test_what_it_cannot_take_is_refused(kind):
    c, kinds_of = codec(kind), {"image": (ImageCodec, "Image"), "series": (TimeSeriesCodec, "TimeSeries")}
    cls, name = kinds_of[kind]
    with pytest.raises(TypeError, match=f"needs a declared {name}, got Spectrum"):
        cls(Spectrum("x", wavelength=(1, 2, 3)))
    for wrong in ({"patch": 0}, {"width": 4}, {"depth": 0}, {"encoder_depth": 0}):
        with pytest.raises(ValueError, match="needs patch, depth and encoder_depth of 1 or more"):
            cls(c.modality, **wrong)
    x = values(c)
    x[0, 0, 1] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite values in measured samples"):
        c.encode(x)
    with pytest.raises(ValueError, match="needs values of shape"):
        c.encode(x[:, :2])
    with pytest.raises(ValueError, match="decodes tokens of shape"):
        c.decode(torch.zeros(2, c.num_tokens + 1, dtype=torch.int64))


@pytest.mark.parametrize("compression", [0.0, -1.0, math.nan, math.inf])
def test_compression_needs_a_scale(compression):
    with pytest.raises(ValueError, match="compression must be positive"):
        codec("image", compression=compression)
