"""Means over images, and statistics over sets of means.

Errors of a network are zeros and ones, and take score intervals; losses and norms are skewed, and Student's interval
for them is too short on the long side. Of two intervals that err in different cases the further end is taken on each
side: an interval that is somewhat too long misleads nobody, and one that is too short does.
docs/explanation/intervals.md has the simulations that chose between the candidates.
"""

from __future__ import annotations

import math

import numpy as np

from ..arguments import checked
from .proportions import difference_interval, is_share, share_interval
from .quantiles import student_quantile
from .resampling import weights_in_parts


@checked
def interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """A confidence interval for the mean over images.

    Of zeros and ones, Wilson's score interval; otherwise :func:`mean_intervals`.

    Args:
        values: one value an image.
        confidence: the interval's coverage.

    Raises:
        ValueError: no images, or a confidence not between 0 and 1.

    Example:
        >>> low, high = interval(np.array([0, 0, 0, 1.0]))
        >>> round(low, 3), round(high, 3)
        (0.046, 0.699)
    """
    low, high = intervals(np.asarray(values)[None], confidence)
    return float(low[0]), float(high[0])


@checked
def intervals(
    values: np.ndarray, confidence: float = 0.95, *, reference: np.ndarray | None = None, bound: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`interval` for each row, or for what each row's mean is above that of the `reference` on the same images.

    Differences of zeros and ones take Tango's score interval (:func:`difference_interval`), others the interval of
    the mean of the differences.

    Args:
        values: (rows, images).
        confidence: the intervals' coverage.
        reference: (images,) or None.
        bound: see :func:`mean_intervals`.

    Returns:
        The lower and the upper ends, (rows,) each.

    Raises:
        ValueError: no images, or a confidence not between 0 and 1.
    """
    if not values.shape[-1] or not 0 < confidence < 1:
        raise ValueError(
            f"expected at least one image and a confidence between 0 and 1, got {values.shape[-1]} and {confidence}"
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
    """Confidence intervals for means over images of real values: on each side the further of two ends.

    One is Student's ``m ± t s / √n``, which is right for symmetric values. The other, for skewed ones, is the bootstrap
    of Student's t (Efron and Tibshirani 1993, section 12.5): ``(m - m*) / s*`` over images drawn anew takes the place
    of t. Values without any spread do not tell how far the mean may be off, nor does a single one: their interval is
    infinite. With a `bound` ends that would be infinite are Student's with two more images, one at either bound, the
    like of what Agresti and Min (2005) add to paired shares.

    Where a few images in a thousand decide the mean, no interval from a few hundred images covers what it says;
    docs/explanation/intervals.md tells where this one does.

    Args:
        values: (..., images), one value an image.
        confidence: the intervals' coverage.
        bound: no value can be further than this from 0, where that is known.
        draws: bootstrap draws.
        seed: of the draws.

    Returns:
        The lower and the upper ends, (...) each.

    Raises:
        ValueError: no images, or a confidence not between 0 and 1.

    Cost: ``2 * draws * values.size`` multiplications.

    Example:
        >>> low, high = mean_intervals(np.array([[0.1, 0.2, 0.4, 0.3], [0.5, 0.5, 0.5, 0.5]]))
        >>> bool(low[0] < 0.25 < high[0]), float(low[1]), float(high[1])
        (True, -inf, inf)
    """
    if not values.shape[-1] or not 0 < confidence < 1:
        raise ValueError(
            f"expected at least one image and a confidence between 0 and 1, got {values.shape[-1]} and {confidence}"
        )
    wide = np.asarray(values, float)
    with np.errstate(invalid="ignore", over="ignore"):  # means that are not finite have no ends: NaN
        low, high = student_intervals(wide, confidence)
        if wide.shape[-1] >= 3:
            low, high = _further(wide, low, high, confidence, draws, seed)
    if bound is None:
        return low, high
    added = np.concatenate([wide, np.broadcast_to([-bound, bound], (*wide.shape[:-1], 2))], -1)
    outer = student_intervals(added, confidence)
    low, high = (np.where(np.isfinite(end), end, other) for end, other in zip((low, high), outer, strict=True))
    return np.maximum(low, -bound), np.minimum(high, bound)


def _further(
    wide: np.ndarray, low: np.ndarray, high: np.ndarray, confidence: float, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Student's ends, or those of t drawn anew where these are further out."""
    mean = wide.mean(-1)
    centred = wide - mean[..., None]
    error = np.sqrt((centred**2).sum(-1) / (wide.shape[-1] - 1) / wide.shape[-1])
    drawn = _drawn_t(centred, draws, seed)
    ends = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1, method="closest_observation")
    with np.errstate(invalid="ignore"):  # 0 * inf, of values without spread, for which Student's ends are infinite
        return np.fmin(low, mean - ends[1] * error), np.fmax(high, mean - ends[0] * error)


