"""Images a second into tokens: ImageCodec against AION's, at equal weights, tokens and codebook, in one run.

    python benchmarks/encode_images.py                 # a GPU; writes benchmarks/results/encode_images.json
    python benchmarks/encode_images.py --tiny          # any machine, seconds; prints only

Both take four bands of 96 x 96 pixels to 24 x 24 tokens of 4,375 codes: AION's by ``_encode`` and its
quantizer, ours by what ``encode`` does between its checks. Weights are random, as speed does not depend on
them; everything runs eagerly, without gradients. The methods take turns, so that whatever else the machine
does meets them alike. Needs polymathic-aion.
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
from aion_lite.codecs import ImageCodec
from aion_lite.modalities import Image

LEVELS, BANDS = [7, 5, 5, 5, 5], ["DES-G", "DES-R", "DES-I", "DES-Z"]
OUT = Path(__file__).parent / "results" / "encode_images.json"
AION = "AION"
# width, blocks of the decoder, of the encoder: twice as many in the decoder, as the book trains them (its
# page *Tokenise an image* compares the reconstructions), and as many in both, for those who ask.
SHAPES = {"ours": (832, 8, 4), "ours, equal halves": (776, 7, 7)}
TINY = {"ours": (100, 2, 1), "ours, equal halves": (88, 2, 2)}


def aion_encoder(hidden: int, device: str):
    """(codec, function of images (B, 4, 96, 96) -> tokens) of AION's own."""
    from aion.codecs import ImageCodec as AionImageCodec
    from aion.modalities import LegacySurveyImage

    codec = AionImageCodec(quantizer_levels=LEVELS, hidden_dims=hidden).eval().to(device)

    def encode(x):
        return codec.quantizer.encode(codec._encode(LegacySurveyImage(flux=x, bands=BANDS)))

    return codec, encode


def our_encoder(width: int, depth: int, encoder_depth: int, device: str):
    """The same of ours, with the arcsinh compression that AION's has."""
    image = Image("image", channels=4, size=96)
    codec = ImageCodec(image, LEVELS, 4, width, depth, encoder_depth, compression=0.01).eval().to(device)

    def encode(x):
        present = torch.ones(len(x), 4, dtype=torch.bool, device=x.device)
        return codec.quantizer.encode(codec._encode(x, present)).flatten(1)

    return codec, encode


def precision(name: str, device: str):
    """Sets how float32 is multiplied; gives the context to run in."""
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
        backend.allow_tf32 = name == "tf32"
    return torch.autocast(device, torch.bfloat16) if name == "bf16" else nullcontext()


def seconds_of(encode, x: torch.Tensor, calls: int) -> float:
    """Of one call, over ``calls`` in a row."""
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    wait()
    started = time.perf_counter()
    for _ in range(calls):
        encode(x)
    wait()
    return (time.perf_counter() - started) / calls


def measure(encoders: dict, names: list[str], sizes: list[int], rounds: int, device: str) -> list[dict]:
    """Records of images a second, the median over rounds in which the methods take turns."""
    records = []
    for name in names:
        for size in sizes:
            x = torch.rand(size, 4, 96, 96, generator=torch.Generator().manual_seed(0)).to(device)
            taken = {method: [] for method in encoders}
            with torch.no_grad(), precision(name, device):
                calls = {}
                for method, (_, encode) in encoders.items():
                    tokens = encode(x)  # the first call chooses kernels
                    if tokens.shape != (size, 576):
                        raise RuntimeError(f"{method} gave tokens {tuple(tokens.shape)}, expected 576 each.")
                    calls[method] = max(1, min(20, round(0.4 / seconds_of(encode, x, 2))))
                for _ in range(rounds):
                    for method, (_, encode) in encoders.items():
                        taken[method].append(seconds_of(encode, x, calls[method]))
            for method, seconds in taken.items():
                median = statistics.median(seconds)
                ratio = statistics.median(a / b for a, b in zip(taken[AION], seconds, strict=True))
                records.append(
                    {
                        "task": f"encode 4 x 96 x 96, {name}", "method": method, "n": size, "seed": 0,
                        "images_per_second": size / median, "slowest": size / max(seconds),
                        "fastest": size / min(seconds), "times_aion": ratio,
                    }
                )  # fmt: skip
                print(f"{name}, batch {size}: {method} {size / median:,.0f} images/s, {ratio:.2f} x AION's")
    return records


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Images a second into tokens, ours against AION's.")
    parser.add_argument("--tiny", action="store_true", help="small networks, batches of 2: does it run?")
    parser.add_argument("--out", type=Path, help=f"results file; default {OUT.name}, with --tiny none")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not args.tiny and device == "cpu":
        print("there is no GPU here: give --tiny, or run this where there is one", file=sys.stderr)
        return 2

    started = time.perf_counter()
    encoders = {AION: aion_encoder(32 if args.tiny else 512, device)}
    for name, shape in (TINY if args.tiny else SHAPES).items():
        encoders[name] = our_encoder(*shape, device)
    sizes = {name: count(codec) for name, (codec, _) in encoders.items()}
    print(*(f"{name}: {size:,} weights" for name, size in sizes.items()), sep="\n")
    names = ["fp32", "bf16"] if device == "cpu" else ["fp32", "tf32", "bf16"]
    batches, rounds = ([2], 2) if args.tiny else ([64, 256], 7)
    records = measure(encoders, names, batches, rounds, device)
    best = {m: max(r["images_per_second"] for r in records if r["method"] == m) for m in encoders}
    summary = "; ".join(f"{method} {speed:,.0f} images/s at best" for method, speed in best.items())
    print(summary)
    out = args.out or (None if args.tiny else OUT)
    if out is not None:
        out.parent.mkdir(exist_ok=True)
        parameters = {"weights": sizes, "bands": BANDS, "levels": LEVELS, "rounds": rounds, "tiny": args.tiny}
        evaluation.write_results(
            out, summary, records, data="random pixels", parameters=parameters,
            aion=version("polymathic-aion"), seconds=round(time.perf_counter() - started, 1),
        )  # fmt: skip
        print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
