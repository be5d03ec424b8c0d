"""The mix of two pools: exact shares, whole passes, real validation; at share 0 it is plain ``train``."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from aion_lite.codecs import TokenSpec
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import MultimodalTransformer
from aion_lite.strategies.curriculum import Mixture, staged, train_with_synthetic_curriculum
from aion_lite.training import train

SPECS = {
    "x": TokenSpec(1, 8, "ordinal", torch.linspace(-1, 1, 8)[:, None], torch.linspace(-1, 1, 8)),
    "pair": TokenSpec(2, 3, "nominal"),
}


def tokens(num_samples: int, seed: int = 0, by_token: bool = False) -> TokenDataset:
    g = torch.Generator().manual_seed(seed)
    drawn = {
        n: torch.randint(s.vocab_size, (num_samples, s.num_tokens), generator=g) for n, s in SPECS.items()
    }
    shape = (num_samples, 2) if by_token else (num_samples,)
    return TokenDataset(drawn, {"pair": torch.rand(shape, generator=g) < 0.7})


def transformer() -> MultimodalTransformer:
    return MultimodalTransformer(SPECS, d_model=8, nhead=2, num_layers=1, dropout=0.2)


def curriculum(module, synthetic, real, **kwargs):
    kwargs = {"batch_size": 6, "progress": False, "device": "cpu", **kwargs}
    return train_with_synthetic_curriculum(module, synthetic, real, **kwargs)


def assert_same_run(module, history, other, other_history) -> None:
    states = module.state_dict().values(), other.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    assert history.records == other_history.records and history.best_step == other_history.best_step


class Seen(nn.Module):
    """Notes the samples of every batch, and whether they came for training. Real ones are below 1,000."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.batches: list[tuple[bool, list[int]]] = []

    def loss(self, x):
        self.batches.append((self.training, x[:, 0].int().tolist()))
        return (self.weight - x[:, 0] / 1000).square().mean(), {}


def seen(num_real: int = 10, num_synthetic: int = 7, **kwargs) -> list[tuple[bool, list[int]]]:
    module = Seen()
    real, synthetic = (
        torch.arange(float(num_real))[:, None],
        1000 + torch.arange(float(num_synthetic))[:, None],
    )
    curriculum(module, synthetic, real, **kwargs)
    return module.batches


# Shares

shares = st.one_of(
    st.floats(0, 1),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.integers(1, 10).map(lambda n: 1 / n),
)


@given(
    path=st.lists(shares, min_size=1, max_size=40),
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 1000),
)
def test_shares_are_exact_and_no_sample_comes_twice_in_a_pass(path, sizes, batch_size, seed):
    rows = Mixture(*sizes, batch_size, len(path), path.__getitem__, seed)
    batches = [rows(step) for step in range(len(path))]
    assert all(b.dtype == torch.int64 and len(b) == batch_size for b in batches)
    owed = Fraction(0)
    for step, batch in enumerate(batches):
        due = Fraction(str(path[step])) * batch_size
        owed += due
        so_far = sum(int((b >= sizes[0]).sum()) for b in batches[: step + 1])
        assert abs(so_far - owed) <= Fraction(1, 2)
        assert rows.num_synthetic[step] == (batch >= sizes[0]).sum()
        if due.denominator == 1:  # a whole number: given at once
            assert rows.num_synthetic[step] == due
    stream = torch.cat(batches)
    for pool, first in zip(
        (stream[stream < sizes[0]], stream[stream >= sizes[0]]), (0, sizes[0]), strict=True
    ):
        size = sizes[first > 0]
        assert ((first <= pool) & (pool < first + size)).all()
        for one_pass in pool.split(size):
            assert len(one_pass.unique()) == len(one_pass)


def test_pools_of_one_size_have_orders_of_their_own_and_passes_differ():
    rows = Mixture(40, 40, 80, 2, 0.5, seed=3)
    orders = [*rows(0).split(40), *rows(1).split(40)]
    orders = [tuple((order % 40).tolist()) for order in orders]
    assert len(set(orders)) == 4
    assert rows(0).tolist() == Mixture(40, 40, 80, 2, 0.5, seed=3)(0).tolist()


def test_the_schedule_of_the_document():
    """Of 100 epochs: 20 of synthetic samples alone, 20 of half, 20 of a quarter, then real ones alone."""
    batches = seen(num_real=12, num_synthetic=50, batch_size=4)
    assert len(batches) == 100 * 3  # an epoch is three steps, whatever the mix
    counts = [sum(x >= 1000 for x in batch) for _, batch in batches]
    assert counts == [4] * 60 + [2] * 60 + [1] * 60 + [0] * 120


