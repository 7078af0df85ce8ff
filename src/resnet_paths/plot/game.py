"""Plots of the block game: what each block adds, one after the other, and which blocks act together."""

from __future__ import annotations

from typing import Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..arguments import Range, checked
from ..data.metrics import is_share
from ..lesion import BlockInteractions, BlockValues
from ._axes import metric_label
from ._fitting import letter_size, text_width
from ._frame import Frame, Look, marker, thin
from ._style import ink, literal, next_color
from .values import pair_values, signed


@checked(most=Range(1))
def plot_value_waterfall(
    record: BlockValues, ax: Axes | None = None, *, most: int | None = None, **look: Unpack[Look]
) -> Axes:
    """From the network without blocks to the full network, one bar per block, in order of their values.

    Shapley values add up to what all blocks do together: with levels v (the accuracy where the metric is an error,
    else the metric itself), ``v(all) = v(none) + sum of the values``. The remainder that other values leave is a
    separate bar.

    Args:
        record: see :func:`resnet_paths.lesion.block_values`.
        ax: draw here.
        most: draw as many blocks, and the others as one bar; by default, as many as have room.
        **look: label, color, title and legend; see :class:`Look`.

    Raises:
        ValueError: a value is not finite.

    Example:
        >>> from resnet_paths import block_values, load_data, load_model, unroll
        >>> net, data = unroll(load_model("embedded")), load_data("digits", limit=4)
        >>> values = block_values(net, data, blocks=[0, 9, 18], metric="error", progress=False)
        >>> plot_value_waterfall(values).get_xlabel()
        'accuracy'
    """
    if not np.isfinite([*record.values, record.full, record.empty]).all():
        raise ValueError(f"expected finite values to add up, got NaN or infinities of the {record.metric}")
    frame = Frame(ax, (7, max(3.0, 0.3 * min(len(record.names), 20) + 1.6)), **look)
    rising = record.metric == "error"
    begin, end = (1 - record.empty, 1 - record.full) if rising else (record.empty, record.full)
    sign = 1 if rising else -1
    names, gains = _steps(record, most or max(1, int(frame.room.height / (1.3 * letter_size())) - 3))
    rows = frame.places(["none of them", *names, "all blocks"], down=True)
    levels = begin + sign * np.concatenate([[0.0], np.cumsum(gains)])
    entries = {True: frame.label("helps"), False: frame.detail("harms")}
    for row, gain, before, after in zip(rows[1:-1], gains, levels, levels[1:], strict=False):
        color = frame.color if gain >= 0 else frame.second
        frame.ax.barh(
            row, after - before, left=before, height=0.7, color=color, label=entries.pop(bool(gain >= 0), None)
        )
        frame.ax.plot([after, after], [row - 0.35, row + 1.35], color=ink(0.5), linewidth=thin(0.5))
    frame.ax.plot([begin, begin], [rows[0] - 0.35, rows[0] + 1.35], color=ink(0.5), linewidth=thin(0.5))
    frame.ax.plot([begin, end], rows[[0, -1]], "D", color=ink(), markersize=marker(), linestyle="none")
    frame.ax.xaxis.set_major_locator(MaxNLocator(5))  # the same at every width, otherwise the layout oscillates
    _write_gains(frame, rows[1:-1], levels, sign * gains, record.metric)
    method = {"shapley": "Shapley", "banzhaf": "Banzhaf"}.get(record.method, record.method)
    return frame.done(
        f"{method} values add up; {literal(record.source.name)}",
        x="accuracy" if rising else metric_label(record.metric),
        percent_x=is_share(record.metric),
    )


def _steps(record: BlockValues, most: int) -> tuple[list[str], np.ndarray]:
    """The names and gains of the bars: the largest first, the others together, and the remainder."""
    order = np.argsort(-record.values, kind="stable")
    if len(order) > most:
        order = order[np.argsort(-np.abs(record.values[order]), kind="stable")]
        order, others = order[:most], order[most:]
        order = order[np.argsort(-record.values[order], kind="stable")]
    else:
        others = order[:0]
    names, gains = [record.names[block] for block in order], list(record.values[order])
    if len(others):
        names.append(f"{len(others)} other{'s' if len(others) > 1 else ''}")
        gains.append(float(record.values[others].sum()))
    left = record.empty - record.full - sum(gains)
    if abs(left) > 1e-6 * max(1.0, abs(record.empty - record.full)):
        names.append("acting together")
        gains.append(left)
    return names, np.array(gains)


