"""Every function of arrays refuses anything but an array of its shape, and no NaN becomes a number."""

from collections.abc import Callable

import numpy as np
import pytest

from resnet_paths import statistics as st

VECTOR = np.random.default_rng(0).normal(size=6) ** 2
RIGHT = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
HALVES = np.full((6, 2), 0.5)

ONE_ARRAY: dict[str, tuple[np.ndarray, Callable[[np.ndarray], object]]] = {
    "bootstrap_means": (VECTOR, st.bootstrap_means),
    "combined_intervals": (VECTOR, lambda x: st.combined_intervals(x, np.array(0.1), np.array(0.0), 8)),
    "correlation_ranges": (VECTOR, lambda x: st.correlation_ranges(x, np.arange(6.0), draws=10)),
    "design_interval": (VECTOR, lambda x: st.design_interval(0.5, x, 6, share=False)),
    "difference_interval": (RIGHT, lambda x: st.difference_interval(x, RIGHT)),
    "expected_calibration_error": (HALVES, lambda x: st.expected_calibration_error(x, np.zeros(6, int))),
    "fall_at_most": (RIGHT, lambda x: st.fall_at_most(RIGHT, x)),
    "interval": (VECTOR, st.interval),
    "intervals": (VECTOR[None], st.intervals),
    "kendall": (VECTOR[None], lambda x: st.kendall(x, VECTOR[None])),
    "mean_intervals": (VECTOR, st.mean_intervals),
    "median_interval": (VECTOR, st.median_interval),
    "norm_intervals": (VECTOR, st.norm_intervals),
    "pooled_norm_intervals": (VECTOR.reshape(3, 2), st.pooled_norm_intervals),
    "rise_at_most": (VECTOR, lambda x: st.rise_at_most(VECTOR, x)),
    "roc_area": (VECTOR, lambda x: st.roc_area(x, VECTOR)),
    "roc_area_interval": (VECTOR, lambda x: st.roc_area_interval(x, VECTOR)),
    "spearman": (VECTOR[None], lambda x: st.spearman(VECTOR[None], x)),
    "squared_calibration_error": (HALVES, lambda x: st.squared_calibration_error(x, np.zeros(6, int))),
    "squared_calibration_interval": (
        HALVES,
        lambda x: st.squared_calibration_interval(x, np.zeros(6, int), draws=10),
    ),
    "student_intervals": (VECTOR, st.student_intervals),
}
_FINITE = (
    "difference_interval", "expected_calibration_error", "fall_at_most", "squared_calibration_error",
    "squared_calibration_interval",
)  # fmt: skip
_ANY_ROWS = ("bootstrap_means", "combined_intervals", "mean_intervals", "norm_intervals", "student_intervals")


@pytest.mark.parametrize("name", ONE_ARRAY)
def test_anything_but_an_array_of_the_shape_is_refused(name: str) -> None:
    good, function = ONE_ARRAY[name]
    function(good)
    wrong = [good.astype(str), good * 1j, np.array(1.0)]
    if name == "pooled_norm_intervals":
        wrong.append(VECTOR)
    elif name not in _ANY_ROWS:
        wrong.append(good[None, None])
    if name not in ("median_interval", "kendall", "spearman"):  # these of no values are infinite or NaN
        wrong.append(good[..., :0])
    for values in wrong:
        with pytest.raises((ValueError, TypeError), match=r"^expected"):
            function(values)


@pytest.mark.parametrize("name", ONE_ARRAY)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_gives_no_number_or_is_refused(name: str, value: float) -> None:
    good, function = ONE_ARRAY[name]
    values = good.copy()
    values[(0,) * good.ndim] = value
    ranked = np.isinf(value) and name in ("roc_area", "roc_area_interval", "spearman")
    if name in _FINITE or (name.startswith("roc") and np.isnan(value)):
        with pytest.raises(ValueError, match=r"^expected"):
            function(values)
    else:
        assert ranked == bool(np.isfinite(np.asarray(function(values))).all())


def test_rank_correlations_of_wrong_shapes_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"shape \(rows, n\), got \(6,\); one row is one\[None\]"):
        st.spearman(VECTOR, VECTOR)
    for one, other in (((1, 5), (3, 5)), ((2, 5), (2, 4))):
        with pytest.raises(ValueError, match="two arrays of one shape"):
            st.kendall(np.ones(one), np.ones(other))
    with pytest.raises(ValueError, match="same items and images"):
        st.correlation_ranges(np.ones((5, 9)), np.ones((5, 8)))
    with pytest.raises(ValueError, match="same items, at least one"):
        st.correlation_ranges(np.ones((5, 9)), np.ones(4))


def test_constant_rows_have_no_rank_correlation() -> None:
    for function in (st.spearman, st.kendall):
        assert np.isnan(function(np.ones((2, 5)), np.arange(10.0).reshape(2, 5))).all()


def test_values_outside_their_range_are_refused() -> None:
    for call in (
        lambda: st.fall_at_most(VECTOR, VECTOR),
        lambda: st.share_interval(1.5, 5),
        lambda: st.norm_intervals(-VECTOR),
        lambda: st.pooled_norm_intervals(np.ones((1, 4))),
        lambda: st.resamples(0),
        lambda: st.normal_quantile(2.0),
        lambda: st.student_quantile(-1.0, 5),
        lambda: st.expected_calibration_error(9 * HALVES, np.zeros(6, int)),
        lambda: st.expected_calibration_error(HALVES, np.full(6, 9)),
        lambda: st.intervals(RIGHT[None], reference=np.ones(4)),
    ):
        with pytest.raises(ValueError, match=r"^expected"):
            call()
    with pytest.raises(TypeError, match="expected class indices as labels"):
        st.expected_calibration_error(HALVES, np.full(6, 0.5))
