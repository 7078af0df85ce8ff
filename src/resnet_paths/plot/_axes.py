"""Axes that several plots share: shares in percent, and blocks by stage."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import PercentFormatter

from ..data.metrics import is_share
from ._fitting import room_of, text_width
from ._style import ink, literal, literals

_LABELS = {
    "error": "error",
    "loss": "cross-entropy (nats)",
    "top5_error": "top-5 error",
    "disagreement": "disagreement with the full network",
    "divergence": "divergence from the full network (nats)",
    "soft_error": "1 - p(label)",
    "soft_disagreement": "total variation from the full network's prediction",
    "next_token_loss": "loss per token (nats)",
    "next_token_error": "share of tokens not predicted",
    "pixel_loss": "cross-entropy per pixel (nats)",
    "pixel_error": "share of wrong pixels",
    "iou_error": "1 - mean intersection over union",
    "squared_error": "mean squared error",
    "absolute_error": "mean absolute error",
    "multilabel_error": "share of wrong labels",
    "multilabel_loss": "cross-entropy per label (nats)",
    "cosine_distance": "cosine distance from the full network",
    "embedding_distance": "relative distance from the full network",
}


def metric_label(metric: str) -> str:
    """The axis label of a metric."""
    return _LABELS.get(metric, metric)


def metric_text(metric: str, value: float) -> str:
    """A metric's value for a legend: in percent where its axis is.

    Example:
        >>> metric_text("error", 0.0112), metric_text("loss", 0.0112)
        ('1.12 %', '0.0112')
    """
    return f"{100 * value:.3g} %" if is_share(metric) else f"{value:.3g}"


def percent_axis(axis: Axis) -> None:
    """Write the shares of an axis as percentages."""
    axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def block_axis(ax: Axes, names: Sequence[str]) -> None:
    """The blocks along the horizontal axis: each with its number, and each stage with a band and its name once.

    Stages are named without their common prefix (``backbone.``). Where names are not a stage and a number
    (``layer1.0``, ``encoder_layer_0``), or the name of a stage is wider than its blocks, each block has its full name.
    Where not all fit, only every second, third, ... is labelled.

    Args:
        ax: the blocks lie at 0, 1, ...
        names: of the blocks; among them may be others, such as the stem.
    """
    parts = [re.fullmatch(r"(.+)[._](\d+)", name) for name in names]
    runs = [
        (stage, [position for position, _ in run])
        for stage, run in itertools.groupby(enumerate(part and part[1] for part in parts), key=lambda pair: pair[1])
    ]
    named = [(stage, places) for stage, places in runs if stage is not None]
    begin = shared_beginning([stage for stage, _ in named])
    stages = [(stage[len(begin) :], places) for stage, places in named]
    font = FontProperties(size=rcParams["xtick.labelsize"])
    width = room_of(ax).width
    ax.set_xlim(-0.7, len(names) - 0.3)
    if not stages or any(
        text_width(literal(stage), font) * len(names) > width * len(places) for stage, places in stages
    ):
        ax.set_xticks([], minor=True)
        _name_all(ax, names, width, font)
        return
    numbers = [part[2] if part else literal(name) for part, name in zip(parts, names, strict=True)]
    digits = [text_width(f"{part[2]}0", font) for part in parts if part]
    step = max(1, -int(-len(names) * max(digits) // width))
    kept = [position for position, part in enumerate(parts) if part is None or int(part[2]) % step == 0]
    kept = [  # without the last of a stage if the first of the next is too close
        position
        for position, after in zip(kept, [*kept[1:], len(names) + step], strict=True)
        if after - position >= step or not (parts[position] and parts[after])
    ]
    ax.set_xticks(kept, [numbers[position] for position in kept])
    for label, position in zip(ax.get_xticklabels(), kept, strict=True):
        label.set_rotation(0 if parts[position] else 90)
    ax.xaxis.remove_overlapping_locs = False  # the name of a stage stands below the number of its middle block
    ax.set_xticks(
        [(places[0] + places[-1]) / 2 for _, places in stages], [literal(stage) for stage, _ in stages], minor=True
    )
    below = rcParams["xtick.major.size"] + rcParams["xtick.major.pad"] + 1.3 * font.get_size_in_points()
    ax.tick_params(axis="x", which="minor", length=0, pad=below)
    for _, places in stages[::2]:
        ax.axvspan(places[0] - 0.5, places[-1] + 0.5, color=ink(0.06), linewidth=0, zorder=0)


def shared_beginning(names: Sequence[str]) -> str:
    """The common prefix of several names, up to a dot.

    Example:
        >>> shared_beginning(["net.layer1", "net.layer2"]), shared_beginning(["net.layer1"])
        ('net.', '')
        >>> shared_beginning(["a1", "a2"])
        ''
    """
    if len(set(names)) < 2:
        return ""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)  # no deeper than the shallowest name
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
    return "".join(f"{level[0]}." for level in shared)


def _name_all(ax: Axes, names: Sequence[str], width: float, font: FontProperties) -> None:
    """Full names, horizontal where they fit, otherwise vertical."""
    shown = literals(names)
    flat = sum(text_width(f"{name}  ", font) for name in shown) < width
    step = 1 if flat else max(1, -int(-len(names) * 1.1 * font.get_size_in_points() // width))
    places = np.arange(len(names))
    ax.set_xticks(places[::step], shown[::step], rotation=0 if flat else 90)


def names_down(ax: Axes, names: Sequence[str]) -> None:
    """Names along the vertical axis, the first on top, as many as have room."""
    letter = FontProperties(size=rcParams["ytick.labelsize"]).get_size_in_points()
    step = max(1, -int(-len(names) * 1.1 * letter // room_of(ax).height))
    places = np.arange(len(names))
    ax.set_yticks(places[::step], literals(names)[::step])
    ax.yaxis.set_inverted(True)