def _write_gains(frame: Frame, rows: np.ndarray, levels: np.ndarray, changes: np.ndarray, metric: str) -> None:
    """The change of each bar beside it, on the side where the bar ends."""
    for row, before, after, change in zip(rows, levels, levels[1:], changes, strict=False):
        text = f"{100 * change:+.2g}" if is_share(metric) else signed(float(change))
        right = max(before, after)
        frame.ax.annotate(
            text, (right, row), (marker(0.5), 0), textcoords="offset points", va="center", fontsize="x-small",
            color=ink(0.8),
        )  # fmt: skip
    widest = text_width("+00.00", frame.ax.xaxis.label.get_fontproperties()) / frame.room.width
    low, high = float(levels.min()), float(levels.max())
    frame.ax.set_xlim(low - 0.05 * (high - low), high + (0.05 + widest) * (high - low), auto=None)


@checked
def plot_interaction_network(
    record: BlockValues | BlockInteractions, ax: Axes | None = None, **look: Unpack[Look]
) -> Axes:
    """The blocks on a circle, joined by their pairwise interactions: the thicker, the stronger.

    One colour joins blocks that need each other (above zero), another those that can replace each other (below zero).
    Faint dashed lines have a 95 % interval that includes zero; interactions of
    :func:`resnet_paths.lesion.higher_interactions` have no intervals, and all lines are whole.

    Args:
        record: see :func:`resnet_paths.lesion.block_values`, made with ``interactions=True``, or
            :func:`resnet_paths.lesion.higher_interactions`, of which the pairs are drawn.
        ax: draw here.
        **look: label, color (of interactions above zero), title and legend; see :class:`Look`.

    Raises:
        ValueError: the record was made without interactions.

    Example:
        >>> from resnet_paths import block_values, load_data, load_model, unroll
        >>> net, data = unroll(load_model("embedded")), load_data("digits", limit=4)
        >>> values = block_values(net, data, blocks=[0, 9, 18], interactions=True, progress=False)
        >>> len(plot_interaction_network(values).texts)
        3
    """
    pairs, kind = pair_values(record)
    frame = Frame(ax, (5, 5), **look)
    above, below = frame.color, next_color(frame.ax)
    unsure = _includes_zero(record)
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(pairs)) / len(pairs)
    x, y = np.cos(angle), np.sin(angle)
    extent = float(np.abs(pairs).max()) or 1.0
    for one, other in zip(*np.triu_indices(len(pairs), 1), strict=True):
        value, faint = pairs[one, other], bool(unsure[one, other])
        frame.ax.plot(
            x[[one, other]], y[[one, other]], color=above if value >= 0 else below, alpha=0.35 if faint else 0.9,
            linestyle="--" if faint else "-", linewidth=thin(0.3) + thin(3) * abs(value) / extent, zorder=1,
            solid_capstyle="round", gid=f"{one},{other}",
        )  # fmt: skip
    frame.ax.plot(x, y, "o", color=ink(), markersize=marker())
    half = (frame.room.height + 4 * letter_size()) / 2
    longest = max(text_width(literal(name), frame.ax.xaxis.label.get_fontproperties()) for name in record.names)
    edge = 1.1 * half / max(half - longest, 0.2 * half)  # where the names end, in radii
    frame.ax.set(xlim=(-edge, edge), ylim=(-edge, edge))
    for name, turn, across, up in zip(record.names, angle, x, y, strict=True):
        _write_around(frame, name, float(np.degrees(turn)), float(across), float(up))
    _explain_lines(frame, above, below, bool(np.triu(unsure, 1).any()))
    frame.ax.set_aspect("equal")
    frame.ax.set_axis_off()
    return frame.done(
        f"{kind[:1].upper()}{kind[1:]} interactions ({record.metric}), strongest {signed(_strongest(pairs))}"
    )


def _strongest(pairs: np.ndarray) -> float:
    return float(pairs.ravel()[np.abs(pairs).argmax()])


def _includes_zero(record: BlockValues | BlockInteractions) -> np.ndarray:
    """Which interactions have an interval that includes zero; none, where there are no intervals."""
    if isinstance(record, BlockInteractions):
        return np.zeros((len(record.names), len(record.names)), bool)
    low, high = record.interaction_intervals()
    return ~((low > 0) | (high < 0))


def _write_around(frame: Frame, name: str, degrees: float, x: float, y: float) -> None:
    """A name outside the circle, rotated so that it points away from the centre."""
    left = x < -1e-9
    frame.ax.text(
        1.08 * x, 1.08 * y, literal(name), rotation=degrees + 180 if left else degrees, rotation_mode="anchor",
        ha="right" if left else "left", va="center",
    )  # fmt: skip


def _explain_lines(frame: Frame, above: object, below: object, some_unsure: bool) -> None:
    """Entries of the legend."""
    entries = [
        (above, "-", 0.9, frame.label("need each other")),
        (below, "-", 0.9, frame.detail("can replace each other")),
    ]
    if some_unsure:
        entries.append((ink(), "--", 0.35, frame.detail("interval includes zero")))
    for color, style, alpha, text in entries:
        frame.ax.add_line(Line2D([], [], color=color, linestyle=style, alpha=alpha, label=text))  # type: ignore[arg-type]
