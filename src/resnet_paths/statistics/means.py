"""Intervals for means over images, and for statistics of several such means.

A network's errors are zeros and ones, so they get score intervals. Losses and norms are skewed, and Student's interval
is too short on the side of the long tail. Where two intervals fail in different cases, each end is the outer one of the
two: an interval that is somewhat too long misleads nobody; one that is too short does. docs/explanation/intervals.md
has the simulations that chose between the candidates.
"""

from __future__ import annotations

import math

import numpy as np

from ..arguments import checked
from ..arguments.ranges import ANY
from .proportions import difference_interval, fall_at_most, is_share, share_interval
from .quantiles import student_quantile
from .real import real
from .resampling import weights_in_parts


@checked
def interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """A confidence interval for the mean over images.

    Zeros and ones get Wilson's score interval, other values :func:`mean_intervals`.

    Args:
        values: one value per image.
        confidence: coverage of the interval.

    Raises:
        ValueError: there are no images, or not one value for each.

    Example:
        >>> low, high = interval(np.array([0, 0, 0, 1.0]))
        >>> round(low, 3), round(high, 3)
        (0.046, 0.699)
    """
    low, high = intervals(real(values, "examples")[None], confidence)
    return float(low[0]), float(high[0])


@checked
def intervals(
    values: np.ndarray, confidence: float = 0.95, *, reference: np.ndarray | None = None, bound: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`interval` for each row, or for the difference of each row's mean from the `reference` on the same images.

    Differences of zeros and ones get Tango's score interval (:func:`difference_interval`), others the interval of the
    mean difference.

    Args:
        values: (rows, images).
        confidence: coverage of the intervals.
        reference: (images,) or None.
        bound: see :func:`mean_intervals`.

    Returns:
        The lower and upper ends, (rows,) each.

    Raises:
        ValueError: there are no images, or the arrays have other shapes.
    """
    values = real(values, "rows, examples")
    if reference is not None and (reference := real(reference, "examples", name="reference")).shape != values.shape[1:]:
        raise ValueError(
            f"expected a reference on the same {values.shape[1]} examples as the values, got one on {len(reference)}"
        )
    if not is_share(values) or not (reference is None or is_share(reference)):
        return mean_intervals(values if reference is None else values - reference, confidence, bound=bound)
    if reference is None:
        ends = [share_interval(float(row.mean()), len(row), confidence) for row in values]
    else:
        ends = [difference_interval(reference, row, confidence) for row in values]
    low, high = np.array(ends, dtype=float).reshape(-1, 2).T
    return low, high


@checked
def mean_intervals(
    values: np.ndarray, confidence: float = 0.95, *, bound: float | None = None, draws: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence intervals for means over images of real values: on each side, the outer of two ends.

    One is Student's ``m ± t s / √n``, which is right for symmetric values. The other, for skewed values, is the
    bootstrap-t (Efron and Tibshirani 1993, section 12.5), which replaces t by the distribution of ``(m - m*) / s*``
    over resampled images. A single value, or values without any spread, carry no information on the error of the mean:
    their interval is infinite. With a `bound`, infinite ends are replaced by Student's with two added images, one at
    either bound, similar to what Agresti and Min (2005) add to paired shares.

    If a few images in a thousand determine the mean, no interval from a few hundred images has its stated coverage;
    docs/explanation/intervals.md shows where this one has it.

    Args:
        values: (..., images), one value per image.
        confidence: coverage of the intervals.
        bound: largest possible absolute value, if known.
        draws: number of bootstrap draws.
        seed: seed of the draws.

    Returns:
        The lower and upper ends, (...) each.

    Raises:
        ValueError: there are no images.

    Cost: ``2 * draws * values.size`` multiplications.

    Example:
        >>> low, high = mean_intervals(np.array([[0.1, 0.2, 0.4, 0.3], [0.5, 0.5, 0.5, 0.5]]))
        >>> bool(low[0] < 0.25 < high[0]), float(low[1]), float(high[1])
        (True, -inf, inf)
    """
    as_float = real(values, "..., examples")
    with np.errstate(invalid="ignore", over="ignore"):  # a mean that is not finite has NaN ends
        low, high = student_intervals(as_float, confidence)
        if as_float.shape[-1] >= 3:
            low, high = _outer_ends(as_float, low, high, confidence, draws, seed)
    if bound is None:
        return low, high
    with_bounds = np.concatenate([as_float, np.broadcast_to([-bound, bound], (*as_float.shape[:-1], 2))], -1)
    outer = student_intervals(with_bounds, confidence)
    low, high = (np.where(np.isfinite(end), end, other) for end, other in zip((low, high), outer, strict=True))
    return np.maximum(low, -bound), np.minimum(high, bound)


def _outer_ends(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, confidence: float, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The outer ones of Student's ends and those of the bootstrap-t."""
    mean = values.mean(-1)
    centred = values - mean[..., None]
    error = np.sqrt((centred**2).sum(-1) / (values.shape[-1] - 1) / values.shape[-1])
    bootstrap_t = _bootstrap_t(centred, draws, seed)
    ends = np.quantile(bootstrap_t, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1, method="closest_observation")
    with np.errstate(invalid="ignore"):  # 0 * inf for values without spread; Student's ends are infinite there anyway
        return np.fmin(low, mean - ends[1] * error), np.fmax(high, mean - ends[0] * error)


def _bootstrap_t(centred: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Student's t of the resampled images, (..., draws); infinite if they are all equal and differ from the mean."""
    parts = []
    for weights in weights_in_parts(centred.shape[-1], draws, seed):
        means = centred @ weights
        squares = centred**2 @ weights
        variance = squares - means**2
        variance[variance <= 1e-12 * squares] = 0.0  # rounding error of resampled images that are all equal
        spread = np.sqrt(variance / (centred.shape[-1] - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(np.nan_to_num(means / spread, nan=0.0, posinf=np.inf, neginf=-np.inf))
    return np.concatenate(parts, -1)


@checked
def rise_at_most(
    before: np.ndarray,
    after: np.ndarray,
    confidence: float = 0.95,
    *,
    bound: float | None = None,
    distribution_free: bool = False,
) -> float:
    """An upper confidence bound for the rise of a mean from one model to another, on the same examples.

    Zeros and ones get the score test of :func:`fall_at_most`, other values the upper end of :func:`mean_intervals` of
    the differences d, which is approximate. The distribution-free bound is that of Maurer and Pontil (2009, theorem 4),
    ``mean d + s sqrt(2 l / n) + 14 b l / (3 (n - 1))``, with ``l = log(2 / (1 - confidence))``, s the standard
    deviation of d and b its bound.

    Args:
        before: the first model's value on each example.
        after: the second model's.
        confidence: probability that the bound holds.
        bound: largest possible absolute difference on an example, if known.
        distribution_free: whether the bound must hold for any distribution of bounded differences.

    Returns:
        The bound; infinite if a value is not finite, or if no bound can be stated.

    Raises:
        ValueError: the values are not of the same examples, at least one; or `distribution_free` without a `bound`, or
            differences beyond it.

    Example:
        >>> values = np.linspace(0, 1, 50)
        >>> round(rise_at_most(values, values + np.sin(99 * values) / 10), 3)
        0.018
    """
    if distribution_free and bound is None:
        raise ValueError("expected a metric with a maximum for a distribution-free bound, got one without")
    before, after = real(before, "examples", name="before"), real(after, "examples", name="after")
    if before.shape != after.shape:
        raise ValueError(f"expected two vectors of the same examples, got {before.shape} and {after.shape}")
    with np.errstate(invalid="ignore"):  # infinity minus itself
        differences = after - before
    if not np.isfinite(differences).all():
        return math.inf
    if distribution_free and bound is not None:
        return _empirical_bernstein(differences, confidence, bound)
    if is_share(before) and is_share(after):
        return fall_at_most(1 - before, 1 - after, confidence)
    return float(mean_intervals(differences[None], 2 * confidence - 1, bound=bound)[1][0])


def _empirical_bernstein(differences: np.ndarray, confidence: float, bound: float) -> float:
    count, log = len(differences), math.log(2 / (1 - confidence))
    if np.abs(differences).max() > bound * (1 + 1e-12):
        raise ValueError(
            f"expected differences of at most {bound:g} for a distribution-free bound, got "
            f"{np.abs(differences).max():.3g}; a metric that weighs long examples more has none"
        )
    if count < 2:
        return math.inf
    spread = float(differences.std(ddof=1)) * math.sqrt(2 * log / count)
    return min(bound, float(differences.mean()) + spread + 14 * bound * log / (3 * (count - 1)))


@checked
def student_intervals(values: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Student's intervals for means over the last dimension; infinite for a single value or values without spread.

    Raises:
        ValueError: there are no values.

    Example:
        >>> low, high = student_intervals(np.array([1.0, 2.0, 3.0]))
        >>> round(float(low), 3), round(float(high), 3)
        (-0.484, 4.484)
    """
    values = real(values, "..., n")
    count, mean = values.shape[-1], values.mean(-1)
    if count < 2:
        return np.full_like(mean, -math.inf, dtype=float), np.full_like(mean, math.inf, dtype=float)
    quantile = float(student_quantile((1 + confidence) / 2, count - 1))
    with np.errstate(invalid="ignore"):  # a mean that is not finite has NaN ends
        half = np.where(np.ptp(values, axis=-1) == 0, math.inf, quantile * values.std(-1, ddof=1) / math.sqrt(count))
        return mean - half, mean + half


@checked
def combined_intervals(
    values: np.ndarray,
    errors: np.ndarray,
    shared: np.ndarray,
    draws: int,
    confidence: float = 0.95,
    *,
    bound: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Student's intervals for means over images of values that are themselves means over random draws.

    The variance is that over images plus that over draws, minus the part that both contain (two crossed random
    effects); the degrees of freedom follow Welch and Satterthwaite.

    Args:
        values: (..., images), means over the draws.
        errors: (...) standard errors of the mean over the draws, on these images.
        shared: (...) variance contained in both of the above (the interaction of images and draws).
        draws: number of draws.
        confidence: coverage of the intervals.
        bound: see :func:`mean_intervals`.

    Returns:
        The lower and upper ends; infinite for a single image or draw, or if neither images nor draws vary.

    Raises:
        ValueError: there are no images.

    Example:
        >>> low, high = combined_intervals(np.array([[1.0, 2.0, 3.0]]), np.array([0.5]), np.array([0.0]), 8)
        >>> bool(high[0] - low[0] > np.subtract(*student_intervals(np.array([3.0, 2.0, 1.0]))[::-1]) / 2)
        True
    """
    values = real(values, "..., examples")
    images = values.shape[-1]
    mean = values.mean(-1)
    if images < 2 or draws < 2:
        return np.full_like(mean, -math.inf), np.full_like(mean, math.inf)
    with np.errstate(invalid="ignore"):  # a mean that is not finite has NaN ends
        over_images = values.var(-1, ddof=1) / images
    if bound is not None:  # with fewer than four changed images, add one at either bound, so that there is a spread
        with_bounds = np.concatenate([values, np.broadcast_to([-bound, bound], (*values.shape[:-1], 2))], -1)
        over_images = np.where((values != 0).sum(-1) < 4, with_bounds.var(-1, ddof=1) / (images + 2), over_images)
    variances = over_images, errors**2
    total = np.maximum(variances[0] + variances[1] - shared, np.maximum(*variances))
    smallest = np.finfo(float).tiny
    freedom = (variances[0] + variances[1]) ** 2 / np.maximum(
        variances[0] ** 2 / (images - 1) + variances[1] ** 2 / (draws - 1), smallest
    )
    half = student_quantile((1 + confidence) / 2, np.maximum(freedom, 1.0)) * np.sqrt(total)
    half = np.where(total > 0, half, math.inf)
    with np.errstate(invalid="ignore"):
        return mean - half, mean + half


@checked(value=ANY)
def design_interval(
    value: float, drawn: np.ndarray, images: int, *, share: bool, confidence: float = 0.95
) -> tuple[float, float]:
    """An interval for a statistic of several means over the same images, such as their median.

    The standard error is that of the statistic over resampled images. For shares it is converted to an effective number
    of images, ``p (1 - p) / error²`` but at most the actual number, and the interval is Wilson's for that number (a
    design effect, Kish 1965, section 8.2). For other values the interval is Student's.

    Args:
        value: the statistic.
        drawn: the statistic of the resampled images.
        images: number of images.
        share: whether the means are of zeros and ones.
        confidence: coverage of the interval.

    Returns:
        The ends; NaN if the statistic is not finite, here or on resampled images.

    Raises:
        ValueError: there is no resampled statistic.

    Example:
        >>> low, high = design_interval(0.0, np.zeros(1000), 200, share=True)
        >>> low, round(high, 3)
        (0.0, 0.019)
    """
    drawn = real(drawn, "draws", name="drawn")
    if not (math.isfinite(value) and np.isfinite(drawn).all()):
        return math.nan, math.nan
    error = float(drawn.std(ddof=1)) if np.ptp(drawn) else 0.0
    if share:
        spread = value * (1 - value)
        effective_images = min(images, spread / error**2) if error and spread else images
        return share_interval(value, effective_images, confidence)
    if not error or images < 2:
        return -math.inf, math.inf
    half = float(student_quantile((1 + confidence) / 2, images - 1)) * error
    return value - half, value + half
