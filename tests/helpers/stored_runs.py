"""The stored full runs of pages, as tests of what the pages claim read them."""

from pathlib import Path

from aion_lite.evaluation import read_results

RESULTS = Path(__file__).resolve().parents[2] / "notebooks" / "results"


def stored(page: str, gpu: str):
    """Records of a page's full run: made on ``gpu`` at a known commit, with five seeds."""
    settings, records = read_results(RESULTS / f"{page}.json")
    assert gpu in settings["device"] and len(settings["commit"]) == 40
    for what, found in records.groupby(["task", "method", "n"]).seed.apply(sorted).items():
        assert found == [0, 1, 2, 3, 4], (what, found)
    return records


def by_method(records, task: str, n: int, metric: str = "share"):
    """By seed, a column for each method."""
    rows = records[(records.task == task) & (records.n == n)]
    return rows.pivot(index="seed", columns="method", values=metric)
