"""From synthetic to real: ``train_with_synthetic_curriculum`` mixes two pools by a share that changes with
the step.

Every step has a batch of the same size, so a mix changes what a model sees and not how long it trains. The
mixing is a choice of rows (``Mixture``) for the one training loop; here is no loop of its own.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from aion_lite.arguments import real_number, whole_number
from aion_lite.data.tokens import TokenDataset
from aion_lite.passes import pass_rows
from aion_lite.training import History, num_steps, train

Pool = TokenDataset | TensorDataset | Tensor
Share = Callable[[int], float]


def staged(
    steps: int, shares: Sequence[float] = (1.0, 0.5, 0.25, 0.0), ends: Sequence[float] = (0.2, 0.4, 0.6)
) -> Share:
    """Synthetic share by stage: ``shares[i]`` up to ``ends[i]`` of the steps, the last one to the end.

    The default is the schedule 100, 50, 25, 0 %, of 20 epochs each in the first 60 of 100.

    Raises TypeError or ValueError where one of these is no number or out of range, or the ends do not fit.
    """
    steps = whole_number("steps", steps, 1)
    shares, ends = _numbers("shares", shares), _numbers("ends", ends)
    if len(ends) != len(shares) - 1 or ends != sorted(ends):
        raise ValueError(
            f"Stages need a rising end in 0..1 for each share but the last, got {shares} and {ends}."
        )
    stops = [Fraction(end).limit_denominator(10**6) * steps for end in ends]
    return lambda step: shares[sum(step >= stop for stop in stops)]


def train_with_synthetic_curriculum(
    model: nn.Module,
    synthetic_data: Pool,
    real_data: Pool,
    *,
    share: Share | float | None = None,
    steps: int | None = None,
    num_epochs: float | None = None,
    batch_size: int = 256,
    seed: int = 0,
    validation: Pool | None = None,
    **settings,
) -> History:
    """Train ``model`` in place on batches of real and synthetic samples, of which the latter are a share.

    Args:
        synthetic_data, real_data: pools of one kind, as ``train`` takes them: TokenDatasets of the same
            modalities, or tensors. For a model that is told which is which, give both a Category of their
            source.
        share: synthetic share of the batch at a step, in 0..1, as share(step) or one number; by default
            ``staged(steps)``: 100, 50, 25, 0 %. Fractions of a sample are carried over to the next step, so
            that up to any step the number of synthetic samples is right to within one half.
        steps, num_epochs: how long; by default 100 epochs. An epoch is as many samples as ``real_data`` has,
            whatever the mix.
        validation: real samples that were held out; synthetic ones are never looked at to choose weights.
        settings: of ``training.train``.

    Within a pass over either pool no sample comes twice. With share 0 this is ``train`` on ``real_data``, bit
    for bit; a run that was killed is resumed from its ``checkpoint``.

    Raises, before the first step, ValueError where a share lies outside 0..1 or the pools do not match,
    TypeError where they are of different kinds, and what ``train`` raises.
    """
    data = _joined(real_data, synthetic_data)
    if validation is synthetic_data:
        raise ValueError("validation is the synthetic pool: give real samples that were held out.")
    if steps is None and num_epochs is None:
        num_epochs = 100
    steps = num_steps(len(real_data), batch_size, steps, num_epochs)
    if share is None:
        share = staged(steps)
    rows = Mixture(len(real_data), len(synthetic_data), batch_size, steps, share, seed)
    return train(
        model,
        data,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        validation=validation,
        rows=rows,
        **settings,
    )


class Mixture:
    """Which rows of a pool, real samples first and then synthetic ones, make up each step.

    Attributes:
        num_synthetic: (steps,) synthetic samples in the batch of each step.

    Raises TypeError where a number is none, ValueError where it is out of range; so does a call.
    """

    def __init__(
        self,
        num_real: int,
        num_synthetic: int,
        batch_size: int,
        steps: int,
        share: Share | float,
        seed: int = 0,
    ):
        num_real = whole_number("num_real", num_real)
        num_synthetic = whole_number("num_synthetic", num_synthetic)
        if num_real < 1 or num_synthetic < 1:
            raise ValueError(
                f"A mix needs samples on both sides, got {num_real} real and {num_synthetic} synthetic ones."
            )
        self.sizes, self.seed = (num_real, num_synthetic), whole_number("seed", seed)
        self.batch_size = whole_number("batch_size", batch_size, 1)
        self.ends = _ends(share, self.batch_size, whole_number("steps", steps, 1))
        self.num_synthetic = np.diff(self.ends)

    def __call__(self, step: int) -> Tensor:
        """Rows (batch_size,) int64 of a step, from 0."""
        step = whole_number("step", step, 0, len(self.num_synthetic) - 1)
        first, last = self.ends[step : step + 2].tolist()
        real = pass_rows(
            self.sizes[0], step * self.batch_size - first, (step + 1) * self.batch_size - last, self.seed
        )
        # A seed of its own: where pools are alike in size, their orders shall not be.
        synthetic = pass_rows(self.sizes[1], first, last, self.seed + 1_000_000_007)
        return torch.cat([real, synthetic + self.sizes[0]])

    def __repr__(self) -> str:
        """Alike for mixtures that give the same rows."""
        shares = zlib.crc32(self.ends.tobytes())
        return f"Mixture({self.sizes}, {self.batch_size}, shares {shares}, {self.seed})"


def _numbers(name: str, given: Sequence[float]) -> list[float]:
    """Each in 0..1."""
    if np.ndim(given) != 1:
        raise TypeError(f"{name} is a list of numbers in 0..1, got {given!r}.")
    return [real_number(f"{name}[{i}]", number, 0, 1) for i, number in enumerate(given)]


def _ends(share: Share | float, batch_size: int, steps: int) -> np.ndarray:
    """(steps + 1,) int64: synthetic samples before each step, and in all. Exact: no rounding adds up."""
    total, ends = Fraction(0), [0]
    for step in range(steps):
        now = share(step) if callable(share) else share
        try:
            now = float(now)
        except (TypeError, ValueError):
            raise TypeError(f"A share is a number in 0..1, got {now!r} at step {step}.") from None
        if not 0 <= now <= 1:
            raise ValueError(f"A share of synthetic samples lies in 0..1, got {now} at step {step}.")
        total += Fraction(repr(now)) * batch_size  # as written: 0.7 is seven tenths, not the float next to it
        ends.append(math.floor(total + Fraction(1, 2)))
    return np.array(ends)


def _joined(real: Pool, synthetic: Pool) -> Pool:
    """Both pools in one, real samples first."""
    for pool, of in ((real, "real"), (synthetic, "synthetic")):
        if not isinstance(pool, (TokenDataset, TensorDataset, Tensor)):
            raise TypeError(
                f"A mix needs tokens or tensors in memory, got a {of} pool of {type(pool).__name__}: give "
                f"codecs.encode(data set), or store[:] of a TokenStore."
            )
    if type(real) is not type(synthetic):
        kinds = f"{type(real).__name__} and {type(synthetic).__name__}"
        raise TypeError(f"Real and synthetic pool must be of one kind, got {kinds}.")
    if isinstance(real, Tensor):
        return torch.cat(_matching("samples", real, synthetic))
    if isinstance(real, TensorDataset):
        if len(real.tensors) != len(synthetic.tensors):
            counts = f"{len(real.tensors)} and {len(synthetic.tensors)}"
            raise ValueError(f"Real and synthetic pool must have the same tensors, got {counts}.")
        pairs = zip(real.tensors, synthetic.tensors, strict=True)
        return TensorDataset(*(torch.cat(_matching(f"tensor {i}", *pair)) for i, pair in enumerate(pairs)))
    if set(real.tokens) != set(synthetic.tokens):
        raise ValueError(
            f"Real and synthetic pool must be of the same modalities, got {sorted(real.tokens)} and "
            f"{sorted(synthetic.tokens)}: select() what both have, or mark as absent what one lacks."
        )
    tokens, present = {}, {}
    for name, codes in real.tokens.items():
        tokens[name] = torch.cat(_matching(repr(name), codes, synthetic.tokens[name]))
        masks = [real.present[name], synthetic.present[name]]
        if masks[0].ndim != masks[1].ndim:  # one by sample, the other by token
            masks = [m if m.ndim == 2 else m[:, None].expand(-1, codes.shape[1]) for m in masks]
        present[name] = torch.cat(masks)
    return TokenDataset(tokens, present)


def _matching(name: str, real: Tensor, synthetic: Tensor) -> list[Tensor]:
    if real.shape[1:] != synthetic.shape[1:] or real.dtype != synthetic.dtype:
        got = f"{real.dtype} {tuple(real.shape)} and {synthetic.dtype} {tuple(synthetic.shape)}"
        raise ValueError(f"Real and synthetic {name} must be alike but for their number, got {got}.")
    return [real, synthetic.to(real.device)]
