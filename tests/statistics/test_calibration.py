"""Calibration errors against sums written out, and their bias and coverage where the truth is known."""

import numpy as np
import pytest

from resnet_paths.statistics import (
    expected_calibration_error,
    squared_calibration_error,
    squared_calibration_interval,
)


def predictions(certainty: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of two classes with these certainties of class 0, and labels that make them right or wrong."""
    return np.stack([certainty, 1 - certainty], 1), np.where(right, 0, 1)


def drawn(seed: int, images: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    certainty = generator.uniform(0.6, 0.9, images)
    return predictions(certainty, generator.random(images) < certainty - gap)


def test_bins_written_out() -> None:
    certainty = np.array([0.95, 0.6, 0.9, 0.7, 0.8, 0.85])
    right = np.array([1, 0, 1, 1, 0, 0], bool)
    probabilities, labels = predictions(certainty, right)
    low, high = [1, 3, 4], [5, 2, 0]  # the three least and the three most certain
    gaps = right - certainty
    expected = sum(abs(gaps[members].mean()) * 3 for members in (low, high)) / 6
    assert expected_calibration_error(probabilities, labels, 2) == pytest.approx(expected)
    pairs = [sum(gaps[i] * gaps[j] for i in members for j in members if i != j) / 6 for members in (low, high)]
    assert squared_calibration_error(probabilities, labels, 2) == pytest.approx(np.mean(pairs))


def test_order_of_images_and_ties_do_not_matter() -> None:
    generator = np.random.default_rng(0)
    certainty = generator.choice([0.6, 0.7, 0.9, 1.0], 40)
    probabilities, labels = predictions(certainty, generator.random(40) < 0.7)
    order = generator.permutation(40)
    for error in (expected_calibration_error, squared_calibration_error):
        assert error(probabilities, labels, 7) == pytest.approx(
            error(probabilities[order], labels[order], 7), abs=1e-15
        )


def test_more_bins_than_images_never_leaves_an_image_alone() -> None:
    probabilities, labels = drawn(0, 5, 0.0)
    assert np.isfinite(squared_calibration_error(probabilities, labels, 50))
    assert np.isfinite(squared_calibration_interval(probabilities, labels, 50, draws=20)).all()


@pytest.mark.parametrize("gap", [0.0, 0.2])
def test_the_square_has_no_bias_and_the_usual_error_has(gap: float) -> None:
    found = [drawn(seed, 150, gap) for seed in range(300)]
    squares = np.array([squared_calibration_error(*one) for one in found])
    assert abs(squares.mean() - gap**2) < 3 * squares.std() / np.sqrt(len(squares))
    usual = np.mean([expected_calibration_error(*one) for one in found])
    assert usual > gap + (0.05 if gap == 0 else 0)


def test_interval_of_a_difference_is_paired() -> None:
    probabilities, labels = drawn(1, 400, 0.1)
    low, high = squared_calibration_interval(probabilities, labels, reference=probabilities, draws=50)
    assert (low, high) == (0.0, 0.0)
    certainty = probabilities.max(1)
    better, _ = predictions(certainty - 0.1, labels == 0)
    low, high = squared_calibration_interval(probabilities, labels, reference=better, draws=200)
    estimate = squared_calibration_error(probabilities, labels) - squared_calibration_error(better, labels)
    assert low < estimate < high
    again = squared_calibration_interval(better, labels, reference=probabilities, draws=200)
    assert again == pytest.approx((-high, -low))


def test_what_cannot_be_binned_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two examples"):
        expected_calibration_error(np.ones((1, 2)) / 2, np.array([0]))
    with pytest.raises(ValueError, match="leave out those examples"):
        squared_calibration_error(np.array([[np.nan, 0.5], [0.5, 0.5]]), np.array([0, 1]))
