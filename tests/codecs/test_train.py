"""Codecs trained and judged: runs that repeat and resume, what is left out, scores against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score
from torch.utils.data import TensorDataset

from aion_lite.codecs import CategoryCodec, ScalarCodec
from aion_lite.codecs.image import ImageCodec
from aion_lite.codecs.series import TimeSeriesCodec
from aion_lite.codecs.spectrum import SpectrumCodec
from aion_lite.codecs.table import TableCodec
from aion_lite.codecs.text import TextCodec
from aion_lite.codecs.train import evaluate_codec, rate_line, train_codec
from aion_lite.data import MultimodalDataset
from aion_lite.evaluation import psnr, ssim
from aion_lite.modalities import Category, Image, Scalar, Spectrum, Table, Text, TimeSeries

IMAGE, SERIES = Image("stamp", channels=2, size=12), TimeSeries("wave", channels=2, length=24)
SMALL = {"width": 8, "depth": 1, "encoder_depth": 1, "levels": (5, 5, 3)}


def codec(modality=IMAGE, seed=0):
    torch.manual_seed(seed)
    kind = {Image: ImageCodec, TimeSeries: TimeSeriesCodec, Spectrum: SpectrumCodec}[type(modality)]
    return kind(modality, patch=4, **SMALL)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def images(n, seed=0):
    """Smooth, each with a brightness and a slope of its own; the second band is 10 + 5 times the first."""
    a, b = draw(2, n, 1, 1, seed=seed)
    x = a + b * torch.linspace(-1, 1, 12)[:, None] * torch.linspace(-1, 1, 12)
    return torch.stack([x, 10 + 5 * x], 1)


def run(c, data, **kwargs):
    return train_codec(c, data, **{"steps": 8, "batch_size": 8, "progress": False, "device": "cpu", **kwargs})


def assert_same(a, b):
    assert all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def differ(a, b):
    return any(not torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


# Training


def test_training_pays_and_takes_the_scale_of_its_data():
    train, test, c = images(64), images(32, seed=1), codec()
    before = evaluate_codec(c, test)
    history = run(c, train, steps=150, batch_size=32, validation=test, validate_every=50)
    after = evaluate_codec(c, test)
    assert after["r2"] > 0.8 > before["r2"] and after["psnr"] > before["psnr"] and not c.training
    assert history.to_frame()["validation"].notna().sum() == 3
    np.testing.assert_allclose(c.mean, train.mean((0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_same_seed_gives_the_same_codec(ema):
    runs = [codec() for _ in range(3)]
    for c, seed in zip(runs, [0, 0, 1], strict=True):
        run(c, images(24), seed=seed, ema=ema)
    assert_same(runs[0], runs[1])
    assert differ(runs[0], runs[2])


def test_the_average_of_the_weights_is_kept_with_the_scale_of_the_data():
    """At decay 0 the average is the weights themselves; at 1 - tiny, those of the first step."""
    plain, last, first, one = (codec() for _ in range(4))
    run(plain, images(24))
    run(last, images(24), ema=0.0)
    assert_same(plain, last)
    run(first, images(24), ema=1 - 1e-12)
    assert differ(plain, first) and torch.equal(plain.std, first.std) and not torch.equal(plain.std, one.std)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(ema, tmp_path, monkeypatch):
    data, whole, resumed = TensorDataset(images(24), draw(24, 2) > -1), codec(), codec(seed=5)
    kwargs = {"validation": images(8, seed=1), "validate_every": 4, "ema": ema}
    record = run(whole, data, **kwargs).records
    cut, loss = codec(), ImageCodec.loss

    def killed(self, *batch):
        if self.training and next(calls) == 6:
            raise RuntimeError("killed")
        return loss(self, *batch)

    calls = iter(range(99))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(ImageCodec, "loss", killed)
        run(cut, data, checkpoint=tmp_path, checkpoint_every=4, **kwargs)
    assert run(resumed, data, checkpoint=tmp_path, checkpoint_every=4, **kwargs).records == record
    assert_same(whole, resumed)


class Frozen(ImageCodec):
    """Brings what it computes once, here the values themselves, as a fourth tensor."""

    def prepare(self, x, present, weight):
        assert self.std.mean() != 1  # the scale is known by now
        return TensorDataset(x, present, weight, x.clone())

    def loss(self, x, present, weight, again):
        return super().loss(again, present, weight)


def test_a_codec_may_prepare_its_samples_once():
    torch.manual_seed(0)
    prepared, plain = Frozen(IMAGE, patch=4, **SMALL), codec()
    data = TensorDataset(images(24), torch.ones(24).bool(), torch.ones(24, 2, 12, 12))
    for c in (prepared, plain):
        run(c, data, validation=data)
    assert_same(prepared, plain)


def dataset(n=30):
    x, present = images(n), torch.rand(n, 2, generator=torch.Generator().manual_seed(1)) < 0.7
    ivar = draw(*x.shape, seed=2).square()
    gaps, bad = (t.masked_fill(~present[..., None, None], math.nan) for t in (x, ivar))
    both = [IMAGE, Scalar("z")]
    values, there = {"stamp": gaps, "z": draw(n)}, {"stamp": present}
    return MultimodalDataset(both, values, there, info={"stamp_ivar": bad.numpy()}), x, present, ivar


def test_a_data_set_gives_its_values_gaps_and_inverse_variances():
    data, x, present, ivar = dataset()
    kept = present.any(1)
    assert not kept.all()
    a, b, unweighted = codec(), codec(), codec()
    run(a, data)
    run(b, TensorDataset(x[kept], present[kept], ivar[kept]))
    run(unweighted, TensorDataset(x[kept], present[kept]))
    assert_same(a, b)
    assert differ(a, unweighted)
    assert evaluate_codec(a, data) == evaluate_codec(b, TensorDataset(x[kept], present[kept], ivar[kept]))


@pytest.mark.parametrize(
    "declared", [Scalar("x", transform="arcsinh"), Category("x", values=("a", "b", "c"))]
)
def test_what_has_no_gradient_is_fitted(declared):
    x = draw(50) if isinstance(declared, Scalar) else torch.arange(50) % 3
    present = torch.arange(50) > 4
    kind = ScalarCodec if isinstance(declared, Scalar) else CategoryCodec
    c = kind(declared)
    assert train_codec(c, MultimodalDataset([declared], {"x": x}, {"x": present})).records == []
    assert_same(c, kind(declared).fit(x[present]))


def test_what_cannot_be_trained_on_is_refused():
    c, x = codec(), images(4)
    with pytest.raises(ValueError, match="not measured in any of the 4 samples"):
        run(c, TensorDataset(x, torch.zeros(4, 2).bool()))
    with pytest.raises(ValueError, match="the data set declares None"):
        run(c, MultimodalDataset([Scalar("z")], {"z": draw(4)}))
    with pytest.raises(ValueError, match=r"shape \(4, 2, 12, 12\), got \(4,\)"):
        run(c, TensorDataset(x, torch.ones(4).bool(), torch.ones(4)))
    with pytest.raises(ValueError, match="288 inverse variances"):
        weight = -torch.eye(4)[0][:, None, None, None].expand_as(x)  # one sample's are negative
        run(c, TensorDataset(x, torch.ones(4).bool(), weight))
    with pytest.raises(ValueError, match="got 4 tensors"):
        run(c, TensorDataset(x, x, x, x))
    with pytest.raises(ValueError, match=r"needs values of shape \(B, 2, 12, 12\)"):
        run(c, x[:, :1])
    with pytest.raises(ValueError, match="either steps or num_epochs"):
        train_codec(c, x)
    with pytest.raises(ValueError, match="There is no device 'xla' here"):
        run(c, x, device="xla")


# Judging


def by_channel(x, back, measured):
    """scikit-learn's R2 of each of C channels, of x (B, C, ...)."""
    pairs = zip(x.unbind(1), back.unbind(1), measured.unbind(1), strict=True)
    return [r2_score(a[m], b[m]) for a, b, m in pairs if m.any()]


