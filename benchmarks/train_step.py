"""A training step at AION-Base's shape, ours against AION's own model, side by side in one run on one GPU.

    python benchmarks/train_step.py                 # a GPU; writes benchmarks/results/train_step.json
    python benchmarks/train_step.py --tiny          # any machine, a minute; prints only

12 + 12 blocks of width 768, 12 heads; 256 tokens enter and 128 are asked, of an image (576 tokens, 4,375
codes), a spectrum (273, 1,024) and five scalars (1,024); bfloat16 products, fused AdamW. Ours is timed
through ``train`` itself, which also draws masks and clips gradients at every step; AION's masks are drawn
once and for all, as polymathic-aion has no sampler of masks, and its gradients are not clipped.

Each method runs in a process of its own, so that none meets another's memory, all on the first GPU. Where
there is a second, what is measured after the first steps is compiled there beforehand, into a cache that both
share. Needs polymathic-aion.
"""

import argparse
import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import torch

from aion_lite import evaluation
from aion_lite.codecs.base import TokenSpec
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import MultimodalTransformer
from aion_lite.quantizers import FiniteScalarQuantizer
from aion_lite.training import train

OUT = Path(__file__).parent / "results" / "train_step.json"
SCALARS = ["tok_flux_g", "tok_flux_r", "tok_flux_i", "tok_flux_z", "tok_ebv"]
BASE = {"d_model": 768, "nhead": 12, "num_layers": 12}
TINY = {"d_model": 32, "nhead": 2, "num_layers": 1}
INPUTS, TARGETS = 256, 128  # ours has its register among the 256, as lengths of whole tiles are faster


def specs(num_modalities: int = 7) -> dict[str, TokenSpec]:
    """An image, a spectrum and scalars: 5 of them, or as many as make ``num_modalities``."""
    fsq = FiniteScalarQuantizer([7, 5, 5, 5, 5])
    line = torch.linspace(-2, 2, 1024)
    scalar = TokenSpec(1, 1024, "ordinal", line[:, None].expand(-1, 2), line)
    spectrum = FiniteScalarQuantizer([4, 4, 4, 4, 4])
    return {
        "image": TokenSpec(576, 4375, "grid", fsq.code_features(), levels=fsq.num_levels, grid=(24, 24)),
        "spectrum": TokenSpec(273, 1024, "grid", spectrum.code_features(), levels=spectrum.num_levels),
        **{f"scalar{i}": scalar for i in range(num_modalities - 2)},
    }


def tokens(specs: dict[str, TokenSpec], num_samples: int) -> TokenDataset:
    g = torch.Generator().manual_seed(0)
    return TokenDataset(
        {n: torch.randint(s.vocab_size, (num_samples, s.num_tokens), generator=g) for n, s in specs.items()}
    )


