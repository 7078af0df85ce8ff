"""Plots of the values of blocks, and of what each adds to the logits."""

from __future__ import annotations

from typing import Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties

from ..arguments import checked
from ..lesion import BlockInteractions, BlockValues
from ..paths import BlockContributions
from ._axes import metric_label
from ._fitting import text_width
from ._frame import Frame, Look, marker, thin
from ._style import ink, literal, signed_shades


@checked
def plot_block_values(record: BlockValues, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """The value of each block with its standard error; blocks that raise the metric are highlighted.

    Args:
        record: see :func:`resnet_paths.lesion.block_values`.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (max(6.0, 0.32 * len(record.names)), 4), **look)
    places = frame.places(record.names)
    groups = [
        (record.values >= 0, "o", f"lowers the {record.metric}"),
        (record.values < 0, "v", f"raises the {record.metric}"),
    ]
    for number, (which, shape, text) in enumerate(group for group in groups if group[0].any()):
        label, color = (frame.label(text), frame.color) if number == 0 else (frame.detail(text), frame.second)
        errors = record.standard_errors[which]
        frame.ax.errorbar(
            places[which], record.values[which], errors, fmt=shape, color=color, markersize=marker(), label=label
        )
    frame.zero()
    title = f"{literal(record.source.name)}, bars: standard error"
    return frame.done(title, x="block", y=f"{record.method.capitalize()} value: fall of {metric_label(record.metric)}")


def pair_values(record: BlockValues | BlockInteractions) -> tuple[np.ndarray, str]:
    """The interactions of pairs, (n, n), and the name of their kind.

    Raises:
        ValueError: the record was made without interactions.
    """
    if isinstance(record, BlockInteractions):
        return record.matrix(), record.index
    if record.interactions is None:
        raise ValueError("expected interactions, got none; pass interactions=True to block_values")
    return record.interactions, record.method


@checked
def plot_interactions(record: BlockValues | BlockInteractions, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """Pairwise interactions: above zero two blocks need each other, below zero they can replace each other.

    Args:
        record: see :func:`resnet_paths.lesion.block_values`, made with ``interactions=True``, or
            :func:`resnet_paths.lesion.higher_interactions`, of which the pairs are drawn.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.

    Raises:
        ValueError: the record was made without interactions.
    """
    pairs, kind = pair_values(record)
    frame = Frame(ax, (6, 5), **look)
    values = pairs.copy()
    np.fill_diagonal(values, np.nan)
    extent = float(np.nanmax(np.abs(values))) if len(values) > 1 else 1.0
    places, colors = frame.places(record.names), signed_shades(look.get("color"))
    frame.places(record.names, down=True)
    cells = frame.ax.pcolormesh(places, places, values, cmap=colors, vmin=-(extent or 1.0), vmax=extent or 1.0)
    _write_numbers(frame, values, extent)
    frame.bar(cells, f"interaction ({record.metric})", shrink=0.85)
    return frame.done(f"{kind[:1].upper()}{kind[1:]} interactions")


def _write_numbers(frame: Frame, values: np.ndarray, extent: float) -> None:
    """The value of each cell in it, if the cells are wide enough for all."""
    texts = {
        (row, column): signed(float(values[row, column]))
        for row, column in zip(*np.nonzero(np.isfinite(values)), strict=True)
    }
    font = FontProperties(size="x-small")
    widest = max((text_width(text, font) for text in texts.values()), default=0.0)
    if len(values) * widest > 0.75 * frame.room.width:  # a colour bar takes the rest
        return
    for (row, column), text in texts.items():
        ink_in_it = "white" if abs(values[row, column]) > 0.7 * extent else "#111111"  # both ends of the scale are dark
        frame.ax.text(column, row, text, fontproperties=font, ha="center", va="center", color=ink_in_it)


def signed(value: float) -> str:
    r"""Two digits, with a sign, and no zero before the point.

    Example:
        >>> signed(-0.0312), signed(1.234)
        ('-.031', '+1.2')
    """
    return f"{value:+.2g}".replace("0.", ".", 1) if 1e-3 <= abs(value) < 1 else f"{value:+.2g}"


@checked
def plot_mean_contributions(record: BlockContributions, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """Direct contributions of stem, constants and each block to the target's logit: mean over examples, 5 % to 95 %.

    Args:
        record: see :func:`resnet_paths.paths.block_contributions`, made with targets.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.

    Raises:
        ValueError: the record was made without targets.
    """
    if record.of_target is None:
        raise ValueError("expected contributions to a target, got none; pass target to block_contributions")
    frame = Frame(ax, (max(6.0, 0.32 * len(record.sources)), 4), **look)
    values = record.of_target.double().cpu().numpy()
    places, mean = frame.places(record.sources), values.mean(1)
    low, high = np.quantile(values, (0.05, 0.95), axis=1)
    colors = [frame.color if value >= 0 else frame.second for value in mean]
    name, alpha = frame.label("mean over examples"), 0.5 if frame.is_one_of_several else None
    frame.ax.bar(places, mean, color=colors, alpha=alpha, width=0.8, label=name)
    text = frame.detail("5 % to 95 % of the examples") or ""
    frame.ax.vlines(places, low, high, color=ink(0.7), linewidth=thin(), label=text)
    frame.zero()
    return frame.done("Direct contribution to the target's logit", x="source", y="direct contribution (logit)")
