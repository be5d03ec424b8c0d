"""Quantizers: numbers to integer codes and back, with the geometry of the codes kept.

- ``FiniteScalarQuantizer``: a few channels, each rounded to a few levels (Mentzer et al., ICLR 2024).
- ``ScalarReservoirQuantizer``: one number, codes at the quantiles of what was really seen. A reservoir
  (Vitter 1985, algorithm R) holds a uniform sample of a stream of any length: quantiles need no second pass.
- its log and compressed (arcsinh) forms lay the same codes out on another scale.

Imports torch, numpy's sort and thresholds.py, which turns numbers into codes in one pass; knows nothing of
modalities, codecs or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from aion_lite.thresholds import Thresholds, first_where


class FiniteScalarQuantizer(nn.Module):
    """Rounds each of d channels to its own number of levels: a codebook of prod(levels) codes, none learnt.

    Channels are axis 1, as in AION: z (B, d, ...) <-> codes (B, ...). Arithmetic is float32 whatever comes.
    An even number of levels L spans [-1, 1 - 2/L]. Mentzer et al. 2024, section 3 and appendix A.1.

    Raises ValueError for fewer than 3 levels: with 2, the bound puts the threshold at z = -3.8 instead of 0.
    """

    def __init__(self, levels: Sequence[int], eps: float = 1e-3):
        super().__init__()
        if not isinstance(levels, Sequence) or not levels or any(int(n) != n or n < 3 for n in levels):
            raise ValueError(f"FSQ levels must be a list of integers of 3 or more, got {levels!r}.")
        self.num_levels = tuple(int(level) for level in levels)
        self.codebook_size = math.prod(self.num_levels)
        if self.codebook_size > 2**53:
            raise ValueError(f"FSQ levels {list(levels)} make more codes than can be counted: take fewer.")
        self.eps = eps
        levels_d = torch.tensor(self.num_levels, dtype=torch.int64)
        # Buffers of integers only: a codec cast to half precision keeps its codes.
        self.register_buffer("levels", levels_d, persistent=False)
        self.register_buffer("half_width", levels_d // 2, persistent=False)
        self.register_buffer("basis", levels_d.cumprod(0) // levels_d, persistent=False)
        self._steps: Thresholds | None = None  # cache, of the device last used

    def _bound(self, z: Tensor) -> Tensor:
        """(..., d) onto the open range of each channel's levels."""
        half = (self.levels - 1) * (1 + self.eps) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(z.float() + torch.atanh(offset / half)) * half - offset

    def quantize(self, z: Tensor) -> Tensor:
        """z (B, d, ...) -> nearest code's value (B, d, ...) in [-1, 1]; gradients pass straight through."""
        self._check_channels(z)
        bounded = self._bound(z.movedim(1, -1))
        rounded = bounded + (bounded.round() - bounded).detach()
        return (rounded / self.half_width).movedim(-1, 1)

    def encode(self, z: Tensor) -> Tensor:
        """z (B, d, ...) -> codes (B, ...) int64 in 0..codebook_size-1; raises ValueError on NaN."""
        self._check_channels(z)
        if z.is_cuda:
            codes = self.thresholds().codes(z[..., None].flatten(2))
        else:
            codes = None if z.isnan().any() else self.indices(self._nearest_levels(z.movedim(1, -1)))
        if codes is None:
            raise ValueError(f"{int(z.isnan().sum())} of {z.numel()} inputs are NaN: has training diverged?")
        return codes.reshape(z.shape[:1] + z.shape[2:])

    def _nearest_levels(self, z: Tensor) -> Tensor:
        """(..., d) -> level of each channel (..., d), 0..L-1."""
        return self._bound(z).round().long() + self.half_width

    @torch.no_grad()
    def thresholds(self) -> Thresholds:
        """Where each channel's level changes, to the last bit as this device computes it."""
        if self._steps is None or self._steps.device != self.levels.device:
            counts = [level - 1 for level in self.num_levels]
            step = torch.cat([torch.arange(1, level) for level in self.num_levels]).to(self.levels.device)
            channel = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(step.device)
            ends = torch.full(step.shape, torch.inf, device=step.device)

            def reached(z: Tensor) -> Tensor:
                levels = self._nearest_levels(z[:, None].expand(-1, len(counts)))
                return levels.gather(1, channel[:, None])[:, 0] >= step

            self._steps = Thresholds(first_where(reached, -ends, ends).split(counts))
        return self._steps

    def indices(self, level_index: Tensor) -> Tensor:
        """Level of each channel (..., d), each 0..L-1 -> codes (...)."""
        return (level_index * self.basis).sum(-1)

    def level_indices(self, codes: Tensor) -> Tensor:
        """Codes (...) -> level of each channel (..., d)."""
        return (codes[..., None] // self.basis) % self.levels

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, ...) -> values (B, d, ...) float32; raises ValueError on codes outside the codebook."""
        _check_codes(codes, self.codebook_size)
        return ((self.level_indices(codes) - self.half_width) / self.half_width).movedim(-1, 1)

    def values_to_codes(self, values: Tensor) -> Tensor:
        """Quantized values (B, d, ...) as ``quantize`` and ``decode`` give them -> codes (B, ...)."""
        return self.indices((values.movedim(1, -1) * self.half_width).round().long() + self.half_width)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z (B, d, ...) -> (quantized z, extra loss = 0, share of the codebook in use in this batch)."""
        used = torch.zeros(self.codebook_size, device=z.device)
        used[self.encode(z).flatten()] = 1.0
        return self.quantize(z), torch.zeros((), device=z.device), used.mean()

    def code_features(self) -> Tensor:
        """(codebook_size, d): the grid coordinates of every code in [-1, 1]."""
        return self.decode(torch.arange(self.codebook_size, device=self.levels.device)[None])[0].T

    def _check_channels(self, z: Tensor) -> None:
        d = len(self.num_levels)
        if z.ndim < 2 or z.shape[1] != d:
            raise ValueError(f"FSQ with {d} levels needs z of shape (B, {d}, ...), got {tuple(z.shape)}.")


