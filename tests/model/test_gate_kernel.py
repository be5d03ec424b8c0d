"""The gate's kernels against torch's silu and product, forward and backward.

Compiled on a GPU; in Triton's interpreter anywhere, where test_interpreter.py starts them.
"""

import os

import pytest
import torch
import torch.nn.functional as F

from aion_lite.model import fused
from aion_lite.model.blocks import SwiGLU

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available() or INTERPRETED, reason="needs a GPU")
interpreted = pytest.mark.skipif(not INTERPRETED, reason="test_interpreter.py runs it")
SHAPES = [(1, 1, 4, 8), (3, 7, 16, 42), (2, 5, 16, 1030)]  # samples, tokens, width, hidden


def results(function, both, weight, above):
    both, weight = both.clone().requires_grad_(), weight.clone().requires_grad_()
    out = function(both, weight)
    return [out, *torch.autograd.grad(out, [both, weight], above.to(out.dtype))]


def plain(both, weight):
    gate, up = both.chunk(2, -1)
    return F.linear(F.silu(gate) * up, weight)


def case(B, N, width, hidden, device="cpu"):
    torch.manual_seed(0)
    shapes = (B, N, 2 * hidden), (width, hidden), (B, N, width)
    return [3 * torch.randn(*shape, device=device) for shape in shapes]


@interpreted
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernels_are_the_plain_path(shape):
    both, weight, above = case(*shape)
    pairs = zip(
        results(fused.gated_down, both, weight, above), results(plain, both, weight, above), strict=True
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@interpreted
def test_the_operator_of_the_plain_path_keeps_torchs_rules():
    from aion_lite.model.gate_kernel import gated_down

    both, weight, _ = case(3, 7, 16, 42)
    torch.library.opcheck(gated_down, (both.requires_grad_(), weight.requires_grad_()))


@needs_gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("width", [16, 64, 768])
def test_half_precision_is_as_near_to_full_as_torchs_own(monkeypatch, width, compiled):
    torch.manual_seed(0)
    mlp = SwiGLU(width).cuda()
    x, above = (torch.randn(4, 70, width, device="cuda") for _ in range(2))
    x.requires_grad_()

    def parts(call):
        out = call(x)
        return [out, *torch.autograd.grad(out, [x, *mlp.parameters()], above.to(out.dtype))]

    exact = parts(mlp)

    def errors():
        with torch.autocast("cuda", torch.bfloat16):
            found = parts(torch.compile(mlp, dynamic=False) if compiled else mlp)
        return [float((a - b).detach().norm() / b.detach().norm()) for a, b in zip(found, exact, strict=True)]

    assert fused.serves(torch.zeros(1, device="cuda", dtype=torch.bfloat16))
    ours = errors()
    monkeypatch.setattr(fused, "serves", lambda *_: False)
    assert max(ours) < 0.03
    for mine, torchs in zip(ours, errors(), strict=True):
        assert mine < 1.3 * torchs + 1e-3
