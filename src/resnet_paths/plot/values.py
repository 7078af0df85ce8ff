"""Plots of the values of blocks."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from ..arguments import checked
from ..lesion import BlockInteractions, BlockValues
from ..paths import BlockContributions
from ._axes import block_axis
from ._style import BLUE, GREY, ORANGE, axes, literal, literals

_NUMBERED = 9  # blocks; of more, the numbers would overlap


@checked
def plot_block_values(record: BlockValues, ax: Axes | None = None) -> Axes:
    """The value of each block with its standard error; blocks that raise the metric are highlighted.

    Args:
        record: see :func:`resnet_paths.lesion.block_values`.
        ax: draw here.
    """
    ax = axes(ax, (max(6.0, 0.32 * len(record.names)), 4))
    block_axis(ax, record.names)
    places = np.arange(len(record.names))
    for chosen, color, label in (
        (record.values >= 0, BLUE, f"lowers the {record.metric}"),
        (record.values < 0, ORANGE, f"raises the {record.metric}"),
    ):
        if chosen.any():
            errors = record.standard_errors[chosen]
            ax.errorbar(places[chosen], record.values[chosen], errors, fmt="o", color=color, capsize=2, label=label)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_xlabel("block")
    ax.set_ylabel(f"{record.method.capitalize()} value: fall of the {record.metric}")
    ax.set_title(f"{literal(record.source.name)}, bars: standard error", fontsize="medium")
    ax.legend(fontsize="small")
    return ax


@checked
def plot_interactions(record: BlockValues | BlockInteractions, ax: Axes | None = None, *, bar: bool = True) -> Axes:
    """Pairwise interactions: above zero two blocks need each other, below zero they can replace each other.

    Args:
        record: see :func:`resnet_paths.lesion.block_values`, made with ``interactions=True``, or
            :func:`resnet_paths.lesion.higher_interactions`, of which the pairs are drawn.
        ax: draw here.
        bar: draw a colour bar.

    Raises:
        ValueError: the record was made without interactions.
    """
    found = record.matrix() if isinstance(record, BlockInteractions) else record.interactions
    kind = record.index if isinstance(record, BlockInteractions) else record.method
    if found is None:
        raise ValueError("expected interactions, got none; pass interactions=True to block_values")
    ax = axes(ax, (6, 5))
    values = found.copy()
    np.fill_diagonal(values, np.nan)
    extent = float(np.nanmax(np.abs(values))) if len(values) > 1 else 1.0
    places = np.arange(len(record.names))
    image = ax.pcolormesh(places, places, values, cmap="PuOr_r", vmin=-(extent or 1.0), vmax=extent or 1.0)
    ax.set_xticks(places, literals(record.names), rotation=90, fontsize="small")
    ax.set_yticks(places, literals(record.names), fontsize="small")
    ax.invert_yaxis()
    ax.set_aspect("equal")
    if len(values) <= _NUMBERED:
        for row, column in zip(*np.nonzero(np.isfinite(values)), strict=True):
            text = _signed(float(values[row, column]))
            ax.text(column, row, text, fontsize="x-small", ha="center", va="center", color="black")
    ax.set_title(f"{kind} interactions", fontsize="medium")
    figure = ax.get_figure()
    if figure is not None and bar:
        figure.colorbar(image, ax=ax, label=f"interaction ({record.metric})", shrink=0.85)
    return ax


def _signed(value: float) -> str:
    r"""Two digits, with a sign, and no zero before the point.

    Example:
        >>> _signed(-0.0312), _signed(1.234)
        ('-.031', '+1.2')
    """
    return f"{value:+.2g}".replace("0.", ".", 1) if 1e-3 <= abs(value) < 1 else f"{value:+.2g}"


@checked
def plot_mean_contributions(record: BlockContributions, ax: Axes | None = None) -> Axes:
    """Direct contributions of stem, constants and each block to the target's logit: mean over examples, 5 % to 95 %.

    Args:
        record: see :func:`resnet_paths.paths.block_contributions`, made with targets.
        ax: draw here.

    Raises:
        ValueError: the record was made without targets.
    """
    if record.of_target is None:
        raise ValueError("expected contributions to a target, got none; pass target to block_contributions")
    ax = axes(ax, (max(6.0, 0.32 * len(record.sources)), 4))
    values = record.of_target.double().cpu().numpy()
    places, mean = np.arange(len(values)), values.mean(1)
    low, high = np.quantile(values, (0.05, 0.95), axis=1)
    colours = np.where(mean >= 0, BLUE, ORANGE)
    ax.bar(places, mean, color=colours.tolist(), width=0.8, label="mean over examples")
    ax.vlines(places, low, high, color=GREY, linewidth=1, label="5 % to 95 % of the examples")
    ax.axhline(0, color=GREY, linewidth=0.8)
    block_axis(ax, record.sources)
    ax.set_xlabel("source")
    ax.set_ylabel("direct contribution (logit)")
    ax.set_title("Direct contribution to the target's logit", fontsize="medium")
    ax.legend(fontsize="small")
    return ax
