"""Codes keep their geometry on the way in and out: rows, laws of nearness, probabilities, soft targets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aion_lite.codecs import TokenSpec
from aion_lite.model.codebook import CodeEmbedding, CodeHead
from aion_lite.quantizers import FiniteScalarQuantizer, ScalarReservoirQuantizer

DIM = 32
LEVELS = (5, 4, 3)


def ordinal(num_codes: int, seed: int = 0) -> TokenSpec:
    quantizer = ScalarReservoirQuantizer(num_codes, 1000)
    quantizer.update(torch.randn(1000, generator=torch.Generator().manual_seed(seed)))
    return TokenSpec(1, num_codes, "ordinal", quantizer.code_features(), quantizer.values)


def catalogue() -> dict[str, TokenSpec]:
    """Ordinal, category, image on a grid, ordinal, category: in turn, so that rows can get mixed up."""
    fsq = FiniteScalarQuantizer(LEVELS)
    image = TokenSpec(4, 60, "grid", fsq.code_features(), levels=LEVELS, grid=(2, 2))
    return {
        "mass": ordinal(16), "sex": TokenSpec(1, 2, "nominal"), "image": image,
        "size": ordinal(40, seed=1), "kind": TokenSpec(1, 5, "nominal"),
    }  # fmt: skip


SPECS = catalogue()
NAMES = list(SPECS)
ALL = [(g, k) for g, spec in enumerate(SPECS.values()) for k in range(spec.vocab_size)]
ALL_MODALITIES, ALL_CODES = (
    torch.tensor(column)[None] for column in zip(*ALL, strict=True)
)  # (1, all codes)


def embed_all(num_codes: int, embedding: str, seed: int) -> torch.Tensor:
    """(codes, D) of one ordinal modality."""
    torch.manual_seed(seed)
    module = CodeEmbedding({"x": ordinal(num_codes)}, DIM, embedding, num_frequencies=2)
    with torch.no_grad():
        return module(torch.arange(num_codes)[None], torch.zeros(1, num_codes, dtype=torch.int64))[0]


def steps_and_distances(x_KD: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of every pair of codes: how many codes apart, and how far apart embedded."""
    i, j = np.triu_indices(len(x_KD), 1)
    return j - i, torch.cdist(x_KD, x_KD).numpy()[i, j]


@given(seed=st.integers(0, 100_000), num_codes=st.integers(24, 100))
@settings(max_examples=15, deadline=None)
def test_by_value_neighbours_are_near_and_by_table_they_are_not(seed, num_codes):
    steps, value = steps_and_distances(embed_all(num_codes, "value", seed))
    _, table = steps_and_distances(embed_all(num_codes, "table", seed))
    near, far = steps == 1, steps >= num_codes // 2
    assert value[near].mean() < 0.25 * value[far].mean()
    assert stats.spearmanr(steps, value).statistic > 0.6
    assert 0.8 < table[near].mean() / table[far].mean() < 1.25
    assert abs(stats.spearmanr(steps, table).statistic) < 0.4


def test_on_a_grid_nearness_is_that_of_the_coordinates():
    torch.manual_seed(0)
    module = CodeEmbedding({"image": SPECS["image"]}, DIM, "value", num_frequencies=2)
    x_KD = module(torch.arange(60)[None], torch.zeros(1, 60, dtype=torch.int64))[0].detach()
    i, j = np.triu_indices(60, 1)
    grid = torch.cdist(SPECS["image"].features, SPECS["image"].features).numpy()[i, j]
    assert stats.spearmanr(grid, torch.cdist(x_KD, x_KD).numpy()[i, j]).statistic > 0.7


def test_the_same_place_in_two_modalities_is_not_the_same_thing():
    spec = ordinal(16)
    module = CodeEmbedding({"a": spec, "b": spec}, DIM, "value", 2)
    a, b = module(torch.tensor([[3, 3]]), torch.tensor([[0, 1]]))[0]
    assert not torch.allclose(a, b)


def test_every_code_of_a_mixed_catalogue_is_embedded_by_its_own_place_or_row():
    module = CodeEmbedding(SPECS, DIM, "value", 2)
    by_value = torch.tensor([SPECS[NAMES[g]].features is not None for g, _ in ALL])
    rows = (module.first_row[ALL_MODALITIES] + ALL_CODES)[0]
    features = [s.features for s in SPECS.values() if s.features is not None]
    expected = torch.cat([torch.nn.functional.pad(f, (0, 3 - f.shape[1])) for f in features])
    assert torch.equal(module.value.features[rows[by_value]], expected)
    out = module(ALL_CODES, ALL_MODALITIES)[0]
    assert torch.equal(out[~by_value], module.table.weight)  # each row once, in order
    alone = module.value(rows[by_value][None], module.member[ALL_MODALITIES[:, by_value]])
    torch.testing.assert_close(out[by_value], alone[0])


