"""Which predictor of damage can be trusted: rank correlations with the true damage, and their plausible ranges.

Separate from `predictors`, because a predictor's value does not depend on how it is judged. Ranks are compared because
only the order of the blocks matters for a choice, and the predictors have different units. Ranges rather than
confidence intervals, for the reasons in `statistics.ranks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..arguments import checked
from ..records import Record
from ..statistics import correlation_ranges, kendall, spearman
from ..tables import data_frame
from .predictors import COSTS, DamagePredictors
from .single import SingleDeletions

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class PredictorRanking(Record):
    """How well each predictor ranks the blocks by damage.

    Attributes:
        predictors: names of the predictors, best first.
        spearman: Spearman's rank correlation with the true damage over the blocks, (p,).
        spearman_range: its plausible range on infinitely many images, (p, 2); not a confidence interval, see
            :func:`resnet_paths.statistics.correlation_ranges`.
        kendall: Kendall's tau-b with the true damage, (p,).
        kendall_range: its plausible range, (p, 2).
        recall: share of the `count` least damaging blocks that are among the `count` predicted ones, (p,).
        count: number of least damaging blocks considered by `recall`.
        blocks: number of blocks for which the predictor is defined, (p,).
        metric: the metric of the damage.
    """

    DIMENSIONS: ClassVar = {
        "spearman": "predictor",
        "spearman_range": "predictor end",
        "kendall": "predictor",
        "kendall_range": "predictor end",
        "recall": "predictor",
        "blocks": "predictor",
    }
    COORDINATES: ClassVar = {"predictor": "predictors"}

    predictors: tuple[str, ...]
    spearman: np.ndarray
    spearman_range: np.ndarray
    kendall: np.ndarray
    kendall_range: np.ndarray
    recall: np.ndarray
    count: int
    blocks: np.ndarray
    metric: str

    def trusted(self, least: float = 0.5) -> tuple[str, ...]:
        """The predictors whose Spearman correlation is above `least` over its full range."""
        return tuple(np.array(self.predictors)[self.spearman_range[:, 0] > least].tolist())

    def to_pandas(self) -> pd.DataFrame:
        """One row per predictor, best first."""
        return data_frame(
            {
                "predictor": self.predictors,
                "spearman": self.spearman,
                "spearman_low": self.spearman_range[:, 0],
                "spearman_high": self.spearman_range[:, 1],
                "kendall": self.kendall,
                "kendall_low": self.kendall_range[:, 0],
                "kendall_high": self.kendall_range[:, 1],
                f"recall_of_{self.count}": self.recall,
                "blocks": self.blocks,
                "cost": [COSTS.get(name, "") for name in self.predictors],
            }
        )


@checked
def rank_predictors(
    predictors: DamagePredictors,
    damage: SingleDeletions,
    *,
    count: int | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> PredictorRanking:
    """Rank correlation of each predictor with the true damage from single deletions.

    Damage, and predictors that are means over images, are noisy, which biases a rank correlation towards zero. The
    ranges say where the noiseless correlation may lie (:func:`correlation_ranges`); we found no interval that covers
    95 % at all levels of noise. ``norm_scale`` and ``cka`` are treated as exact.

    Args:
        predictors: the predictors of a network.
        damage: the damage from deleting each of its blocks; measured by the loss, it also ranks blocks that cause no
            additional errors.
        count: number of least damaging blocks that a predictor should identify (default: five, or all but one of fewer
            than six).
        draws: number of bootstrap draws.
        seed: seed of the bootstrap.

    Raises:
        ValueError: predictors and damage are of different models, or `count` is out of range.

    Cost: no forward passes.

    Source: Spearman (1904); Kendall (1945) for tau-b.

    Example:
        >>> from resnet_paths import single_deletions, unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> from resnet_paths.lesion import damage_predictors
        >>> net, data = unroll(load_model("embedded")), digits("test").subset(slice(0, 20))
        >>> ranking = rank_predictors(damage_predictors(net, data), single_deletions(net, data, metric="loss"))
        >>> len(ranking.predictors)
        8
    """
    if predictors.source.model != damage.source.model:
        raise ValueError(
            "expected predictors and damage of one model, got two models; measure both on the same network"
        )
    n = len(damage.names)
    count = min(5, max(1, n - 1)) if count is None else count
    if not 1 <= count <= n:
        raise ValueError(f"expected a count from 1 to {n}, the number of blocks, got {count}")
    same = predictors.source.data == damage.source.data
    rows = [_row(predictors, name, damage, same, count, draws, seed) for name in predictors.values]
    order = sorted(range(len(rows)), key=lambda row: -np.nan_to_num(rows[row][0], nan=-2.0))
    columns = [np.array([rows[row][column] for row in order]) for column in range(6)]
    names = list(predictors.values)
    return PredictorRanking(
        predictors=tuple(names[row] for row in order),
        spearman=columns[0],
        spearman_range=columns[1],
        kendall=columns[2],
        kendall_range=columns[3],
        recall=columns[4],
        count=count,
        blocks=columns[5],
        metric=damage.metric,
    )


def _row(
    predictors: DamagePredictors, name: str, damage: SingleDeletions, same: bool, count: int, draws: int, seed: int
) -> tuple[float, np.ndarray, float, np.ndarray, float, int]:
    value = predictors.values[name]
    defined = np.isfinite(value)
    true = damage.damage[defined]
    correlations, ranges = [np.nan, np.nan], np.full((2, 2), np.nan)
    if defined.sum() >= 3:
        functions = (spearman, kendall)
        correlations = [float(function(value[None, defined], true[None])[0]) for function in functions]
        noisy = (damage.per_image[1:] - damage.per_image[0])[defined]
        ours = predictors.per_image.get(name, value)[defined]
        ranges = correlation_ranges(ours, noisy, functions, paired=same, draws=draws, seed=seed)

    k = min(count, int(defined.sum()))
    least = set(np.argsort(true, kind="stable")[:k].tolist())
    predicted = set(np.argsort(value[defined], kind="stable")[:k].tolist())
    share = len(least & predicted) / k if k else np.nan
    return correlations[0], ranges[0], correlations[1], ranges[1], share, int(defined.sum())
