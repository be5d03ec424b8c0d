"""The full run of a notebook, a process a seed, merged into the stored results of the book.

    python scripts/full_run.py 01_predict_redshifts --jobs 5
    python scripts/full_run.py 03_tokenise_an_image --jobs 10 -p data_dir=FOLDER \
        --split 'experiments=["curve", "rate"]' --split 'experiments=["aion", "tokens"]'

Small models leave most of a GPU idle, so several at once are faster (with NVIDIA's MPS daemon running, much).
Logs, executed notebooks and parts stay in runs/full/NAME/; the merged file replaces
notebooks/results/NAME.json only when every part is there.
"""

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aion_lite.evaluation import merge_results


def run_part(name: str, seed: int, given: list[str], folder: Path) -> tuple[Path, int]:
    """Run one seed with the parameters given; its results file and the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "aion_lite.cli", "run", name, "--profile", "full", "-o", str(folder)]
    with open(folder / "log.txt", "w") as log:
        values = [f"seed={seed}", "num_seeds=1", *given]
        command += [word for value in values for word in ("-p", value)]
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    return folder / "results.json", done.returncode


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Run a notebook's full profile, a process a seed, and merge."
    )
    parser.add_argument("name", help="such as 01_predict_redshifts")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", help="for every process")
    parser.add_argument(
        "--split", action="append", metavar="NAME=VALUE", help="a process of its own for each, seed by seed"
    )
    args = parser.parse_args(argv)
    root = Path("runs") / "full" / args.name
    splits = [[split] for split in args.split] if args.split else [[]]
    wanted = [(seed, i) for i in range(len(splits)) for seed in range(args.seeds)]
    with ThreadPoolExecutor(args.jobs) as pool:
        parts = list(
            pool.map(
                lambda part: run_part(
                    args.name, part[0], args.p + splits[part[1]],
                    root / (f"{part[0]}-{part[1]}" if args.split else f"{part[0]}"),
                ),
                wanted,
            )
        )  # fmt: skip
    failed = [str(part.with_name("log.txt")) for part, status in parts if status != 0]
    if failed:
        print(f"no results were stored; these failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    stored = Path("notebooks") / "results" / f"{args.name}.json"
    stored.parent.mkdir(exist_ok=True)
    print(merge_results([part for part, _ in parts], stored))
    return 0


if __name__ == "__main__":
    sys.exit(main())
