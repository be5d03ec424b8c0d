"""A training run on disk, so that a killed run goes on where it stopped, bit for bit.

One file, replaced whole (a crash while writing leaves the old one), read back with ``weights_only=True``: data,
never code.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
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
        self.module, self.optimizers, self.average, self.settings = module, optimizers, average, settings
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                probe = self.path.with_suffix(".probe")
                probe.touch()
                probe.unlink()
            except OSError as error:
                raise OSError(f"Can't write checkpoints to {folder} ({error.strerror}): choose another folder.") from None

    def exists(self) -> bool:
        return self.path is not None and self.path.is_file()

    def save(self, step: int, history: Any, best: dict[str, torch.Tensor] | None) -> None:
        state = {
            "step": step,
            "settings": self.settings,
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
        """(next step, history, best weights); raises ValueError where the file is damaged or of another run."""
        device = next(self.module.parameters()).device
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self.path} is damaged ({reason}): delete it to start over.") from None
        if state["settings"] != self.settings:
            changed = {k: (state["settings"].get(k), v) for k, v in self.settings.items() if state["settings"].get(k) != v}
            raise ValueError(
                f"{self.path} belongs to a run with other settings (saved, now): {changed}: "
                f"give this run another checkpoint folder."
            )
        try:
            self.module.load_state_dict(state["module"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            if self.average is not None:
                self.average.load_state_dict(state["average"])
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self.path} is of another model or other modalities ({reason}): give another folder.") from None
        torch.set_rng_state(state["random"])
        if device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])
        best = {k: v.to(device) for k, v in state["best"].items()} if state["best"] is not None else None
        return state["step"], dataclasses.replace(history, **state["history"]), best