def test_image_scores_are_those_of_what_was_measured():
    c, (x, present) = codec(), (images(20), draw(20, 2) > -1)
    c.fit_scale(x)
    ivar = (draw(*x.shape) > -1).float()
    measured = present[..., None, None] & (ivar > 0)
    report = evaluate_codec(c, TensorDataset(x, present, ivar), batch_size=7)
    kept, present, measured = x[present.any(1)], present[present.any(1)], measured[present.any(1)]
    back = c.decode(c.encode(kept, present))
    assert report["r2"] == pytest.approx(np.mean(by_channel(kept, back, measured)), abs=1e-5)
    data_range = float(kept[measured].max() - kept[measured].min())
    assert report["psnr"] == pytest.approx(psnr(kept, back, data_range, measured))
    assert report["ssim"] == pytest.approx(ssim(kept, back, data_range, measured))
    assert evaluate_codec(c, kept, data_range=2.0)["psnr"] == pytest.approx(
        psnr(kept, c.decode(c.encode(kept)), 2.0)
    )


def test_a_series_is_scored_channel_by_channel_where_it_was_measured():
    c, x, present = codec(SERIES), draw(20, 2, 24).cumsum(2), draw(20, 2, 24, seed=1) > -1
    x[:, 1] *= 1000  # of another unit
    c.fit_scale(x, present)
    back = c.decode(c.encode(x, present))
    report = evaluate_codec(c, TensorDataset(x, present))
    assert report["r2"] == pytest.approx(np.mean(by_channel(x, back, present)), abs=1e-5)
    assert "psnr" not in report


