"""Plots of models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..arguments import checked
from ..comparison import Comparison
from ._axes import block_axis, metric_axis, percent_axis
from ._style import BLUE, GREEN, GREY, ORANGE, RED, axes, bars, literal

Quantity = Literal[
    "damage",
    "contribution",
    "shapley",
    "deletion",
    "frontier",
    "recommended",
    "gradient_share",
    "effective_share",
    "path_share",
]
"""What a comparison can draw of all models on one axis."""

_BY_BLOCK = ("damage", "contribution", "shapley")
_FEW = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9")
_X_LABELS = {
    "damage": "deleted block",
    "deletion": "number of random blocks deleted",
    "frontier": "number of least damaging blocks deleted",
    "recommended": "number of blocks dropped in the recommended order",
}
_Y_LABELS = {
    "contribution": "contribution to the true logit",
    "gradient_share": "share of the gradient",
    "effective_share": "share of the effective paths",
    "path_share": "share of all paths",
}
_OF_METRIC = {"damage": "rise of {}", "shapley": "fall of {} (Shapley value)"}


@dataclass(frozen=True)
class _Colors:
    """A colour for each model; those of a series come from a scale, which `bar` explains."""

    of_models: tuple[str | tuple[float, ...], ...]
    bar: ScalarMappable | None = None
    bar_label: str = ""

    @classmethod
    def of(cls, record: Comparison, film: bool) -> _Colors:
        """Up to six models have a colour each, unless they are a film; more take those of a scale in their order."""
        if not film and len(record.models) <= len(_FEW):
            return cls(_FEW[: len(record.models)])
        positions = record.positions
        scale = ScalarMappable(
            Normalize(positions.min(), positions.max()), _dark_part(matplotlib.rcParams["image.cmap"])
        )
        return cls(tuple(map(tuple, scale.to_rgba(positions).tolist())), scale, record.series)

    def explain(self, axs: Sequence[Axes]) -> None:
        """Draw the scale beside the axes, if there is one."""
        if self.bar is not None:
            axs[0].get_figure().colorbar(self.bar, ax=list(axs), label=literal(self.bar_label))  # type: ignore[union-attr]


def _dark_part(name: str) -> Colormap:
    """A colour scale without its last tenth, which is too light for lines on white in most."""
    return ListedColormap(colormaps[name](np.linspace(0, 0.9, 256)))


@checked
def plot_side_by_side(
    record: Comparison,
    quantity: Quantity = "damage",
    ax: Axes | None = None,
    *,
    film: bool = False,
    title: str | None = None,
    legend: bool = True,
) -> Axes:
    """One quantity of all models on one axis, with intervals where there are at most six models.

    Args:
        record: see :func:`resnet_paths.comparison.compare`.
        quantity: damage, contribution or shapley, by block; deletion, frontier or recommended, by the number of deleted
            blocks;
            gradient_share, effective_share or path_share, by path length.
        ax: draw here.
        film: colour the models on a scale in their order, whatever their number: the checkpoints of a run.
        title: of the axes; none by default.
        legend: name the models, or draw the scale of their colours.

    Raises:
        ValueError: the record does not contain the quantity, because it was not among the parts of the comparison.
    """
    ax = axes(ax, (6.5, 4))
    colors = _Colors.of(record, film)
    _draw(ax, record, quantity, colors)
    if legend:
        colors.explain([ax])
        if colors.bar is None:
            ax.legend()
    if title is not None:
        ax.set_title(literal(title))
    return ax


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
    colors = _Colors.of(record, film=False)
    quantities: tuple[Quantity, ...] = ("damage", "deletion", "frontier", "gradient_share")
    for ax, quantity in zip(axs, quantities, strict=True):
        _draw(ax, record, quantity, colors)
    colors.explain(axs)
    if colors.bar is None:
        axs[0].legend()
    _title(axs[0], record)
    return axs


@checked
def plot_checkpoints(
    record: Comparison,
    axs: Sequence[Axes] | None = None,
    *,
    quantities: Sequence[Quantity] = ("deletion", "gradient_share"),
) -> Sequence[Axes]:
    """The checkpoints of a run as a film of curves: a curve each, coloured by its place in the run.

    The place is the last number of a checkpoint's name (epoch-0010: 10); the colours are those of matplotlib's
    ``image.cmap``, so your style decides them.

    Args:
        record: a comparison of a run's checkpoints, ``compare("runs/mine", images)``.
        axs: as many axes as quantities.
        quantities: what to draw; see :func:`plot_side_by_side`.

    Returns:
        The axes.

    Raises:
        ValueError: another number of axes than of quantities, or none.
    """
    if axs is None:
        size = (5.5 * max(len(quantities), 1), 4)
        axs = Figure(figsize=size, layout="constrained").subplots(1, max(len(quantities), 1), squeeze=False)[0].tolist()
    if len(axs) != len(quantities) or not quantities:
        raise ValueError(f"expected as many axes as quantities, at least one, got {len(axs)} and {len(quantities)}")
    colors = _Colors.of(record, film=True)
    for ax, quantity in zip(axs, quantities, strict=True):
        _draw(ax, record, quantity, colors)
    colors.explain(axs)
    _title(axs[0], record)
    return axs


def _title(ax: Axes, record: Comparison) -> None:
    images = f"{record.images} images ({literal(record.source.name)})"
    text = f"{len(record.models)} models, {images}, {100 * record.confidence:g} % intervals"
    ax.get_figure().suptitle(text)  # type: ignore[union-attr]


def _draw(ax: Axes, record: Comparison, quantity: Quantity, colors: _Colors) -> None:
    if getattr(record, quantity) is None:
        raise ValueError(
            f"expected a comparison with {quantity}, got one without it; see the argument parts of compare"
        )
    if quantity in _BY_BLOCK:
        _by_block(ax, record, quantity, colors)
    else:
        _curves(ax, record, quantity, colors)
    ax.set_xlabel(_X_LABELS.get(quantity, "block" if quantity in _BY_BLOCK else "path length"))
    if quantity in _Y_LABELS:
        ax.set_ylabel(_Y_LABELS[quantity])
    else:
        metric_axis(ax, record.metric, _OF_METRIC.get(quantity, "{}"))
    if quantity.endswith("_share"):
        percent_axis(ax)


def _ends(record: Comparison, quantity: Quantity) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the intervals; NaN for what is exact."""
    low, high = (getattr(record, f"{quantity}_{end}", None) for end in ("low", "high"))
    none = np.full_like(getattr(record, quantity), np.nan)
    return (none, none) if low is None or high is None else (low, high)


