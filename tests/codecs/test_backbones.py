"""Frozen encoders: the networks of the libraries, stage by stage, that nothing around them can change."""

import copy
import json
import urllib.error

import huggingface_hub.constants
import pytest
import torch
from torch import nn

from aion_lite.codecs.backbones import efficientnet_lite0_weights, load_backbone

lite = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra [pretrained]")


def pictures(n, size, channels=3, seed=0):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def outputs_of(network, layers, x):
    """What the named layers give, by hooks."""
    seen = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o}))
        for name in layers
    ]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return [seen[name] for name in layers]


def assert_equal_maps(a, b):
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_the_classifier_knows_a_cat_and_an_espresso():
    """Through our preprocessing: ImageNet's 282 tiger cat (285, Egyptian cat, is close) and 967 espresso."""
    data = pytest.importorskip("skimage.data")
    from torchvision.transforms.v2.functional import center_crop, resize

    backbone = load_backbone("efficientnet-lite0", input_size=224)
    network = lite.EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(efficientnet_lite0_weights(), weights_only=True))
    for picture, label, probability in ((data.chelsea(), 282, 0.41), (data.coffee(), 967, 0.94)):
        picture = torch.tensor(picture).permute(2, 0, 1)[None] / 255
        x = backbone.preprocess(center_crop(resize(picture, 256), 224))  # ImageNet's usual crop
        with torch.no_grad():
            scores = network(x).softmax(1)[0]
        assert scores.argmax() == label and abs(scores[label] - probability) < 0.05
        blocks = [f"_blocks.{i}" for i in (0, 2, 4, 10, 15)]
        assert_equal_maps(backbone.maps(backbone.network, x), outputs_of(network, blocks, x))


def test_pixels_are_scaled_as_the_encoder_was_trained():
    x = pictures(2, 64)
    lite0 = load_backbone("efficientnet-lite0", pretrained=False, input_size=64)
    torch.testing.assert_close(lite0.preprocess(x), (x * 255 - 127) / 128)
    from torchvision.models import ResNet18_Weights

    resnet = load_backbone("resnet18", pretrained=False, input_size=224)
    x = pictures(2, 256)
    want = ResNet18_Weights.DEFAULT.transforms()(x)  # 256 px, of which it takes the middle 224
    torch.testing.assert_close(resnet.preprocess(x[..., 16:240, 16:240]), want)


def test_any_number_of_bands():
    backbone = load_backbone("resnet18", pretrained=False, input_size=32)
    x = pictures(2, 32, channels=6)
    one, two, three, six = (
        backbone.preprocess(x[:, :c]) * backbone.std + backbone.mean for c in (1, 2, 3, 6)
    )
    torch.testing.assert_close(one, x[:, :1].expand(2, 3, 32, 32))
    torch.testing.assert_close(two, torch.stack([x[:, 0], x[:, :2].mean(1), x[:, 1]], 1))
    torch.testing.assert_close(three, x[:, :3])
    torch.testing.assert_close(six, x.unflatten(1, (3, 2)).mean(2))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvisions_own_maps_from_a_weights_file(name, tmp_path):
    from torchvision.models import get_model

    torch.manual_seed(3)
    network = get_model(name, weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    backbone = load_backbone(f"{name}:{tmp_path / 'weights.pth'}", input_size=64)
    x = pictures(2, 40)
    layers = [f"layer{i}" for i in (1, 2, 3, 4)]
    assert_equal_maps(backbone(x)[1:], outputs_of(network, layers, backbone.preprocess(x)))
    assert backbone.shapes[0][1:] == (32, 32) and [s[1] for s in backbone.shapes[1:]] == [16, 8, 4, 2]


def test_timms_own_maps_from_a_weights_file(tmp_path):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    network = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    backbone = load_backbone(f"timm:vit_tiny_patch16_224:{tmp_path / 'vit.safetensors'}", input_size=224)
    x = pictures(1, 224)
    wanted = outputs_of(network, [f"blocks.{i}" for i in range(12)], backbone.preprocess(x))
    grids = [w[:, 1:].transpose(1, 2).unflatten(2, (14, 14)) for w in wanted]
    assert_equal_maps(backbone(x), grids)
    assert load_backbone("timm:resnet18", pretrained=False, input_size=64).shapes[1] == (64, 16, 16)
    small = load_backbone("timm:vit_small_patch14_dinov2", pretrained=False, input_size=28)
    assert small.shapes == [(384, 2, 2)] * 12


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Dinov2WithRegisters", "CLIP"])
def test_transformers_hidden_states_from_a_folder(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    sizes |= {"image_size": 32, "patch_size": 8}
    torch.manual_seed(7)
    if kind == "CLIP":  # the folder holds both towers
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
        config = transformers.CLIPConfig(vision_config=sizes, text_config=text)
        whole = transformers.CLIPModel(config).eval()
        network = transformers.CLIPVisionModel(config.vision_config).eval()
        tower = whole.vision_model.state_dict()
        own = {key: tower[key.removeprefix("vision_model.")] for key in network.state_dict()}
        network.load_state_dict(own)
    else:
        config = getattr(transformers, f"{kind}Config")(**sizes)
        whole = network = getattr(transformers, f"{kind}Model")(config).eval()
    whole.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no preprocessor_config\.json: copy it there"):
        load_backbone(str(tmp_path))
    scale = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(scale))
    backbone = load_backbone(str(tmp_path), input_size=32)
    x = pictures(2, 32)
    scaled = (x - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.25, 0.3])[
        :, None, None
    ]
    with torch.no_grad():
        states = network(pixel_values=scaled, output_hidden_states=True).hidden_states
    first = 5 if kind == "Dinov2WithRegisters" else 1
    for answer, state in zip(backbone(x), states[1:], strict=True):
        for row, column in ((0, 0), (1, 3), (3, 2)):  # patches are numbered row by row
            token = state[:, first + 4 * row + column]
            torch.testing.assert_close(answer[:, :, row, column], token, rtol=1e-4, atol=1e-5)
    assert load_backbone(str(tmp_path), input_size=48).shapes == [(32, 6, 6)] * 3
    with pytest.raises(ValueError, match="patches of 8 px: input_size 50 is no multiple"):
        load_backbone(str(tmp_path), input_size=50)
    random = load_backbone(str(tmp_path), pretrained=False, input_size=32)
    assert not torch.allclose(random(x)[-1], backbone(x)[-1])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors: copy it there"):
        load_backbone(str(tmp_path))


