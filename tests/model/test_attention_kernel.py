"""Our attention kernels against torch's layer norm and scaled_dot_product_attention, forward and backward.

Compiled on a GPU; in Triton's interpreter anywhere, where test_interpreter.py starts them.
"""

import os
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from aion_lite.model import fused
from aion_lite.model.blocks import Attention

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available() or INTERPRETED, reason="needs a GPU")
interpreted = pytest.mark.skipif(not INTERPRETED, reason="test_interpreter.py runs it")
# queries, keys (None: the queries themselves), width, heads, mask
CASES = [
    (1, None, 16, 1, None),
    (20, None, 32, 2, None),
    (20, None, 32, 2, "pairs"),
    (20, 37, 32, 2, "keys"),
    (70, 130, 64, 2, None),
    (130, None, 64, 2, "pairs"),
    (7, 1, 32, 2, None),
    (33, 70, 128, 1, "keys"),
]


def case(N, M, width, heads, kind, device="cpu", seed=0):
    """(attention, its inputs, mask, gradient from above)."""
    torch.manual_seed(seed)
    attention = Attention(width, heads)
    for p in attention.parameters():
        torch.nn.init.normal_(p, mean=1.0 if p.ndim == 1 else 0.0, std=0.3)
    x = [torch.randn(3, n, width, device=device, requires_grad=True) for n in (N, M) if n is not None]
    mask, keys = None, M or N
    if kind == "keys":
        mask = torch.rand(3, 1, 1, keys) > 0.3
        mask[..., 0] = True
    if kind == "pairs":
        mask = (torch.rand(3, 1, N, keys) > 0.3) | torch.eye(N, keys).bool()
    mask = None if mask is None else mask.to(device)
    return attention.to(device), x, mask, torch.randn(3, N, width, device=device)


def results(attention, x, mask, above):
    out = attention(x[0], x[1] if len(x) > 1 else None, mask)
    return [out, *torch.autograd.grad(out, [*x, *attention.parameters()], above.to(out.dtype))]


