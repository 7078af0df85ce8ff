"""Plots of lesion studies."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from ..arguments import checked
from ..lesion import RandomDeletions, SingleDeletions
from ._axes import block_axis, metric_axis, metric_text
from ._style import BLUE, GREY, ORANGE, axes, bars, literal


@checked
def plot_single_deletions(record: SingleDeletions, ax: Axes | None = None, chance: float | None = None) -> Axes:
    """The metric with each block deleted, with 95 % intervals; blocks that change the shape are highlighted.

    Args:
        record: see :func:`resnet_paths.lesion.single_deletions`.
        ax: draw here.
        chance: draw a line at this level.
    """
    ax = axes(ax, (max(6.0, 0.32 * len(record.names)), 4))
    places = np.arange(len(record.names))
    changes = np.array([kind not in ("identity", "none") for kind in record.shortcuts])
    plain = "layer" if set(record.shortcuts) == {"none"} else "identity shortcut"
    groups = ((~changes, BLUE, "o", plain), (changes, ORANGE, "D", "shortcut that changes the shape"))
    for chosen, color, marker, label in groups:
        if chosen.any():
            errors = bars(record.values, record.low, record.high)[:, chosen]
            ax.errorbar(places[chosen], record.values[chosen], errors, fmt=marker, color=color, capsize=2, label=label)
    ax.axhline(
        record.full, color=GREY, linestyle="--", label=f"no deletion ({metric_text(record.metric, record.full)})"
    )
    if np.isfinite(record.full_interval).all():  # else the images do not tell
        ax.axhspan(*record.full_interval, color=GREY, alpha=0.2, linewidth=0, label="95 % interval, no deletion")
    if chance is not None:
        ax.axhline(chance, color="black", linestyle=":", label=f"chance ({metric_text(record.metric, chance)})")
    block_axis(ax, record.names)
    what = {"shortcut": "block without its shortcut"}.get(record.deleted, "deleted block")
    ax.set_xlabel("deleted layer" if set(record.shortcuts) == {"none"} else what)
    metric_axis(ax, record.metric)
    ax.set_title(
        f"One at a time: {literal(record.source.name)}, {record.per_image.shape[1]} images, 95 % intervals",
        fontsize="medium",
    )
    ax.set_ylim(bottom=0)
    ax.legend(fontsize="small")
    return ax


@checked
def plot_random_deletions(record: RandomDeletions, ax: Axes | None = None, chance: float | None = None) -> Axes:
    """The metric against the number of deleted blocks: median and the range from 10 % to 90 % of the draws.

    Args:
        record: see :func:`resnet_paths.lesion.random_deletions`.
        ax: draw here.
        chance: draw a line at this level.
    """
    ax = axes(ax, (6, 4))
    low, middle, high = record.quantiles()
    counts = np.concatenate([[0], record.counts])
    low, middle, high = (np.concatenate([[record.full], line]) for line in (low, middle, high))
    ax.fill_between(counts, low, high, color=BLUE, alpha=0.2, label="10 % to 90 % of the draws")
    ends = record.median_interval() if record.per_image.shape[1] > 1 else (middle[1:], middle[1:])
    errors = bars(middle[1:], *ends)
    ax.plot(counts, middle, color=BLUE, marker="o", markersize=3, label="median")
    ax.errorbar(
        record.counts, middle[1:], errors, fmt="none", color=BLUE, capsize=2, label="95 % interval of the median"
    )
    if chance is not None:
        ax.axhline(chance, color="black", linestyle=":", label=f"chance ({metric_text(record.metric, chance)})")
    ax.set_xlabel("number of deleted blocks")
    metric_axis(ax, record.metric)
    ax.set_title(
        f"Random blocks deleted: {literal(record.source.name)}, {record.values.shape[1]} draws", fontsize="medium"
    )
    ax.set_ylim(bottom=0)
    ax.legend(fontsize="small")
    return ax
