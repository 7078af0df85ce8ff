"""Axes that several plots share: shares in percent, and blocks by stage."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import PercentFormatter

from ._style import GREY, literal, literals

_LABELS = {
    "error": "error",
    "loss": "cross-entropy (nats)",
    "top5_error": "top-5 error",
    "disagreement": "disagreement with the full network",
    "divergence": "divergence from the full network (nats)",
    "soft_error": "1 - p(label)",
    "soft_disagreement": "total variation from the full network's prediction",
}
_OF_IMAGES = ("error", "top5_error", "disagreement")
_LETTER = 0.6  # width of a letter, of its height


def metric_label(metric: str) -> str:
    """The axis label of a metric."""
    return _LABELS.get(metric, metric)


def metric_axis(ax: Axes, metric: str, label: str = "{}") -> None:
    """Name the vertical axis after a metric, in percent if it is a share of the images."""
    ax.set_ylabel(label.format(metric_label(metric)))
    if metric in _OF_IMAGES:
        percent_axis(ax)


def metric_text(metric: str, value: float) -> str:
    """A metric's value for a legend: in percent where its axis is.

    Example:
        >>> metric_text("error", 0.0112), metric_text("loss", 0.0112)
        ('1.12 %', '0.0112')
    """
    return f"{100 * value:.3g} %" if metric in _OF_IMAGES else f"{value:.3g}"


def percent_axis(ax: Axes) -> None:
    """Write the shares of the vertical axis as percentages."""
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def block_axis(ax: Axes, names: Sequence[str]) -> None:
    """The blocks along the horizontal axis: each with its number, and each stage with a band and its name once.

    Stages are named without what all of them begin with (``backbone.``). Where names are not a stage and a number
    (``layer1.0``, ``encoder_layer_0``), or the name of a stage is wider than its blocks, each block has its whole name.

    Args:
        ax: the blocks lie at 0, 1, ...
        names: of the blocks; among them may be others, such as the stem.
    """
    parts = [re.fullmatch(r"(.+)[._](\d+)", name) for name in names]
    runs = [
        (stage, [place for place, _ in run])
        for stage, run in itertools.groupby(enumerate(part and part[1] for part in parts), key=lambda pair: pair[1])
    ]
    named = [(stage, places) for stage, places in runs if stage is not None]
    begin = shared_beginning([stage for stage, _ in named])
    stages = [(stage[len(begin) :], places) for stage, places in named]
    ax.set_xlim(-0.7, len(names) - 0.3)
    if not stages or not all(_fits(ax, stage, len(places) / len(names)) for stage, places in stages):
        ax.set_xticks(range(len(names)), literals(names), rotation=90, fontsize="small")
        return
    numbers = [part[2] if part else literal(name) for part, name in zip(parts, names, strict=True)]
    ax.set_xticks(range(len(names)), numbers, fontsize="small")
    for label, part in zip(ax.get_xticklabels(), parts, strict=True):
        label.set_rotation(0 if part else 90)
    ax.xaxis.remove_overlapping_locs = False  # the name of a stage stands below the number of its middle block
    ax.set_xticks(
        [(places[0] + places[-1]) / 2 for _, places in stages], [literal(stage) for stage, _ in stages],
        minor=True, fontsize="small",
    )  # fmt: skip
    height = FontProperties(size="small").get_size_in_points()
    ax.tick_params(axis="x", which="minor", length=0, pad=5 + 1.3 * height)
    for _, places in stages[::2]:
        ax.axvspan(places[0] - 0.5, places[-1] + 0.5, color=GREY, alpha=0.08, linewidth=0, zorder=0)


def shared_beginning(names: Sequence[str]) -> str:
    """What several names begin with, up to a dot.

    Example:
        >>> shared_beginning(["net.layer1", "net.layer2"]), shared_beginning(["net.layer1"])
        ('net.', '')
        >>> shared_beginning(["a1", "a2"])
        ''
    """
    if len(set(names)) < 2:
        return ""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)  # as deep as the shallowest
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
    return "".join(f"{level[0]}." for level in shared)


def _fits(ax: Axes, name: str, share: float) -> bool:
    """Whether a stage's name is about as short as the stage's share of the axis."""
    figure = ax.get_figure(root=True)
    inches = (figure.get_figwidth() if figure is not None else 6.0) * ax.get_position().width
    letters = len(name) * _LETTER * FontProperties(size="small").get_size_in_points() / 72
    return letters <= share * inches
