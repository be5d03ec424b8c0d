"""What pooling leaves out and keeps: gaps, absent bands, parts of the grid."""

import pytest
import torch
from lightly.loss import NTXentLoss

from aion_lite.codecs import ImageCodec, SpectrumCodec, TimeSeriesCodec
from aion_lite.modalities import Image, Spectrum, TimeSeries
from aion_lite.strategies.contrast import SimCLR, pooled, unit

SMALL = {"patch": 4, "width": 8, "depth": 1, "encoder_depth": 1}
HEAD = {"dim": 4, "hidden": 16}


def codec():
    torch.manual_seed(0)
    return ImageCodec(Image("stamp", channels=2, size=12), **SMALL)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noisy(x, present=None):
    return x + 0.3 * torch.randn_like(x), present


def test_pooling_is_the_mean_of_what_the_projection_sees():
    c, seen = codec(), []
    c.encoder.project.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x, present = draw(8, 2, 12, 12), torch.ones(8, dtype=torch.bool)
    c.encode(x, present)
    torch.testing.assert_close(pooled(c, c.encoder, x, present), seen[0].mean((1, 2)))


@pytest.mark.parametrize("kind", ["series", "spectrum"])
def test_what_lies_in_gaps_never_matters_and_empty_stretches_do_not_count(kind):
    torch.manual_seed(0)
    if kind == "series":
        c, x = TimeSeriesCodec(TimeSeries("wave", channels=2, length=22), **SMALL), draw(6, 2, 22)
    else:
        c, x = SpectrumCodec(Spectrum("flux", wavelength=range(1, 23)), **SMALL), draw(6, 22)
    present = draw(*x.shape, seed=1) > 0
    present[..., :8] = False
    x = x.where(present, 0.0)
    c.fit_scale(x, present)
    seen = []
    hook = c.encoder.project.register_forward_hook(lambda m, inputs, output: seen.append(inputs[0]))
    c._encode(x, present)
    hook.remove()
    held = c.token_present(seen[0], present)[:, -6:]
    assert not held[:, :2].any()
    expected = torch.stack([h[m].mean(0) for h, m in zip(seen[0], held, strict=True)])
    torch.testing.assert_close(pooled(c, c.encoder, x, present), expected)
    torch.testing.assert_close(pooled(c, c.encoder, x.where(present, 7.0), present), expected)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_are_the_means_of_a_cut_grid(parts):
    c, x = codec(), draw(3, 2, 12, 12)  # a grid of 3 x 3 patches
    present = torch.ones(3, dtype=torch.bool)
    rows = [[0, 1], [2]] if parts == 2 else [[0], [1], [2]]
    h = c.encoder.hidden(c._network_input(*c._standardised(x, torch.ones_like(x))))  # (B, 3, 3, width)
    cut = [h[:, a][:, :, b].mean((1, 2)) for a in rows for b in rows]
    torch.testing.assert_close(pooled(c, c.encoder, x, present, parts), torch.cat(cut, 1))
    with pytest.raises(ValueError, match="can't be cut into 4 parts"):
        pooled(c, c.encoder, x, present, 4)


def test_parts_leave_out_what_was_not_measured():
    torch.manual_seed(0)
    c = TimeSeriesCodec(TimeSeries("wave", length=24), **SMALL)
    x, present = draw(4, 1, 24), torch.ones(4, 1, 24, dtype=torch.bool)
    present[..., :4] = False  # the first of six patches
    two = pooled(c, c.encoder, x, present, 2).unflatten(1, (2, -1))
    h = c.encoder.hidden(c._network_input(*c._standardised(x, present)))  # (B, 6, width)
    torch.testing.assert_close(two, torch.stack([h[:, 1:3].mean(1), h[:, 3:].mean(1)], 1))


def test_a_view_brings_its_gaps_along():
    torch.manual_seed(0)
    c = TimeSeriesCodec(TimeSeries("wave", length=22), **SMALL)

    def shift(x, present):
        return x.roll(3, -1), present.roll(3, -1)

    x, present = draw(4, 1, 22), draw(4, 1, 22, seed=1) > 0
    module = SimCLR(c, shift, temperature=0.1, **HEAD)
    z = unit(module.head(pooled(c, c.encoder, *shift(x.where(present, 9.0), present))))
    torch.testing.assert_close(module.loss(x, present)[0], NTXentLoss(0.1)(z, z), rtol=0, atol=1e-6)


def test_absent_bands_of_an_image_stay_absent():
    x, present = draw(4, 2, 12, 12), torch.tensor([[True, False]] * 4)
    module = SimCLR(codec(), noisy, **HEAD)
    view, held = module.view(x, present)
    assert torch.equal(held, present)
    a = pooled(module.codec, module.codec.encoder, view, held)
    b = pooled(module.codec, module.codec.encoder, view.where(present[..., None, None], 5.0), held)
    assert torch.equal(a, b) and a.abs().sum() > 0
