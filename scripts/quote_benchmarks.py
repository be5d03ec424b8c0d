"""Write the README's table of speeds from benchmarks/results; a test holds the README to it."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- speeds: scripts/quote_benchmarks.py -->\n", "<!-- end of speeds -->\n"


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def record(results: dict, **wanted) -> dict:
    """The one record with these values."""
    (found,) = [r for r in results["records"] if all(r[key] == value for key, value in wanted.items())]
    return found


def gpu(results: dict) -> str:
    return results["device"].removeprefix("NVIDIA ").split()[0]


def speeds() -> list[tuple[str, str, float, str, float, float]]:
    """(what is counted a second, GPU, ours, whose, theirs, ratio), as measured side by side."""
    step, rows = read("train_step"), []
    by = {(r["variant"], r["batch"]): r["samples_per_second"] for r in step["rows"]}
    ours = by["ours, by table", 96]
    for name in ("AION compiled", "AION eager"):
        rows.append(
            ("training, samples (batch 96)", gpu(step), ours, name, by[name, 96], ours / by[name, 96])
        )
    asked = read("predict")
    for task, what, method, n in (
        ("predict", "a scalar from an image, samples", "ours, table", 256),
        ("predict", "the same, ours compiled", "ours, table, compiled", 256),
        ("generate", "an image from scalars, samples", "ours, table", 64),
    ):
        best = record(asked, task=f"{task}, bf16", method=method, n=n)["samples_per_second"]
        for precision, name in (("bf16", "AION in bf16"), ("fp32", "AION as it comes, in fp32")):
            theirs = record(asked, task=f"{task}, {precision}", method="AION", n=n)["samples_per_second"]
            rows.append((what, gpu(asked), best, name, theirs, best / theirs))
    images = read("encode_images")
    theirs, best = (
        record(images, task="encode 4 x 96 x 96, bf16", method=method, n=256)["images_per_second"]
        for method in ("AION", "ours")
    )
    what = "images of 4 x 96 x 96 into tokens"
    rows.append((what, gpu(images), best, "AION's codec", theirs, best / theirs))
    return rows


def block() -> str:
    step = read("train_step")
    lines = ["| a second | GPU | ours | beside | theirs | times |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {what} | {on} | {ours:,.0f} | {whose} | {theirs:,.0f} | {ratio:.1f} |"
        for what, on, ours, whose, theirs, ratio in speeds()
    ]
    share, gib, catalogue, first, second = (
        step[key]
        for key in (
            "matmul_share", "gib_at_batch_256", "catalogue_ratio", "first_step_seconds",
            "second_process_seconds",
        )
    )  # fmt: skip
    return "\n".join(
        [
            f"{BEGIN}On one GPU of NVIDIA's, transformers of AION-Base's shape (`benchmarks/results/`):",
            "",
            *lines,
            "",
            f"At batch 256 training reaches {share:.0%} of the rate of the {gpu(step)}'s matrix products,",
            f"in {gib:.0f} GiB; forty modalities cost {catalogue:.2f} times what five do.",
            f"The first step takes {first:.0f} s, as it compiles, and {second:.0f} s in a second process.",
            END,
        ]
    )


if __name__ == "__main__":
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(before + block() + rest.partition(END)[2])
