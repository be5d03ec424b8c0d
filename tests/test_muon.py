"""Muon in stacks: equal to torch's own, matrix by matrix, and to the polar factor it approximates."""

import copy

import pytest
import torch
from torch import nn

from aion_lite.muon import Muon, orthogonal

SHAPES = [(8, 8), (24, 8), (8, 24), (24, 8), (8, 8), (1, 5)]


def parameters() -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(0)
    return [nn.Parameter(0.1 * torch.randn(shape, generator=g)) for shape in SHAPES]


def steps(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], num: int, skipped: int | None = None):
    g = torch.Generator().manual_seed(1)
    for _ in range(num):
        for i, p in enumerate(params):
            grad = torch.randn(p.shape, generator=g)
            p.grad = None if i == skipped else grad
        optimizer.step()


@pytest.mark.parametrize("skipped", [None, 3])
def test_it_is_torchs_muon(skipped):
    ours, theirs = parameters(), parameters()
    steps(Muon(ours, lr=0.02, weight_decay=0.1), ours, 10, skipped)
    theirs_muon = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    steps(theirs_muon, theirs, 10, skipped)
    moved = [float((p - q).detach().abs().max()) for p, q in zip(parameters(), ours, strict=True)]
    assert moved.count(0.0) == (skipped is not None) and max(moved) > 0.01
    # Products in half precision may be summed in another order: one part in 256 of an update.
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0.02 * 0.2 * 24**0.5 / 128)


@pytest.mark.parametrize("shape", [(3, 6, 6), (2, 4, 9), (2, 9, 4)])
def test_an_update_is_nearly_the_polar_factor(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    U, _, Vh = torch.linalg.svd(x, full_matrices=False)
    found = orthogonal(x)
    values = torch.linalg.svdvals(found)
    assert 0.6 < float(values.min()) and float(values.max()) < 1.25
    # The same directions: what is left after turning them back is a positive diagonal.
    turned = U.mT @ found @ Vh.mT
    off = turned - torch.diag_embed(turned.diagonal(dim1=1, dim2=2))
    assert float(off.abs().max()) < 1e-9 and float(turned.diagonal(dim1=1, dim2=2).min()) > 0.6


def test_a_rate_in_a_tensor_is_the_rate():
    ours, others = parameters(), parameters()
    steps(Muon(ours, lr=0.02), ours, 3)
    rate = torch.tensor(1.0)
    optimizer = Muon(others, lr=rate)
    rate.fill_(0.02)
    steps(optimizer, others, 3)
    for p, q in zip(ours, others, strict=True):
        torch.testing.assert_close(p, q)


def test_it_goes_on_from_its_state():
    ours, others = parameters(), parameters()
    optimizer = Muon(ours, lr=0.02)
    steps(optimizer, ours, 4)
    with torch.no_grad():
        for p, q in zip(others, ours, strict=True):
            p.copy_(q)
    resumed = Muon(others, lr=0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(optimizer, ours, 2)
    steps(resumed, others, 2)
    assert all(torch.equal(p, q) for p, q in zip(ours, others, strict=True))


def test_only_matrices():
    with pytest.raises(ValueError, match=r"matrices, got a parameter of shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))])
