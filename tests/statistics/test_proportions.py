"""Score intervals and bounds of shares and of their differences: the equations they solve, and how often they hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from resnet_paths.statistics import (
    difference_interval,
    fall_at_most,
    interval,
    intervals,
    median_interval,
    share_at_most,
    share_interval,
)
from resnet_paths.statistics.proportions import least_images


def pairs(n: int, lost: int, won: int) -> tuple[np.ndarray, np.ndarray]:
    before, after = np.ones(n), np.ones(n)
    after[:lost] = 0
    before[lost : lost + won] = 0
    return before, after


@settings(max_examples=60, deadline=None)
@given(n=st.integers(3, 400), lost=st.integers(0, 30), won=st.integers(0, 30), level=st.sampled_from([0.8, 0.95, 0.99]))
def test_bounds_of_a_fall_solve_the_score_equation(n: int, lost: int, won: int, level: float) -> None:
    lost, won = min(lost, n), min(won, max(0, n - lost))
    bound = fall_at_most(*pairs(n, lost, won), level)
    assert (lost - won) / n <= bound <= 1
    if bound > 1 - 1e-9:
        return
    q = np.linspace(max(0.0, -bound), (1 - bound) / 2, 200_001)[1:-1]  # the likeliest share won, by trying all
    with np.errstate(divide="ignore"):
        likely = lost * np.log(q + bound) + won * np.log(q) + (n - lost - won) * np.log(1 - 2 * q - bound)
    best = q[likely.argmax()]
    score = (lost - won - n * bound) / np.sqrt(n * (2 * best + bound * (1 - bound)))
    assert score == pytest.approx(-norm.ppf(level), abs=2e-3)


@pytest.mark.parametrize(
    ("n", "loses", "wins"), [(445, 0.02, 0.01), (100, 0.05, 0.02), (200, 0.1, 0.1), (300, 0.01, 0)]
)
def test_bounds_of_a_fall_hold_as_often_as_they_say(n: int, loses: float, wins: float) -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        drawn = generator.random(n)
        held += fall_at_most(drawn > wins, (drawn <= wins) | (drawn > wins + loses)) >= loses - wins
    assert held >= 930  # 950, less three standard deviations of a thousand tries


def test_bounds_of_a_fall_refuse_what_is_not_paired() -> None:
    with pytest.raises(ValueError, match="same examples"):
        fall_at_most(np.ones(3), np.ones(4))
    assert fall_at_most(*pairs(10, 10, 0)) == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 300), lost=st.integers(0, 300), won=st.integers(0, 300))
def test_both_ends_of_a_difference_mirror_each_other(n: int, lost: int, won: int) -> None:
    lost = min(lost, n)
    right, left = pairs(n, lost, min(won, n - lost))
    low, high = difference_interval(right, left)
    assert difference_interval(left, right) == pytest.approx((-high, -low))
    assert low <= left.mean() - right.mean() <= high
    assert -1 <= low < high <= 1


def coverage(n: int, lost: float, won: float) -> float:
    """Exact, over all numbers of images lost and won: errors rise where an image is lost."""
    covered = 0.0
    for b in range(int(binom.ppf(1 - 1e-5, n, lost)) + 1):
        for c in range(int(binom.ppf(1 - 1e-5, n - b, won / (1 - lost))) + 1):
            right, left = pairs(n, b, c)
            low, high = difference_interval(1 - right, 1 - left)
            covered += binom.pmf(b, n, lost) * binom.pmf(c, n - b, won / (1 - lost)) * (low <= lost - won <= high)
    return covered


@pytest.mark.parametrize(
    ("n", "lost", "won"),
    [(50, 0.02, 0), (200, 0.001, 0), (200, 0.002, 0), (200, 0.005, 0), (200, 0.01, 0.005), (500, 0.001, 0)],
)
def test_small_damages_are_covered(n: int, lost: float, won: float) -> None:
    """The bootstrap of the differences covers 0.18 to 0.87 of these, and is a point in most of them."""
    assert 0.94 <= coverage(n, lost, won) <= 1


def test_rows_of_zeros_and_ones_take_score_intervals() -> None:
    values = np.array([[0, 1, 1.0, 0], [0, 0, 0, 0]])
    low, high = intervals(values)
    assert (low[0], high[0]) == interval(values[0])
    assert interval(np.array([0, 1, 1, 0])) == share_interval(0.5, 4)
    low, high = intervals(values, reference=values[0])
    assert (low[1], high[1]) == pytest.approx(difference_interval(values[0], values[1]))


@pytest.mark.parametrize("values", [np.zeros((2, 0)), np.ones((2, 0))])
def test_no_images_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="at least one example"):
        intervals(values)


def test_other_values_are_not_shares() -> None:
    with pytest.raises(ValueError, match="zeros and ones"):
        difference_interval(np.full(3, 0.5), np.zeros(3))


@pytest.mark.parametrize("level", [0.9, 0.95, 0.995])
def test_the_exact_bound_of_a_share_leaves_its_error_to_fewer_seen(level: float) -> None:
    for count, among in ((0, 1), (0, 300), (3, 40), (39, 40)):
        bound = share_at_most(count, among, level)
        assert binom.cdf(count, among, bound) == pytest.approx(1 - level)
    assert share_at_most(7, 7, level) == 1.0


@pytest.mark.parametrize("n", [5, 6, 7, 15, 30, 1500])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_order_statistics_around_the_median_cover_it_and_are_the_narrowest_that_do(n: int, level: float) -> None:
    low, high = median_interval(np.arange(1.0, n + 1), level)
    if low == -np.inf:
        assert 1 - 2 * 0.5**n < level
        return
    k = int(low)
    assert high == n + 1 - k
    assert 1 - 2 * binom.cdf(k - 1, n, 0.5) >= level > 1 - 2 * binom.cdf(k, n, 0.5)


def test_the_least_number_of_images_is_the_least() -> None:
    for fall, level in ((0.01, 0.95), (0.03, 0.9), (0.2, 0.99)):
        count = least_images(fall, level)
        assert fall_at_most(np.ones(count), np.ones(count), level) <= fall
        assert count == 1 or fall_at_most(np.ones(count - 1), np.ones(count - 1), level) > fall
