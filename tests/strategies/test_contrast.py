"""Losses against lightly's, the average against its closed form, queue and batch norm against plain ones."""

from collections import deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from aion_lite.codecs import ImageCodec
from aion_lite.modalities import Image
from aion_lite.strategies.contrast import (
    BYOL,
    KeyQueue,
    MoCo,
    SimCLR,
    SplitBatchNorm,
    info_nce,
    nt_xent,
    pooled,
    unit,
)

IMAGE = Image("stamp", channels=2, size=12)
SMALL = {"patch": 4, "width": 8, "depth": 1, "encoder_depth": 1}
HEAD = {"dim": 4, "hidden": 16}


def codec(seed=0):
    torch.manual_seed(seed)
    return ImageCodec(IMAGE, **SMALL)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noisy(x, present=None):
    return x + 0.3 * torch.randn_like(x), present


def batch(B=8, seed=0):
    return draw(B, 2, 12, 12, seed=seed), torch.ones(B, dtype=torch.bool)


def turn(module, seed=9):
    """Other weights, as after some steps; those that no gradient enters stay."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=g))


# Losses


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent_is_lightlys(temperature):
    a, b = (draw(17, 9, seed=seed).requires_grad_() for seed in (0, 1))
    ours, theirs = nt_xent(unit(a), unit(b), temperature), NTXentLoss(temperature)(a, b)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    for g, h in zip(torch.autograd.grad(ours, (a, b)), torch.autograd.grad(theirs, (a, b)), strict=True):
        torch.testing.assert_close(g, h, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_info_nce_with_a_queue_is_lightlys_with_a_memory_bank(temperature):
    """Over several batches, so that the bank is no longer what it began as."""
    loss, queue = NTXentLoss(temperature, memory_bank_size=(12, 9)).double(), KeyQueue(12, 9).double()
    queue.keys.copy_(loss.memory_bank.bank)
    for step in range(5):
        q, k = (unit(draw(4, 9, seed=2 * step + i)).double() for i in range(2))
        theirs = loss(q.requires_grad_(), k)
        ours = info_nce(q, k, queue.keys.clone(), temperature)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        queue.enqueue(k)


def test_moco_and_simclr_give_lightlys_loss_of_the_same_views():
    x, present = batch()
    module = MoCo(codec(), noisy, temperature=0.1, queue_size=16, **HEAD, symmetric=False).train()
    turn(module)
    keys = module.queue.keys.clone()
    torch.manual_seed(1)
    ours = module.loss(x, present)[0]
    torch.manual_seed(1)
    (q, k), bank = views_of(module, x, present), NTXentLoss(0.1, memory_bank_size=(16, 4))
    bank.memory_bank.bank.copy_(keys)
    torch.testing.assert_close(ours, bank(q, k), rtol=0, atol=1e-6)

    simclr = SimCLR(codec(), noisy, temperature=0.1, **HEAD).train()
    torch.manual_seed(1)
    ours = simclr.loss(x, present)[0]
    torch.manual_seed(1)
    q, p = (simclr.head(pooled(simclr.codec, simclr.codec.encoder, *noisy(x, present))) for _ in range(2))
    torch.testing.assert_close(ours, NTXentLoss(0.1)(q, p), rtol=0, atol=1e-6)


def views_of(module, x, present):
    a, b = noisy(x)[0], noisy(x)[0]
    q = module.head(pooled(module.codec, module.codec.encoder, a, present))
    return q, module.head_k(pooled(module.codec, module.encoder_k, b, present)).detach()


def test_byol_is_lightlys_cosine_between_prediction_and_key():
    x, present = batch()
    module = BYOL(codec(), noisy, symmetric=False, **HEAD).train()
    turn(module)
    torch.manual_seed(1)
    ours = module.loss(x, present)[0]
    torch.manual_seed(1)
    z, k = views_of(module, x, present)
    expected = 2 + 2 * NegativeCosineSimilarity()(module.predictor(z), k)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [MoCo, BYOL])
def test_symmetric_is_the_mean_of_both_questions(kind):
    """Of mirrored views, so that swapping the two is asking the other way round."""
    x, present = batch()
    calls = iter(range(99))

    def in_turn(x, present):
        return x.flip(3) if next(calls) % 2 else x, present

    settings = {"momentum": 0.0, **HEAD, **({"queue_size": 8} if kind is MoCo else {})}
    both, one = kind(codec(), in_turn, **settings), kind(codec(), in_turn, symmetric=False, **settings)
    one.load_state_dict(both.state_dict())
    both.eval(), one.eval()
    there, back = one.loss(x, present)[0], one.loss(x.flip(3), present)[0]
    torch.testing.assert_close(both.loss(x, present)[0], (there + back) / 2)
    assert not torch.isclose(there, back)


def test_spread_tells_a_full_sphere_from_a_collapse():
    x, present = batch(64)
    module = SimCLR(codec(), lambda x, present: (draw(*x.shape), present), **HEAD)
    assert 0.1 < float(module.loss(x, present)[1]["spread"]) < 1.1
    nn.init.zeros_(module.head[-1].weight)  # all that is left is the bias
    assert float(module.loss(x, present)[1]["spread"]) == pytest.approx(0, abs=1e-6)


class NeverWaits(TorchDispatchMode):
    """Refuses what would make a GPU's host wait: numbers read back, sizes that depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = [i for i in args[1] if i is not None] if func is torch.ops.aten.index.Tensor else []
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        assert all(index.dtype != torch.bool for index in masks)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", ["layer", "split"])
@pytest.mark.parametrize("kind", [MoCo, SimCLR, BYOL])
def test_a_step_never_waits_for_the_device(kind, norm):
    with NeverWaits(), pytest.raises(AssertionError):
        draw(3).sum().item()
    module, (x, present) = kind(codec(), noisy, norm=norm, splits=4, **HEAD).train(), batch()
    with NeverWaits():
        module.loss(x, present)[0].backward()


