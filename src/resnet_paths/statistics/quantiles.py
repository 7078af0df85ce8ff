"""Quantiles and tails of the normal distribution and of Student's t.

Not ``scipy.stats``: its import takes a second, half as long as that of PyTorch, and every command and every worker
process would pay for it. These are the special functions behind it, which return the same numbers to the last bit; they
too are imported on the first call.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..imports import first_import


def normal_quantile(probability: float) -> float:
    """The quantile of the standard normal distribution at this probability.

    Raises:
        ValueError: the probability is not from 0 to 1.

    Example:
        >>> round(normal_quantile(0.975), 2)
        1.96
    """
    with first_import("scipy.special"):
        from scipy.special import ndtri

    return float(ndtri(_between(probability)))


def student_quantile(probability: float, freedom: Any) -> np.ndarray:
    """The quantile of Student's t with these degrees of freedom (a number or an array).

    Raises:
        ValueError: the probability is not from 0 to 1.

    Example:
        >>> float(student_quantile(0.975, 9).round(2))
        2.26
    """
    with first_import("scipy.special"):
        from scipy.special import stdtrit

    quantiles: np.ndarray = stdtrit(freedom, _between(probability))
    return quantiles


def student_tail(value: float, freedom: float) -> float:
    """The probability that a variable with Student's t distribution exceeds the value.

    Example:
        >>> round(student_tail(2.26, 9), 3)
        0.025
    """
    with first_import("scipy.special"):
        from scipy.special import stdtr

    return float(stdtr(freedom, -value))


def _between(probability: float) -> float:
    if not 0 <= probability <= 1:
        raise ValueError(f"expected a probability from 0 to 1, got {probability}")
    return probability
