"""Intervals of means, of medians and of path norms cover what they should; ranges of ranks hold the truth."""

import numpy as np
import pytest

from resnet_paths.statistics import (
    bootstrap_means,
    combined_intervals,
    correlation_ranges,
    design_interval,
    kendall,
    mean_intervals,
    norm_intervals,
    pooled_norm_intervals,
    resamples,
    spearman,
    student_intervals,
)
from resnet_paths.statistics.resampling import weights_in_parts


def test_means_of_literal_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=(3, 2, 7))
    drawn = resamples(7, 5, seed=4)
    literal = [np.repeat(np.arange(7), times) for times in drawn]
    expected = np.stack([values[..., images].mean(-1) for images in literal])
    assert bootstrap_means(values, 5, seed=4) == pytest.approx(expected)
    monkeypatch.setattr("resnet_paths.statistics.resampling._NUMBERS_AT_ONCE", 15)
    assert len(list(weights_in_parts(7, 5, 4))) == 3
    assert bootstrap_means(values, 5, seed=4) == pytest.approx(expected)


def share_of(ends: tuple[np.ndarray, np.ndarray], truth: float | np.ndarray) -> float:
    return float(((ends[0] <= truth) & (truth <= ends[1])).mean())


LAWS = {
    "normal": (lambda g, s: g.normal(size=s), 0.0),
    "exponential": (lambda g, s: g.exponential(size=s), 1.0),
    "log-normal": (lambda g, s: g.lognormal(0, 1, s), np.exp(0.5)),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_coverage_of_means(law: str, level: float) -> None:
    draw, truth = LAWS[law]
    values = draw(np.random.default_rng(0), (1000, 100))
    assert abs(share_of(mean_intervals(values, level, draws=400), truth) - level) < 0.03


def test_student_alone_is_short_for_skewed_values() -> None:
    draw, truth = LAWS["log-normal"]
    values = draw(np.random.default_rng(0), (1000, 50))
    assert share_of(student_intervals(values), truth) < 0.92 < share_of(mean_intervals(values, draws=400), truth)


@pytest.mark.parametrize("bound", [None, 1.0])
def test_no_spread_is_not_certainty(bound: float | None) -> None:
    for values in (np.zeros(200), np.full(200, 0.25), np.ones(1), np.r_[0.5, np.zeros(199)]):
        low, high = mean_intervals(values[None], bound=bound)
        assert low[0] < values.mean() < high[0] or bound == high[0] == 1
        assert np.isinf(high[0]) == (bound is None)
    low, high = mean_intervals(np.zeros((1, 200)), bound=1.0)
    assert -0.02 < low[0] == -high[0] < -0.005


@pytest.mark.filterwarnings("error")
def test_means_that_are_not_finite_have_no_interval_and_do_not_touch_the_others() -> None:
    values = np.random.default_rng(0).normal(size=(4, 20))
    alone = mean_intervals(values[3:])
    values[0, 0], values[1, 0], values[2, 0] = np.nan, np.inf, -np.inf
    low, high = mean_intervals(values)
    assert np.isnan(low[:3]).all()
    assert np.isnan(high[:3]).all()
    assert (low[3], high[3]) == pytest.approx((alone[0][0], alone[1][0]))


def test_path_norms_that_are_all_equal() -> None:
    for values in (np.zeros((1, 5)), np.full((1, 5), 2.0)):
        assert norm_intervals(values)[1] == np.inf
        assert pooled_norm_intervals(values[..., None])[1] == np.inf


def test_wrong_use() -> None:
    for values, level in ((np.zeros((2, 0)), 0.95), (np.zeros((2, 5)), 1.0)):
        with pytest.raises(ValueError, match=r"at least one example|between 0 and 1"):
            mean_intervals(values, level)


def test_coverage_of_a_median_of_shares() -> None:
    """Ten sets of deleted blocks with errors of 0.5 to 5 %, on the same images, half of the errors shared."""
    generator, inside = np.random.default_rng(0), 0
    truths = np.linspace(0.005, 0.05, 10)
    for _ in range(150):
        alike = generator.random(300) < 0.5
        wrong = np.where(alike, generator.random(300), generator.random((10, 300))) < truths[:, None]
        medians = np.median(bootstrap_means(wrong.astype(float), 100), axis=1)
        low, high = design_interval(float(np.median(wrong.mean(1))), medians, 300, share=True)
        inside += low <= np.median(truths) <= high
    assert inside / 150 >= 0.95


def test_a_median_without_spread() -> None:
    assert np.isnan(design_interval(np.nan, np.full(10, np.nan), 100, share=False)).all()
    assert design_interval(0.0, np.zeros(10), 100, share=True) == pytest.approx((0, 0.037), abs=1e-3)
    assert design_interval(0.3, np.full(10, 0.3), 100, share=False) == (-np.inf, np.inf)


@pytest.mark.parametrize(("over_images", "over_draws", "both"), [(1, 1, 3), (1, 0.1, 0.3), (0.1, 1, 0.3)])
def test_coverage_over_images_and_draws(over_images: float, over_draws: float, both: float) -> None:
    generator = np.random.default_rng(0)
    draws, images = 10, 60
    gains = both * generator.normal(size=(800, draws, images))
    gains += over_images * generator.normal(size=(800, 1, images)) + over_draws * generator.normal(size=(800, draws, 1))
    errors = gains.mean(2).std(1, ddof=1) / np.sqrt(draws)
    rest = gains - gains.mean(1, keepdims=True) - gains.mean(2, keepdims=True) + gains.mean((1, 2), keepdims=True)
    shared = (rest**2).sum((1, 2)) / (draws - 1) / (images - 1) / draws / images
    assert 0.93 <= share_of(combined_intervals(gains.mean(1), errors, shared, draws), 0) <= 0.97


@pytest.mark.parametrize(("spread", "draws"), [(0.5, 16), (1.0, 16), (1.0, 64)])
def test_coverage_of_path_norms(spread: float, draws: int) -> None:
    values = np.random.default_rng(0).lognormal(0, spread, (800, draws))
    ends = norm_intervals(values)
    assert 0.93 <= share_of(ends, np.exp(spread**2 / 2)) <= 0.975
    assert (ends[0] > 0).all()


def test_coverage_of_pooled_path_norms() -> None:
    scales = np.array([1.0, 3.0, 0.3, 1.0])
    values = np.random.default_rng(0).lognormal(0, 0.7, (600, 16, 4)) * scales
    truth = np.exp(0.7**2 / 2) * scales.mean()
    assert 0.92 <= share_of(pooled_norm_intervals(values, draws=300), truth) <= 0.975


def test_rank_correlations_by_hand() -> None:
    rows = np.array([[1.0, 2.0, 4.0]]), np.array([[2.0, 9.0, 7.0]])
    assert spearman(*rows) == pytest.approx([0.5])
    assert kendall(*rows) == pytest.approx([1 / 3])


@pytest.mark.slow
@pytest.mark.parametrize("spread", [5.0])
def test_the_range_of_a_rank_correlation_holds_it(spread: float) -> None:
    """The bootstrap alone holds it in 45 % of such cases at 5, for noise counts twice."""
    generator, inside = np.random.default_rng(0), 0
    for _ in range(5):
        true = generator.exponential(size=(9, 1))
        first, second = (true + spread * generator.normal(size=(9, 200)) for _ in range(2))
        low, high = correlation_ranges(first, second, draws=200)[0]
        inside += low <= 1 <= high + 0.02
    assert inside >= 4


def test_noise_alone_ranks_nothing_for_sure() -> None:
    generator = np.random.default_rng(0)
    low, high = correlation_ranges(generator.normal(size=(9, 100)), generator.normal(size=(9, 100)), draws=200)[0]
    assert low < -0.5 < 0.5 < high


def test_ranges_of_values_without_ranks() -> None:
    values = np.arange(12.0).reshape(4, 3)
    assert np.isnan(correlation_ranges(values, np.ones(4))).all()
    assert np.isnan(correlation_ranges(np.where(values == 4, np.nan, values), np.arange(4.0))).all()
    assert np.isnan(correlation_ranges(values[:, :1], np.arange(4.0))).all()


@pytest.mark.parametrize("images", [60, 200, 500])
def test_identical_resampled_images_give_no_absurd_ends(images: int) -> None:
    """What rounding leaves of their spread is none: an end is infinite or near the values, never a hundred million."""
    generator = np.random.default_rng(0)
    for scale in (1.0, 0.1, 1 / 3):
        values = np.zeros((20, images))
        for row in values:
            row[generator.choice(images, 3, replace=False)] = generator.choice([-scale, scale], 3)
        ends = np.concatenate(mean_intervals(values))
        assert np.all(np.isinf(ends) | (np.abs(ends) < scale))
