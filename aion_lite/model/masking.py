"""Which tokens enter the encoder and which are asked of the decoder: AION's budgets, a batch at a time.

AION-1 (arXiv 2510.17960, section 4.2 and appendix B): the input budget goes first to a uniform number of
tokens of one modality drawn at random, then to the other modalities' tokens alike; the output budget is
shared out by a Beta(0.1, 1) law, heavy at zero, with one modality drawn first and unconstrained. Two things
differ here, because a data set of ten scalars is not a data set of two thousand tokens: the input budget of
each sample is itself drawn between ``min_inputs`` and ``num_inputs``, so that every number of inputs is met
in training, and output budget that the Beta law leaves unused goes to the tokens that remain instead of going
to waste.

No loop over samples, no host synchronisation.

B samples, T token places of all modalities in a row, G modalities.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample_masks(
    present_BT: Tensor,
    modality_T: Tensor,
    num_modalities: int,
    num_inputs: int,
    num_targets: int,
    generator: torch.Generator | None = None,
    min_inputs: int = 1,
    alpha: float = 0.1,
    hold_out_G: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw disjoint inputs and targets among the tokens that are present.

    Args:
        present_BT: bool, True = measured.
        modality_T: int64 (T,) ascending, modality of each token place, 0..num_modalities-1.
        num_inputs, num_targets: the budgets; at least one present token is left to be a target.
        min_inputs: fewest tokens that enter, as far as there are so many.
        alpha: of the Beta(alpha, 1) law of the output shares.
        hold_out_G: probability that a modality is kept out of a sample's inputs.

    Returns:
        input_BI, is_input_BI, target_BO, is_target_BO: places of the chosen tokens, and which of them count
        (a sample with few tokens does not fill its budgets).
    """
    B, T = present_BT.shape
    device = present_BT.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    enter_BT = present_BT
    if hold_out_G is not None:  # modalities kept out of this sample's inputs
        enter_BT = present_BT & (uniform(B, num_modalities) >= hold_out_G)[:, modality_T]
    counts_BG = torch.zeros(B, num_modalities, device=device)
    counts_BG.index_add_(1, modality_T, enter_BT.float())
    first_B = _draw_modality(counts_BG, uniform(B, num_modalities))
    rank_BT = _rank_within_modality(uniform(B, T), enter_BT, modality_T)

    # Inputs: `quota` tokens of the first modality, then the others in random order, then its other tokens.
    quota_B = (uniform(B) * counts_BG.gather(1, first_B[:, None])[:, 0]).floor() + 1
    is_first_BT = modality_T == first_B[:, None]
    rise_BT = torch.where(is_first_BT, torch.where(rank_BT < quota_B[:, None], 2.0, -2.0), 0.0)
    order_BT = (uniform(B, T) + rise_BT).masked_fill(~enter_BT, -9.0)
    available_B = present_BT.sum(1)
    most_B = (available_B - 1).clamp(min=0, max=num_inputs)
    least_B = most_B.clamp(max=min_inputs)
    budget_B = least_B + (uniform(B) * (most_B - least_B + 1)).floor().long()
    # Tokens of the first modality beyond its quota enter only where min_inputs asks for them; what is absent
    # or held out never enters, not even where there is nothing else.
    eligible_B = torch.maximum((order_BT > -1.0).sum(1), least_B).minimum(enter_BT.sum(1))
    budget_B = torch.minimum(budget_B, eligible_B)
    input_BI = order_BT.topk(min(num_inputs, T), dim=1).indices
    is_input_BI = torch.arange(input_BI.shape[1], device=device) < budget_B[:, None]

    # Targets: what is present and no input; one modality first, the others by Beta share, then the rest.
    free_BT = present_BT.scatter(1, input_BI, present_BT.gather(1, input_BI) & ~is_input_BI)
    free_BG = torch.zeros_like(counts_BG).index_add_(1, modality_T, free_BT.float())
    first_B = _draw_modality(free_BG, uniform(B, num_modalities))
    share_BG = uniform(B, num_modalities) ** (1 / alpha)  # Beta(alpha, 1), by the inverse of its cdf
    share_BG = share_BG.scatter(1, first_B[:, None], 1.0)
    rank_BT = _rank_within_modality(uniform(B, T), free_BT, modality_T)
    within_BT = rank_BT < (share_BG * free_BG)[:, modality_T]
    order_BT = uniform(B, T) + within_BT + (modality_T == first_B[:, None]) * within_BT
    target_BO = order_BT.masked_fill(~free_BT, -9.0).topk(min(num_targets, T), dim=1).indices
    return input_BI, is_input_BI, target_BO, free_BT.gather(1, target_BO)


def _draw_modality(counts_BG: Tensor, uniform_BG: Tensor) -> Tensor:
    """One modality that has tokens, uniformly; 0 where there is none."""
    return uniform_BG.masked_fill(counts_BG == 0, -1.0).argmax(1)


def _rank_within_modality(noise_BT: Tensor, keep_BT: Tensor, modality_T: Tensor) -> Tensor:
    """A random rank 0, 1, ... of each kept token among the kept tokens of its modality."""
    if torch.compiler.is_compiling() and len(modality_T) <= FEW:
        return _rank_by_pairs(noise_BT, keep_BT, modality_T)
    key_BT = modality_T * 2.0 + torch.where(keep_BT, noise_BT, 1.0 + noise_BT * 0.5)
    order_BT = key_BT.argsort(1)
    place_BT = torch.arange(noise_BT.shape[1], device=noise_BT.device).expand_as(order_BT)
    position_BT = torch.empty_like(order_BT).scatter_(1, order_BT, place_BT)
    places = modality_T.contiguous()
    return position_BT - torch.searchsorted(places, places)  # places of a modality are neighbours


FEW = 512  # token places


def _rank_by_pairs(noise_BT: Tensor, keep_BT: Tensor, modality_T: Tensor) -> Tensor:
    """The same by counting, T comparisons a token: one kernel of torch.compile, which takes minutes to write
    a sort. Of equal noise, which is rare, the earlier place comes first."""
    key_BT = torch.where(keep_BT, noise_BT, 1.0 + noise_BT * 0.5)
    place_T = torch.arange(len(modality_T), device=modality_T.device)
    mine_BT1, other_B1T = key_BT[:, :, None], key_BT[:, None, :]
    tie_TT = place_T < place_T[:, None]
    before_BTT = (other_B1T < mine_BT1) | ((other_B1T == mine_BT1) & tie_TT)
    return (before_BTT & (modality_T == modality_T[:, None])).sum(2)
