"""PretrainedTimeSeriesCodec: a series codec on a frozen encoder that has seen many kinds of signals.

The signal's channels, one by one -> frozen convolutions -> learnt projection -> FSQ -> learnt decoder. The
committed encoder is pretrained by ``scripts/make_series_encoder.py`` (``files/README.md`` says on what).
May import the series codec and the shared autoencoder; knows nothing of data sets and training.

B samples, C channels, T time steps, N tokens, S features of a stage.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from aion_lite.checkpoint import checksum
from aion_lite.codecs.autoencoder import Encoder
from aion_lite.codecs.series import TimeSeriesCodec
from aion_lite.modalities import TimeSeries, check_present

BACKBONES = {"ucr": Path(__file__).parent / "files" / "series_encoder.safetensors"}


class FrozenSeriesEncoder(nn.Module):
    """One channel (B, 1, T) -> what leaves each stage, (B, S, T / patch) each: patches, then block by block.

    Its weights are buffers that are not saved: no optimiser finds them, no ``requires_grad_`` wakes them, and
    a codec's file stays small. In their place it saves the ``fingerprint`` of the weights, and refuses to
    be loaded over others.

    Args:
        backbone: "ucr", or the path of a .safetensors file of the same layout: the weights of ``patchify``
            and ``blocks``, and in its metadata "config", the JSON of patch, width and depth.
        pretrained: False for the same architecture with random weights from ``seed``.
    """

    def __init__(self, backbone: str = "ucr", pretrained: bool = True, seed: int = 0):
        super().__init__()
        if not isinstance(backbone, str):
            raise TypeError(f"A backbone is named by one string, got {type(backbone).__name__}: give a str.")
        weights, config = read_encoder(BACKBONES.get(backbone, Path(backbone)))
        self.name, self.patch, self.width = backbone, config["patch"], config["width"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = Encoder(1, 1, ndim=1, **config)
        self.patchify, self.blocks = encoder.patchify, encoder.blocks
        if pretrained:
            try:
                self.load_state_dict(weights)
            except RuntimeError as error:
                raise ValueError(f"{backbone}: weights and config do not fit each other: {error}") from None
        for module in self.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, weight.detach(), persistent=False)
        self.register_buffer("fingerprint", torch.tensor(checksum(self.buffers())))

    def train(self, mode: bool = True) -> FrozenSeriesEncoder:
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        stages = [self.patchify(x)]
        for block in self.blocks:
            stages.append(block(stages[-1]))
        return stages

    def _load_from_state_dict(self, state_dict, prefix, *args):
        saved = state_dict.get(f"{prefix}fingerprint")
        if hasattr(self, "fingerprint") and saved is not None and int(saved) != int(self.fingerprint):
            raise ValueError(
                f"The encoder {self.name!r} here is not the one this codec was trained on: give the file of "
                f"then, as from_pretrained(..., backbone='/path/file.safetensors')."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


class PretrainedTimeSeriesCodec(TimeSeriesCodec):
    """A TimeSeries (B, C, T) to the same tokens as ``TimeSeriesCodec``, seen through a frozen encoder.

    Only the projection and the decoder are trained. Signals enter with the mean and standard deviation that
    ``fit_scale`` saw, gaps as 0; where ``patch`` is no multiple of the encoder's, they are stretched to one.

    Args:
        backbone, pretrained, seed: as ``FrozenSeriesEncoder`` takes them.
        stage: how many blocks of the encoder to see through, 0 for its patches alone; by default all.
        levels, patch, width, depth: as in ``TimeSeriesCodec``.
        encoder_depth: blocks inside the projection; 0 for linear maps around a norm.
    """

    sees_gaps = False

    def __init__(
        self,
        modality: TimeSeries,
        backbone: str = "ucr",
        stage: int | None = None,
        levels: Sequence[int] = (8, 5, 5, 5),
        patch: int = 8,
        width: int = 128,
        depth: int = 4,
        encoder_depth: int = 0,
        pretrained: bool = True,
        seed: int = 0,
    ):
        super().__init__(modality, levels, patch, width, depth, encoder_depth=1)
        self.backbone = FrozenSeriesEncoder(backbone, pretrained, seed)
        self.stage = len(self.backbone.blocks) if stage is None else stage
        if self.stage not in range(len(self.backbone.blocks) + 1):
            raise ValueError(f"{backbone} has stages 0..{len(self.backbone.blocks)}, got {stage}.")
        self.patches_seen = -(-patch // self.backbone.patch)  # of the encoder, a token
        S = self.channels * self.backbone.width * self.patches_seen
        self.encoder = Encoder(S, len(levels), 1, width, encoder_depth, ndim=1)
        self.register_buffer("feature_mean", torch.zeros(S))
        self.register_buffer("feature_std", torch.ones(S))

    @torch.no_grad()
    def fit_scale(self, x: Any, present: Tensor | None = None) -> None:
        """As in ``TimeSeriesCodec``; and the mean and deviation of each feature (of 1,000 samples)."""
        super().fit_scale(x, present)
        x = self.modality.check(x, present)
        present = check_present(self.modality, present, len(x), x.device)
        some = present.reshape(len(present), -1).any(1).nonzero()[:, 0]
        some = some[:: max(1, -(-len(some) // 1000))]
        if not len(some):
            return
        parts = [(x[i].to(self.device), present[i].to(self.device)) for i in some.split(100)]
        features = [self._features(self._standardised(*part)[0]) for part in parts]
        f = torch.cat(features).transpose(0, 1).flatten(1)  # (S, B * N)
        mean, std = f.mean(1), f.std(1, correction=0)
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(torch.where(std > 1e-5 * mean.abs(), std, 1.0))

    def _latent(self, y: Tensor, mask: Tensor) -> Tensor:
        f = self._features(y)
        return self.encoder((f - self.feature_mean[:, None]) / self.feature_std[:, None])

    @torch.no_grad()
    def _features(self, y: Tensor) -> Tensor:
        """Standardised values (B, C, T) -> all that the stage says of each token, (B, S, N)."""
        y = F.pad(y, (0, -y.shape[2] % self.patch), mode="replicate")
        length = self.grid[0] * self.patches_seen * self.backbone.patch
        if y.shape[2] != length:  # stretched, so that nothing is lost
            y = F.interpolate(y, length, mode="linear")
        f = self.backbone(y.flatten(0, 1)[:, None])[self.stage]  # (B * C, width, N * patches_seen)
        f = f.unflatten(0, y.shape[:2]).unflatten(3, (self.grid[0], -1))
        return f.movedim(4, 3).flatten(1, 3)


def read_encoder(path: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Weights and {patch, width, depth} of an encoder's file, both as data.

    Raises FileNotFoundError where there is none, ValueError where it is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no series encoder {path}: give backbone='ucr', or the path of a .safetensors file as "
            f"scripts/make_series_encoder.py writes it."
        )
    try:
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {})["config"])
            weights = {name: file.get_tensor(name).float() for name in file.keys()}
        return weights, {key: int(config[key]) for key in ("patch", "width", "depth")}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no series encoder ({error!r}): give one that scripts/make_series_encoder.py wrote."
        ) from None
