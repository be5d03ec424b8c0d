"""Joint samples of many tokens: random-order generation a few tokens at a time (ROAR, as in 4M and AION).

Each step encodes what is known by then and asks for some of the tokens still missing; what it draws is known
from then on. All samples of a batch go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aion_lite.data.tokens import TokenDataset

if TYPE_CHECKING:
    from aion_lite.model.transformer import MultimodalTransformer


def generate(
    model: MultimodalTransformer,
    inputs: TokenDataset,
    targets: Sequence[str],
    num_steps: int = 8,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> TokenDataset:
    """Draw the tokens of ``targets`` given ``inputs``.

    Args:
        num_steps: encoder passes; with as many as there are tokens, each is drawn given all drawn before it.
        temperature: 1 samples the model's law, below 1 sharpens it, 0 takes the likeliest code (on a grid
            the likeliest value of each level in turn).
    """
    if not 0 <= temperature < torch.inf or num_steps < 1:
        raise ValueError(
            f"generate needs a finite temperature >= 0 and num_steps >= 1, got {temperature} and {num_steps}."
        )
    device = model.modality_T.device
    code_BT, known_BT = model.flatten(inputs.tokens, inputs.present)
    asked_T = torch.isin(
        model.modality_T, torch.tensor([model.names.index(n) for n in targets], device=device)
    )
    known_BT = known_BT & ~asked_T
    num_asked = int(asked_T.sum())
    noise_BT = torch.rand(code_BT.shape, generator=generator, device=device)
    order_BA = noise_BT.masked_fill(~asked_T, 2.0).argsort(1)[:, :num_asked]  # random order, one a sample
    num_given = most_known(known_BT)
    alike = bool((known_BT.sum(1) == num_given).all())  # then no place is filled up, and no mask is needed
    for step in range(min(num_steps, num_asked)):
        start, stop = (num_asked * s // min(num_steps, num_asked) for s in (step, step + 1))
        place_BI = known_places(known_BT, num_given + start)
        is_known_BI = None if alike else known_BT.gather(1, place_BI)
        context = model.encode(code_BT.gather(1, place_BI), place_BI, is_known_BI)
        now_BO = order_BA[:, start:stop]
        h_BOD = model.decode(now_BO, torch.ones_like(now_BO, dtype=torch.bool), *context)
        drawn_BO = model.head.sample(h_BOD, model.book_T[now_BO], temperature, generator)
        code_BT = code_BT.scatter(1, now_BO, drawn_BO)
        known_BT = known_BT.scatter(1, now_BO, torch.ones_like(now_BO, dtype=torch.bool))
    return TokenDataset({n: code_BT[:, model.modality_T == model.names.index(n)] for n in targets})


def known_places(known_BT: Tensor, num_places: int | None = None) -> Tensor:
    """Places (B, I) of each sample's known tokens in their order, filled up with others to ``num_places``.

    ``num_places``: default as many as the sample with most has, which waits for the device; for questions,
    and not for a training step.
    """
    num_places = most_known(known_BT) if num_places is None else num_places
    return known_BT.byte().argsort(dim=1, descending=True, stable=True)[:, :num_places]


def most_known(known_BT: Tensor) -> int:
    return int(known_BT.sum(1).max())
