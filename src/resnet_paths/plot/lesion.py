"""Pictures of lesion studies."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from ..lesion import RandomDeletions, SingleDeletions
from ._style import BLUE, GREY, ORANGE, axes

_LABELS = {
    "error": "error (share of images)",
    "loss": "cross-entropy (nats)",
    "top5_error": "top-5 error (share of images)",
    "disagreement": "disagreement with the whole network (share of images)",
}


def plot_single_deletions(record: SingleDeletions, ax: Axes | None = None, chance: float | None = None) -> Axes:
    """The metric with each unit deleted, with 95 % intervals; units that change the shape stand out.

    Args:
        record: see :func:`resnet_paths.lesion.single_deletions`.
        ax: draw here.
        chance: draw a line at this level.
    """
    ax = axes(ax, (max(6.0, 0.32 * len(record.names)), 4))
    places = np.arange(len(record.names))
    changes = np.array([kind != "identity" for kind in record.shortcuts])
    groups = ((~changes, BLUE, "o", "identity shortcut"), (changes, ORANGE, "D", "shortcut that changes the shape"))
    for chosen, colour, marker, label in groups:
        if chosen.any():
            errors = np.stack([record.values - record.low, record.high - record.values])[:, chosen].clip(0)
            ax.errorbar(places[chosen], record.values[chosen], errors, fmt=marker, color=colour, capsize=2, label=label)
    ax.axhline(record.whole, color=GREY, linestyle="--", label=f"no deletion ({record.whole:.3g})")
    ax.axhspan(*record.whole_interval, color=GREY, alpha=0.15)
    if chance is not None:
        ax.axhline(chance, color="black", linestyle=":", label=f"chance ({chance:.3g})")
    ax.set_xticks(places, record.names, rotation=90, fontsize=8)
    ax.set_xlabel("deleted unit")
    ax.set_ylabel(_LABELS.get(record.metric, record.metric))
    ax.set_title(f"One unit deleted: {record.data}, {record.per_image.shape[1]} images, 95 % intervals", fontsize=10)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)
    return ax


def plot_random_deletions(record: RandomDeletions, ax: Axes | None = None) -> Axes:
    """The metric against the number of deleted units: median and the range from 10 % to 90 % of the draws."""
    ax = axes(ax, (6, 4))
    low, middle, high = record.quantiles()
    counts = np.concatenate([[0], record.counts])
    low, middle, high = (np.concatenate([[record.whole], line]) for line in (low, middle, high))
    ax.fill_between(counts, low, high, color=BLUE, alpha=0.2, label="10 % to 90 % of the draws")
    ax.plot(counts, middle, color=BLUE, marker="o", markersize=3, label="median")
    ax.set_xlabel("number of deleted units")
    ax.set_ylabel(_LABELS.get(record.metric, record.metric))
    ax.set_title(f"Random units deleted: {record.data}, {record.values.shape[1]} draws", fontsize=10)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)
    return ax