@given(steps=st.integers(1, 500), ends=st.lists(st.integers(0, 20), min_size=1, max_size=4).map(sorted))
def test_stages_change_where_they_end(steps, ends):
    levels = list(np.linspace(1, 0, len(ends) + 1))
    share = staged(steps, levels, [end / 20 for end in ends])
    for step in range(steps):
        assert share(step) == levels[sum(20 * step >= end * steps for end in ends)]


def test_validation_sees_real_samples_alone():
    held_out = 500 + torch.arange(9.0)[:, None]
    batches = seen(validation=held_out, validate_every=3, steps=8)
    looks = [x for training, batch in batches for x in batch if not training]
    assert sorted(set(looks)) == list(range(500, 509)) and len(looks) == 3 * 9
    trained = {x for training, batch in batches for x in batch if training}
    assert trained & set(range(10)) and trained & set(range(1000, 1007)) and not trained & set(looks)


# The loop under it


@pytest.mark.parametrize("by_token", [False, True])
def test_without_synthetic_samples_it_is_plain_training(by_token):
    real, held_out = tokens(20), tokens(9, seed=1)
    kwargs = {
        "steps": 9, "batch_size": 6, "validation": held_out, "validate_every": 4, "seed": 2, "log_every": 1,
        "progress": False, "device": "cpu",
    }  # fmt: skip
    plain, mixed = transformer(), transformer()
    history = train(plain, real, **kwargs)
    other = train_with_synthetic_curriculum(mixed, tokens(7, 5, by_token), real, share=0, **kwargs)
    assert_same_run(mixed, other, plain, history)


def test_with_synthetic_samples_alone_the_real_ones_do_not_matter():
    one, other = transformer(), transformer()
    history = curriculum(one, tokens(30, 5), tokens(20), share=1.0, steps=8)
    assert_same_run(other, curriculum(other, tokens(30, 5), tokens(20, 9), share=1.0, steps=8), one, history)


class Killed(Exception):
    """Power cut."""


@pytest.mark.parametrize("stop", [3, 5, 10])
def test_killed_and_resumed_is_never_killed(tmp_path, stop):
    def share(step: int) -> float:
        return 0.5 + 0.5 * math.cos(step)

    def kill(step, module):
        if step == stop:
            raise Killed

    kwargs = {"share": share, "steps": 12, "log_every": 1, "checkpoint_every": 4, "validate_every": 3}
    kwargs["validation"] = tokens(9, 1)
    whole, resumed = transformer(), transformer()
    history = curriculum(whole, tokens(30, 5), tokens(20), **kwargs)
    with pytest.raises(Killed):
        curriculum(transformer(), tokens(30, 5), tokens(20), checkpoint=tmp_path, on_step=kill, **kwargs)
    other = curriculum(resumed, tokens(30, 5), tokens(20), checkpoint=tmp_path, **kwargs)
    assert_same_run(resumed, other, whole, history)


def test_a_checkpoint_of_another_mix_is_refused(tmp_path):
    pools = tokens(30, 5), tokens(20)
    curriculum(transformer(), *pools, share=0.5, steps=4, checkpoint=tmp_path)
    curriculum(transformer(), *pools, share=lambda step: 0.5, steps=4, checkpoint=tmp_path)  # the same mix
    with pytest.raises(ValueError, match=r"other settings.*Mixture.*another checkpoint"):
        curriculum(transformer(), *pools, share=0.25, steps=4, checkpoint=tmp_path)


def test_tensors_of_several_kinds_are_mixed():
    class Weighted(Seen):
        def loss(self, x, weight):
            assert torch.equal(weight, x[:, 0] * 2)
            return super().loss(x)

    x, y = torch.arange(6.0)[:, None], 1000 + torch.arange(4.0)[:, None]
    pools = [TensorDataset(v, v[:, 0] * 2) for v in (y, x)]
    module = Weighted()
    curriculum(module, *pools, share=0.4, steps=5, batch_size=5)
    assert [sum(v >= 1000 for v in batch) for _, batch in module.batches] == [2] * 5


# Bad use


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"share": 1.5}, "lies in 0..1, got 1.5 at step 0"),
        ({"share": lambda step: 1 - step}, "lies in 0..1, got -1.0 at step 2"),
        ({"share": lambda step: math.nan if step == 3 else 0}, "lies in 0..1, got nan at step 3"),
        ({"steps": 0}, "at least one, got 0"),
        ({"num_epochs": 3}, "either steps or num_epochs"),
        ({"batch_size": 0}, "at least one sample a batch"),
    ],
)
def test_bad_settings_are_refused_before_the_first_step(kwargs, says):
    module = Seen()
    with pytest.raises(ValueError, match=says):
        curriculum(module, torch.zeros(5, 1), torch.zeros(5, 1), **{"steps": 5, **kwargs})
    assert module.batches == []