def ours(args) -> dict:
    """Seconds a step of ``train``, and of its first."""
    what = specs(args.modalities)
    data = tokens(what, 8 * args.batch)
    model = MultimodalTransformer(
        what, **(TINY if args.tiny else BASE), num_inputs=INPUTS - 1, min_inputs=INPUTS - 1,
        num_targets=TARGETS, embedding=args.embedding,
    ).to("cuda" if torch.cuda.is_available() else "cpu")  # fmt: skip
    how = {
        "batch_size": args.batch, "lr": 1e-4, "optimizer": "adamw", "mixed_precision": "bf16",
        "compile": args.compile, "record": args.record, "progress": False, "log_every": args.steps,
    }  # fmt: skip
    wait()
    started = time.perf_counter()
    if args.compile:
        importlib.import_module("torch._inductor.compile_fx")  # as train would, to know how long it takes

    imported = time.perf_counter() - started
    train(model, data, steps=1, **how)
    first = time.perf_counter() - started
    # The clock is read every args.steps steps; the first stretch has the warm-up and the recording in it.
    clock = list(train(model, data, steps=(1 + args.rounds) * args.steps, **how).clock.values())
    rounds = [(b - a) / args.steps for a, b in itertools.pairwise(clock)]
    row = report(args, sorted(rounds)[len(rounds) // 2])
    if args.profile:
        from kernel_kinds import kinds  # beside this script

        with torch.profiler.profile() as profiler:
            train(model, data, steps=13, **how)
        with torch.profiler.profile() as before:
            train(model, data, steps=8, **how)
        row["profile"] = kinds(profiler, before, 5)
    seconds = {"import_seconds": imported, "first_step_seconds": first}
    return {**row, **seconds, "weights": count(model), "flops": flops(model)}


def aions(args) -> dict:
    """Seconds a step of AION's model, as it is or with its encoder and decoder compiled."""
    from aion import AION
    from aion.fourm.fm import FM

    names = {"tok_image": (576, 4375), "tok_spectrum_sdss": (273, 1024), **{s: (1, 1024) for s in SCALARS}}
    shape = TINY if args.tiny else BASE
    config = {
        "domains_in": list(names), "domains_out": list(names), "dim": shape["d_model"],
        "encoder_depth": shape["num_layers"], "decoder_depth": shape["num_layers"],
        "num_heads": shape["nhead"], "mlp_ratio": 4.0, "qkv_bias": False, "proj_bias": False,
        "mlp_bias": False, "norm_bias": False, "act_layer": "SiLU", "gated_mlp": True, "qk_norm": True,
        "num_register_tokens": 0,
    }  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = AION(config=config).to(device).train()
    if args.compile:
        model.forward_encoder = torch.compile(model.forward_encoder)
        model.forward_decoder = torch.compile(model.forward_decoder)
    where = torch.cat([torch.full((n,), i) for i, (n, _) in enumerate(names.values())]).to(device)
    order = torch.rand(args.batch, len(where), device=device).argsort(1).argsort(1)
    batch = {}
    for i, (name, (n, codes)) in enumerate(names.items()):
        rank = order[:, where == i]
        # Hidden where True: the first 256 of a random order enter, the next 128 are asked.
        batch[name] = {
            "tensor": torch.randint(codes, (args.batch, n), device=device),
            "input_mask": rank >= INPUTS,
            "target_mask": (rank < INPUTS) | (rank >= INPUTS + TARGETS),
            "decoder_attention_mask": torch.zeros(args.batch, n, dtype=torch.int64, device=device),
        }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device == "cuda")

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss, _ = FM.forward(model, {k: dict(v) for k, v in batch.items()}, INPUTS, TARGETS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    started = time.perf_counter()
    step()
    wait()
    first = time.perf_counter() - started
    for _ in range(3):
        step()
    rounds = []
    for _ in range(args.rounds):
        wait()
        started = time.perf_counter()
        for _ in range(args.steps):
            step()
        wait()
        rounds.append((time.perf_counter() - started) / args.steps)
    return {**report(args, sorted(rounds)[len(rounds) // 2]), "first_step_seconds": first}


def report(args, seconds: float) -> dict:
    gib = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")
    return {"seconds": seconds, "samples_per_second": args.batch / seconds, "gib": gib}


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def flops(model: MultimodalTransformer) -> float:
    """Operations a sample of the matrix products of a step (twice as many backward as forward), those of
    the table model: every token asked against the codes of its own modality."""
    D, blocks = model.config["d_model"], model.config["num_layers"]
    N, A = INPUTS, TARGETS
    hidden = model.encoder[0].mlp.gate.out_features
    encoder = N * (4 * D * D + 3 * D * hidden) + 2 * N * N * D
    decoder = A * (6 * D * D + 3 * D * hidden) + N * 2 * D * D + 2 * A * A * D + 2 * A * N * D
    sizes = torch.tensor([[s.num_tokens, s.vocab_size] for s in model.specs.values()], dtype=torch.float64)
    codes = float((sizes[:, 0] * sizes[:, 1]).sum() / sizes[:, 0].sum())
    return 3 * 2 * (blocks * (encoder + decoder) + N * D * D + A * D * codes)


def matmul_rate(n: int) -> float:
    """Operations a second of a bfloat16 product of n-cubes of random numbers."""
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(20):
        a @ b
    stop.record()
    stop.synchronize()
    return 2 * n**3 * 20 / (start.elapsed_time(stop) / 1e3)


def alone(method: str, **settings) -> list[str]:
    """The command that runs one method."""
    command = [sys.executable, __file__, "--one", method]
    for name, value in settings.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)] if value is not False else []
    return command


def measure(args, method: str, **settings) -> dict:
    """One method in a process of its own; a row with ``error`` where it fails."""
    command = alone(method, steps=args.steps, rounds=args.rounds, tiny=args.tiny, **settings)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if args.verbose:
        print(done.stderr[-6000:], file=sys.stderr)
    try:
        row = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        memory = "OutOfMemory" in done.stderr or "does not fit" in done.stderr
        row = {"error": "out of memory" if memory else done.stderr.strip().splitlines()[-1][:300]}
    row = {**settings, **row}
    print(
        {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k != "profile"}, flush=True
    )
    return row


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small model, small batches: does it run?")
    parser.add_argument("--out", type=Path, help=f"results file; default {OUT.name}, with --tiny none")
    parser.add_argument("--steps", type=int, default=30, help="steps timed at a time")
    parser.add_argument("--rounds", type=int, default=3, help="times the median is taken of")
    parser.add_argument("--verbose", action="store_true", help="show what the processes say")
    parser.add_argument("--one", choices=["ours", "aion"], help="measure one method in this process")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--modalities", type=int, default=7)
    parser.add_argument("--embedding", default="value")
    for flag in ("compile", "record", "profile"):
        parser.add_argument(f"--{flag}", action="store_true")
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps({"ours": ours, "aion": aions}[args.one](args)))
        return 0
    if not torch.cuda.is_available() and not args.tiny:
        print("there is no GPU here: give --tiny, or run this where there is one", file=sys.stderr)
        return 2
    return compare(args)


# variant -> how it is measured; the order is that of the runs, those that matter most first.
AION, AION_COMPILED, TABLE, VALUE = "AION eager", "AION compiled", "ours, by table", "ours, by value"
SECOND = "ours, by table, second process"
FAST = {"compile": True, "record": True}
RUNS = {
    (TABLE, 96): ("ours", {"embedding": "table", **FAST}),
    (SECOND, 96): ("ours", {"embedding": "table", **FAST, "profile": True}),
    (AION, 96): ("aion", {}),
    (TABLE, 256): ("ours", {"embedding": "table", **FAST}),
    (AION_COMPILED, 96): ("aion", {"compile": True}),
    (VALUE, 96): ("ours", {"embedding": "value", **FAST}),
    ("ours, by value, 5 modalities", 96): ("ours", {"embedding": "value", **FAST, "modalities": 5}),
    ("ours, by value, 40 modalities", 96): ("ours", {"embedding": "value", **FAST, "modalities": 40}),
    (VALUE, 256): ("ours", {"embedding": "value", **FAST}),
    ("ours, by value, neither compiled nor recorded", 96): ("ours", {"embedding": "value"}),
}


def compile_elsewhere() -> set[tuple[str, int]]:
    """Compile what is still to be measured on a second GPU of this host, a few at once; which those are."""
    if not torch.cuda.is_available() or torch.cuda.device_count() < 2:
        return set()
    second = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": second}
    later = {key: run for key, run in list(RUNS.items())[3:] if run[1].get("compile")}
    with ThreadPoolExecutor(3) as pool:
        for (_, batch), (method, settings) in later.items():
            command = alone(method, batch=batch, steps=1, rounds=1, **settings)
            pool.submit(subprocess.run, command, env=environment, **quiet)
    return set(later)


def compare(args) -> int:
    """Every run of RUNS, and the ratios between them; the file is written anew after each."""
    importlib.import_module("torch._inductor.compile_fx")  # the first process is not to wait for the disk

    started = time.perf_counter()
    rate = matmul_rate(8192) if torch.cuda.is_available() else float("nan")
    print(f"a product of 8192-cubes: {rate / 1e12:.0f} TFLOP/s")
    out = args.out or (None if args.tiny else OUT)
    rows, spared = {}, set()
    for (variant, batch), (method, settings) in RUNS.items():
        row = measure(args, method, batch=2 if args.tiny else batch, **settings)
        if (variant, batch) in spared:
            row.pop("first_step_seconds", None)
        if variant == AION and not args.tiny:  # from here on, no first step is measured
            spared = compile_elsewhere()
        rows[variant, batch] = {"what": "training step", "variant": variant, "batch": batch, **row}
        if out is not None:
            profile = next((r["profile"] for r in rows.values() if "profile" in r), [])
            keys = ratios(rows, rate)
            evaluation.write_results(
                out, "a training step beside AION's", [], data="random tokens",
                parameters={"steps": args.steps, "rounds": args.rounds}, matmul_rate=rate,
                versions={n: version(n) for n in ("torch", "polymathic-aion")},
                seconds=round(time.perf_counter() - started, 1), rows=list(rows.values()), profile=profile,
                **keys,
            )  # fmt: skip
    print(json.dumps(ratios(rows, rate), indent=2))
    return 0


def ratios(rows: dict, rate: float) -> dict:
    """What the rows so far say of each other; a ratio with a run that failed or is to come is left out."""

    def of(variant: str, key: str, batch: int = 96) -> float:
        return rows.get((variant, batch), {}).get(key, float("nan"))

    speed, few = "samples_per_second", "ours, by value, 5 modalities"
    found = {
        "ratio_to_aion_eager": of(TABLE, speed) / of(AION, speed),
        "ratio_to_aion_compiled": of(TABLE, speed) / of(AION_COMPILED, speed),
        "ratio_to_aion_eager_by_value": of(VALUE, speed) / of(AION, speed),
        "ratio_to_aion_compiled_by_value": of(VALUE, speed) / of(AION_COMPILED, speed),
        "matmul_share": of(TABLE, speed, 256) * of(TABLE, "flops", 256) / rate,
        "matmul_share_at_batch_96": of(TABLE, speed) * of(TABLE, "flops") / rate,
        "gib_at_batch_256": of(TABLE, "gib", 256),
        "first_step_seconds": of(TABLE, "first_step_seconds"),
        "second_process_seconds": of(SECOND, "first_step_seconds"),
        "catalogue_ratio": of("ours, by value, 40 modalities", "seconds") / of(few, "seconds"),
    }
    return {key: value for key, value in found.items() if value == value}


if __name__ == "__main__":
    sys.exit(main())
