"""Rank correlations of quantities that are means over images, and therefore noisy.

``scipy.stats.spearmanr`` and ``kendalltau`` take one pair of samples at a time. A range needs the correlations of 1400
pairs of rows, which take them 0.9 s for 16 blocks; here they take 3 and 8 ms, with the same values to 1e-15. The ranks
themselves are scipy's. The inverse Wishart draws take a third of the time of ``scipy.stats.invwishart``, in a loop that
cannot be vectorised because each step of the Gibbs sampler depends on the previous one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..arguments import checked
from ..imports import first_import
from .real import real
from .resampling import bootstrap_means

Correlation = Callable[[np.ndarray, np.ndarray], np.ndarray]
_BURN, _KEPT = 100, 400  # the sampler forgets its start in about ten steps; 400 draws leave ten beyond either end


@checked
def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row of two (rows, n) arrays; NaN for a constant row or one with NaN.

    Raises:
        ValueError: the arrays differ in shape, or are not (rows, n).

    Example:
        >>> spearman(np.array([[1.0, 2.0, 4.0]]), np.array([[2.0, 9.0, 7.0]])).round(3)
        array([0.5])
    """
    with first_import("scipy.stats"):
        from scipy.stats import rankdata  # here: its import takes a second

    ranks = [rankdata(values, axis=1) for values in _alike(one, other)]
    centred = [values - values.mean(1, keepdims=True) for values in ranks]
    lengths = [np.sqrt((values**2).sum(1)) for values in centred]
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation: np.ndarray = (centred[0] * centred[1]).sum(1) / (lengths[0] * lengths[1])
    return correlation


