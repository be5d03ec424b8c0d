"""Numbers a second into codes, and batches a second into a reservoir, against AION's, in one run.

    python benchmarks/quantizers.py                                # a GPU; writes results/quantizers.json
    python benchmarks/quantizers.py --megabytes 1 --device cpu     # any machine, seconds; prints only

A pass over memory can be no faster than a copy, so speed is (bytes read + bytes written) / time, as a share
of what copying the input reaches in the same round. ``encode`` is timed whole, with its wait for the check of
its input. A reservoir's update is timed alone, as it is called on a stream, and with the codebook read after
each batch, which AION's update always does. Every code is first compared with the plain float64 or tanh
formula. Methods take turns. Needs polymathic-aion.
"""

import argparse
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from aion_lite import evaluation
from aion_lite.quantizers import (
    FiniteScalarQuantizer,
    ScalarCompressedReservoirQuantizer,
    ScalarLogReservoirQuantizer,
    ScalarReservoirQuantizer,
)

OUT = Path(__file__).parent / "results" / "quantizers.json"
LEVELS = [[7, 5, 5, 5, 5], [8, 5, 5, 5], [4, 4, 4]]
FORMS = {
    "plain": ScalarReservoirQuantizer,
    "log": ScalarLogReservoirQuantizer,
    "arcsinh": ScalarCompressedReservoirQuantizer,
}
SLOTS, CODES, PLACES = 100_000, 1024, 576
COPY, OURS, AION = "copy", "ours", "AION"


def finite(levels: list[int], device: str):
    """(ours, AION's, the plain formula): functions of z (B, d, N) -> codes."""
    from aion.codecs.quantizers import FiniteScalarQuantizer as AionFSQ

    ours, aion = FiniteScalarQuantizer(levels).to(device), AionFSQ(levels).to(device)

    def plain(z):
        half = (ours.levels - 1) * 1.001 / 2
        offset = torch.where(ours.levels % 2 == 0, 0.5, 0.0)
        level = (torch.tanh(z.movedim(1, -1).float() + torch.atanh(offset / half)) * half - offset).round()
        return ((level.long() + ours.half_width) * ours.basis).sum(-1)

    return ours.encode, aion.encode, plain


def scalar(form: str, device: str):
    """(ours, AION's or None, the plain formula): functions of positive x (n,) -> codes."""
    from aion.codecs.quantizers.scalar import ScalarReservoirQuantizer as AionReservoir

    ours, aion = FORMS[form](CODES, SLOTS).to(device), AionReservoir(CODES, SLOTS).to(device)
    sample = numbers((SLOTS,), torch.float32, device).abs()
    ours.update(sample)
    aion._update_reservoirs(sample)
    middles = (ours.codes[1:] + ours.codes[:-1]) / 2

    def plain(x):
        return torch.bucketize(ours.transform(x.double()), middles)

    return ours.encode, aion.encode if form == "plain" else None, plain


def numbers(shape: tuple, dtype: torch.dtype, device: str) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(shape, generator=generator, device=device)
    return x.mul_(2).to(dtype)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(call, device: str, calls: int) -> float:
    """Of one call, over ``calls`` in a row."""
    wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return (time.perf_counter() - started) / calls


def take_turns(calls: dict, device: str, rounds: int, target: float = 0.1) -> dict:
    """Each method's seconds a call, one of every round."""
    often = {}
    for name, call in calls.items():
        call()  # builds kernels, fills caches
        often[name] = max(1, min(50, round(target / seconds(call, device, 1))))
    taken = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(seconds(call, device, often[name]))
    return taken


def measure_encode(task: str, functions, x: torch.Tensor, rounds: int, device: str) -> list[dict]:
    """Records of bytes a second through each method and through a copy of as many bytes."""
    ours, aion, plain = functions
    codes = ours(x)
    parts = zip(codes.split(1 << 20), x.split(1 << 20), strict=True)
    if not all(torch.equal(got, plain(part)) for got, part in parts):
        raise RuntimeError(f"{task}: the codes are not those of the plain formula.")
    moved = {OURS: x.nbytes + codes.nbytes, COPY: 2 * x.nbytes}
    source, target = torch.empty_like(x).copy_(x), torch.empty_like(x)
    calls = {COPY: lambda: target.copy_(source), OURS: lambda: ours(x)}
    if aion is not None:
        moved[AION] = x.nbytes + aion(x).nbytes
        calls[AION] = lambda: aion(x)
    taken = take_turns(calls, device, rounds)
    rate = {name: [moved[name] / s for s in taken[name]] for name in calls}
    records = []
    for name in calls:
        share = statistics.median(a / b for a, b in zip(rate[name], rate[COPY], strict=True))
        fewer = None if aion is None else statistics.median(taken[AION]) / statistics.median(taken[name])
        records.append(
            {
                "task": task, "method": name, "n": x.numel(), "seed": 0, "input_megabytes": x.nbytes / 1e6,
                "milliseconds": statistics.median(taken[name]) * 1e3,
                "gigabytes_per_second": statistics.median(rate[name]) / 1e9, "share_of_copy": share,
                "times_aion": fewer if name == OURS else None,
            }
        )  # fmt: skip
    return records


