"""Which predictor of damage can be trusted: rank correlations with true damage, with intervals over images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from .._display import shown
from .intervals import bootstrap_means
from .predictors import COSTS, DamagePredictors
from .single import SingleDeletions


@shown
@dataclass(frozen=True, eq=False)
class PredictorRanking:
    """How well each predictor orders the units by their damage.

    Attributes:
        predictors: their names, best first.
        spearman: (p,) Spearman's rank correlation with true damage over the units.
        spearman_interval: (p, 2) its bootstrap interval over images.
        kendall: (p,) Kendall's tau-b.
        kendall_interval: (p, 2).
        found: (p,) the share of the `count` least damaging units that are among the predictor's `count` least.
        count: so many units.
        units: (p,) the number of units for which the predictor is defined.
        metric: in which the damage was measured.
        level: of the intervals.
    """

    predictors: tuple[str, ...]
    spearman: np.ndarray
    spearman_interval: np.ndarray
    kendall: np.ndarray
    kendall_interval: np.ndarray
    found: np.ndarray
    count: int
    units: np.ndarray
    metric: str
    level: float

    def trusted(self, least: float = 0.5) -> tuple[str, ...]:
        """The predictors whose Spearman correlation is above `least` over the whole interval."""
        return tuple(np.array(self.predictors)[self.spearman_interval[:, 0] > least].tolist())

    def to_pandas(self) -> pd.DataFrame:
        """One row a predictor, best first."""
        return pd.DataFrame(
            {
                "predictor": self.predictors,
                "spearman": self.spearman,
                "spearman_low": self.spearman_interval[:, 0],
                "spearman_high": self.spearman_interval[:, 1],
                "kendall": self.kendall,
                "kendall_low": self.kendall_interval[:, 0],
                "kendall_high": self.kendall_interval[:, 1],
                f"found_of_{self.count}": self.found,
                "units": self.units,
                "cost": [COSTS.get(name, "") for name in self.predictors],
            }
        )


def rank_predictors(
    predictors: DamagePredictors,
    damage: SingleDeletions,
    *,
    count: int = 5,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> PredictorRanking:
    """Rank correlation of each predictor with the true damage of single deletions.

    Intervals are percentile bootstraps over images: damage and those predictors that are means over images are
    computed anew from each draw, the same images for both where both were measured on the same data; ``norm_scale`` and
    ``cka`` stay. Drawing adds noise to damage that is noisy already, so the intervals lie rather low.

    Args:
        predictors: of a network.
        damage: of deleting each unit of it; the loss orders units that make no error more.
        count: how many least damaging units a predictor should find.
        level: of the intervals.
        draws: of the bootstrap.
        seed: of the draws.

    Raises:
        ValueError: of different models, or `count` does not fit.

    Cost: no passes.

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
    if predictors.model_fingerprint != damage.model_fingerprint:
        raise ValueError("expected predictors and damage of one model, got two; measure both on the same network")
    n = len(damage.names)
    if not 1 <= count <= n:
        raise ValueError(f"expected a count from 1 to {n}, the number of units, got {count}")
    drawn = bootstrap_means(damage.per_image[1:] - damage.per_image[0], draws, seed)
    same = predictors.data_fingerprint == damage.data_fingerprint
    rows = [
        _row(
            value,
            damage.damage,
            drawn,
            _drawn(predictors, name, draws, seed if same else seed + 1),
            count,
            level,
        )
        for name, value in predictors.values.items()
    ]
    order = sorted(range(len(rows)), key=lambda row: -np.nan_to_num(rows[row][0], nan=-2.0))
    columns = [np.array([rows[row][column] for row in order]) for column in range(6)]
    names = list(predictors.values)
    return PredictorRanking(
        predictors=tuple(names[row] for row in order),
        spearman=columns[0],
        spearman_interval=columns[1],
        kendall=columns[2],
        kendall_interval=columns[3],
        found=columns[4],
        count=count,
        units=columns[5],
        metric=damage.metric,
        level=level,
    )


def _drawn(predictors: DamagePredictors, name: str, draws: int, seed: int) -> np.ndarray:
    """(draws, n) the predictor on the drawn images; the same value in each draw where it is no mean over images."""
    if name in predictors.per_image:
        return bootstrap_means(predictors.per_image[name], draws, seed)
    return np.repeat(predictors.values[name][None], draws, 0)


def _row(
    value: np.ndarray, damage: np.ndarray, drawn: np.ndarray, values: np.ndarray, count: int, level: float
) -> tuple[float, np.ndarray, float, np.ndarray, float, int]:
    defined = np.isfinite(value)
    levels = [(1 - level) / 2, (1 + level) / 2]

    def correlation(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> tuple[float, np.ndarray]:
        if defined.sum() < 3:
            return np.nan, np.full(2, np.nan)
        found = function(values[:, defined], drawn[:, defined])
        ends: np.ndarray = np.nanquantile(found, levels) if np.isfinite(found).any() else np.full(2, np.nan)
        return float(function(value[None, defined], damage[None, defined])[0]), ends

    k = min(count, int(defined.sum()))
    least = set(np.argsort(damage[defined], kind="stable")[:k].tolist())
    chosen = set(np.argsort(value[defined], kind="stable")[:k].tolist())
    share = len(least & chosen) / k if k else np.nan
    return *correlation(spearman), *correlation(kendall), share, int(defined.sum())


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row of two (rows, n) arrays; NaN for a constant row.

    Example:
        >>> spearman(np.array([[1.0, 2.0, 4.0]]), np.array([[2.0, 9.0, 7.0]])).round(3)
        array([0.5])
    """
    ranks = [rankdata(values, axis=1) for values in (one, other)]
    centred = [values - values.mean(1, keepdims=True) for values in ranks]
    lengths = [np.sqrt((values**2).sum(1)) for values in centred]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = (centred[0] * centred[1]).sum(1) / (lengths[0] * lengths[1])
    return found


def kendall(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each row of two (rows, n) arrays; NaN for a constant row.

    Example:
        >>> kendall(np.array([[1.0, 2.0, 4.0]]), np.array([[2.0, 9.0, 7.0]])).round(3)
        array([0.333])
    """
    signs = [np.sign(values[:, :, None] - values[:, None, :]) for values in (one, other)]
    with np.errstate(invalid="ignore", divide="ignore"):
        untied = np.sqrt((signs[0] ** 2).sum((1, 2)) * (signs[1] ** 2).sum((1, 2)))
        found: np.ndarray = (signs[0] * signs[1]).sum((1, 2)) / untied
    return found
