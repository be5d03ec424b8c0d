"""The batched image pipeline is torchvision's: the same values from the same parameters, the same laws."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as VF
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from aion_lite.strategies import augmentation_images as A
from aion_lite.strategies.augmentation import augment_images, augment_pair, image_pipeline

BILINEAR = InterpolationMode.BILINEAR
GEOMETRY = ("flip", "rotation", "translation", "crop")
LIGHT = ("brightness", "contrast", "saturation")
sizes = pytest.mark.parametrize("size", [(16, 16), (13, 20), (24, 11)])


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.rand(shape, generator=gen(seed))


def torchvision_moves(image, g, i, crop=True):
    """What torchvision's functions make of sample i's parameters, one after another."""
    image = VF.horizontal_flip(image) if g.flip_x[i] else image
    image = VF.vertical_flip(image) if g.flip_y[i] else image
    shift = [int(g.shift_x[i]), int(g.shift_y[i])]
    image = VF.affine(image, float(g.angle[i]), shift, 1.0, [0.0, 0.0], BILINEAR)
    if not crop:
        return image
    box = [int(t[i]) for t in (g.top, g.left, g.height, g.width)]
    return VF.resized_crop(image, *box, list(image.shape[-2:]), BILINEAR)


# The same parameters, the same values


@sizes
@pytest.mark.parametrize("names", [{"flip", "rotation", "translation"}, {"flip", "translation", "crop"}])
def test_moves_are_torchvisions(size, names):
    """Exactly so where torchvision interpolates once; whole pixels are moved without interpolation."""
    x = draw(30, 3, *size)
    g = A.draw_geometry(x, 1.5, names, gen())
    expected = torch.stack([torchvision_moves(image, g, i, "crop" in names) for i, image in enumerate(x)])
    torch.testing.assert_close(A.move_pixels(x, g), expected, rtol=0, atol=1e-5)
    assert not torch.equal(g.flip_x, g.flip_y) and (g.shift_x != 0).any()


@sizes
def test_one_interpolation_gives_what_two_give_where_both_are_exact(size):
    """On a plane a + b x + c y, which linear interpolation reproduces, away from what came from outside."""
    a, b, c = draw(3, 40, 1, 1, 1, seed=1)
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, n) for n in size), indexing="ij")
    x = a + b * columns + c * rows
    g = A.draw_geometry(x, 1.0, set(GEOMETRY), gen())
    ours, seen = A.move_pixels(x, g), A.move_pixels(torch.ones_like(x), g)
    compared = 0
    for i in range(len(x)):
        inside = torchvision_moves(torch.ones_like(x[i]), g, i) > 1 - 1e-6
        # torchvision's crop repeats its last pixel where this one lies on the image's rim.
        assert (seen[i][inside] > 1 - 1e-5).all()
        torch.testing.assert_close(ours[i][inside], torchvision_moves(x[i], g, i)[inside], rtol=0, atol=2e-5)
        compared += int(inside.sum())
    assert compared > 0.5 * x.numel()


@pytest.mark.parametrize("channels", [1, 3])
def test_light_is_torchvisions_in_every_order(channels):
    x = draw(60, channels, 7, 9)
    light = A.draw_light(x, 3.0, set(LIGHT), gen())
    change = [VF.adjust_brightness, VF.adjust_contrast, VF.adjust_saturation]
    expected = []
    for image, factors, order in zip(x, light.factors, light.order, strict=True):
        for k in order:
            image = change[k](image, float(factors[k]))
        expected.append(image)
    torch.testing.assert_close(A.change_light(x, light, (0.0, 1.0)), torch.stack(expected), rtol=0, atol=1e-5)
    assert len({tuple(order.tolist()) for order in light.order}) == math.factorial(3)


def test_light_of_other_channels_is_linear_about_the_mean():
    x = draw(20, 5, 6, 6) * 100 - 30
    light = A.draw_light(x, 1.0, set(LIGHT), gen())
    b, c, s = light.factors.double().numpy().T[:, :, None, None, None]
    assert (s == 1).all()  # saturation has no meaning here
    v = x.double().numpy()
    expected = c * b * v + (1 - c) * b * v.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(A.change_light(x, light), expected, rtol=1e-4, atol=1e-4)


@sizes
def test_boxes_are_erased_as_torchvision_erases(size):
    x = draw(200, 2, *size)
    light = A.draw_light(x, 4.0, {"erase"}, gen())
    out = A.erase(x, light, fill=0.5)
    for i in range(len(x)):
        box = [int(t[i]) for t in (light.top, light.left, light.height, light.width)]
        assert torch.equal(out[i], VF.erase(x[i], *box, torch.tensor(0.5)))
    assert 0.2 < float((light.height > 0).float().mean()) < 0.6


# The same laws


def same_law(a, b):
    """Kolmogorov-Smirnov: two samples of one law pass 999 times in 1,000. Rounded: values that many share."""
    a, b = (np.asarray(v, float).round(4) for v in (a, b))
    return stats.ks_2samp(a, b, method="asymp").pvalue > 1e-3


@pytest.mark.parametrize("size", [(32, 32), (24, 30), (20, 50), (50, 20)])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_parameters_have_torchvisions_laws(size, strength):
    """Those of an oblong image too, whose crops are around its own shape."""
    torch.manual_seed(0)
    n, x = 3000, torch.zeros(1, 3, *size)
    many = x.expand(n, -1, -1, -1)
    g, light = A.draw_geometry(many, strength, set(GEOMETRY)), A.draw_light(many, strength, {"erase"})
    steps = {type(t): t for t in image_pipeline(3, *size, strength).transforms}
    crops = [steps[v2.RandomResizedCrop].make_params([x[0]]) for _ in range(n)]
    for name in ("top", "left", "height", "width"):
        assert same_law([c[name] for c in crops], getattr(g, name)), name
    moves = [steps[v2.RandomAffine].make_params([x[0]]) for _ in range(n)]
    assert same_law([m["angle"] for m in moves], g.angle)
    assert same_law([m["translate"][0] for m in moves], g.shift_x)
    assert same_law([m["translate"][1] for m in moves], g.shift_y)
    # Of ours only a share is erased; those are a sample of the same boxes.
    boxes = [steps[v2.RandomErasing].make_params([x[0]]) for _ in range(n)]
    erased = light.height > 0
    for short, name in (("i", "top"), ("j", "left"), ("h", "height"), ("w", "width")):
        assert same_law([b[short] for b in boxes if b["v"] is not None], getattr(light, name)[erased]), name
    for flags, p in ((g.flip_x, strength / 2), (g.flip_y, strength / 2), (erased, strength / 10)):
        assert stats.binomtest(int(flags.sum()), n, p).pvalue > 1e-3


@pytest.mark.parametrize(
    ("channels", "limits"), [(1, (0.0, 1.0)), (3, (0.0, 1.0)), (4, (0.0, 1.0)), (3, None)]
)
def test_the_pipeline_has_torchvisions_law(channels, limits):
    """Of the same smooth image: its mean, spread, middle and corner after 1,000 changes by either."""
    torch.manual_seed(0)
    n, t = 1000, torch.linspace(-1, 1, 12)
    image = (0.5 + 0.3 * t[:, None] * t + 0.2 * t).expand(channels, 12, 12).clone()
    image *= torch.linspace(0.6, 1, channels)[:, None, None]
    one_by_one = image_pipeline(channels, 12, 12, limits=limits)
    theirs = torch.stack([one_by_one(image) for _ in range(n)])
    ours = augment_images(image.expand(n, -1, -1, -1), limits=limits)
    for statistic in (
        lambda y: y.mean((1, 2, 3)), lambda y: y.flatten(1).std(1), lambda y: y[:, 0, 6, 6],
        lambda y: y[:, -1, 0, 0], lambda y: y[:, 0, 3, 9], lambda y: y.flatten(1).amax(1),
    ):  # fmt: skip
        assert same_law(statistic(theirs), statistic(ours))


# Strength, randomness, what is absent


@given(st.sampled_from([(1, 1, 4, 4), (3, 2, 5, 9), (2, 3, 8, 6), (2, 7, 4, 4)]), st.integers(0, 99))
def test_strength_0_is_the_identity_and_all_strengths_keep_the_shape(shape, seed):
    x = draw(*shape, seed=seed)
    assert torch.equal(augment_images(x, 0), x)
    for strength in (0.1, 1.0, 4.0):
        y = augment_images(x, strength, limits=(0.0, 1.0), generator=gen(seed))
        assert y.shape == x.shape and 0 <= y.min() and y.max() <= 1


@pytest.mark.parametrize("strength", [0.25, 1.0, 2.0])
def test_strength_scales_every_range(strength):
    x = torch.zeros(4000, 3, 64, 64, device="cpu").expand(4000, 3, 64, 64)
    g, light = (f(x, strength, set(A.IMAGE_TRANSFORMS), gen()) for f in (A.draw_geometry, A.draw_light))
    assert float(g.angle.abs().max()) == pytest.approx(15 * strength, rel=0.01)
    assert float(g.shift_x.abs().max()) == round(6.4 * strength)
    factors = light.factors
    assert float((factors - 1).abs().max()) == pytest.approx(0.2 * strength, rel=0.01)
    area = g.height * g.width / 64**2
    assert float(area.min()) == pytest.approx(1 - 0.2 * strength, abs=0.03) and area.max() <= 1


def test_every_sample_is_changed_in_its_own_way_and_a_generator_repeats_it():
    x = draw(1, 3, 8, 8).expand(50, -1, -1, -1)
    a, b, c = (augment_images(x, generator=gen(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert len(torch.unique(a.flatten(1), dim=0)) == 50
    g = gen()
    assert not torch.equal(augment_images(x, generator=g), augment_images(x, generator=g))  # epoch by epoch


def test_nothing_waits_for_the_values():
    """Tensors without values show it: whatever asks for one fails."""
    x = torch.empty(4, 3, 20, 30, device="meta")
    present = torch.ones(4, 3, dtype=torch.bool, device="meta")
    y, _, w = augment_images(x, present=present, weight=x, limits=(0.0, 1.0))
    assert y.shape == w.shape == x.shape
    assert augment_pair(x, x)[1].shape == x.shape


@given(st.sampled_from([math.nan, 1e30, -5.0]), st.integers(0, 99))
@settings(max_examples=10)
def test_absent_bands_never_matter_and_come_out_as_0(junk, seed):
    x = draw(6, 4, 8, 8, seed=seed)
    present = draw(6, 4, seed=seed + 1) > 0.4
    mask = present[:, :, None, None].expand_as(x)
    y, same = augment_images(x.where(mask, junk), present=present, generator=gen(seed))
    z, _ = augment_images(x, present=present, generator=gen(seed))
    assert torch.equal(y, z) and torch.equal(same, present) and (y[~mask] == 0).all()


def test_grey_is_torchvisions_when_no_band_is_absent():
    x, all_there = draw(20, 3, 8, 8), torch.ones(20, 3, dtype=torch.bool)
    light = A.draw_light(x, 1.0, set(LIGHT), gen())
    torch.testing.assert_close(
        A.change_light(x, light, None, all_there), A.change_light(x, light), rtol=0, atol=2e-4
    )


def test_weights_move_with_their_pixels_and_follow_the_gain():
    x, weight = draw(40, 1, 10, 10), draw(40, 1, 10, 10, seed=1)
    y, w = augment_images(x, 2.0, transforms=GEOMETRY, weight=weight, generator=gen())
    torch.testing.assert_close(w, augment_images(weight, 2.0, transforms=GEOMETRY, generator=gen()))
    assert (w == 0).any() and not torch.equal(y, x)
    # x and x + noise of variance 1 / weight: the difference is as large as the weight after says.
    y, w = augment_images(x, 1.0, transforms=("brightness", "contrast"), weight=weight, generator=gen())
    gain = (weight / w).sqrt()
    light = A.draw_light(x, 1.0, {"brightness", "contrast"}, generator_after_geometry(x))
    torch.testing.assert_close(gain[:, 0, 0, 0], light.factors[:, 0] * light.factors[:, 1])


def generator_after_geometry(x):
    g = gen()
    A.draw_geometry(x, 1.0, set(), g)
    return g


def test_a_pair_shares_its_geometry():
    a = draw(20, 2, 12, 9)
    b = torch.cat([a, 3 * a], 1)
    x, y = augment_pair(a, b, 2.0, transforms=(*GEOMETRY, "brightness"), generator=gen())
    ratio = y[:, :2].sum((1, 2, 3)) / x.sum((1, 2, 3))
    torch.testing.assert_close(y[:, :2], x * ratio[:, None, None, None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y[:, 2:], 3 * y[:, :2], rtol=1e-4, atol=1e-5)
    assert len(ratio.unique()) > 10  # light of their own
    assert all(p is q for p, q in zip(augment_pair(a, b, 0), (a, b), strict=True))
    with pytest.raises(ValueError, match="A pair needs as many images, of the same size"):
        augment_pair(a, b[:, :, :5])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"target": "orientation"}, "flip, rotation would change the orientation that is to be predicted"),
        (
            {"target": ("amplitude", "colour"), "allow": "crop"},
            "brightness, contrast, saturation would change",
        ),
        ({"target": "heart rate"}, "Unknown heart rate: choose from amplitude, colour, order"),
        ({"transforms": ("spin",)}, "Unknown spin: choose from"),
        ({"strength": 5}, "strength lies between 0 .no change. and 4, got 5"),
        ({"strength": math.nan}, "strength lies between"),
        ({"weight": torch.zeros(2, 1)}, "weight needs the images' shape"),
        ({"generator": torch.Generator("cpu"), "x": torch.empty(2, 1, 4, 4, device="meta")}, "make it with"),
        ({"x": torch.zeros(2, 4, 4)}, "floats of shape .B, C, H, W."),
        ({"x": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}, "convert uint8"),
    ],
)
def test_what_it_cannot_do_is_refused(kwargs, message):
    kwargs = {"x": torch.zeros(2, 1, 4, 4), **kwargs}
    with pytest.raises(ValueError, match=message):
        augment_images(**kwargs)


def test_what_changes_the_target_may_be_left_out_or_allowed():
    x = draw(30, 1, 8, 8)
    assert augment_images(x, target="orientation", allow=("flip", "rotation")).shape == x.shape
    y = augment_images(x, transforms=("erase", "saturation"), target=A_PROPERTIES, generator=gen())
    changed = (y != x).flatten(1)
    assert (y[y != x] == 0).all() and 0 < changed.any(1).sum() < 15


A_PROPERTIES = ("amplitude", "orientation", "position", "rate", "size")


@pytest.mark.parametrize(
    "present", [torch.ones(3, dtype=torch.bool), torch.ones(4, 3, dtype=torch.bool), torch.ones(4)]
)
def test_presence_of_other_images_is_refused(present):
    with pytest.raises(ValueError, match="present is bool of shape"):
        augment_images(torch.rand(4, 2, 8, 8), present=present)


def test_weights_of_half_precision_stay_so():
    x = torch.rand(4, 1, 8, 8).half()
    out, weight = augment_images(x, weight=torch.ones_like(x))
    assert out.dtype == weight.dtype == torch.float16
