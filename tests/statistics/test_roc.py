"""Areas under the ROC curve against all pairs, and their intervals."""

import numpy as np
import pytest

from resnet_paths.statistics import roc_area, roc_area_difference_interval, roc_area_interval


def normal(seed: int, positive: int, negative: int, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=positive) + shift, generator.normal(size=negative)


def test_all_pairs_with_ties() -> None:
    positive, negative = (values.round(1) for values in normal(0, 30, 50))
    pairs = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    assert (positive[:, None] == negative).any()
    assert roc_area(positive, negative) == pytest.approx(pairs.mean(), abs=1e-15)
    assert roc_area(negative, positive) == pytest.approx(1 - pairs.mean(), abs=1e-15)
    assert roc_area(np.exp(positive), np.exp(negative)) == roc_area(positive, negative)


def test_variance_is_delongs() -> None:
    positive, negative = normal(1, 40, 60)
    pairs = (positive[:, None] > negative).astype(float)
    variance = pairs.mean(1).var(ddof=1) / 40 + pairs.mean(0).var(ddof=1) / 60
    other = -positive, negative  # its area is not 1 - that of the first: only one kind is turned
    turned = (other[0][:, None] > negative).astype(float)
    difference = pairs - turned
    low, high = roc_area_difference_interval((positive, negative), other)
    assert (low + high) / 2 == pytest.approx(pairs.mean() - turned.mean())
    expected = difference.mean(1).var(ddof=1) / 40 + difference.mean(0).var(ddof=1) / 60
    assert (high - low) / 2 == pytest.approx(np.sqrt(expected) * 1.98, rel=0.02)  # Student's t, about 90 degrees
    low, high = roc_area_interval(positive, negative)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.05)


def test_ends_stay_between_0_and_1_and_have_a_width_without_overlap() -> None:
    low, high = roc_area_interval(np.arange(10.0) + 20, np.arange(15.0))
    assert 0.6 < low < 0.9
    assert high == 1.0
    assert roc_area_difference_interval(normal(2, 9, 9), normal(2, 9, 9)) == (-np.inf, np.inf)


def test_undefined_areas_are_refused() -> None:
    some = np.arange(3.0)
    with pytest.raises(ValueError, match="both kinds, got 0 positive"):
        roc_area(some[:0], some)
    with pytest.raises(ValueError, match="NaN for some"):
        roc_area(some, some * np.nan)
    with pytest.raises(ValueError, match="at least two examples of either kind, got 1 and 3"):
        roc_area_interval(some[:1], some)
    with pytest.raises(ValueError, match="two scores of the same examples"):
        roc_area_difference_interval((some, some), (some[:2], some))
