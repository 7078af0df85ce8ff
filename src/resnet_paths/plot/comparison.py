"""Plots of models side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..arguments import checked
from ..comparison import Comparison
from ._axes import block_axis, metric_axis, percent_axis
from ._style import BLUE, GREEN, GREY, ORANGE, RED, bars, literal

_FEW = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9")


@checked
def plot_comparison(record: Comparison, axs: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Models side by side: damage by block, random deletions, the least damaging blocks deleted, and the gradient.

    Up to six models have a colour each; more, such as the checkpoints of a run, take those of a scale in their order.

    Args:
        record: see :func:`resnet_paths.comparison.compare`.
        axs: four axes to draw on.

    Returns:
        The four axes.

    Raises:
        ValueError: not four axes.
    """
    if axs is None:
        axs = Figure(figsize=(11, 7.5), layout="constrained").subplots(2, 2).ravel().tolist()
    if len(axs) != 4:
        raise ValueError(f"expected four axes, got {len(axs)}")
    by_block, random, frontier, gradient = axs
    _damage(by_block, record)
    _lines(random, record, record.counts, "deletion")
    _lines(frontier, record, np.arange(record.frontier.shape[1]), "frontier")
    _lines(gradient, record, record.lengths, "gradient_share")
    random.set_xlabel("number of random blocks deleted")
    frontier.set_xlabel("number of least damaging blocks deleted")
    for ax in (random, frontier):
        metric_axis(ax, record.metric)
        ax.set_ylim(bottom=0)
    gradient.set_xlabel("path length")
    gradient.set_ylabel("share of the gradient")
    percent_axis(gradient)
    gradient.axhline(0, color=GREY, linewidth=0.8)
    by_block.legend()
    images = f"{record.images} images ({literal(record.source.name)})"
    by_block.get_figure().suptitle(f"{len(record.models)} models, {images}, {100 * record.confidence:g} % intervals")  # type: ignore[union-attr]
    return axs


def _colors(record: Comparison) -> list[str | tuple[float, ...]]:
    if len(record.models) <= len(_FEW):
        return list(_FEW[: len(record.models)])
    scale = colormaps["viridis"]
    return [scale(position) for position in np.linspace(0, 0.9, len(record.models))]


def _damage(ax: Axes, record: Comparison) -> None:
    """Points with intervals, side by side in each block's place; lines where there are many models."""
    places, many = np.arange(len(record.blocks)), len(record.models) > len(_FEW)
    width = min(0.3, 0.08 * len(record.models))
    shifts = np.linspace(-width, width, len(record.models))
    for model, (name, color) in enumerate(zip(record.models, _colors(record), strict=True)):
        values = record.damage[model]
        if many:
            ax.plot(places, values, color=color, label=literal(name))
            continue
        errors = bars(values, record.damage_low[model], record.damage_high[model])
        ax.errorbar(
            places + shifts[model], values, errors, fmt="o", markersize=3, capsize=1, color=color, label=literal(name)
        )
    ax.axhline(0, color=GREY, linewidth=0.8)
    block_axis(ax, record.blocks)
    ax.set_xlabel("deleted block")
    metric_axis(ax, record.metric, "rise of {}")


def _lines(ax: Axes, record: Comparison, x: np.ndarray, name: str) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    values, low, high = (getattr(record, f"{name}{end}") for end in ("", "_low", "_high"))
    for model, (label, color) in enumerate(zip(record.models, _colors(record), strict=True)):
        ax.plot(x, values[model], color=color, marker=".", label=literal(label))
        if len(record.models) <= len(_FEW):
            there = np.isfinite(low[model]) & np.isfinite(high[model])
            ax.fill_between(x, low[model], high[model], where=there, color=color, alpha=0.15, linewidth=0)
