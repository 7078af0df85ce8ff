"""Texts that fit: titles, labels and legends wrapped to the space around the axes.

A figure in a column of a paper is
3.25 inches wide, and matplotlib does not wrap lines. Texts are measured here before anything is drawn, so the space for
them is an estimate from the size of the figure and of its fonts.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import cbook, rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

from ._style import literals

_POINTS = 72
_BESIDE = 3.5  # letters beside the axes: the label, the spaces around it and the marks of the ticks
_NUMBERS = 3.6  # letters of tick labels that are numbers
_BELOW = 8.0  # letters above and below: title, tick labels, their label
_BAR = 0.15  # of the width: a colour bar with its numbers


@dataclass(frozen=True)
class Room:
    """The space around axes for their texts, in points."""

    width: float
    height: float


def room_of(ax: Axes, bar: bool = False, names: Sequence[str] = ()) -> Room:
    """The size of axes: of their place in the figure without margins, or as it is where nothing lays the figure out.

    Args:
        ax: the axes.
        bar: whether a colour bar, or a second vertical axis, stands beside them.
        names: tick labels of the vertical axis that are not numbers.
    """
    figure, letter = ax.figure, letter_size()
    width, height = (side / figure.dpi * _POINTS for side in (figure.bbox.width, figure.bbox.height))
    spec = ax.get_subplotspec()
    if figure.get_layout_engine() is None or spec is None:
        box = ax.get_position()
        return Room(box.width * width, box.height * height)
    box, all_of_it = spec.get_position(figure), figure.subplotpars  # type: ignore[arg-type]
    width *= box.width / (all_of_it.right - all_of_it.left)
    height *= box.height / (all_of_it.top - all_of_it.bottom)
    beside = _BESIDE * letter + _tick_width(names) + 1.2 * letter * ax.get_ylabel().count("\n")
    beside += _BAR * width + 3 * letter if bar else 0.0
    return Room(max(width - beside, 4 * letter), max(height - _BELOW * letter, 4 * letter))


def _tick_width(names: Sequence[str]) -> float:
    """The width of the names along the vertical axis, or of numbers."""
    font = FontProperties(size=rcParams["ytick.labelsize"])
    return max([text_width(name, font) for name in literals(names)], default=_NUMBERS * letter_size())


def letter_size() -> float:
    """The size of the user's font in points."""
    return FontProperties(size=rcParams["font.size"]).get_size_in_points()


def text_width(text: str, font: FontProperties) -> float:
    """The maximum width of a text in points: glyphs are snapped to pixels, so it depends on the resolution."""
    math = cbook.is_math_text(text)
    dpi = rcParams["figure.dpi"]
    width = _renderer(dpi).get_text_width_height_descent(text, font, math)[0]  # type: ignore[no-untyped-call]
    return float(1.02 * width / dpi * _POINTS)


def wrapped(text: str, width: float, font: FontProperties) -> str:
    r"""A text in lines of at most `width` points; formulas and longer words stay whole.

    Example:
        >>> font = FontProperties(size=10)
        >>> wrapped("one two three", 1000, font), wrapped("one two three", 5, font)
        ('one two three', 'one\ntwo\nthree')
    """
    measured = text_width(text, font) if text and "\n" not in text else 0
    if measured <= width or cbook.is_math_text(text):
        return text
    for letters in range(max(int(1.2 * len(text) * width / measured), 1), 0, -1):
        lines = textwrap.wrap(text, letters, break_long_words=False, break_on_hyphens=False)
        if max(text_width(line, font) for line in lines) <= width or letters <= max(map(len, text.split())):
            return "\n".join(lines)
    return text


def legend_above(ax: Axes, handles: list[Artist], labels: list[str], room: Room) -> float:
    """A legend above the axes, where it covers no data, in as many columns as fit; returns its height in points.

    A user who sets ``legend.loc`` has the legend there, and the height is 0.
    """
    if rcParams["legend.loc"] != "best":
        ax.legend(handles, labels)
        return 0.0
    font = FontProperties(size=rcParams["legend.fontsize"])
    letter = font.get_size_in_points()
    mark = (rcParams["legend.handlelength"] + rcParams["legend.handletextpad"]) * letter
    gap = rcParams["legend.columnspacing"] * letter
    texts = [wrapped(label, max(room.width - mark, 4 * letter), font) for label in labels]
    widths = [mark + max(text_width(line, font) for line in text.split("\n")) for text in texts]
    columns = next((n for n in range(len(texts), 1, -1) if _total(widths, n, gap) <= room.width), 1)
    middle = ax.get_aspect() != "auto"  # square axes may be narrower than their space
    legend = ax.legend(
        handles, texts, loc="lower center" if middle else "lower left", bbox_to_anchor=(0.5 if middle else 0, 1),
        borderaxespad=0.2, borderpad=0.2, frameon=False, ncols=columns,
    )  # fmt: skip
    dpi = ax.figure.dpi
    return float(legend.get_window_extent(_renderer(dpi)).height) / dpi * _POINTS


def _total(widths: list[float], columns: int, gap: float) -> float:
    """The width of a legend, whose columns are filled one after the other and are as wide as their widest entry."""
    parts = np.array_split(np.array(widths), columns)
    return sum(float(part.max()) for part in parts) + gap * (columns - 1)


def _renderer(dpi: float) -> RendererAgg:
    """Measures texts in pixels, without drawing any."""
    return RendererAgg(1, 1, dpi)  # type: ignore[no-untyped-call]