class ScalarReservoirQuantizer(nn.Module):
    """Codes at equally spaced quantiles of the numbers seen, from the smallest to the largest.

    ``update`` keeps a uniform sample of everything seen (Vitter 1985, algorithm R, exactly, batch by batch);
    the codebook is read off the filled part of it, so ten numbers are enough and no code stands for nothing.
    A number gets the *nearest* code. Reservoir, counter and random state are all in the state dict: a stream
    that is cut, saved and resumed gives the same codebook as one that is not. Half precision leaves it alone.

    Args:
        codebook_size: most codes to lay out; repeated values share a code, so ``num_codes`` may be smaller.
        reservoir_size: most numbers to remember.
        transform, inverse: increasing maps between the data's scale and the one the codes are laid out on.
        even: 0 to 1, the share of the codes that is laid out in equal steps over the range seen, not by
            quantiles. Quantiles leave a long tail of few numbers to few codes, and round it coarsely; with a
            share s, no step is wider than range / (s * (codebook_size - 1)).
    """

    def __init__(
        self,
        codebook_size: int = 1024,
        reservoir_size: int = 100_000,
        seed: int = 0,
        transform: Callable[[Tensor], Tensor] = lambda x: x,
        inverse: Callable[[Tensor], Tensor] = lambda x: x,
        even: float = 0.0,
    ):
        super().__init__()
        if not 0 <= even <= 1:
            raise ValueError(f"even is a share of the codes, 0 to 1, got {even}.")
        self.even = even
        sizes = (codebook_size, reservoir_size)
        if not all(isinstance(size, int) and size >= 2 for size in sizes):
            raise ValueError(f"Codebook and reservoir are integers of 2 or more, got {sizes}.")
        self.codebook_size, self.reservoir_size = codebook_size, reservoir_size
        self.transform, self.inverse = transform, inverse
        self.register_buffer("reservoir", torch.zeros(reservoir_size))  # in the data's unit, so exact
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("generator_state", torch.Generator().manual_seed(seed).get_state())
        self._codebook: tuple[Tensor, Tensor] | None = None  # cache: (codes, values), read off the reservoir
        self._steps: tuple[Tensor, Thresholds] | None = None  # cache: the codes, and their thresholds

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take in numbers of any shape; nothing else changes the codebook. ValueError on NaN or infinity."""
        x = torch.as_tensor(x, dtype=torch.float32, device=self.reservoir.device).flatten()
        # The scale is increasing: where both ends have a place on it, so has everything between.
        if len(x) and not self.transform(torch.stack(x.aminmax()).double()).isfinite().all():
            self._refuse(x)  # before anything has changed
        generator = torch.Generator()
        generator.set_state(self.generator_state)
        first = int(self.num_seen)
        # Item i (from 0) takes slot i while there is room, then a slot drawn from 0..i, if it has one.
        item = torch.arange(first, first + len(x), dtype=torch.float64)
        place = torch.rand(len(x), generator=generator, dtype=torch.float64).mul_(item + 1)
        place = torch.where(item < self.reservoir_size, item, place)
        kept = (place < self.reservoir_size).nonzero()[:, 0]
        slot = place[kept].long()
        # Two items of this batch may draw one slot: the later one stays, as it would one by one.
        last = torch.full((self.reservoir_size,), -1).scatter_reduce_(0, slot, kept, "amax")
        stays = last[slot] == kept
        self.reservoir[slot[stays].to(x.device)] = x[kept[stays].to(x.device)]
        self.num_seen += len(x)
        self.generator_state.copy_(generator.get_state())
        self._codebook = None

    def _read_codebook(self) -> tuple[Tensor, Tensor]:
        if self._codebook is None or self._codebook[0].device != self.reservoir.device:
            filled = self.reservoir[: min(int(self.num_seen), self.reservoir_size)]
            if len(filled) == 0:
                raise RuntimeError("This quantizer has seen no data: call fit (or update) first.")
            # numpy's sort on a CPU: many times as fast as torch's, and both are exact.
            on_cpu = filled.device.type == "cpu"
            ordered = torch.from_numpy(np.sort(filled.numpy())) if on_cpu else filled.sort().values
            ordered = self.transform(ordered.double())
            last = len(filled) - 1
            # How high each number stands: its rank, or how far along the range it lies, in the same unit.
            rank = torch.arange(len(ordered), dtype=torch.float64, device=ordered.device)
            tiny = torch.finfo(torch.float64).tiny
            along = (ordered - ordered[0]) / (ordered[-1] - ordered[0]).clamp_min(tiny) * last
            height = torch.lerp(rank, along, self.even)
            steps = torch.linspace(0, last, self.codebook_size, dtype=torch.float64).to(height)
            high = torch.searchsorted(height, steps).clamp(max=last)
            low = (high - 1).clamp(min=0)
            share = (steps - height[low]) / (height[high] - height[low]).clamp_min(tiny)
            quantiles = torch.lerp(ordered[low], ordered[high], share.clamp(0, 1))
            # Codes that decode to one float32 are one code, so that encode(decode(code)) is always the code.
            values = self.inverse(quantiles).float().unique()
            self._codebook = self.transform(values.double()), values
        return self._codebook

    @property
    def codes(self) -> Tensor:
        """(num_codes,) increasing float64 positions of the codes on the transformed scale."""
        return self._read_codebook()[0]

    @property
    def values(self) -> Tensor:
        """(num_codes,) increasing float32 values of the codes in the data's unit."""
        return self._read_codebook()[1]

    @property
    def cells(self) -> Tensor:
        """(num_codes, 2): the lowest and highest number seen that got each code; its value where none did.

        A repeated value's cell is a point, so a count or a zero is not smeared over the gap to the next.
        """
        filled = self.reservoir[: min(int(self.num_seen), self.reservoir_size)]
        codes, ends = self.encode(filled), torch.stack([self.values, self.values], dim=1)
        for side, reduce in enumerate(("amin", "amax")):
            ends[:, side].scatter_reduce_(0, codes, filled, reduce, include_self=False)
        return ends

    @property
    def num_codes(self) -> int:
        return len(self.codes)

    def encode(self, x: Tensor) -> Tensor:
        """Numbers (...) -> codes (...) int64, the nearest on the transformed scale, at most the end ones."""
        steps = self.thresholds()
        x = torch.as_tensor(x, device=steps.device)
        codes = steps.codes(x.reshape(-1, 1, 1))
        if codes is None:
            self._refuse(x.float())
        return codes.reshape(x.shape)

    @torch.no_grad()
    def thresholds(self) -> Thresholds:
        """The smallest number, in the data's unit, that gets each code but the first."""
        codes, values = self._read_codebook()
        if self._steps is None or self._steps[0] is not codes:
            # float64: the middle of neighbouring or huge float32 has none.
            middles = (codes[1:] + codes[:-1]) / 2
            row = first_where(lambda x: self.transform(x.double()) > middles, values[:-1], values[1:])
            end = torch.full((1,), -torch.inf, device=values.device)
            lowest = first_where(lambda x: self.transform(x.double()).isfinite(), end, values[:1])
            highest = -first_where(lambda x: self.transform(-x.double()).isfinite(), end, -values[-1:])
            self._steps = codes, Thresholds([row], lowest.item(), highest.item())
        return self._steps[1]

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (...) -> values (...) float32; raises ValueError on codes outside the codebook."""
        _check_codes(codes, self.num_codes)
        return self.values[codes]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (...) -> (nearest value, extra loss = 0, share of the codebook in use). Learns in train mode."""
        if self.training:
            self.update(x)
        codes = self.encode(x)
        used = codes.unique().numel() / torch.tensor(self.num_codes)
        return self.decode(codes), torch.zeros((), device=x.device), used

    def code_features(self) -> Tensor:
        """(num_codes, 2): where a code lies, as standardised position and as normal score of its rank."""
        centred = self.codes - self.codes.mean()
        rank = (torch.arange(len(centred), device=centred.device, dtype=torch.float64) + 0.5) / len(centred)
        spread = centred.std(correction=0)
        position = centred / torch.where(spread > 0, spread, 1.0)  # a lone code has no spread
        return torch.stack([position, torch.special.ndtri(rank)], dim=1).float()

    def _refuse(self, x: Tensor) -> NoReturn:
        bad = int((~self.transform(x.double()).isfinite()).sum())
        raise ValueError(f"{bad} of {x.numel()} are NaN, infinite or outside the scale: mark them absent.")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        """Moves between devices but stays float32: half precision would shift every code.

        The counter and the random state stay on the host, where they are read at every update.
        """
        self._codebook, on_host = None, (self.num_seen, self.generator_state)
        super()._apply(lambda t: u if (u := fn(t)).dtype == t.dtype else t.to(u.device), recurse)
        self.num_seen, self.generator_state = on_host
        return self

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._codebook = None


