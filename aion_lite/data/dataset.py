"""MultimodalDataset: the samples of one data set, by modality name, with what is missing said outright.

May import the declarations; knows nothing of codecs, models or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from aion_lite.modalities import Category, Modality, Scalar, Table, Text, check_names, check_present


class MultimodalDataset:
    """Samples of several modalities, some of them not measured.

    Args:
        modalities: the declarations; their names must differ.
        values: modality name -> values, first axis the samples (see ``Modality.check`` for shapes).
        present: modality name -> bool (B,) or (B, *modality.cell_shape); a name left out is all measured.
        ids: (B,) object of each sample (patient, galaxy); samples of one object never part in ``split``.
            Default: every sample is an object of its own.
        info: name -> (B,) or (B, ...) arrays that travel along but are no modality (measurement errors, ...).

    Raises ValueError or TypeError, naming the modality, where its shape, dtype or values are wrong.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        values: Mapping[str, Any],
        present: Mapping[str, Any] | None = None,
        ids: Any = None,
        info: Mapping[str, Any] | None = None,
    ):
        self.modalities = check_names(modalities)
        present = dict(present or {})
        if set(values) != set(self.modalities) or not set(present) <= set(self.modalities):
            missing, extra = (
                set(self.modalities) - set(values),
                (set(values) | set(present)) - set(self.modalities),
            )
            raise ValueError(
                f"Values must match the declared modalities: missing {sorted(missing)}, "
                f"not declared {sorted(extra)}."
            )
        for name, v in values.items():
            if not hasattr(v, "__len__") or getattr(v, "ndim", 1) == 0:
                raise TypeError(f"{self.modalities[name]} needs an array, one value a sample, got {v!r}.")
        lengths = {name: len(v) for name, v in values.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"Every modality needs one value a sample, got lengths {lengths}: use `present` for gaps."
            )
        self.num_samples = next(iter(lengths.values()), 0)
        if self.num_samples == 0:
            raise ValueError("The data set is empty: at least one sample of one modality is needed.")
        self.present = {
            n: check_present(m, present.get(n), self.num_samples) for n, m in self.modalities.items()
        }
        self.values = {n: m.check(values[n], self.present[n]) for n, m in self.modalities.items()}
        self.ids = np.arange(self.num_samples) if ids is None else np.asarray(ids)
        if self.ids.ndim != 1 or pd.isna(self.ids).any():
            raise ValueError(
                f"ids need shape (B,) and none missing, got {self.ids.shape} with "
                f"{int(pd.isna(self.ids).sum())} missing: name the object of every sample."
            )
        self.info = {n: np.asarray(v) for n, v in (info or {}).items()}
        for name, array in {"ids": self.ids, **self.info}.items():
            if len(array) != self.num_samples:
                raise ValueError(f"{name!r} has {len(array)} rows, the data set has {self.num_samples}.")

    @classmethod
    def from_frame(cls, frame: Any, modalities: Sequence[Modality], ids: Any = None, info: Any = None):
        """From a pandas frame: a Table reads the columns of its cells' names, the others that of their own.

        NaN (or None) means not measured. A Category's column holds its values as strings.
        """
        values, present = {}, {}
        for modality in modalities:
            if isinstance(modality, Table):
                columns = [_column(frame, column) for column in modality.columns]
                values[modality.name] = np.stack([v.astype(np.float32) for v, _ in columns], axis=1)
                present[modality.name] = np.stack([p for _, p in columns], axis=1)
            else:
                values[modality.name], present[modality.name] = _column(frame, modality)
        return cls(modalities, values, present, ids, info)

    def to_frame(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """The inverse of ``from_frame``: one row a sample, for baselines and for looking at the data.

        A Scalar gives a float32 column (NaN where absent), a Category a pandas Categorical of its declared
        values (NaN where absent), a Text strings (None or NaN where absent), a Table its columns.
        ``names``: default all such modalities.
        ``to_frame(scalars).to_numpy()`` is the float matrix (B, columns) of scikit-learn.
        """
        kinds = (Scalar, Category, Text, Table)
        names = (
            [n for n, m in self.modalities.items() if isinstance(m, kinds)] if names is None else list(names)
        )
        frame: dict[str, Any] = {}
        for name, modality in self.select(names).modalities.items():
            if not isinstance(modality, kinds):
                raise ValueError(
                    f"{modality} doesn't fit in columns of a frame: name Scalars, Categories, Texts, Tables."
                )
            values, present = np.asarray(self.values[name]), self.present[name].numpy()
            if isinstance(modality, Table):
                cells = np.broadcast_to(present if present.ndim == 2 else present[:, None], values.shape)
                columns = [(c, values[:, i], cells[:, i]) for i, c in enumerate(modality.columns)]
            else:
                columns = [(modality, values, present)]
            for column, x, measured in columns:
                if column.name in frame:
                    raise ValueError(
                        f"Two columns are called {column.name!r}: choose modalities with `names`."
                    )
                if isinstance(column, Category):
                    codes = np.where(measured, x, -1).astype(
                        np.int64
                    )  # -1 is pandas' code of a missing category
                    frame[column.name] = pd.Categorical.from_codes(codes, categories=list(column.values))
                elif isinstance(column, Text):
                    frame[column.name] = np.where(measured, x, None)
                else:
                    frame[column.name] = np.where(measured, x, np.float32(np.nan))
        return pd.DataFrame(frame)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: Any) -> Any:
        """An int gives one sample, a dict of what was measured; a slice, mask or index array a data set."""
        if isinstance(index, (int, np.integer)):
            sample = self[[range(self.num_samples)[index]]]
            return {
                name: sample.values[name][0] for name in self.modalities if bool(sample.present[name].any())
            }
        rows = np.arange(self.num_samples)[index.numpy() if isinstance(index, torch.Tensor) else index]
        rows = np.ascontiguousarray(rows)  # torch can't index with the negative strides of ds[::-1]
        if len(rows) == 0:
            raise ValueError("The selection holds no sample.")
        return MultimodalDataset(
            list(self.modalities.values()),
            {name: v[rows] for name, v in self.values.items()},
            {name: p[rows] for name, p in self.present.items()},
            self.ids[rows],
            {name: v[rows] for name, v in self.info.items()},
        )

    def select(self, names: Sequence[str]) -> MultimodalDataset:
        """The same samples with fewer modalities."""
        unknown = set(names) - set(self.modalities)
        if unknown:
            raise ValueError(f"Not declared: {sorted(unknown)}; this data set has {list(self.modalities)}.")
        return MultimodalDataset(
            [self.modalities[n] for n in names],
            {n: self.values[n] for n in names},
            {n: self.present[n] for n in names},
            self.ids,
            self.info,
        )

    def split(self, test: int | float, seed: int = 0) -> tuple[MultimodalDataset, MultimodalDataset]:
        """(train, test) by object: no object has samples on both sides. The same seed gives the same split.

        ``test``: number of objects (int), or their share (float below 1).
        """
        from sklearn.model_selection import GroupShuffleSplit

        objects, group = np.unique(self.ids, return_inverse=True)
        is_share = isinstance(test, (float, np.floating))
        if is_share and not 0 < test < 1:
            raise ValueError(f"A share of objects lies between 0 and 1, got {test}: give a number as an int.")
        num_test = round(test * len(objects)) if is_share else int(test)
        if not 0 < num_test < len(objects):
            raise ValueError(
                f"Can't keep {test} of {len(objects)} objects for the test: both sides need at least one."
            )
        splitter = GroupShuffleSplit(n_splits=1, test_size=num_test, random_state=seed)
        train_rows, test_rows = next(splitter.split(group, groups=group))
        return self[train_rows], self[test_rows]

    def __repr__(self) -> str:
        parts = [f"{n} {float(p.float().mean()):.0%}" for n, p in self.present.items()]
        return f"MultimodalDataset({self.num_samples} samples; measured: {', '.join(parts)})"


def _column(frame: Any, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    """One column as (values, present)."""
    if modality.name not in frame:
        raise ValueError(f"{modality} has no column {modality.name!r}; the frame has {list(frame)[:12]}.")
    column = frame[modality.name]
    present = column.notna().to_numpy()
    if isinstance(modality, Text):
        return column.astype(object).where(present, "").to_numpy(), present
    if not isinstance(modality, Category):
        if column.dtype.kind in "mM":
            raise TypeError(f"{modality} needs a column of numbers, got {column.dtype}: make it e.g. days.")
        try:
            return column.to_numpy(dtype=np.float32, na_value=np.nan), present
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{modality} needs a column of numbers ({error}): clean it, or declare a Category of words."
            ) from None
    code = {value: i for i, value in enumerate(modality.values)}
    names = column.astype(str)
    if column.dtype.kind == "f" and (column[present] % 1 == 0).all() and not set(names[present]) <= set(code):
        names = column.astype("Int64").astype(str)  # whole numbers: an empty cell has made them floats
    unknown = sorted(set(names[present]) - set(code))
    if unknown:
        raise ValueError(f"{modality} has values that were not declared: {unknown[:5]}.")
    return np.array([code[name] if p else 0 for name, p in zip(names, present, strict=True)]), present
