"""Patients of a known law streamed to disk: seconds for 100,000 of them, and the memory it takes.

    python benchmarks/generate_patients.py           # writes benchmarks/results/generate_patients.json
    python benchmarks/generate_patients.py --tiny    # seconds; prints only

``SyntheticDataGenerator.write`` draws patients of an image of 64 x 64 pixels, an ECG of 1,000 samples and
five scalars 1,000 at a time, and appends them to one file a modality. Beside it, in turns, the same bytes are
only written: as many files of the same sizes, each 1,000 patients at a time from memory. Either is over when
the disk says that it has them (fsync). The peak of the resident memory is that of the process, torch's
import included, of which ``before`` tells.
"""

import argparse
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from aion_lite import evaluation
from aion_lite.data.synthetic import BLOCK, SyntheticDataGenerator

OUT = Path(__file__).parent / "results" / "generate_patients.json"
GENERATE, COPY = "generate and write", "write the same bytes"
PER = 100_000  # patients that seconds are told of


def peak_gib() -> float:
    """The most that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def flush(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb") as f:
            os.fsync(f.fileno())


def write_bytes(folder: Path, sizes: dict[str, int], num_blocks: int) -> None:
    """Files of these sizes, in turns and ``num_blocks`` pieces, as ``write`` does it."""
    folder.mkdir()
    pieces = {name: os.urandom(-(-size // num_blocks)) for name, size in sizes.items()}
    files = {name: open(folder / name, "wb") for name in sizes}
    for block in range(num_blocks):
        for name, file in files.items():
            file.write(pieces[name][: sizes[name] - block * len(pieces[name])])
    for file in files.values():
        file.close()


def measure(args) -> tuple[list[dict], dict]:
    """(records, what else there is to tell)."""
    generator = SyntheticDataGenerator(args.patients, args.seed, args.image_size)
    taken, before, peak = {GENERATE: [], COPY: []}, peak_gib(), 0.0
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        ours, theirs = Path(folder) / "patients", Path(folder) / "bytes"
        for _ in range(args.rounds):
            started = time.perf_counter()
            generator.write(ours)
            flush(ours)
            taken[GENERATE].append(time.perf_counter() - started)
            peak = peak or peak_gib()  # before there are bytes to copy
            sizes = {path.name: path.stat().st_size for path in ours.iterdir()}
            shutil.rmtree(ours)  # room for the others

            started = time.perf_counter()
            write_bytes(theirs, sizes, -(-args.patients // BLOCK))
            flush(theirs)
            taken[COPY].append(time.perf_counter() - started)
            shutil.rmtree(theirs)
    records = []
    for method, seconds in taken.items():
        each = [s * PER / args.patients for s in seconds]
        times = statistics.median(s / c for s, c in zip(seconds, taken[COPY], strict=True))
        records.append(
            {
                "task": f"{args.image_size}-pixel patients to disk", "method": method, "n": args.patients,
                "seed": args.seed, "seconds_per_100000": statistics.median(each), "fastest": min(each),
                "slowest": max(each), "times_writing": times,
            }
        )  # fmt: skip
        print(f"{method:<24}{statistics.median(each):8.1f} s per {PER:,}   {times:.2f} times writing")
    return records, {
        "gib_on_disk": sum(sizes.values()) / 2**30,
        "peak_rss_gib": peak,
        "before_gib": before,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=PER)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes; 2 GB for 100,000")
    parser.add_argument("--tiny", action="store_true", help="1,500 patients, one round: does it run?")
    parser.add_argument("--out", type=Path, help=f"results file; default {OUT.name}, with --tiny none")
    args = parser.parse_args(argv)
    if args.tiny:
        args.patients, args.image_size, args.rounds = 1500, 16, 1
    started = time.perf_counter()
    records, about = measure(args)
    summary = (
        f"{records[0]['seconds_per_100000']:.1f} s per {PER:,} patients on {about['cores']} cores, "
        f"{records[0]['times_writing']:.2f} times writing the same bytes; the peak is "
        f"{about['peak_rss_gib']:.2f} GiB for {about['gib_on_disk']:.2f} GiB on disk"
    )
    print(summary)
    out = args.out or (None if args.tiny else OUT)
    if out is not None:
        out.parent.mkdir(exist_ok=True)
        names = ("patients", "image_size", "rounds", "tiny")
        evaluation.write_results(
            out, summary, records, data="synthetic patients", parameters={n: getattr(args, n) for n in names},
            seconds=round(time.perf_counter() - started, 1), **about,
        )  # fmt: skip
        print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