@interpreted
@pytest.mark.parametrize("what", CASES, ids=str)
def test_the_kernels_are_the_plain_path(monkeypatch, what):
    attention, x, mask, above = case(*what)
    plain = results(attention, x, mask, above)
    monkeypatch.setattr(fused, "serves", lambda x, width: True)
    for ours, theirs in zip(results(attention, x, mask, above), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@interpreted
@pytest.mark.parametrize("kind", ["strided", "none seen"])
def test_the_kernels_are_the_plain_path_of_odd_inputs(monkeypatch, kind):
    attention, x, mask, above = case(20, 70, 32, 2, "keys")
    if kind == "strided":
        for norm in (attention.q_norm, attention.k_norm):
            norm.weight = torch.nn.Parameter(torch.randn(32)[::2])
    else:
        mask[0] = False
    plain = results(attention, x, mask, above)
    monkeypatch.setattr(fused, "serves", lambda x, width: True)
    for ours, theirs in zip(results(attention, x, mask, above), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@interpreted
def test_keys_far_from_zero_of_the_plain_path_are_normalised_as_well():
    torch.manual_seed(0)
    qkv = (torch.randn(2, 70, 96) + 50).requires_grad_()
    weight, above = torch.randn(2, 16), torch.randn(2, 70, 32)
    parts = [x.unflatten(-1, (2, 16)).transpose(1, 2) for x in qkv.chunk(3, -1)]
    q, k = (F.layer_norm(x, (16,), w) for x, w in zip(parts[:2], weight, strict=True))
    plain = F.scaled_dot_product_attention(q, k, parts[2]).transpose(1, 2).flatten(2)
    ours = fused.attend(qkv, None, *weight, None, 2)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    grads = [torch.autograd.grad(out, qkv, above)[0] for out in (ours, plain)]
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-3)


@interpreted
def test_the_plain_path_under_gradient_checkpointing(monkeypatch):
    attention, x, mask, above = case(20, 37, 32, 2, "keys")
    plain = results(attention, x, mask, above)
    monkeypatch.setattr(fused, "serves", lambda x, width: True)

    def again(*inputs):
        return checkpoint(attention, *inputs, use_reentrant=False)

    again.parameters = attention.parameters
    for ours, theirs in zip(results(again, x, mask, above), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@interpreted
def test_a_model_of_half_precision_weights_is_as_near_as_the_plain_path(monkeypatch):
    attention, x, mask, above = case(33, 70, 64, 2, "keys")
    attention, x = attention.half(), [part.detach().half().requires_grad_() for part in x]
    exact = results(deepcopy(attention).double(), [part.double() for part in x], mask, above)

    def errors():
        parts = zip(results(attention, x, mask, above), exact, strict=True)
        return [float((a - b).detach().norm() / b.detach().norm()) for a, b in parts]

    torchs = errors()
    monkeypatch.setattr(fused, "serves", lambda x, width: True)
    for mine, theirs in zip(errors(), torchs, strict=True):
        assert mine < 1.3 * theirs


@interpreted
def test_the_operators_of_the_plain_path_keep_torchs_rules():
    from aion_lite.model.attention_kernel import attend

    attention, (x,), mask, _ = case(20, None, 32, 2, "pairs")
    qkv = F.linear(x, torch.cat([attention.q.weight, attention.kv.weight])).detach().requires_grad_()
    weights = attention.q_norm.weight.detach(), attention.k_norm.weight.detach()
    torch.library.opcheck(attend, (qkv, None, *weights, mask, 2))


def test_on_a_cpu_and_in_full_precision_the_plain_path_runs():
    assert not fused.serves(torch.zeros(2, 3, 8, dtype=torch.bfloat16), 64)
    assert not fused.serves(torch.zeros(2, 3, 8), 64)


@pytest.fixture
def tried(monkeypatch):
    """Nothing is tried yet; heads of 128 fail."""

    def launch_all(device, width):
        if width == 128:
            raise RuntimeError("out of shared memory")

    monkeypatch.setattr(fused, "works", {})
    monkeypatch.setattr(fused, "_launch_all", launch_all)
    return fused.works


def test_what_does_not_run_is_told_and_done_without(tried):
    with pytest.warns(UserWarning, match="slower on cpu.*out of shared memory"):
        fused.try_kernels(torch.device("cpu"), 128)
    assert tried == {(None, 128): False, (None, fused.GATE): True}


def test_each_width_is_tried_once(tried, recwarn):
    for width in (64, 64, 48, 128, 128, 32):
        fused.try_kernels(torch.device("cpu"), width)
    assert tried == {(None, width): width != 128 for width in (fused.GATE, 32, 64, 128)}
    assert len(recwarn) == 1


@needs_gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("what", [*CASES, (256, None, 768, 12, None), (128, 256, 768, 12, "keys")], ids=str)
def test_half_precision_is_as_near_to_full_as_torchs_own(monkeypatch, what, compiled):
    attention, x, mask, above = case(*what, device="cuda")
    exact = results(attention, x, mask, above)

    def errors():
        call = torch.compile(attention, dynamic=False) if compiled else attention
        with torch.autocast("cuda", torch.bfloat16):
            out = call(x[0], x[1] if len(x) > 1 else None, mask)
        parts = [out, *torch.autograd.grad(out, [*x, *attention.parameters()], above.to(out.dtype))]
        # Nothing of a single key comes to q and k: their gradients are rounding, small beside the others.
        sizes = [float(b.norm()) for b in exact]
        sizes = [max(size, 1e-3 * max(sizes)) for size in sizes]
        return [float((a - b).norm()) / size for a, b, size in zip(parts, exact, sizes, strict=True)]

    assert fused.serves(torch.zeros(1, device="cuda", dtype=torch.bfloat16), what[2] // what[3])
    ours = errors()
    monkeypatch.setattr(fused, "serves", lambda x, width: False)
    assert max(ours) < 0.03
    for mine, torchs in zip(ours, errors(), strict=True):
        assert mine < 1.3 * torchs + 1e-3


@pytest.mark.skipif(torch.cuda.device_count() < 2 or INTERPRETED, reason="needs two GPUs")
def test_the_tensors_need_not_be_on_the_current_device():
    ours = []
    for device in ("cuda:0", "cuda:1"):
        attention, x, mask, above = case(20, 37, 32, 2, "keys", device=device)
        with torch.autocast("cuda", torch.bfloat16):
            ours.append([part.cpu() for part in results(attention, x, mask, above)])
    for zero, one in zip(*ours, strict=True):
        torch.testing.assert_close(one, zero)
