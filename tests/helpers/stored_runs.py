"""The stored full runs of pages, as tests of what the pages claim read them."""

from pathlib import Path

from aion_lite.evaluation import read_results

RESULTS = Path(__file__).resolve().parents[2] / "notebooks" / "results"


def stored(page: str, gpu: str, least: int = 5):
    """Records of a page's full run: made on ``gpu`` at a known commit, with five seeds everywhere.

    ``least``: fewest seeds of a comparison whose run has not ended yet.
    """
    settings, records = read_results(RESULTS / f"{page}.json")
    assert gpu in settings["device"] and len(settings["commit"]) == 40
    seeds = records.groupby(["task", "method", "n"]).seed.apply(sorted)
    assert all(s == list(range(max(len(s), least))) for s in seeds)
    return records