# The averaged encoder


@pytest.mark.parametrize("kind", [MoCo, BYOL])
def test_the_average_follows_by_its_closed_form(kind):
    """Under weights w that stay, it is w + m^t (start - w) after t steps."""
    module = kind(codec(), noisy, momentum=0.9, **HEAD).train()
    start = [p.clone() for p in (*module.encoder_k.parameters(), *module.head_k.parameters())]
    turn(module)
    for _ in range(7):
        module.loss(*batch())
    now = [*module.encoder_k.parameters(), *module.head_k.parameters()]
    weights = [*module.codec.encoder.parameters(), *module.head.parameters()]
    for k, s, w in zip(now, start, weights, strict=True):
        torch.testing.assert_close(k, w + 0.9**7 * (s - w), rtol=1e-4, atol=1e-5)


def test_the_average_moves_before_the_keys_are_made():
    module = MoCo(
        codec(), lambda x, present: (x, present), momentum=0.0, symmetric=False, queue_size=16, **HEAD
    ).train()
    turn(module)
    x, present = batch()
    module.loss(x, present)
    expected = unit(module.head(pooled(module.codec, module.codec.encoder, x, present)))
    torch.testing.assert_close(module.queue.keys[:8], expected)


@pytest.mark.parametrize("kind", [MoCo, BYOL])
def test_no_gradient_enters_the_average_and_every_other_weight_gets_one(kind):
    module = kind(codec(), noisy, **HEAD).train()
    module.loss(*batch())[0].backward()
    parameters = dict(module.named_parameters())
    average = {n for n in parameters if n.startswith(("encoder_k", "head_k"))}
    idle = {n for n in parameters if n.startswith(("codec.decoder", "codec.encoder.project"))}
    assert average and all(parameters[n].grad is None and not parameters[n].requires_grad for n in average)
    for name in parameters.keys() - average - idle:
        assert parameters[name].grad.abs().sum() > 0, name


def test_to_be_asked_changes_nothing_outside_training():
    module = MoCo(codec(), noisy, **HEAD).eval()
    turn(module)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    module.loss(*batch())
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    assert [tuple(p.shape) for p in module.hidden_matrices()] == [(32, 8), (8, 32)]  # Muon's: the blocks'


