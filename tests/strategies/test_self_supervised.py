"""Pretraining without labels: runs that repeat and resume, what is left as it was, features that learn."""

import pytest
import torch
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from torch.utils.data import DataLoader, TensorDataset

from aion_lite.codecs import (
    CodecManager,
    ScalarCodec,
    SpectrumCodec,
    TimeSeriesCodec,
    train_codec,
)
from aion_lite.data import MultimodalDataset
from aion_lite.modalities import Image, Scalar, Spectrum, TimeSeries
from aion_lite.strategies.self_supervised import (
    METHODS,
    MoCoImageCodec,
    features,
    knn_accuracy,
    pretrain,
)

IMAGE, SERIES = Image("stamp", channels=1, size=16), TimeSeries("wave", channels=2, length=32)
SMALL = {"patch": 4, "width": 8, "depth": 1, "encoder_depth": 1, "levels": (5, 5, 3)}
methods = pytest.mark.parametrize("method", list(METHODS))


def codec(kind=MoCoImageCodec, seed=0, **over):
    torch.manual_seed(seed)
    modality = {TimeSeriesCodec: SERIES}.get(kind, IMAGE)
    return kind(modality, **{**SMALL, **over})


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noisy(x, present):
    return x + 0.3 * torch.randn_like(x), present


def run(c, data, **kwargs):
    defaults = {"steps": 8, "batch_size": 8, "augment": noisy, "device": "cpu", "splits": 4}
    return pretrain(c, data, **{**defaults, "progress": False, **kwargs})


def same(a, b, part=""):
    other = b.state_dict()
    return all(torch.equal(t, other[n]) for n, t in a.state_dict().items() if n.startswith(part))


# What a run is


@methods
@pytest.mark.parametrize("kind", [MoCoImageCodec, TimeSeriesCodec])
def test_only_the_encoder_is_trained_and_the_same_seed_gives_the_same(method, kind):
    start, a, b, other = (codec(kind) for _ in range(4))
    data = draw(32, *start.modality.shape)
    kept = data.clone()
    before = torch.get_rng_state()
    history = run(a, data, method=method, log_every=2)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(data, kept)
    run(b, data, method=method)
    run(other, data, method=method, seed=1)
    assert same(a, b) and not same(a, other, "encoder.blocks")
    assert same(a, start, "decoder") and same(a, start, "encoder.project")
    for part in ("encoder.patchify", "encoder.blocks", "encoder.norm"):
        assert not same(a, start, part)
    assert all(p.requires_grad for p in a.parameters()) and not a.training
    assert history.to_frame()[["loss", "spread"]].notna().all().all() and len(history.records) == 4


