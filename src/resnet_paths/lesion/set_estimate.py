"""What the sets of blocks that were measured say about those that were not.

The answer to image x with a set S of blocks kept is summed up by its margin, the log-odds of the right class, whose
sign says whether the answer is right. Margins change smoothly with S: two sets that differ in few blocks, and in blocks
that matter little, answer alike. So each image's margin is interpolated over the sets, as a Gaussian process does,

    m(S) = c + sum_j a_j k(S, S_j),    k(S, T) = exp(-sum_{i in S xor T} r_i),

with the rate r_i of a block in proportion to what deleting it alone changes. Near a measured set it is what was
measured; far from all of them it falls back to the mean of the random sets. A model of single and pairwise effects,
the obvious one, goes astray as blocks go: on the embedded network's 27 blocks its accuracies are off by 4 points where
3 to 9 blocks are deleted and by 20 where any number is, this one's by 3 to 4 and by 5.
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

MOST_MARGIN = 20.0
NEAREST = 20
_LEAST_LOSS = 1e-6
_REACHES = (8.0, 16.0, 32.0)
_NUGGET = 1e-3  # less, and the coefficients of sets that are nearly alike outgrow float16


@dataclass(frozen=True, eq=False)
class SetEstimate(Record):
    """Margins of every image, and the logarithm of the mean loss, for sets that were not measured.

    Attributes:
        rates: (n,) how fast each block's deletion makes sets unlike.
        coefficients: (m, images + 1) of the measured sets' kernels, float16, the mean loss last.
        centre: (images + 1,) what is estimated far from all measured sets.
        held_out: (s, n) sets kept apart: measured, but not used.
        measured: (s,) their accuracies.
        estimated: (s,) likewise, estimated.
        images_alike: the share of their answers that are right or wrong as estimated.
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
        """The mean distance of estimated from measured accuracy, over the sets kept apart."""
        return float(np.abs(self.estimated - self.measured).mean())

    @property
    def deleted(self) -> np.ndarray:
        """(s,) how many blocks the sets kept apart delete."""
        counts: np.ndarray = (~self.held_out).sum(1)
        return counts

    def error_of(self, share: float = 0.95, deleted: int | None = None) -> float:
        """The distance within which that share of the sets kept apart lies.

        Args:
            share: of them.
            deleted: look at the twenty whose number of deleted blocks is nearest to this, by ratio, as estimates are
                surer where few blocks are gone; None: at all.
        """
        errors = np.abs(self.estimated - self.measured)
        if deleted is not None:
            asked = max(deleted, 1)
            ratios = np.maximum(self.deleted / asked, asked / self.deleted)
            errors = errors[np.argsort(ratios, kind="stable")[:NEAREST]]
        return float(np.quantile(errors, share, method="higher"))

    @property
    def rank(self) -> float:
        """The rank correlation of the two accuracies."""
        return float(spearman(self.measured[None], self.estimated[None])[0])

    def columns(self, kept: np.ndarray, sets: np.ndarray) -> np.ndarray:
        """(q, images + 1): margins and the logarithm of the loss, for sets `kept` (q, n); `sets` are the measured."""
        columns: np.ndarray = kernel(kept, sets, self.rates) @ self.coefficients.astype(np.float64) + self.centre
        return columns

    def to_pandas(self) -> pd.DataFrame:
        """One row for each set kept apart."""
        return data_frame(
            {
                "deleted": self.deleted,
                "measured": self.measured,
                "estimated": self.estimated,
            }
        )


def kernel(one: np.ndarray, other: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """(p, q): how alike sets (p, n) and (q, n) are, 1 where they are the same.

    Example:
        >>> kernel(np.array([[True, True]]), np.array([[True, True], [True, False]]), np.array([1.0, 0.0])).tolist()
        [[1.0, 1.0]]
    """
    a, b = one.astype(np.float64), other.astype(np.float64)
    distance = (a * rates) @ (1 - b).T + ((1 - a) * rates) @ b.T
    alike: np.ndarray = np.exp(-distance)
    return alike


def margins_of(losses: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The log-odds of the right class from its cross-entropy, with the sign of the answer.

    ``p = exp(-loss)``, ``log(p / (1 - p)) = -log(exp(loss) - 1)``; at least 0 where the answer is right (of several
    classes the right one may win with less than half), at most 0 where it is wrong.

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
    """The estimate from measured sets, and its error on others.

    Args:
        sets: (m, n) blocks kept; row 0 keeps all, rows 1 to n delete one each.
        losses: (m, images).
        wrong: (m, images).
        random: the rows that were drawn at random.
        held_out: the same three of the sets that are kept apart.

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
    """Rates, coefficients and the error with which each random set would be told from all others (Dubrule 1983)."""
    inverse = np.linalg.inv(kernel(sets, sets, rates) + _NUGGET * np.eye(len(sets)))
    coefficients = inverse @ columns
    left_out = coefficients / np.diag(inverse)[:, None]
    return rates, coefficients.astype(np.float16), float((left_out[random, :-1] ** 2).mean())
