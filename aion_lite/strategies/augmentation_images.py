"""The image pipeline for a whole batch, on its device: every sample has parameters of its own.

Equal in law to ``image_pipeline`` (torchvision's transforms, an image at a time), but all geometry is one
interpolation. No loop over samples and no wait for the device, so a training step can be recorded with it.

B samples, C channels, H x W pixels. Lengths in pixels; (0, 0) is the centre of the first pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from aion_lite.strategies.augmentation_guard import Names, check_strength, chosen, given, uniform

# The seed document's ranges, at strength 1.
FLIP, ANGLE, SHIFT, JITTER, CROP, ERASE = 0.5, 15.0, 0.1, 0.2, 0.2, 0.1
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # torchvision's defaults
RGB = (0.2989, 0.587, 0.114)  # torchvision's weights of grey
TRIES = 10  # of a box that has to fit, as torchvision has them

IMAGE_TRANSFORMS = (
    "flip", "rotation", "translation", "crop", "brightness", "contrast", "saturation", "erase"
)  # fmt: skip


@dataclass(frozen=True)
class Geometry:
    """Where the pixels of B images go: flipped, turned by ``angle`` (degrees, clockwise), moved, cropped."""

    flip_x: Tensor  # (B,) bool: left to right
    flip_y: Tensor
    angle: Tensor
    shift_x: Tensor  # whole pixels
    shift_y: Tensor
    top: Tensor  # of the box that is cut out and stretched to the whole, whole pixels
    left: Tensor
    height: Tensor
    width: Tensor


@dataclass(frozen=True)
class Light:
    """How bright B images become, and the box that is erased (of height 0 where none is)."""

    factors: Tensor  # (B, 3) of brightness, contrast, saturation
    order: Tensor  # (B, 3) which comes first
    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def augment_images(
    x: Tensor,
    strength: float = 1.0,
    *,
    transforms: Names = IMAGE_TRANSFORMS,
    target: Names = (),
    allow: Names = (),
    limits: tuple[float, float] | None = None,
    fill: float = 0.0,
    present: Tensor | None = None,
    weight: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Images (B, C, H, W) -> as many, each changed in its own way.

    Args:
        strength: factor on every range, 0 (the images as they are) to 4. At 1: flips with probability 1/2,
            15 degrees, a tenth of the side, a crop of 80 to 100 % of the area and 3/4 to 4/3 of the shape,
            brightness, contrast and, of 3 channels, saturation from 0.8 to 1.2, a box erased with probability
            1/10.
        transforms: which of ``IMAGE_TRANSFORMS``.
        target: properties (``PROPERTIES``) that are to be predicted, so must not change.
        allow: transforms to use nevertheless.
        limits: the range that values are clipped to after a change of light, (0, 1) as torchvision has it;
            None for none. Flux must not be clipped.
        fill: value of what is erased or comes from outside the image.
        present: (B,) or (B, C): absent bands take no part in the mean that contrast is about, and come out 0.
        weight: inverse variance of x, of its shape. It moves along, is divided by (brightness x contrast)**2
            and is 0 where there is no measurement any more. Saturation is not accounted for.
        generator: on the device of x; None for torch's own. The same one gives the same images.

    Returns x, or (x, present, weight) of those that were given.

    Raises ValueError where a transform changes the target (``CHANGES_LABEL``) or an argument is out of range.
    """
    names = chosen(transforms, IMAGE_TRANSFORMS, target, allow)
    _check_images(x, weight, present)
    if check_strength(strength) == 0:
        return given(x, present, weight)
    geometry = draw_geometry(x, strength, names, generator)
    light = draw_light(x, strength, names, generator)
    return _augmented(x, geometry, light, limits, fill, present, weight)


