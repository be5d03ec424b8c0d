"""Codes keep their geometry on the way out: probabilities, soft targets, the chain rule on a grid."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aion_lite.codecs import TokenSpec
from aion_lite.model.head import CodeHead
from aion_lite.quantizers import FiniteScalarQuantizer, ScalarReservoirQuantizer

DIM = 32


def ordinal(num_codes: int, seed: int = 0) -> TokenSpec:
    quantizer = ScalarReservoirQuantizer(num_codes, 1000)
    quantizer.update(torch.randn(1000, generator=torch.Generator().manual_seed(seed)))
    return TokenSpec(1, num_codes, "ordinal", quantizer.code_features(), quantizer.values)


def grid(*levels: int) -> TokenSpec:
    fsq = FiniteScalarQuantizer(levels)
    return TokenSpec(4, fsq.codebook_size, "grid", fsq.code_features(), levels=levels, grid=(2, 2))


def catalogue() -> dict[str, TokenSpec]:
    """Two on a line, two categories, two on grids, in turn, so that rows can get mixed up."""
    return {
        "mass": ordinal(16), "sex": TokenSpec(1, 2, "nominal"), "image": grid(5, 4, 3),
        "size": ordinal(40, seed=1), "kind": TokenSpec(1, 5, "nominal"), "spectrum": grid(3, 7),
    }  # fmt: skip


SPECS = catalogue()
NAMES, LIST = list(SPECS), list(SPECS.values())
ALL = [(g, k) for g, spec in enumerate(LIST) for k in range(spec.vocab_size)]
ALL_BOOKS, ALL_CODES = (torch.tensor(column)[None] for column in zip(*ALL, strict=True))  # (1, all codes)


def weight_of(head: CodeHead, g: int) -> torch.Tensor:
    """The output rows of one codebook that has one softmax."""
    flat, by_value = head.flat, head.level is not None
    if by_value and LIST[g].geometry == "ordinal":
        return flat.shared.weight[: LIST[g].vocab_size]
    own = [s for s in LIST[:g] if not by_value or s.geometry == "nominal"]
    first = sum(s.vocab_size for s in own)
    return flat.own.weight[first : first + LIST[g].vocab_size]


def grid_by_hand(head: CodeHead, h_D: torch.Tensor, g: int) -> torch.Tensor:
    """Log-probabilities of every code of a grid, by loops over its levels."""
    level, levels, logp = head.level, LIST[g].levels, []
    J, L = len(level.outer), level.outer[0].out_features
    for values in itertools.product(*(range(n) for n in reversed(levels))):
        values, hidden, total = values[::-1], level.inner(h_D), 0.0  # the first level turns fastest
        for j, value in enumerate(values):
            logits = level.outer[j](torch.nn.functional.gelu(hidden))[: levels[j]]
            total = total + logits.log_softmax(0)[value]
            hidden = hidden + level.before.weight[(g * J + j) * L + value]
        logp.append(total)
    return torch.stack(logp)


@pytest.mark.parametrize("embedding", ["value", "table"])
def test_probabilities_are_over_each_codebooks_own_codes(embedding):
    torch.manual_seed(0)
    head = CodeHead(SPECS, DIM, embedding)
    book_BN, h_BND = torch.randint(len(SPECS), (3, 20)), torch.randn(3, 20, DIM)
    with torch.no_grad():
        logp_BNK = head(h_BND, book_BN)
        torch.testing.assert_close(logp_BNK.exp().sum(-1), torch.ones(3, 20))
        for b, n in np.ndindex(3, 20):
            g = int(book_BN[b, n])
            h_D = torch.nn.functional.layer_norm(h_BND[b, n], (DIM,), head.norm.weight)
            if embedding == "value" and LIST[g].geometry == "grid":
                expected = grid_by_hand(head, h_D, g)
            else:
                expected = (weight_of(head, g) @ h_D).log_softmax(-1)
            size = LIST[g].vocab_size
            torch.testing.assert_close(logp_BNK[b, n, :size], expected, rtol=1e-4, atol=1e-5)
            assert (logp_BNK[b, n, size:] == -torch.inf).all()


@pytest.mark.parametrize("embedding", ["value", "table"])
@pytest.mark.parametrize("name", NAMES)
def test_fewer_codes_than_the_largest_codebook_are_the_same_cut_short(embedding, name):
    torch.manual_seed(0)
    head, K = CodeHead(SPECS, DIM, embedding), SPECS[name].vocab_size
    h, book = torch.randn(3, 2, DIM), torch.full((3, 2), NAMES.index(name))
    torch.testing.assert_close(head(h, book, K), head(h, book)[..., :K])


@pytest.mark.parametrize("embedding", ["value", "table"])
@pytest.mark.parametrize("names", [NAMES, ["image"], ["mass", "size"], ["sex", "spectrum"]])
def test_losses_are_those_of_the_probabilities(embedding, names):
    torch.manual_seed(1)
    specs = {name: SPECS[name] for name in names}
    pairs = [(g, k) for g, spec in enumerate(specs.values()) for k in range(spec.vocab_size)]
    book, code = (torch.tensor(column)[None] for column in zip(*pairs, strict=True))
    head, h = CodeHead(specs, DIM, embedding), torch.randn(1, len(pairs), DIM)
    logp = head(h, book)
    soft, hard = head.losses(h, book, code, smoothing=0.0)
    torch.testing.assert_close(hard, -logp.gather(-1, code[..., None])[..., 0])
    assert torch.equal(soft, hard)


def test_soft_losses_are_cross_entropies_against_the_spread_targets():
    head, h = CodeHead(SPECS, DIM, "value"), torch.randn(1, len(ALL), DIM)
    soft, hard = head.losses(h, ALL_BOOKS, ALL_CODES, smoothing=0.2)
    logp = head(h, ALL_BOOKS)
    for n, (g, k) in enumerate(ALL):
        if LIST[g].geometry == "ordinal":
            position = LIST[g].features[:, 0].double().numpy()
            density = stats.norm(position[k], 0.2).pdf(position)
            expected = -(density / density.sum()) @ logp[0, n, : len(position)].detach().double().numpy()
            assert float(soft[0, n].detach()) == pytest.approx(expected, rel=1e-4)
        else:
            assert soft[0, n] == hard[0, n]


def test_regression_adds_the_squared_error_of_the_mean_on_a_line_and_nothing_elsewhere():
    head, h = CodeHead(SPECS, DIM, "value"), torch.randn(1, len(ALL), DIM)
    with torch.no_grad():
        plain, hard = head.losses(h, ALL_BOOKS, ALL_CODES, smoothing=0.1)
        more, same = head.losses(h, ALL_BOOKS, ALL_CODES, smoothing=0.1, regression=3.0)
        law = head(h, ALL_BOOKS).exp()
    assert torch.equal(hard, same)
    for n, (g, k) in enumerate(ALL):
        expected = 0.0
        if LIST[g].geometry == "ordinal":
            position = LIST[g].features[:, 0].double()
            expected = 3 * float(law[0, n, : len(position)].double() @ position - position[k]) ** 2
        assert float(more[0, n] - plain[0, n]) == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_the_law(name):
    torch.manual_seed(2)
    head, g, num = CodeHead(SPECS, DIM, "value"), NAMES.index(name), 20_000
    with torch.no_grad():
        for outer in head.level.outer:
            outer.weight.mul_(4)
        h, book = torch.randn(DIM).expand(1, num, DIM), torch.full((1, num), g)
        law = head(h[:, :1], book[:, :1])[0, 0].exp()[: SPECS[name].vocab_size].double().numpy()
        drawn = head.sample(h, book, generator=torch.Generator().manual_seed(0))[0].numpy()
        likeliest = head.sample(h[:, :1], book[:, :1], temperature=0)
    counts = np.bincount(drawn, minlength=len(law))
    assert stats.chisquare(counts, law / law.sum() * num).pvalue > 1e-4
    if SPECS[name].geometry != "grid":
        assert int(likeliest) == law.argmax()


def test_cost_of_a_grid_follows_its_levels_and_not_its_codes_nor_the_catalogue():
    def head_of(*specs):
        return CodeHead({str(i): spec for i, spec in enumerate(specs)}, DIM, "value").level

    aion = head_of(grid(7, 5, 5, 5, 5))
    assert sum(o.weight.numel() for o in aion.outer) == 5 * 7 * DIM  # AION's 4,375 codes
    many = head_of(*[grid(7, 5, 5, 5, 5)] * 10)
    assert sum(o.weight.numel() for o in many.outer) == 5 * 7 * DIM


def test_the_head_of_codes_on_a_line_is_shared_and_no_larger_than_the_longest():
    head = CodeHead(SPECS, DIM, "value")
    assert head.flat.shared.weight.shape == (40, DIM)
    assert head.flat.own.weight.shape == (2 + 5, DIM)
    table = CodeHead(SPECS, DIM, "table")
    assert table.level is None and table.flat.own.weight.shape == (16 + 2 + 60 + 40 + 5 + 21, DIM)


def test_impossible_codes_give_no_nan_gradient():
    head, h = CodeHead(SPECS, DIM, "value"), torch.randn(1, len(ALL), DIM, requires_grad=True)
    head.losses(h, ALL_BOOKS, ALL_CODES, 0.05)[0].sum().backward()
    assert h.grad.isfinite().all() and all(p.grad.isfinite().all() for p in head.parameters())


@given(half=st.integers(2, 40), smoothing=st.floats(0.001, 0.3))
@settings(max_examples=25)
def test_soft_targets_are_symmetric_in_the_middle(half, smoothing):
    size = 2 * half + 1
    features = torch.linspace(-1, 1, size)[:, None]
    head = CodeHead({"x": TokenSpec(1, size, "ordinal", features, features[:, 0])}, 8, "value")
    target = head.flat.spread_targets(torch.tensor([[half]]), torch.tensor([[0]]), smoothing)[0, 0]
    torch.testing.assert_close(target, target.flip(0))
    torch.testing.assert_close(target.sum(), torch.tensor(1.0))


def test_soft_targets_become_hard_ones():
    flat = torch.tensor([spec.geometry != "grid" for spec in LIST])[ALL_BOOKS]
    book, code = ALL_BOOKS[flat][None], ALL_CODES[flat][None]
    head = CodeHead(SPECS, DIM, "value").flat
    hard = torch.nn.functional.one_hot(code, 40).float()
    assert torch.equal(head.spread_targets(code, book, 1e-6), hard)
