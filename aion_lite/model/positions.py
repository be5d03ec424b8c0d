"""Fixed sine-cosine positions of tokens on a line or a grid (Vaswani et al. 2017; 2-D as in 4M and MAE)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sincos_positions(grid: Sequence[int], dim: int) -> Tensor:
    """(prod(grid), dim): the width is shared out evenly over the grid's axes; a lone token gets zeros."""
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float32) for n in grid)).reshape(
        -1, len(grid)
    )
    if len(places) == 1:
        return torch.zeros(1, dim)
    half = dim // (2 * len(grid))
    omega = 10_000.0 ** -(torch.arange(half) / half)
    angles = places[:, :, None] * omega  # (places, axes, half)
    out = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return torch.nn.functional.pad(out, (0, dim - out.shape[1]))
