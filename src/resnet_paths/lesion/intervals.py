"""How sure a mean over images is: score intervals for shares, the bootstrap for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.stats import norm


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """A confidence interval for the mean over images.

    Of zeros and ones, Wilson's score interval; otherwise ``mean ± z s/√n``.

    Args:
        values: one value an image.
        level: the interval's coverage.

    Raises:
        ValueError: no images, or a level not between 0 and 1.

    Example:
        >>> low, high = interval(np.array([0, 0, 0, 1.0]))
        >>> round(low, 3), round(high, 3)
        (0.046, 0.699)
    """
    if not len(values) or not 0 < level < 1:
        raise ValueError(f"expected at least one image and a level between 0 and 1, got {len(values)} and {level}")
    count, mean, z = len(values), float(np.mean(values)), float(norm.ppf((1 + level) / 2))
    if np.isin(values, (0.0, 1.0)).all():
        centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * math.sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
        low, high = min(mean, centre - half), max(mean, centre + half)  # rounding may leave them just inside 0 or 1
        return max(0.0, low), min(1.0, high)
    half = z * float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return mean - half, mean + half


def resamples(images: int, count: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each image is drawn when as many are drawn with replacement, (count, images).

    Example:
        >>> resamples(5, 3).sum(1)
        array([5, 5, 5])
    """
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=count)


def bootstrap_means(values: np.ndarray, count: int = 1000, seed: int = 0) -> np.ndarray:
    """Means over images drawn anew with replacement, the same images in every row.

    Args:
        values: (..., images).
        count: draws.
        seed: of the draws.

    Returns:
        (count, ...).

    Cost: ``count * values.size`` multiplications.
    """
    weights = resamples(values.shape[-1], count, seed) / values.shape[-1]
    means: np.ndarray = np.moveaxis(np.asarray(values, float) @ weights.T, -1, 0)
    return means


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means,
    *,
    level: float = 0.95,
    count: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """A percentile bootstrap interval over images, of means or of what follows from them.

    The images are drawn with replacement, the same ones for every row of `values`, so that differences of rows
    that were measured on the same images are paired (Efron and Tibshirani 1993, chapters 13 and 8.3). It says what
    other images would have given; the network and the damage stay the same. The bootstrap of a share that is zero on
    all images is a point: use :func:`interval` for single shares close to zero.

    Args:
        values: (..., images), one value an image.
        statistic: from the means (count, ...) to what the interval is of, (count, ...); the means themselves.
        level: the interval's coverage.
        count: draws.
        seed: of the draws.

    Returns:
        The lower and the upper ends.

    Raises:
        ValueError: fewer than two images, or a level not between 0 and 1.

    Example:
        >>> values = np.array([[0.0, 1.0, 1.0, 0.0], [1.0, 2.0, 2.0, 1.0]])
        >>> low, high = bootstrap(values, lambda means: means[:, 1] - means[:, 0])
        >>> float(low), float(high)
        (1.0, 1.0)
    """
    if values.shape[-1] < 2 or not 0 < level < 1:
        raise ValueError(
            f"expected at least two images and a level between 0 and 1, got {values.shape[-1]} images and {level}"
        )
    found = statistic(bootstrap_means(values, count, seed))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
