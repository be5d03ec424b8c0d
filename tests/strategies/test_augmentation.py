"""What trains on changed copies: a data loader's images, a codec at every step, a data set of copies."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from aion_lite import checkpoint
from aion_lite.codecs import CategoryCodec, ImageCodec, SpectrumCodec, TimeSeriesCodec, train_codec
from aion_lite.data import MultimodalDataset
from aion_lite.modalities import Category, Image, Spectrum, Text, TimeSeries
from aion_lite.strategies.augmentation import (
    SERIES_TRANSFORMS,
    Augmented,
    AugmentedImageDataset,
    augment_images,
    augment_pair,
    augment_spectrum,
    augment_timeseries,
    augmented_copies,
    image_pipeline,
    jitter,
    time_warp,
)
from aion_lite.training import evaluate_loss, train

SMALL = {"width": 8, "depth": 1, "encoder_depth": 1, "levels": (5, 4, 3), "patch": 4}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# Images one at a time


@given(st.integers(1, 5), st.integers(8, 20), st.integers(8, 20), st.floats(0.1, 4))
@settings(max_examples=20)
def test_any_channels_and_size_come_back_changed(channels, height, width, strength):
    torch.manual_seed(0)
    data = AugmentedImageDataset(draw(3, channels, height, width), strength=strength)
    y = data[1]
    assert y.shape == data.images[1].shape and 0 <= y.min() and y.max() <= 1
    assert any(not torch.equal(data[1], y) for _ in range(5))  # anew at every visit


def test_only_the_training_split_is_changed_and_labels_come_along():
    x, labels = draw(4, 3, 8, 8), ["a", "b", "c", "d"]
    for split in ("validation", "test"):
        data = AugmentedImageDataset(x, labels, split)
        assert all(torch.equal(data[i][0], x[i]) and data[i][1] == labels[i] for i in range(len(data)))
    assert torch.equal(AugmentedImageDataset(x, strength=0)[2], x[2])
    assert AugmentedImageDataset(x, labels)[3][1] == "d"


def test_images_of_several_sizes_bytes_and_fluxes():
    torch.manual_seed(0)
    sizes = [(1, 8, 9), (3, 12, 7), (1, 8, 9)]
    mixed = AugmentedImageDataset([draw(*size) for size in sizes])
    assert [tuple(image.shape) for image in mixed] == sizes
    data = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    assert torch.equal(AugmentedImageDataset(data, split="test")[0], torch.tensor(data[0]) / 255)
    flux = 1000 * draw(2, 5, 8, 8) - 10
    with pytest.raises(ValueError, match=r"Image 1 has values from .* would be clipped to .*: give limits=N"):
        AugmentedImageDataset(flux)[1]
    assert AugmentedImageDataset(flux, limits=None, transforms="brightness")[1].max() > 100


def test_workers_of_a_loader_draw_numbers_of_their_own():
    """The same image 8 times, by two workers, over two epochs: 16 different ones."""
    torch.manual_seed(0)
    data = AugmentedImageDataset(draw(1, 1, 16, 16).expand(8, -1, -1, -1))
    loader = DataLoader(data, batch_size=2, num_workers=2)
    seen = torch.cat([batch for _ in range(2) for batch in loader])
    assert len(torch.unique(seen.flatten(1), dim=0)) == 16


def test_what_the_dataset_cannot_do_is_refused():
    x = draw(2, 1, 8, 8)
    with pytest.raises(ValueError, match="There are 2 images and 3 labels"):
        AugmentedImageDataset(x, [1, 2, 3])
    with pytest.raises(ValueError, match="flip, rotation would change the orientation"):
        AugmentedImageDataset(x, target="orientation")
    with pytest.raises(ValueError, match="Unknown spin"):
        image_pipeline(1, 8, 8, names="spin")


# A codec, changed copies at every step


def codec(kind="image"):
    torch.manual_seed(0)
    if kind == "image":
        return ImageCodec(Image("x", 2, 8), **SMALL)
    if kind == "series":
        return TimeSeriesCodec(TimeSeries("x", 2, 24), **SMALL)
    return SpectrumCodec(Spectrum("x", wavelength=range(1, 25)), norm_codes=8, **SMALL)


AUGMENT = {"image": augment_images, "series": augment_timeseries, "spectrum": augment_spectrum}
kinds = pytest.mark.parametrize("kind", AUGMENT)


def samples(kind, n=12):
    shape = {"image": (2, 8, 8), "series": (2, 24), "spectrum": (24,)}[kind]
    x = draw(n, *shape) + 0.5
    present = draw(n, *codec(kind).modality.cell_shape, seed=1) > 0.2
    return x, present, draw(n, *shape, seed=2) + 0.1


@kinds
def test_the_loss_is_the_codecs_of_the_changed_values(kind):
    c, (x, present, weight) = codec(kind), samples(kind)
    c.fit_scale(x, present)
    both = Augmented(c, AUGMENT[kind])
    for more in ((), (weight,)):
        torch.manual_seed(7)
        loss, metrics = both.train().loss(x, present, *more)
        torch.manual_seed(7)
        changed = AUGMENT[kind](x, present=present, **({"weight": weight} if more else {}))
        assert torch.equal(loss, c.loss(*changed)[0]) and "mse" in metrics
        assert not torch.equal(loss, c.loss(x, present, *more)[0])
        assert torch.equal(both.eval().loss(x, present, *more)[0], c.loss(x, present, *more)[0])
    assert both.train().loss(x)[0].isfinite()


@kinds
def test_a_codec_is_trained_in_place_and_validated_on_what_was_measured(kind):
    c, (x, present, weight) = codec(kind), samples(kind, 40)
    some = present.flatten(1).any(1)  # the others are left out of training
    data = TensorDataset(x[some], present[some], weight[some])
    both = Augmented(c, AUGMENT[kind])
    before = [p.detach().clone() for p in c.parameters()]
    history = train_codec(
        both, data, steps=60, batch_size=16, lr=5e-3, validation=data, validate_every=20, device="cpu",
        progress=False,
    )  # fmt: skip
    assert all(not torch.equal(p, q) for p, q in zip(before, c.parameters(), strict=True))
    assert history.best_validation == pytest.approx(evaluate_loss(c, data, 16), rel=1e-5)
    assert {id(p) for p in both.hidden_matrices()} == {id(p) for p in c.hidden_matrices()}


def test_killed_and_resumed_is_never_killed(tmp_path, monkeypatch):
    """What is drawn goes on where it was: the random state is in the checkpoint."""
    x, present, _ = samples("image", 20)
    how = {"steps": 12, "batch_size": 8, "device": "cpu", "progress": False}
    whole, cut = (Augmented(codec(), augment_images) for _ in range(2))
    train(whole, TensorDataset(x, present), **how)
    save = checkpoint.Run.save

    def killed(self, step, *args):
        save(self, step, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Run, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(cut, TensorDataset(x, present), checkpoint=tmp_path, checkpoint_every=5, **how)
    monkeypatch.setattr(checkpoint.Run, "save", save)
    train(cut, TensorDataset(x, present), checkpoint=tmp_path, checkpoint_every=5, **how)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), cut.parameters(), strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="recordings need a GPU")
@kinds
@pytest.mark.filterwarnings("error:This step waits")
def test_recorded_and_plain_agree(kind):
    data, weights = TensorDataset(*samples(kind, 40)), []
    for record in (True, False):
        c = codec(kind)
        c.fit_scale(*data.tensors[:2])
        how = {"steps": 15, "batch_size": 16, "log_every": 1, "progress": False, "record": record}
        weights.append(
            torch.tensor([r["loss"] for r in train(Augmented(c, AUGMENT[kind]), data, **how).records])
        )
    torch.testing.assert_close(*weights, rtol=0, atol=1e-4)


class Precise(nn.Module):
    """Notes what it is given, and whether products were rounded to bfloat16 on the way."""

    fit = ImageCodec.fit

    def loss(self, x, present):
        self.seen = x
        return x.mean(), {}


def test_changes_are_made_in_full_precision():
    both, x = Augmented(Precise(), augment_timeseries), draw(6, 2, 40)
    torch.manual_seed(0)
    both.loss(x)
    exact = both.codec.seen
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        both.loss(x)
    assert torch.equal(both.codec.seen, exact) and not torch.equal(exact, x)


def test_a_codec_that_is_fitted_has_nothing_to_augment():
    with pytest.raises(TypeError, match="CategoryCodec is not trained by gradient: fit it on the data"):
        Augmented(CategoryCodec(Category("k", values=("a", "b"))), augment_images)


# A data set of copies


def dataset(n=6):
    modalities = [
        Image("image", 1, 8), Image("other", 2, 8), TimeSeries("ecg", 2, 24),
        Category("k", values=("a", "b")), Text("note"),
    ]  # fmt: skip
    values = {
        "image": draw(n, 1, 8, 8), "other": draw(n, 1, 8, 8).expand(-1, 2, -1, -1) * 2,
        "ecg": draw(n, 2, 24, seed=1), "k": torch.arange(n) % 2, "note": [f"n{i}" for i in range(n)],
    }  # fmt: skip
    present = {"ecg": draw(n, 2, 24, seed=2) > 0.2, "image": torch.arange(n) != 1}
    return MultimodalDataset(modalities, values, present, [f"p{i // 2}" for i in range(n)], {"z": range(n)})


def test_copies_follow_the_originals_with_their_labels_and_ids():
    data, n = dataset(), 6
    change = {"image": partial(augment_images, strength=0.5), "ecg": augment_timeseries}
    more = augmented_copies(data, change, copies=3, seed=1)
    assert len(more) == 4 * n
    for i in range(4):
        part = more[np.arange(n) + i * n]
        assert list(part.ids) == list(data.ids) and list(part.info["z"]) == list(range(n))
        assert torch.equal(part.values["k"], data.values["k"])
        assert list(part.values["note"]) == list(data.values["note"])
        assert torch.equal(part.present["image"], data.present["image"])
        for name in change:
            assert torch.equal(part.values[name], data.values[name]) == (i == 0)
    again = augmented_copies(data, change, copies=3, seed=1)
    assert torch.equal(again.values["ecg"], more.values["ecg"])
    assert not torch.equal(augmented_copies(data, change, 3, seed=2).values["ecg"], more.values["ecg"])
    train_part, test_part = more.split(test=1)
    assert not set(train_part.ids) & set(test_part.ids)


def test_two_images_of_an_object_share_their_geometry_or_are_declared_independent():
    data = dataset()
    with pytest.raises(ValueError, match=r"image, other would each be changed .* name them as a pair"):
        augmented_copies(data, {"image": augment_images, "other": augment_images}, 1)
    change = partial(augment_pair, transforms=("flip", "rotation", "crop"))
    both = augmented_copies(data[[0, 2, 3]], {("image", "other"): change}, 2)
    torch.testing.assert_close(both.values["other"][:, :1], 2 * both.values["image"])
    apart = augmented_copies(data, {"image": augment_images, "other": augment_images}, 1, independent=True)
    assert not torch.allclose(apart.values["other"][6:, :1], 2 * apart.values["image"][6:])


def test_copies_need_names_that_are_there():
    data = dataset()
    for change in ({"xray": augment_images}, {"image": augment_images, ("image", "other"): augment_pair}):
        with pytest.raises(ValueError, match=r"Name each modality of .* once at most"):
            augmented_copies(data, change, 1)
    with pytest.raises(ValueError, match="copies is 0 or more"):
        augmented_copies(data, {}, -1)
    with pytest.raises(ValueError, match="would change the rate"):
        augmented_copies(data, {"ecg": partial(augment_timeseries, target="rate")}, 1)
    assert len(augmented_copies(data, {}, 0)) == len(data) and math.isfinite(float(data.values["ecg"].sum()))


def test_an_image_without_channels_is_refused():
    with pytest.raises(ValueError, match=r"An image has shape \(C, H, W\), image 1 has \(8, 8\)"):
        AugmentedImageDataset(torch.rand(3, 8, 8))[1]


# What users bring


@pytest.mark.parametrize("name", SERIES_TRANSFORMS)
def test_a_gap_of_nan_comes_back_as_0_whether_or_not_a_sample_was_changed(name):
    x = draw(40, 2, 30)
    x[:, :, 10:15] = torch.nan
    present = ~x.isnan()
    weight = torch.where(present, 1.0, torch.nan)
    out, seen, w = augment_timeseries(
        x, 2.0, transforms=name, p=0.5, present=present, weight=weight, generator=gen()
    )
    assert out.isfinite().all() and w.isfinite().all()
    assert (out[~seen] == 0).all() and (w[~seen] == 0).all() and (~seen).any()
    same = (seen == present).all((1, 2)) & (torch.where(present, x, 0) == out).all((1, 2))
    assert 0 < same.sum() < 40 or name == "permutation"


def test_noise_of_half_precision_series_does_not_overflow():
    x = (1000 * draw(8, 2, 500)).half()
    out, w = jitter(x, 0.1, weight=torch.ones_like(x), generator=gen())
    assert out.dtype == w.dtype == torch.float16
    spread = (out.double() - x.double()).std() / x.double().std()
    assert spread.item() == pytest.approx(0.1, rel=0.1)


def test_weights_keep_a_precision_of_their_own():
    x, weight = draw(8, 2, 30), torch.ones(8, 2, 30, dtype=torch.float64)
    out, w = augment_timeseries(x, transforms=SERIES_TRANSFORMS, p=0.9, weight=weight, generator=gen())
    assert (out.dtype, w.dtype) == (torch.float32, torch.float64)
    flux = x[:, 0].half()
    _, _, w = augment_spectrum(flux, torch.ones_like(flux), generator=gen())
    assert w.dtype == torch.float16


def test_a_warp_beyond_all_numbers_is_refused():
    with pytest.raises(ValueError, match="sigma lies in 0 to 10"):
        time_warp(draw(2, 3, 50), 1e3)
