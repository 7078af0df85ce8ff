"""Shares, and differences of shares on the same images: score intervals, which have a width even at 0 of n.

``scipy.stats.binomtest(k, n).proportion_ci`` is Wilson's interval too, to the last bits, but only for integer counts;
the effective number of images in a design effect is not an integer. It also takes a millisecond, and studies need
thousands of intervals. The Clopper-Pearson bound is scipy's. Tango's interval for paired shares is in neither scipy nor
statsmodels.
"""

from __future__ import annotations

import math

import numpy as np

from ..arguments import checked
from ..arguments.ranges import COUNT, NONE_OR_MORE, POSITIVE, SHARE
from ..imports import first_import
from .quantiles import normal_quantile
from .real import real


def is_share(values: np.ndarray) -> bool:
    """Whether all values are zeros and ones."""
    return bool(np.isin(values, (0.0, 1.0)).all())


@checked(share=SHARE, count=POSITIVE)
def share_interval(share: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share observed on `count` images.

    ``(p + z²/2n ± z √(p (1 - p) / n + z²/4n²)) / (1 + z²/n)``.

    Args:
        share: observed share p.
        count: number of images n; need not be an integer (see :func:`design_interval`).
        confidence: coverage of the interval.

    Source: Wilson (1927), Journal of the American Statistical Association 22.

    Example:
        >>> low, high = share_interval(0.0, 100)
        >>> low, round(high, 3)
        (0.0, 0.037)
    """
    z = normal_quantile((1 + confidence) / 2)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low, high = min(share, centre - half), max(share, centre + half)  # rounding may leave an end just inside 0 or 1
    return max(0.0, low), min(1.0, high)


@checked(count=NONE_OR_MORE, among=COUNT)
def share_at_most(count: int, among: int, confidence: float = 0.95) -> float:
    """An exact upper confidence bound for a share with `count` successes among `among` images (Clopper, Pearson 1934).

    It is the largest p at which at most `count` successes have a probability of at least ``1 - confidence``.

    Args:
        count: number of successes.
        among: number of images.
        confidence: minimum probability that the bound holds.

    Raises:
        ValueError: `count` exceeds `among`.

    Example:
        >>> round(share_at_most(0, 100), 4), share_at_most(5, 5)
        (0.0295, 1.0)
    """
    if count > among:
        raise ValueError(f"expected at most all of {among} examples, got {count}")
    with first_import("scipy.special"):
        from scipy.special import betaincinv

    return 1.0 if count == among else float(betaincinv(count + 1, among - count, confidence))


@checked
def difference_interval(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """A score interval for how much larger the share of ones is in `second` than in `first`, on the same images.

    Tango's (1998) interval: the differences that the two-sided score test does not reject. If none of n images changed,
    it is still about ``±z²/n``, whereas resampling the images would give a single point.

    Args:
        first: a zero or a one for each image.
        second: a zero or a one for each of the same images.
        confidence: coverage of the interval; it is higher if few images change, because counts are discrete.

    Raises:
        ValueError: see :func:`fall_at_most`.

    Example:
        >>> low, high = difference_interval(np.zeros(200), np.zeros(200))
        >>> round(low, 4), round(high, 4)
        (-0.0188, 0.0188)
    """
    first, second = _rights(first, second)
    side = (1 + confidence) / 2
    return -fall_at_most(first, second, side), fall_at_most(1 - first, 1 - second, side)


@checked
def fall_at_most(before: np.ndarray, after: np.ndarray, confidence: float = 0.95) -> float:
    """An upper confidence bound for the drop in accuracy from one model to another, on the same images.

    Of n images, b are right before and wrong after, and c the other way round; the drop is ``d = (b - c) / n``. The
    bound is the largest d that the one-sided score test of Tango (1998, Statistics in Medicine 17, section 3) does not
    reject: ``(b - c - n d) / sqrt(n (2 q + d (1 - d))) = -z``, where q is the maximum likelihood estimate of the share
    of images of the second kind given d. Images on which both models agree count through n, so that losing 0 of 100
    does not give a bound of 0.

    Args:
        before: whether the first model is right on each image.
        after: whether the second model is right on each image.
        confidence: probability that the bound holds.

    Raises:
        ValueError: there are no images, the lengths differ, a value is neither zero nor one, or `confidence` is not
            between 0.5 and 1.

    Example:
        >>> right = np.ones(100)
        >>> round(fall_at_most(right, right), 3)
        0.026
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"expected a confidence between 0.5 and 1, got {confidence}")
    before, after = _rights(before, after)
    with first_import("scipy.optimize"):
        from scipy.optimize import brentq  # as in quantiles.py: a slow import

    was, now = before > 0.5, after > 0.5
    n, lost, won = len(was), int((was & ~now).sum()), int((now & ~was).sum())
    z = normal_quantile(confidence)
    fall = (lost - won) / n

    def above(d: float) -> float:
        return (lost - won - n * d) / _deviation(n, lost, won, d) + z

    top = 1 - 1e-12
    return 1.0 if above(top) > 0 else float(brentq(above, min(fall + 1e-12, top), top))


def _rights(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    before, after = real(before, "examples"), real(after, "examples")
    if before.shape != after.shape:
        raise ValueError(f"expected two vectors of the same examples, got {before.shape} and {after.shape}")
    if not (is_share(before) and is_share(after)):
        raise ValueError("expected zeros and ones, got other values; use mean_intervals of the differences")
    return before, after


def least_images(fall: float, confidence: float = 0.95) -> int:
    """The smallest number of images for which :func:`fall_at_most` is at most `fall` if no prediction changes.

    Without changes the score test reduces to ``n d / (1 - d) = z²``.

    Example:
        >>> least_images(0.01)
        268
    """
    z = normal_quantile(confidence)
    count = max(1, math.floor(z * z * (1 - fall) / fall))
    while fall_at_most(np.ones(count), np.ones(count), confidence) > fall:
        count += 1
    return count


def _deviation(n: int, lost: int, won: int, d: float) -> float:
    """The standard deviation of ``lost - won`` given the drop d, with q at its maximum likelihood estimate."""
    a, b, c = 2 * n, -lost - won + (2 * n - lost + won) * d, -won * d * (1 - d)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    return math.sqrt(max(n * (2 * q + d * (1 - d)), 1e-300))
