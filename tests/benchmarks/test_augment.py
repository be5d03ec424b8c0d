"""The benchmark of image augmentation runs where there is no GPU, and writes only where it is told."""

import importlib.util
from pathlib import Path

import pytest
import torch

from aion_lite.evaluation import read_results

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "augment.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("augment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_tiny_run_times_every_method(benchmark, tmp_path):
    before = benchmark.OUT.read_bytes() if benchmark.OUT.exists() else None
    assert benchmark.main(["--tiny", "--out", str(tmp_path / "tiny.json")]) == 0
    settings, records = read_results(tmp_path / "tiny.json")
    methods = {benchmark.THEIRS, benchmark.OURS} | (
        {benchmark.RECORDED} if torch.cuda.is_available() else set()
    )
    assert set(records.method) == methods and settings["parameters"]["tiny"]
    assert (records.slowest <= records.images_per_second).all()
    assert (records.images_per_second <= records.fastest).all()
    assert (records[records.method == benchmark.THEIRS].times_torchvision == 1).all()
    assert (benchmark.OUT.read_bytes() if benchmark.OUT.exists() else None) == before


def test_rates_count_images(benchmark):
    calls = []
    found = benchmark.rates(lambda: calls.append(1), images=7, rounds=3, repeats=2, device="cpu")
    assert len(calls) == 8 and len(found) == 3 and found == sorted(found) and found[0] > 0
