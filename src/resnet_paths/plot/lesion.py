"""Plots of lesion studies."""

from __future__ import annotations

from typing import Unpack

import numpy as np
from matplotlib.axes import Axes

from ..arguments import checked
from ..data.metrics import is_share
from ..lesion import RandomDeletions, SingleDeletions
from ._axes import metric_label, metric_text
from ._frame import Frame, Look, marker
from ._style import bars, ink, literal

_BESIDE = 0.18  # of the distance between blocks, by which the points of a further record stand to the right


@checked
def plot_single_deletions(
    record: SingleDeletions, ax: Axes | None = None, chance: float | None = None, **look: Unpack[Look]
) -> Axes:
    """The metric with each block deleted, with 95 % intervals; blocks that change the shape are highlighted.

    Args:
        record: see :func:`resnet_paths.lesion.single_deletions`.
        ax: draw here, perhaps beside another record; its points then stand a little to the right.
        chance: draw a line at this level.
        **look: label, color, title and legend; see :class:`Look`.

    Example:
        >>> from resnet_paths import load_data, load_model, single_deletions, unroll
        >>> net, data = unroll(load_model("embedded")), load_data("digits", limit=4)
        >>> ax = plot_single_deletions(single_deletions(net, data, progress=False), label="before")
        >>> ax = plot_single_deletions(single_deletions(net, data, metric="loss", progress=False), ax, label="after")
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['before', 'after']
    """
    frame = Frame(ax, (max(6.0, 0.32 * len(record.names)), 4), **look)
    before = len(frame.ax.get_legend_handles_labels()[1]) if frame.is_labelled else 0
    places = frame.places(record.names) + _BESIDE * before
    changes = np.array([kind not in ("identity", "none") for kind in record.shortcuts])
    plain = "layer" if set(record.shortcuts) == {"none"} else "identity shortcut"
    groups = [(~changes, "o", plain), (changes, "D", "shortcut that changes the shape")]
    groups = [group for group in groups if group[0].any()]
    for number, (which, shape, text) in enumerate(groups):
        label, color = (frame.label(text), frame.color) if number == 0 else (frame.detail(text), frame.second)
        errors = bars(record.values, record.low, record.high)[:, which]
        frame.ax.errorbar(
            places[which], record.values[which], errors, fmt=shape, color=color, markersize=marker(), label=label
        )
    full = frame.color if frame.is_one_of_several else ink(0.7)
    name = frame.detail(f"no deletion ({metric_text(record.metric, record.full)})")
    frame.ax.axhline(record.full, color=full, linestyle="--", label=name)
    if np.isfinite(record.full_interval).all():  # otherwise the images carry no information on it
        name = frame.detail("95 % interval, no deletion")
        frame.ax.axhspan(*record.full_interval, color=full, alpha=0.15, linewidth=0, label=name)
    if chance is not None:
        frame.level(chance, f"chance ({metric_text(record.metric, chance)})")
    frame.from_zero()
    what = {"shortcut": "block without its shortcut"}.get(record.deleted, "deleted block")
    count = f"{record.per_image.shape[1]} {record.source.nouns}"
    return frame.done(
        f"One at a time: {literal(record.source.name)}, {count}, 95 % intervals",
        x="deleted layer" if set(record.shortcuts) == {"none"} else what,
        y=metric_label(record.metric),
        percent=is_share(record.metric),
    )


@checked
def plot_random_deletions(
    record: RandomDeletions, ax: Axes | None = None, chance: float | None = None, **look: Unpack[Look]
) -> Axes:
    """The metric against the number of deleted blocks: median and the range from 10 % to 90 % of the draws.

    Args:
        record: see :func:`resnet_paths.lesion.random_deletions`.
        ax: draw here.
        chance: draw a line at this level.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (6, 4), **look)
    low, middle, high = record.quantiles()
    counts = np.concatenate([[0], record.counts])
    low, middle, high = (np.concatenate([[record.full], line]) for line in (low, middle, high))
    frame.ax.fill_between(
        counts, low, high, color=frame.color, alpha=0.2, linewidth=0, label=frame.detail("10 % to 90 % of the draws")
    )
    ends = record.median_interval() if record.per_image.shape[1] > 1 else (middle[1:], middle[1:])
    frame.ax.plot(counts, middle, color=frame.color, marker="o", markersize=marker(), label=frame.label("median"))
    frame.ax.errorbar(
        record.counts, middle[1:], bars(middle[1:], *ends), fmt="none", color=frame.color,
        label=frame.detail("95 % interval of the median"),
    )  # fmt: skip
    if chance is not None:
        frame.level(chance, f"chance ({metric_text(record.metric, chance)})")
    frame.from_zero()
    return frame.done(
        f"Random blocks deleted: {literal(record.source.name)}, {record.values.shape[1]} draws",
        x="number of deleted blocks",
        y=metric_label(record.metric),
        percent=is_share(record.metric),
    )
