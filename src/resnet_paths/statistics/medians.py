"""Medians, with an interval that assumes nothing about the distribution.

``scipy.stats.quantile_test`` gives the same interval. It is not used because importing ``scipy.stats`` takes a second
(see ``quantiles``); the binomial probabilities are scipy's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..arguments import checked
from ..imports import first_import
from .real import real


@checked
def median_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the median between two order statistics.

    The median lies between the k-th smallest and the k-th largest of n values with probability ``1 - 2 P(B < k)``,
    where B is binomial (n, 1/2); k is the largest for which that is at least the confidence. With too few values for
    any k the interval is infinite; with NaN among them, both ends are.

    Raises:
        ValueError: the values are not in one dimension.

    Example:
        >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        (1.0, 6.0)
        >>> median_interval([1.0, 2.0])
        (-inf, inf)
    """
    ordered = np.sort(real(values, "n", least=0))
    if np.isnan(ordered).any():
        return math.nan, math.nan
    with first_import("scipy.special"):
        from scipy.special import bdtr

    probability_of_at_most = bdtr(np.arange(len(ordered)), len(ordered), 0.5)  # P(B <= 0), P(B <= 1), ...
    k = int((probability_of_at_most <= (1 - confidence) / 2 * (1 + 1e-12)).sum())
    return (float(ordered[k - 1]), float(ordered[-k])) if k > 0 else (-math.inf, math.inf)
