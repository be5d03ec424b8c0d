"""Tokens from disk against tokens from memory: rows a second, training steps, and the memory they take.

    python benchmarks/token_store.py           # a million samples; writes benchmarks/results/token_store.json
    python benchmarks/token_store.py --tiny    # seconds; prints only

A synthetic set of an image (576 tokens of 4,375 codes), a spectrum (273 of 1,024) and five scalars is
written to a temporary folder batch by batch, and read back in random batches: from a cold page cache, from a
warm one, and from tensors of ``--in-memory`` samples of it. Then ``train`` runs on either, in turns; a step
is timed with everything around it.

The peak of the resident memory is taken before any tensor of samples is made: it holds the store, the model's
check of all of it, and training. Mapped pages of the file count in it, which the kernel takes back where
memory is short; ``anonymous`` is what the process holds beside them once the training is over.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from aion_lite import evaluation
from aion_lite.codecs import TokenSpec
from aion_lite.data.token_store import ARROW, TokenStore
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import SIZES, MultimodalTransformer
from aion_lite.passes import batch_rows
from aion_lite.training import train

OUT = Path(__file__).parent / "results" / "token_store.json"
SPECS = {
    "image": TokenSpec(576, 4375, "nominal", grid=(24, 24)),
    "spectrum": TokenSpec(273, 1024, "nominal"),
    **{f"scalar{i}": TokenSpec(1, 1024, "nominal") for i in range(5)},
}
SHAPES = {**SIZES, "tiny": {"d_model": 32, "nhead": 2, "num_layers": 1, "num_inputs": 32, "num_targets": 16}}
WRITE_SIZE = 4096


def make_batches(num_samples: int, seed: int):
    """Random tokens, a tenth of the modalities absent; the same whatever is made of them."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, num_samples, WRITE_SIZE):
        size = min(WRITE_SIZE, num_samples - start)
        tokens = {
            n: torch.randint(s.vocab_size, (size, s.num_tokens), generator=generator)
            for n, s in SPECS.items()
        }
        yield TokenDataset(tokens, {n: torch.rand(size, generator=generator) < 0.9 for n in SPECS})


def resident() -> dict[str, float]:
    """GiB of this process: the most so far, and what of the present is not pages of files."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    kib = {words[0]: int(words[1]) for words in lines if words[0] in ("VmHWM:", "RssAnon:")}
    return {"peak": kib["VmHWM:"] / 2**20, "anonymous": kib["RssAnon:"] / 2**20}


def drop_from_cache(path: Path) -> None:
    """Only while nobody maps the file."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rows_per_second(data, batch_size: int, num_batches: int, seed: int) -> float:
    """Of random batches, one after another, without anything beside them."""
    rows = [batch_rows(len(data), batch_size, seed, step) for step in range(num_batches)]
    started = time.perf_counter()
    for row in rows:
        data[row]
    return num_batches * batch_size / (time.perf_counter() - started)


