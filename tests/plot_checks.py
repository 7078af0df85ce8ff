"""Whether a drawn figure can be read: nothing is cut, and nothing lies over anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

COLUMN: dict[str, Any] = {
    "figure.figsize": (3.25, 2.4),
    "font.size": 7,
    **dict.fromkeys(("axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7),
    "lines.markersize": 3,
    "lines.linewidth": 1,
}
"""The style of a figure in the column of a paper."""


def figures_of(drawn: Any) -> list[Figure]:
    """The figures of what a plot function returned."""
    items = drawn if isinstance(drawn, list | tuple) else [drawn]
    return list(dict.fromkeys(item.figure for item in items if isinstance(item, Axes)))


def check_readable(figure: Figure) -> None:
    """Every text is inside the figure; legends lie beside titles and data; titles beside each other."""
    FigureCanvasAgg(figure).draw()
    unseen = {text for ax in figure.axes for text in _beyond_the_axes(ax)}
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible() and text not in unseen:
            box = text.get_window_extent()
            inside = min(box.x0, box.y0) >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
            assert inside, f"{text.get_text()!r} is cut: {box}"
    boxes = []
    for ax in figure.axes:
        legend = ax.get_legend()
        boxes += [ax.title.get_window_extent()] if ax.get_title() else []
        boxes += [legend.get_window_extent()] if legend else []
        if legend:
            assert legend.get_window_extent().y0 >= ax.bbox.y1 - 1, "the legend lies over the data"
    for place, one in enumerate(boxes):
        assert not any(_overlap(one, other) for other in boxes[place + 1 :]), "titles or legends lie over each other"


def _overlap(one: Any, other: Any, least: float = 1.0) -> bool:
    across = min(one.x1, other.x1) - max(one.x0, other.x0)
    return across > least and min(one.y1, other.y1) - max(one.y0, other.y0) > least


def _beyond_the_axes(ax: Axes) -> list[Text]:
    """Labels of ticks that are not drawn, because they lie beyond the ends of an axis."""
    found = []
    for name in ("xaxis", "yaxis", "zaxis"):
        axis = getattr(ax, name, None)
        if axis is None:
            continue
        low, high = np.sort(axis.get_view_interval())
        slack = 1e-9 * (high - low)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not (ax.axison and low - slack <= tick.get_loc() <= high + slack):
                found += [tick.label1, tick.label2]
        if not ax.axison:
            found += [axis.label, axis.get_offset_text()]
    return found
