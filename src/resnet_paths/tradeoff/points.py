"""One choice of blocks to drop, with its measurements."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..data.metrics import bound_of
from ..network import UnrolledNetwork
from ..statistics import fall_at_most, interval, intervals, rise_at_most, share_at_most, share_interval
from .search import Set


@dataclass(frozen=True)
class PlanPoint:
    """One choice of blocks to drop; accuracies and everything after them refer to the images that certify.

    Without labels, accuracies and falls are NaN, and only disagreements are available.

    Attributes:
        dropped: indices of the dropped blocks.
        names: names of the dropped blocks.
        loss: the search's metric on the search images, for the network as deployed.
        plain: accuracy without any repair.
        accuracy: accuracy with the repair.
        accuracy_interval: its 95 % interval; if points were tested on these images in sequence, the intervals of all
            points hold simultaneously (Bonferroni), and so does that of the chosen one.
        fall: fall in accuracy from the full network, which got the same repair. For a point chosen by these images it
            is slightly too small: by 0.3 points in a simulation with 1000 images.
        fall_at_most: its upper bound, see :func:`~resnet_paths.lesion.fall_at_most`; None for the full network.
        disagreement: share of images that the full network answers differently.
        disagreement_at_most: its upper bound; None for the full network.
        repair: ``none``, ``recalibrated``, ``refitted`` or ``fine-tuned``.
        reason: why that repair was used.
        latency: seconds per forward pass: `share` times the full network's time.
        share: share of the full network's time, the median over rounds in turn; for the chosen point of a latency goal,
            from a separate timing.
        share_interval: its interval.
        estimated: the share estimated from the times of the remaining blocks; None if they were not timed.
        macs: multiply-adds per image.
        parameters: number of remaining parameters.
        metric: name of the metric of the goal, or of the search for examples that are not classified; empty otherwise.
        value: that metric, with the repair.
        value_interval: its 95 % interval, of this point alone.
        plain_value: that metric without any repair.
        plain_interval: its 95 % interval.
        rise: its rise from the full network.
        rise_at_most: upper bound of the rise, see :func:`~resnet_paths.statistics.rise_at_most`; None for the full
            network.
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
    metric: str = ""
    value: float | None = None
    value_interval: tuple[float, float] | None = None
    plain_value: float | None = None
    plain_interval: tuple[float, float] | None = None
    rise: float | None = None
    rise_at_most: float | None = None


@dataclass(frozen=True, eq=False)
class Measured:
    """A point, and its answers.

    Attributes:
        point: the point.
        right: whether each image is answered correctly, as 0.0 or 1.0.
        values: the metric on each example; empty if none was measured.
    """

    point: PlanPoint
    right: np.ndarray
    values: np.ndarray = field(default_factory=lambda: np.empty(0))


def measured_point(
    net: UnrolledNetwork,
    dropped: Set,
    values: dict[str, Any],
    full: Measured | None,
    confidence: float,
    loss: float,
    metric: str = "",
    distribution_free: bool = False,
) -> Measured:
    """A point from the measurements of a bench, not yet timed.

    Args:
        net: the network, for names.
        dropped: the set.
        values: see :func:`~resnet_paths.tradeoff.bench.measure_set`.
        full: the full network's measurements; None for the full network itself.
        confidence: confidence of the bounds.
        loss: the search's loss.
        metric: name of the metric measured beside the answers, if there is one.
        distribution_free: see :func:`~resnet_paths.statistics.rise_at_most`.
    """
    point = PlanPoint(
        dropped=tuple(dropped),
        names=tuple(net[index].name for index in dropped),
        loss=loss,
        plain=float(np.mean(values["plain_right"])),
        accuracy=math.nan,
        accuracy_interval=(math.nan, math.nan),
        fall=0.0,
        fall_at_most=None,
        disagreement=math.nan,
        disagreement_at_most=None,
        repair=str(values["repair"]),
        reason=str(values["reason"]),
        latency=float("nan"),
        share=1.0,
        share_interval=(1.0, 1.0),
        estimated=None,
        macs=int(values["macs"]),
        parameters=int(values["parameters"]),
    )
    if metric:
        plain = np.asarray(values["plain_values"], dtype=float)
        point = replace(point, metric=metric, plain_value=float(plain.mean()), plain_interval=_ends(plain, metric))
    right, agrees, each = (np.asarray(values[name], dtype=float) for name in ("right", "agrees", "values"))
    return with_answers(point, right, agrees, each, full, confidence, distribution_free)


def with_answers(
    point: PlanPoint,
    right: np.ndarray,
    agrees: np.ndarray,
    each: np.ndarray,
    full: Measured | None,
    confidence: float,
    distribution_free: bool = False,
) -> Measured:
    """A point with the accuracy, the disagreement and the metric of some network's answers.

    Args:
        point: the point; its `metric` says what `each` is, if it is not empty.
        right: whether each answer is right; NaN without labels of classes.
        agrees: whether each answer is the full network's; NaN without classes.
        each: the metric on each example.
        full: the full network's measurements; None for the full network itself.
        confidence: confidence of the bounds.
        distribution_free: see :func:`~resnet_paths.statistics.rise_at_most`.
    """
    classes = not np.isnan(agrees).any()
    changed = int(len(agrees) - agrees.sum()) if classes else 0
    point = replace(
        point,
        accuracy=float(right.mean()),
        accuracy_interval=(math.nan, math.nan) if np.isnan(right).any() else interval(right),
        fall=0.0 if full is None else float(full.right.mean() - right.mean()),
        fall_at_most=None if full is None else bound_of_fall(full.right, right, confidence),
        disagreement=changed / len(agrees) if classes else math.nan,
        disagreement_at_most=share_at_most(changed, len(agrees), confidence) if classes and full is not None else None,
    )
    if not point.metric:
        return Measured(point, right)
    rise, most = 0.0, None
    if full is not None:
        bound = bound_of(point.metric)
        rise = float((each - full.values).mean())
        most = rise_at_most(full.values, each, confidence, bound=bound, distribution_free=distribution_free)
    ends = _ends(each, point.metric)
    point = replace(point, value=float(each.mean()), value_interval=ends, rise=rise, rise_at_most=most)
    return Measured(point, right, each)


def _ends(each: np.ndarray, metric: str) -> tuple[float, float]:
    """The 95 % interval of a metric."""
    low, high = (float(end[0]) for end in intervals(each[None], bound=bound_of(metric)))
    return low, high


def bound_of_fall(before: np.ndarray, after: np.ndarray, confidence: float) -> float:
    """The bound of :func:`~resnet_paths.lesion.fall_at_most`; NaN without labels."""
    return float("nan") if np.isnan(before).all() else fall_at_most(before, after, confidence)


def together(point: PlanPoint, images: int, points: int) -> PlanPoint:
    """A point whose interval holds simultaneously with those of all `points`, by Bonferroni's inequality."""
    if math.isnan(point.accuracy):
        return point
    return replace(point, accuracy_interval=share_interval(point.accuracy, images, 1 - 0.05 / points))
