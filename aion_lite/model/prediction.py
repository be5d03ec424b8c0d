"""Prediction: the distribution of one modality that a model gives, and the numbers a user asks of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """B samples, N tokens of the target, K codes.

    Attributes:
        target: name of the modality.
        log_probs: (B, N, K) log-probability of every code.
        values: (K,) increasing values of the codes in the modality's unit; None for codes without order.
        cells: (K, 2) lowest and highest value that each code stands for; None: halfway to its neighbours.
    """

    target: str
    log_probs: Tensor
    values: Tensor | None
    cells: Tensor | None = None

    @classmethod
    def mixture(cls, predictions: Sequence[Prediction]) -> Prediction:
        """The even mixture of several predictions of one target: the mean of their probabilities.

        For models that differ by their seed this is a deep ensemble (Lakshminarayanan et al. 2017, section
        2.4): where members disagree, intervals widen. Tokens are mixed one by one, so of a target of several
        tokens, ``log_prob`` is not that of whole samples drawn from a member at random.

        Raises ValueError unless all are of the same target, codes and number of samples.
        """
        predictions = list(predictions)
        if not predictions:
            raise ValueError("A mixture needs at least one prediction, got none.")
        first = predictions[0]
        for other in predictions[1:]:
            pairs = ((first.values, other.values), (first.cells, other.cells))
            if (
                other.target != first.target
                or other.log_probs.shape != first.log_probs.shape
                or not all(_equal(a, b) for a, b in pairs)
            ):
                raise ValueError(
                    f"A mixture needs predictions of one target, with the same codes, for the same samples, "
                    f"got {first} and {other}. Fit the codecs once, and give them to every member."
                )
        stacked = torch.stack([p.log_probs.to(first.log_probs.device) for p in predictions])
        log_probs = stacked.logsumexp(0) - math.log(len(predictions))
        return cls(first.target, log_probs, first.values, first.cells)

    @property
    def probabilities(self) -> Tensor:
        """(B, K) for one token (class probabilities of a category), else (B, N, K)."""
        probs = self.log_probs.exp()
        return probs[:, 0] if probs.shape[1] == 1 else probs

    @property
    def mean(self) -> Tensor:
        """(B,) expected value: the best guess under squared error."""
        return self.probabilities @ self._line()

    @property
    def median(self) -> Tensor:
        """(B,) the best guess under absolute error."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> Tensor:
        """(B,) value below which the truth lies with probability q, linear within a code's cell."""
        if not 0 < q < 1:
            raise ValueError(f"A quantile needs 0 < q < 1, got {q}.")
        values = self._line()
        if self.cells is None:
            middle = (values[1:] + values[:-1]) / 2
            low, high = torch.cat([values[:1], middle]), torch.cat([middle, values[-1:]])
        else:
            low, high = self.cells.to(values).unbind(1)
        cdf = self.probabilities.double().cumsum(1).contiguous()
        cell = torch.searchsorted(cdf, torch.full_like(cdf[:, :1], q)).clamp(max=len(values) - 1)
        below = torch.where(cell > 0, cdf.gather(1, (cell - 1).clamp(min=0)), 0.0)
        share = (q - below) / (cdf.gather(1, cell) - below).clamp_min(1e-12)
        return torch.lerp(low[cell], high[cell], share.clamp(0, 1).to(values))[:, 0]

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """(B,), (B,): the central interval that holds the truth with probability ``level``."""
        if not 0 < level < 1:
            raise ValueError(f"An interval needs 0 < level < 1, got {level}.")
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """(B,) log-probability in nats of the true tokens (B, N), summed over them: hard-code log-score."""
        if tokens.shape != self.log_probs.shape[:2]:
            want, got = tuple(self.log_probs.shape[:2]), tuple(tokens.shape)
            raise ValueError(f"The true tokens of {self.target!r} must be of shape {want}, got {got}.")
        return self.log_probs.gather(-1, tokens.to(self.log_probs.device)[..., None])[..., 0].sum(1)

    def sample(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Values (B, num_samples) drawn from the prediction (codes where there are no values)."""
        if self.log_probs.shape[1] != 1:
            raise ValueError(
                f"{self.target!r} has several tokens that hang together: draw them with model.generate."
            )
        codes = torch.multinomial(self.probabilities, num_samples, replacement=True, generator=generator)
        return codes if self.values is None else self.values.to(codes.device)[codes]

    def _line(self) -> Tensor:
        if self.values is None or self.log_probs.shape[1] != 1:
            raise ValueError(
                f"{self.target!r} is not one number: use probabilities, log_prob or model.generate."
            )
        return self.values.to(self.log_probs.device)

    def __str__(self) -> str:
        B, N, K = self.log_probs.shape
        return f"{self.target!r} ({B} samples, {N} tokens, {K} codes)"


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a.cpu(), b.cpu())