REAL = tokens(5)


@pytest.mark.parametrize(
    ("pools", "error", "says"),
    [
        ((torch.zeros(5, 1), REAL), TypeError, "of one kind, got TokenDataset and Tensor"),
        (([1.0], REAL), TypeError, "synthetic pool of list: give codecs.encode"),
        ((REAL.select(["x"]), REAL), ValueError, r"same modalities, got \['pair', 'x'\] and \['x'\]"),
        ((tokens(5)[:0], REAL), ValueError, "got 5 real and 0 synthetic"),
        ((REAL, tokens(5)[:0]), ValueError, "no sample to train on"),
        (
            (TokenDataset({**REAL.tokens, "x": torch.zeros(5, 2).long()}), REAL),
            ValueError,
            r"'x' must be alike but for their number, got torch.int64 \(5, 1\) and torch.int64 \(5, 2\)",
        ),
        ((TensorDataset(torch.zeros(5)), TensorDataset(*torch.zeros(2, 5))), ValueError, "got 2 and 1"),
    ],
)
def test_pools_that_do_not_match_are_refused(pools, error, says):
    with pytest.raises(error, match=says):
        curriculum(transformer(), *pools, steps=3)


def test_the_synthetic_pool_is_no_validation():
    synthetic = tokens(5, 1)
    with pytest.raises(ValueError, match="give real samples that were held out"):
        curriculum(transformer(), synthetic, REAL, steps=3, validation=synthetic)


@pytest.mark.parametrize(("levels", "ends"), [((1, 0), ()), ((1, 0.5, 0), (0.6, 0.2)), ((), ())])
def test_stages_that_do_not_fit_are_refused(levels, ends):
    with pytest.raises(ValueError, match=r"a rising end in 0..1 for each share but the last"):
        staged(10, levels, ends)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("a",), TypeError, "steps is a whole number of 1 or more, got 'a'"),
        ((2.5,), TypeError, "steps .* got 2.5"),
        ((-5,), ValueError, "steps .* got -5"),
        ((10, (1, 2, 3, 0)), ValueError, r"shares\[1\] is a finite number from 0 to 1, got 2"),
        ((10, (1, math.nan), (0.5,)), ValueError, r"shares\[1\] .* got nan"),
        ((10, (1, "a"), (0.5,)), TypeError, r"shares\[1\] .* got 'a'"),
        ((10, 0.5), TypeError, "shares is a list of numbers in 0..1, got 0.5"),
        ((10, (1, 0), (1.5,)), ValueError, r"ends\[0\] .* got 1.5"),
        ((10, (1, 0), ("a",)), TypeError, r"ends\[0\] .* got 'a'"),
        ((10, (1, 0), None), TypeError, "ends is a list of numbers in 0..1, got None"),
    ],
)
def test_stages_of_no_numbers_or_out_of_range_are_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        staged(*arguments)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("num_real", "five", TypeError),
        ("num_synthetic", 2.5, TypeError),
        ("batch_size", 0, ValueError),
        ("batch_size", 2.5, TypeError),
        ("steps", -1, ValueError),
        ("steps", "a", TypeError),
        ("seed", None, TypeError),
    ],
)
def test_a_mixture_of_no_whole_numbers_is_refused(name, value, error):
    usual = {"num_real": 5, "num_synthetic": 5, "batch_size": 4, "steps": 3, "share": 0.5}
    with pytest.raises(error, match=f"^{name} is a whole number.*, got {value!r}.$"):
        Mixture(**{**usual, name: value})


@pytest.mark.parametrize(
    ("step", "error"),
    [(7, ValueError), (3, ValueError), (-1, ValueError), ("a", TypeError), (1.0, TypeError)],
)
def test_a_mixture_has_its_steps_and_no_more(step, error):
    mixture = Mixture(5, 5, 4, 3, 0.5)
    assert [len(mixture(i)) for i in range(3)] == [4, 4, 4]
    with pytest.raises(error, match=f"^step is a whole number from 0 to 2, got {step!r}.$"):
        mixture(step)


def test_a_share_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match=r"a number in 0..1, got 'half' at step 0"):
        Mixture(5, 5, 4, 3, "half")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_a_recorded_mix_is_the_plain_one():
    runs = []
    for record in (True, False):
        model = transformer()
        history = curriculum(model, tokens(30, 5), tokens(20), steps=20, device="cuda", record=record)
        runs.append((model, history))
    assert runs[0][1].records[-1]["loss"] == pytest.approx(runs[1][1].records[-1]["loss"], rel=1e-3)
