"""PretrainedImageCodec: an image codec whose eyes were trained elsewhere and stay as they are.

Frozen backbone -> one stage's map on the grid of the tokens -> learnt projection -> FSQ -> learnt decoder.
May import the image codec and the backbones; knows nothing of data sets and training.

B images, C channels, (gh, gw) the grid of the tokens, S channels of a backbone's stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import TensorDataset

from aion_lite.codecs.autoencoder import Decoder, Encoder
from aion_lite.codecs.backbones import load_backbone
from aion_lite.codecs.image import ImageCodec
from aion_lite.modalities import Image, check_present


class SimpleImageDecoder(Decoder):
    """Grid of vectors (B, embedding_dim, gh, gw) -> pixels (B, out_channels, gh * patch, gw * patch)."""

    def __init__(
        self, embedding_dim: int, out_channels: int = 3, patch: int = 4, width: int = 128, depth: int = 4
    ):
        super().__init__(embedding_dim, out_channels, patch, width, depth, ndim=2)


class PretrainedImageCodec(ImageCodec):
    """An Image (B, C, H, W) to the same grid of tokens as ``ImageCodec``, seen through a frozen backbone.

    Only the projection and the decoder are trained. The lowest and highest value that ``fit_scale`` sees are
    the backbone's black and white; missing bands enter at their mean. The backbone's weights are not saved
    but loaded again by name, and refused where their answer to a fixed picture has changed;
    ``from_pretrained(folder, backbone=...)`` says where a file or folder lies now.

    Args:
        backbone, pretrained, input_size, seed: as ``load_backbone`` takes them.
        stage: whose map to take, 0 the shallowest (``choose_stage`` finds the best); by default the deepest
            that is no coarser than the tokens.
        levels, patch, width, depth, compression: as in ``ImageCodec``.
        encoder_depth: blocks inside the projection; 0 for linear maps around a norm.
    """

    def __init__(
        self,
        modality: Image,
        backbone: str = "efficientnet-lite0",
        stage: int | None = None,
        levels: Sequence[int] = (8, 5, 5, 5),
        patch: int = 4,
        width: int = 128,
        depth: int = 4,
        encoder_depth: int = 0,
        input_size: int = 112,
        compression: float | None = None,
        pretrained: bool = True,
        seed: int = 0,
    ):
        super().__init__(modality, levels, patch, width, depth, 1, compression)
        # Kept out of the module's tree: nothing that trains, averages or saves a codec comes across it.
        object.__setattr__(self, "backbone", load_backbone(backbone, pretrained, input_size, seed))
        shapes = self.backbone.shapes
        if stage is None:
            fine = [i for i, (_, h, w) in enumerate(shapes) if h >= self.grid[0] and w >= self.grid[1]]
            stage = fine[-1] if fine else 0
        if stage not in range(len(shapes)):
            raise ValueError(f"{backbone} has stages 0..{len(shapes) - 1}, got {stage}.")
        self.stage, d, S = stage, len(levels), shapes[stage][0]
        self.encoder = Encoder(S, d, 1, width, encoder_depth, ndim=2)
        self.decoder = SimpleImageDecoder(d, self.channels, patch, width, depth)
        self.register_buffer("fingerprint", self.backbone.fingerprints[stage].clone())
        self.register_buffer("value_range", torch.tensor([0.0, 1.0]))
        self.register_buffer("feature_mean", torch.zeros(S))
        self.register_buffer("feature_std", torch.ones(S))

    @torch.no_grad()
    def fit_scale(self, x: Any, present: Tensor | None = None) -> None:
        """As in ``ImageCodec``; and black, white, mean and deviation of each feature (of 2,000 images)."""
        super().fit_scale(x, present)
        x = self.modality.check(x, present)
        present = check_present(self.modality, present, len(x), x.device)
        y, mask = self._channels_first(x, present)
        measured = self._compress(y)[mask > 0]
        if not measured.numel():
            return
        low, high = measured.min(), measured.max()
        self.value_range.copy_(torch.stack([low, torch.where(high > low, high, low + 1)]))
        some = present.reshape(len(present), -1).any(1).nonzero()[:, 0]
        some = some[:: -(-len(some) // 2000)]
        maps = self.stage_maps(x[some], present[some], [self.stage])[0].transpose(0, 1).flatten(1)  # (S, ...)
        mean, std = maps.mean(1), maps.std(1, correction=0)
        self.feature_mean.copy_(mean)
        # A dead channel strays from its mean by rounding alone.
        self.feature_std.copy_(torch.where(std > 1e-5 * mean.abs(), std, 1.0))

    def features(self, x: Any, present: Tensor | None = None, batch_size: int = 128) -> Tensor:
        """Images (B, C, H, W) -> the chosen stage on the grid of the tokens, standardised, (B, S, gh, gw)."""
        return self._standardised_features(self.stage_maps(x, present, [self.stage], batch_size)[0])

    @torch.no_grad()
    def stage_maps(
        self,
        x: Any,
        present: Tensor | None = None,
        stages: Sequence[int] | None = None,
        batch_size: int = 128,
    ) -> list[Tensor]:
        """Images (B, C, H, W) -> the maps of ``stages``, default all, on the grid, (B, S, gh, gw) each."""
        x = self.modality.check(x, present)
        present = check_present(self.modality, present, len(x), x.device)
        stages = range(len(self.backbone.shapes)) if stages is None else stages
        batches = []
        for a, b in zip(x.split(batch_size), present.split(batch_size), strict=True):
            maps = self.backbone(self._pixels(self._standardised(a.to(self.device), b.to(self.device))[0]))
            batches.append([self._on_grid(maps[i]).to(x.device) for i in stages])
        return [torch.cat(maps) for maps in zip(*batches, strict=True)]

    def prepare(self, x: Any, present: Tensor | None = None, weight: Tensor | None = None) -> TensorDataset:
        """What to train on after ``fit_scale``: (x, present, weight, features); the backbone runs once.

        Where no ``weight`` is given, it is of shape (B, 0).
        """
        x = self.modality.check(x, present)
        present = check_present(self.modality, present, len(x), x.device)
        weight = x.new_zeros(len(x), 0) if weight is None else weight
        return TensorDataset(x, present, weight, self.features(x, present))

    def loss(
        self,
        x: Tensor,
        present: Tensor | None = None,
        weight: Tensor | None = None,
        features: Tensor | None = None,
    ):
        """As ``ImageCodec.loss``; ``features`` (B, S, gh, gw) as ``prepare`` has them spare the backbone."""
        weight = weight if weight is not None and weight.numel() else None
        return super().loss(x, present, weight, None if features is None else self.encoder(features))

    def _latent(self, y: Tensor, mask: Tensor) -> Tensor:
        f = self._on_grid(self.backbone(self._pixels(y))[self.stage])
        return self.encoder(self._standardised_features(f))

    def _pixels(self, y: Tensor) -> Tensor:
        """Standardised values (B, C, H, W), 0 where missing -> 0..1 for the backbone, in whole patches."""
        low, high = self.value_range
        x = (y * self._per_channel(self.std) + self._per_channel(self.mean) - low) / (high - low)
        return F.pad(x, [0, -x.shape[3] % self.patch, 0, -x.shape[2] % self.patch], mode="replicate")

    def _on_grid(self, f: Tensor) -> Tensor:
        if f.shape[2] >= self.grid[0] and f.shape[3] >= self.grid[1]:
            return F.adaptive_avg_pool2d(f, self.grid)
        return F.interpolate(f, self.grid, mode="bilinear")

    def _standardised_features(self, f: Tensor) -> Tensor:
        mean, std = (self._per_channel(s.to(f.device)) for s in (self.feature_mean, self.feature_std))
        return (f - mean) / std

    def _apply(self, fn: Callable, recurse: bool = True):
        self.backbone._apply(fn)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        saved, ours = state_dict.get(f"{prefix}fingerprint"), self.fingerprint
        if saved is not None and saved.shape == ours.shape:
            change = float((saved.to(ours) - ours).norm() / ours.norm())
            if change > 1e-3:  # machines differ by 1e-5
                errors.append(
                    f"Backbone {self.backbone.name!r} answers otherwise than when this codec was trained (by "
                    f"{change:.1%}): give from_pretrained the weights of then, as backbone=."
                )
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)


def choose_stage(
    codec: PretrainedImageCodec, x: Any, labels: Tensor | None = None, holdout: float = 0.25, seed: int = 0
) -> tuple[int, list[float]]:
    """The backbone's stage to build a codec on: what a linear model reads from it in images held out.

    Without ``labels``: R2 of the pixels of a token's patch from its features (ridge regression). With classes
    (B,): accuracy of a logistic probe on the features, averaged over 2 x 2 quarters.
    ``codec`` may have any stage; it takes its scale from ``x``, nothing else changes.

    Returns the best stage and the score of every stage.
    """
    x = codec.modality.check(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    num_test = round(holdout * len(x))
    if not 0 < num_test < len(x):
        raise ValueError(f"{len(x)} images can't be split with holdout={holdout}: give more, or 0.25.")
    train, test = order[num_test:], order[:num_test]
    codec.fit_scale(x[train])
    y = codec._standardised(x, torch.ones(len(x), dtype=torch.bool, device=x.device))[0]
    p, scores = codec.patch, []
    targets = F.unfold(F.pad(y, [0, -y.shape[3] % p, 0, -y.shape[2] % p], mode="replicate"), p, stride=p)
    for f in codec.stage_maps(x):
        if labels is None:
            pairs = [(f.flatten(2)[i].mT.flatten(0, 1), targets[i].mT.flatten(0, 1)) for i in (train, test)]
            model = make_pipeline(StandardScaler(), Ridge())
        else:
            quarters = F.adaptive_avg_pool2d(f, 2).flatten(1)
            pairs = [(quarters[i], labels[i]) for i in (train, test)]
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        fitted, held = [[t.cpu().numpy() for t in pair] for pair in pairs]
        scores.append(float(model.fit(*fitted).score(*held)))
    return scores.index(max(scores)), scores
