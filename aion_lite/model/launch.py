"""How our GPU kernels are launched, and how those that will be are built beforehand, all at once.

Knows nothing of what the kernels do. Triton builds a kernel when it is first launched, a second each, one
after the other; in threads they take as long as the slowest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

Launch = tuple[Any, tuple, dict[str, Any]]  # kernel, its arguments, its settings
_of_this_thread = threading.local()  # .noted: its launches, while they are only noted


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **settings: Any) -> None:
    """``kernel[grid](*args, **settings)``, on the current device."""
    noted = getattr(_of_this_thread, "noted", None)
    if noted is None:
        kernel[grid](*args, **settings)
    else:
        noted.append((kernel, args, settings))


def noted(run: Callable[[], Any]) -> list[Launch]:
    """What ``run`` would launch; nothing is. Other threads launch as ever, autograd's among them."""
    _of_this_thread.noted = launches = []
    try:
        run()
    finally:
        _of_this_thread.noted = None
    return launches


def build(run: Callable[[], Any], device: torch.device | str) -> None:
    """Build every kernel that ``run`` would launch, without launching any."""

    def one(job: Launch) -> None:
        kernel, args, settings = job
        with torch.cuda.device(device):
            kernel.warmup(*args, grid=(1,), **settings)

    jobs = noted(run)
    with ThreadPoolExecutor(len(jobs) or 1) as pool:
        list(pool.map(one, jobs))
