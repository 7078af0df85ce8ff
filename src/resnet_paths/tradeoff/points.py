"""One choice of blocks to drop, and what was measured of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..network import UnrolledNetwork
from ..statistics import fall_at_most, interval, share_at_most, share_interval
from .search import Set


@dataclass(frozen=True)
class PlanPoint:
    """One choice of blocks to drop; accuracies and all that follows are of the images that certify.

    Without labels accuracies and falls are NaN; disagreements tell.

    Attributes:
        dropped: their indices.
        names: their names.
        loss: the search's metric on the images to search on, as the network would be used.
        plain: accuracy without any repair.
        accuracy: accuracy with it.
        accuracy_interval: its 95 % interval; where points were tested on these images in turn, the intervals of all
            hold together (Bonferroni), so that of the chosen one does.
        fall: fall of accuracy from the full network, which got the same. Of a point chosen by these images it is a
            little too small: by 0.3 points in a simulation with 1000 images.
        fall_at_most: its upper bound, see :func:`~resnet_paths.lesion.fall_at_most`; None for the full network.
        disagreement: share of images that the full network answers otherwise.
        disagreement_at_most: its upper bound; likewise.
        repair: ``none``, ``recalibrated``, ``refitted`` or ``fine-tuned``.
        reason: why that repair.
        latency: seconds a forward pass: its share of the full network's time, times that.
        share: that share, the median of rounds in turn; of the chosen point of a latency goal measured anew.
        share_interval: its interval.
        estimated: the share by the sum of the times of the blocks that stay; None where they were not timed.
        macs: multiply-adds of one image.
        parameters: number of parameters left.
    """

    dropped: tuple[int, ...]
    names: tuple[str, ...]
    loss: float
    plain: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    fall: float
    fall_at_most: float | None
    disagreement: float
    disagreement_at_most: float | None
    repair: str
    reason: str
    latency: float
    share: float
    share_interval: tuple[float, float]
    estimated: float | None
    macs: int
    parameters: int


@dataclass(frozen=True, eq=False)
class Measured:
    """A point, and which images it answers rightly.

    Attributes:
        point: the point.
        right: for each image, as 0.0 and 1.0.
    """

    point: PlanPoint
    right: np.ndarray


def measured_point(
    net: UnrolledNetwork, dropped: Set, values: dict[str, Any], full: Measured | None, confidence: float, loss: float
) -> Measured:
    """A point of what a bench measured, not yet timed.

    Args:
        net: for names.
        dropped: the set.
        values: see :func:`~resnet_paths.tradeoff.bench.measure_set`.
        full: the full network's; None for that itself.
        confidence: of the bounds.
        loss: of the search.
    """
    right, agrees = np.asarray(values["right"], dtype=float), np.asarray(values["agrees"], dtype=float)
    changed = int(len(agrees) - agrees.sum())
    point = PlanPoint(
        dropped=tuple(dropped),
        names=tuple(net[index].name for index in dropped),
        loss=loss,
        plain=float(np.mean(values["plain_right"])),
        accuracy=float(right.mean()),
        accuracy_interval=interval(right),
        fall=0.0 if full is None else float(full.right.mean() - right.mean()),
        fall_at_most=None if full is None else bound_of_fall(full.right, right, confidence),
        disagreement=changed / len(agrees),
        disagreement_at_most=None if full is None else share_at_most(changed, len(agrees), confidence),
        repair=str(values["repair"]),
        reason=str(values["reason"]),
        latency=float("nan"),
        share=1.0,
        share_interval=(1.0, 1.0),
        estimated=None,
        macs=int(values["macs"]),
        parameters=int(values["parameters"]),
    )
    return Measured(point, right)


def bound_of_fall(before: np.ndarray, after: np.ndarray, confidence: float) -> float:
    """:func:`~resnet_paths.lesion.fall_at_most`; NaN where nobody knows what is right."""
    return float("nan") if np.isnan(before).all() else fall_at_most(before, after, confidence)


def together(point: PlanPoint, images: int, points: int) -> PlanPoint:
    """A point with an interval that holds together with those of all `points`, by Bonferroni's inequality."""
    if math.isnan(point.accuracy):
        return point
    return replace(point, accuracy_interval=share_interval(point.accuracy, images, 1 - 0.05 / points))
