"""How well a score separates two kinds of images: the area under the ROC curve, with intervals.

The variance is DeLong's, a mean over the images of either kind; scipy and scikit-learn have the area, but neither its
variance nor that of a difference of two scores on the same images.
"""

from __future__ import annotations

import numpy as np

from ..arguments import checked
from .proportions import share_interval
from .quantiles import student_quantile
from .real import real


@checked
def roc_area(positive: np.ndarray, negative: np.ndarray) -> float:
    """The probability that a positive image has the larger score, ties counted half: 1/2 is chance.

    Args:
        positive: scores of the images to be detected.
        negative: scores of the others.

    Raises:
        ValueError: there are no images of one kind, or a score is NaN.

    Source: Hanley and McNeil (1982).

    Example:
        >>> round(roc_area(np.array([0.9, 0.4]), np.array([0.1, 0.4, 0.2])), 4)
        0.9167
    """
    return float(_placements(positive, negative)[0].mean())


@checked
def roc_area_interval(positive: np.ndarray, negative: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """An interval for :func:`roc_area` over images of either kind, drawn independently.

    DeLong's variance gives an effective number of images, ``A (1 - A) / variance``, and the interval is Wilson's for
    a share of that many; where nothing overlaps and the variance is zero, for the number of the rarer kind. Above an
    area of 0.99 its coverage is below nominal (docs/explanation/intervals.md).

    Args:
        positive: scores of the images to be detected, at least two.
        negative: scores of the others, at least two.
        confidence: coverage of the interval.

    Raises:
        ValueError: there are fewer than two images of one kind, or a score is NaN.

    Source: DeLong, DeLong and Clarke-Pearson (1988) for the variance.

    Example:
        >>> low, high = roc_area_interval(np.arange(20.0) + 5, np.arange(20.0))
        >>> bool(low < roc_area(np.arange(20.0) + 5, np.arange(20.0)) < high)
        True
    """
    placements = _placements(positive, negative)
    area = float(placements[0].mean())
    variance, _ = _variance(*placements)
    most = min(len(positive), len(negative))
    effective = area * (1 - area) / variance if variance > 0 else most
    return share_interval(area, effective, confidence)


@checked
def roc_area_difference_interval(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], confidence: float = 0.95
) -> tuple[float, float]:
    """An interval for how much larger the area of `first` is than that of `second`, for scores of the same images.

    Args:
        first: one score's values for the positive and for the negative images.
        second: the other score's, for the same images in the same order.
        confidence: coverage of the interval.

    Returns:
        The ends, by Student's t of DeLong's variance of the difference; infinite if no image changes its rank.

    Raises:
        ValueError: the numbers of images differ, there are fewer than two of one kind, or a score is NaN.

    Example:
        >>> scores = np.random.default_rng(0).normal(size=(2, 50))
        >>> low, high = roc_area_difference_interval((scores[0] + 1, scores[1]), (-scores[0], scores[1]))
        >>> bool(0 < low < high)
        True
    """
    if any(np.shape(one) != np.shape(other) for one, other in zip(first, second, strict=True)):
        raise ValueError(
            f"expected two scores of the same examples, got {[len(one) for one in first]} and "
            f"{[len(one) for one in second]} positive and negative ones"
        )
    one, other = _placements(*first), _placements(*second)
    by_positive, by_negative = one[0] - other[0], one[1] - other[1]
    variance, freedom = _variance(by_positive, by_negative)
    difference = float(by_positive.mean())
    if not variance > 0:
        return -np.inf, np.inf
    half = float(student_quantile((1 + confidence) / 2, max(freedom, 1.0))) * float(np.sqrt(variance))
    return difference - half, difference + half


def _placements(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive image the share of negative ones below it, and for each negative of positive ones above it."""
    positive = real(positive, "examples", least=0, name="positive")
    negative = real(negative, "examples", least=0, name="negative")
    if not len(positive) or not len(negative):
        raise ValueError(f"expected examples of both kinds, got {len(positive)} positive and {len(negative)} negative")
    if np.isnan(positive).any() or np.isnan(negative).any():
        raise ValueError("expected scores of all examples, got NaN for some; leave out those examples")
    return _below(positive, negative), 1 - _below(negative, positive)


def _below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of the others below each score, ties counted half."""
    ordered = np.sort(others)
    ends = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return np.asarray(ends / (2 * len(ordered)))


def _variance(by_positive: np.ndarray, by_negative: np.ndarray) -> tuple[float, float]:
    """The variance of a mean over images of two kinds, and its degrees of freedom (Welch and Satterthwaite)."""
    if min(len(by_positive), len(by_negative)) < 2:
        raise ValueError(
            f"expected at least two examples of either kind, got {len(by_positive)} and {len(by_negative)}"
        )
    parts = [float(values.var(ddof=1)) / len(values) for values in (by_positive, by_negative)]
    total = sum(parts)
    below = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (by_positive, by_negative), strict=True))
    return total, total**2 / below if below > 0 else 1.0
