"""Whole passes in an order of their own, from wherever one begins."""

import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_lite.passes import batch_rows, pass_rows


@given(
    num_samples=st.integers(1, 30),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 1000),
    num_passes=st.integers(1, 4),
)
@settings(max_examples=80, deadline=None)
def test_every_sample_comes_once_a_pass(num_samples, batch_size, seed, num_passes):
    num_steps = math.ceil(num_passes * num_samples / batch_size)
    batches = [batch_rows(num_samples, batch_size, seed, step) for step in range(num_steps)]
    assert all(len(rows) == batch_size for rows in batches)
    stream = torch.cat(batches)[: num_passes * num_samples].view(num_passes, num_samples)
    for order in stream:
        assert order.sort().values.tolist() == list(range(num_samples))


def test_passes_and_seeds_have_orders_of_their_own():
    orders = [batch_rows(50, 50, seed, step).tolist() for seed in range(3) for step in range(3)]
    assert len({tuple(order) for order in orders}) == 9
    assert batch_rows(50, 50, 0, 0).tolist() == orders[0]


@given(
    num_samples=st.integers(1, 30),
    cuts=st.lists(st.integers(0, 200), min_size=2, max_size=8).map(sorted),
    seed=st.integers(0, 1000),
)
def test_pieces_of_any_length_follow_each_other(num_samples, cuts, seed):
    pieces = [pass_rows(num_samples, *ends, seed) for ends in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(pieces), pass_rows(num_samples, cuts[0], cuts[-1], seed))
