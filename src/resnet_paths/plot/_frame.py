"""The frame of every plot: its axes and colour, and in the end its texts, all from the user's style.

Each plot function takes the keyword arguments of :class:`Look` and hands them to one :class:`Frame`. What a plot draws
is left to it; what all plots share is decided here, so that several records can be drawn on the same axes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, TypedDict
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib import rcParams, rcParamsDefault
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.typing import ColorType

from ..arguments import ELSEWHERE
from ._axes import block_axis, names_down, percent_axis
from ._fitting import Room, legend_above, letter_size, room_of, wrapped
from ._style import ink, known_color, next_color


class Look(TypedDict, total=False):
    """Keyword arguments of every plot function. All else about the look is the user's: ``rcParams`` and style sheets.

    Attributes:
        label: name of the record in the legend, where several are drawn on the same axes. The record then has one
            colour, and nothing else drawn for it has an entry. In pictures of cells: the text beside the colour bar.
        color: colour of the record; by default the next of the axes' cycle (``axes.prop_cycle``). In pictures of cells:
            a colour, or the name of a colour scale.
        title: by default what is drawn, unless the axes have a title; None: no title.
        legend: whether to draw a legend (in pictures of cells: a colour bar); by default, where there is more than one
            entry. It is above the axes, or where ``legend.loc`` of your style puts it.
    """

    label: str | None
    color: Annotated[Any, ELSEWHERE]
    title: str | None
    legend: bool | None


_DEFAULT = "what is drawn"


@dataclass
class _Drawn:
    """What plots of this library have drawn on some axes."""

    names: dict[bool, list[str]] = field(default_factory=lambda: {False: [], True: []})  # across and down
    entries: list[str] = field(default_factory=list)  # of the legend, in order


_NARROW = 2.0  # inches of a panel, in which axis labels and a legend of 7 points no longer fit
_DRAWN: WeakKeyDictionary[Axes, _Drawn] = WeakKeyDictionary()


class PlotAxes(Axes):
    """Axes that a notebook shows as a picture, although their figure is not one of pyplot's."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.figure.savefig(file, format="png")  # type: ignore[union-attr]
        return file.getvalue()


def new_axes(size: tuple[float, float], rows: int = 1, columns: int = 1, kind: type[Axes] = PlotAxes) -> list[Axes]:
    """Axes of a new figure without a window, of the user's ``figure.figsize`` if they set one.

    Where several panels would be too narrow in it, they stand one below the other, each as high as the user's figure.
    """
    users = list(rcParams["figure.figsize"])
    if users != list(rcParamsDefault["figure.figsize"]):
        if columns > 1 and users[0] / columns < _NARROW:
            rows, columns = rows * columns, 1
            users[1] *= rows
        size = (users[0], users[1])
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, subplot_kw={"axes_class": kind})
    axes: list[Axes] = grid.ravel().tolist()
    return axes


