"""The stored full runs of pages, as tests of what the pages claim read them."""

from pathlib import Path

from aion_lite.evaluation import read_results

RESULTS = Path(__file__).resolve().parents[2] / "notebooks" / "results"


def stored(page: str, gpu: str, unfinished=lambda task, n: False):
    """Records of a page's full run: made on ``gpu`` at a known commit, with five seeds.

    ``unfinished(task, n)``: whether two will do yet, as a run was cut off.
    """
    settings, records = read_results(RESULTS / f"{page}.json")
    assert gpu in settings["device"] and len(settings["commit"]) == 40
    seeds = records.groupby(["task", "method", "n"]).seed.apply(sorted)
    for (task, _, n), found in seeds.items():
        assert found == [0, 1, 2, 3, 4] or (unfinished(task, n) and found == [0, 1]), (task, n, found)
    return records