def test_a_spectrum_is_scored_over_all_wavelengths_at_once():
    c, x = codec(Spectrum("flux", wavelength=range(1, 25))), draw(40, 24) + torch.arange(24)
    c.fit_scale(x)
    report = evaluate_codec(c, x)
    expected = r2_score(x, c.decode(c.encode(x)), multioutput="variance_weighted")
    assert report["r2"] == pytest.approx(expected, abs=1e-5)
    norm = c.token_spec().parts["norm"].vocab_size
    assert report["bits_nominal"] == pytest.approx(math.log2(norm) + 6 * math.log2(75))


def test_scalars_categories_and_tables_are_scored_by_column():
    columns = (Scalar("a"), Category("k", values=("x", "y", "z")), Scalar("b"))
    c, x = TableCodec(Table("row", columns), codebook_size=4), draw(90, 3)
    x[:, 1] = torch.arange(90) % 3
    present = draw(90, 3, seed=1) > -0.5
    train_codec(c, TensorDataset(x, present))
    report = evaluate_codec(c, TensorDataset(x, present))
    keep = present.any(1)
    x, present = x[keep], present[keep]
    back = c.decode(c.encode(x, present))
    a, _, b = by_channel(x, back, present)
    assert report["r2"] == pytest.approx((a + b) / 2, abs=1e-5)
    hits = present[:, 1]
    assert report["accuracy"] == accuracy_score(x[hits, 1], back[hits, 1]) == 1.0
    single = ScalarCodec(Scalar("a"), codebook_size=4)
    train_codec(single, x[:, 0])
    assert evaluate_codec(single, x[:, 0])["r2"] == pytest.approx(
        r2_score(x[:, 0], single.decode(single.encode(x[:, 0]))), abs=1e-6
    )


def test_strings_count_when_they_come_back_whole():
    c = TextCodec(Text("word", max_length=4), vocab_size=257)  # a byte a token
    train_codec(c, ["ab", "abc"])
    report = evaluate_codec(c, ["ab", "abc", "abcd", "abcde"])
    assert report["accuracy"] == 0.75 and report["tokens"] == 4


