"""Pages of images that become misclassified when blocks are deleted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Unpack

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties

from ..arguments import Range, checked
from ..arguments.shown import few
from ..lesion import TurnedImages
from ._fitting import letter_size, text_width
from ._frame import Frame, Look
from ._style import ink, literal, literals

_SIZE = (8.0, 6.0)
_LARGEST = 72.0  # side of a picture in points: an inch shows small images well
_LINES = 3.8  # of text below each picture, in line heights, with the space to the next


@checked(page=Range(1), columns=Range(1), rows=Range(1))
def plot_turned_images(
    record: TurnedImages,
    ax: Axes | None = None,
    *,
    page: int = 1,
    rows: int | None = None,
    columns: int | None = None,
    **look: Unpack[Look],
) -> Axes:
    """A page of images that become misclassified without some blocks, with both predictions.

    Below each image: its number; its label, which the full network predicts, with that confidence; and the prediction
    without the blocks, with the confidence of that.

    Args:
        record: see :func:`resnet_paths.lesion.turned_images`.
        ax: draw here.
        page: which page, from 1; :func:`turned_pages` draws all.
        rows: rows of images on a page; by default, as many as have room.
        columns: columns of images; by default, as many as have room for the names of the classes.
        **look: color (of the prediction without the blocks) and title; see :class:`Look`.

    Raises:
        ValueError: there is no such page.

    Example:
        >>> from resnet_paths import load_data, load_model, unroll
        >>> from resnet_paths.lesion import turned_images
        >>> net = unroll(load_model("embedded"))
        >>> turned = turned_images(net, load_data("digits", limit=40), ["layer1.0", "layer1.1"], progress=False)
        >>> len(plot_turned_images(turned).images) == len(turned.indices)
        True
    """
    frame = Frame(ax, _SIZE, **look)
    grid = _Grid.of(frame, record, rows, columns)
    pages = grid.pages(record)
    if page > pages:
        raise ValueError(f"expected a page from 1 to {pages}, got {page}")
    first = (page - 1) * grid.rows * grid.columns
    for position, image in enumerate(range(first, min(first + grid.rows * grid.columns, len(record.indices)))):
        row, column = divmod(position, grid.columns)
        x, y = (column + 0.5) * grid.width / grid.columns, row * grid.height / grid.rows
        picture, (across, down) = record.pictures[image], grid.picture
        frame.ax.imshow(picture, extent=(x - across / 2, x + across / 2, y + down, y), interpolation="nearest")
        _caption(frame, record, image, x, y + down)
    frame.ax.set(xlim=(0, grid.width), ylim=(grid.height, 0), aspect="equal")
    frame.ax.set_axis_off()
    return frame.done(_title(record, page, pages))


@checked(rows=Range(1), columns=Range(1))
def turned_pages(
    record: TurnedImages, *, rows: int | None = None, columns: int | None = None, **look: Unpack[Look]
) -> list[Axes]:
    """All images that become misclassified, one figure per page: ``save(turned_pages(record), "wrong.pdf")``.

    Args:
        record: see :func:`resnet_paths.lesion.turned_images`.
        rows: rows of images on a page; by default, as many as have room.
        columns: columns of images; by default, as many as have room.
        **look: color and title; see :class:`Look`.

    Returns:
        The axes of each page.
    """
    grid = _Grid.of(Frame(None, _SIZE), record, rows, columns)
    return [
        plot_turned_images(record, page=page, rows=grid.rows, columns=grid.columns, **look)
        for page in range(1, grid.pages(record) + 1)
    ]


@dataclass(frozen=True)
class _Grid:
    """A grid of pictures, with lengths in points: the axes have nothing beside them, so their room is known."""

    width: float
    height: float
    rows: int
    columns: int
    picture: tuple[float, float]

    @classmethod
    def of(cls, frame: Frame, record: TurnedImages, rows: int | None, columns: int | None) -> _Grid:
        """As many pictures as have room with their texts below; pictures are at most an inch wide."""
        width, height = frame.room.width + 6 * letter_size(), frame.room.height + 5 * letter_size()
        texts = [text for image in range(len(record.indices)) for text in _texts(record, image)]
        longest = max((text_width(text, _font()) for text in texts), default=width)
        columns = columns or max(1, int(width / max(1.1 * longest, 0.75 * _LARGEST)))
        ratio = record.pictures.shape[1] / record.pictures.shape[2]
        across = min(0.9 * width / columns, _LARGEST)
        below = _LINES * _font().get_size_in_points()
        rows = rows or max(1, int(height / (across * ratio + below)))
        down = max(min(across * ratio, height / rows - below), letter_size())
        return cls(width, height, rows, columns, (down / ratio, down))

    def pages(self, record: TurnedImages) -> int:
        """The number of pages; a single one, which says so, if no image becomes misclassified."""
        return max(1, math.ceil(len(record.indices) / (self.rows * self.columns)))


def _font() -> FontProperties:
    return FontProperties(size="x-small")


def _texts(record: TurnedImages, image: int) -> tuple[str, str]:
    """The lines below a picture: number and label, and the wrong prediction."""
    wrong = record.predictions[image]
    name = record.classes[wrong] if wrong >= 0 else "NaN"
    label = f"{record.classes[record.labels[image]]} ({100 * record.confidence[image]:.0f} %)"
    return label, f"{name} ({100 * record.changed_confidence[image]:.0f} %)"


def _caption(frame: Frame, record: TurnedImages, image: int, x: float, y: float) -> None:
    label, wrong = _texts(record, image)
    line = _font().get_size_in_points() * 1.15
    lines = [(f"image {record.indices[image]}", ink(0.7)), (label, ink()), (wrong, frame.color)]
    for row, (text, color) in enumerate(lines):
        frame.ax.annotate(
            literal(text), (x, y), (0, -line * row - 1), textcoords="offset points", ha="center", va="top",
            fontsize="x-small", color=color, annotation_clip=False,
        )  # fmt: skip


def _title(record: TurnedImages, page: int, pages: int) -> str:
    blocks = few(literals(record.dropped), 3) or "any deletion"
    number = len(record.indices)
    share = f"{number} of {record.full_right} right answers become wrong without {blocks}"
    return share + (f", page {page} of {pages}" if pages > 1 else "")
