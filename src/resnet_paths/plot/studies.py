"""Plots of reordered networks, and of deletions by stage."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from ..arguments import checked
from ..lesion import Reorderings, StageDeletions
from ._axes import metric_axis, metric_text
from ._style import BLUE, GREEN, GREY, ORANGE, RED, axes, bars, literal

_COLOURS = (BLUE, ORANGE, GREEN, RED, GREY)


@checked
def plot_reorderings(record: Reorderings, ax: Axes | None = None, chance: float | None = None) -> Axes:
    """The metric against Kendall's tau with the original order: each order, and the median per number of swaps.

    As figure 5b of Veit et al. (2016): the original order, tau of one, is on the left.

    Args:
        record: see :func:`resnet_paths.lesion.reorderings`.
        ax: draw here.
        chance: draw a line at this level.
    """
    ax = axes(ax, (6, 4))
    table = record.by_swaps()
    ax.plot(record.tau, record.values, ".", color=GREY, alpha=0.6, markersize=4, label="one order")
    errors = bars(*(table[name].to_numpy() for name in ("median", "low", "high")))
    label = "median per number of swaps, 95 % interval"
    ax.errorbar(table["tau"], table["median"], errors, fmt="o-", color=BLUE, capsize=2, label=label)
    ax.plot(1, record.full, "D", color=ORANGE, label=f"original order ({metric_text(record.metric, record.full)})")
    if chance is not None:
        ax.axhline(chance, color="black", linestyle=":", label=f"chance ({metric_text(record.metric, chance)})")
    ax.invert_xaxis()
    ax.set_xlabel("Kendall's tau with the original order (falls to the right)")
    metric_axis(ax, record.metric)
    ax.set_title(f"Reordered blocks: {literal(record.source.name)}, {len(record.tau)} orders", fontsize="medium")
    ax.legend(fontsize="small")
    return ax


@checked
def plot_stage_deletions(record: StageDeletions, ax: Axes | None = None) -> Axes:
    """The metric against the number of deleted blocks, for each stage: median, and 10 % to 90 % of the draws.

    Args:
        record: see :func:`resnet_paths.lesion.stage_deletions`.
        ax: draw here.
    """
    ax = axes(ax, (6, 4))
    for stage, result in enumerate(record.results):
        color = _COLOURS[stage % len(_COLOURS)]
        low, middle, high = (np.concatenate([[result.full], line]) for line in result.quantiles())
        counts = np.concatenate([[0], result.counts])
        ax.fill_between(counts, low, high, color=color, alpha=0.15)
        blocks = f"blocks {result.blocks[0]} to {result.blocks[-1]}"
        ax.plot(counts, middle, "o-", color=color, markersize=3, label=f"stage {stage + 1} ({blocks})")
    first = record.results[0]
    ax.set_xlabel("number of deleted blocks in the stage")
    metric_axis(ax, first.metric)
    ax.set_title(
        f"Blocks deleted within one stage: {literal(first.source.name)}, {first.values.shape[1]} draws",
        fontsize="medium",
    )
    ax.legend(fontsize="small")
    return ax
