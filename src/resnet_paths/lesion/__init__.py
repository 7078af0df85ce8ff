"""Lesion studies: what a network loses when blocks are deleted or reordered."""

from ..data.metrics import METRICS, Metric, metric_named
from ..statistics import bootstrap_means, fall_at_most, interval
from .arranged import Arrangements, arrangements, middle_arrangements
from .by_stage import StageDeletions, stage_deletions, stages
from .coalitions import all_coalitions, table_interactions, table_values
from .ensembles import PathEnsemble, path_ensemble
from .evaluate import evaluate_gates
from .exploration import Exploration, SetAnswer, explore, measure_sets
from .game import BlockValues, block_values
from .interactions import BlockInteractions, higher_interactions
from .multiple import RandomDeletions, random_deletions
from .options import StudyOptions
from .predictors import DamagePredictors, damage_predictors, linear_cka
from .ranking import PredictorRanking, rank_predictors
from .reordering import Reorderings, order_distance, random_swaps, reorderings
from .set_estimate import SetEstimate
from .single import SingleDeletions, shortcut_deletions, single_deletions
from .turned import TurnedImages, turned_images

__all__ = [
    "METRICS",
    "Arrangements",
    "BlockInteractions",
    "BlockValues",
    "DamagePredictors",
    "Exploration",
    "Metric",
    "PathEnsemble",
    "PredictorRanking",
    "RandomDeletions",
    "Reorderings",
    "SetAnswer",
    "SetEstimate",
    "SingleDeletions",
    "StageDeletions",
    "StudyOptions",
    "TurnedImages",
    "all_coalitions",
    "arrangements",
    "block_values",
    "bootstrap_means",
    "damage_predictors",
    "evaluate_gates",
    "explore",
    "fall_at_most",
    "higher_interactions",
    "interval",
    "linear_cka",
    "measure_sets",
    "metric_named",
    "middle_arrangements",
    "order_distance",
    "path_ensemble",
    "random_deletions",
    "random_swaps",
    "rank_predictors",
    "reorderings",
    "shortcut_deletions",
    "single_deletions",
    "stage_deletions",
    "stages",
    "table_interactions",
    "table_values",
    "turned_images",
]
