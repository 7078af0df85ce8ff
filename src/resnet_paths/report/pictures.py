"""Figures for the page: SVG with the values in it, and with colours that follow the light or dark theme.

matplotlib draws for one background. The page is read on dark screens too, so colours become CSS variables: the ink is
drawn in a colour that nothing else has, so that it can be identified in the SVG. Text stays text, to be searched and
copied; the hash salt is fixed, so that the same numbers make the same file. A figure is drawn for half of the page's
width, which is that of a phone: two stand beside each other on a screen.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from .section import Picture, Table

Draw = Callable[[Axes], object]
_INK = "#010203"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "resnet_paths",
    "font.sans-serif": ["DejaVu Sans"],  # lays the figure out; the page has its own letters, which are narrower
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
    "axes.labelsize": 9.0,
    "legend.framealpha": 0.0,
    "legend.edgecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
# What the variables are in light and in dark is in style.css.
_COLOURS = {
    _INK: "ink",
    "#000000": "ink",
    "#666666": "grey",
    "#1f77b4": "blue",
    "#0072b2": "blue",
    "#009e73": "green",
    "#d55e00": "red",
    "#e69f00": "orange",
}


@dataclass(frozen=True)
class Mark:
    """A value of a figure, shown when one points at it.

    Attributes:
        x: where it is drawn, in the coordinates of the axes.
        y: the other coordinate.
        text: what is shown.
        cell: the cell of a table that holds the value: table, row and column.
        value: the value, in full.
    """

    x: float
    y: float
    text: str
    cell: tuple[str, int, str]
    value: float


def marks(
    table: Table, text: Callable[[Mapping[str, Any]], str], y: str, x: str | None = None, value: str | None = None
) -> list[Mark]:
    """One mark for each row of a table that has a finite value.

    Args:
        table: holds what is drawn.
        text: of a row.
        y: column of the vertical coordinate.
        x: column of the horizontal coordinate; None: the number of the row.
        value: column of the value; None: the vertical coordinate.

    Example:
        >>> import pandas as pd
        >>> table = Table.of("t", "T", pd.DataFrame({"name": ["a", "b"], "error": [0.25, float("nan")]}))
        >>> marks(table, lambda row: f"{row['name']}: {row['error']}", y="error")
        [Mark(x=0.0, y=0.25, text='a: 0.25', cell=('t', 0, 'error'), value=0.25)]
    """
    value = value or y
    marked = []
    for index, row in enumerate(table.rows()):
        if np.isfinite(row[value]):
            across = float(index if x is None else row[x])
            marked.append(Mark(across, float(row[y]), text(row), (table.name, index, value), float(row[value])))
    return marked


def picture(draw: Draw, alt: str, values: Sequence[Mark] = (), *, size: tuple[float, float] = (4.4, 3.1)) -> Picture:
    """A drawing.

    Args:
        draw: draws on the axes that it is given.
        alt: the alternative text.
        values: what is shown when one points at the figure, or goes through it with the arrow keys.
        size: in inches.

    Raises:
        ValueError: no alternative text.
    """
    if not alt.strip():
        raise ValueError("expected an alternative text for the figure, got none")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, dpi=72, layout="constrained")  # as SVG counts, so that marks lie on the drawing
        FigureCanvasSVG(figure)
        ax = figure.subplots()
        draw(ax)
        ax.set_title("")  # the page has its own
        _thin(ax, size)
        legend_above(ax, size)
        engine = figure.get_layout_engine()
        assert engine is not None
        engine.execute(figure)
        figure.set_layout_engine("none")  # with one, savefig draws the whole figure once more, and throws it away
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Picture(themed(file.getvalue()).replace("</svg>", f"{_written(ax, values)}</svg>"), alt)


def legend_above(ax: Axes, size: tuple[float, float], letter: float = 0.068, mark: float = 0.65) -> None:
    """Put the legend above the axes, where it hides no point, in as many columns as `size` inches hold.

    Labels longer than a column of the whole width, such as paths of files, take several lines.
    """
    handles, labels = ax.get_legend_handles_labels()
    if ax.get_legend() is None or not labels:
        return
    most = max(1, int((size[0] - 0.8 - mark) / letter))
    labels = [textwrap.fill(label, most, break_on_hyphens=False) for label in labels]
    longest = max(len(line) for label in labels for line in label.splitlines())
    columns = int((size[0] - 0.8) / (mark + letter * longest))
    ax.legend(
        handles, labels, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, frameon=False,
        ncols=min(max(columns, 1), len(labels)),
    )  # fmt: skip


def _thin(ax: Axes, size: tuple[float, float], line: float = 0.14, letter: float = 0.07) -> None:
    """Leave out overlapping tick labels: each needs the inches of a `line`, or of its letters if it is not rotated."""
    for axis, inches in ((ax.xaxis, size[0] - 1.0), (ax.yaxis, size[1] - 0.8)):
        labels = axis.get_ticklabels()
        upright = [len(label.get_text()) for label in labels if not label.get_rotation()]
        numbered = axis is ax.xaxis and 2 * len(upright) > len(labels)  # a few rotated names among numbers fit anyway
        space = 0.04 + letter * max(upright) if numbered else line
        step = -(-len(labels) // max(1, int(inches / space)))
        if step > 1 and any(label.get_text() for label in labels):
            texts, rotations = [label.get_text() for label in labels], [label.get_rotation() for label in labels]
            axis.set_ticks(list(axis.get_ticklocs())[::step], texts[::step])
            for label, rotation in zip(axis.get_ticklabels(), rotations[::step], strict=True):
                label.set_rotation(rotation)


def _written(ax: Axes, values: Sequence[Mark]) -> str:
    """The marks as circles that are visible only on hover."""
    figure = ax.get_figure(root=True)
    if not values or figure is None:
        return ""
    height = figure.get_figheight() * figure.dpi
    (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    values = [mark for mark in values if left <= mark.x <= right and bottom <= mark.y <= top]  # others are not drawn
    places = ax.transData.transform([(mark.x, mark.y) for mark in values])
    circles = "".join(
        f'<circle class="mark" cx="{x:.1f}" cy="{height - y:.1f}" r="4" data-tip="{escape(mark.text)}" '
        f'data-cell="{escape(" ".join(map(str, mark.cell)))}" data-value="{mark.value!r}"/>'
        for (x, y), mark in zip(places, values, strict=True)
    )
    return f'<g class="marks">{circles}</g>'


def themed(svg: str) -> str:
    """An SVG for a page that defines the named colours, without what only a standalone file needs.

    Identifiers that nothing refers to go; the others are made distinct by the page, which has several figures.

    Example:
        >>> themed('<?xml?><svg id="a"><path id="b" style="stroke: #0072B2"/><use href="#b"/></svg>')
        '<svg><path id="b" style="stroke: var(--blue)"/><use href="#b"/></svg>'
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*">\s*</g>', "", svg)
    known = {**{colour: f"var(--{name})" for colour, name in _COLOURS.items()}, **_diverging()}
    svg = re.sub(r"#[0-9a-fA-F]{6}\b", lambda found: known.get(found[0].lower(), found[0]), svg)
    svg = re.sub(r"'DejaVu Sans'(?:, [^;\"]*)?", "system-ui, sans-serif", svg)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
    names = {name for pair in used for name in pair}
    return re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in names else "", svg)


def distinct(svg: str, prefix: str) -> str:
    """An SVG whose identifiers differ from those of the page's other figures.

    Example:
        >>> distinct('<path id="b"/><use href="#b"/><g clip-path="url(#b)"/>', "f1")
        '<path id="f1-b"/><use href="#f1-b"/><g clip-path="url(#f1-b)"/>'
    """
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)


@cache
def _diverging() -> dict[str, str]:
    """The colours from below to above zero, mixed by the page from its own: zero is neutral in light and in dark."""
    scale = colormaps["PuOr_r"]
    mixed = {}
    for step in range(scale.N):
        share = 2 * step / (scale.N - 1) - 1
        side = "above" if share > 0 else "below"
        mixed[to_hex(scale(step))] = f"color-mix(in srgb, var(--{side}) {100 * abs(share):.0f}%, var(--zero))"
    return mixed
