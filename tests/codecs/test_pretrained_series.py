"""The series codec on a frozen encoder: what stays frozen, what is saved, what pretraining is worth."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aion_lite.codecs import PretrainedTimeSeriesCodec, TimeSeriesCodec
from aion_lite.codecs.pretrained_series import BACKBONES, FrozenSeriesEncoder, read_encoder
from aion_lite.data import load_watch
from aion_lite.modalities import Image, TimeSeries
from aion_lite.training import train

SIGNAL = TimeSeries("signal", channels=2, length=60, rate=50.0)
SMALL = {"patch": 8, "width": 16, "depth": 1}


def waves(n, seed=0, modality=SIGNAL):
    g = torch.Generator().manual_seed(seed)
    phase, rate = torch.rand(2, n, modality.channels, 1, generator=g)
    return 5 + 3 * torch.sin(6.28 * (phase + (1 + 3 * rate) * torch.linspace(0, 1, modality.length)))


def trained(steps=5, **arguments):
    torch.manual_seed(0)
    codec, x = PretrainedTimeSeriesCodec(SIGNAL, width=16, depth=1, **arguments), waves(64)
    codec.fit_scale(x)
    train(codec, x, steps=steps, batch_size=32, progress=False, device="cpu")
    return codec


def frozen_state(codec):
    return {name: weight.clone() for name, weight in codec.backbone.named_buffers()}


def test_the_committed_file_is_data_small_and_as_documented():
    path = BACKBONES["ucr"]
    assert path.stat().st_size < 2_000_000
    weights, config = read_encoder(path)
    assert config == {"patch": 8, "width": 96, "depth": 3}
    assert weights["patchify.weight"].shape == (96, 1, 8)
    assert sum(name.endswith("depthwise.weight") for name in weights) == 3
    assert all(weight.isfinite().all() for weight in weights.values())


def test_training_changes_projection_and_decoder_alone():
    codec = PretrainedTimeSeriesCodec(SIGNAL, width=16, depth=1)
    before, learnt = frozen_state(codec), {n: p.clone() for n, p in codec.named_parameters()}
    codec.fit_scale(waves(64))
    codec.requires_grad_(True).train()
    assert not any(module.training for module in codec.backbone.modules())
    train(codec, waves(64), steps=3, batch_size=32, progress=False, device="cpu", ema=0.5)
    after = frozen_state(codec)
    assert len(before) == 3 * 8 + 3 and all(torch.equal(after[name], before[name]) for name in before)
    assert {n.split(".")[0] for n in learnt} == {"encoder", "decoder"}
    assert sum(not torch.equal(p, learnt[n]) for n, p in codec.named_parameters()) > 0.9 * len(learnt)


def test_training_lowers_the_error():
    codec, x = trained(steps=1), waves(100, seed=1)
    early = codec.loss(x)[0]
    assert trained(steps=80).loss(x)[0] < 0.6 * early


def test_random_control_comes_from_its_seed_and_leaves_torch_as_it_was():
    torch.manual_seed(5)
    a = FrozenSeriesEncoder(pretrained=False, seed=3)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    b, c = (FrozenSeriesEncoder(pretrained=False, seed=seed) for seed in (3, 4))
    ours, x = FrozenSeriesEncoder(), waves(4)[:, :1]
    assert a.fingerprint == b.fingerprint and torch.equal(a(x)[3], b(x)[3])
    assert len({int(e.fingerprint) for e in (a, c, ours)}) == 3
    assert [s.shape for s in ours(x)] == [s.shape for s in a(x)] == [(4, 96, 7)] * 4


@pytest.mark.parametrize("patch", [8, 5, 12, 16, 64])
def test_tokens_are_those_of_the_series_codec(patch):
    ours = PretrainedTimeSeriesCodec(SIGNAL, patch=patch, width=16, depth=1, levels=(4, 4, 4))
    plain = TimeSeriesCodec(SIGNAL, patch=patch, width=16, depth=1, levels=(4, 4, 4))
    assert ours.token_spec() == plain.token_spec()
    ours.fit_scale(waves(20))
    tokens = ours.encode(waves(7))
    assert tokens.shape == (7, plain.num_tokens) and ours.decode(tokens).shape == (7, 2, 60)


def test_features_are_standardised_and_of_each_channel_alone():
    codec, x = PretrainedTimeSeriesCodec(SIGNAL, stage=1), waves(50)
    codec.fit_scale(x)
    y = (x - x.mean((0, 2), keepdim=True)) / x.std((0, 2), keepdim=True, correction=0)
    f = codec._features(y)
    torch.testing.assert_close(codec.feature_mean, f.mean((0, 2)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(codec.feature_std, f.std((0, 2), correction=0), atol=1e-4, rtol=1e-3)
    # The first 7 tokens of a channel are what the encoder says of it; the eighth is of the padded rest.
    alone = FrozenSeriesEncoder()(y[:, 1:, :56])[1]
    torch.testing.assert_close(f[:, 96:, :5], alone[:, :, :5], atol=1e-4, rtol=1e-4)


def test_gaps_enter_as_zero_and_empty_stretches_have_no_token():
    codec, x, present = trained(), waves(3), torch.ones(3, 2, 60, dtype=torch.bool)
    present[0, :, 16:32], present[1, 1] = False, False
    tokens = codec.encode(x, present)
    held = codec.token_present(tokens, present)
    assert (~held).nonzero().tolist() == [[0, 2], [0, 3]] and tokens[0, 2:4].eq(0).all()
    filled = x.where(present, torch.nan)
    assert torch.equal(codec.encode(filled, present), tokens)
    assert torch.equal(codec.encode(x)[2], tokens[2])
    mean = codec.mean[:, None].expand_as(x[0])
    as_mean = torch.stack([sample.where(p, mean) for sample, p in zip(x, present, strict=True)])
    assert torch.equal(codec.encode(as_mean)[held], tokens[held])


@pytest.mark.parametrize("pretrained", [True, False])
def test_saved_without_the_frozen_weights_and_back_with_the_same_tokens(pretrained, tmp_path):
    codec, x = trained(pretrained=pretrained, seed=2, stage=2), waves(9, seed=3)
    codec.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {n for n in saved if n.startswith("backbone")} == {"backbone.fingerprint"}
    back = PretrainedTimeSeriesCodec.from_pretrained(tmp_path)
    assert torch.equal(back.encode(x), codec.encode(x)) and back.stage == 2
    assert torch.equal(back.decode(back.encode(x)), codec.decode(codec.encode(x)))


def test_another_encoder_is_refused(tmp_path):
    trained().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'ucr' here is not the one this codec was trained on"):
        PretrainedTimeSeriesCodec.from_pretrained(tmp_path, pretrained=False)


def small_encoder(path, config=SMALL):
    weights = TimeSeriesCodec(SIGNAL, patch=8, width=16, depth=1, encoder_depth=1).encoder.state_dict()
    weights["patchify.weight"] = weights["patchify.weight"][:, :1].clone()
    kept = {n: w for n, w in weights.items() if n.startswith(("patchify", "blocks"))}
    save_file(kept, path, {"config": json.dumps(config)} if config else None)
    return str(path)


def test_an_encoder_of_ones_own(tmp_path):
    codec = trained(backbone=small_encoder(tmp_path / "mine.safetensors"))
    assert codec.encoder.patchify.in_channels == 2 * 16 and codec.encode(waves(3)).shape == (3, 8)


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no series encoder none\.safetensors: give backbone='ucr'"):
        PretrainedTimeSeriesCodec(SIGNAL, backbone="none.safetensors")
    with pytest.raises(TypeError, match="named by one string, got PosixPath"):
        PretrainedTimeSeriesCodec(SIGNAL, backbone=tmp_path)
    with pytest.raises(ValueError, match=r"stages 0\.\.3, got 4"):
        PretrainedTimeSeriesCodec(SIGNAL, stage=4)
    with pytest.raises(TypeError, match="needs a declared TimeSeries"):
        PretrainedTimeSeriesCodec(Image("x"))
    (tmp_path / "torn.safetensors").write_bytes(BACKBONES["ucr"].read_bytes()[:500])
    with pytest.raises(ValueError, match=r"torn\.safetensors is no series encoder"):
        PretrainedTimeSeriesCodec(SIGNAL, backbone=str(tmp_path / "torn.safetensors"))
    with pytest.raises(ValueError, match=r"bare\.safetensors is no series encoder"):
        PretrainedTimeSeriesCodec(SIGNAL, backbone=small_encoder(tmp_path / "bare.safetensors", None))
    with pytest.raises(ValueError, match="do not fit each other"):
        wide = small_encoder(tmp_path / "wide.safetensors", SMALL | {"width": 32})
        PretrainedTimeSeriesCodec(SIGNAL, backbone=wide)


def test_pretrained_features_tell_exercises_that_the_encoder_never_saw():
    """Watch: trained on the windows of five people, scored on the other five; a random encoder's features
    are the control."""
    data = load_watch(overlap=0.0)
    x, y, people = data.values["motion"], data.values["exercise"].numpy(), np.asarray(data.ids)
    x = (x - x.mean(2, keepdim=True)) / x.std(2, keepdim=True).clamp_min(1e-6)
    known = np.isin(people, np.unique(people)[:5])
    accuracy = {}
    for seed in (None, 0, 1, 2):
        encoder = FrozenSeriesEncoder(pretrained=seed is None, seed=seed or 0)
        with torch.no_grad():
            f = encoder(x.flatten(0, 1)[:, None])[-1].mean(2).reshape(len(x), -1).numpy()
        model = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(-2, 4, 7)))
        accuracy[seed] = model.fit(f[known], y[known]).score(f[~known], y[~known])
    ours = accuracy.pop(None)
    assert ours > max(accuracy.values()) + 0.02
