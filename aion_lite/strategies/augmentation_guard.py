"""What the augmentations share: which of them change which label, random numbers, what is returned.

Imports torch alone; knows nothing of images, series or codecs.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Generator, Tensor

CHANGES_LABEL = {
    "flip": ("orientation", "position"),
    "rotation": ("orientation", "position"),
    "translation": ("position",),
    "crop": ("amplitude", "position", "size"),
    "brightness": ("amplitude",),
    "contrast": ("amplitude", "colour"),
    "saturation": ("colour",),
    "time_warp": ("rate",),
    "window_slice": ("rate",),
    "permutation": ("order", "rate"),
    "magnitude_warp": ("amplitude",),
    "scaling": ("amplitude",),
    "ripple": ("amplitude", "colour"),
}
"""Transform -> the properties of the object that it changes: a heart rate is a rate, the side of a scan an
orientation, a galaxy's magnitude an amplitude (a crop makes it cover more pixels), its photometric redshift a
colour, what came first an order. A transform that is not here changes none."""

PROPERTIES = tuple(sorted({what for changes in CHANGES_LABEL.values() for what in changes}))
MAX_STRENGTH = 4.0

Names = str | Collection[str]


def chosen(transforms: Names, known: Collection[str], target: Names = (), allow: Names = ()) -> set[str]:
    """The names in ``transforms``, once none of them changes a property in ``target``.

    Raises ValueError, in one sentence, on an unknown name, and where a transform changes the target and is
    not named in ``allow``.
    """
    transforms, target, allow = _names(transforms), _names(target), _names(allow)
    for asked, names in ((transforms, known), (allow, known), (target, PROPERTIES)):
        unknown = sorted(asked - set(names))
        if unknown:
            raise ValueError(f"Unknown {', '.join(unknown)}: choose from {', '.join(sorted(names))}.")
    changes = {t: target & set(CHANGES_LABEL.get(t, ())) for t in transforms - allow}
    changing = sorted(t for t, changed in changes.items() if changed)
    if changing:
        what = " and ".join(sorted(set.union(*changes.values())))
        raise ValueError(
            f"{', '.join(changing)} would change the {what} that is to be predicted: leave it out of "
            f"transforms, or name it in allow where the label does not follow."
        )
    return transforms


def check_strength(strength: float) -> float:
    if not 0 <= strength <= MAX_STRENGTH:
        raise ValueError(f"strength lies between 0 (no change) and {MAX_STRENGTH:g}, got {strength}.")
    return float(strength)


def uniform(shape: tuple[int, ...], like: Tensor, generator: Generator | None = None) -> Tensor:
    """U[0, 1) on the device of ``like``, which is the generator's too; float32 at least."""
    _check_generator(like, generator)
    return torch.rand(shape, device=like.device, dtype=_precision(like), generator=generator)


def normal(shape: tuple[int, ...], like: Tensor, generator: Generator | None = None) -> Tensor:
    """N(0, 1), else as ``uniform``."""
    _check_generator(like, generator)
    return torch.randn(shape, device=like.device, dtype=_precision(like), generator=generator)


def given(x: Tensor, *more: Tensor | None) -> Tensor | tuple[Tensor, ...]:
    """x alone, or x and what else there is."""
    rest = tuple(t for t in more if t is not None)
    return (x, *rest) if rest else x


def _names(names: Names) -> set[str]:
    return {names} if isinstance(names, str) else set(names)


def _precision(like: Tensor) -> torch.dtype:
    return torch.promote_types(like.dtype, torch.float32)


def _check_generator(like: Tensor, generator: Generator | None) -> None:
    if generator is not None and generator.device.type != like.device.type:
        raise ValueError(
            f"The generator is on {generator.device}, the data on {like.device}: make it with "
            f"torch.Generator({str(like.device)!r})."
        )