def test_nothing_around_it_changes_it():
    backbone = load_backbone("efficientnet-lite0", input_size=64)
    before = copy.deepcopy(backbone.state_dict())
    outer = nn.ModuleDict({"eyes": backbone, "head": nn.Conv2d(320, 2, 1)}).train()
    optimizer = torch.optim.AdamW(outer.parameters(), lr=0.1, weight_decay=0.5)
    x = pictures(4, 64)
    answer = backbone(x)[-1]
    for _ in range(3):
        outer["head"](backbone(x)[-1]).square().sum().backward()
        optimizer.step()
        outer.train()
    assert not any(module.training for module in backbone.modules()) and outer["head"].training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert torch.equal(backbone(x)[-1], answer)
    assert not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet18"])
def test_the_random_control_follows_its_seed(name):
    state = torch.get_rng_state()
    one, same, other = (load_backbone(name, False, input_size=32, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    x = pictures(2, 32)
    assert_equal_maps(one(x), same(x))
    for a, b in zip(one.fingerprints, other.fingerprints, strict=True):
        assert (a - b).norm() > 0.1 * a.norm()


def test_where_the_weights_of_torchvision_go(tmp_path, monkeypatch):
    """Offline; and what the error says works."""
    from torchvision.models import resnet18

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no network.*put the file resnet18-\w+\.pth into") as error:
        load_backbone("resnet18", input_size=32)
    file = next(word for word in str(error.value).split() if word.endswith(".pth"))
    torch.save(resnet18().state_dict(), tmp_path / "checkpoints" / file)
    assert_equal_maps(
        load_backbone("resnet18", input_size=32)(pictures(1, 32)),
        load_backbone(f"resnet18:{tmp_path / 'checkpoints' / file}", input_size=32)(pictures(1, 32)),
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dinov2-small", r"put config\.json, .* of facebook/dinov2-small into a folder"),
        ("clip-vit-base-patch32", r"of openai/clip-vit-base-patch32 into a folder"),
        ("timm:vit_tiny_patch16_224", r"'timm:vit_tiny_patch16_224:/path/model\.safetensors'"),
    ],
)
def test_where_the_weights_of_the_hub_go(name, says, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("timm")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=says):
        load_backbone(name, input_size=224)


@pytest.mark.parametrize(
    ("name", "size", "error", "says"),
    [
        ("resnet", 64, ValueError, "torchvision has no 'resnet'"),
        ("vgg", 64, ValueError, "Unknown backbone 'vgg': use one of efficientnet-lite0"),
        ("timm:vit_nonsense", 64, ValueError, "timm has no model 'vit_nonsense'"),
        ("no/such/folder", 64, ValueError, "or a folder that exists"),
        (None, 64, TypeError, "named by one string, got NoneType"),
        ("resnet18", 4, ValueError, "8 pixels or more, got 4"),
        ("timm:test_vit", 40, ValueError, "can't encode 40 px .*divisible"),
        ("resnet18:/no/file.pth", 64, FileNotFoundError, r"no weights file /no/file\.pth"),
    ],
)
def test_bad_use_is_refused(name, size, error, says):
    with pytest.raises(error, match=says):
        load_backbone(name, pretrained=":/" in str(name), input_size=size)


def test_files_that_are_no_weights_of_the_network_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "code.pth")
    with pytest.raises(ValueError, match="weights of another network"):
        load_backbone(f"resnet18:{tmp_path / 'other.pth'}")
    with pytest.raises(ValueError, match="no weights that can be read as data"):
        load_backbone(f"resnet18:{tmp_path / 'code.pth'}")
