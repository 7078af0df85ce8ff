"""Plots of predictors of damage."""

from __future__ import annotations

from typing import Unpack

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes

from ..arguments import checked
from ..lesion import DamagePredictors, PredictorRanking, SingleDeletions
from ..nouns import counted
from ._frame import Frame, Look, marker
from ._style import ink, literal


@checked
def plot_predictor_ranking(record: PredictorRanking, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """Each predictor's rank correlations with the true damage, with their ranges of uncertainty; best on top.

    Args:
        record: see :func:`resnet_paths.lesion.rank_predictors`.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.
    """
    frame = Frame(ax, (6.5, 0.45 * len(record.predictors) + 1.2), **look)
    places = frame.places(record.predictors, down=True)
    for values, ends, shift, color, shape, name in (
        (record.spearman, record.spearman_range, -0.12, frame.color, "o", "Spearman"),
        (record.kendall, record.kendall_range, 0.12, frame.second, "s", "Kendall tau-b"),
    ):
        errors = np.abs(ends.T - values).clip(0)
        frame.ax.errorbar(
            values, places + shift, xerr=errors, fmt=shape, color=color, markersize=marker(), label=frame.series(name)
        )
    frame.ax.axvline(0, color=ink(0.6), linewidth=rcParams["axes.linewidth"])
    frame.ax.set_xlim(-1.02, 1.02)
    text = f"rank correlation with the damage ({record.metric}), with its range of uncertainty"
    return frame.done("Predictors of damage", x=text)


@checked
def plot_predictor(
    predictors: DamagePredictors, name: str, damage: SingleDeletions, ax: Axes | None = None, **look: Unpack[Look]
) -> Axes:
    """One predictor against the true damage, one point per block; blocks that change the shape are highlighted.

    Args:
        predictors: see :func:`resnet_paths.lesion.damage_predictors`.
        name: which.
        damage: of deleting each block.
        ax: draw here.
        **look: label, color, title and legend; see :class:`Look`.

    Raises:
        ValueError: there is no such predictor.
    """
    if name not in predictors.values:
        raise ValueError(f"expected a predictor of {', '.join(predictors.values)}, got {name!r}")
    frame = Frame(ax, (5, 4), **look)
    changes = np.array([kind != "identity" for kind in damage.shortcuts])
    groups = [(~changes, "o", "identity shortcut"), (changes, "D", "shortcut that changes the shape")]
    for number, (which, shape, text) in enumerate(group for group in groups if group[0].any()):
        label, color = (frame.label(text), frame.color) if number == 0 else (frame.detail(text), frame.second)
        x, y = predictors.values[name][which], damage.damage[which]
        frame.ax.plot(x, y, shape, color=color, markersize=marker(), label=label)
    frame.zero()
    title = f"{literal(damage.source.name)}, {counted(len(damage.names), 'block')}"
    return frame.done(title, x=name, y=f"damage ({damage.metric})")