class ScalarLogReservoirQuantizer(ScalarReservoirQuantizer):
    """Codes laid out on log(x), for positive numbers over many decades; x <= 0 is refused."""

    def __init__(
        self, codebook_size: int = 1024, reservoir_size: int = 100_000, seed: int = 0, even: float = 0.0
    ):
        super().__init__(codebook_size, reservoir_size, seed, torch.log, torch.exp, even)


class ScalarCompressedReservoirQuantizer(ScalarReservoirQuantizer):
    """Codes laid out on arcsinh(x / scale): linear below ``scale``, logarithmic above it, for either sign."""

    def __init__(
        self,
        codebook_size: int = 1024,
        reservoir_size: int = 100_000,
        seed: int = 0,
        scale: float = 1.0,
        even: float = 0.0,
    ):
        if not 0 < scale < math.inf:
            raise ValueError(f"scale is where the scale turns logarithmic, above 0, got {scale}.")
        transform, inverse = lambda x: torch.asinh(x / scale), lambda z: torch.sinh(z) * scale
        super().__init__(codebook_size, reservoir_size, seed, transform, inverse, even)


def _check_codes(codes: Tensor, size: int) -> None:
    if codes.dtype.is_floating_point or codes.dtype == torch.bool:
        raise TypeError(f"Codes must be integers, got {codes.dtype}.")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
        raise ValueError(f"Codes must lie in 0..{size - 1}, got {int(codes.min())}..{int(codes.max())}.")
