"""What can be measured: declarations of modalities, no data and no weights.

A modality is declared once, by value: ``Scalar("glucose", unit="mg/dL", transform="log")``.
Nothing is registered anywhere, so adding your own modality is writing its declaration.

Each declaration knows one thing besides its fields: what a batch of its values looks like (``check``).
B is the number of samples (patients, galaxies); the first axis is always B.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

TRANSFORMS = ("none", "log", "arcsinh")


@dataclass(frozen=True)
class Modality:
    """A declared kind of measurement. ``name`` is its key in every batch, codec folder and result."""

    name: str
    kind: ClassVar[str] = "modality"

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name.strip() or set(self.name) & set("/\\."):
            raise ValueError(
                f"A modality's name is a non-empty string without '/', '\\' and '.' (it names a folder), "
                f"got {self.name!r}: rename it."
            )
        for name in filter(vars(self).__contains__, ("channels", "size", "length", "max_length")):
            value = vars(self)[name]
            try:
                whole = tuple(map(operator.index, value)) if np.iterable(value) else operator.index(value)
            except TypeError:
                whole = 0
            if np.min(whole, initial=1) < 1:
                raise ValueError(f"{self}: {name} is in whole numbers of 1 or more, got {value!r}.")
            object.__setattr__(self, name, whole)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return ()

    @property
    def cell_shape(self) -> tuple[int, ...]:
        """Shape of the cells of a sample that go missing one by one: ``present`` may be (B, *cell_shape)."""
        return ()

    def check(self, values: Any, present: torch.Tensor | None = None) -> torch.Tensor:
        """Values as a float32 tensor (B, *shape); a clear error where they are anything else.

        ``present``: bool (B,) or (B, *cell_shape); what is absent is not looked at and comes back as 0.
        """
        x = _as_tensor(values, self)
        if not x.dtype.is_floating_point:
            how = "convert with .float(), or declare a Category if these are codes of classes"
            how = how if self.shape == () else "convert with .float(), and into your unit"
            raise TypeError(f"{self} needs floating-point values, got {x.dtype}: {how}.")
        return self._check_shape_and_finite(x.to(torch.float32), present)

    def _check_shape_and_finite(self, x: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
        if x.shape[1:] != self.shape or x.ndim == 0:
            want = ", ".join(["B", *map(str, self.shape)])
            raise ValueError(f"{self} needs values of shape ({want}), got {tuple(x.shape)}.")
        present = check_present(self, present, len(x), x.device)
        mask = present.reshape(present.shape + (1,) * (x.ndim - present.ndim))
        bad = ~torch.isfinite(x) & mask
        if bad.any():
            raise ValueError(
                f"{self} has {int(bad.sum())} NaN or infinite values in measured samples: "
                f"set present['{self.name}'] to False where nothing was measured."
            )
        return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def to_config(self) -> dict[str, Any]:
        """Plain JSON: the fields and the kind; ``modality_from_config`` reads it back."""
        out: dict[str, Any] = {"kind": self.kind}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "columns":
                value = [column.to_config() for column in value]
            out[field.name] = list(value) if isinstance(value, tuple) else value
        return out


@dataclass(frozen=True)
class Image(Modality):
    """Pixels (B, channels, height, width); ``size`` is height = width, or (height, width).

    Channels (bands) go missing one by one, so ``present`` may be (B, channels) as well as (B,).
    """

    channels: int = 1
    size: int | tuple[int, int] = 64
    kind: ClassVar[str] = "image"

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.size, tuple) and len(self.size) != 2:
            raise ValueError(f"{self}: size is one number, or (height, width), got {self.size}.")

    @property
    def shape(self) -> tuple[int, ...]:
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return (self.channels, height, width)

    @property
    def cell_shape(self) -> tuple[int, ...]:
        return (self.channels,)


@dataclass(frozen=True)
class TimeSeries(Modality):
    """Signals (B, channels, length) on a regular grid of ``rate`` samples per second.

    A signal sampled irregularly lies on the grid with gaps: ``present`` (B, channels, length) says where.
    """

    channels: int = 1
    length: int = 1000
    rate: float = 1.0
    kind: ClassVar[str] = "time_series"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.length)

    @property
    def cell_shape(self) -> tuple[int, ...]:
        return self.shape


@dataclass(frozen=True)
class Spectrum(Modality):
    """Flux (B, len(wavelength)) on one increasing ``wavelength`` grid.

    ``present`` (B, len(wavelength)) is the coverage: where the spectrograph did not look, it is False.
    """

    wavelength: tuple[float, ...] = ()
    unit: str = "angstrom"
    kind: ClassVar[str] = "spectrum"

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "wavelength", tuple(float(w) for w in self.wavelength))
        if len(self.wavelength) < 2 or not np.all(np.diff(self.wavelength) > 0):
            raise ValueError(
                f"{self} needs two or more strictly increasing wavelengths: sort them, none twice."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.wavelength),)

    @property
    def cell_shape(self) -> tuple[int, ...]:
        return self.shape


@dataclass(frozen=True)
class Scalar(Modality):
    """One number a sample (B,). ``transform``: the scale its codes are laid out on (none, log, arcsinh).

    ``scale`` is the softening of arcsinh(x / scale), in the scalar's unit; the other transforms ignore it.
    """

    unit: str = ""
    transform: str = "none"
    scale: float = 1.0
    kind: ClassVar[str] = "scalar"

    def __post_init__(self):
        super().__post_init__()
        if self.transform not in TRANSFORMS:
            raise ValueError(f"{self}: transform must be one of {TRANSFORMS}, got {self.transform!r}.")
        if not 0 < self.scale < np.inf:
            raise ValueError(f"{self}: scale must be positive and finite, got {self.scale!r}.")

    def check(self, values: Any, present: torch.Tensor | None = None) -> torch.Tensor:
        x = super().check(values, present)
        if self.transform == "log":
            bad = (x <= 0) & check_present(self, present, len(x), x.device)
            if bad.any():
                raise ValueError(
                    f"{self} has transform='log' and {int(bad.sum())} values <= 0: "
                    f"declare transform='arcsinh', or mark them absent."
                )
        return x


@dataclass(frozen=True)
class Category(Modality):
    """One class a sample: integer codes (B,), indices into ``values``. Categories have no order."""

    values: tuple[str, ...] = ()
    kind: ClassVar[str] = "category"

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "values", tuple(map(str, self.values)))
        if not self.values or len(set(self.values)) != len(self.values):
            raise ValueError(f"{self} needs at least one value and no value twice, got {self.values!r}.")

    def check(self, values: Any, present: torch.Tensor | None = None) -> torch.Tensor:
        """Codes as an int64 tensor (B,)."""
        x = _as_tensor(values, self)
        if x.dtype.is_floating_point:
            raise TypeError(f"{self} needs integer codes 0..{len(self.values) - 1}, got {x.dtype}.")
        x = self._check_shape_and_finite(x.to(torch.int64), present)
        bad = (x < 0) | (x >= len(self.values))
        if bad.any():
            raise ValueError(f"{self} has codes outside 0..{len(self.values) - 1}: {x[bad][:3].tolist()}.")
        return x


@dataclass(frozen=True)
class Table(Modality):
    """A row of Scalars and Categories (B, len(columns)); a category's cell holds its code as a float.

    Cells go missing one by one, so ``present`` may be (B, len(columns)) as well as (B,).
    """

    columns: tuple[Scalar | Category, ...] = ()
    kind: ClassVar[str] = "table"

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "columns", tuple(self.columns))
        if not all(isinstance(column, Scalar | Category) for column in self.columns):
            raise TypeError(f"{self} has columns of Scalar and Category alone, got {self.columns}.")
        names = [column.name for column in self.columns]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"{self} needs at least one column and no column name twice, got {names}.")

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.columns),)

    @property
    def cell_shape(self) -> tuple[int, ...]:
        return self.shape

    def check(self, values: Any, present: torch.Tensor | None = None) -> torch.Tensor:
        x = super().check(values, present)
        cells = check_present(self, present, len(x), x.device)
        cells = cells[:, None].expand_as(x) if cells.ndim == 1 else cells
        for i, column in enumerate(self.columns):
            cell = x[:, i]
            if isinstance(column, Category):
                if (cell != cell.round()).any():
                    raise ValueError(
                        f"{self}: {column} holds codes of classes, which are whole numbers, "
                        f"got {cell[cell != cell.round()][:3].tolist()}."
                    )
                cell = cell.long()
            column.check(cell, cells[:, i])
        return x


@dataclass(frozen=True)
class Text(Modality):
    """A string a sample: a sequence of B ``str``; at most ``max_length`` tokens are kept."""

    max_length: int = 64
    kind: ClassVar[str] = "text"

    def check(self, values: Any, present: torch.Tensor | None = None) -> np.ndarray:
        """Strings as an object array (B,); absent ones come back empty."""
        # A generator can be read only once.
        values = list(values) if np.iterable(values) and not isinstance(values, str) else [None]
        seen = check_present(self, present, len(values)).tolist()
        values = [v if s else "" for v, s in zip(values, seen, strict=True)]
        if not all(isinstance(v, str) for v in values):
            raise TypeError(f"{self} needs a sequence of strings, one a sample.")
        return np.array(values, dtype=object)


def check_present(
    modality: Modality, present: torch.Tensor | None, num_samples: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """``present`` as a bool tensor (B,) or (B, *modality.cell_shape); None means all measured."""
    if present is None:
        return torch.ones(num_samples, dtype=torch.bool, device=device)
    if isinstance(present, np.ndarray):
        present = present.copy()  # torch warns of arrays that can't be written to
    present = torch.as_tensor(present, device=device)
    shapes = [(num_samples,)]
    if modality.cell_shape:
        shapes.append((num_samples, *modality.cell_shape))
    if present.dtype != torch.bool or tuple(present.shape) not in shapes:
        raise ValueError(
            f"present['{modality.name}'] must be boolean of shape {' or '.join(map(str, shapes))}, "
            f"got {present.dtype} {tuple(present.shape)}."
        )
    return present


KINDS: Mapping[str, type[Modality]] = {
    cls.kind: cls for cls in (Image, TimeSeries, Spectrum, Scalar, Category, Table, Text)
}


def modality_from_config(config: Mapping[str, Any]) -> Modality:
    """The declaration that ``to_config`` wrote; raises ValueError on an unknown kind or field."""
    fields = dict(config)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"Unknown kind of modality {kind!r}: known are {', '.join(KINDS)}.")
    if "columns" in fields:
        fields["columns"] = [modality_from_config(column) for column in fields["columns"]]
    try:
        return KINDS[kind](**fields)
    except TypeError as error:
        raise ValueError(f"{KINDS[kind].__name__} can't be made from {sorted(fields)}: {error}.") from None


def check_names(modalities: Sequence[Modality]) -> dict[str, Modality]:
    """The declarations by name; raises ValueError on a name given twice."""
    by_name = {m.name: m for m in modalities}
    if len(by_name) != len(modalities):
        raise ValueError(f"Modality names must differ, got {[m.name for m in modalities]}.")
    return by_name


def _as_tensor(values: Any, modality: Modality) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values
    try:
        array = np.asarray(values)
        native = array.dtype.newbyteorder("=")  # FITS files hold big-endian numbers, which torch can't read
        backward = min(array.strides, default=0) < 0  # as x[::-1] is, which torch can't read either
        return torch.as_tensor(array.astype(native, copy=backward or not array.flags.writeable))
    except (TypeError, ValueError):
        kind = type(values).__name__
        raise TypeError(f"{modality} needs an array or tensor of numbers, got {kind}.") from None
