"""Images augmented a second: a batch on its device, against torchvision's transforms an image at a time.

    python benchmarks/augment.py                  # writes benchmarks/results/augment.json
    python benchmarks/augment.py --tiny           # any machine, a second; prints only

Both do the same to 3 x 64 x 64 images: flips, rotation, translation, resized crop, light, random erasing
(``augment_images`` and ``image_pipeline``, which tests hold to one law). torchvision's runs in one process on
the CPU, as a worker of a data loader does; ours where the images are, on a GPU also as a training step has
it: recorded once as a CUDA graph, then replayed.
"""

import argparse
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from aion_lite import evaluation
from aion_lite.recorded import RecordedStep
from aion_lite.strategies.augmentation import augment_images, image_pipeline

OUT = Path(__file__).parent / "results" / "augment.json"
THEIRS, OURS, RECORDED = "torchvision, an image at a time", "ours, batched", "ours, batched and recorded"
SHAPE = (3, 64, 64)


def rates(call: Callable[[], object], images: int, rounds: int, repeats: int, device: str) -> list[float]:
    """Images a second of ``rounds`` rounds of ``repeats`` calls, slowest first, after a warm-up."""
    found = []
    for _ in range(rounds + 1):
        wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        wait(device)
        found.append(images * repeats / (time.perf_counter() - started))
    return sorted(found[1:])


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(batches: list[int], rounds: int, repeats: int, device: str) -> list[dict]:
    """A record for each method and batch; torchvision's has a batch of one."""
    pipeline, image = image_pipeline(*SHAPE), torch.rand(SHAPE)
    runs: list[tuple[str, int, str, Callable[[], object]]] = [
        (THEIRS, 1, "cpu", lambda: [pipeline(image) for _ in range(10 * repeats)])
    ]
    for batch in batches:
        x = torch.rand(batch, *SHAPE, device=device)
        runs.append((OURS, batch, device, lambda x=x: augment_images(x, limits=(0.0, 1.0))))
        if device == "cuda":
            step = RecordedStep(lambda x: augment_images(x, limits=(0.0, 1.0)))
            for _ in range(5):
                step(x)
            runs.append((RECORDED, batch, device, lambda x=x, step=step: step(x)))
    records = []
    for method, batch, where, call in runs:
        images, times = (10 * repeats, 1) if method == THEIRS else (batch, repeats)
        speeds = rates(call, images, rounds, times, where)
        records.append(
            {
                "task": "augment 3 x 64 x 64", "method": method, "n": batch, "seed": 0, "where": where,
                "images_per_second": speeds[len(speeds) // 2], "slowest": speeds[0], "fastest": speeds[-1],
            }
        )  # fmt: skip
        records[-1]["times_torchvision"] = speeds[len(speeds) // 2] / records[0]["images_per_second"]
        print(f"{method:<32} {batch:>6} {where:<5} {records[-1]['images_per_second']:>12,.0f} images/s")
    return records


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small batches, one round: does it run?")
    parser.add_argument("--out", type=Path, help=f"results file; default {OUT.name}, with --tiny none")
    args = parser.parse_args(argv)
    started = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = [8] if args.tiny else [64, 256] if device == "cpu" else [64, 256, 1024, 4096]
    rounds, repeats = (2, 1) if args.tiny else (7, 5) if device == "cpu" else (7, 50)
    records = measure(batches, rounds, repeats, device)
    best = max(records[1:], key=lambda r: r["images_per_second"])
    summary = (
        f"{best['method']}: {best['images_per_second']:,.0f} images/s in batches of {best['n']}, "
        f"{best['times_torchvision']:,.0f} times torchvision's an image at a time"
    )
    print(summary)
    out = args.out or (None if args.tiny else OUT)
    if out is not None:
        out.parent.mkdir(exist_ok=True)
        evaluation.write_results(
            out, summary, records, data="random pixels",
            parameters={"shape": SHAPE, "rounds": rounds, "repeats": repeats, "tiny": args.tiny},
            torchvision=version("torchvision"), threads=torch.get_num_threads(),
            seconds=round(time.perf_counter() - started, 1),
        )  # fmt: skip
        print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
