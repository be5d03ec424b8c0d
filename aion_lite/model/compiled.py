"""A model's costly parts through torch.compile, for as long as a context lasts.

Blocks of one kind share their code, so two are compiled and not twenty-four. The sampling of masks is
compiled for narrow models alone: most of its ninety launches go, which wide ones would not notice, and so
these start sooner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from aion_lite.model import fused

NARROW = 256  # d_model


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Inside, ``model``'s blocks, its head's losses and, of a narrow one, its masks are compiled.

    Outside, all is as before.

    Compiled once for the shapes of a training step: other shapes, as in validation, would be compiled anew.
    """
    device, is_new = next(model.parameters()).device, not hasattr(model, "_compiled")
    if device.type == "cuda":
        if is_new:
            _start_workers()
        fused.try_kernels(device, model.config["d_model"] // model.config["nhead"])
    if is_new:
        parts = {(block, "_compiled_call_impl"): block._call_impl for block in model.blocks()}
        parts[model.head, "losses"] = model.head.losses
        if model.config["d_model"] <= NARROW:
            parts[model, "sample_masks"] = model.sample_masks
        parts = {place: torch.compile(call, dynamic=False) for place, call in parts.items()}
        object.__setattr__(model, "_compiled", parts)  # kept: a second compilation costs a look-up
    parts = model._compiled
    before = {place: place[0].__dict__.get(place[1]) for place in parts}
    try:
        for (module, name), call in parts.items():
            object.__setattr__(module, name, call)
        yield
    finally:
        for (module, name), call in before.items():
            if call is None:
                del module.__dict__[name]
            else:  # of a context around this one
                object.__setattr__(module, name, call)


def _start_workers() -> None:
    """Those of torch.compile take seconds to start: time in which our kernels are built."""
    try:
        from torch._inductor.async_compile import maybe_warm_pool
    except ImportError:  # they start with the first compilation
        return
    maybe_warm_pool()
