"""Sliders that redraw a figure, with a still picture for places where nothing can move.

Takes a function that draws; knows nothing of models or data.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

VIEW = "application/vnd.jupyter.widget-view+json"


def sliders(draw: Callable[..., Figure], **ranges: tuple[int, int, int]) -> Any:
    """Show ``draw(**values)`` under one slider a value, and draw again when one is moved.

    ``ranges``: name -> (lowest, highest, first). What is shown carries the first picture as well, so a page
    without a kernel (the built site, a notebook on the web) shows that one. Returns the box of widgets.
    Raises ValueError where a first value lies outside its range.
    """
    import ipywidgets
    from IPython.display import display

    for name, (low, high, first) in ranges.items():
        if not low <= first <= high:
            raise ValueError(f"{name} must start between {low} and {high}, got {first}.")
    still = _png(draw(**{name: first for name, (_, _, first) in ranges.items()}))
    picture = ipywidgets.Image(value=still, format="png")
    controls = {
        name: ipywidgets.IntSlider(
            value=first, min=low, max=high, description=name, continuous_update=False,
            style={"description_width": "initial"},
        )
        for name, (low, high, first) in ranges.items()
    }  # fmt: skip

    def redraw(_) -> None:
        picture.value = _png(draw(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.observe(redraw, names="value")
    box = ipywidgets.VBox([*controls.values(), picture])
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    start = ", ".join(f"{name} = {first}" for name, (_, _, first) in ranges.items())
    display({VIEW: view, "image/png": still, "text/plain": f"A figure with sliders: {start}"}, raw=True)
    return box


def _png(figure: Figure) -> bytes:
    """The figure as it would be shown inline; closed, so that it isn't shown twice."""
    import matplotlib.pyplot as plt

    file = io.BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    return file.getvalue()
