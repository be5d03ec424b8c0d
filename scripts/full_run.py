"""The full runs of notebooks, a process a part, merged into the stored results of the book.

    python scripts/full_run.py 01_predict_redshifts --jobs 5
    python scripts/full_run.py 03_tokenise_an_image --jobs 10 -p data_dir=FOLDER \
        --split 'experiments=["curve", "rate"]' --split 'experiments=["aion"] sizes=[3000]'
    python scripts/full_run.py 07_make_data_with_a_known_answer --jobs 16 --minutes 9 --resume

A part is a seed and, with ``--split``, or where parts.json beside this script has splits for the page, a
value of some parameters. Small models leave most of a GPU idle, so several parts at once are faster (with
NVIDIA's MPS daemon running, much); they go to the GPUs in turns.

Logs, executed notebooks and parts stay in runs/full/NAME/. On a machine that is lent for minutes,
``--minutes`` ends what is not done by then, and ``--resume`` goes on later with what is missing (with
``--minutes 0``, it only merges). The merged file replaces notebooks/results/NAME.json when every part is
there.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from aion_lite.evaluation import merge_results

ROOT = Path("runs") / "full"


def parts_of(name: str, seeds: int, splits: list[str] | None) -> dict[Path, list[str]]:
    """Folder of each part -> its parameters, as NAME=VALUE; in the order of the splits."""
    known = json.loads(Path(__file__).with_name("parts.json").read_text())
    splits = [shlex.split(split) for split in splits] if splits else known.get(name, [[]])
    parts = {}
    for i, split in enumerate(splits):
        for seed in range(seeds):
            label = f"{seed}-{i}" if splits != [[]] else f"{seed}"
            parts[ROOT / name / label] = [f"seed={seed}", "num_seeds=1", *split]
    return parts


def start(name: str, folder: Path, values: list[str], gpu: int | None) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "aion_lite.cli", "run", name, "--profile", "full", "-o", str(folder)]
    command += [word for value in values for word in ("-p", value)]
    environment = dict(os.environ) if gpu is None else {**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu)}
    with open(folder / "log.txt", "w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def stop(process: subprocess.Popen) -> None:
    """The process and its kernel, which has a session of its own."""
    import psutil

    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in reversed(family):
        member.kill()
    process.wait()


def run(todo: list[tuple[str, Path, list[str]]], jobs: int, gpus: list[int], deadline: float) -> set[Path]:
    """Run the parts, ``jobs`` at a time on each GPU (without one, in all); folders of what failed twice.

    Twice, since of many kernels that start at once some are given the same ports, and die.
    """
    running, failed, again, places = {}, set(), set(), gpus or [None]
    while todo or running:
        for folder, (process, _, since, part) in list(running.items()):
            if process.poll() is not None:
                del running[folder]
                print(
                    f"{folder}: status {process.returncode} after {time.monotonic() - since:.0f} s",
                    flush=True,
                )
                if process.returncode != 0 and folder not in again:
                    again.add(folder)
                    todo.append(part)
                elif process.returncode != 0:
                    failed.add(folder)
        if time.monotonic() > deadline:
            for process, *_ in running.values():
                stop(process)
            break
        load = {place: sum(at == place for _, at, *_ in running.values()) for place in places}
        place = min(load, key=load.get)
        if todo and load[place] < jobs:
            part = todo.pop(0)
            running[part[1]] = start(*part, place), place, time.monotonic(), part
        else:
            time.sleep(0.2)
    return failed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run notebooks' full profiles, a process a part, and merge.")
    parser.add_argument("names", nargs="+", help="such as 01_predict_redshifts")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, on each GPU")
    parser.add_argument("--gpus", type=json.loads, default=None, help="such as [0, 1]; default all")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end what is not done by then")
    parser.add_argument("--resume", action="store_true", help="keep the parts that are there")
    parser.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", help="for every process")
    parser.add_argument(
        "--split", action="append", metavar="NAME=VALUE", help="a process of its own for each, seed by seed"
    )
    args = parser.parse_args(argv)
    if args.gpus is None:
        import torch

        args.gpus = list(range(torch.cuda.device_count()))
    deadline = time.monotonic() + 60 * args.minutes
    pages = {name: parts_of(name, args.seeds, args.split) for name in args.names}
    if not args.resume:
        for name in pages:
            shutil.rmtree(ROOT / name, ignore_errors=True)
    todo = [
        (name, folder, [*args.p, *values])
        for name, parts in pages.items()
        for folder, values in parts.items()
        if not (folder / "results.json").exists()
    ]
    failed = run(todo, args.jobs, args.gpus, deadline)
    whole = True
    for name, parts in pages.items():
        missing = [f for f in parts if f in failed or not (f / "results.json").exists()]
        if missing:
            logs = ", ".join(str(folder / "log.txt") for folder in missing)
            print(f"no results of {name} were stored; these are not done: {logs}", file=sys.stderr)
            whole = False
            continue
        stored = Path("notebooks") / "results" / f"{name}.json"
        stored.parent.mkdir(exist_ok=True)
        print(merge_results([folder / "results.json" for folder in parts], stored))
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