@pytest.mark.parametrize("kinds", [["mass", "size"], ["sex", "kind"], ["image"], NAMES])
def test_the_table_has_one_row_a_code_whatever_the_geometry(kinds):
    specs = {name: SPECS[name] for name in kinds}
    module = CodeEmbedding(specs, DIM, "table", 2)
    pairs = [(g, k) for g, spec in enumerate(specs.values()) for k in range(spec.vocab_size)]
    modalities, codes = (torch.tensor(column)[None] for column in zip(*pairs, strict=True))
    assert module.value is None
    assert torch.equal(module(codes, modalities)[0], module.table.weight)


def logits_by_hand(head: CodeHead, h_D: torch.Tensor, g: int) -> torch.Tensor:
    """Of one token of modality g: its own rows of the right matrix, picked with a loop."""
    specs = list(SPECS.values())
    is_shared = head.shared is not None and specs[g].geometry == "ordinal"
    if is_shared:
        weight = head.shared.weight[: specs[g].vocab_size]
    else:
        own = [s for s in specs[:g] if head.shared is None or s.geometry != "ordinal"]
        first = sum(s.vocab_size for s in own)
        weight = head.own.weight[first : first + specs[g].vocab_size]
    h_D = torch.nn.functional.layer_norm(h_D, (DIM,), head.norm.weight)
    return weight @ h_D


@pytest.mark.parametrize("embedding", ["value", "table"])
def test_probabilities_are_over_each_modalitys_own_codes(embedding):
    torch.manual_seed(0)
    head = CodeHead(SPECS, DIM, embedding)
    modality_BN = torch.randint(len(SPECS), (3, 20))
    h_BND = torch.randn(3, 20, DIM)
    logp_BNK = head(h_BND, modality_BN)
    assert logp_BNK.shape == (3, 20, 60)
    torch.testing.assert_close(logp_BNK.exp().sum(-1), torch.ones(3, 20))
    for b, n in np.ndindex(3, 20):
        g = int(modality_BN[b, n])
        size = list(SPECS.values())[g].vocab_size
        torch.testing.assert_close(
            logp_BNK[b, n, :size], logits_by_hand(head, h_BND[b, n], g).log_softmax(-1), rtol=1e-4, atol=1e-5
        )
        assert (logp_BNK[b, n, size:] == -torch.inf).all()


def test_the_head_of_codes_on_a_line_is_shared_and_no_larger_than_the_longest():
    head = CodeHead(SPECS, DIM, "value")
    assert head.shared.weight.shape == (40, DIM)
    assert head.own.weight.shape == (60 + 2 + 5, DIM)
    assert CodeHead(SPECS, DIM, "table").own.weight.shape == (16 + 2 + 60 + 40 + 5, DIM)


def test_impossible_codes_give_no_nan_gradient():
    head, h = CodeHead(SPECS, DIM, "value"), torch.randn(1, len(ALL), DIM, requires_grad=True)
    logp = head(h, ALL_MODALITIES)
    logp.gather(-1, ALL_CODES[..., None]).sum().backward()
    assert h.grad.isfinite().all() and all(p.grad.isfinite().all() for p in head.parameters())


@given(smoothing=st.floats(0.001, 0.3))
@settings(max_examples=25, deadline=None)
def test_soft_targets_are_a_gaussian_in_value_on_a_line_and_one_hot_elsewhere(smoothing):
    head = CodeHead(SPECS, DIM, "value")
    target_NK = head.spread_targets(ALL_CODES, ALL_MODALITIES, smoothing)[0]
    torch.testing.assert_close(target_NK.sum(-1), torch.ones(len(ALL)))
    for n, (g, k) in enumerate(ALL):
        spec, got = SPECS[NAMES[g]], target_NK[n].numpy()
        assert got[spec.vocab_size :].sum() == 0
        assert got.argmax() == k
        if spec.geometry == "ordinal":
            position = spec.features[:, 0].double().numpy()
            density = stats.norm(position[k], smoothing).pdf(position)
            np.testing.assert_allclose(got[: spec.vocab_size], density / density.sum(), atol=1e-5)
        else:
            assert got[k] == 1


@given(half=st.integers(2, 40), smoothing=st.floats(0.001, 0.3))
@settings(max_examples=25, deadline=None)
def test_soft_targets_are_symmetric_in_the_middle(half, smoothing):
    size = 2 * half + 1
    features = torch.linspace(-1, 1, size)[:, None]
    head = CodeHead({"x": TokenSpec(1, size, "ordinal", features, features[:, 0])}, 8, "value")
    target = head.spread_targets(torch.tensor([[half]]), torch.tensor([[0]]), smoothing)[0, 0]
    torch.testing.assert_close(target, target.flip(0))


def test_soft_targets_become_hard_ones():
    head = CodeHead(SPECS, DIM, "value")
    hard = torch.nn.functional.one_hot(ALL_CODES, 60).float()
    assert torch.equal(head.spread_targets(ALL_CODES, ALL_MODALITIES, 1e-6), hard)
    table = CodeHead(SPECS, DIM, "table")
    assert torch.equal(table.spread_targets(ALL_CODES, ALL_MODALITIES, 0.2), hard)  # a table knows no line
