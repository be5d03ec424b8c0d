"""A model on disk: the same predictions bit for bit, no pickle, one clear sentence for a bad folder."""

import json

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from aion_lite.codecs import ScalarCodec, TokenSpec
from aion_lite.modalities import Scalar
from aion_lite.model import MultimodalTransformer
from aion_lite.quantizers import FiniteScalarQuantizer, ScalarReservoirQuantizer


def specs(num_codes: int = 12) -> dict[str, TokenSpec]:
    quantizer, fsq = ScalarReservoirQuantizer(num_codes, 100), FiniteScalarQuantizer((4, 3))
    quantizer.update(torch.linspace(0.5, 3, 100) ** 2)
    return {
        "mass": TokenSpec(1, num_codes, "ordinal", quantizer.code_features(), quantizer.values),
        "sex": TokenSpec(1, 2, "nominal"),
        "image": TokenSpec(4, 12, "grid", fsq.code_features(), levels=(4, 3), grid=(2, 2)),
    }


def make(num_codes: int = 12, **kwargs) -> MultimodalTransformer:
    torch.manual_seed(0)
    return MultimodalTransformer(specs(num_codes), d_model=16, nhead=2, num_layers=1, **kwargs).eval()


def tokens() -> dict[str, torch.Tensor]:
    return {n: torch.arange(6 * s.num_tokens).view(6, -1) % s.vocab_size for n, s in specs().items()}


@pytest.fixture
def folder(tmp_path):
    make().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


SETTINGS = [
    {},
    {"embedding": "table"},
    {
        "smoothing": 0.05, "dropout": 0.3, "num_inputs": 5, "num_targets": 4, "min_inputs": 2,
        "num_frequencies": 3, "weights": {"mass": 2.0}, "hold_out": {"image": 0.5},
    },
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_comes_back_is_the_same_model(tmp_path, settings):
    model = make(**settings)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    back = MultimodalTransformer.from_pretrained(tmp_path)
    assert not back.training and back.config == model.config and back.specs == model.specs
    assert list(back.state_dict()) == list(model.state_dict())
    assert all(
        torch.equal(a, b)
        for a, b in zip(back.state_dict().values(), model.state_dict().values(), strict=True)
    )
    for name in model.names:
        ours, theirs = model.predict(tokens(), name), back.predict(tokens(), name)
        assert torch.equal(ours.log_probs, theirs.log_probs)
        assert (ours.values is None) == (theirs.values is None)
    assert torch.equal(model.predict(tokens(), "mass").mean, back.predict(tokens(), "mass").mean)
    losses = [m.loss(tokens(), generator=torch.Generator().manual_seed(1))[0] for m in (model, back)]
    assert torch.equal(*losses)


def test_saving_again_writes_over_the_old_model(folder):
    other = make(20)
    other.save_pretrained(folder)
    assert MultimodalTransformer.from_pretrained(str(folder)).specs["mass"].vocab_size == 20


def test_a_subclass_comes_back_as_itself(folder):
    class Mine(MultimodalTransformer):
        pass

    assert type(Mine.from_pretrained(folder)) is Mine


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5])


def empty(folder):
    (folder / "model.safetensors").write_bytes(b"")


def half_a_config(folder):
    path = folder / "config.json"
    path.write_text(path.read_text()[:-40])


def binary_config(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00\x80")


def no_config(folder):
    (folder / "config.json").unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def config_of_a_codec(folder):
    codec = ScalarCodec(Scalar("mass")).fit(torch.arange(50.0))
    codec.save_pretrained(folder.parent / "codec")
    (folder / "config.json").write_bytes((folder.parent / "codec" / "config.json").read_bytes())


def config_that_is_a_list(folder):
    (folder / "config.json").write_text("[1, 2]")


def config_of_a_newer_version(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rotary": True}))


def config_of_a_wider_model(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "d_model": 32}))


def config_of_other_modalities(folder):
    other = MultimodalTransformer({"z": TokenSpec(1, 3, "nominal")}, d_model=16, nhead=2, num_layers=1)
    other.save_pretrained(folder.parent / "other")
    (folder / "config.json").write_bytes((folder.parent / "other" / "config.json").read_bytes())


def weights_of_a_codec(folder):
    save_file({"reservoir": torch.zeros(3)}, folder / "model.safetensors")


def weights_of_a_smaller_model(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if k.startswith("spec/") or "norm" in k}
    save_file(kept, folder / "model.safetensors")


def a_weight_missing(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["mask_token"]
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (cut, ValueError, "damaged or cut short .*: copy it again"),
        (cut_short, ValueError, "damaged or cut short"),
        (empty, ValueError, "damaged or cut short"),
        (half_a_config, ValueError, "damaged or cut short"),
        (binary_config, ValueError, "damaged or cut short"),
        (no_config, FileNotFoundError, "config.json is missing: give the folder that save_pretrained wrote"),
        (no_weights, FileNotFoundError, "model.safetensors is missing"),
        (config_of_a_codec, ValueError, "holds no MultimodalTransformer of this version .*modalities"),
        (config_that_is_a_list, ValueError, "holds no MultimodalTransformer of this version"),
        (config_of_a_newer_version, ValueError, "holds no MultimodalTransformer of this version .*rotary"),
        (config_of_a_wider_model, ValueError, "don't fit its config.json \\(size mismatch"),
        (config_of_other_modalities, ValueError, "don't fit its config.json"),
        (weights_of_a_codec, ValueError, "holds no MultimodalTransformer"),
        (weights_of_a_smaller_model, ValueError, "don't fit its config.json \\(Missing key"),
        (a_weight_missing, ValueError, "don't fit its config.json \\(Missing key.*mask_token"),
    ],
)
def test_bad_folders_end_in_one_sentence(folder, spoil, error, says):
    spoil(folder)
    with pytest.raises(error, match=says) as caught:
        MultimodalTransformer.from_pretrained(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_tokens_of_another_codec_are_refused_after_loading(folder):
    model = MultimodalTransformer.from_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"'mass' must be \(B, 1\) in 0..11: these were made by another codec"
    ):
        model.predict({"mass": torch.tensor([[12]])}, "sex")
    with pytest.raises(ValueError, match=r"'image'.*another codec"):
        model.predict({"image": torch.zeros(1, 9, dtype=torch.int64)}, "sex")
    with pytest.raises(ValueError, match="knows no modality 'colour'"):
        model.predict({"mass": torch.tensor([[1]])}, "colour")


def test_a_folder_that_cant_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Can't save the model to .*file.*: choose another folder"):
        make().save_pretrained(tmp_path / "file" / "model")


def test_a_save_that_fails_leaves_the_old_model(folder, monkeypatch):
    def refuse(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("aion_lite.model.saving.save_file", refuse)
    with pytest.raises(OSError, match=r"No space left on device.*: choose another folder"):
        make().save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
