"""Which tokens enter and which are asked: hard rules for every draw, and many draws against scipy's law."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aion_lite.model import masking, sample_masks


def modality_of(sizes: list[int]) -> torch.Tensor:
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def draw(sizes, num_inputs, num_targets, present=None, num_samples=4000, seed=0, **kwargs):
    modality_T = modality_of(sizes)
    present = torch.ones(num_samples, sum(sizes), dtype=torch.bool) if present is None else present
    generator = torch.Generator().manual_seed(seed)
    return sample_masks(present, modality_T, len(sizes), num_inputs, num_targets, generator, **kwargs)


def chosen(place_BN: torch.Tensor, counts_BN: torch.Tensor, num_places: int) -> torch.Tensor:
    """Places and whether they count -> how often each place was chosen, (B, T)."""
    out = torch.zeros(len(place_BN), num_places, dtype=torch.int64)
    return out.scatter_add(1, place_BN, counts_BN.long())


def assert_fits(counts, shares) -> None:
    """Chi-square: a right sampler fails once in 10,000 seeds, and the seed is fixed."""
    counts, shares = np.asarray(counts), np.asarray(shares)
    assert stats.chisquare(counts, shares / shares.sum() * counts.sum()).pvalue > 1e-4, counts


@st.composite
def situations(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    num_inputs = draw(st.integers(0, 15))
    return {
        "sizes": sizes,
        "num_inputs": num_inputs,
        "num_targets": draw(st.integers(1, 15)),
        "min_inputs": draw(st.integers(0, 5)),
        "measured": draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])),
        "held_out": draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes))),
        "seed": draw(st.integers(0, 10_000)),
    }


@given(situations())
@settings(max_examples=150, deadline=None)
def test_rules_that_no_draw_breaks(s):
    T, B = sum(s["sizes"]), 40
    present = torch.rand(B, T, generator=torch.Generator().manual_seed(s["seed"])) < s["measured"]
    held_out = torch.tensor(s["held_out"])
    args = (s["sizes"], s["num_inputs"], s["num_targets"], present)
    kwargs = {"seed": s["seed"], "min_inputs": s["min_inputs"], "hold_out_G": held_out.float()}
    masks = draw(*args, **kwargs)
    again = draw(*args, **kwargs)
    assert all(torch.equal(x, y) for x, y in zip(masks, again, strict=True))

    input_BI, is_input_BI, target_BO, is_target_BO = masks
    assert input_BI.shape == is_input_BI.shape == (B, min(s["num_inputs"], T))
    assert target_BO.shape == is_target_BO.shape == (B, min(s["num_targets"], T))
    inputs, targets = chosen(input_BI, is_input_BI, T), chosen(target_BO, is_target_BO, T)
    assert inputs.max() <= 1 and targets.max() <= 1  # no token twice
    assert not (inputs & targets).any()
    may_enter = present & ~held_out[modality_of(s["sizes"])]
    assert not inputs.bool()[~may_enter].any() and not targets.bool()[~present].any()

    num_present, num_in = present.sum(1), inputs.sum(1)
    fewest = torch.minimum((num_present - 1).clamp(0, s["num_inputs"]), may_enter.sum(1))
    assert (num_in >= fewest.clamp(max=s["min_inputs"])).all()
    assert (num_in <= (num_present - 1).clamp(min=0)).all()  # so one token is left to be asked
    assert torch.equal(
        targets.sum(1), (num_present - num_in).clamp(max=s["num_targets"])
    )  # none goes to waste


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_ranks_by_pairs_are_scipys_of_each_modality(sizes, seed):
    g, modality = torch.Generator().manual_seed(seed), modality_of(sizes)
    noise, keep = torch.rand(6, len(modality), generator=g), torch.rand(6, len(modality), generator=g) < 0.6
    ranks = [f(noise, keep, modality) for f in (masking._rank_by_pairs, masking._rank_within_modality)]
    torch.testing.assert_close(*ranks)
    for row, kept, rank in zip(noise, keep, ranks[0], strict=True):
        for i in range(len(sizes)):
            mine = kept & (modality == i)
            assert (rank[mine].numpy() == stats.rankdata(row[mine], method="ordinal") - 1).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_compiled_for_a_gpu_the_law_is_the_same():
    B, sizes = 20_000, [5, 1, 3]
    present = torch.rand(B, 9, generator=torch.Generator().manual_seed(0)) < 0.8
    args = present.cuda(), modality_of(sizes).cuda(), 3, 4, 3, None, 1
    hold_out = torch.tensor([0.5, 0.0, 1.0])
    shares = []
    for sampler in (sample_masks, torch.compile(sample_masks, dynamic=False)):
        torch.manual_seed(0)
        masks = [x.cpu() for x in sampler(*args, hold_out_G=hold_out.cuda())]
        inputs, targets = chosen(*masks[:2], 9), chosen(*masks[2:], 9)
        assert inputs.max() == targets.max() == 1 and not (inputs & targets).any()
        assert not inputs[:, 6:].any() and not (inputs | targets).bool()[~present].any()
        shares.append(torch.cat([inputs, targets], 1).double().mean(0))
    assert (shares[0] - shares[1]).abs().max() < 4 * (0.5 / B) ** 0.5  # four standard errors


def test_seeds_differ_and_the_global_random_state_is_not_used():
    state = torch.get_rng_state()
    a, b = (draw([4, 4], 4, 4, num_samples=20, seed=seed)[0] for seed in (0, 1))
    assert not torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_number_of_inputs_is_met_alike():
    _, is_input_BI, _, _ = draw([1] * 10, 6, 10, min_inputs=2)
    counts = np.bincount(is_input_BI.sum(1), minlength=11)
    assert counts[:2].sum() == counts[7:].sum() == 0
    assert_fits(counts[2:7], np.ones(5))


def test_the_number_of_tokens_of_the_first_modality_is_uniform():
    """Only the first modality can enter, so that the inputs are its quota."""
    _, is_input_BI, _, _ = draw([6, 3], 6, 9, hold_out_G=torch.tensor([0.0, 1.0]), num_samples=8000)
    # Quota q and budget b are both uniform on 1..6, and the smaller one decides.
    shares = [2 * (6 - k) + 1 for k in range(1, 7)]
    assert_fits(np.bincount(is_input_BI.sum(1), minlength=7)[1:], shares)


@pytest.mark.parametrize("role", ["input", "target"])
@pytest.mark.parametrize("absent", [None, 1])
def test_the_first_modality_is_uniform_among_those_present(role, absent):
    sizes = [1, 4, 20]
    present = torch.ones(4000, sum(sizes), dtype=torch.bool)
    if absent is not None:
        present[:, modality_of(sizes) == absent] = False
    # One place alone goes to the modality that was drawn first.
    input_BI, is_input_BI, target_BO, is_target_BO = draw(sizes, int(role == "input"), 1, present)
    place, counts = (input_BI, is_input_BI) if role == "input" else (target_BO, is_target_BO)
    assert counts.all()
    seen = np.bincount(modality_of(sizes)[place[:, 0]], minlength=3)
    kept = [g for g in range(3) if g != absent]
    assert seen.sum() == seen[kept].sum()
    assert_fits(seen[kept], np.ones(len(kept)))


def test_all_tokens_of_a_modality_are_treated_alike():
    sizes, missing = [5, 7], [0, 8]
    present = torch.ones(6000, 12, dtype=torch.bool)
    present[:, missing] = False
    input_BI, is_input_BI, target_BO, is_target_BO = draw(sizes, 4, 3, present)
    for counts in (chosen(input_BI, is_input_BI, 12), chosen(target_BO, is_target_BO, 12)):
        counts = counts.sum(0).numpy()
        assert counts[missing].sum() == 0
        assert_fits(counts[1:5], np.ones(4))
        assert_fits(counts[[5, 6, 7, 9, 10, 11]], np.ones(6))


def asked_by_hand(size: int, num_targets: int, alpha: float, num_draws: int, seed: int = 7) -> np.ndarray:
    """Tokens asked of the second of modalities (1, size, size) where the first was drawn first, by numpy."""
    rng = np.random.default_rng(seed)
    shares = stats.beta(alpha, 1).rvs((num_draws, 2), random_state=rng)
    within = np.ceil(shares * size).astype(int)
    left, total = num_targets - 1, within.sum(1)
    from_within = rng.hypergeometric(within[:, 0], within[:, 1], np.minimum(left, total))
    from_rest = rng.hypergeometric(size - within[:, 0], size - within[:, 1], np.maximum(left - total, 0))
    return from_within + from_rest


@pytest.mark.parametrize(("alpha", "fits"), [(0.1, True), (1.0, False)])
def test_the_output_budget_is_shared_by_a_beta_law(alpha, fits):
    size, num_targets = 40, 41
    _, _, target_BO, is_target_BO = draw([1, size, size], 0, num_targets, num_samples=12_000)
    first = target_BO[:, 0] == 0  # targets come in the order in which they were taken
    assert is_target_BO.all() and 0.3 < first.float().mean() < 0.36
    asked = ((target_BO >= 1) & (target_BO <= size)).sum(1)[first].numpy()
    expected = asked_by_hand(size, num_targets, alpha, 12_000)
    pvalue = stats.ks_2samp(asked, expected).pvalue
    assert pvalue > 1e-4 if fits else pvalue < 1e-9  # a test that can't tell 0.1 from 1 would show nothing


def test_the_modality_drawn_first_takes_what_it_needs():
    _, _, target_BO, _ = draw([30, 30, 30], 0, 30)
    modality = modality_of([30, 30, 30])[target_BO]
    assert (modality == modality[:, :1]).all()


def test_held_out_modalities_enter_as_often_as_said():
    # Ten modalities of one token: wherever they may enter, they do so with the same chance.
    hold_out = torch.zeros(10)
    hold_out[3] = 0.75
    input_BI, is_input_BI, _, _ = draw([1] * 10, 5, 10, min_inputs=5, hold_out_G=hold_out, num_samples=20_000)
    entered = chosen(input_BI, is_input_BI, 10).float().mean(0)
    assert abs(float(entered[3]) - 0.25 * 0.5) < 0.01
    assert abs(float(entered[[0, 1, 2, 4, 5, 6, 7, 8, 9]].mean()) - (5 - 0.125) / 9) < 0.01


def test_where_only_a_held_out_modality_is_present_nothing_enters():
    present = torch.tensor([[False, True, True, True]]).expand(50, -1)
    _, is_input_BI, target_BO, is_target_BO = draw([1, 3], 2, 4, present, hold_out_G=torch.tensor([0.0, 1.0]))
    assert not is_input_BI.any()
    assert (chosen(target_BO, is_target_BO, 4) == present.long()).all()


@pytest.mark.parametrize("num_present", [0, 1])
def test_one_token_is_asked_and_none_is_nothing(num_present):
    present = torch.zeros(30, 6, dtype=torch.bool)
    present[:, 4] = bool(num_present)
    _, is_input_BI, target_BO, is_target_BO = draw([3, 3], 4, 4, present)
    assert not is_input_BI.any()
    assert is_target_BO.sum() == 30 * num_present
    assert (target_BO[is_target_BO] == 4).all()
