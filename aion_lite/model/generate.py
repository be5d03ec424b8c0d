"""Joint samples of many tokens: random-order generation a few tokens at a time (ROAR, as in 4M and AION).

Each step predicts all tokens that are still missing, draws some of them, and lets those into the encoder. All
samples of a batch go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

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
    if temperature < 0 or num_steps < 1:
        raise ValueError(
            f"generate needs temperature >= 0 and num_steps >= 1, got {temperature} and {num_steps}."
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
    place_BT = torch.arange(code_BT.shape[1], device=device).expand_as(code_BT)
    for step in range(min(num_steps, num_asked)):
        start, stop = (num_asked * s // min(num_steps, num_asked) for s in (step, step + 1))
        context = model.encode(code_BT, place_BT, known_BT)
        missing_BO = order_BA[:, start:]
        h_BOD = model.decode(missing_BO, torch.ones_like(missing_BO, dtype=torch.bool), *context)
        now_BO = missing_BO[:, : stop - start]
        drawn_BO = model.head.sample(h_BOD[:, : stop - start], model.book_T[now_BO], temperature, generator)
        code_BT = code_BT.scatter(1, now_BO, drawn_BO)
        known_BT = known_BT.scatter(1, now_BO, torch.ones_like(now_BO, dtype=torch.bool))
    return TokenDataset({n: code_BT[:, model.modality_T == model.names.index(n)] for n in targets})
