"""Samples a second of ``predict`` and ``generate`` against AION 0.0.2's own forward and sampler, in one run.

    python benchmarks/predict.py                 # a GPU; writes benchmarks/results/predict.json
    python benchmarks/predict.py --size tiny     # any machine; prints only

Same shapes on either side (base: width 768, 12 + 12 blocks, 12 heads), random weights, as speed does not
depend on them. Two tasks: the law of a scalar from an image of 576 tokens (``AION.forward``), and the 576
tokens of an image drawn from five scalars in equal steps (``GenerationSampler``, scheme ROAR: random order,
as many tokens a step as ours).

Ours comes like for like (a table row and a softmax entry a code, as AION has), with codes by their value, and
built for 40 modalities of which the same ones are given. The methods take turns, so that whatever else the
machine does meets them alike. ``times_aion`` compares at one precision, ``times_aion_fp32`` with AION as it
comes. Needs polymathic-aion.
"""

import argparse
import statistics
import sys
import time
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import torch

from aion_lite import evaluation
from aion_lite.codecs import TokenSpec
from aion_lite.model import SIZES, MultimodalTransformer
from aion_lite.quantizers import FiniteScalarQuantizer

OUT = Path(__file__).parent / "results" / "predict.json"
AION = "AION"
IMAGE, SPECTRUM = "tok_image", "tok_spectrum_desi"
SCALARS = [f"tok_flux_{band}" for band in ("g", "r", "i", "z", "w1")]
LEVELS = (7, 5, 5, 5, 5)
SHAPES = {**SIZES, "tiny": {"d_model": 32, "nhead": 2, "num_layers": 1}}


def specs(num_modalities: int = 7) -> dict[str, TokenSpec]:
    """AION's image, spectrum and five scalars, and as many more scalars as are asked for."""
    grid = FiniteScalarQuantizer(LEVELS).code_features()
    line = torch.linspace(-1.7, 1.7, 1024)
    names = [*SCALARS, *(f"scalar{i}" for i in range(num_modalities - 7))]
    return {
        IMAGE: TokenSpec(576, 4375, "grid", grid, levels=LEVELS, grid=(24, 24)),
        SPECTRUM: TokenSpec(273, 1024, "nominal"),
        **{name: TokenSpec(1, 1024, "ordinal", line[:, None], line) for name in names},
    }


def make_tokens(batch_size: int, device: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randint(spec.vocab_size, (batch_size, spec.num_tokens), generator=generator).to(device)
        for name, spec in specs().items()
    }


def aion_model(shape: dict, device: str):
    from aion import AION as AionModel

    names = [IMAGE, SPECTRUM, *SCALARS]
    config = {
        "domains_in": names, "domains_out": names, "dim": shape["d_model"], "num_heads": shape["nhead"],
        "encoder_depth": shape["num_layers"], "decoder_depth": shape["num_layers"], "mlp_ratio": 4.0,
        "qkv_bias": False, "proj_bias": False, "mlp_bias": False, "norm_bias": False, "act_layer": "SiLU",
        "gated_mlp": True, "qk_norm": True, "num_register_tokens": 0,
    }  # fmt: skip
    return AionModel(config=config).eval().to(device)


def aion_tasks(model, num_steps: int) -> dict:
    """Task -> function of tokens, by AION's own code."""
    from aion.fourm import generate as fourm
    from aion.modalities import LegacySurveyFluxG

    sampler = fourm.GenerationSampler(model)
    schedule = fourm.build_chained_generation_schedules(
        cond_domains=SCALARS, target_domains=[IMAGE], tokens_per_target=[576],
        autoregression_schemes=["roar"], decoding_steps=[num_steps], token_decoding_schedules=["linear"],
        temps=[1.0], temp_schedules=["constant"], cfg_scales=[1.0], cfg_schedules=["constant"],
    )  # fmt: skip

    def generate(tokens):
        batch, device = tokens[IMAGE].shape[0], tokens[IMAGE].device
        given = {name: {"tensor": tokens[name].clone()} for name in SCALARS}
        for name in SCALARS:
            fourm.init_full_input_modality(given, model.modality_info, name, device)
        fourm.init_empty_target_modality(given, model.modality_info, IMAGE, batch, 576, device)
        return sampler.generate(given, schedule)[IMAGE]["tensor"]

    def predict(tokens):
        name = LegacySurveyFluxG.token_key
        return model({IMAGE: tokens[IMAGE]}, LegacySurveyFluxG)[name].log_softmax(-1)

    return {"predict": predict, "generate": generate}


def our_tasks(model: MultimodalTransformer, num_steps: int) -> dict:
    def generate(tokens):
        given = {name: tokens[name] for name in SCALARS}
        return model.generate(given, IMAGE, num_steps=num_steps).tokens[IMAGE]

    return {
        "predict": lambda tokens: model.predict({IMAGE: tokens[IMAGE]}, SCALARS[0]).log_probs,
        "generate": generate,
    }


def compiled_predict(model: MultimodalTransformer):
    """The same question with the blocks compiled; ``generate`` asks with ever more tokens, shape by shape."""

    def predict(tokens):
        with model.compiled():
            return our_tasks(model, 0)["predict"](tokens)

    return {"predict": predict}


