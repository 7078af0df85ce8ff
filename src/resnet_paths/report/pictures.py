"""Figures for the page: SVG at two widths, with colours that follow the light or dark theme.

matplotlib draws a figure for one width and one background. The page is read on phones and on dark screens, so each
figure is drawn twice, and its colours become CSS classes: the ink is drawn in a colour that nothing else has, so that
it is found again in the SVG. Text stays text, to be searched and copied; the hash salt is fixed, so that the same
numbers make the same file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from .section import Picture

Draw = Callable[[Axes], object]
_INK = "#010203"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "resnet_paths",
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.framealpha": 0.0,
    "legend.edgecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
# Light and dark; on dark paper the blue, green and grey of Okabe and Ito are too dim.
_COLOURS = {
    _INK: ("ink", "#1f2328", "#e6edf3"),
    "#000000": ("ink", "#1f2328", "#e6edf3"),
    "#666666": ("grey", "#666666", "#9da7b3"),
    "#1f77b4": ("blue", "#0072b2", "#58b4ee"),
    "#0072b2": ("blue", "#0072b2", "#58b4ee"),
    "#009e73": ("green", "#009e73", "#2fcb9b"),
    "#d55e00": ("red", "#d55e00", "#ff7f3f"),
}


def picture(
    draw: Draw, alt: str, *, wide: tuple[float, float] = (8.0, 3.8), narrow: tuple[float, float] = (4.4, 3.9)
) -> Picture:
    """A drawing at two widths, in inches.

    Args:
        draw: draws on the axes that it is given.
        alt: the alternative text.
        wide: size for screens.
        narrow: size for phones.

    Raises:
        ValueError: no alternative text.
    """
    if not alt.strip():
        raise ValueError("expected an alternative text for the figure, got none")
    return Picture(_svg(draw, wide), _svg(draw, narrow), alt)


def _svg(draw: Draw, size: tuple[float, float]) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        ax = figure.subplots()
        draw(ax)
        ax.set_title("")  # the page has its own
        _thin(ax, size)
        legend_above(ax, size)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return themed(file.getvalue())


def legend_above(ax: Axes, size: tuple[float, float], letter: float = 0.068, mark: float = 0.65) -> None:
    """Put the legend above the axes, where it hides no point, in as many columns as `size` inches hold."""
    handles, labels = ax.get_legend_handles_labels()
    if ax.get_legend() is None or not labels:
        return
    columns = int((size[0] - 0.8) / (mark + letter * max(map(len, labels))))
    ax.legend(
        handles, labels, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, frameon=False,
        ncols=min(max(columns, 1), len(labels)),
    )  # fmt: skip


def _thin(ax: Axes, size: tuple[float, float], space: float = 0.14) -> None:
    """Leave out overlapping tick labels: each needs `space` inches."""
    for axis, inches in ((ax.xaxis, size[0] - 1.0), (ax.yaxis, size[1] - 0.8)):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        step = -(-len(labels) // max(1, int(inches / space)))
        if step > 1 and any(labels):
            ticks = list(axis.get_ticklocs())
            axis.set_ticks(ticks[::step], labels[::step])


def themed(svg: str) -> str:
    """An SVG with named colours, each with a light and a dark value.

    Example:
        >>> "var(--blue)" in themed('<svg><path style="stroke: #0072B2"/></svg>')
        True
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    for colour, (name, _, _) in _COLOURS.items():
        svg = re.sub(re.escape(colour), f"var(--{name})", svg, flags=re.I)
    light, dark = (
        ";".join(f"--{name}:{values[place]}" for name, *values in dict.fromkeys(_COLOURS.values())) for place in (0, 1)
    )
    style = (
        f"<style>:root{{{light}}}text{{fill:var(--ink)}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    )
    head = svg.index(">") + 1
    return svg[:head] + style + svg[head:]