def given_axes(ax: Sequence[Axes] | None, count: int, size: tuple[float, float], rows: int = 1) -> list[Axes]:
    """The axes given, or as many new ones.

    Raises:
        ValueError: another number of axes.
    """
    if ax is None:
        return new_axes(size, rows, count // rows)
    axes = list(np.asarray(ax, dtype=object).ravel())
    if len(axes) != count:
        words = {2: "two", 3: "three", 4: "four"}.get(count, str(count))
        raise ValueError(f"expected {words} axes, got {len(axes)}; pass ax=figure.subplots(1, {count})")
    return axes


def figure_title(ax: Axes, text: str) -> None:
    """A title above all axes of a figure, in lines that fit its width."""
    figure = ax.figure
    font = FontProperties(size=rcParams["figure.titlesize"], weight=rcParams["figure.titleweight"])
    figure.suptitle(wrapped(text, 0.95 * figure.bbox.width / figure.dpi * 72, font))


def marker(share: float = 0.7) -> float:
    """A share of the size of the user's markers, in points."""
    return float(rcParams["lines.markersize"]) * share


def thin(share: float = 0.6) -> float:
    """A share of the width of the user's lines, in points."""
    return float(rcParams["lines.linewidth"]) * share


class Frame:
    """The axes of one plot, its colours and the names of what it draws; :meth:`done` adds the texts."""

    def __init__(
        self,
        ax: Axes | None,
        size: tuple[float, float] = (8, 4),
        *,
        label: str | None = None,
        color: ColorType | None = None,
        title: str | None = _DEFAULT,
        legend: bool | None = None,
        kind: type[Axes] = PlotAxes,
    ) -> None:
        """See :class:`Look`; `size` in inches is that of a new figure."""
        self.ax = new_axes(size, kind=kind)[0] if ax is None else ax
        self._label, self._color, self._title, self._legend = label, color, title, legend
        self._drawn = _DRAWN.setdefault(self.ax, _Drawn())
        self._has_bar = False

    @cached_property
    def color(self) -> ColorType:
        """The colour of the record."""
        return next_color(self.ax) if self._color is None else known_color(self._color)

    @cached_property
    def second(self) -> ColorType:
        """A second colour within the record, unless colours distinguish records."""
        return self.color if self.is_one_of_several else next_color(self.ax)

    @cached_property
    def third(self) -> ColorType:
        """As `second`, for a third series."""
        return self.color if self.is_one_of_several else next_color(self.ax)

    @property
    def is_one_of_several(self) -> bool:
        """Whether colours and entries of the legend distinguish records."""
        return self._label is not None or self._color is not None

    @property
    def is_labelled(self) -> bool:
        """Whether the record has its own name in the legend."""
        return self._label is not None

    def label(self, text: str | None = None) -> str | None:
        """The entry of the record in the legend: its own name, otherwise what is drawn."""
        return self._entry(text if self._label is None else self._label)

    def series(self, text: str) -> str | None:
        """The entry of one series of several."""
        return self._entry(text if self._label is None else f"{self._label}: {text}")

    def detail(self, text: str) -> str | None:
        """The entry of anything else drawn for the record: none, where the legend names records."""
        return self._entry(text) if self._label is None else None

    def _entry(self, text: str | None) -> str | None:
        if text is not None:
            self._drawn.entries.append(text)
        return text

    @property
    def room(self) -> Room:
        """The room for texts, in points."""
        return room_of(self.ax, self._has_bar, self._drawn.names[True])

    def level(self, height: float, text: str, style: str = ":") -> None:
        """A horizontal line that belongs to no record, such as chance."""
        self.ax.axhline(height, color=ink(), linestyle=style, label=self._entry(text), zorder=1)

    def zero(self) -> None:
        """A thin line at zero."""
        self.ax.axhline(0, color=ink(0.6), linewidth=rcParams["axes.linewidth"], zorder=1)

    def from_zero(self) -> None:
        """Let the vertical axis begin at zero, however much is drawn on it later."""
        self.ax.set_ylim(bottom=0, auto=None)

    def places(self, names: Sequence[str], *, down: bool = False) -> np.ndarray:
        """Places along the axis for names of blocks, which become its tick labels.

        Args:
            names: perhaps others than those of a record that was drawn before; these have further places.
            down: along the vertical axis, the first on top.
        """
        known = self._drawn.names[down]
        new = [name for name in names if name not in known]
        known += new
        if new:
            (names_down if down else block_axis)(self.ax, known)
        at = {name: place for place, name in enumerate(known)}
        return np.array([at[name] for name in names], dtype=float)

    def bar(self, cells: ScalarMappable, text: str, **options: Any) -> None:
        """A colour bar, unless there is to be no legend."""
        if self._legend is False:
            return
        self._has_bar = True
        bar = self.ax.figure.colorbar(cells, ax=self.ax, **options)
        height = self.room.height + 4 * letter_size()
        bar.set_label(wrapped(self._label or text, height, bar.ax.yaxis.label.get_fontproperties()))

    def done(
        self,
        title: str = "",
        *,
        x: str | None = None,
        y: str | None = None,
        percent: bool = False,
        percent_x: bool = False,
        beside: Sequence[Axes] = (),
    ) -> Axes:
        """Name the axes, draw legend and title, and return the axes.

        Args:
            title: what is drawn.
            x: name of the horizontal axis.
            y: name of the vertical axis.
            percent: whether that axis is of shares.
            percent_x: whether the horizontal axis is.
            beside: other axes at the same place, with further entries of the legend.
        """
        self._has_bar |= bool(beside)
        if percent:
            percent_axis(self.ax.yaxis)
        if percent_x:
            percent_axis(self.ax.xaxis)
        if y is not None:
            self.ax.set_ylabel(wrapped(y, self.room.height, self.ax.yaxis.label.get_fontproperties()))
        room = self.room
        if x is not None:
            self.ax.set_xlabel(wrapped(x, room.width, self.ax.xaxis.label.get_fontproperties()))
        height = self._draw_legend(room, beside)
        named = self.ax.get_title() if self._title == _DEFAULT else ""
        text = named or (title if self._title == _DEFAULT else self._title)
        if text:
            font = FontProperties(size=rcParams["axes.titlesize"], weight=rcParams["axes.titleweight"])
            pad = rcParams["axes.titlepad"] + height
            self.ax.set_title(wrapped(text, room.width, font), pad=pad)
        return self.ax

    def _draw_legend(self, room: Room, beside: Sequence[Axes]) -> float:
        entries: dict[str, Artist] = {}
        for ax in (self.ax, *beside):
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
        order = {label: place for place, label in enumerate(dict.fromkeys(self._drawn.entries))}
        entries = {label: entries[label] for label in sorted(entries, key=lambda label: order.get(label, -1))}
        wanted = len(entries) > 1 if self._legend is None else self._legend
        if not wanted or not entries:
            return 0.0
        return legend_above(self.ax, list(entries.values()), list(entries), room)