def make_methods(shape: dict, num_steps: int, device: str) -> dict[str, dict]:
    def ours(num_modalities: int, embedding: str):
        return MultimodalTransformer(specs(num_modalities), **shape, embedding=embedding).eval().to(device)

    models = {"ours, table": ours(7, "table"), "ours": ours(7, "value")}
    models["ours, 40 modalities"] = ours(40, "value")
    methods = {name: our_tasks(model, num_steps) for name, model in models.items()}
    if device == "cuda":  # half a minute; on a CPU more, and for nothing
        methods["ours, table, compiled"] = compiled_predict(models["ours, table"])
    return {AION: aion_tasks(aion_model(shape, device), num_steps), **methods}


def precision(name: str, device: str):
    """Sets how float32 is multiplied; gives the context to run in."""
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    return torch.autocast(device, torch.bfloat16) if name == "bf16" else nullcontext()


def seconds_of(act, tokens: dict, calls: int) -> float:
    """Of one call, over ``calls`` in a row."""
    wait = torch.cuda.synchronize if tokens[IMAGE].is_cuda else lambda: None
    wait()
    started = time.perf_counter()
    for _ in range(calls):
        act(tokens)
    wait()
    return (time.perf_counter() - started) / calls


def measure(every: dict, names: list[str], sizes: dict, rounds: int, device: str) -> list[dict]:
    """Records of samples a second, the median over rounds in which the methods take turns."""
    records, plain = [], {}
    expected = {"predict": (1, 1024), "generate": (576,)}
    for task, batch_sizes in sizes.items():
        for size in batch_sizes:
            tokens = make_tokens(size, device)
            for name in names:
                methods = {method: acts for method, acts in every.items() if task in acts}
                taken = {method: [] for method in methods}
                with torch.no_grad(), precision(name, device):
                    for method, acts in methods.items():
                        shape = tuple(acts[task](tokens).shape)  # the first call chooses kernels
                        if shape != (size, *expected[task]):
                            raise RuntimeError(f"{method} gave {shape}, expected {(size, *expected[task])}.")
                    calls = {m: 1 if task == "generate" else 3 for m in methods}
                    for _ in range(rounds):
                        for method, acts in methods.items():
                            taken[method].append(seconds_of(acts[task], tokens, calls[method]))
                plain.setdefault((task, size), statistics.median(taken[AION]))  # fp32 comes first
                for method, seconds in taken.items():
                    median = statistics.median(seconds)
                    ratio = statistics.median(a / b for a, b in zip(taken[AION], seconds, strict=True))
                    records.append(
                        {
                            "task": f"{task}, {name}", "method": method, "n": size, "seed": 0,
                            "samples_per_second": size / median, "slowest": size / max(seconds),
                            "fastest": size / min(seconds), "times_aion": ratio,
                            "times_aion_fp32": plain[task, size] / median,
                        }
                    )  # fmt: skip
                    print(
                        f"{task:9}{name:5} batch {size:4}  {method:20} {size / median:10,.1f} samples/s  "
                        f"{ratio:5.2f} x AION's, {plain[task, size] / median:5.2f} x its fp32", flush=True,
                    )  # fmt: skip
    return records


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="predict and generate against AION's own.")
    parser.add_argument("--size", choices=list(SHAPES), default="base")
    parser.add_argument("--steps", type=int, default=16, help="of generating an image")
    parser.add_argument("--predict-batches", type=int, nargs="+", help="default 64 256; tiny 2")
    parser.add_argument("--generate-batches", type=int, nargs="+", help="default 64; tiny 2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help=f"results file; default {OUT.name}, with --size tiny none")
    args = parser.parse_args(argv)
    device, tiny = "cuda" if torch.cuda.is_available() else "cpu", args.size == "tiny"
    if not tiny and device == "cpu":
        print("there is no GPU here: give --size tiny, or run this where there is one", file=sys.stderr)
        return 2

    started = time.perf_counter()
    methods = make_methods(SHAPES[args.size], args.steps, device)
    sizes = {
        "predict": args.predict_batches or ([2] if tiny else [64, 256]),
        "generate": args.generate_batches or ([2] if tiny else [64]),
    }
    names = ["fp32", "bf16"] if device == "cpu" else ["fp32", "tf32", "bf16"]
    records = measure(methods, names, sizes, args.rounds, device)
    best = {
        task: max((r for r in records if r["method"] != AION and r["task"].startswith(task)),
                  key=lambda r: r["samples_per_second"])
        for task in sizes
    }  # fmt: skip
    summary = "; ".join(
        f"{task}: {r['samples_per_second']:,.1f} samples/s at best, {r['times_aion']:.2f} x AION's at the "
        f"same precision, {r['times_aion_fp32']:.2f} x its fp32"
        for task, r in best.items()
    )
    print(summary)
    out = args.out or (None if tiny else OUT)
    if out is not None:
        out.parent.mkdir(exist_ok=True)
        parameters = {"size": args.size, "steps": args.steps, "rounds": args.rounds, "batches": sizes}
        evaluation.write_results(
            out, summary, records, data="random tokens", parameters=parameters,
            aion=version("polymathic-aion"), seconds=round(time.perf_counter() - started, 1),
        )  # fmt: skip
        print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
