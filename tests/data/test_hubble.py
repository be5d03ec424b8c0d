"""Crops of the deep field against scikit-image's own picture."""

import builtins

import numpy as np
import pytest

from aion_lite.data.hubble import load_hubble_crops


@pytest.fixture(scope="module")
def picture():
    return pytest.importorskip("skimage.data", reason="pip install scikit-image").hubble_deep_field()


def test_crops_are_cut_from_the_picture_and_the_parts_share_no_pixel(picture):
    used = {}
    for split in ("train", "test"):
        crops = load_hubble_crops(size=60, num=600, split=split)
        used[split] = np.zeros(picture.shape[:2], bool)
        for x, top, left in zip(crops.values["crop"], crops.info["top"], crops.info["left"], strict=True):
            place = np.s_[top : top + 60, left : left + 60]
            used[split][place] = True
            np.testing.assert_array_equal((x * 255).round().permute(1, 2, 0), picture[place])
    assert not (used["train"] & used["test"]).any()
    assert used["train"].any(0).nonzero()[0].max() <= 699 and used["test"].any(0).nonzero()[0].min() >= 700
    assert used["train"][:, :700].mean() > 0.8 and used["test"][:, 700:].mean() > 0.8


def test_the_whole_part_can_be_a_crop(picture):
    crops = load_hubble_crops(size=300, num=20, split="test")
    assert set(crops.info["left"]) == {700} and crops.info["top"].max() <= 572
    assert set(load_hubble_crops(size=700, num=3).info["left"]) == {0}


def test_the_seed_alone_decides(picture):
    a, b, c = (load_hubble_crops(num=5, seed=seed) for seed in (0, 0, 1))
    assert (a.values["crop"] == b.values["crop"]).all() and (a.info["top"] != c.info["top"]).any()
    with pytest.raises(ValueError, match="of 1 objects"):
        a.split(0.2)  # all crops are of one picture


def test_what_cannot_be_cut_is_refused(picture):
    with pytest.raises(ValueError, match="test part has 872 x 300 pixels: got size=301"):
        load_hubble_crops(size=301, split="test")
    with pytest.raises(ValueError, match="num=0"):
        load_hubble_crops(num=0)
    with pytest.raises(ValueError, match="splits 'train' and 'test', got 'all'"):
        load_hubble_crops(split="all")


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("skimage"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install scikit-image"):
        load_hubble_crops()
