"""Plots of predictors of damage."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from ..arguments import checked
from ..lesion import DamagePredictors, PredictorRanking, SingleDeletions
from ._style import BLUE, GREEN, GREY, ORANGE, axes, literal


@checked
def plot_predictor_ranking(record: PredictorRanking, ax: Axes | None = None) -> Axes:
    """Each predictor's rank correlations with the true damage, with their ranges of uncertainty; best on top.

    Args:
        record: see :func:`resnet_paths.lesion.rank_predictors`.
        ax: draw here.
    """
    ax = axes(ax, (6.5, 0.45 * len(record.predictors) + 1.2))
    places = np.arange(len(record.predictors))[::-1].astype(float)
    for values, ends, shift, color, marker, label in (
        (record.spearman, record.spearman_range, 0.12, BLUE, "o", "Spearman"),
        (record.kendall, record.kendall_range, -0.12, GREEN, "s", "Kendall tau-b"),
    ):
        errors = np.abs(ends.T - values).clip(0)
        ax.errorbar(values, places + shift, xerr=errors, fmt=marker, color=color, capsize=2, markersize=4, label=label)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.set_yticks(places, record.predictors, fontsize="medium")
    ax.set_xlim(-1.02, 1.02)
    ax.set_xlabel(f"rank correlation with the damage ({record.metric}), with its range of uncertainty")
    ax.set_title("Predictors of damage", fontsize="medium")
    ax.legend(fontsize="small", loc="lower left")
    return ax


@checked
def plot_predictor(predictors: DamagePredictors, name: str, damage: SingleDeletions, ax: Axes | None = None) -> Axes:
    """One predictor against the true damage, one point per block; blocks that change the shape are highlighted.

    Args:
        predictors: see :func:`resnet_paths.lesion.damage_predictors`.
        name: which.
        damage: of deleting each block.
        ax: draw here.

    Raises:
        ValueError: there is no such predictor.
    """
    if name not in predictors.values:
        raise ValueError(f"expected a predictor of {', '.join(predictors.values)}, got {name!r}")
    ax = axes(ax, (5, 4))
    changes = np.array([kind != "identity" for kind in damage.shortcuts])
    groups = ((~changes, BLUE, "o", "identity shortcut"), (changes, ORANGE, "D", "shortcut that changes the shape"))
    for chosen, color, marker, label in groups:
        if chosen.any():
            x, y = predictors.values[name][chosen], damage.damage[chosen]
            ax.plot(x, y, marker, color=color, markersize=4, label=label)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_xlabel(name)
    ax.set_ylabel(f"damage ({damage.metric})")
    ax.set_title(f"{literal(damage.source.name)}, {len(damage.names)} blocks", fontsize="medium")
    ax.legend(fontsize="small")
    return ax