def augment_pair(
    a: Tensor,
    b: Tensor,
    strength: float = 1.0,
    *,
    transforms: Names = IMAGE_TRANSFORMS,
    target: Names = (),
    allow: Names = (),
    limits: tuple[float, float] | None = None,
    fill: float = 0.0,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Two images of the same objects (B, C, H, W), (B, D, H, W): one geometry, light of its own each.

    Augmented apart, a pixel of the one would no longer show what that pixel of the other shows. Arguments are
    those of ``augment_images``. Raises ValueError too where the two differ in samples, height or width.
    """
    names = chosen(transforms, IMAGE_TRANSFORMS, target, allow)
    _check_images(a, None)
    _check_images(b, None)
    if a.shape[0] != b.shape[0] or a.shape[2:] != b.shape[2:]:
        raise ValueError(
            f"A pair needs as many images, of the same size, got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    if check_strength(strength) == 0:
        return a, b
    geometry = draw_geometry(a, strength, names, generator)
    out = []
    for x in (a, b):
        light = draw_light(x, strength, names, generator)
        out.append(_augmented(x, geometry, light, limits, fill, None, None))
    return out[0], out[1]


def draw_geometry(
    x: Tensor, strength: float, names: set[str], generator: Generator | None = None
) -> Geometry:
    """Parameters by torchvision's laws, for as many images as x has, on its device."""
    B, _, H, W = x.shape
    u = uniform((B, 5 + 4 * TRIES), x, generator)
    flip = min(FLIP * strength, 0.5) if "flip" in names else 0.0
    shift = SHIFT * strength if "translation" in names else 0.0
    crop = strength if "crop" in names else 0.0
    box = _box(u[:, 5:], H, W, (1 - CROP * crop, 1.0), crop_ratio(H, W, crop), whole=True)
    top, left, height, width, fits = box
    return Geometry(
        flip_x=u[:, 0] < flip,
        flip_y=u[:, 1] < flip,
        angle=(2 * u[:, 2] - 1) * (ANGLE * strength if "rotation" in names else 0.0),
        shift_x=((2 * u[:, 3] - 1) * shift * W).round(),
        shift_y=((2 * u[:, 4] - 1) * shift * H).round(),
        top=torch.where(fits, top, 0.0),  # where no try fits: the whole image, as torchvision does
        left=torch.where(fits, left, 0.0),
        height=torch.where(fits, height, float(H)),
        width=torch.where(fits, width, float(W)),
    )


def crop_ratio(H: int, W: int, strength: float) -> tuple[float, float]:
    """Width to height of a crop, around the image's own."""
    return W / H * (3 / 4) ** strength, W / H * (4 / 3) ** strength


def draw_light(x: Tensor, strength: float, names: set[str], generator: Generator | None = None) -> Light:
    """As ``draw_geometry``."""
    B, C, H, W = x.shape
    u = uniform((B, 7 + 4 * TRIES), x, generator)
    used = [n in names and (n != "saturation" or C == 3) for n in ("brightness", "contrast", "saturation")]
    factors = [1 + JITTER * strength * (2 * u[:, i] - 1) * float(use) for i, use in enumerate(used)]
    top, left, height, width, fits = _box(u[:, 7:], H, W, ERASED_AREA, ERASED_RATIO, whole=False)
    erased = fits & (u[:, 6] < (ERASE * strength if "erase" in names else 0.0))
    return Light(
        torch.stack(factors, 1), u[:, 3:6].argsort(1), top, left, torch.where(erased, height, 0.0), width
    )


def move_pixels(x: Tensor, geometry: Geometry, fill: float = 0.0) -> Tensor:
    """Flip, then turn, then move, then cut out and stretch x (B, C, H, W), in one bilinear interpolation."""
    H, W = x.shape[2:]
    g = geometry
    along_x, along_y = _along(g.left, g.width, W), _along(g.top, g.height, H)  # in the moved image
    # Out of the moved image nothing is cut out; back through the move and the turn about the centre.
    dx = along_x[:, None, :] - g.shift_x[:, None, None] - (W - 1) / 2
    dy = along_y[:, :, None] - g.shift_y[:, None, None] - (H - 1) / 2
    angle = torch.deg2rad(g.angle)[:, None, None]
    cos, sin = angle.cos(), angle.sin()
    # A flip is a change of sign about the centre.
    from_x = (cos * dx + sin * dy) * (1 - 2 * g.flip_x[:, None, None].to(x.dtype))
    from_y = (cos * dy - sin * dx) * (1 - 2 * g.flip_y[:, None, None].to(x.dtype))
    grid = torch.stack([from_x * (2 / W), from_y * (2 / H)], -1).to(x.dtype)
    return F.grid_sample(x - fill, grid, padding_mode="zeros", align_corners=False) + fill


def change_light(
    x: Tensor, light: Light, limits: tuple[float, float] | None = None, present: Tensor | None = None
) -> Tensor:
    """Brightness, contrast, saturation of x (B, C, H, W), in each sample's order: r x + (1 - r) reference.

    The reference is black, the mean of the grey image, and the grey image. Grey is torchvision's for three
    channels, the mean for any other number; absent bands (``present`` (B, C)) are left out of it.
    """
    C = x.shape[1]
    share = x.new_full((C, 1, 1), 1 / C)
    if C == 3:
        for band, part in zip(share, RGB, strict=True):
            band.fill_(part)
    if present is not None and present.ndim > 1:
        share = share * present[:, :, None, None]
        share = share / share.sum(1, keepdim=True).clamp_min(1e-6)
    for k in range(3):
        which = light.order[:, k, None, None, None]
        r = light.factors.gather(1, light.order[:, k : k + 1])[:, :, None, None].to(x.dtype)
        grey = (x * share).sum(1, keepdim=True)
        mean = grey.mean((2, 3), keepdim=True)
        x = torch.lerp(torch.where(which == 0, 0.0, torch.where(which == 1, mean, grey)), x, r)
        x = x if limits is None else x.clamp(*limits)
    return x


def erase(x: Tensor, light: Light, fill: float = 0.0) -> Tensor:
    """x (B, C, H, W) with each sample's box set to ``fill``."""
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
    inside_y = (rows >= light.top[:, None]) & (rows < (light.top + light.height)[:, None])
    inside_x = (columns >= light.left[:, None]) & (columns < (light.left + light.width)[:, None])
    return torch.where(inside_y[:, None, :, None] & inside_x[:, None, None, :], fill, x)


def _augmented(
    x: Tensor, geometry: Geometry, light: Light, limits: tuple[float, float] | None, fill: float,
    present: Tensor | None, weight: Tensor | None,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    if present is not None:
        mask = present.reshape(*present.shape, *[1] * (4 - present.ndim))
        x = torch.where(mask, x, fill)
    y = erase(change_light(move_pixels(x, geometry, fill), light, limits, present), light, fill)
    if present is not None:
        y = torch.where(mask, y, 0.0)
    if weight is not None:
        gain = light.factors[:, 0] * light.factors[:, 1]
        moved = erase(move_pixels(weight, geometry), light) / gain.square()[:, None, None, None]
        moved = moved.to(weight.dtype)
        weight = moved if present is None else torch.where(mask, moved, 0.0)
    return given(y, present, weight)


def _box(
    u: Tensor, H: int, W: int, area: tuple[float, float], ratio: tuple[float, float], whole: bool
) -> tuple[Tensor, ...]:
    """(top, left, height, width, fits) of the first of ``TRIES`` boxes that fits, from u (B, 4 * TRIES).

    Sizes are rounded and places drawn as torchvision does. ``whole``: may be as large as the image, and the
    ratio is width to height; else it is smaller along both sides, and the ratio is height to width.
    """
    share, shape, y, x = u.unflatten(1, (4, TRIES)).unbind(1)  # (B, TRIES)
    size = H * W * (area[0] + (area[1] - area[0]) * share)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = (low + (high - low) * shape).exp()
    longer, shorter = (size * ratios).sqrt().round(), (size / ratios).sqrt().round()
    height, width = (shorter, longer) if whole else (longer, shorter)
    fits = (height <= H) & (width <= W) & (height > 0) & (width > 0)
    fits = fits if whole else (height < H) & (width < W)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    height, width, y, x, fits = (t.gather(1, first)[:, 0] for t in (height, width, y, x, fits))
    top = (y * (H - height + 1)).floor().minimum(H - height)  # u * n may round up to n
    left = (x * (W - width + 1)).floor().minimum(W - width)
    return top, left, height, width, fits


def _along(start: Tensor, length: Tensor, n: int) -> Tensor:
    """(B, n) where n pixels that span ``length`` from ``start`` lie, on the pixels of that span."""
    at = (torch.arange(n, device=start.device) + 0.5) * (length / n)[:, None] - 0.5
    return start[:, None] + at.clamp_min(0.0).minimum(length[:, None] - 1)


def _check_images(x: Tensor, weight: Tensor | None, present: Tensor | None = None) -> None:
    if x.ndim != 4 or not x.dtype.is_floating_point:
        raise ValueError(
            f"Images are floats of shape (B, C, H, W), got {x.dtype} {tuple(x.shape)}: convert uint8 with "
            f".float() / 255."
        )
    if weight is not None and weight.shape != x.shape:
        raise ValueError(f"weight needs the images' shape {tuple(x.shape)}, got {tuple(weight.shape)}.")
    if present is not None and (
        present.shape not in (x.shape[:1], x.shape[:2]) or present.dtype != torch.bool
    ):
        raise ValueError(
            f"present is bool of shape {tuple(x.shape[:1])} or {tuple(x.shape[:2])}, got {present.dtype} "
            f"{tuple(present.shape)}."
        )
