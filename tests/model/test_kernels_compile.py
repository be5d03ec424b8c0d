"""Every kernel that a model launches compiles for a GPU of compute capability 9.0, here, without one."""

import os

import pytest
import torch

from aion_lite.model import fused, launch

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="needs Triton's compiler")


def compiled(kernel, args, settings):
    """The kernel for these arguments, as a launch would have specialised them."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kinds = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.bool: "*i1"}
    names, signature, constants, aligned = kernel.arg_names, {}, {}, {}
    options = {key: value for key, value in settings.items() if key not in names}
    for i, name in enumerate(names):
        value = settings[name] if name in settings else args[i]
        if isinstance(value, torch.Tensor):
            signature[name], aligned[(i,)] = kinds[value.dtype], [["tt.divisibility", 16]]
        elif kernel.params[i].is_constexpr or value == 1:
            signature[name], constants[(i,)] = "constexpr", value
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
            if value % 16 == 0:
                aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, aligned)
    return compile(source, target=GPUTarget("cuda", 90, 32), options=options)


@pytest.mark.parametrize("masked", [False, True], ids=["all seen", "masked"])
def test_the_kernels_compile(monkeypatch, masked):
    pytest.importorskip("triton", reason="needs Triton")
    monkeypatch.setattr(launch, "_noted", [])
    options = {"dtype": torch.bfloat16, "requires_grad": True}
    qkv, both, down = (torch.ones(*n, **options) for n in ((1, 128, 96), (1, 128, 128), (16, 64)))
    mask = torch.ones(1, 1, 128, 128, dtype=torch.bool) if masked else None
    fused.attend(qkv, None, torch.ones(16), torch.ones(16), mask, 2).sum().backward()
    fused.gated_down(both, down).sum().backward()
    kernels = {kernel.__name__: compiled(kernel, args, settings) for kernel, args, settings in launch._noted}
    attention = {"_forward", "_queries_backward", "_keys_backward"}
    assert set(kernels) == attention | {"_measure_keys", "_gate_forward", "_gate_backward"}
    for name in attention:
        assert "mma" in kernels[name].asm["ptx"]  # on tensor cores
