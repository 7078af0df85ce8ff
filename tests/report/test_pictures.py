"""Pictures of the page: nothing is written on what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from resnet_paths.report.pictures import legend_above


@pytest.mark.parametrize("size", [(8.0, 3.8), (4.4, 3.9)])
@pytest.mark.parametrize("labels", [("a",), ("one", "another, of many more words than the first", "three")])
def test_the_legend_lies_above_the_axes_and_within_the_picture(size, labels) -> None:
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    for label in labels:
        ax.plot(np.arange(5), label=label)
    ax.legend()
    legend_above(ax, size)
    FigureCanvasAgg(figure).draw()
    legend, drawn, whole = ax.get_legend().get_window_extent(), ax.get_window_extent(), figure.bbox
    assert legend.y0 >= drawn.y1
    assert legend.x1 <= whole.x1 + 1
    assert legend.y1 <= whole.y1 + 1
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(labels)


def test_axes_without_a_legend_get_none() -> None:
    ax = Figure().subplots()
    ax.plot([0, 1], label="not asked for")
    legend_above(ax, (4.0, 3.0))
    assert ax.get_legend() is None
