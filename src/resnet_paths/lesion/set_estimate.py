"""Estimates for sets of blocks that were not measured, from those that were.

The answer on image x with a set S of blocks kept is represented by its margin, the log-odds of the correct class, whose
sign says whether the answer is correct. Margins change smoothly with S: two sets that differ in few blocks, and in
blocks that matter little, give similar answers. So each image's margin is interpolated over the sets, as in a Gaussian
process,

    m(S) = c + sum_j a_j k(S, S_j),    k(S, T) = exp(-sum_{i in S xor T} r_i),

where the rate r_i of a block is proportional to the change from deleting it alone. Near a measured set the estimate
reproduces the measurement; far from all of them it returns to the mean of the random sets. The obvious alternative, a
model of single and pairwise effects, fails as more blocks are deleted: on the embedded network's 27 blocks its
accuracies are off by 4 points with 3 to 9 blocks deleted and by 20 with any number, those of this model by 3 to 4 and
by 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..records import Record
from ..statistics import spearman
from ..tables import data_frame

if TYPE_CHECKING:
    import pandas as pd

MOST_MARGIN = 20.0  # log-odds: the probability is then within 2e-9 of 0 or 1, and infinite losses stay finite
NEAREST = 20  # held-out sets for an error at a number of deleted blocks: the fewest that have a 95% quantile
_LEAST_LOSS = 1e-6
_REACHES = (8.0, 16.0, 32.0)  # tried in turn: the number of average blocks over which similarity falls to 1/e
_NUGGET = 1e-3  # with less, the coefficients of similar sets overflow float16


@dataclass(frozen=True, eq=False)
class SetEstimate(Record):
    """Margins of every image, and the logarithm of the mean loss, for sets that were not measured.

    Attributes:
        rates: how fast each block's deletion reduces the similarity of sets, (n,).
        coefficients: coefficients of the measured sets' kernels, (m, images + 1), float16; the mean loss is last.
        centre: estimate far from all measured sets, (images + 1,).
        held_out: sets that were measured but not used for the fit, (s, n).
        measured: measured accuracies of the held-out sets, (s,).
        estimated: estimated accuracies of the held-out sets, (s,).
        images_alike: share of the held-out answers whose correctness was estimated correctly.
    """

    DIMENSIONS: ClassVar = {
        "rates": "block",
        "coefficients": "set column",
        "centre": "column",
        "held_out": "check block",
        "measured": "check",
        "estimated": "check",
    }

    rates: np.ndarray
    coefficients: np.ndarray
    centre: np.ndarray
    held_out: np.ndarray
    measured: np.ndarray
    estimated: np.ndarray
    images_alike: float

    @property
    def mean_error(self) -> float:
        """The mean absolute error of the estimated accuracies of the held-out sets."""
        return float(np.abs(self.estimated - self.measured).mean())

    @property
    def deleted(self) -> np.ndarray:
        """The number of blocks that each held-out set deletes, (s,)."""
        counts: np.ndarray = (~self.held_out).sum(1)
        return counts

    def error_of(self, share: float = 0.95, deleted: int | None = None) -> float:
        """The absolute error that this share of the held-out sets does not exceed.

        Args:
            share: share of the held-out sets.
            deleted: use only the twenty sets whose number of deleted blocks is nearest to this one by ratio, because
                estimates are more accurate with few blocks deleted; None: use all.
        """
        errors = np.abs(self.estimated - self.measured)
        if deleted is not None:
            target = max(deleted, 1)
            ratios = np.maximum(self.deleted / target, target / self.deleted)
            errors = errors[np.argsort(ratios, kind="stable")[:NEAREST]]
        return float(np.quantile(errors, share, method="higher"))

    @property
    def rank(self) -> float:
        """The rank correlation of measured and estimated accuracies."""
        return float(spearman(self.measured[None], self.estimated[None])[0])

    def columns(self, kept: np.ndarray, sets: np.ndarray) -> np.ndarray:
        """Margins and the log of the loss, (q, images + 1), for sets `kept` (q, n); `sets` are the measured ones."""
        columns: np.ndarray = kernel(kept, sets, self.rates) @ self.coefficients.astype(np.float64) + self.centre
        return columns

    def to_pandas(self) -> pd.DataFrame:
        """One row per held-out set."""
        return data_frame(
            {
                "deleted": self.deleted,
                "measured": self.measured,
                "estimated": self.estimated,
            }
        )


def kernel(one: np.ndarray, other: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """The similarity (p, q) of sets (p, n) and (q, n); 1 for equal sets.

    Example:
        >>> kernel(np.array([[True, True]]), np.array([[True, True], [True, False]]), np.array([1.0, 0.0])).tolist()
        [[1.0, 1.0]]
    """
    a, b = one.astype(np.float64), other.astype(np.float64)
    distance = (a * rates) @ (1 - b).T + ((1 - a) * rates) @ b.T
    similarity: np.ndarray = np.exp(-distance)
    return similarity


def margins_of(losses: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The log-odds of the right class from its cross-entropy, with the sign of the answer.

    ``p = exp(-loss)``, ``log(p / (1 - p)) = -log(exp(loss) - 1)``; at least 0 if the answer is correct (the
    correct one of several classes may win with less than half), at most 0 if it is wrong.

    Example:
        >>> margins_of(np.log([[2.0, 4.0]]), np.array([[False, True]])).round(3).tolist()
        [[0.0, -1.099]]
    """
    finite = np.clip(np.nan_to_num(losses.astype(np.float64), nan=MOST_MARGIN, posinf=MOST_MARGIN), 1e-9, None)
    odds = np.clip(-np.log(np.expm1(np.minimum(finite, 2 * MOST_MARGIN))), -MOST_MARGIN, MOST_MARGIN)
    margins: np.ndarray = np.where(wrong, np.minimum(odds, 0.0), np.maximum(odds, 0.0)) + 0.0  # no -0
    return margins


