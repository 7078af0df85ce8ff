"""Medians, with an interval that assumes nothing about the distribution.

``scipy.stats.quantile_test`` gives the same interval; it is not called because the import of ``scipy.stats`` takes a
second (see ``quantiles``). The binomial probabilities are scipy's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..arguments import checked
from ..imports import first_import


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
    with first_import("scipy.special"):
        from scipy.special import bdtr

    below = bdtr(np.arange(len(ordered)), len(ordered), 0.5)  # P(B <= 0), P(B <= 1), ...
    k = int((below <= (1 - confidence) / 2 * (1 + 1e-12)).sum())
    return (float(ordered[k - 1]), float(ordered[-k])) if k > 0 else (-math.inf, math.inf)
