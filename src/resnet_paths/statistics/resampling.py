"""Images resampled with replacement, the same ones for every row.

Rows are blocks, lesions or lengths measured on the same images, and rows are compared with each other, so all rows of
one draw need the same images. ``scipy.stats.bootstrap`` draws indices for each sample of a statistic and returns the
interval instead of the resampled means; it also lacks the studentised interval that ``means`` needs. Here a draw is a
vector of weights, so that all draws of all rows are one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..arguments import checked
from ..arguments.ranges import COUNT
from .real import real

_NUMBERS_AT_ONCE = 8_000_000
"""Weights in memory at once: 64 MB, whatever the number of images."""


@checked(images=COUNT)
def resamples(images: int, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each image occurs in a bootstrap sample, (draws, images).

    Example:
        >>> resamples(5, 3).sum(1)
        array([5, 5, 5])
    """
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=draws)


def weights_in_parts(images: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """The weights of :func:`resamples` divided by the number of images, (images, draws), in parts that fit in RAM."""
    generator, share = np.random.default_rng(seed), np.full(images, 1 / images)
    size = max(1, _NUMBERS_AT_ONCE // images)
    for start in range(0, draws, size):
        yield generator.multinomial(images, share, size=min(size, draws - start)).T / images


@checked
def bootstrap_means(values: np.ndarray, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """Means over resampled images, the same images in every row.

    Args:
        values: (..., images).
        draws: number of bootstrap draws.
        seed: seed of the draws.

    Returns:
        (draws, ...).

    Raises:
        ValueError: there are no images.

    Cost: ``draws * values.size`` multiplications.
    """
    as_float = real(values, "..., examples")
    with np.errstate(invalid="ignore"):  # infinity times a weight of zero
        means = [as_float @ weights for weights in weights_in_parts(as_float.shape[-1], draws, seed)]
    return np.moveaxis(np.concatenate(means, -1), -1, 0)
