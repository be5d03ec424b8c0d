"""The contract of a codec: one modality into tokens and back; and what a model must know of those tokens.

May import the declarations and quantizers; knows nothing of transformers or strategies.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from torch import Tensor, nn

from aion_lite.modalities import Modality, check_present, modality_from_config

GEOMETRIES = ("ordinal", "grid", "nominal", "mixed")


@dataclass(frozen=True)
class TokenSpec:
    """The tokens of one modality, as a model sees them.

    geometry: how codes lie to each other. ``ordinal``: on a line (scalars); ``grid``: on a lattice with
    ``levels`` along each axis (FSQ); ``nominal``: nowhere (categories, text); ``mixed``: see ``parts``.
    """

    num_tokens: int
    vocab_size: int
    geometry: str
    features: Tensor | None = field(default=None, compare=False)  # (vocab_size, F) where each code lies
    values: Tensor | None = field(default=None, compare=False)  # (vocab_size,) in the unit, ordinal only
    cells: Tensor | None = field(default=None, compare=False)  # (vocab_size, 2) range of each code
    levels: tuple[int, ...] = ()
    grid: tuple[int, ...] = ()  # layout of the tokens, e.g. (7, 7); default: a line
    parts: Mapping[str, TokenSpec] = field(default_factory=dict)

    def __post_init__(self):
        if self.geometry not in GEOMETRIES:
            raise ValueError(f"geometry must be one of {GEOMETRIES}, got {self.geometry!r}.")
        if not self.grid:
            object.__setattr__(self, "grid", (self.num_tokens,))

    @classmethod
    def joined(cls, parts: Mapping[str, TokenSpec]) -> TokenSpec:
        """Tokens one after another that have codebooks of their own, by name: the columns of a table."""
        num_tokens = sum(part.num_tokens for part in parts.values())
        return cls(num_tokens, max(part.vocab_size for part in parts.values()), "mixed", parts=dict(parts))

    def codebooks(self, name: str) -> dict[str, TokenSpec]:
        """What this modality called ``name`` is made of: itself, or its parts as ``name.part``."""
        return {f"{name}.{part}": spec for part, spec in self.parts.items()} or {name: self}


class Codec(nn.Module, PyTorchModelHubMixin, library_name="aion_lite"):
    """One modality to tokens and back.

    A subclass defines ``quantizer``, ``_encode(x, present) -> z``, ``_decode(z) -> x``, ``token_spec()``, and
    ``loss(x, present, weight) -> (scalar, metrics)`` if trained by gradient, else ``fit(x, present)``.
    ``encode`` changes neither its input nor the codec. Saved as config.json + model.safetensors
    (``save_pretrained``), never as pickle; the config holds the arguments of ``__init__``, of which
    ``modality`` is one.
    """

    modality: Modality
    quantizer: nn.Module

    @property
    def num_tokens(self) -> int:
        return self.token_spec().num_tokens

    @property
    def vocab_size(self) -> int:
        return self.token_spec().vocab_size

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of ``__init__`` as they come back from a file; a run resumes only with the same."""
        return json.loads(json.dumps(self._hub_mixin_config or {}))

    @property
    def device(self) -> torch.device:
        """Where the codec computes; what it is given may lie elsewhere, and what it gives lies there too."""
        return next((t.device for t in (*self.parameters(), *self.buffers())), torch.device("cpu"))

    @torch.no_grad()
    def encode(self, x: Any, present: Tensor | None = None, batch_size: int = 512) -> Tensor:
        """Values (B, *modality.shape) -> tokens (B, num_tokens) int64; tokens of what is absent are 0."""
        x = self.modality.check(x, present)
        present = check_present(self.modality, present, len(x), x.device)
        codes = [
            self.quantizer.encode(self._encode(a.to(self.device), b.to(self.device))).flatten(1).to(x.device)
            for a, b in zip(x.split(batch_size), present.split(batch_size), strict=True)
        ]
        tokens = torch.cat(codes) if codes else torch.zeros(0, self.num_tokens, dtype=torch.int64)
        return tokens * as_cells(self.token_present(tokens, present), tokens)

    @torch.no_grad()
    def decode(self, tokens: Tensor, batch_size: int = 512) -> Tensor:
        """Tokens (B, num_tokens) -> values (B, *modality.shape)."""
        self._check_tokens(tokens)
        grid = self.token_spec().grid
        parts = [
            self._decode(self.quantizer.decode(t.to(self.device).reshape(len(t), *grid))).to(tokens.device)
            for t in tokens.split(batch_size)
        ]
        return torch.cat(parts)

    def token_present(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Which tokens stand for something measured: bool (B,), or (B, num_tokens)."""
        return present if present.ndim == 1 else present.flatten(1).any(1)

    def _check_tokens(self, tokens: Tensor) -> None:
        spec = self.token_spec()
        if not isinstance(tokens, Tensor):
            raise TypeError(f"{self.modality} decodes a tensor of codes, got {type(tokens).__name__}.")
        if tokens.ndim != 2 or tokens.shape[1] != spec.num_tokens:
            shape = tuple(tokens.shape)
            raise ValueError(f"{self.modality} decodes tokens of shape (B, {spec.num_tokens}), got {shape}.")
        start = 0
        for name, part in spec.codebooks(self.modality.name).items():
            codes = tokens[:, start : start + part.num_tokens]
            if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < part.vocab_size:
                got = f"{int(codes.min())}..{int(codes.max())}"
                raise ValueError(f"Codes of {name} must lie in 0..{part.vocab_size - 1}, got {got}.")
            start += part.num_tokens

    def _encode(self, x: Tensor, present: Tensor) -> Tensor:
        return x

    def _decode(self, z: Tensor) -> Tensor:
        return z

    def token_spec(self) -> TokenSpec:
        raise TypeError(f"{type(self).__name__} must define token_spec().")

    def loss(
        self, x: Tensor, present: Tensor | None = None, weight: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        raise TypeError(f"{type(self).__name__} has nothing to train by gradient: call fit(values).")

    def fit(self, x: Any, present: Tensor | None = None) -> Codec:
        raise TypeError(f"{type(self).__name__} is trained by gradient: call train_codec(codec, data).")

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> str | None:
        """Write config.json + model.safetensors to a folder; OSError where that can't be.

        A codec that lies there already stays as it was until the new one is whole.
        """
        folder = Path(save_directory)
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", folder.name)  # and not the name of the temporary folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder, prefix=".saving-") as part:
                url = super().save_pretrained(part, **kwargs)
                for file in Path(part).iterdir():
                    os.replace(file, folder / file.name)
            return url
        except (OSError, SafetensorError) as error:
            message = f"Can't save the codec to {save_directory} ({error}): choose another folder."
            raise OSError(message) from None

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs) -> Codec:
        """Read config.json + model.safetensors from a local folder, or from a hub repository ("owner/name").

        Raises FileNotFoundError or ValueError where a file is missing, cut short or not of this codec.
        """
        path = Path(folder)
        if isinstance(folder, Path) or path.is_absolute() or path.is_dir() or len(path.parts) != 2:
            for file in (path / "config.json", path / "model.safetensors"):
                if not file.is_file():
                    raise FileNotFoundError(f"{file} is missing: give the folder save_pretrained wrote to.")
            _check_config(path / "config.json")
        kwargs.setdefault("strict", True)  # the hub's default loads half a codec without a word
        return super().from_pretrained(str(folder), **kwargs)

    # The mixin would write a declaration without its kind, and can't tell which class to read it back as.
    @classmethod
    def _encode_arg(cls, arg: Any) -> Any:
        return arg.to_config() if isinstance(arg, Modality) else super()._encode_arg(arg)

    @classmethod
    def _decode_arg(cls, expected_type: Any, value: Any) -> Any:
        is_declaration = isinstance(value, Mapping) and "kind" in value
        return value if is_declaration else super()._decode_arg(expected_type, value)

    @classmethod
    def _from_pretrained(cls, **kwargs) -> Codec:
        if isinstance(kwargs.get("modality"), Mapping):
            kwargs["modality"] = modality_from_config(kwargs["modality"])
        with redirect_stdout(None):  # the mixin prints a line for every codec
            return super()._from_pretrained(**kwargs)

    @classmethod
    def _load_as_safetensor(cls, model: Codec, model_file: str, *args) -> Codec:
        try:
            return super()._load_as_safetensor(model, model_file, *args)
        except SafetensorError as error:
            raise ValueError(f"{model_file} is damaged or cut short ({error}): copy it again.") from None
        except RuntimeError as error:
            raise ValueError(f"{model_file} does not fit the config.json beside it: {error}") from None

    @classmethod
    def _load_as_pickle(cls, model: Codec, model_file: str, *args) -> Codec:
        raise ValueError(f"{model_file} is a pickle, which may run any code: save the codec as safetensors.")


def as_cells(present: Tensor, x: Tensor) -> Tensor:
    """``present`` (B,) or (B, cells...) with axes of size 1 behind it, to multiply x (B, ...) with."""
    return present.reshape(*present.shape, *[1] * (x.ndim - present.ndim))


def _check_config(path: Path) -> None:
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): copy it again.") from None
    if not isinstance(config, dict) or not isinstance(config.get("modality"), dict):
        raise ValueError(f"{path} declares no modality: give a folder as save_pretrained wrote it.")
