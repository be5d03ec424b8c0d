"""A full run goes through every seed, and stores nothing unless all of them are there."""

import importlib.util
from pathlib import Path

import pytest

from aion_lite.evaluation import read_results

ROOT = Path(__file__).resolve().parents[1]
SOURCE = """\
# %% tags=["parameters"]
profile: str = "fast"  # fast or full
seed: int = 0  # the first
kind: str = "m"  # which method
note: str = ""  # kept
num_seeds: int = 5  # how many
output_dir: str = ""  # where to

# %%
from aion_lite.evaluation import write_results
assert profile == "full" and num_seeds == 1
assert seed < 2, "no third seed"
record = {"task": "t", "method": kind, "n": 1, "seed": seed, "r2": 0.5}
parameters = {"seed": seed, "kind": kind, "note": note}
write_results(f"{output_dir}/results.json", "line", [record], parameters=parameters, seconds=1)
"""


@pytest.fixture
def full_run(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("full_run", ROOT / "scripts" / "full_run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_try.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return module


def test_the_parts_are_merged_or_nothing_is_stored(full_run, capsys):
    stored = Path("notebooks/results/01_try.json")
    assert full_run.main(["01_try", "--seeds", "2", "--jobs", "2"]) == 0
    assert read_results(stored)[1].seed.tolist() == [0, 1]
    before = stored.read_bytes()
    assert full_run.main(["01_try", "--seeds", "3", "--jobs", "3"]) == 1
    assert "runs/full/01_try/2/log.txt" in capsys.readouterr().err and stored.read_bytes() == before


def test_a_run_may_be_split_by_a_parameter_and_given_others(full_run):
    split = ["--split", "kind=a", "--split", "kind=b"]
    assert full_run.main(["01_try", "--seeds", "1", "--jobs", "2", "-p", "note=ours", *split]) == 0
    settings, records = read_results(Path("notebooks/results/01_try.json"))
    assert sorted(records.method) == ["a", "b"]
    assert [(p["kind"], p["note"]) for p in settings["parameters"]] == [("a", "ours"), ("b", "ours")]