def _by_block(ax: Axes, record: Comparison, quantity: Quantity, colors: _Colors) -> None:
    """Points with intervals, side by side in each block's place; lines where there are many models."""
    places, few = np.arange(len(record.blocks)), colors.bar is None
    width = min(0.3, 0.08 * len(record.models))
    shifts = np.linspace(-width, width, len(record.models))
    values, (low, high) = getattr(record, quantity), _ends(record, quantity)
    for model, (name, color) in enumerate(zip(record.models, colors.of_models, strict=True)):
        if not few:
            ax.plot(places, values[model], color=color, label=literal(name))
            continue
        errors = bars(values[model], low[model], high[model])
        ax.errorbar(
            places + shifts[model],
            values[model],
            errors,
            fmt="o",
            markersize=3,
            capsize=1,
            color=color,
            label=literal(name),
        )
    ax.axhline(0, color=GREY, linewidth=0.8)
    block_axis(ax, record.blocks)


def _curves(ax: Axes, record: Comparison, quantity: Quantity, colors: _Colors) -> None:
    """A curve for each model, with bands where there are few models."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    values, (low, high) = getattr(record, quantity), _ends(record, quantity)
    x = record.lengths  # as many as numbers of deleted blocks
    if quantity == "deletion":  # from the whole model on
        x = np.array([0, *record.counts])
        whole = zip((record.values, record.low, record.high), (values, low, high), strict=True)
        values, low, high = (np.column_stack(ends) for ends in whole)
    for model, (label, color) in enumerate(zip(record.models, colors.of_models, strict=True)):
        ax.plot(x, values[model], color=color, marker=".", label=literal(label))
        there = np.isfinite(low[model]) & np.isfinite(high[model])
        if colors.bar is None and there.any():
            ax.fill_between(x, low[model], high[model], where=there, color=color, alpha=0.15, linewidth=0)
    if quantity in ("deletion", "frontier", "recommended"):
        ax.set_ylim(bottom=0)
    else:
        ax.axhline(0, color=GREY, linewidth=0.8)
