"""A training run on disk, so that a killed run goes on where it stopped, bit for bit.

One file, replaced whole (a crash while writing leaves the old one), read back with ``weights_only=True``:
data, never code.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Run:
    """``folder/checkpoint.pt`` of one run; with ``folder=None`` there is nothing to save or load."""

    def __init__(
        self,
        folder: str | Path | None,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        average: nn.Module | None,
        settings: dict[str, Any],
    ):
        self.path = Path(folder) / "checkpoint.pt" if folder is not None else None
        self.module, self.optimizers, self.average = module, optimizers, average
        self.modalities = getattr(module, "names", None)  # other ones may have weights of the same shapes
        # Numbers of numpy would be refused as code when read back.
        self.settings = {k: v.item() if hasattr(v, "item") else v for k, v in settings.items()}
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                probe = self.path.with_suffix(".probe")
                probe.touch()
                probe.unlink(missing_ok=True)
            except OSError as error:
                raise OSError(
                    f"Can't write checkpoints to {folder} ({error.strerror}): choose another folder."
                ) from None

    def exists(self) -> bool:
        return self.path is not None and self.path.is_file()

    def save(self, step: int, history: Any, best: dict[str, torch.Tensor] | None) -> None:
        """Replace the checkpoint; FloatingPointError, and the old one stays, where weights are not finite."""
        if self.path is None:
            return
        if not all(bool(p.isfinite().all()) for p in self.module.parameters()):
            raise FloatingPointError(f"The weights are no longer finite at step {step}: lower lr.")
        state = {
            "step": step,
            "settings": self.settings,
            "modalities": self.modalities,
            "module": self.module.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "average": self.average.state_dict() if self.average is not None else None,
            "best": best,
            "history": dataclasses.asdict(history),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)

    def load(self, history: Any) -> tuple[int, Any, dict[str, torch.Tensor] | None]:
        """(next step, history, best weights); ValueError where the file is damaged or of another run."""
        device = next(self.module.parameters()).device
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            settings, weights = state["settings"], state["module"]
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            if "weights_only" in reason:  # torch's advice is to run what the file says
                reason = "no checkpoint, or one with code in it"
            raise ValueError(f"{self.path} is damaged ({reason}): delete it to start over.") from None
        # Compared first, as a load that fails half way would leave the module half overwritten.
        shapes, ours = ({k: v.shape for k, v in w.items()} for w in (weights, self.module.state_dict()))
        if shapes != ours or state.get("modalities") != self.modalities:
            raise ValueError(f"{self.path} is of another model or other modalities: give another folder.")
        if settings != self.settings:
            changed = {k: (settings.get(k), v) for k, v in self.settings.items() if settings.get(k) != v}
            raise ValueError(
                f"{self.path} belongs to a run with other settings (saved, now): {changed}: "
                f"give this run another checkpoint folder."
            )
        self.module.load_state_dict(weights)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        torch.set_rng_state(state["random"])
        if device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])
        best = {k: v.to(device) for k, v in state["best"].items()} if state["best"] is not None else None
        return state["step"], dataclasses.replace(history, **state["history"]), best


def checksum(tensors: Iterable[torch.Tensor]) -> int:
    """Tells the data of one run from another's of the same size."""
    crc = 0
    for tensor in tensors:
        crc = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), crc)
    return crc


@contextmanager
def whole_steps(enabled: Any = True) -> Iterator[list[int]]:
    """Inside, Ctrl-C only fills the list given out, for the caller to save and stop after a whole step.

    In the middle of one, the weights are half updated and random numbers spent: no state to go on from. The
    second Ctrl-C stops at once.
    """
    asked: list[int] = []
    plain = (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )  # leave a handler of the user's alone
    if not enabled or not plain or threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
        if asked:
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