# The queue


@given(st.integers(1, 9), st.lists(st.integers(1, 25), min_size=1, max_size=6))
@settings(max_examples=40)
def test_the_queue_is_a_deque(size, batches):
    torch.manual_seed(0)
    queue = KeyQueue(size, 3)
    np.testing.assert_allclose(queue.keys.norm(dim=1), 1, rtol=1e-6)
    assert set(queue.state_dict()) == {"keys", "pointer"}
    expected = deque(queue.keys.clone(), maxlen=size)
    for step, B in enumerate(batches):
        keys = draw(B, 3, seed=step)
        queue.enqueue(keys)
        expected.extend(keys)
    oldest_first = queue.keys.roll(-int(queue.pointer), 0)
    assert torch.equal(oldest_first, torch.stack(list(expected)))


def test_keys_of_this_step_are_asked_about_from_the_next_step_on():
    module = MoCo(codec(), noisy, queue_size=64, **HEAD).train()
    start, keys = module.queue.keys.clone(), module.queue.keys
    module.loss(*batch())[0].backward()
    assert int(module.queue.pointer) == 16  # two views of eight samples
    assert torch.equal(keys[16:], start[16:]) and not torch.equal(keys[:16], start[:16])


# Batch norm


@pytest.mark.parametrize("k", [1, 2, 4])
def test_split_batch_norm_is_so_many_separate_ones(k):
    torch.manual_seed(0)
    split, separate = SplitBatchNorm(5, k).train(), [nn.BatchNorm1d(5).train() for _ in range(k)]
    nn.init.normal_(split.weight)
    for norm in separate:
        norm.load_state_dict(split.state_dict())
    for step in range(3):
        x = draw(16, 5, seed=step) * 3 + 2
        out = split(x)
        for i, norm in enumerate(separate):
            torch.testing.assert_close(out[i::k], norm(x[i::k]))
    for name in ("running_mean", "running_var"):
        expected = torch.stack([getattr(norm, name) for norm in separate]).mean(0)
        torch.testing.assert_close(getattr(split, name), expected)
    split.eval()
    torch.testing.assert_close(
        split(x), F.batch_norm(x, split.running_mean, split.running_var, split.weight, split.bias)
    )


def test_split_batch_norm_without_weights():
    x = draw(8, 3)
    found = SplitBatchNorm(3, 2, affine=False).train()(x)
    one = nn.BatchNorm1d(3, affine=False).train()
    torch.testing.assert_close(found[0::2], one(x[0::2]))
    torch.testing.assert_close(found[1::2], one(x[1::2]))


def test_a_shuffle_on_one_device_does_nothing_to_plain_batch_norm():
    """What MoCo's shuffle is worth without groups; with them, it changes what a sample is normalised by."""
    x, order = draw(16, 5).double(), torch.randperm(16, generator=torch.Generator().manual_seed(0))
    plain, split = nn.BatchNorm1d(5).double().train(), SplitBatchNorm(5, 4).double().train()
    back = order.argsort()
    torch.testing.assert_close(plain(x[order])[back], plain(x), rtol=0, atol=1e-14)
    assert (split(x[order])[back] - split(x)).abs().max() > 0.1


def test_keys_are_shuffled_between_the_groups_and_put_back():
    x, present = batch(16)
    module = MoCo(codec(), noisy, norm="split", splits=4, **HEAD).train()
    torch.manual_seed(0)
    a, b = module._keys(x, present), module._keys(x, present)
    c = module.eval()._keys(x, present)
    assert not torch.allclose(a, b)  # by other neighbours each time
    assert (a * c).sum(1).mean() > (a * c.roll(1, 0)).sum(1).mean()  # and yet each its own sample's


@pytest.mark.parametrize(("B", "k"), [(10, 4), (4, 4)])
def test_a_batch_that_cannot_be_split_is_refused(B, k):
    with pytest.raises(ValueError, match=f"A batch of {B} can't be split into {k} groups"):
        SplitBatchNorm(5, k)(draw(B, 5))
    with pytest.raises(ValueError, match="at least one group"):
        SplitBatchNorm(5, 0)
