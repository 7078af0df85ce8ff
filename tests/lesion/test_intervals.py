"""Bootstrap intervals cover what they should, pair what was measured on the same images."""

import numpy as np
import pytest

from resnet_paths.lesion import bootstrap, bootstrap_means
from resnet_paths.lesion.intervals import resamples


def test_means_of_literal_resamples() -> None:
    values = np.random.default_rng(1).normal(size=(3, 2, 7))
    drawn = resamples(7, 5, seed=4)
    literal = [np.repeat(np.arange(7), times) for times in drawn]
    expected = np.stack([values[..., images].mean(-1) for images in literal])
    assert bootstrap_means(values, 5, seed=4) == pytest.approx(expected)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_coverage_of_a_mean(level: float) -> None:
    generator, inside = np.random.default_rng(0), 0
    for _ in range(600):
        low, high = bootstrap(generator.exponential(2.0, (1, 80)), level=level, count=400)
        inside += low[0] <= 2 <= high[0]
    assert abs(inside / 600 - level) < 0.06


def test_coverage_of_a_paired_difference() -> None:
    generator, inside, widths = np.random.default_rng(0), 0, []
    for _ in range(400):
        shared = generator.normal(0, 10, 60)
        values = np.stack([shared, shared + generator.normal(1, 1, 60)])
        low, high = bootstrap(values, lambda means: means[:, 1] - means[:, 0], count=400)
        inside += low <= 1 <= high
        widths.append(high - low)
    assert 0.88 <= inside / 400 <= 0.99
    assert np.mean(widths) < 4 * 1 / np.sqrt(60) * 1.2


@pytest.mark.parametrize(("shape", "level"), [((2, 1), 0.95), ((2, 5), 1.0)])
def test_wrong_use(shape: tuple[int, int], level: float) -> None:
    with pytest.raises(ValueError, match="at least two images"):
        bootstrap(np.zeros(shape), level=level)
