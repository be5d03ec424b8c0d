"""What torch sees here, and whether it computes: versions, device, a bf16 product, one training step.

    make gpu-check

Without a GPU it says so and does the same on the CPU; exit status 1 means that something computed wrongly.
"""

import sys
import time

import torch
from torch.nn.functional import mse_loss


def bf16_product_error(device: torch.device) -> float:
    """Largest error of a bf16 product against float64, relative to the largest entry."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator).to(device, torch.bfloat16) for _ in range(2))
    exact = a.cpu().double() @ b.cpu().double()
    return float(((a @ b).cpu().double() - exact).abs().max() / exact.abs().max())


def training_losses(device: torch.device, steps: int = 50) -> list[float]:
    """A small regression, fitted by AdamW under bf16 autocast as `aion_lite.training` does."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator).to(device)
    y = x.sum(dim=1, keepdim=True).tanh()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.SiLU(), torch.nn.Linear(64, 1)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        with torch.autocast(device.type, torch.bfloat16):
            loss = mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


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
    losses = training_losses(device)
    learnt = losses[-1] < 0.2 * losses[0]
    seconds = time.perf_counter() - start
    print(
        f"training on {device.type}: loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} steps, "
        f"{seconds:.1f} s, {'ok' if learnt else 'WRONG'}"
    )
    return 0 if error < 1e-2 and learnt else 1


if __name__ == "__main__":
    sys.exit(main())
