"""A transformer on disk: config.json (settings, what its tokens are) and model.safetensors, never pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from aion_lite.codecs.base import TokenSpec

ARRAYS = ("features", "values", "cells")


def save(model: Any, folder: str | Path) -> None:
    folder = Path(folder)
    tensors = {name: t.contiguous() for name, t in model.state_dict().items()}

    def config_of(spec: TokenSpec, key: str) -> dict[str, Any]:
        for array in ARRAYS:
            if getattr(spec, array) is not None:
                tensors[f"{key}/{array}"] = getattr(spec, array).detach().cpu().clone()
        parts = {part: config_of(sub, f"{key}/{part}") for part, sub in spec.parts.items()}
        return {
            "num_tokens": spec.num_tokens, "vocab_size": spec.vocab_size, "geometry": spec.geometry,
            "levels": spec.levels, "grid": spec.grid, "parts": parts,
        }  # fmt: skip

    specs = {name: config_of(spec, f"spec/{name}") for name, spec in model.specs.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".saving-") as part:  # a full disk leaves the old model
            save_file(tensors, Path(part) / "model.safetensors")
            config = json.dumps({"modalities": specs, **model.config}, indent=2) + "\n"
            (Path(part) / "config.json").write_text(config)
            for name in ("model.safetensors", "config.json"):
                os.replace(Path(part) / name, folder / name)
    except (OSError, SafetensorError) as error:
        raise OSError(f"Can't save the model to {folder} ({error}): choose another folder.") from None


def load(cls: type, folder: str | Path) -> Any:
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing: give the folder that save_pretrained wrote to."
            )
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The model in {folder} is damaged or cut short ({error}): copy it again.") from None

    def take(key: str) -> Tensor | None:
        """A copy: sums over a tensor that lies askew in a file's memory differ in the last bit."""
        tensor = tensors.pop(key, None)
        return None if tensor is None else tensor.clone()

    def spec_of(config: dict[str, Any], key: str) -> TokenSpec:
        levels, grid = tuple(config["levels"]), tuple(config["grid"])
        parts = {part: spec_of(sub, f"{key}/{part}") for part, sub in config["parts"].items()}
        arrays = {array: take(f"{key}/{array}") for array in ARRAYS}
        return TokenSpec(**{**config, "levels": levels, "grid": grid, "parts": parts}, **arrays)

    try:
        specs = {name: spec_of(spec, f"spec/{name}") for name, spec in config.pop("modalities").items()}
        model = cls(specs, **config)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no {cls.__name__} of this version ({error!r}).") from None
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = shorten(str(error).splitlines()[1], 200)  # torch names every weight
        raise ValueError(
            f"The weights in {folder} don't fit its config.json ({reason}): give a folder as it was saved."
        ) from None
    return model.eval()
