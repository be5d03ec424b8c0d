"""Optimizers: Muon in stacks equals torch's own, matrix by matrix, and the polar factor it approximates."""

import copy

import pytest
import torch
from torch import nn

from aion_lite import optimizers
from aion_lite.codecs import TokenSpec
from aion_lite.model import MultimodalTransformer
from aion_lite.optimizers import Muon, lr_share, make_optimizers, orthogonal, orthogonal_stacks

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


def test_small_stacks_go_through_together_as_each_alone(monkeypatch):
    g = torch.Generator().manual_seed(0)
    shapes = [(3, 6, 6), (2, 6, 12), (2, 17, 6), (4, 40, 6), (2, 5, 6), (1, 3, 3)]
    stacks = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
    calls = []
    alone = [orthogonal(x) for x in stacks]
    monkeypatch.setattr(optimizers, "orthogonal", lambda x, num: calls.append(x.shape) or orthogonal(x, num))
    for together, x in zip(orthogonal_stacks(stacks, 5, small=110), alone, strict=True):
        torch.testing.assert_close(together, x, rtol=0, atol=1e-12)
    assert calls == [(7, 6, 17), (4, 40, 6), (2, 5, 6), (1, 3, 3)]  # 240 entries are not small


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_is_torchs_muon_on_a_gpu():
    shapes = [(64, 64), (128, 64), (64, 170), (170, 64), (900, 900)] * 2
    g = torch.Generator().manual_seed(0)
    first = [0.1 * torch.randn(shape, generator=g) for shape in shapes]
    ours, theirs = ([nn.Parameter(x.cuda()) for x in first] for _ in range(2))
    how = {"lr": 0.02, "weight_decay": 0.1}
    made = Muon(ours, **how), torch.optim.Muon(theirs, **how, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=g).cuda()
            q.grad = p.grad.clone()
        for optimizer in made:
            optimizer.step()
    for p, q, x in zip(ours, theirs, first, strict=True):
        moved = float((p.cpu() - x).norm())
        assert moved > 0.05 * float(x.norm()) and float((p - q).norm()) < 0.02 * moved


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


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.05), (40, 0.5), (10, 0.0), (7, 1.0), (1, 0.05)])
def test_the_rate_rises_to_its_peak_and_falls_by_torchs_cosine(steps, warmup):
    rise = max(1, round(steps * warmup))
    shares = [lr_share(step, steps, warmup) for step in range(steps + 1)]
    assert shares[:rise] == [(i + 1) / rise for i in range(rise)]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - rise))
    for share in shares[rise:steps]:
        assert share == pytest.approx(schedule.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        schedule.step()
    assert max(shares) == 1 and min(shares[:steps]) > 0
    assert shares[steps] == pytest.approx(0.0 if rise < steps else 1.0)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_trained_parameter_has_one_optimizer_and_only_matrices_decay(optimizer):
    specs = {"x": TokenSpec(1, 8, "ordinal", torch.linspace(-1, 1, 8)[:, None], torch.linspace(-1, 1, 8))}
    model = MultimodalTransformer(specs, d_model=8, nhead=2, num_layers=1)
    model.mask_token.requires_grad_(False)
    made = make_optimizers(model, optimizer, lr=0.1, weight_decay=0.3)
    groups = [(o, group) for o in made for group in o.param_groups]
    seen = [id(p) for _, group in groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    for _, group in groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] == 0.3) for p in group["params"])
    by_muon = {id(p) for o, group in groups if isinstance(o, Muon) for p in group["params"]}
    assert by_muon == ({id(p) for p in model.hidden_matrices()} if optimizer == "muon" else set())
