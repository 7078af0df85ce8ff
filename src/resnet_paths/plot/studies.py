"""Plots of reordered networks, and of deletions by stage."""

from __future__ import annotations

from typing import Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.markers import MarkerStyle

from ..arguments import checked
from ..data.metrics import is_share
from ..lesion import Reorderings, StageDeletions
from ._axes import metric_label, metric_text
from ._frame import Frame, Look, marker
from ._style import bars, ink, literal, next_color

_SHAPES = "osD^v<>"


@checked
def plot_reorderings(
    record: Reorderings, ax: Axes | None = None, chance: float | None = None, **look: Unpack[Look]
) -> Axes:
    """The metric against Kendall's tau with the original order: each order, and the median per number of swaps.

    As figure 5b of Veit et al. (2016): the original order, tau of one, is on the left.

    Args:
        record: see :func:`resnet_paths.lesion.reorderings`.
        ax: draw here.
        chance: draw a line at this level.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (6, 4), **look)
    table = record.by_swaps()
    orders = frame.color if frame.is_one_of_several else ink(0.6)
    frame.ax.plot(
        record.tau, record.values, ".", color=orders, alpha=0.6, markersize=marker(), label=frame.detail("one order")
    )
    errors = bars(*(table[name].to_numpy() for name in ("median", "low", "high")))
    frame.ax.errorbar(
        table["tau"], table["median"], errors, fmt="o-", color=frame.color, markersize=marker(),
        label=frame.label("median per number of swaps, 95 % interval"),
    )  # fmt: skip
    original = frame.detail(f"original order ({metric_text(record.metric, record.full)})")
    frame.ax.plot(1, record.full, "D", color=frame.second, label=original)
    if chance is not None:
        frame.level(chance, f"chance ({metric_text(record.metric, chance)})")
    frame.ax.xaxis.set_inverted(True)
    return frame.done(
        f"Reordered blocks: {literal(record.source.name)}, {len(record.tau)} orders",
        x="Kendall's tau with the original order (falls to the right)",
        y=metric_label(record.metric),
        percent=is_share(record.metric),
    )


@checked
def plot_stage_deletions(record: StageDeletions, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """The metric against the number of deleted blocks, for each stage: median, and 10 % to 90 % of the draws.

    Args:
        record: see :func:`resnet_paths.lesion.stage_deletions`.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (6, 4), **look)
    for stage, result in enumerate(record.results):
        color = frame.color if stage == 0 or frame.is_one_of_several else next_color(frame.ax)
        low, middle, high = (np.concatenate([[result.full], line]) for line in result.quantiles())
        counts = np.concatenate([[0], result.counts])
        frame.ax.fill_between(counts, low, high, color=color, alpha=0.15, linewidth=0)
        blocks = f"blocks {result.blocks[0]} to {result.blocks[-1]}"
        shape = MarkerStyle(_SHAPES[stage % len(_SHAPES)])
        frame.ax.plot(
            counts, middle, "-", marker=shape, color=color, markersize=marker(),
            label=frame.series(f"stage {stage + 1} ({blocks})"),
        )  # fmt: skip
    first = record.results[0]
    return frame.done(
        f"Blocks deleted within one stage: {literal(first.source.name)}, {first.values.shape[1]} draws",
        x="number of deleted blocks in the stage",
        y=metric_label(first.metric),
        percent=is_share(first.metric),
    )