@methods
@pytest.mark.parametrize("norm", ["layer", "batch", "split"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(method, norm, tmp_path):
    """16 keys a step into a queue of 7, so the ring is broken off in the middle."""
    data, whole, cut, resumed = draw(28, 1, 16, 16), codec(), codec(), codec(seed=5)
    settings = {"method": method, "norm": norm, "log_every": 1}
    record = run(whole, data, **settings).records

    def kill(step, module):
        if step == 6:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(cut, data, checkpoint=tmp_path, checkpoint_every=4, on_step=kill, **settings)
    assert all(p.requires_grad for p in cut.parameters())
    again = run(resumed, data, checkpoint=tmp_path, checkpoint_every=4, **settings).records
    assert again == record and same(resumed, whole)


def test_the_queue_is_bounded_by_the_data():
    sizes = []
    for n, asked in ((40, 4096), (40, 3)):
        run(
            codec(), draw(n, 1, 16, 16), steps=1, queue_size=asked,
            on_step=lambda step, module: sizes.append(len(module.queue.keys)),
        )  # fmt: skip
    assert sizes == [10, 3]


def test_a_batch_is_no_larger_than_the_data():
    rows, x = [], draw(9, 1, 16, 16)

    def counted(x, present):
        rows.append(len(x))
        return noisy(x, present)

    run(codec(), x, steps=2, batch_size=64, augment=counted, norm="layer")
    assert rows == [8, 9, 9, 9, 9]  # the look before training, then two views a step
    run(codec(), x, steps=1, batch_size=64, augment=counted, splits=2)
    assert rows[5:] == [8, 8, 8]  # in whole groups


def test_a_loader_a_data_set_and_a_tensor_are_the_same_images():
    x, by_hand = draw(20, 1, 16, 16), codec()
    run(by_hand, x)
    for data in (
        MultimodalDataset([IMAGE], {"stamp": x}),
        DataLoader(TensorDataset(x, torch.arange(20)), batch_size=6),
        TensorDataset(x, torch.ones(20).bool()),
    ):
        c = codec()
        run(c, data)
        assert same(c, by_hand)


def test_what_was_not_measured_never_matters():
    x, present = draw(20, 2, 32), draw(20, 2, 32, seed=1) > 0
    a, b = codec(TimeSeriesCodec), codec(TimeSeriesCodec)
    run(a, TensorDataset(x, present))
    run(b, TensorDataset(x.where(present, 99.0), present))
    assert same(a, b)


def test_a_spectrum_is_pretrained_too():
    torch.manual_seed(0)
    c = SpectrumCodec(Spectrum("flux", wavelength=range(1, 33)), **SMALL)
    before = c.encoder.patchify.weight.clone()
    run(c, 5 + draw(20, 32))
    assert not torch.equal(before, c.encoder.patchify.weight)


@pytest.mark.parametrize(
    ("kind", "name"), [(MoCoImageCodec, "augment_images"), (TimeSeriesCodec, "augment_timeseries")]
)
def test_the_usual_augmentation_is_the_packages(kind, name):
    augmentation = pytest.importorskip("aion_lite.strategies.augmentation")
    usual, named, other = codec(kind), codec(kind), codec(kind)
    x = draw(20, *usual.modality.shape)
    run(usual, x, augment=None)
    run(named, x, augment=getattr(augmentation, name))
    run(other, x)
    assert same(usual, named) and not same(usual, other)


def test_pretrain_moco_is_pretrain_and_lasts_100_epochs_by_default():
    x, a, b = draw(8, 1, 16, 16), codec(), codec()
    settings = {"batch_size": 8, "augment": noisy, "device": "cpu", "progress": False, "splits": 4}
    assert codec().pretrain_moco(x, **settings).records[-1]["step"] == 100
    a.pretrain_moco(x, 3, **settings)  # passes of one step each
    pretrain(b, x, method="moco", steps=3, **settings)
    assert same(a, b)


def test_then_it_is_trained_by_reconstruction_and_saved_as_any_codec(tmp_path):
    x, c = draw(32, 1, 16, 16), codec()
    run(c, x)
    before = float(c.loss(x)[1]["mse"])
    train_codec(c, x, steps=60, batch_size=16, device="cpu", progress=False)
    assert float(c.loss(x)[1]["mse"]) < 0.98 * before
    CodecManager([c]).save_pretrained(tmp_path)
    again = CodecManager.from_pretrained(tmp_path).codecs["stamp"]
    assert type(again) is MoCoImageCodec and torch.equal(again.encode(x), c.encode(x))
    torch.testing.assert_close(features(again, x), features(c, x))


# What is learnt


def clothes(n, seed):
    """Four patterns, each in a strength of its own on a brightness that outshines it, under noise."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    x = draw(4, 1, 16, 16, seed=7)[y] * (0.5 + torch.rand(n, 1, 1, 1, generator=g))
    x = x + 6 * torch.randn(n, 1, 1, 1, generator=g)
    return x + 0.5 * torch.randn(n, 1, 16, 16, generator=g), y


def relit(x, present):
    """Brightness and strength drawn anew, and noise: what a pattern does not depend on."""
    scale, level = torch.rand(len(x), 1, 1, 1), torch.randn(len(x), 1, 1, 1)
    x = x - x.mean((1, 2, 3), keepdim=True)
    return (0.5 + scale) * x + 4 * level + 0.5 * torch.randn_like(x), present


@methods
def test_features_learn_what_the_views_share(method):
    (x, y), (u, v) = clothes(256, 0), clothes(200, 1)
    c = codec(width=16)
    c.fit_scale(x)
    random = knn_accuracy(features(c, x), y, features(c, u), v)
    history = run(c, x, method=method, augment=relit, steps=100, batch_size=64, lr=3e-3)
    learnt = knn_accuracy(features(c, x), y, features(c, u), v)
    assert learnt > random + 0.2
    assert history.records[-1]["spread"] > 0.3


# Features and neighbours


def test_features_come_in_batches_of_any_size_and_change_nothing():
    c, x = codec(), draw(11, 1, 16, 16)
    before = {n: t.clone() for n, t in c.state_dict().items()}
    whole = features(c, x)
    assert whole.shape == (11, 8) and not whole.requires_grad
    torch.testing.assert_close(features(c, x, batch_size=3), whole)
    quarters = features(c, x, parts=2)  # of 4 x 4 patches, so all are as large
    torch.testing.assert_close(quarters.unflatten(1, (4, 8)).mean(1), whole)
    assert all(torch.equal(t, before[n]) for n, t in c.state_dict().items())


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_knn_accuracy_is_scikit_learns(metric):
    x, y, u, v = draw(60, 2, 3), torch.arange(60) % 3, draw(30, 2, 3, seed=1), torch.arange(30) % 3
    x, u = x + y[:, None, None], u + v[:, None, None]
    model = KNeighborsClassifier(7, metric=metric).fit(x.flatten(1), y)
    expected = accuracy_score(v, model.predict(u.flatten(1)))
    assert knn_accuracy(x, y, u.numpy(), v.numpy(), k=7, metric=metric) == pytest.approx(expected)
    assert 0.4 < expected < 1


def test_neighbours_of_a_zero_vector_are_scikit_learns():
    x, y = draw(40, 3), torch.arange(40) % 2
    x[::2] = 0  # of no direction: at distance 1 from all
    u = draw(30, 3, seed=1)
    model = KNeighborsClassifier(1, metric="cosine").fit(x, y)
    expected = accuracy_score(torch.ones(30), model.predict(u))
    assert knn_accuracy(x, y, u, torch.ones(30), k=1) == pytest.approx(expected)
    with pytest.raises(ValueError, match="metric is"):
        knn_accuracy(x, y, u, torch.ones(30), metric="manhattan")
    with pytest.raises(ValueError, match="40 and 30 features, but 39 and 30 labels"):
        knn_accuracy(x, y[1:], u, torch.ones(30))


# At the door


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "dino"}, "method must be one of"),
        ({"norm": "group"}, "norm must be one of"),
        ({"temperature": 0.0}, "positive temperature"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\)"),
        ({"queue_size": 0}, "queue_size, dim and splits of 1"),
        ({"splits": 0}, "queue_size, dim and splits of 1"),
        ({"batch_size": 1}, "In a batch of one there is nothing to compare"),
        ({"splits": 5}, "A batch of 8 can't be split into 5 groups"),
        ({"augment": lambda x, present: (x[:, :, 1:], present)}, "views must be of the same kind"),
        ({"augment": lambda x, present: (x.double(), present)}, "views must be of the same kind"),
        ({"augment": lambda x, present: (x / 0, present)}, "NaN or infinite"),
        ({"steps": None}, "either steps or num_epochs"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    c, start = codec(), codec()
    with pytest.raises(ValueError, match=message):
        run(c, draw(20, 1, 16, 16), **settings)
    assert same(c, start, "encoder") and all(p.requires_grad for p in c.parameters())


def test_data_and_codecs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="needs 8 or more, got 7"):
        run(codec(), draw(7, 1, 16, 16))
    with pytest.raises(TypeError, match="needs a codec with an encoder to train, got ScalarCodec"):
        run(ScalarCodec(Scalar("z")), draw(20))
    with pytest.raises(ValueError, match="Of 5 labelled samples 6 can't be the nearest"):
        knn_accuracy(draw(5, 2), torch.arange(5), draw(5, 2), torch.arange(5), k=6)
    with pytest.raises(TypeError, match="must return x and present"):
        run(codec(), draw(20, 1, 16, 16), augment=lambda x, present: x)
