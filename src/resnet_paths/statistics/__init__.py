"""Intervals for shares, means, medians, path norms, calibration and ROC areas; ranges for rank correlations."""

from .calibration import expected_calibration_error, squared_calibration_error, squared_calibration_interval
from .means import (
    combined_intervals,
    design_interval,
    interval,
    intervals,
    mean_intervals,
    rise_at_most,
    student_intervals,
)
from .medians import median_interval
from .norms import log_student_interval, norm_intervals, pooled_norm_intervals
from .proportions import difference_interval, fall_at_most, share_at_most, share_interval
from .quantiles import normal_quantile, student_quantile, student_tail
from .ranks import correlation_ranges, kendall, spearman
from .resampling import bootstrap_means, resamples
from .roc import roc_area, roc_area_difference_interval, roc_area_interval

__all__ = [
    "bootstrap_means",
    "combined_intervals",
    "correlation_ranges",
    "design_interval",
    "difference_interval",
    "expected_calibration_error",
    "fall_at_most",
    "interval",
    "intervals",
    "kendall",
    "log_student_interval",
    "mean_intervals",
    "median_interval",
    "norm_intervals",
    "normal_quantile",
    "pooled_norm_intervals",
    "resamples",
    "rise_at_most",
    "roc_area",
    "roc_area_difference_interval",
    "roc_area_interval",
    "share_at_most",
    "share_interval",
    "spearman",
    "squared_calibration_error",
    "squared_calibration_interval",
    "student_intervals",
    "student_quantile",
    "student_tail",
]
