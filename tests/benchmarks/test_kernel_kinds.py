"""Kernels are told apart by their names."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "kernel_kinds.py"


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_sm90_tst_192x192_64x3", "matrix products"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop", "attention"),
        ("triton_poi_fused_add_native_layer_norm_3", "norms, activations, heads (fused)"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdam>", "optimiser and clipping"),
        ("Memcpy DtoD", "copies"),
        ("_keys_backward", "attention"),
        ("_gate_forward", "norms, activations, heads (fused)"),
        ("something else", "other"),
    ],
)
def test_kernels_have_a_kind(kernel, kind):
    spec = importlib.util.spec_from_file_location("kernel_kinds", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.kind_of(kernel) == kind
