"""Images drawn anew with replacement, the same ones for every row.

Rows are blocks, lesions or lengths measured on the same images, and what is compared are rows; so all rows of one draw
must have the same images. ``scipy.stats.bootstrap`` draws indices for each sample of a statistic and gives the
interval, not the redrawn means; it has no studentised interval either, which is the one that ``means`` needs. A draw
here is a vector of weights, so that all draws of all rows are one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..arguments import checked

_NUMBERS_AT_ONCE = 8_000_000
"""Weights held at once: 64 MB, whatever the number of images."""


@checked
def resamples(images: int, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each image is drawn when as many are drawn with replacement, (draws, images).

    Example:
        >>> resamples(5, 3).sum(1)
        array([5, 5, 5])
    """
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=draws)


def weights_in_parts(images: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """The same divided by the number of images, (images, part), in parts that fit into memory."""
    generator, share = np.random.default_rng(seed), np.full(images, 1 / images)
    size = max(1, _NUMBERS_AT_ONCE // images)
    for start in range(0, draws, size):
        yield generator.multinomial(images, share, size=min(size, draws - start)).T / images


@checked
def bootstrap_means(values: np.ndarray, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """Means over images drawn anew with replacement, the same images in every row.

    Args:
        values: (..., images).
        draws: bootstrap draws.
        seed: of the draws.

    Returns:
        (draws, ...).

    Cost: ``draws * values.size`` multiplications.
    """
    wide = np.asarray(values, float)
    means = [wide @ weights for weights in weights_in_parts(values.shape[-1], draws, seed)]
    return np.moveaxis(np.concatenate(means, -1), -1, 0)
