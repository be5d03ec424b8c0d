"""Every kernel that a model launches compiles for GPUs large and small, here, without one."""

import os

import pytest
import torch

from aion_lite.model import fused, launch

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="needs Triton's compiler")


def compiled(kernel, args, settings, capability):
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
    return compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def test_the_kernels_of_the_trial_compile():
    pytest.importorskip("triton", reason="needs Triton")
    jobs = launch.noted(lambda: [fused._launch_all(torch.device("cpu"), w) for w in (16, fused.GATE)])
    attention, others = (
        {"_forward", "_queries_backward", "_keys_backward"},
        {"_measure_keys", "_gate_forward", "_gate_backward"},
    )
    assert {job[0].__name__ for job in jobs} == attention | others
    for job in jobs:
        ptx = compiled(*job, capability=90).asm["ptx"]
        assert job[0].__name__ not in attention or "mma" in ptx  # on tensor cores


def test_wide_heads_fit_into_a_small_gpu():
    pytest.importorskip("triton", reason="needs Triton")
    like, weight = {"dtype": torch.bfloat16, "requires_grad": True}, torch.ones(128)
    q, kv = torch.ones(1, 130, 256, **like), torch.ones(1, 129, 512, **like)
    mask = torch.ones(1, 1, 130, 129, dtype=torch.bool)  # a mask of odd strides takes the most memory
    for job in launch.noted(lambda: fused.attend(q, kv, weight, weight, mask, 2).sum().backward()):
        assert compiled(*job, capability=86).metadata.shared <= 99 * 1024
