"""What the kernels of a training step do, and how long each kind takes, as torch's profiler saw them."""

import sys
from collections import defaultdict

import torch

KERNELS = ("_forward", "_queries_backward", "_keys_backward", "_measure_keys")  # of model/attention_kernel.py
KINDS = {
    "attention": ("flash", "fmha", "attention", "sdpa", "cudnn_generated", "flex"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "_mm", "splitk"),
    "optimiser and clipping": ("multi_tensor", "adam", "norm_foreach", "lpnorm"),
    "norms, activations, heads (fused)": ("triton", "_gate_"),
    "sampling of masks": ("sort", "topk", "radix", "scan", "searchsorted", "distribution", "bitonic"),
    "copies": ("memcpy", "memset", "copy", "cat"),
}


def kind_of(kernel: str) -> str:
    """Of a kernel, by its name."""
    name = kernel.lower()
    if name in KERNELS:  # others have such words inside
        return "attention"
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")


def kinds(profiler, before, steps: int) -> list[dict]:
    """Milliseconds a step on the GPU by kind of kernel: what ``profiler`` saw beyond ``before``."""
    spent, names = defaultdict(float), defaultdict(float)
    for sign, seen in ((1, profiler), (-1, before)):
        for event in seen.key_averages():
            # A range that a library names, such as the optimiser's, holds kernels that are counted already.
            if event.device_type == torch.autograd.DeviceType.CUDA and "#" not in event.key:
                spent[kind_of(event.key)] += sign * event.self_device_time_total / 1e3 / steps
                names[event.key] += sign * event.self_device_time_total / 1e3 / steps
    for name, ms in sorted(names.items(), key=lambda item: -item[1])[:40]:
        print(f"{ms:9.3f} ms  {kind_of(name):<32} {name[:110]}", file=sys.stderr)
    total = sum(spent.values())
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return [{"kind": kind, "milliseconds": ms, "share": ms / total} for kind, ms in ordered]
