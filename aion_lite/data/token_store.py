"""TokenStore: tokens of more samples than memory holds, on disk as Arrow, read through a memory map.

A folder of two files. ``tokens.arrow`` has the columns ``tokens/NAME`` and ``present/NAME`` of each modality;
Hugging Face ``datasets`` opens it as well (``Dataset.from_file``). ``tokens.json``, written last, says what
the tokens are and which codecs made them.

Knows nothing of how tokens were made or what they mean.

B samples of a request, N tokens of a modality.
"""

from __future__ import annotations

import copy
import json
import mmap
import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aion_lite.data.tokens import TokenDataset

ARROW, DESCRIPTION = "tokens.arrow", "tokens.json"
FORMAT = 1
PREFETCH = 2  # batches read ahead of the one in use


class TokenStore:
    """What ``TokenStore.write`` or ``CodecManager.encode_dataset`` wrote to ``folder``.

    ``store[rows]`` is a TokenDataset on ``store.device``; the rest stays on disk. Raises FileNotFoundError or
    ValueError where a file is missing, cut short or not of this format.

    Attributes:
        made_by: modality name -> what its codec was, as the writer described it.
        checksum: of all tokens, to tell one store from another of the same size.
    """

    def __init__(self, folder: str | Path):
        self.folder, self.device = Path(folder), torch.device("cpu")
        about = _read_description(self.folder)
        self.num_samples, self.made_by = about["num_samples"], about["made_by"]
        self.vocab_sizes: dict[str, int] = about["vocab_sizes"]
        self.checksum = zlib.crc32(json.dumps(about["checksums"], sort_keys=True).encode())
        path = self.folder / ARROW
        if not path.is_file() or path.stat().st_size != about["bytes"]:
            raise ValueError(f"{path} is missing or cut short: copy the folder again, or encode again.")
        self._columns, self._end_row = _map_columns(path)
        expected = {f"{kind}/{name}" for kind in ("tokens", "present") for name in self.vocab_sizes}
        if not expected <= set(self._columns) or self._end_row[-1] != self.num_samples:
            raise ValueError(f"{path} and {DESCRIPTION} are not of one store: copy the folder again.")

    @classmethod
    def write(
        cls,
        folder: str | Path,
        batches: Iterable[TokenDataset],
        vocab_sizes: Mapping[str, int],
        made_by: Mapping[str, Any] | None = None,
    ) -> TokenStore:
        """Write ``batches`` one after another; only one is in memory at a time.

        Codes are kept in the smallest integers that hold the vocabulary. What lay in the folder stays until
        the new tokens are whole.

        Args:
            vocab_sizes: modality name -> number of codes; every batch has these modalities.
            made_by: modality name -> description of its codec, kept beside the tokens.

        Raises ValueError where a code lies outside its vocabulary, OSError where the folder can't be written.
        """
        folder, read = Path(folder), _Read(batches)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder, prefix=".saving-") as part:
                num_samples, checksums = _write_arrow(Path(part) / ARROW, read, vocab_sizes)
                about = {
                    "format": FORMAT, "num_samples": num_samples, "vocab_sizes": dict(vocab_sizes),
                    "made_by": dict(made_by or {}), "checksums": checksums,
                    "bytes": (Path(part) / ARROW).stat().st_size,
                }  # fmt: skip
                (Path(part) / DESCRIPTION).write_text(json.dumps(about, indent=2) + "\n")
                (folder / DESCRIPTION).unlink(missing_ok=True)  # never beside the tokens of another
                for name in (ARROW, DESCRIPTION):
                    os.replace(Path(part) / name, folder / name)
        except OSError as error:
            if error is read.error:
                raise
            raise OSError(f"Can't write tokens to {folder} ({error}): choose another folder.") from None
        return cls(folder)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, rows: Any) -> TokenDataset:
        """A slice, mask or index tensor of samples, in any order; an int gives a data set of one."""
        return _move(self.read(rows), self.device)

    def read(self, rows: Any) -> TokenDataset:
        """The same in the computer's own memory, wherever ``device`` is."""
        row_B = self._row_numbers(rows)
        chunk_B = np.searchsorted(self._end_row, row_B, side="right")
        within_B = row_B - np.append(0, self._end_row)[chunk_B]
        tokens, present = {}, {}
        for name in self.vocab_sizes:
            tokens[name] = self._columns[f"tokens/{name}"].take(chunk_B, within_B).to(torch.int64)
            present[name] = self._columns[f"present/{name}"].take(chunk_B, within_B)
        return TokenDataset(tokens, present)

    def to(self, device: torch.device | str) -> TokenStore:
        """The same store, whose batches go to ``device``."""
        other = copy.copy(self)
        other.device = torch.device(device)
        return other

    def select(self, names: Sequence[str]) -> TokenStore:
        """The same samples with fewer modalities; nothing is copied."""
        unknown = set(names) - set(self.vocab_sizes)
        if unknown:
            raise ValueError(f"No tokens of {sorted(unknown)}; there are {list(self.vocab_sizes)}.")
        other = copy.copy(self)
        other.vocab_sizes = {name: self.vocab_sizes[name] for name in names}
        other.checksum = zlib.crc32(json.dumps([self.checksum, *names]).encode())
        return other

    def __repr__(self) -> str:
        return f"TokenStore({str(self.folder)!r}: {self.num_samples} samples of {list(self.vocab_sizes)})"

    def _row_numbers(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            return np.arange(*rows.indices(self.num_samples))
        rows = np.asarray(rows.cpu() if isinstance(rows, Tensor) else rows)
        if rows.dtype == np.bool_ and rows.shape == (self.num_samples,):
            return rows.nonzero()[0]
        rows = np.atleast_1d(rows).astype(np.int64) if rows.size == 0 or rows.dtype.kind in "iu" else rows
        if rows.ndim != 1 or rows.dtype.kind != "i":
            raise TypeError(f"Rows must be integers (B,) or a mask of all, got {rows.dtype} {rows.shape}.")
        if rows.size and not -self.num_samples <= rows.min() <= rows.max() < self.num_samples:
            got = f"{rows.min()}..{rows.max()}"
            raise IndexError(f"There are {self.num_samples} samples, asked were rows {got}.")
        return np.where(rows < 0, rows + self.num_samples, rows)


def batches(
    data: Any, rows: Iterable[Any], device: torch.device | str | None = None
) -> Iterator[TokenDataset | Any]:
    """``data[r]`` for each r of ``rows`` (index tensors or slices), on ``device`` (default: where data is).

    Of a TokenStore the next batches are read by another thread meanwhile; what comes out is the same. That
    thread only reads: moving to the device is left to the caller's, whose steps may be under capture.
    """
    if not isinstance(data, TokenStore):
        for row in rows:
            yield data[row.to(device) if isinstance(row, Tensor) and device is not None else row]
        return
    device = data.device if device is None else torch.device(device)
    with ThreadPoolExecutor(1, thread_name_prefix="tokens") as reader:
        waiting: deque = deque()
        for row in rows:
            waiting.append(reader.submit(data.read, row))
            if len(waiting) > PREFETCH:
                yield _move(waiting.popleft().result(), device)
        while waiting:
            yield _move(waiting.popleft().result(), device)


def pieces(data: Any, size: int = 1024) -> Iterator[Any]:
    """``data`` as it is where it lies in memory; a TokenStore a piece of ``size`` samples at a time."""
    if isinstance(data, TokenStore):
        yield from batches(data, (slice(i, i + size) for i in range(0, len(data), size)))
    else:
        yield data


def _move(batch: TokenDataset, device: torch.device) -> TokenDataset:
    """From pinned memory, so that nobody waits for the copy."""
    if device.type == "cuda":
        tokens, present = (
            {name: t.pin_memory() for name, t in named.items()} for named in (batch.tokens, batch.present)
        )
        batch = TokenDataset(tokens, present)
    return batch.to(device)


class _Read:
    """Batches, and the error they ended with: a source that can't be read is no folder that can't be written
    to."""

    def __init__(self, batches: Iterable[TokenDataset]):
        self.batches, self.error = batches, None

    def __iter__(self) -> Iterator[TokenDataset]:
        try:
            yield from self.batches
        except OSError as error:
            self.error = error
            raise


class _Column:
    """One column of the file: where the values of each record batch begin, and how to take rows of them.

    Arrow's own ``take`` goes through offsets and validity of every list; the values of a fixed-size list lie
    row after row, so a row is a window onto the file, and numpy copies windows about as fast as memory goes.
    """

    def __init__(self, file: np.ndarray, chunks: Sequence[Any]):
        import pyarrow as pa

        self.file, kind = file, chunks[0].type
        self.is_list = pa.types.is_fixed_size_list(kind)
        self.width = kind.list_size if self.is_list else 1
        value_type = kind.value_type if self.is_list else kind
        self.is_bits = pa.types.is_boolean(value_type)  # Arrow packs eight a byte
        size = 1 if self.is_bits else value_type.bit_width // 8
        values = [chunk.values if self.is_list else chunk for chunk in chunks]
        address = [v.buffers()[1].address - file.ctypes.data for v in values]
        if min(address) < 0:  # no buffer in the file
            raise IndexError("a column without values")
        self.begin = np.array(address) * 8 if self.is_bits else np.array(address) // size
        if not self.is_bits:
            numbers = np.frombuffer(file, value_type.to_pandas_dtype(), count=len(file) // size)
            self.windows = np.lib.stride_tricks.sliding_window_view(numbers, self.width)

    def take(self, chunk_B: np.ndarray, within_B: np.ndarray) -> Tensor:
        """Rows ``within_B`` of the record batches ``chunk_B``: (B, N), or (B,) where there are no lists."""
        first_B = self.begin[chunk_B] + within_B * self.width
        if self.is_bits:
            bit_BN = first_B[:, None] + np.arange(self.width)
            taken_BN = (self.file[bit_BN >> 3] >> (bit_BN & 7).astype(np.uint8) & 1).astype(np.bool_)
        else:
            taken_BN = self.windows[first_B]
        return torch.from_numpy(taken_BN if self.is_list else taken_BN[:, 0])


def _map_columns(path: Path) -> tuple[dict[str, _Column], np.ndarray]:
    """Columns by name, and the row after the last of each record batch."""
    import pyarrow as pa

    with open(path, "rb") as f:
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        chunks = [c for c in pa.ipc.open_stream(pa.py_buffer(mapped)) if len(c)]
        file = np.frombuffer(mapped, np.uint8)  # keeps the map open
        columns = {n: _Column(file, [c.column(n) for c in chunks]) for n in chunks[0].schema.names}
    except (pa.ArrowException, OSError, UnicodeDecodeError, IndexError) as error:
        raise ValueError(f"{path} is damaged ({error}): copy the folder again, or encode again.") from None
    return columns, np.cumsum([len(c) for c in chunks])


def _write_arrow(
    path: Path, batches: Iterable[TokenDataset], vocab_sizes: Mapping[str, int]
) -> tuple[int, dict[str, int]]:
    import pyarrow as pa
    from datasets import Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter

    writer, num_samples, shapes, checksums = None, 0, None, {}
    for batch in batches:
        if set(batch.tokens) != set(vocab_sizes):
            raise ValueError(f"Expected tokens of {list(vocab_sizes)}, got {list(batch.tokens)}.")
        columns = {}
        for name, vocab_size in vocab_sizes.items():
            codes = batch.tokens[name].cpu()
            if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < vocab_size:
                got = f"{int(codes.min())}..{int(codes.max())}"
                raise ValueError(f"Tokens of {name!r} must lie in 0..{vocab_size - 1}, got {got}.")
            columns[f"tokens/{name}"] = codes.numpy().astype(_dtype(vocab_size))
            columns[f"present/{name}"] = batch.present[name].cpu().numpy()
        now = {name: x.shape[1:] for name, x in columns.items()}
        if shapes is None:
            shapes = now
            types = {name: Value(str(x.dtype)) for name, x in columns.items()}  # numpy and datasets agree
            features = Features(
                {n: Sequence(types[n], length=s[0]) if s else types[n] for n, s in shapes.items()}
            )
            writer = ArrowWriter(path=str(path), features=features)
        if now != shapes:
            raise ValueError(f"Every batch needs tokens of the same shapes; had {shapes}, got {now}.")
        arrays = [
            pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1]) if x.ndim == 2 else pa.array(x)
            for x in columns.values()
        ]
        writer.write_table(pa.table(arrays, names=list(columns)), writer_batch_size=len(batch))
        for name, x in columns.items():
            checksums[name] = zlib.crc32(np.ascontiguousarray(x), checksums.get(name, 0))
        num_samples += len(batch)
    if num_samples == 0:
        raise ValueError("There is no sample to write: at least one is needed.")
    writer.finalize()
    return num_samples, checksums


def _dtype(vocab_size: int) -> type:
    return np.uint8 if vocab_size <= 2**8 else np.uint16 if vocab_size <= 2**16 else np.int32


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: give the folder that encode_dataset wrote to.")
    try:
        about = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): encode again.") from None
    expected = {"format", "num_samples", "vocab_sizes", "made_by", "checksums", "bytes"}
    if not isinstance(about, dict) or about.get("format") != FORMAT or not expected <= set(about):
        raise ValueError(f"{path} is not of format {FORMAT}, which this version reads: encode again.")
    return about