def step_seconds(data, shape: dict, batch_size: int, steps: int, device: str) -> float:
    """Of ``train`` on ``data``: what ``steps`` more of them take than a few, so that no start is counted."""
    few, seconds = max(2, steps // 6), {}
    for number in (few, few + steps):
        model = MultimodalTransformer(SPECS, **shape)
        precision = "bf16" if device == "cuda" else "no"
        history = train(
            model, data, steps=number, batch_size=batch_size, log_every=number, device=device,
            mixed_precision=precision, progress=False,
        )  # fmt: skip
        seconds[number] = history.seconds
    return (seconds[few + steps] - seconds[few]) / steps


def measure(args, device: str) -> tuple[list[dict], dict]:
    """(records, what the set and the memory were)."""
    records = []

    def record(task: str, method: str, **values) -> None:
        records.append({"task": task, "method": method, "n": args.samples, "seed": args.seed, **values})
        print(f"{task:28}{method:24}" + "  ".join(f"{k} {v:,.4g}" for k, v in values.items()), flush=True)

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        started = time.perf_counter()
        sizes = {name: spec.vocab_size for name, spec in SPECS.items()}
        TokenStore.write(folder, make_batches(args.samples, args.seed), sizes)
        seconds = time.perf_counter() - started
        gib = (Path(folder) / ARROW).stat().st_size / 2**30
        record("write", "to disk", rows_per_second=args.samples / seconds, gib=gib, **resident())

        counts = {256: args.batches, 1024: max(1, args.batches // 4)}
        for size, count in counts.items():
            drop_from_cache(Path(folder) / ARROW)
            store = TokenStore(folder)
            record(
                f"random batches of {size}", "from disk, cold",
                rows_per_second=rows_per_second(store, size, max(1, count // 4), args.seed + 1),
            )  # fmt: skip
            del store
        store = TokenStore(folder)
        rates = {"from disk": {}, "from memory": {}}
        for size, count in counts.items():
            rows_per_second(store, size, count, args.seed)
            rates["from disk"][size] = rows_per_second(store, size, count, args.seed)

        shape = SHAPES[args.size]
        started = time.perf_counter()
        step_seconds(store, shape, args.batch_size, 12, device)
        seconds = time.perf_counter() - started
        bounded = resident()
        record("two checks and 16 steps", "from disk", seconds=seconds, **bounded)

        in_memory = store[: args.in_memory]
        for size, count in counts.items():
            rates["from memory"][size] = rows_per_second(in_memory, size, count, args.seed)
            for method in rates:
                rate = rates[method][size]
                times = rate / rates["from memory"][size]
                record(f"random batches of {size}", method, rows_per_second=rate, times_memory=times)

        taken = {"from memory": [], "from disk": []}
        for turn in range(args.rounds):
            for method in sorted(taken, reverse=bool(turn % 2)):
                data = store if method == "from disk" else in_memory
                taken[method].append(step_seconds(data, shape, args.batch_size, args.steps, device))
        for method, seconds in taken.items():
            ratio = statistics.median(s / m for s, m in zip(seconds, taken["from memory"], strict=True))
            record(
                f"train step, {args.size}", method, milliseconds=1e3 * statistics.median(seconds),
                fastest=1e3 * min(seconds), slowest=1e3 * max(seconds), times_memory=ratio,
            )  # fmt: skip
    return records, {
        "gib_on_disk": gib,
        "peak_rss_gib": bounded["peak"],
        "anonymous_gib": bounded["anonymous"],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Tokens from disk against tokens from memory.")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--in-memory", type=int, default=100_000, help="samples of the set held as tensors")
    parser.add_argument("--batches", type=int, default=400, help="random batches of 256 that are timed")
    parser.add_argument(
        "--size", choices=list(SHAPES), help="model trained; default base on a GPU, else tiny"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="of the training steps")
    parser.add_argument("--steps", type=int, default=60, help="that are timed, after some that are not")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, help="where the temporary folder goes; 2 GB for a million samples"
    )
    parser.add_argument("--tiny", action="store_true", help="3,000 samples, few steps: does it run?")
    parser.add_argument("--out", type=Path, help=f"results file; default {OUT.name}, with --tiny none")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args.size = args.size or ("base" if device == "cuda" and not args.tiny else "tiny")
    if args.tiny:
        args.samples, args.in_memory, args.batches, args.steps, args.rounds, args.batch_size = (
            3000,
            500,
            8,
            4,
            2,
            8,
        )

    started = time.perf_counter()
    records, about = measure(args, device)
    steps = {r["method"]: r for r in records if r["task"].startswith("train step")}
    summary = (
        f"a step from disk takes {steps['from disk']['times_memory']:.3f} of one from memory; the peak is "
        f"{about['peak_rss_gib']:.2f} GiB, and {about['anonymous_gib']:.2f} GiB stay beside pages of files"
    )
    print(summary)
    out = args.out or (None if args.tiny else OUT)
    if out is not None:
        out.parent.mkdir(exist_ok=True)
        names = ("samples", "in_memory", "batches", "size", "batch_size", "steps", "rounds", "tiny")
        evaluation.write_results(
            out, summary, records, data="random tokens", parameters={n: getattr(args, n) for n in names},
            seconds=round(time.perf_counter() - started, 1), **about,
        )  # fmt: skip
        print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
