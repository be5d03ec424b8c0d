"""Sliders draw again when moved, and leave a picture where nothing moves."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import RichOutput, capture_output
from PIL import Image

from aion_lite.widgets import VIEW, sliders


def draw(width: int, height: int):
    """A figure of that many tenths of an inch, at 100 dots an inch."""
    return plt.figure(figsize=(width / 10, height / 10), dpi=100)


def shape(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


@pytest.fixture
def shown() -> tuple[object, RichOutput]:
    InteractiveShell.instance()
    with plt.rc_context({"savefig.dpi": 100}), capture_output() as captured:
        box = sliders(draw, width=(10, 40, 20), height=(10, 40, 30))
    (output,) = captured.outputs
    return box, output


def test_the_first_picture_travels_with_the_widget(shown):
    box, output = shown
    assert shape(output.data["image/png"]) == (200, 300)
    assert output.data[VIEW]["model_id"] == box.model_id
    assert "width = 20, height = 30" in output.data["text/plain"]


def test_a_moved_slider_draws_again(shown):
    box, _ = shown
    width, height, picture = box.children
    before = picture.value
    with plt.rc_context({"savefig.dpi": 100}):
        width.value = 40
    assert shape(picture.value) == (400, 300) and picture.value != before
    assert (width.min, width.max, height.value) == (10, 40, 30)


def test_no_figure_stays_open(shown):
    assert np.size(plt.get_fignums()) == 0


def test_a_start_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="width must start between 1 and 2, got 3"):
        sliders(draw, width=(1, 2, 3))
