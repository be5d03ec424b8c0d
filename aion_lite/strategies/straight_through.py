"""Tokens drawn from a model's law so that a gradient passes through them: straight-through Gumbel.

The likeliest code has no gradient, and a mixture of codes is no code. Here what comes out is one code, drawn
by the law, and the gradient is that of a softened draw (Jang et al. 2017, section 2.2; Maddison et al. 2017).
Nothing here waits for the host, so it may stand in a recorded step.

B samples, O tokens, D width, K codes, G codebooks, J levels of a grid, L values of a level, F coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from aion_lite.model.transformer import MultimodalTransformer


def straight_through(
    logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """One-hot rows (..., K) drawn from softmax(logits); their gradient is that of a softened draw.

    Forward: the one-hot of argmax(logits + g), g Gumbel noise. Backward: softmax((logits + g) / temperature);
    a low temperature has less bias and more variance. Logits of minus infinity are never drawn.

    Raises ValueError where the temperature isn't above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}: at 0 nothing has a gradient.")
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    soft = ((logits + noise) / temperature).softmax(-1)
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hard - soft.detach() + soft


class TokenDrawer(nn.Module):
    """Draws tokens from what a model's decoder made: the codes, and where they lie.

    The places carry the gradient; they enter ``model.code.value.at`` in place of codes.
    """

    def __init__(self, model: MultimodalTransformer):
        super().__init__()
        books = list(model.codebooks.values())
        self.has_places = model.code.table is None  # every code is embedded by where it lies
        width = max((s.features.shape[1] for s in books if s.features is not None), default=1)
        J = max(len(s.levels) for s in books)
        L = max((max(s.levels) for s in books if s.levels), default=1)
        levels = torch.zeros(len(books), J, L)
        for g, spec in enumerate(books):
            basis = 1
            for j, size in enumerate(spec.levels if spec.geometry == "grid" else ()):
                levels[g, j, :size] = spec.features[torch.arange(size) * basis, j].float().cpu()
                basis *= size
        self.width = width
        self.register_buffer("level_values", levels, persistent=False)  # (G, J, L)

    def forward(
        self, model: MultimodalTransformer, h_BOD: Tensor, place_BO: Tensor, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """What ``model.decode`` made of ``place_BO`` -> codes (B, O) and where they lie (B, O, F)."""
        head, book_BO = model.head, model.book_T[place_BO]
        h_BOD = head.norm(h_BOD)
        code_BO = torch.zeros_like(book_BO)
        x_BOF = h_BOD.new_zeros(*book_BO.shape, self.width, dtype=torch.float32)
        if head.flat is not None:
            drawn_BOK = straight_through(head.flat(h_BOD, book_BO), temperature)
            code_BO = drawn_BOK.argmax(-1)
            if head.flat.shared is not None:
                at_BOK = head.flat.position[book_BO]
                at_BOK = torch.where(at_BOK.isfinite(), at_BOK, 0.0)
                x_BOF = F.pad((drawn_BOK * at_BOK).sum(-1, keepdim=True), (0, self.width - 1))
        if head.level is not None:
            grid_code_BO, grid_x_BOF = self._levels(head.level, h_BOD, book_BO, temperature)
            is_grid_BO = head.is_grid[book_BO]
            code_BO = torch.where(is_grid_BO, grid_code_BO, code_BO)
            x_BOF = torch.where(is_grid_BO[..., None], grid_x_BOF, x_BOF)
        return code_BO, x_BOF

    def _levels(self, level: nn.Module, h_BOD: Tensor, book_BO: Tensor, temperature: float):
        """Level by level, each given the levels drawn before it."""
        hidden_BOD, J, L = level.inner(h_BOD), len(level.outer), level.outer[0].out_features
        levels_BOJ, basis_BOJ = level.levels[book_BO], level.basis[book_BO]
        rows_GJLD = level.before.weight.view(-1, J, L, hidden_BOD.shape[-1])
        code_BO, x = torch.zeros_like(book_BO), []
        for j, outer in enumerate(level.outer):
            outside_BOL = torch.arange(L, device=h_BOD.device) >= levels_BOJ[..., j, None]
            logits_BOL = outer(F.gelu(hidden_BOD)).float().masked_fill(outside_BOL, float("-inf"))
            drawn_BOL = straight_through(logits_BOL, temperature)
            value_BO = drawn_BOL.argmax(-1)
            code_BO = code_BO + value_BO * basis_BOJ[..., j]
            x.append((drawn_BOL * self.level_values[book_BO, j]).sum(-1))
            if drawn_BOL.requires_grad:
                told_BOD = torch.einsum("bol,bold->bod", drawn_BOL, rows_GJLD[book_BO, j])
            else:
                told_BOD = level.before((book_BO * J + j) * L + value_BO)
            hidden_BOD = hidden_BOD + told_BOD
        x_BOJ = torch.stack(x, -1)
        return code_BO, F.pad(x_BOJ, (0, self.width - J))
