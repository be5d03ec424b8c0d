"""The quantizers' benchmark runs where there is no GPU, on codes that it has checked."""

import importlib.util
from pathlib import Path

import pytest
import torch

from aion_lite.evaluation import read_results

pytest.importorskip("aion", reason="needs polymathic-aion")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "quantizers.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("quantizers_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_tiny_run_measures_everything_and_writes_only_where_it_is_told(benchmark, tmp_path):
    before = benchmark.OUT.read_bytes() if benchmark.OUT.exists() else None
    out = tmp_path / "tiny.json"
    assert benchmark.main(["--megabytes", "1", "--device", "cpu", "--out", str(out)]) == 0
    _, records = read_results(out)
    encodes = records[records.share_of_copy.notna()]
    assert set(encodes.method) == {benchmark.COPY, benchmark.OURS, benchmark.AION}
    assert encodes.task.nunique() == 2 * len(benchmark.LEVELS) + len(benchmark.FORMS)
    assert (encodes[encodes.method == benchmark.COPY].share_of_copy == 1).all()
    updates = records[records.task.str.startswith("update")]
    assert (updates.milliseconds > 0).all() and (updates[updates.method == "AION"].times_aion == 1).all()
    assert (benchmark.OUT.read_bytes() if benchmark.OUT.exists() else None) == before


def test_codes_that_are_not_the_formulas_are_refused(benchmark):
    ours, aion, plain = benchmark.finite([3, 3], "cpu")
    z = benchmark.numbers((8, 2, 5), torch.float32, "cpu")
    with pytest.raises(RuntimeError, match="not those of the plain formula"):
        benchmark.measure_encode("shifted", (ours, aion, lambda x: plain(x) + 1), z, 1, "cpu")


def test_bad_arguments_are_refused(benchmark, capsys):
    assert benchmark.main(["--megabytes", "0", "--device", "cpu"]) == 2
    assert "numbers of 1 or more, got [0]" in capsys.readouterr().err
