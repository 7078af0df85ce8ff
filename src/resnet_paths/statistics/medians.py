"""Medians, with an interval that supposes nothing of a distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..arguments import checked


@checked
def median_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the median between two order statistics.

    Between the k-th smallest and the k-th largest of n lies the median with probability ``1 - 2 P(B < k)``, B the heads
    among n tosses of a coin; k is the largest for which that is at least the confidence. With too few values for any k
    the interval is the whole line.

    Example:
        >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        (1.0, 6.0)
        >>> median_interval([1.0, 2.0])
        (-inf, inf)
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    k, below = 0, 2.0 ** -len(ordered)  # P(B <= k)
    while below <= (1 - confidence) / 2 and k < len(ordered):
        k += 1
        below += math.comb(len(ordered), k) * 2.0 ** -len(ordered)
    return (float(ordered[k - 1]), float(ordered[-k])) if k > 0 else (-math.inf, math.inf)
