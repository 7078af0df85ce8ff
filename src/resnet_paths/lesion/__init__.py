"""Lesion studies: what a network loses with its units."""

# what is measured, and how sure it is
from .evaluate import evaluate_gates

# the block game
from .game import BlockValues, block_values
from .intervals import bootstrap, bootstrap_means, interval
from .metrics import METRICS, Metric, metric_named

# damage
from .multiple import RandomDeletions, random_deletions
from .reordering import Reorderings, order_distance, random_swaps, reorderings
from .single import SingleDeletions, shortcut_deletions, single_deletions
from .stages import StageDeletions, stage_deletions, stages

__all__ = [
    "METRICS",
    "BlockValues",
    "Metric",
    "RandomDeletions",
    "Reorderings",
    "SingleDeletions",
    "StageDeletions",
    "block_values",
    "bootstrap",
    "bootstrap_means",
    "evaluate_gates",
    "interval",
    "metric_named",
    "order_distance",
    "random_deletions",
    "random_swaps",
    "reorderings",
    "shortcut_deletions",
    "single_deletions",
    "stage_deletions",
    "stages",
]
