"""The benchmark of streamed patients runs, copies as many bytes, and writes only where it is told."""

import importlib.util
from pathlib import Path

import pytest

from aion_lite.evaluation import read_results

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "generate_patients.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("generate_patients", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_tiny_run_times_both_and_writes_only_where_it_is_told(benchmark, tmp_path):
    before = benchmark.OUT.read_bytes() if benchmark.OUT.exists() else None
    assert benchmark.main(["--tiny", "--folder", str(tmp_path), "--out", str(tmp_path / "tiny.json")]) == 0
    settings, records = read_results(tmp_path / "tiny.json")
    assert settings["parameters"]["tiny"] and settings["peak_rss_gib"] >= settings["before_gib"] > 0
    bytes_a_patient = 4 * (16 * 16 + 1000 + 5)  # and masks and nuisances
    assert 1 < settings["gib_on_disk"] * 2**30 / (1500 * bytes_a_patient) < 1.2
    assert list(records.method) == [benchmark.GENERATE, benchmark.COPY]
    assert (records.fastest <= records.seconds_per_100000).all() and records.times_writing[1] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.json"]  # the patients are gone
    assert (benchmark.OUT.read_bytes() if benchmark.OUT.exists() else None) == before


@pytest.mark.parametrize("num_blocks", [1, 3, 4])
def test_as_many_bytes_are_copied(benchmark, tmp_path, num_blocks):
    sizes = {"a": 10, "b": 3001, "c": 12}
    benchmark.write_bytes(tmp_path / "bytes", sizes, num_blocks)
    assert {p.name: p.stat().st_size for p in (tmp_path / "bytes").iterdir()} == sizes
