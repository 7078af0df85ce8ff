"""Means of a few positive, skewed values: gradient norms along random paths.

They spread over orders of magnitude, and there are often only ten or twenty because each costs a backward pass. From so
few values the bootstrap sees too little of the long tail, and Student's interval reaches below zero. A log-normal
distribution describes such norms well but not exactly, so its interval is combined with one that assumes no
distribution.
"""

from __future__ import annotations

import numpy as np

from ..arguments import checked
from .means import mean_intervals
from .quantiles import student_quantile
from .real import real
from .resampling import weights_in_parts


@checked
def norm_intervals(values: np.ndarray, confidence: float = 0.95, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Intervals for means of a few positive values spread over orders of magnitude: the outer of two ends.

    One is the bootstrap-t interval (:func:`mean_intervals`), which assumes no distribution but is too short for heavy
    tails. The other is that of a log-normal mean (Olsson 2005, after Cox): with m and s² of the
    logarithms, ``exp(m + s²/2 ± t √(s²/n + s⁴/(2 (n - 1))))``. Never below zero.

    Args:
        values: (..., draws), not negative.
        confidence: coverage of the intervals.
        seed: seed of the bootstrap.

    Returns:
        The lower and upper ends; the upper one is infinite for a single value or values that are all equal.

    Raises:
        ValueError: there are no values, or negative ones.

    Example:
        >>> low, high = norm_intervals(np.array([1.0, 2.0, 4.0, 8.0]))
        >>> bool(0 < low < 3.75 < high)
        True
    """
    values = _norms(values, "..., draws")
    low, high = mean_intervals(values, confidence, seed=seed)
    count, positive = values.shape[-1], np.asarray((values > 0).all(-1))
    if count > 1 and positive.any():
        logs = np.log(np.where(positive[..., None], values, 1.0))
        with np.errstate(invalid="ignore"):  # a norm that is not finite
            spread = logs.var(-1, ddof=1)
        centre = logs.mean(-1) + spread / 2
        half = float(student_quantile((1 + confidence) / 2, count - 1)) * np.sqrt(
            spread / count + spread**2 / (2 * (count - 1))
        )
        with np.errstate(over="ignore"):
            end = np.exp(centre - half)
            low = np.where(positive, np.where(low > 0, np.minimum(low, end), end), low)
            high = np.where(positive, np.maximum(high, np.exp(centre + half)), high)
    return np.maximum(low, 0.0), high


@checked
def pooled_norm_intervals(
    values: np.ndarray, confidence: float = 0.95, *, draws: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals for the mean over examples of each example's mean over its own draws: the outer of two ends.

    One is the bootstrap-t, resampled within each example. The other is Student's interval of the logarithm,
    :func:`log_student_interval`, with the degrees of freedom of Welch and Satterthwaite.

    Args:
        values: (..., draws, examples), not negative; draws of different examples are independent, at least two each.
        confidence: coverage of the intervals.
        draws: number of bootstrap draws.
        seed: seed of the bootstrap.

    Returns:
        The lower and upper ends, (...) each; the upper one is infinite if the draws of each example are all equal;
        both are NaN if a norm is not finite.

    Raises:
        ValueError: there are no examples, fewer than two draws of each, or negative values.
    """
    values = _norms(values, "..., draws, examples")
    if values.shape[-2] < 2:
        raise ValueError(f"expected at least two draws of each example, got {values.shape[-2]}; draw more paths")
    finite = np.isfinite(values).all((-2, -1))
    values = np.where(finite[..., None, None], values, 1.0)
    sampled, examples = values.shape[-2:]
    errors = values.var(-2, ddof=1) / sampled
    total = errors.sum(-1)
    mean, error = values.mean((-2, -1)), np.sqrt(total) / examples
    freedom = total**2 / np.maximum((errors**2).sum(-1) / (sampled - 1), np.finfo(float).tiny)
    low, high = log_student_interval(mean, error, np.maximum(freedom, 1.0), confidence)
    drawn, variance = np.zeros((*mean.shape, draws)), np.zeros((*mean.shape, draws))
    for example in range(examples):
        centred = values[..., example] - values[..., example].mean(-1, keepdims=True)
        start = 0
        for weights in weights_in_parts(sampled, draws, seed + example):
            part = slice(start, start := start + weights.shape[1])
            means = centred @ weights
            drawn[..., part] += means / examples
            variance[..., part] += np.maximum(centred**2 @ weights - means**2, 0) / (sampled - 1) / examples**2
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num(drawn / np.sqrt(variance), nan=0.0, posinf=np.inf, neginf=-np.inf)
        ends = np.quantile(t, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1, method="closest_observation")
        outer = np.fmin(low, mean - ends[1] * error), np.fmax(high, mean - ends[0] * error)
    least, most = np.maximum(np.where(error > 0, outer[0], 0.0), 0.0), np.where(error > 0, outer[1], np.inf)
    return np.where(finite, least, np.nan), np.where(finite, most, np.nan)


def _norms(values: np.ndarray, form: str) -> np.ndarray:
    norms = real(values, form)
    if (norms < 0).any():
        raise ValueError(f"expected norms, of at least 0, got {np.nanmin(norms):g}; use mean_intervals")
    return norms


@checked
def log_student_interval(
    mean: np.ndarray | float, error: np.ndarray | float, freedom: np.ndarray | float, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """``mean * exp(±t error / mean)``: Student's interval of the logarithm, which stays positive.

    Raises:
        TypeError: the arrays do not contain real numbers.

    Example:
        >>> low, high = log_student_interval(np.array(2.0), np.array(0.1), 10)
        >>> round(float(low * high), 6)
        4.0
    """
    mean, error = real(mean, "...", name="mean"), real(error, "...", name="error")
    quantile = student_quantile((1 + confidence) / 2, freedom)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        factor = np.exp(quantile * error / np.maximum(mean, np.finfo(float).tiny))
        return mean / factor, mean * factor
