"""The benchmark of a training step: both models run, operations are counted as torch counts them."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aion_lite.model import MultimodalTransformer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("train_step", ROOT / "benchmarks" / "train_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "method", [["ours", "--embedding", "value"], ["ours", "--embedding", "table"], ["aion"]]
)
def test_both_models_run(bench, method, capsys):
    assert bench.main(["--one", *method, "--tiny", "--batch", "2", "--steps", "1", "--rounds", "2"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["first_step_seconds"] > 0 and row["samples_per_second"] == pytest.approx(2 / row["seconds"])


def test_operations_are_those_torch_counts(bench):
    """Of the blocks and the map between them; the head computes more than is counted, so it is left out."""
    specs = bench.specs()
    model = MultimodalTransformer(
        specs,
        d_model=96,
        nhead=4,
        num_layers=2,
        num_inputs=255,
        num_targets=128,
        min_inputs=255,
        embedding="table",
    )
    sizes = torch.tensor([[s.num_tokens, s.vocab_size] for s in specs.values()], dtype=torch.float64)
    head = 6 * 128 * 96 * float((sizes[:, 0] * sizes[:, 1]).sum() / sizes[:, 0].sum())
    batch = bench.tokens(specs, 2)
    # The counter knows plain products only, not every fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(batch.tokens)[0].backward()
    in_head = 6 * 128 * model.head.flat.own.weight.numel()  # a sample: every row of every codebook
    assert counter.get_total_flops() / 2 - in_head == pytest.approx(bench.flops(model) - head, rel=0.01)


def test_ratios_leave_out_what_failed(bench):
    rows = {
        (bench.AION, 96): {"samples_per_second": 100.0},
        (bench.TABLE, 96): {"samples_per_second": 400.0, "flops": 1e9, "first_step_seconds": 9.0},
        (bench.AION_COMPILED, 96): {"error": "out of memory"},
    }
    found = bench.ratios(rows, 8e11)
    assert found["ratio_to_aion_eager"] == 4.0 and found["matmul_share_at_batch_96"] == pytest.approx(0.5)
    assert "ratio_to_aion_compiled" not in found and "matmul_share" not in found