def test_the_rate_is_the_entropy_of_the_tokens_that_are_there():
    """Four classes, two of them seen, half of the samples each: 1 bit of 2."""
    c = CategoryCodec(Category("k", values=tuple("abcd")))
    report = evaluate_codec(c, torch.arange(40) % 2)
    assert report == {
        "accuracy": 1, "tokens": 1, "codes": 4, "bits_nominal": 2, "bits": 1, "used": 0.5, "perplexity": 2
    }  # fmt: skip
    columns = (Category("a", values=tuple("abcd")), Category("b", values=tuple("abcdefgh")))
    x = torch.stack([torch.arange(40) % 4, torch.arange(40) % 8], 1).float()
    present = torch.ones(40, 2).bool()
    present[:, 1] = torch.arange(40) < 16  # 16 of 40 have the second, which is worth 3 bits
    report = evaluate_codec(TableCodec(Table("row", columns)), TensorDataset(x, present))
    assert report["bits"] == pytest.approx(2 + 3 * 16 / 40) and report["bits_nominal"] == 5
    assert report["perplexity"] == pytest.approx(2**2.5) and report["used"] == 1


def test_the_line_says_rate_and_distortion():
    report = {
        "tokens": 49, "codes": 1000, "bits_nominal": 488.3, "bits": 431.2, "used": 0.94, "perplexity": 612.3,
        "r2": 0.9134, "psnr": 24.08, "ssim": 0.817,
    }  # fmt: skip
    assert rate_line(report) == (
        "49 tokens of 1,000 codes: 488 bits nominal, 431 used (94 % of codes, perplexity 612); "
        "R2 0.913, PSNR 24.1 dB, SSIM 0.82"
    )
    report = evaluate_codec(CategoryCodec(Category("k", values=("a", "b"))), torch.arange(9) % 2)
    assert rate_line(report).startswith("1 token of 2 codes: 1 bits nominal, 1 used (100 % of codes")
    assert rate_line(report).endswith("; accuracy 1.000")


def test_a_codec_is_judged_untrained_and_left_as_it_was():
    c, x = codec(), images(6)
    before, kept = codec(), x.clone()
    report = evaluate_codec(c, x)
    assert all(map(math.isfinite, report.values())) and report["bits"] <= report["bits_nominal"]
    assert_same(c, before)
    assert torch.equal(x, kept) and c.training


# At the door


def test_empty_data_and_weights_of_zero_are_refused():
    x, seen = images(4), torch.ones(4, dtype=torch.bool)
    for data, says in (
        (x[:0], "any of the 0 samples"),
        (TensorDataset(x, seen, x * 0), "nothing would count"),
    ):
        with pytest.raises(ValueError, match=says):
            run(codec(), data)
        with pytest.raises(ValueError, match=says):
            run(codec(), x, validation=data)
    with pytest.raises(TypeError, match="codec is needed, got Linear"):
        run(torch.nn.Linear(2, 2), x)


@pytest.mark.parametrize("changed", [{"levels": (3, 5, 5)}, {"compression": 0.1}])
def test_a_run_is_not_resumed_by_a_codec_with_other_arguments(tmp_path, changed):
    run(ImageCodec(IMAGE, **SMALL), images(8), checkpoint=tmp_path)
    with pytest.raises(ValueError, match=next(iter(changed))):
        run(ImageCodec(IMAGE, **{**SMALL, **changed}), images(8), checkpoint=tmp_path)


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_r2_does_not_depend_on_the_unit(unit):
    x = draw(50).sort().values
    plain, scaled = (
        evaluate_codec(ScalarCodec(Scalar("x"), codebook_size=4).fit(y), y) for y in (x, x * unit)
    )
    assert scaled["r2"] == pytest.approx(plain["r2"], abs=1e-5) and plain["r2"] < 0.99
