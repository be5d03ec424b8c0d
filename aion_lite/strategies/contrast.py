"""Three ways to train an encoder without labels, by comparing two views of each sample: SimCLR, MoCo, BYOL.

A view is an augmented copy. Each class is a module for ``training.train``: all that changes from step to step
is a weight or a buffer, so a resumed run is the uninterrupted one, and a step never waits for the device.

B samples, D dimensions of an embedding, K keys in a queue, N patches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aion_lite.codecs.autoencoder import AutoencoderCodec, Encoder
from aion_lite.codecs.base import as_cells

NORMS = ("layer", "batch", "split")


def nt_xent(a_BD: Tensor, b_BD: Tensor, temperature: float) -> Tensor:
    """Each of 2 B unit vectors must tell its pair from the 2 B - 2 others (Chen et al. 2020, eq. 1)."""
    z, B = torch.cat([a_BD, b_BD]), len(a_BD)
    itself = torch.eye(2 * B, dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * B, device=z.device).roll(B))


def info_nce(q_BD: Tensor, k_BD: Tensor, queue_KD: Tensor, temperature: float) -> Tensor:
    """Each of B unit vectors must tell its key from the K of the queue (He et al. 2020, eq. 1)."""
    logits = torch.cat([(q_BD * k_BD).sum(1, keepdim=True), q_BD @ queue_KD.T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


class KeyQueue(nn.Module):
    """The last K keys, first in first out; unit vectors drawn at random at the start."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys_BD: Tensor) -> None:
        """Write B keys in the place of the oldest; B may be anything, also more than K."""
        B, K = len(keys_BD), len(self.keys)
        skipped = max(0, B - K)  # they would be overwritten at once
        rows = (self.pointer + torch.arange(skipped, B, device=self.keys.device)) % K
        self.keys.index_copy_(0, rows, keys_BD[skipped:].to(self.keys.dtype))
        self.pointer.copy_((self.pointer + B) % K)


