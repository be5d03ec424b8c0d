"""TextCodec: strings to tokens and back, by byte-level BPE (Sennrich et al. 2016; Radford et al. 2019).

May import the contract, the declarations and the library tokenizers; knows nothing of models or data sets.

Token 0 ends a text and fills what follows; token i + 1 is the tokenizer's own id i. So the tokenizer needs no
end token of its own, and nothing that is written in a text, "<end>" or "[SEP]", can be taken for one.

B texts, L = modality.max_length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from aion_lite.codecs.base import Codec, TokenSpec
from aion_lite.modalities import Text, check_present

END = 0


class TextCodec(Codec):
    """A Text (B,) of strings to tokens (B, max_length), and back to an object array (B,) of strings.

    With the tokenizer that ``fit`` makes, every text that fits comes back exactly, whatever its script. A
    longer text is cut and then has no end token; bytes of a character cut in two come back as U+FFFD.

    Args:
        vocab_size: most tokens: 256 bytes, the end, and the rest learnt merges.
        tokenizer: a local tokenizer.json as the library tokenizers writes it, or a folder that holds one, in
            place of ``fit``. It may be lossy: BERT's forgets upper case.

    The tokenizer travels with the codec, so a loaded one no longer needs that file. Raises FileNotFoundError
    or ValueError where there is none to read, RuntimeError where nothing was fitted.
    """

    def __init__(self, modality: Text, vocab_size: int = 1000, tokenizer: str | None = None):
        super().__init__()
        if not isinstance(modality, Text):
            raise TypeError(f"TextCodec needs a Text, got {modality}.")
        if vocab_size < 257:
            raise ValueError(f"vocab_size must be 257 or more (256 bytes and the end), got {vocab_size}.")
        self.modality, self.most_tokens = modality, vocab_size
        self.quantizer = nn.Identity()
        self.json = Stored(torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("is_pretrained", torch.tensor(tokenizer is not None))
        self._tokenizer: Tokenizer | None = None
        self.register_load_state_dict_post_hook(TextCodec._restore)
        if tokenizer is not None:
            self._use(read_tokenizer(tokenizer))
            self.json.write(self.tokenizer.to_str())

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer in use, to look at."""
        self._check_fitted()
        return self._tokenizer

    def _use(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = max(tokenizer.get_vocab().values()) + 2  # ids may leave gaps, so not their number

    def fit(self, x: Sequence[str], present: Tensor | None = None) -> TextCodec:
        """Learn the merges from the measured texts of x (B,), anew at each call; a pretrained one stays."""
        texts = check_texts(self.modality, x, present)
        measured = texts[check_present(self.modality, present, len(texts)).numpy()]
        if len(measured) == 0:
            raise ValueError(f"{self.modality} has no measured sample to fit its codec on: leave it out.")
        if not self.is_pretrained:
            self._use(fit_tokenizer(measured, self.most_tokens - 1))
            self.json.write(self.tokenizer.to_str())
        return self

    def encode(self, x: Sequence[str], present: Tensor | None = None) -> Tensor:
        texts, L = check_texts(self.modality, x, present), self.modality.max_length
        encodings = self.tokenizer.encode_batch_fast(texts.tolist(), add_special_tokens=False)
        rows = [[i + 1 for i in encoding.ids[:L]] + [END] * (L - len(encoding.ids)) for encoding in encodings]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, L)

    def decode(self, tokens: Tensor) -> np.ndarray:
        self._check_tokens(tokens)
        if tokens.is_floating_point():
            raise TypeError(f"Codes must be integers, got {tokens.dtype}.")
        lengths = (tokens != END).cumprod(1).sum(1).tolist()
        ids = [[t - 1 for t in row[:n]] for row, n in zip(tokens.tolist(), lengths, strict=True)]
        texts = np.empty(len(ids), dtype=object)
        texts[:] = self.tokenizer.decode_batch(ids, skip_special_tokens=True)
        return texts

    def token_present(self, tokens: Tensor, present: Tensor) -> Tensor:
        """(B, L): a measured text up to its end token, which is one of it."""
        ends_before = (tokens == END).cumsum(1) - (tokens == END).long()
        return (ends_before == 0) & present[:, None]

    def token_spec(self) -> TokenSpec:
        self._check_fitted()
        return TokenSpec(self.modality.max_length, self._vocab_size, "nominal")

    def _check_fitted(self) -> None:
        if self._tokenizer is None:
            raise RuntimeError(f"The codec of {self.modality} is not fitted: call fit on training texts.")

    def _restore(self, _: Any) -> None:
        if text := self.json.read():
            self._use(parse_tokenizer(text, f"The codec of {self.modality}"))

    @classmethod
    def _from_pretrained(cls, **kwargs) -> Codec:
        return super()._from_pretrained(**{**kwargs, "tokenizer": None})  # it lies among the weights


class Stored(nn.Module):
    """A buffer whose length only ``fit`` knows: loading gives it the shape that was saved."""

    def __init__(self, data: Tensor):
        super().__init__()
        self.register_buffer("data", data)

    def write(self, text: str) -> None:
        """Keep a text as UTF-8 bytes: data in the file of weights, never code."""
        self.data = torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy()).to(self.data.device)

    def read(self) -> str:
        return bytes(self.data.cpu().numpy()).decode(errors="replace")

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        if (data := state_dict.get(prefix + "data")) is not None:
            self.data = self.data.new_empty(data.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def fit_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Byte-level pair encoding: the 256 bytes, then the commonest pairs. The same texts give the same one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def read_tokenizer(path: str | Path) -> Tokenizer:
    """From a tokenizer.json or its folder; FileNotFoundError or ValueError where there is none."""
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: put the tokenizer.json of your model there (its page on the hub has one), "
            f"or leave tokenizer out and fit one on your texts."
        )
    return parse_tokenizer(file.read_text(encoding="utf-8"), str(file))


def parse_tokenizer(text: str, source: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{source} holds no tokenizer that can be read ({error}): copy it again.") from None
    tokenizer.no_padding()  # lengths are ours
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # "[SEP]" in a text is five characters
    return tokenizer


def check_texts(modality: Text, x: Any, present: Tensor | None) -> np.ndarray:
    """``modality.check``, and no half surrogates, which no UTF-8 can hold."""
    texts = modality.check(x, present)
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{modality} has a text that is not Unicode ({error.reason}): read its file as UTF-8."
        ) from None
    return texts
