"""What torch sees here, and whether it computes: versions, device, a bf16 product, a short training.

    make gpu-check

Without a GPU it says so and does the same on the CPU; exit status 1 means that something computed wrongly.
"""

import sys
import time

import torch


def bf16_product_error(device: torch.device) -> float:
    """Largest error of a bf16 product against float64, relative to the largest entry."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator).to(device, torch.bfloat16) for _ in range(2))
    exact = a.cpu().double() @ b.cpu().double()
    return float(((a @ b).cpu().double() - exact).abs().max() / exact.abs().max())


def training_losses(steps: int = 60) -> list[float]:
    """A small transformer learns under bf16 that y has the code of x: loss of every step."""
    from aion_lite.codecs import TokenSpec
    from aion_lite.data.tokens import TokenDataset
    from aion_lite.model import MultimodalTransformer
    from aion_lite.training import train

    place = torch.linspace(-1.7, 1.7, 16)
    spec = TokenSpec(1, 16, "ordinal", place[:, None], place)
    codes = torch.randint(16, (512, 1), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = MultimodalTransformer({"x": spec, "y": spec}, d_model=64, nhead=4, num_layers=2, smoothing=0.0)
    data = TokenDataset({"x": codes, "y": codes})
    history = train(model, data, steps=steps, mixed_precision="bf16", log_every=1, progress=False)
    return [record["loss"] for record in history.records]


def main() -> int:
    import torchvision

    cuda = torch.version.cuda or "none"
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, CUDA {cuda}")
    if torch.cuda.is_available():
        device = torch.device("cuda")
        properties = torch.cuda.get_device_properties(device)
        print(f"GPU: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    else:
        device = torch.device("cpu")
        print(f"no GPU: everything runs on the CPU, {torch.get_num_threads()} threads")
    error = bf16_product_error(device)
    print(f"bf16 product: relative error {error:.1e}, {'ok' if error < 1e-2 else 'WRONG'}")
    start = time.perf_counter()
    losses = training_losses()
    learnt = losses[-1] < 0.2 * losses[0]
    seconds = time.perf_counter() - start
    print(
        f"training on {device.type}: loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} steps, "
        f"{seconds:.1f} s, {'ok' if learnt else 'WRONG'}"
    )
    return 0 if error < 1e-2 and learnt else 1


if __name__ == "__main__":
    sys.exit(main())