def fit(
    sets: np.ndarray, losses: np.ndarray, wrong: np.ndarray, random: slice, held_out: tuple[np.ndarray, ...]
) -> SetEstimate:
    """Fit the estimate to measured sets, and measure its error on others.

    Args:
        sets: (m, n) blocks kept; row 0 keeps all, rows 1 to n delete one each.
        losses: (m, images).
        wrong: (m, images).
        random: rows of the random sets.
        held_out: sets, losses and errors of the held-out sets.

    Cost: one system of m equations.
    """
    columns = np.concatenate([margins_of(losses, wrong), _log_mean(losses)[:, None]], axis=1)
    n = sets.shape[1]
    centre = columns[random].mean(0)
    change = np.sqrt(((columns[1 : n + 1, :-1] - columns[0, :-1]) ** 2).mean(1))
    relative = change / change.mean() if change.mean() > 0 else np.ones(n)
    fits = [_fitted(sets, columns - centre, relative / reach, random) for reach in _REACHES]
    rates, coefficients = min(fits, key=lambda each: each[2])[:2]
    kept, _, held_out_wrong = held_out
    half = SetEstimate(rates, coefficients, centre, kept, 1 - held_out_wrong.mean(1), np.zeros(len(kept)), 0.0)
    guessed = half.columns(kept, sets)[:, :-1] < 0
    return SetEstimate(
        rates, coefficients, centre, kept, half.measured, 1 - guessed.mean(1), float((guessed == held_out_wrong).mean())
    )


def _log_mean(losses: np.ndarray) -> np.ndarray:
    plain = np.nan_to_num(losses.astype(np.float64), nan=MOST_MARGIN, posinf=MOST_MARGIN)
    logs: np.ndarray = np.log(np.maximum(plain.mean(1), _LEAST_LOSS))
    return logs


def _fitted(
    sets: np.ndarray, columns: np.ndarray, rates: np.ndarray, random: slice
) -> tuple[np.ndarray, np.ndarray, float]:
    """Rates, coefficients and the error of predicting each random set from all others (Dubrule 1983)."""
    inverse = np.linalg.inv(kernel(sets, sets, rates) + _NUGGET * np.eye(len(sets)))
    coefficients = inverse @ columns
    left_out = coefficients / np.diag(inverse)[:, None]
    return rates, coefficients.astype(np.float16), float((left_out[random, :-1] ** 2).mean())
