"""Codes keep their geometry on the way in: rows of their own, laws of nearness."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aion_lite.codecs import TokenSpec
from aion_lite.model.codebook import CodeEmbedding
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
