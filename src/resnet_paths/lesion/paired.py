"""How far a share may have fallen between two models that saw the same images."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm


def fall_at_most(before: np.ndarray, after: np.ndarray, level: float = 0.95) -> float:
    """An upper confidence bound for the fall of accuracy from one model to another, on the same images.

    With b images right before and wrong after, c the other way round, of n, the fall is ``d = (b - c) / n``. The
    bound is the largest d that the one-sided score test of Tango (1998, Statistics in Medicine 17, section 3) does not
    reject: ``(b - c - n d) / sqrt(n (2 q + d (1 - d))) = -z``, with q the likeliest share of images of the second kind
    when the fall is d. Images on which both models are alike count through n, so 0 of 100 lost is not a bound of 0.

    Args:
        before: whether the first model is right, for each image.
        after: likewise the second model.
        level: probability that the bound holds.

    Raises:
        ValueError: no images, or not as many; a level not between 0.5 and 1.

    Example:
        >>> right = np.ones(100)
        >>> round(fall_at_most(right, right), 3)
        0.026
    """
    if before.shape != after.shape or before.ndim != 1 or not len(before) or not 0.5 < level < 1:
        raise ValueError(
            "expected whether each of the same images is right, twice, and a level between 0.5 and 1, got "
            f"{before.shape}, {after.shape} and {level}"
        )
    was, now = before > 0.5, after > 0.5
    n, lost, won = len(was), int((was & ~now).sum()), int((now & ~was).sum())
    z = float(norm.ppf(level))
    found = (lost - won) / n

    def above(d: float) -> float:
        return (lost - won - n * d) / _deviation(n, lost, won, d) + z

    top = 1 - 1e-12
    return 1.0 if above(top) > 0 else float(brentq(above, min(found + 1e-12, top), top))


def _deviation(n: int, lost: int, won: int, d: float) -> float:
    """The standard deviation of ``lost - won`` when the fall is d, its other parameter at its likeliest."""
    a, b, c = 2 * n, -lost - won + (2 * n - lost + won) * d, -won * d * (1 - d)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    return math.sqrt(max(n * (2 * q + d * (1 - d)), 1e-300))
