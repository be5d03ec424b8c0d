"""CodecManager: the codecs of one data set, by modality name; on disk, AION's layout ``codecs/<name>/``.

May import codecs and data sets; knows nothing of transformers.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aion_lite.checkpoint import checksum
from aion_lite.codecs.base import Codec
from aion_lite.codecs.scalar import CategoryCodec, ScalarCodec
from aion_lite.codecs.table import TableCodec
from aion_lite.codecs.text import TextCodec
from aion_lite.data.dataset import MultimodalDataset
from aion_lite.data.token_store import TokenStore
from aion_lite.data.tokens import TokenDataset
from aion_lite.modalities import Category, Modality, Scalar, Table, Text, check_names

DEFAULT_CODECS: Mapping[type[Modality], type[Codec]] = {
    Scalar: ScalarCodec, Category: CategoryCodec, Table: TableCodec, Text: TextCodec
}  # fmt: skip


class CodecManager(nn.Module):
    """Codecs by modality name.

    ``CodecManager(dataset.modalities)`` takes the default codec of each declaration;
    ``CodecManager([codec, ...])`` takes yours; both may be mixed in one list.
    """

    def __init__(self, modalities: Mapping[str, Modality] | Iterable[Modality | Codec]):
        super().__init__()
        entries = list(modalities.values() if isinstance(modalities, Mapping) else modalities)
        codecs = [entry if isinstance(entry, Codec) else default_codec(entry) for entry in entries]
        check_names([codec.modality for codec in codecs])
        # A list: as keys of a ModuleDict, names like "type" or "values" would clash with its attributes.
        self._codecs = nn.ModuleList(codecs)

    @property
    def codecs(self) -> dict[str, Codec]:
        return {codec.modality.name: codec for codec in self._codecs}

    def __getitem__(self, name: str) -> Codec:
        if name not in self.codecs:
            raise ValueError(f"No codec for {name!r}; there are codecs for {list(self.codecs)}.")
        return self.codecs[name]

    def __iter__(self):
        return iter(self.codecs)

    def __len__(self) -> int:
        return len(self.codecs)

    def fit(self, dataset: MultimodalDataset) -> CodecManager:
        """Fit every codec that has nothing to train by gradient, on the measured values of ``dataset``.

        Raises ValueError, with no codec changed, where one is not declared or was never measured.
        """
        fitted = {name: codec for name, codec in self.codecs.items() if type(codec).fit is not Codec.fit}
        for name in self.codecs:
            self._check_declared(name, dataset)
            if name in fitted and not dataset.present[name].any():
                raise ValueError(f"{self.codecs[name].modality} has no measured sample to be fitted on.")
        for name, codec in fitted.items():
            codec.fit(dataset.values[name], dataset.present[name])
        return self

    def encode(self, dataset: MultimodalDataset) -> TokenDataset:
        """Every modality that ``dataset`` has, as tokens; raises ValueError for one without a codec."""
        tokens, present = {}, {}
        for name, values in dataset.values.items():
            codec = self[name]
            self._check_declared(name, dataset)
            tokens[name] = codec.encode(values, dataset.present[name])
            present[name] = codec.token_present(tokens[name], dataset.present[name])
        return TokenDataset(tokens, present)

    def encode_dataset(
        self,
        data: MultimodalDataset | Iterable[MultimodalDataset],
        folder: str | Path,
        batch_size: int = 4096,
    ) -> TokenStore:
        """Encode ``data`` once, ``batch_size`` samples at a time, into ``folder``; tokens there are replaced.

        ``data``: a data set, or, where that is larger than memory, its parts one after another. The store
        can be given to ``train``, and is read again by ``load_dataset``.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is a number of samples, 1 or more, got {batch_size}.")
        parts = iter([data] if isinstance(data, MultimodalDataset) else data)
        first = next(parts, None)
        if first is None:
            raise ValueError("There is no data set to encode: give one, or its parts one after another.")
        batches = (
            self.encode(part[i : i + batch_size])
            for part in itertools.chain([first], parts)
            for i in range(0, len(part), batch_size)
        )
        sizes = {name: self[name].vocab_size for name in first.values}
        return TokenStore.write(folder, batches, sizes, {name: _identity(self[name]) for name in sizes})

    def load_dataset(self, folder: str | Path) -> TokenStore:
        """What ``encode_dataset`` wrote; ValueError where another codec than the present one made it."""
        store = TokenStore(folder)
        for name in store.vocab_sizes:
            if store.made_by.get(name) != _identity(self[name]):
                raise ValueError(
                    f"Tokens of {name!r} in {folder} were made by another codec than this manager's, or "
                    f"before it was fitted anew: encode the data again."
                )
        return store

    def decode(self, tokens: TokenDataset | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tokens by name -> values by name, in the modalities' units; NaN (or class -1) where absent."""
        tokens = tokens if isinstance(tokens, TokenDataset) else TokenDataset(tokens)
        values = {}
        for name, codes in tokens.tokens.items():
            codec, present = self[name], tokens.present[name]
            value = codec.decode(codes)
            if isinstance(value, Tensor):
                # A table's tokens are its cells; of others, a sample without a token is absent.
                cells = present.shape == value.shape
                seen = present if present.ndim == 1 or cells else present.any(1)
                value[~seen] = torch.nan if value.dtype.is_floating_point else -1
            values[name] = value
        return values

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``codecs/<name>/{config.json, model.safetensors}`` and ``codecs/codecs.json``."""
        root = Path(folder) / "codecs"
        for name, codec in self.codecs.items():
            codec.save_pretrained(root / name)
        index = {name: type(codec).__name__ for name, codec in self.codecs.items()}
        (root / "codecs.json").write_text(json.dumps(index, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CodecManager:
        """Read what ``save_pretrained`` wrote. A codec class of your own must have been imported before."""
        path = Path(folder) / "codecs" / "codecs.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: give the folder CodecManager.save_pretrained wrote to."
            )
        try:
            index = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged ({error}): copy it again.") from None
        if not isinstance(index, dict) or not index:
            raise ValueError(f"{path} names no codecs: give a folder as save_pretrained wrote it.")
        classes = {c.__name__: c for c in _subclasses(Codec)}
        codecs = []
        for name, class_name in index.items():
            if not isinstance(class_name, str) or class_name not in classes:
                raise ValueError(f"Codec {name!r} is a {class_name}, which is not defined: import it first.")
            codecs.append(classes[class_name].from_pretrained(path.parent / name))
            if codecs[-1].modality.name != name:
                raise ValueError(
                    f"{path.parent / name} holds the codec of {codecs[-1].modality}: copy it again."
                )
        return cls(codecs)

    def _check_declared(self, name: str, dataset: MultimodalDataset) -> None:
        declared, expected = dataset.modalities.get(name), self.codecs[name].modality
        if declared != expected:
            raise ValueError(f"The codec is for {expected!r}, the data set declares {declared!r}.")


def default_codec(modality: Modality) -> Codec:
    """The codec a declaration gets when none is named."""
    for kind, codec in DEFAULT_CODECS.items():
        if isinstance(modality, kind):
            return codec(modality)
    raise TypeError(
        f"{modality} has no default codec, as it needs training: give CodecManager([codec, ...])."
    )


def _identity(codec: Codec) -> dict[str, Any]:
    """Equal for codecs that give the same tokens: class, arguments, and a checksum of all that was learnt."""
    learnt = checksum(codec.state_dict().values())
    return {"codec": type(codec).__name__, "arguments": codec.config, "checksum": learnt}


def _subclasses(cls: type) -> Iterable[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)
