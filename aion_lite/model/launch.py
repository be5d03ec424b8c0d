"""How our GPU kernels are launched, and how those that will be are built beforehand, all at once.

Knows nothing of what the kernels do. Triton builds a kernel when it is first launched, a second each, one
after the other; in threads they take as long as the slowest.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_noted: list[tuple[Any, tuple, dict[str, Any]]] | None = None  # launches, while they are only noted


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **settings: Any) -> None:
    """``kernel[grid](*args, **settings)``, on the current device."""
    if _noted is None:
        kernel[grid](*args, **settings)
    else:
        _noted.append((kernel, args, settings))


def build(run: Callable[[], Any], device: torch.device | str) -> None:
    """Build every kernel that ``run`` would launch, without launching any."""
    global _noted
    noted = _noted = []
    try:
        run()
    finally:
        _noted = None

    def one(job: tuple[Any, tuple, dict[str, Any]]) -> None:
        kernel, args, settings = job
        with torch.cuda.device(device):
            kernel.warmup(*args, grid=(1,), **settings)

    with ThreadPoolExecutor(len(noted) or 1) as pool:
        list(pool.map(one, noted))
