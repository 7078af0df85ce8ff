"""Bootstrap intervals cover what they should, pair what was measured on the same images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from resnet_paths.lesion import bootstrap, bootstrap_means, fall_at_most
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
    with pytest.raises(ValueError, match="same images"):
        fall_at_most(np.ones(3), np.ones(4))
    assert fall_at_most(*pairs(10, 10, 0)) == pytest.approx(1)