class SplitBatchNorm(nn.BatchNorm1d):
    """Batch norm as ``splits`` devices would do it: sample i is normalised within group i mod ``splits``.

    With one group, a batch's statistics tell a query which key is of its own batch. To shuffle the keys on
    one device does not help, as a shuffled batch has the same statistics; groups, and a shuffle between them,
    do (He et al. 2020, section 3.3). Running statistics are the groups' mean.

    Raises ValueError where a batch doesn't divide into groups of two or more.
    """

    def __init__(self, width: int, splits: int = 8, **kwargs):
        super().__init__(width, **kwargs)
        if splits < 1:
            raise ValueError(f"Batch norm needs at least one group, got {splits}.")
        self.splits = splits

    def forward(self, x_BD: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_BD)
        (B, D), k = x_BD.shape, self.splits
        if B % k or B < 2 * k:
            raise ValueError(f"A batch of {B} can't be split into {k} groups of two or more: change either.")
        mean, var = self.running_mean.repeat(k), self.running_var.repeat(k)
        weight, bias = (self.weight.repeat(k), self.bias.repeat(k)) if self.affine else (None, None)
        out = F.batch_norm(
            x_BD.reshape(B // k, k * D), mean, var, weight, bias, True, self.momentum, self.eps
        )
        with torch.no_grad():
            self.running_mean.copy_(mean.view(k, D).mean(0))
            self.running_var.copy_(var.view(k, D).mean(0))
            self.num_batches_tracked += 1
        return out.view(B, D)


def projection_head(width: int, hidden: int, dim: int, norm: str, splits: int) -> nn.Sequential:
    """(B, width) -> (B, dim) with one hidden layer."""
    between = {
        "layer": lambda: nn.LayerNorm(hidden),
        "batch": lambda: nn.BatchNorm1d(hidden),
        "split": lambda: SplitBatchNorm(hidden, splits),
    }[norm]()
    return nn.Sequential(nn.Linear(width, hidden), between, nn.ReLU(), nn.Linear(hidden, dim))


def pooled(
    codec: AutoencoderCodec, encoder: Encoder, x: Tensor, present: Tensor, parts: int = 1
) -> Tensor:  # fmt: skip
    """Values -> (B, width): mean of the encoder's last layer over the patches with something measured.

    With ``parts`` the means of so many parts along each axis of the grid: (B, parts**ndim * width).
    """
    seen = as_cells(present, x).expand_as(x)
    h = encoder.hidden(codec._network_input(*codec._standardised(x, seen))).flatten(1, -2)  # (B, N, width)
    held = codec.token_present(h, seen)
    if held.ndim == 1:
        if parts == 1:
            return h.mean(1)
        held = held[:, None].expand(h.shape[:2])
    held = held[:, -h.shape[1] :].to(h.dtype)  # of a spectrum, the first token is no patch
    if parts == 1:
        return (h * held[..., None]).sum(1) / held.sum(1, keepdim=True).clamp_min(1)
    share = held[:, None] * _members(codec.grid, parts, h)  # (B, parts**ndim, N)
    return (share @ h / share.sum(2, keepdim=True).clamp_min(1)).flatten(1)


def _members(grid: Sequence[int], parts: int, like: Tensor) -> Tensor:
    """(parts**ndim, N): 1 where a patch lies in a part, so many parts along each axis of the grid."""
    if not 1 <= parts <= min(grid):
        raise ValueError(f"A grid of {tuple(grid)} patches can't be cut into {parts} parts along each axis.")
    member = like.new_ones(1, 1)
    for n in grid:
        part = torch.arange(n, device=like.device) * parts // n
        along = part == torch.arange(parts, device=like.device)[:, None]
        member = torch.kron(member, along.to(like.dtype))
    return member


class SimCLR(nn.Module):
    """Two views of a sample attract, the views of all others in the batch repel (Chen et al. 2020).

    Args:
        codec: whose encoder is trained.
        augment: makes a view, ``augment(x, present=present) -> (x, present)``, drawn anew at every call.
        dim, hidden: of the embedding, and of the layer before it in the projection head.
        norm: of the projection head, "layer", "batch" or "split" (``SplitBatchNorm``).

    Metric ``spread``: standard deviation of the embeddings times sqrt(dim), about 1 where they fill the
    sphere, 0 where all have become the same (Chen & He 2021, section 4.1).
    """

    def __init__(
        self, codec: AutoencoderCodec, augment: Callable[..., tuple[Tensor, Tensor]], *,
        temperature: float = 0.2, dim: int = 64, hidden: int = 256, norm: str = "layer", splits: int = 8,
    ):  # fmt: skip
        super().__init__()
        self.codec, self.augment, self.temperature, self.norm = codec, augment, temperature, norm
        self.head = projection_head(codec.encoder.project.in_features, hidden, dim, norm, splits)

    def loss(self, x: Tensor, present: Tensor):
        a, b = self._queries(*self.view(x, present)), self._queries(*self.view(x, present))
        return nt_xent(a, b, self.temperature), {"spread": spread(a)}

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The matrices inside the encoder's blocks: what Muon is for (``training.py``)."""
        return [p for p in self.codec.encoder.blocks.parameters() if p.ndim == 2]

    @torch.no_grad()
    def view(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """One augmented copy, and what of it was measured."""
        with torch.autocast(x.device.type, enabled=False):
            return self.augment(x, present=present)

    def _queries(self, x: Tensor, present: Tensor) -> Tensor:
        """A view -> unit vectors (B, D) of the encoder in training."""
        return unit(self.head(pooled(self.codec, self.codec.encoder, x, present)))


class Momentum(SimCLR):
    """Base of the two with a second encoder, an average over the steps of the first that no gradient enters.

    Args:
        momentum: m of average <- m average + (1 - m) weights, at the start of each step. It looks back
            1 / (1 - m) steps, so it must be well below the number of steps.
        symmetric: each view is asked about the other, at twice the cost.
    """

    def __init__(self, *args, momentum: float = 0.99, symmetric: bool = True, **kwargs):
        super().__init__(*args, **kwargs)
        self.momentum, self.symmetric = momentum, symmetric
        self.encoder_k, self.head_k = (copy.deepcopy(m) for m in (self.codec.encoder, self.head))
        self.encoder_k.requires_grad_(False)
        self.head_k.requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the average; statistics of batch norms are left alone, each encoder has its own."""
        average = [*self.encoder_k.parameters(), *self.head_k.parameters()]
        weights = [*self.codec.encoder.parameters(), *self.head.parameters()]
        torch._foreach_lerp_(average, weights, 1 - self.momentum)

    @torch.no_grad()
    def _keys(self, x: Tensor, present: Tensor) -> Tensor:
        """A view -> unit vectors (B, D) of the average; shuffled between the groups of a split batch norm."""
        h = pooled(self.codec, self.encoder_k, x, present)
        if self.norm != "split" or not self.training:
            return unit(self.head_k(h))
        order = torch.rand(len(h), device=h.device).argsort()
        return unit(self.head_k(h[order]))[order.argsort()]


class MoCo(Momentum):
    """A sample's key, by the averaged encoder, must be told from a queue of earlier ones (He et al. 2020)."""

    def __init__(self, *args, queue_size: int = 1024, dim: int = 64, **kwargs):
        super().__init__(*args, dim=dim, **kwargs)
        self.queue = KeyQueue(queue_size, dim)

    def loss(self, x: Tensor, present: Tensor):
        if self.training:
            self.follow()
        views = self.view(x, present), self.view(x, present)
        queue = self.queue.keys.clone()  # the backward pass needs it as it is now
        pairs = [views, views[::-1]] if self.symmetric else [views]
        q, k = [self._queries(*a) for a, _ in pairs], [self._keys(*b) for _, b in pairs]
        losses = [info_nce(a, b, queue, self.temperature) for a, b in zip(q, k, strict=True)]
        if self.training:
            self.queue.enqueue(torch.cat(k))
        return sum(losses) / len(losses), {"spread": spread(q[0])}


class BYOL(Momentum):
    """A predictor must find a view's key, by the averaged encoder, from the other view (Grill et al. 2020).

    Nothing repels, so all embeddings may become the same: watch ``spread``. A batch norm in the heads spreads
    them anew at every step.
    """

    def __init__(self, *args, dim: int = 64, hidden: int = 256, norm: str = "layer", splits: int = 8, **kw):
        super().__init__(*args, dim=dim, hidden=hidden, norm=norm, splits=splits, **kw)
        self.predictor = projection_head(dim, hidden, dim, norm, splits)

    def loss(self, x: Tensor, present: Tensor):
        if self.training:
            self.follow()
        views = self.view(x, present), self.view(x, present)
        pairs = [views, views[::-1]] if self.symmetric else [views]
        z = [self.head(pooled(self.codec, self.codec.encoder, *a)) for a, _ in pairs]
        k = [self._keys(*b) for _, b in pairs]
        losses = [2 - 2 * (unit(self.predictor(a)) * b).sum(1).mean() for a, b in zip(z, k, strict=True)]
        return sum(losses) / len(losses), {"spread": spread(unit(z[0]))}


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=1)


def spread(z_BD: Tensor) -> Tensor:
    return z_BD.detach().std(0).mean() * z_BD.shape[1] ** 0.5
