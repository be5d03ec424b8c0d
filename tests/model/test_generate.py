"""Joint samples: the model's own law when drawn one by one, the likeliest code at temperature 0, no leak."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aion_lite.codecs import TokenSpec
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import MultimodalTransformer

SPECS = {
    "x": TokenSpec(1, 6, "ordinal", torch.linspace(-1, 1, 6)[:, None], torch.linspace(-1, 1, 6)),
    "pair": TokenSpec(2, 3, "nominal"),
    "image": TokenSpec(4, 5, "nominal", grid=(2, 2)),
}


def make() -> MultimodalTransformer:
    torch.manual_seed(0)
    model = MultimodalTransformer(SPECS, d_model=16, nhead=2, num_layers=1)
    for p in model.parameters():  # away from the start, where tokens hardly depend on each other
        torch.nn.init.normal_(p, mean=1.0 if p.ndim == 1 else 0.0, std=0.4)
    return model.eval()


MODEL = make()


def tokens(num_samples: int, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        n: torch.randint(s.vocab_size, (num_samples, s.num_tokens), generator=g) for n, s in SPECS.items()
    }


def generate(inputs, target, seed=0, **kwargs) -> TokenDataset:
    return MODEL.generate(inputs, target, generator=torch.Generator().manual_seed(seed), **kwargs)


def test_temperature_zero_on_one_token_is_the_likeliest_code():
    x = tokens(20)
    drawn = generate(x, "x", temperature=0.0)
    assert torch.equal(drawn.tokens["x"], MODEL.predict(x, "x").log_probs.argmax(-1))


@given(num_steps=st.integers(1, 20), temperature=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_shapes_codebooks_and_repetition(num_steps, temperature, seed):
    kwargs = {"num_steps": num_steps, "temperature": temperature, "seed": seed}
    drawn = generate(tokens(5), ["image", "pair"], **kwargs)
    again = generate(tokens(5), ["image", "pair"], **kwargs)
    assert list(drawn.tokens) == ["image", "pair"] and all(p.all() for p in drawn.present.values())
    for name, codes in drawn.tokens.items():
        assert codes.shape == (5, SPECS[name].num_tokens) and codes.dtype == torch.int64
        assert 0 <= codes.min() and codes.max() < SPECS[name].vocab_size
        assert torch.equal(codes, again.tokens[name])


def test_seeds_differ_and_the_global_random_state_is_not_used():
    state = torch.get_rng_state()
    a, b = (generate(tokens(50), "image", seed=seed).tokens["image"] for seed in (0, 1))
    assert not torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_token_follows_the_predicted_law():
    inputs = {n: t.expand(6000, -1) for n, t in tokens(1).items() if n != "x"}
    counts = np.bincount(generate(inputs, "x").tokens["x"][:, 0], minlength=6)
    expected = MODEL.predict(tokens(1), "x").probabilities[0].double().numpy()
    assert stats.chisquare(counts, expected / expected.sum() * 6000).pvalue > 1e-3


def pair_law(num_steps: int) -> np.ndarray:
    """(3, 3) chance of both tokens of "pair" given x, each given the one drawn before it."""
    place_T = torch.arange(7)[None]
    code = torch.zeros(1, 7, dtype=torch.int64)
    code[0, 0] = 2

    def law(known: dict[int, int], asked: list[int]) -> np.ndarray:
        codes, seen = code.clone(), torch.zeros(1, 7, dtype=torch.bool)
        seen[0, 0] = True
        for place, value in known.items():
            codes[0, place], seen[0, place] = value, True
        context = MODEL.encode(codes, place_T, seen)
        places = torch.tensor([asked])
        h = MODEL.decode(places, torch.ones_like(places, dtype=torch.bool), *context)
        logp = MODEL.head(h, MODEL.book_T[places])
        return logp[0, :, :3].exp().double().numpy()

    with torch.no_grad():
        if num_steps == 1:
            return np.outer(*law({}, [1, 2]))
        first = np.stack([law({}, [1])[0][a] * law({1: a}, [2])[0] for a in range(3)])
        second = np.stack([law({}, [2])[0][b] * law({2: b}, [1])[0] for b in range(3)], axis=1)
        return (first + second) / 2  # either order, half of the time


@pytest.mark.parametrize("num_steps", [1, 2])
def test_two_tokens_follow_the_joint_law_of_their_steps(num_steps):
    inputs = {"x": torch.full((20_000, 1), 2)}
    drawn = generate(inputs, "pair", num_steps=num_steps).tokens["pair"].numpy()
    counts = np.zeros((3, 3))
    np.add.at(counts, (drawn[:, 0], drawn[:, 1]), 1)
    right, wrong = (pair_law(n).ravel() for n in (num_steps, 3 - num_steps))
    assert stats.chisquare(counts.ravel(), right / right.sum() * 20_000).pvalue > 1e-3
    assert stats.chisquare(counts.ravel(), wrong / wrong.sum() * 20_000).pvalue < 1e-6


def test_the_targets_own_tokens_do_not_leak():
    x, other = tokens(8), tokens(8, seed=9)
    bare = {"x": x["x"]}
    for inputs in (x | {"x": x["x"]}, other | {"x": x["x"]}):
        drawn = generate(inputs, ["pair", "image"])
        assert all(
            torch.equal(drawn.tokens[n], generate(bare, ["pair", "image"]).tokens[n]) for n in drawn.tokens
        )


def test_from_nothing_measured():
    nothing = TokenDataset(tokens(4), {n: torch.zeros(4, dtype=torch.bool) for n in SPECS})
    assert generate(nothing, list(SPECS)).tokens["image"].shape == (4, 4)
    assert generate(tokens(4), list(SPECS)).tokens["x"].shape == (4, 1)


def test_inputs_are_left_alone():
    x = TokenDataset(tokens(4))
    before = {n: t.clone() for n, t in x.tokens.items()}
    generate(x, "image")
    assert all(torch.equal(x.tokens[n], before[n]) for n in before)


@pytest.mark.parametrize(
    "kwargs", [{"temperature": -1.0}, {"temperature": np.nan}, {"temperature": np.inf}, {"num_steps": 0}]
)
def test_bad_settings_are_refused(kwargs):
    with pytest.raises(ValueError, match="finite temperature >= 0 and num_steps >= 1"):
        generate(tokens(2), "x", **kwargs)
