"""The benchmark's set is the same whatever is made of it, and it runs where there is no GPU."""

import importlib.util
from pathlib import Path

import pytest
import torch

from aion_lite.data.token_store import TokenStore
from aion_lite.evaluation import read_results

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "token_store.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("token_store_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_set_follows_from_its_seed_and_fills_its_codebooks(benchmark, tmp_path):
    sizes = {name: spec.vocab_size for name, spec in benchmark.SPECS.items()}
    stores = [
        TokenStore.write(tmp_path / str(i), benchmark.make_batches(4100, seed), sizes)
        for i, seed in enumerate((0, 0, 1))
    ]
    assert stores[0].checksum == stores[1].checksum != stores[2].checksum
    tokens = stores[0][:]
    for name, size in sizes.items():
        assert tokens.tokens[name].unique().numel() > 0.9 * size
        assert 0.85 < float(tokens.present[name].float().mean()) < 0.95


def test_the_memory_it_reports_grows_with_what_is_held(benchmark):
    before = benchmark.resident()
    held = torch.ones(2**26)  # a quarter of a GiB
    after = benchmark.resident()
    assert after["anonymous"] - before["anonymous"] > 0.2 and after["peak"] >= after["anonymous"]
    assert held.sum() == 2**26


def test_a_tiny_run_times_both_and_writes_only_where_it_is_told(benchmark, tmp_path):
    before = benchmark.OUT.read_bytes() if benchmark.OUT.exists() else None
    assert benchmark.main(["--tiny", "--folder", str(tmp_path), "--out", str(tmp_path / "tiny.json")]) == 0
    settings, records = read_results(tmp_path / "tiny.json")
    assert settings["parameters"]["tiny"] and settings["peak_rss_gib"] > settings["gib_on_disk"] > 0
    steps = records[records.task.str.startswith("train step")].set_index("method")
    assert set(steps.index) == {"from disk", "from memory"} and steps.times_memory["from memory"] == 1
    assert (steps.fastest <= steps.milliseconds).all() and (steps.milliseconds <= steps.slowest).all()
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.json"]  # the tokens are gone
    assert (benchmark.OUT.read_bytes() if benchmark.OUT.exists() else None) == before
