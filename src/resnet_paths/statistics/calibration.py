"""Whether predicted probabilities mean what they say: binned calibration errors, without their usual bias.

The mean absolute gap of the bins (the usual ECE) is above zero even for a perfectly calibrated network, and more so the
fewer images there are; two networks with the same calibration differ in it when the distributions of their certainties
differ. Its square has an unbiased estimate, so that is what gets an interval.
"""

from __future__ import annotations

import numpy as np

from ..arguments import checked
from .real import real
from .resampling import weights_in_parts

_ROUNDING = 1e-2  # of a sum of half-precision probabilities


@checked
def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """The usual calibration error: the mean over bins of |accuracy - mean certainty|, weighted by their images.

    Certainty is the probability of the predicted class. The bins hold equally many images (images of one certainty
    share a bin); a bin of a single image is joined to its neighbour. Biased upwards, by about √(bins / images) times
    the spread of a single image; see :func:`squared_calibration_error` for an estimate without that bias.

    Args:
        probabilities: (images, classes).
        labels: (images,).
        bins: number of bins.

    Raises:
        ValueError: there are fewer than two images, a probability is not finite or not between 0 and 1, or a label is
            not a class.

    Source: Naeini, Cooper and Hauskrecht (2015); with bins of equal mass, Nguyen and O'Connor (2015).

    Example:
        >>> certain = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> expected_calibration_error(certain, np.array([0, 0, 0, 1]))
        0.25
    """
    gaps, of = _gaps(probabilities, labels, bins)
    return float(np.abs(of @ gaps).sum() / len(gaps))


@checked
def squared_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """The mean over images of the squared gap between accuracy and mean certainty of their bin, without bias.

    With r_i = [prediction i is right] - certainty i, a bin of m images has the gap E[r], whose square is estimated
    without bias by ``Σ_{i≠j} r_i r_j / (m (m - 1))``. Its root is comparable to :func:`expected_calibration_error`;
    below zero, the data show no calibration error. Bins are those of that function.

    Args:
        probabilities: (images, classes).
        labels: (images,).
        bins: number of bins.

    Raises:
        ValueError: there are fewer than two images, a probability is not finite or not between 0 and 1, or a label is
            not a class.

    Source: Kumar, Liang and Ma (2019), Verified Uncertainty Calibration, section 5, who subtract an estimate of the
        same bias; here it also counts the spread of the certainties within a bin.

    Example:
        >>> certain = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> squared_calibration_error(certain, np.array([0, 0, 0, 1]))
        0.0
    """
    return float(_unbiased(*_gaps(probabilities, labels, bins)))


@checked
def squared_calibration_interval(
    probabilities: np.ndarray,
    labels: np.ndarray,
    bins: int = 15,
    confidence: float = 0.95,
    *,
    reference: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """An interval over images for :func:`squared_calibration_error`, or for its difference from a `reference`.

    The basic bootstrap over images: resampling adds the bias that the estimate has removed, so the deviations of
    resampled estimates are taken from the biased mean squared gap, about which they lie. Bins stay as they are.

    Args:
        probabilities: (images, classes).
        labels: (images,).
        bins: number of bins.
        confidence: coverage of the interval.
        reference: other predictions of the same images, (images, classes); the interval is then that of how much
            larger the error of `probabilities` is, paired by image.
        draws: number of bootstrap draws.
        seed: seed of the draws.

    Raises:
        ValueError: there are fewer than two images, a probability is not finite or not between 0 and 1, or a label is
            not a class.

    Cost: ``draws * images * bins`` multiplications.

    Example:
        >>> certain = np.full((100, 2), 0.5) + np.array([0.4, -0.4])
        >>> low, high = squared_calibration_interval(certain, np.arange(100) % 2)
        >>> bool(low < 0.4**2 < high)
        True
    """
    first = _gaps(probabilities, labels, bins)
    other = None if reference is None else _gaps(reference, labels, bins)
    estimate, centre = _unbiased(*first), _biased(*first)
    if other is not None:
        estimate, centre = estimate - _unbiased(*other), centre - _biased(*other)
    deviations = []
    for shares in weights_in_parts(len(labels), draws, seed):
        counts = shares * len(labels)
        drawn = _unbiased(*first, counts)
        deviations.append((drawn if other is None else drawn - _unbiased(*other, counts)) - centre)
    low, high = np.quantile(np.concatenate(deviations), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(estimate - high), float(estimate - low)


def _gaps(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Each image's right (0 or 1) minus its certainty, (images,), and which bin it is in, (bins, images) of 0 and 1."""
    probabilities = real(probabilities, "examples, classes", name="probabilities")
    if labels.shape != probabilities.shape[:1] or len(labels) < 2:
        raise ValueError(
            "expected probabilities (examples, classes) of at least two examples and a label for each, got "
            f"{probabilities.shape} and {labels.shape}"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("expected finite probabilities, got NaN or infinities; leave out those examples")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"expected class indices as labels, got an array of {labels.dtype}; convert them first")
    if not 0 <= labels.min() <= labels.max() < probabilities.shape[1]:
        raise ValueError(
            f"expected class indices from 0 to {probabilities.shape[1] - 1} as labels, got {labels.min()} to "
            f"{labels.max()}"
        )
    if probabilities.min() < 0 or probabilities.max() > 1 + _ROUNDING:
        raise ValueError(
            f"expected probabilities from 0 to 1, got {probabilities.min():.3g} to {probabilities.max():.3g}; pass the "
            "softmax of logits"
        )
    certainty = probabilities.max(1)
    positions = np.searchsorted(np.sort(certainty), certainty)  # equal certainties have equal positions
    of = _without_singles(positions * bins // len(labels))
    return (probabilities.argmax(1) == labels) - certainty, (of == np.unique(of)[:, None]).astype(float)


def _without_singles(of: np.ndarray) -> np.ndarray:
    """The same bins, those of one image joined to the one below, or the lowest to the one above."""
    while True:
        names, counts = np.unique(of, return_counts=True)
        if counts.min() > 1 or len(names) == 1:
            return of
        single = int(counts.argmin())
        of = np.where(of == names[single], names[single - 1 if single else 1], of)


def _unbiased(gaps: np.ndarray, of: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """The estimate for the images counted as often as given, (images,) or (images, draws)."""
    counts = np.ones(len(gaps)) if counts is None else counts
    sizes, sums, squares = of @ counts, (of * gaps) @ counts, (of * gaps**2) @ counts
    pairs = (sums**2 - squares) / np.maximum(sizes - 1, 1)  # times the bin's size; 0 for a bin of one image
    result: np.ndarray = pairs.sum(0) / len(gaps)
    return result


def _biased(gaps: np.ndarray, of: np.ndarray) -> float:
    """The mean over images of the squared mean gap of their bin."""
    return float(((of @ gaps) ** 2 / of.sum(1)).sum() / len(gaps))