def measure_update(batch: int, rounds: int, device: str) -> list[dict]:
    """Records of milliseconds a batch into full reservoirs."""
    from aion.codecs.quantizers.scalar import ScalarReservoirQuantizer as AionReservoir

    ours, aion = ScalarReservoirQuantizer(CODES, SLOTS).to(device), AionReservoir(CODES, SLOTS).to(device)
    full, x = numbers((2 * SLOTS,), torch.float32, device), numbers((batch,), torch.float32, device)
    ours.update(full)
    aion._update_reservoirs(full)
    both = OURS + " and codebook"
    calls = {AION: lambda: aion._update_reservoirs(x), OURS: lambda: ours.update(x)}
    calls[both] = lambda: (ours.update(x), ours.codes)
    taken = {name: statistics.median(s) for name, s in take_turns(calls, device, rounds).items()}
    return [
        {
            "task": f"update, {SLOTS:,} slots", "method": name, "n": batch, "seed": 0,
            "milliseconds": taken[name] * 1e3, "times_aion": taken[AION] / taken[name],
        }
        for name in calls
    ]  # fmt: skip


def show(record: dict) -> None:
    size = f"{record['input_megabytes']:.0f} MB" if "input_megabytes" in record else f"{record['n']:,}"
    line = f"{record['task']:32} {size:>8} {record['method']:18} {record['milliseconds']:9.3f} ms"
    if "share_of_copy" in record:
        line += f" {record['gigabytes_per_second']:8.0f} GB/s {record['share_of_copy']:6.1%} of a copy"
    if record["times_aion"] is not None:
        line += f" {record['times_aion']:7.1f} x AION's"
    print(line)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Quantizers' speed, against AION's and against a copy.")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000], help="of the input tensors")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, help=f"results file; default {OUT.name} on a GPU, else none")
    args = parser.parse_args(argv)
    if min(args.megabytes) < 1:
        print(f"--megabytes takes numbers of 1 or more, got {args.megabytes}", file=sys.stderr)
        return 2
    if args.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here: give --device cpu --megabytes 1", file=sys.stderr)
        return 2

    started, device, rounds = time.perf_counter(), args.device, 9 if args.device == "cuda" else 2
    records = []
    for megabytes in args.megabytes:
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            many = megabytes * 1_000_000 // dtype.itemsize
            for levels in LEVELS:
                z = numbers((many // len(levels) // PLACES, len(levels), PLACES), dtype, device)
                task = f"FSQ {levels}, {name}"
                records += measure_encode(task, finite(levels, device), z, rounds, device)
            for form in FORMS if dtype == torch.float32 else ():
                # Away from 0, where log(x) is refused.
                x = numbers((many,), dtype, device).abs_().add_(1e-3)
                records += measure_encode(f"scalar {form}", scalar(form, device), x, rounds, device)
    for batch in (256, 1024, 10_000, SLOTS):
        records += measure_update(batch, rounds, device)
    for record in records:
        show(record)
    shares = [r["share_of_copy"] for r in records if r["method"] == OURS and "share_of_copy" in r]
    ratios = [r["times_aion"] for r in records if r["method"] == OURS and "share_of_copy" not in r]
    summary = (
        f"encode at {min(shares):.0%} to {max(shares):.0%} of a copy's bytes a second; "
        f"update at {min(ratios):.1f} to {max(ratios):.1f} x AION's"
    )
    print(summary)
    out = args.out or (OUT if device == "cuda" else None)
    if out is not None:
        out.parent.mkdir(exist_ok=True)
        parameters = {"megabytes": args.megabytes, "slots": SLOTS, "codes": CODES, "rounds": rounds}
        evaluation.write_results(
            out, summary, records, data="random numbers", parameters={**parameters, "device": device},
            aion=version("polymathic-aion"), seconds=round(time.perf_counter() - started, 1),
        )  # fmt: skip
        print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