def _drawn_t(centred: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """(..., draws) Student's t of the redrawn images; infinite where they are all alike and off the mean."""
    parts = []
    for weights in weights_in_parts(centred.shape[-1], draws, seed):
        means = centred @ weights
        squares = centred**2 @ weights
        variance = squares - means**2
        variance[variance <= 1e-12 * squares] = 0.0  # what rounding leaves of redrawn images that are all alike
        spread = np.sqrt(variance / (centred.shape[-1] - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(np.nan_to_num(means / spread, nan=0.0, posinf=np.inf, neginf=-np.inf))
    return np.concatenate(parts, -1)


@checked
def student_intervals(values: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Student's intervals for means over the last dimension; infinite where values have no spread, or there is one.

    Example:
        >>> low, high = student_intervals(np.array([1.0, 2.0, 3.0]))
        >>> round(float(low), 3), round(float(high), 3)
        (-0.484, 4.484)
    """
    count, mean = values.shape[-1], values.mean(-1)
    if count < 2:
        return np.full_like(mean, -math.inf, dtype=float), np.full_like(mean, math.inf, dtype=float)
    alike = np.ptp(values, axis=-1) == 0
    half = float(student_quantile((1 + confidence) / 2, count - 1)) * values.std(-1, ddof=1) / math.sqrt(count)
    half = np.where(alike, math.inf, half)
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

    The variance is that of the mean over images, plus that over draws, less what is in both (the crossed layout of
    two random effects); degrees of freedom by Welch and Satterthwaite.

    Args:
        values: (..., images), the means over the draws.
        errors: (...) standard errors of the mean over the draws, on these images.
        shared: (...) the variance that images and draws have together, which both of the others contain.
        draws: their number.
        confidence: the intervals' coverage.
        bound: see :func:`mean_intervals`.

    Returns:
        The lower and the upper ends; infinite for a single image, or where neither images nor draws differ.

    Example:
        >>> low, high = combined_intervals(np.array([[1.0, 2.0, 3.0]]), np.array([0.5]), np.array([0.0]), 8)
        >>> bool(high[0] - low[0] > np.subtract(*student_intervals(np.array([3.0, 2.0, 1.0]))[::-1]) / 2)
        True
    """
    images = values.shape[-1]
    mean = values.mean(-1)
    if images < 2:
        return np.full_like(mean, -math.inf), np.full_like(mean, math.inf)
    over_images = values.var(-1, ddof=1) / images
    if bound is not None:  # an image at either bound more, so that changes of fewer than four images have a spread
        added = np.concatenate([values, np.broadcast_to([-bound, bound], (*values.shape[:-1], 2))], -1)
        over_images = np.where((values != 0).sum(-1) < 4, added.var(-1, ddof=1) / (images + 2), over_images)
    parts = over_images, errors**2
    total = np.maximum(parts[0] + parts[1] - shared, np.maximum(*parts))
    smallest = np.finfo(float).tiny
    freedom = (parts[0] + parts[1]) ** 2 / np.maximum(
        parts[0] ** 2 / (images - 1) + parts[1] ** 2 / (draws - 1), smallest
    )
    half = student_quantile((1 + confidence) / 2, np.maximum(freedom, 1.0)) * np.sqrt(total)
    half = np.where(total > 0, half, math.inf)
    return mean - half, mean + half


@checked
def design_interval(
    value: float, drawn: np.ndarray, images: int, *, share: bool, confidence: float = 0.95
) -> tuple[float, float]:
    """An interval for a statistic of several means over the same images, such as their median.

    Its standard error is that of the statistic over images drawn anew. For shares it tells for how many images the
    statistic counts, ``p (1 - p) / error²`` but no more than there are, and the interval is Wilson's for so many (a
    design effect, Kish 1965, section 8.2); for other values it is Student's.

    Args:
        value: the statistic.
        drawn: the statistic of the redrawn images.
        images: their number.
        share: whether the means are of zeros and ones.
        confidence: the interval's coverage.

    Example:
        >>> low, high = design_interval(0.0, np.zeros(1000), 200, share=True)
        >>> low, round(high, 3)
        (0.0, 0.019)
    """
    error = float(drawn.std(ddof=1)) if np.ptp(drawn) else 0.0
    if share:
        spread = value * (1 - value)
        counted = min(images, spread / error**2) if error and spread else images
        return share_interval(value, counted, confidence)
    if not error or images < 2:
        return -math.inf, math.inf
    half = float(student_quantile((1 + confidence) / 2, images - 1)) * error
    return value - half, value + half
