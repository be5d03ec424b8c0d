"""A model's costly parts through torch.compile, for as long as a context lasts.

Blocks of one kind share their code, so two are compiled and not twenty-four, and the sampling of masks is
left out: that is seconds instead of a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from aion_lite.model import fused


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Inside, ``model``'s blocks and its head's losses are compiled; outside, all is as before.

    Compiled once for the shapes of a training step: other shapes, as in validation, would be compiled anew.
    """
    device, is_new = next(model.parameters()).device, not hasattr(model, "_compiled")
    if device.type == "cuda":
        if is_new:
            _start_workers()
        fused.try_kernels(device, model.config["d_model"] // model.config["nhead"])
    if is_new:
        losses = torch.compile(model.head.losses, dynamic=False)
        blocks = {block: torch.compile(block._call_impl, dynamic=False) for block in model.blocks()}
        object.__setattr__(model, "_compiled", (losses, blocks))  # kept: a second compilation costs a look-up
    losses, blocks = model._compiled
    try:
        object.__setattr__(model.head, "losses", losses)
        for block, call in blocks.items():
            object.__setattr__(block, "_compiled_call_impl", call)
        yield
    finally:
        del model.head.__dict__["losses"]
        for block in blocks:
            del block.__dict__["_compiled_call_impl"]


def _start_workers() -> None:
    """Those of torch.compile take seconds to start: time in which our kernels are built."""
    try:
        from torch._inductor.async_compile import maybe_warm_pool
    except ImportError:  # they start with the first compilation
        return
    maybe_warm_pool()
