"""Lesion studies: what a network loses with its units."""

from .evaluate import evaluate_gates
from .game import BlockValues, block_values
from .metrics import METRICS, Metric, interval, metric_named
from .multiple import RandomDeletions, random_deletions
from .single import SingleDeletions, single_deletions

__all__ = [
    "METRICS",
    "BlockValues",
    "Metric",
    "RandomDeletions",
    "SingleDeletions",
    "block_values",
    "evaluate_gates",
    "interval",
    "metric_named",
    "random_deletions",
    "single_deletions",
]
