"""A full run goes through every seed, and stores nothing unless all of them are there."""

import importlib.util
import json
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
from pathlib import Path
import time
assert profile == "full" and num_seeds == 1
time.sleep(600 * (note == "slow"))
if note == "twice" and not (begun := Path("begun")).exists():
    begun.touch()
    raise SystemExit(1)
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


def test_a_part_that_failed_is_tried_once_more(full_run, capsys):
    assert full_run.main(["01_try", "--seeds", "1", "-p", "note=twice"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(" after")[0] for line in told[:2]] == [
        "runs/full/01_try/0: status 1",
        "runs/full/01_try/0: status 0",
    ]


def test_a_run_may_be_split_by_a_parameter_and_given_others(full_run):
    split = ["--split", "kind=a", "--split", "kind=b"]
    assert full_run.main(["01_try", "--seeds", "1", "--jobs", "2", "-p", "note=ours", *split]) == 0
    settings, records = read_results(Path("notebooks/results/01_try.json"))
    assert sorted(records.method) == ["a", "b"]
    assert [(p["kind"], p["note"]) for p in settings["parameters"]] == [("a", "ours"), ("b", "ours")]


def test_a_split_may_have_several_parameters_and_parts_json_may_have_them(full_run, monkeypatch, tmp_path):
    folder = full_run.ROOT / "01_try"
    assert full_run.parts_of("01_try", 2, ['kind=a note="of two"']) == {
        folder / "0-0": ["seed=0", "num_seeds=1", "kind=a", "note=of two"],
        folder / "1-0": ["seed=1", "num_seeds=1", "kind=a", "note=of two"],
    }
    (tmp_path / "parts.json").write_text('{"01_try": [["kind=b"], ["kind=a", "note=x"]]}')
    monkeypatch.setattr(full_run, "__file__", str(tmp_path / "full_run.py"))
    assert list(full_run.parts_of("01_try", 1, None).values()) == [
        ["seed=0", "num_seeds=1", "kind=b"],
        ["seed=0", "num_seeds=1", "kind=a", "note=x"],
    ]
    assert list(full_run.parts_of("02_other", 1, None)) == [full_run.ROOT / "02_other" / "0"]


def test_what_is_not_done_in_time_is_ended_and_a_later_call_goes_on(full_run, capsys):
    stored = Path("notebooks/results/01_try.json")
    slow = ["01_try", "--seeds", "1", "--jobs", "2", "--split", "kind=a", "--split", "kind=b note=slow"]
    assert full_run.main([*slow, "--minutes", "0.2"]) == 1
    assert "0-1/log.txt" in capsys.readouterr().err and not stored.exists()
    done = Path("runs/full/01_try/0-0/results.json")
    before = done.stat().st_mtime_ns
    splits = ["--split", "kind=a", "--split", "kind=b"]
    assert (
        full_run.main(["01_try", "--seeds", "1", "--resume", "--minutes", "0", *splits]) == 1
    )  # merges only
    assert full_run.main(["01_try", "--seeds", "1", "--resume", *splits]) == 0
    assert done.stat().st_mtime_ns == before
    assert sorted(read_results(stored)[1].method) == ["a", "b"]


def test_the_parts_in_parts_json_are_those_of_pages_and_their_parameters(full_run):
    for name, splits in json.loads((ROOT / "scripts" / "parts.json").read_text()).items():
        source = (ROOT / "notebooks" / f"{name}.py").read_text()
        for value in [value for split in splits for value in split]:
            assert f"\n{value.split('=')[0]}: " in source, f"{name} has no parameter for {value}"