@checked
def kendall(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each row of two (rows, n) arrays; NaN for a constant row or one that is not finite.

    Raises:
        ValueError: the arrays differ in shape, or are not (rows, n).

    Example:
        >>> kendall(np.array([[1.0, 2.0, 4.0]]), np.array([[2.0, 9.0, 7.0]])).round(3)
        array([0.333])
    """
    with np.errstate(invalid="ignore"):  # infinity minus itself
        signs = [np.sign(values[:, :, None] - values[:, None, :]) for values in _alike(one, other)]
    with np.errstate(invalid="ignore", divide="ignore"):
        untied = np.sqrt((signs[0] ** 2).sum((1, 2)) * (signs[1] ** 2).sum((1, 2)))
        correlation: np.ndarray = (signs[0] * signs[1]).sum((1, 2)) / untied
    return correlation


def _alike(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one, other = real(one, "rows, n", name="one"), real(other, "rows, n", name="other")
    if one.shape != other.shape:
        raise ValueError(f"expected two arrays of one shape (rows, n), got {one.shape} and {other.shape}")
    return one, other


@checked
def correlation_ranges(
    first: np.ndarray,
    second: np.ndarray,
    correlations: Sequence[Correlation] = (spearman,),
    *,
    paired: bool = True,
    draws: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Plausible ranges of the rank correlations that infinitely many images would show. Not confidence intervals.

    Noise in the ranks pulls a rank correlation towards zero, and resampling the images adds that noise a second time,
    so the middle 95 % of the bootstrap can miss the true value every time. Its range is therefore combined with that of
    400 draws from the posterior distribution of the noiseless values, whose pairs are modelled as normal with unknown
    mean and covariance (Gelman et al. 2013, Bayesian Data Analysis, section 11.6; Gibbs sampling). The result spans the
    central 95 % of both.

    In simulations the range contained the true value in 80 to 100 % of the cases, depending on the noise and on the
    distribution of the values; the bootstrap alone did in 0 to 98 % (docs/explanation/intervals.md). Hence no
    confidence level is stated.

    Args:
        first: (n, images), or (n,) values without noise.
        second: (n, images) or (n,), of the same n items.
        correlations: functions of the rows of two arrays (rows, n).
        paired: whether both were measured on the same images.
        draws: number of bootstrap draws.
        seed: seed of all draws.

    Returns:
        (correlations, 2): the lower and upper ends; NaN if a correlation is undefined, a value is not finite, or there
        is a single image.

    Raises:
        ValueError: the arrays have other shapes, other numbers of items, or if `paired` of images.

    Example:
        >>> values = np.random.default_rng(0).normal(size=(5, 200)) + np.arange(5)[:, None]
        >>> correlation_ranges(values, np.arange(5.0))
        array([[1., 1.]])
    """
    first, second = (real(values, "n, images" if values.ndim == 2 else "n", least=0) for values in (first, second))
    both = paired and first.ndim == second.ndim == 2
    if len(first) != len(second) or not len(first) or (both and first.shape != second.shape):
        raise ValueError(
            f"expected values of the same items{' and images' if both else ''}, at least one, got {first.shape} and "
            f"{second.shape}"
        )
    if any(values.ndim == 2 and values.shape[1] < 2 for values in (first, second)):
        return np.full((len(correlations), 2), np.nan)
    observed = [values.mean(1) if values.ndim == 2 else values for values in (first, second)]
    if any(not np.isfinite(values).all() or np.ptp(values) == 0 for values in observed):
        return np.full((len(correlations), 2), np.nan)
    is_noisy = [values.ndim == 2 for values in (first, second)]
    seeds = (seed, seed if paired else seed + 1)
    resampled = [
        bootstrap_means(values, draws, own_seed) if noisy else np.repeat(values[None], draws, 0)
        for values, noisy, own_seed in zip((first, second), is_noisy, seeds, strict=True)
    ]
    noiseless = _posterior(first, second, paired, seed)
    for index, values in enumerate((first, second)):
        if not is_noisy[index]:  # keep the ties of exact values
            noiseless[index] = np.repeat(values[None], _KEPT, 0)
    ends = np.empty((len(correlations), 2))
    for row, correlation in enumerate(correlations):
        ends[row] = correlation(observed[0][None], observed[1][None])[0]
        for pair in (resampled, noiseless):
            drawn = correlation(*pair)
            if np.isfinite(drawn).any():
                low, high = np.nanquantile(drawn, (0.025, 0.975))
                ends[row] = np.fmin(ends[row, 0], low), np.fmax(ends[row, 1], high)
    return ends


def _posterior(first: np.ndarray, second: np.ndarray, paired: bool, seed: int) -> list[np.ndarray]:
    """Draws of the noiseless values, two arrays (draws, n), by Gibbs sampling of a bivariate normal model."""
    observed, noise = _with_noise(first, second, paired)
    generator = np.random.default_rng(seed)
    n = len(observed)
    observed_variance = np.maximum(observed.var(0, ddof=1), 1e-300)
    scale = np.maximum(observed_variance - noise.mean(0).diagonal(), 0.1 * observed_variance)
    covariance, mean = np.diag(scale), observed.mean(0)
    samples = np.empty((_KEPT, n, 2))
    for step in range(_BURN + _KEPT):
        gain = covariance @ np.linalg.inv(covariance + noise)
        centre = mean + np.einsum("nij,nj->ni", gain, observed - mean)
        values = centre + _normal(covariance - gain @ covariance, generator)
        mean = values.mean(0) + _normal(covariance[None] / n, generator)[0]
        deviations = values - mean
        covariance = _inverse_wishart(deviations.T @ deviations + np.diag(0.02 * scale), n + 2, generator)
        if step >= _BURN:
            samples[step - _BURN] = values
    return [samples[..., 0], samples[..., 1]]


def _with_noise(first: np.ndarray, second: np.ndarray, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    """The means (n, 2), each column in units of its spread, and the covariances of their errors (n, 2, 2).

    A shift that an image adds to all n items changes no rank, so it is removed before the errors are estimated.
    """
    means = [values.mean(1) if values.ndim == 2 else values.astype(float) for values in (first, second)]
    scales = [float(values.std()) or 1.0 for values in means]
    noise = np.zeros((len(first), 2, 2))
    deviations: list[np.ndarray] = []
    for index, (values, scale) in enumerate(zip((first, second), scales, strict=True)):
        noise[:, index, index] = 1e-9  # keeps the matrices regular if the values are exact
        if values.ndim == 2:
            deviation = (values - values.mean(1, keepdims=True)) / scale
            deviations.append(deviation - deviation.mean(0))
            noise[:, index, index] += (deviations[-1] ** 2).sum(1) / (values.shape[1] - 1) / values.shape[1]
    if paired and len(deviations) == 2:
        images = first.shape[1]
        shared = (deviations[0] * deviations[1]).sum(1) / (images - 1) / images
        noise[:, 0, 1] = noise[:, 1, 0] = shared
    return np.stack([values / scale for values, scale in zip(means, scales, strict=True)], 1), noise


def _normal(covariances: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Normal pairs (n, 2) with the covariances (n, 2, 2); variances that rounding made negative count as zero."""
    first = np.sqrt(np.maximum(covariances[:, 0, 0], 1e-18))
    slope = covariances[:, 1, 0] / first
    second = np.sqrt(np.maximum(covariances[:, 1, 1] - slope**2, 0))
    draws = generator.normal(size=(len(covariances), 2))
    return np.stack([first * draws[:, 0], slope * draws[:, 0] + second * draws[:, 1]], 1)


def _inverse_wishart(scale: np.ndarray, freedom: int, generator: np.random.Generator) -> np.ndarray:
    """A draw from the inverse Wishart distribution, by Bartlett's decomposition."""
    factor = np.linalg.cholesky(np.linalg.inv(scale))
    lower = np.diag(np.sqrt(generator.chisquare([freedom, freedom - 1])))
    lower[1, 0] = generator.normal()
    root = factor @ lower
    covariance: np.ndarray = np.linalg.inv(root @ root.T)
    return covariance
