"""Spectra as tokens: amplitude apart from shape, coverage in and out, the loss by hand, no trap of AION's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from aion_lite.codecs import CodecManager
from aion_lite.codecs.spectrum import SpectrumCodec
from aion_lite.data import MultimodalDataset
from aion_lite.modalities import Scalar, Spectrum
from aion_lite.training import train

W = 120  # not whole patches of 16
SMALL = dict(patch=16, width=32, depth=2, encoder_depth=1)
NOTHING = torch.zeros(2, W, dtype=torch.bool)


def grid(size):
    return Spectrum("sky", wavelength=tuple(4000 + 10.0 * np.arange(size)))


SKY = grid(W)


def spectra(n, seed=0):
    """Two Gaussian lines on a slope, of amplitudes over decades; covered up to a wavelength of their own."""
    g = torch.Generator().manual_seed(seed)
    slope, up, down = torch.rand(3, n, 1, generator=g)
    t = torch.linspace(0, 1, W)
    shape = 1 + slope * t + (-(((t - up) / 0.1) ** 2)).exp() - 0.5 * (-(((t - down) / 0.05) ** 2)).exp()
    x = shape * (2 * torch.randn(n, 1, generator=g)).exp()
    return x, torch.arange(W) < torch.randint(20, W, (n, 1), generator=g)


def make(**options):
    torch.manual_seed(0)
    codec = SpectrumCodec(SKY, **SMALL, **options)
    codec.fit_scale(*spectra(200))
    return codec


@pytest.fixture(scope="module")
def codec():
    return make()


@pytest.fixture(scope="module")
def trained():
    codec, (x, present) = make(norm_codes=1024), spectra(16)
    codec.fit_scale(x, present)
    train(codec, TensorDataset(x, present), steps=200, batch_size=16, device="cpu", progress=False)
    return codec


def root_mean_square(x, present):
    rows = zip(x.double().numpy(), present.numpy(), strict=True)
    return np.array([np.sqrt(np.mean(row[seen] ** 2)) for row, seen in rows])


def state(codec):
    return {name: tensor.clone() for name, tensor in codec.state_dict().items()}


def assert_same_state(codec, before):
    assert all(torch.equal(tensor, before[name]) for name, tensor in codec.state_dict().items())


def test_a_few_smooth_spectra_are_learnt_and_so_is_their_coverage(trained):
    x, present = spectra(16)
    tokens = trained.encode(x, present)
    rms = torch.tensor(root_mean_square(x, present))[:, None]
    truth, error = (x / rms)[present], ((trained.decode(tokens) - x) / rms)[present]
    assert 1 - error.square().mean() / truth.var() > 0.9
    assert (trained.decode_present(tokens) == present).float().mean() > 0.9
    assert present.float().mean() < 0.7  # "all covered" would score less


def test_token_0_is_the_nearest_code_to_the_root_mean_square(codec):
    x, present = spectra(200, seed=1)
    rms, codes = root_mean_square(x, present), codec.token_spec().parts["norm"].values.double().numpy()
    nearest = np.abs(np.log(rms)[:, None] - np.log(codes)).argmin(1)
    np.testing.assert_array_equal(codec.encode(x, present)[:, 0], nearest)
    inside = (rms > codes[0]) & (rms < codes[-1])
    above = np.searchsorted(codes, rms[inside])
    error = np.abs(np.log(rms[inside] / codes[nearest[inside]]))
    assert inside.mean() > 0.9 and (error <= np.log(codes[above] / codes[above - 1]) / 2 + 1e-6).all()


@given(power=st.integers(-90, 90))
def test_a_brighter_spectrum_differs_in_token_0_alone(codec, power):
    """Powers of two are exact in floating point, so the law is; down to fluxes whose squares underflow."""
    x, present = spectra(4, seed=2)
    once, scaled = codec.encode(x, present), codec.encode(x * 2.0**power, present)
    assert torch.equal(scaled[:, 1:], once[:, 1:])
    assert ((scaled[:, 0] - once[:, 0]) * power >= 0).all()


def test_any_other_factor_flips_a_tie_at_most(codec):
    x, present = spectra(100, seed=2)
    flipped = codec.encode(x, present)[:, 1:] != codec.encode(3.7 * x, present)[:, 1:]
    assert flipped.float().mean() < 0.002


@settings(max_examples=25)
@given(value=st.floats(width=32))
def test_what_lies_outside_the_coverage_never_matters(codec, value):
    x, present = spectra(6, seed=3)
    other, weight = x.where(present, value), torch.ones(6, W)
    assert torch.equal(codec.encode(x, present), codec.encode(other, present))
    loss = codec.loss(x, present, weight)[0]
    assert torch.equal(loss, codec.loss(other, present, weight.where(present, value))[0])
    refitted, (a, b) = make(), spectra(200)
    refitted.fit_scale(a.where(b, value), b)
    assert_same_state(refitted, state(codec))  # and fitting twice is fitting once


def test_padding_is_never_tokenised(codec):
    x, present = spectra(20, seed=4)
    tokens = codec.encode(x, present)
    for padding in (8, 40):  # up to the end of the last patch, and beyond
        wide = SpectrumCodec(grid(W + padding), **SMALL)
        wide.load_state_dict(codec.state_dict())
        covered = F.pad(present, (0, padding))
        more = wide.encode(F.pad(x, (0, padding), value=torch.nan), covered)
        assert not wide.token_present(more, covered)[:, 9:].any() and (more[:, 9:] == 0).all()
        assert padding > 8 or torch.equal(more, tokens)


def test_a_patch_without_a_covered_pixel_is_absent(codec):
    x, _ = spectra(3)
    present = torch.zeros(3, W, dtype=torch.bool)
    present[0, 17] = present[1, 0] = present[1, 119] = True
    tokens = codec.encode(x, present)
    there = codec.token_present(tokens, present)
    assert there.shape == tokens.shape == (3, 9) and (tokens[~there] == 0).all()
    assert [row.nonzero()[:, 0].tolist() for row in there] == [[0, 2], [0, 1, 8], []]
    assert codec.token_present(tokens, present.any(1)).tolist() == [True, True, False]


@pytest.mark.parametrize("max_weight", [1e9, 2.0])
def test_the_loss_by_hand(max_weight):
    codec, (x, present) = make(max_weight=max_weight), spectra(12, seed=5)
    rms, seen, tokens = root_mean_square(x, present)[:, None], present.numpy(), codec.encode(x, present)
    ivar = (
        torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) * 9 / torch.tensor(rms**2)
    ).float()
    norm = codec.token_spec().parts["norm"].values[tokens[:, :1]].numpy()
    error = ((codec.decode(tokens).numpy() / norm - x.numpy() / rms) / codec.std.item())[seen]
    assert codec.loss(x, present)[1]["mse"].item() == pytest.approx(np.mean(error**2), rel=1e-4)
    weight = np.minimum(ivar.numpy() * rms**2, max_weight)[seen]
    mse = np.average(error**2, weights=weight)
    probability = torch.sigmoid(codec._output(tokens, 512)[:, 1].double()).detach().numpy()
    entropy = -np.mean(np.log(np.where(seen, probability, 1 - probability)))
    loss, metrics = codec.loss(x, present, ivar)
    assert metrics["mse"].item() == pytest.approx(mse, rel=1e-4)
    assert loss.item() == pytest.approx(mse + entropy, rel=1e-4)


def test_a_pixel_without_weight_is_not_scored_and_a_constant_weight_is_none(codec):
    x, _ = spectra(5, seed=6)
    flat = torch.tensor(7 / root_mean_square(x, torch.ones_like(x) > 0) ** 2).float()[:, None].expand_as(x)
    for same in (flat, 1e6 * flat):  # the second is clipped alike
        torch.testing.assert_close(codec.loss(x, None, same)[0], codec.loss(x)[0])
    assert codec.loss(x, None, 0 * flat)[1]["mse"] == 0


def test_saved_in_aions_layout_and_read_back_bit_equal(trained, tmp_path):
    x, present = spectra(30, seed=7)
    data = MultimodalDataset([SKY, Scalar("z")], {"sky": x, "z": x[:, 0]}, {"sky": present})
    manager = CodecManager([trained, Scalar("z")]).fit(data)
    manager.save_pretrained(tmp_path)
    assert {f.name for f in (tmp_path / "codecs/sky").iterdir()} >= {"config.json", "model.safetensors"}
    again, tokens = CodecManager.from_pretrained(tmp_path)["sky"], manager.encode(data)
    body = tokens.tokens["sky"]
    assert again.modality == SKY and torch.equal(again.encode(x, present), body)
    assert torch.equal(tokens.present["sky"], trained.token_present(body, present))
    assert torch.equal(again.decode(body), trained.decode(body))
    assert torch.equal(again.decode_present(body), trained.decode_present(body))
    again.fit_scale(*spectra(16))
    assert_same_state(again, state(trained))


def test_encode_changes_neither_input_nor_codec(codec):
    x, present = spectra(9, seed=8)
    x_before, before = x.clone(), state(codec)
    codec.train()
    whole, parts = codec.encode(x, present), codec.encode(x, present, batch_size=4)
    assert torch.equal(x, x_before)
    assert_same_state(codec, before)
    torch.testing.assert_close(codec.decode(whole, batch_size=2), codec.decode(whole))
    assert torch.equal(whole[:, 0], parts[:, 0]) and (whole != parts).float().mean() < 0.05  # ties
    assert codec.encode(torch.zeros(0, W)).shape == (0, 9)


def test_the_spec_joins_amplitude_and_shape(codec):
    spec = codec.token_spec()
    assert (spec.num_tokens, spec.vocab_size, spec.geometry) == (9, 1000, "mixed")
    assert list(spec.codebooks("sky")) == ["sky.norm", "sky.flux"]
    norm, flux = spec.parts.values()
    assert (norm.num_tokens, norm.vocab_size, norm.geometry) == (1, 256, "ordinal")
    assert (flux.num_tokens, flux.geometry, flux.levels) == (8, "grid", (8, 5, 5, 5))


def test_what_aions_codec_does_with_padding_and_with_a_mean_of_0(codec):
    aion = pytest.importorskip("aion", reason="polymathic-aion is not installed")
    from aion.codecs.spectrum import SpectrumCodec as Theirs

    torch.manual_seed(0)
    depths, size = (1, 1, 1, 1), dict(latent_channels=8, embedding_dim=10)
    theirs = Theirs(depths, (8, 8, 8, 8), depths, (8, 8, 8, 2), **size).eval()

    def their_tokens(flux, wavelength):
        fields = dict(flux=flux, ivar=torch.ones_like(flux), mask=torch.zeros_like(flux).bool())
        return theirs.encode(
            aion.modalities.Spectrum(**fields, wavelength=wavelength.expand_as(flux).clone())
        )

    x, wavelength, covered = spectra(8, seed=9)[0], torch.tensor(SKY.wavelength), torch.arange(W) < 90
    padded = their_tokens(x * covered, wavelength * covered)
    assert len(padded[:, 1:].unique()) == 1  # one token for all spectra and all over (issue 61)
    covered = covered.expand(8, W)
    tokens = codec.encode(x, covered)
    assert len(tokens[:, 1:].unique(dim=0)) == 8 and not codec.token_present(tokens, covered)[:, 7:].any()
    wave = torch.sin(torch.arange(W) * torch.pi / 4) * torch.tensor([[0.05], [5.0]])
    weak, strong = their_tokens(wave, wavelength)[:, 0]
    assert weak == strong  # a mean of 0 knows no amplitude
    weak, strong = codec.token_spec().parts["norm"].values[codec.encode(wave)[:, 0]]
    assert 80 < strong / weak < 125


# ---- bad input


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda c: c.encode(torch.tensor([[1.0], [0], [1]]).expand(3, W)), ValueError,
         r"Spectrum\('sky'\): 1 spectra are 0 .*first: row 1.*padding: mark them absent"),
        (lambda c: c.fit_scale(torch.zeros(2, W)), ValueError, "2 spectra are 0"),
        (lambda c: c.fit_scale(torch.ones(2, W), NOTHING), ValueError, "no covered spectrum to fit"),
        (lambda c: c.encode(torch.ones(2, W - 1)), ValueError, r"shape \(B, 120\), got \(2, 119\)"),
        (lambda c: c.encode(torch.full((1, W), torch.nan)), ValueError, "120 NaN or infinite"),
        (lambda c: c.encode(torch.ones(2, W), NOTHING[:, 1:]), ValueError, "must be boolean of shape"),
        (lambda c: c.decode(torch.zeros(2, 8).long()), ValueError, r"shape \(B, 9\), got \(2, 8\)"),
        (lambda c: c.decode(torch.full((1, 9), 999)), ValueError, r"0\.\.255, got 999"),
        (lambda c: SpectrumCodec(SKY).encode(torch.ones(2, W)), RuntimeError, "not fitted: train it"),
        (lambda c: SpectrumCodec(SKY).num_tokens, RuntimeError, "not fitted"),
        (lambda c: SpectrumCodec(Scalar("z")), TypeError, "needs a declared Spectrum, got Scalar"),
        (lambda c: SpectrumCodec(SKY, max_weight=0), ValueError, "max_weight must be positive"),
    ],
)  # fmt: skip
def test_bad_use_is_refused(act, error, says):
    with pytest.raises(error, match=says):
        act(make())


def test_the_same_zero_spectrum_marked_absent_is_accepted(codec):
    tokens = codec.encode(torch.zeros(2, W), NOTHING)
    assert (tokens == 0).all() and not codec.token_present(tokens, NOTHING).any()
    assert codec.loss(torch.zeros(2, W), NOTHING)[0].isfinite()
